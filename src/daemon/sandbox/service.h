/* Opening and closing the domain; the rest of akirad uses sandbox.h. */
#pragma once

#include "daemon/engine/engine.h"
#include "daemon/image/image.h"
#include "daemon/net/net.h"
#include "daemon/sandbox/sandbox.h"

struct sandboxes_config {
	const char *data_dir; /* akirad's own, 0700 */
	struct store *store;
	struct images *images;
	struct launcher *launcher;
	struct net_service *net;
	struct engine engine;
	char engine_version[64];       /* of the monitor's program: part of what makes a template fit */
	char why[256];                 /* why this acceleration */
	uint32_t pool_size;            /* VMs kept ready per hot shape, 0..64 */
	const char *pool_image;        /* made ready at start; "" = none until the first create */
	uint64_t memory_reserve_bytes; /* of the host's memory, never given to sandboxes */
	uint64_t disk_reserve_bytes;   /* of the data folder's file system: below it creates fail with -ENOSPC */
	uint64_t template_budget_bytes;
};

/*
 * Recovers what an earlier akirad left (paused sandboxes stay, all others are terminated as node_lost, files without
 * an owner go), then starts the background threads.
 */
int sandboxes_open(const struct sandboxes_config *config, struct sandboxes **s, struct error *err);
/* Pauses what runs so that it is there again after the next start (what cannot be paused is terminated), ends all. */
void sandboxes_close(struct sandboxes *s);
