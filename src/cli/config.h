/* Where the server is and with which key to speak to it. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

#define CONFIG_URL_MAX 1024
#define CONFIG_KEY_MAX 256
#define CONFIG_URL_DEFAULT "http://127.0.0.1:8787"
#define CONFIG_SYSTEM_CREDENTIALS "/var/lib/akira/credentials" /* akirad's first start writes it, for root */

struct config {
	char base_url[CONFIG_URL_MAX]; /* no slash at its end */
	char api_key[CONFIG_KEY_MAX];  /* printable ASCII; "" if none was found */
	bool loopback;                 /* base_url names this host */
};

/*
 * base_url (may be NULL) wins over $AKIRA_BASE_URL, that over the credentials file; $AKIRA_API_KEY over its key. The
 * file is $AKIRA_CREDENTIALS, else ~/.config/akira/credentials, else CONFIG_SYSTEM_CREDENTIALS if it can be read:
 * lines `api_key = …` and `base_url = …`. A file that others may read, or that its group may write, is refused
 * (-EPERM). -EINVAL: a value makes no sense.
 */
int config_load(struct config *config, const char *base_url, struct error *err);
