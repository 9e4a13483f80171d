/* Scopes by name, and whose rows an administrator asks for. */
#pragma once

#include "daemon/api/internal.h"

json_t *scope_names(uint32_t scopes);
/* An array of 1..5 known names; -EINVAL. */
int scope_parse(const json_t *names, uint32_t *scopes, struct error *err);
/* wanted NULL: the caller's own organisation. Another needs scope admin; without it, it does not exist (-ENOENT). */
int scope_org(const struct http_request *request, const char *wanted, const char **org, struct error *err);
