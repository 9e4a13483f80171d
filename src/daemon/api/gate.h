/* Who is it, and may it? The one file of api/ that asks auth/. */
#pragma once

#include "daemon/api/internal.h"

/*
 * Key, scope, suspension, rate: fills call->org, call->key and authenticated, and adds the RateLimit headers.
 * false: refused, the answer is given.
 */
bool gate_check(struct call *call, struct http_request *request, struct http_response *response);
