#include "doctor/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "doctor/kvm_probe.h"

#define TCG_WARNING                                                                                               \
	"akirad falls back to software emulation (TCG): for development only, it is no hardware boundary. Use a " \
	"machine with VT-x or AMD-V, or a VM whose host passes them on (nested virtualisation)."

static void check_flags(struct doctor *d)
{
	char text[DOCTOR_FILE_MAX];
	if (doctor_read(d, "/proc/cpuinfo", text, sizeof(text)) < 0) {
		doctor_add(d, "cpu", DOCTOR_WARN, NULL, "/proc/cpuinfo cannot be read");
		return;
	}
	char *flags = strstr(text, "\nflags");
	if (flags)
		*(flags + 1 + strcspn(flags + 1, "\n")) = '\0';
	const char *kind = flags && doctor_has_word(flags, "vmx")   ? "VT-x"
			   : flags && doctor_has_word(flags, "svm") ? "AMD-V"
								    : NULL;
	bool paging = flags && (doctor_has_word(flags, "ept") || doctor_has_word(flags, "npt"));
	bool inside = flags && doctor_has_word(flags, "hypervisor");
	if (kind)
		doctor_add(d, "cpu", DOCTOR_OK, NULL, "%s%s%s", kind, paging ? ", nested paging" : "",
			   inside ? ", itself in a virtual machine" : "");
	else
		doctor_add(d, "cpu", DOCTOR_WARN,
			   "Turn on VT-x or AMD-V in the firmware, or nested virtualisation in the host above.",
			   "no hardware virtualisation%s", inside ? " (this is a virtual machine)" : "");
}

static void check_kvm(struct doctor *d)
{
	double speed = 0;
	struct error err = { 0 };
	if (d->config->looks_only) {
		bool there = doctor_exists(d, "/dev/kvm");
		doctor_add(d, "kvm", there ? DOCTOR_INFO : DOCTOR_WARN, there ? NULL : TCG_WARNING,
			   there ? "/dev/kvm is there, not tried" : "no /dev/kvm");
		return;
	}
	int r = doctor_kvm_probe(&speed, &err);
	if (r == -EACCES)
		doctor_add(d, "kvm", DOCTOR_INFO, "Run `akira doctor` as root to try it.",
			   "/dev/kvm may not be opened by this user");
	else if (r < 0)
		doctor_add(d, "kvm", DOCTOR_WARN, TCG_WARNING, "%s", err.text);
	else if (speed < DOCTOR_KVM_USABLE)
		doctor_add(
			d, "kvm", DOCTOR_WARN, TCG_WARNING,
			"/dev/kvm opens, but guest kernel code is emulated: %.1f million instructions a second (usable: %.0f)",
			speed / 1e6, DOCTOR_KVM_USABLE / 1e6);
	else
		doctor_add(d, "kvm", DOCTOR_OK, NULL, "%.0f million ring-0 instructions a second", speed / 1e6);
}

static void check_nested(struct doctor *d)
{
	static const char *const files[] = { "/sys/module/kvm_intel/parameters/nested",
					     "/sys/module/kvm_amd/parameters/nested" };
	for (size_t i = 0; i < 2; i++) {
		char text[16];
		if (doctor_read(d, files[i], text, sizeof(text)) < 0)
			continue;
		bool on = text[0] == 'Y' || text[0] == '1';
		doctor_add(
			d, "nested", on ? DOCTOR_WARN : DOCTOR_OK,
			on ? "Guests need no virtualisation of their own: options kvm_intel nested=0 (kvm_amd nested=0) in /etc/modprobe.d."
			   : NULL,
			"guests %s use virtualisation themselves", on ? "could" : "cannot");
		return;
	}
	doctor_add(d, "nested", DOCTOR_INFO, NULL, "no kvm_intel or kvm_amd module");
}

static void check_smt(struct doctor *d)
{
	int64_t active = doctor_number(d, "/sys/devices/system/cpu/smt/active");
	if (active == 1)
		doctor_add(d, "smt", DOCTOR_WARN,
			   "Where tenants do not trust each other, boot with nosmt: siblings share caches and buffers.",
			   "on");
	else
		doctor_add(d, "smt", active == 0 ? DOCTOR_OK : DOCTOR_INFO, NULL, active == 0 ? "off" : "unknown");
}

static void check_vulnerabilities(struct doctor *d)
{
	char bad[200] = "";
	size_t count = 0, total = 0;
	_cleanup_fd_ int fd = openat(d->root, "sys/devices/system/cpu/vulnerabilities",
				     O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(dup(fd));
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char path[320], text[256];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/vulnerabilities/%s", entry->d_name);
		if (doctor_read(d, path, text, sizeof(text)) < 0)
			continue;
		total++;
		if (!strstr(text, "Vulnerable"))
			continue;
		doctor_append(bad, sizeof(bad), "%s%s", count++ ? ", " : "", entry->d_name);
	}
	if (dir)
		closedir(dir);
	if (total == 0)
		doctor_add(d, "cpu-vulnerabilities", DOCTOR_INFO, NULL, "the kernel does not tell");
	else if (count > 0)
		doctor_add(d, "cpu-vulnerabilities", DOCTOR_WARN,
			   "Update the kernel and the microcode, and do not boot with mitigations=off.",
			   "vulnerable: %s", bad);
	else
		doctor_add(d, "cpu-vulnerabilities", DOCTOR_OK, NULL, "none of %zu open", total);
}

void doctor_check_cpu(struct doctor *d)
{
	check_flags(d);
	check_kvm(d);
	check_nested(d);
	check_smt(d);
	check_vulnerabilities(d);
}
