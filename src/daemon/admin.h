/* `akirad admin …`: what whoever has the host may do, whether akirad runs or not. */
#pragma once

#include "daemon/config.h"

/* argv[0] is the command. Returns the exit code: 0, 1 failed, 2 usage. */
int admin_main(const struct config *config, int argc, char **argv);
/* DATA/credentials, 0600: where the command-line client finds the address and the key. */
int credentials_write(const struct config *config, const char *key, uint16_t port, struct error *err);
