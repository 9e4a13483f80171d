#include "base/time.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t clock_us(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t time_mono_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

int64_t time_mono_ms(void)
{
	return clock_us(CLOCK_MONOTONIC) / 1000;
}

int64_t time_wall_ms(void)
{
	return clock_us(CLOCK_REALTIME) / 1000;
}

int time_left_ms(int64_t deadline)
{
	if (deadline < 0)
		return -1;
	int64_t left = deadline - time_mono_ms();
	if (left <= 0)
		return 0;
	return left > INT32_MAX ? INT32_MAX : (int)left;
}

char *time_iso(char to[TIME_TEXT_MAX], int64_t wall_ms)
{
	time_t seconds = (time_t)(wall_ms / 1000);
	int rest = (int)(wall_ms % 1000);
	if (rest < 0) {
		rest += 1000;
		seconds--;
	}
	struct tm parts;
	char text[TIME_TEXT_MAX];
	if (!gmtime_r(&seconds, &parts) || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts) == 0)
		text[0] = '\0';
	snprintf(to, TIME_TEXT_MAX, "%.24s.%03dZ", text, rest);
	return to;
}

static int fraction_ms(const char **text, int *ms)
{
	const char *p = *text;
	int scale = 100;

	*ms = 0;
	if (*p != '.')
		return 0;
	p++;
	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (int n = 0; *p >= '0' && *p <= '9'; p++, n++) {
		if (n > 9)
			return -EINVAL;
		*ms += (*p - '0') * scale;
		scale /= 10;
	}
	*text = p;
	return 0;
}

static int zone_ms(const char *text, int64_t *ms)
{
	int hours, minutes, used = 0;

	*ms = 0;
	if ((text[0] == 'Z' || text[0] == 'z') && text[1] == '\0')
		return 0;
	if (strlen(text) != 6 || (text[0] != '+' && text[0] != '-'))
		return -EINVAL;
	if (sscanf(text + 1, "%2d:%2d%n", &hours, &minutes, &used) != 2 || used != 5 || hours > 23 || minutes > 59 ||
	    hours < 0 || minutes < 0)
		return -EINVAL;
	*ms = (int64_t)(hours * 60 + minutes) * 60000 * (text[0] == '-' ? -1 : 1);
	return 0;
}

int time_parse_iso(const char *text, int64_t *wall_ms)
{
	struct tm parts = { 0 };
	int ms;
	int64_t zone;

	if (strlen(text) < 20 || text[4] != '-' || (text[10] != 'T' && text[10] != 't') || text[0] < '1' || text[0] > '9')
		return -EINVAL;
	char head[20];
	memcpy(head, text, 19);
	head[19] = '\0';
	head[10] = 'T';
	const char *end = strptime(head, "%Y-%m-%dT%H:%M:%S", &parts);
	if (!end || *end || parts.tm_year < 70)
		return -EINVAL;
	text += 19;
	if (fraction_ms(&text, &ms) < 0 || zone_ms(text, &zone) < 0)
		return -EINVAL;
	*wall_ms = (int64_t)timegm(&parts) * 1000 + ms - zone;
	return 0;
}
