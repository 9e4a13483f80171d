#include <errno.h>
#include <stdio.h>

#include "daemon/engine/engine.h"
#include "doctor/kvm_probe.h"

int engine_decide(enum engine_acceleration wanted, int probe, double instructions_per_second,
		  enum engine_acceleration *chosen, char why[256], struct error *err)
{
	bool usable = probe == 0 && instructions_per_second >= DOCTOR_KVM_USABLE;

	if (probe < 0)
		snprintf(why, 256, "KVM is not usable here%s", probe == -ENOENT ? ": there is no /dev/kvm" : "");
	else
		snprintf(why, 256,
			 "KVM runs guest kernel code at %.1f million instructions a second (usable from %.0f)",
			 instructions_per_second / 1e6, DOCTOR_KVM_USABLE / 1e6);

	if (wanted == ENGINE_TCG) {
		snprintf(why, 256, "software emulation, as configured: no hardware boundary, for development only");
	} else if (!usable && wanted == ENGINE_KVM) {
		return error_set(err, ENOTSUP, "engine.acceleration is kvm, but: %s", why);
	} else if (!usable) {
		size_t used = 0;
		while (why[used])
			used++;
		snprintf(why + used, 256 - used,
			 "; software emulation instead: no hardware boundary, for development only");
	}
	*chosen = usable && wanted != ENGINE_TCG ? ENGINE_KVM : ENGINE_TCG;
	return 0;
}
