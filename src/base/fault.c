#include "base/fault.h"

#ifdef AKIRA_FAULTS
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAULTS_MAX 64

struct fault {
	char name[64];
	char action[16];
	unsigned int at;
	unsigned int seen;
};

static struct fault faults[FAULTS_MAX];
static size_t fault_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void parse(void)
{
	const char *text = getenv("AKIRA_FAULT");
	char copy[2048], *save = NULL;

	if (!text || strlen(text) >= sizeof(copy))
		return;
	strcpy(copy, text);
	for (char *item = strtok_r(copy, ",", &save); item && fault_count < FAULTS_MAX;
	     item = strtok_r(NULL, ",", &save)) {
		struct fault *f = &faults[fault_count];
		f->at = 1;
		if (sscanf(item, "%63[^=]=%15[a-z]:%u", f->name, f->action, &f->at) >= 2)
			fault_count++;
	}
}

int fault_point(const char *name)
{
	int result = 0;

	pthread_once(&once, parse);
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < fault_count; i++) {
		struct fault *f = &faults[i];
		if (strcmp(f->name, name) != 0 || ++f->seen != f->at)
			continue;
		if (strcmp(f->action, "kill") == 0)
			kill(getpid(), SIGKILL);
		result = -EIO;
	}
	pthread_mutex_unlock(&lock);
	return result;
}

int fault_point_of(const char *name, const char *which)
{
	char full[64];

	snprintf(full, sizeof(full), "%s/%s", name, which);
	return fault_point(full);
}
#else
/* ISO C wants a translation unit to hold something. */
typedef int fault_unused;
#endif
