#include "doctor/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_LOW_MIB 2048

static int64_t meminfo_mib(const char *text, const char *name)
{
	const char *line = strstr(text, name);
	return line ? strtoll(line + strlen(name), NULL, 10) / 1024 : -1;
}

static void check_size(struct doctor *d)
{
	char text[4096];
	doctor_read(d, "/proc/meminfo", text, sizeof(text));
	int64_t total = meminfo_mib(text, "MemTotal:"), available = meminfo_mib(text, "MemAvailable:");
	if (total < 0)
		doctor_add(d, "memory", DOCTOR_WARN, NULL, "/proc/meminfo cannot be read");
	else
		doctor_add(d, "memory", available < MEMORY_LOW_MIB ? DOCTOR_WARN : DOCTOR_OK,
			   available < MEMORY_LOW_MIB ? "Few sandboxes fit: each takes its memory and 30 to 90 MiB."
						      : NULL,
			   "%lld MiB available of %lld MiB", (long long)available, (long long)total);
}

static void check_swap(struct doctor *d)
{
	char text[4096];
	if (doctor_read(d, "/proc/swaps", text, sizeof(text)) < 0)
		doctor_add(d, "swap", DOCTOR_OK, NULL, "none");
	else if (strchr(text, '\n'))
		doctor_add(d, "swap", DOCTOR_WARN, "swapoff -a, or encrypt it: guests' memory reaches the disk.", "on");
	else
		doctor_add(d, "swap", DOCTOR_OK, NULL, "off");
}

static void check_ksm(struct doctor *d)
{
	int64_t run = doctor_number(d, "/sys/kernel/mm/ksm/run");
	if (run == 1)
		doctor_add(d, "ksm", DOCTOR_WARN,
			   "echo 2 > /sys/kernel/mm/ksm/run: merged pages tell tenants about each other.", "on");
	else
		doctor_add(d, "ksm", DOCTOR_OK, NULL, run < 0 ? "not in this kernel" : "off");
}

void doctor_check_memory(struct doctor *d)
{
	check_size(d);
	check_swap(d);
	check_ksm(d);
}
