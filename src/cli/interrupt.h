/*
 * SIGINT, SIGTERM and SIGHUP as something to wait for: a command that has made a sandbox must take it away before it
 * ends. The third signal ends the program at once.
 */
#pragma once

void interrupt_install(void); /* once; also ignores SIGPIPE */
int interrupt_count(void);    /* signals so far */
int interrupt_signal(void);   /* the first one, 0 if none */
/* Readable after a signal; interrupt_drain makes it silent again. */
int interrupt_fd(void);
void interrupt_drain(void);
/* Wait for events on fd (poll's), until a signal comes that is newer than `seen`. 0, -EINTR or another -errno. */
int interrupt_wait(int fd, short events, int seen);
