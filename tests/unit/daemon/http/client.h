/* A raw HTTP client for the tests: what goes over the wire is exactly what the test says. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int client_connect(uint16_t port);
void client_send(int fd, const char *text);
void client_send_n(int fd, const char *data, size_t size);
/* Read until the peer closes, or until the bound; malloc'ed. *closed may be NULL. */
char *client_read_all(int fd, int ms, bool *closed);
/* Read until the text so far holds needle; NULL when it does not come within ms. */
char *client_read_until(int fd, const char *needle, int ms);
/* One exchange with "Connection: close"; the whole answer, malloc'ed. */
char *client_once(uint16_t port, const char *request);
int client_status(const char *answer);
const char *client_body(const char *answer);
