#include "base/time.h"

#include <errno.h>
#include <stdbool.h>
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

/* Exactly count digits: -1 if there is anything else among them. */
static int digits(const char *text, int count)
{
	int n = 0;

	for (int i = 0; i < count; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		n = n * 10 + (text[i] - '0');
	}
	return n;
}

static int zone_ms(const char *text, int64_t *ms)
{
	*ms = 0;
	if ((text[0] == 'Z' || text[0] == 'z') && text[1] == '\0')
		return 0;
	if (strlen(text) != 6 || (text[0] != '+' && text[0] != '-') || text[3] != ':')
		return -EINVAL;
	int hours = digits(text + 1, 2), minutes = digits(text + 4, 2);
	if (hours < 0 || minutes < 0 || hours > 23 || minutes > 59)
		return -EINVAL;
	*ms = (int64_t)(hours * 60 + minutes) * 60000 * (text[0] == '-' ? -1 : 1);
	return 0;
}

/* The first 19 characters; a day that its month has not got is none. A leap second is the next one's begin. */
static int64_t head_seconds(const char *text)
{
	struct tm parts = {
		.tm_year = digits(text, 4) - 1900,
		.tm_mon = digits(text + 5, 2) - 1,
		.tm_mday = digits(text + 8, 2),
		.tm_hour = digits(text + 11, 2),
		.tm_min = digits(text + 14, 2),
		.tm_sec = digits(text + 17, 2),
	};
	int day = parts.tm_mday;

	if (text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != 't') || text[13] != ':' ||
	    text[16] != ':')
		return -1;
	if (parts.tm_year < 70 || parts.tm_mon < 0 || parts.tm_mon > 11 || day < 1 || day > 31 || parts.tm_hour < 0 ||
	    parts.tm_hour > 23 || parts.tm_min < 0 || parts.tm_min > 59 || parts.tm_sec < 0 || parts.tm_sec > 60)
		return -1;
	bool leap = parts.tm_sec == 60;
	parts.tm_sec -= leap;
	int64_t seconds = (int64_t)timegm(&parts);
	return parts.tm_mday == day ? seconds + leap : -1;
}

int time_parse_iso(const char *text, int64_t *wall_ms)
{
	int64_t seconds, zone;
	int ms;

	if (strlen(text) < 20)
		return -EINVAL;
	seconds = head_seconds(text);
	text += 19;
	if (seconds < 0 || fraction_ms(&text, &ms) < 0 || zone_ms(text, &zone) < 0)
		return -EINVAL;
	if (seconds * 1000 + ms < zone)
		return -EINVAL; /* before 1970 */
	*wall_ms = seconds * 1000 + ms - zone;
	return 0;
}
