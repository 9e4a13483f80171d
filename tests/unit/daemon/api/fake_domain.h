/* A domain that does what the test says, in place of src/daemon/sandbox. */
#pragma once

#include "daemon/sandbox/sandbox.h"

struct fake {
	int result;       /* what the next calls give, 0 = they work */
	const char *text; /* err->text with it */
	int recorded;     /* the status in the record that a change wrote itself; 0: it wrote none */
	int creates, deletes, execs_closed, files_closed;
	struct sandbox_spec last; /* numbers only: its texts are gone */
	char last_name[64], last_env[256], last_path[4096], last_command[256];
	char file[65536];
	size_t file_size;
	bool finished;
	int hold; /* creates wait until it is 0 */
	/* the command's events */
	struct sandbox_exec_event events[8];
	size_t event_count;
	bool wait_for_client; /* after the events: wait until the client leaves */
};
extern struct fake fake;
void fake_hold(int hold);
/* Wait until *counter >= value, at most 10 s. */
bool fake_reached(const int *counter, int value);
extern struct store *fake_store;
