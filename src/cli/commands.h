/* All commands, one object each; commands.c puts them in the order of the help. */
#pragma once

#include "cli/cli.h"

extern const struct cli_command command_run;
extern const struct cli_command command_clone;
extern const struct cli_command command_logs;
extern const struct cli_command command_usage;
extern const struct cli_command command_doctor;
extern const struct cli_command command_sandbox_create;
extern const struct cli_command command_sandbox_list;
extern const struct cli_command command_sandbox_get;
extern const struct cli_command command_sandbox_exec;
extern const struct cli_command command_sandbox_cp;
extern const struct cli_command command_sandbox_rm;
extern const struct cli_command command_sandbox_pause;
extern const struct cli_command command_sandbox_resume;
extern const struct cli_command command_sandbox_timeout;
extern const struct cli_command command_sandbox_network;
extern const struct cli_command command_sandbox_console;
extern const struct cli_command command_snapshot_create;
extern const struct cli_command command_snapshot_list;
extern const struct cli_command command_snapshot_restore;
extern const struct cli_command command_snapshot_rm;
extern const struct cli_command command_image_build;
extern const struct cli_command command_image_list;
extern const struct cli_command command_key_create;
extern const struct cli_command command_key_list;
extern const struct cli_command command_key_rotate;
extern const struct cli_command command_key_revoke;
extern const struct cli_command command_org_create;
extern const struct cli_command command_org_list;
extern const struct cli_command command_org_set;
extern const struct cli_command command_org_suspend;
extern const struct cli_command command_org_resume;
extern const struct cli_command command_audit_list;
extern const struct cli_command command_audit_verify;
