/* SPDX-License-Identifier: Apache-2.0
 * conform - the promises of a transport (replication/transport.h), between two processes.
 *
 * Each process is one side; a socket between them carries descriptions of ends and keeps the
 * two in step. The same cases as tests/unit/test_transport.c, for what cannot be
 * two ends in one process. A case that fails says so on stderr.
 */
#ifndef TESTS_NATIVE_CONFORM_H
#define TESTS_NATIVE_CONFORM_H

#include <stddef.h>

struct err;
struct tp;
struct tp_dev;
struct tp_module;

struct conform {
	int side, sock;
	/* One link, made by both sides at the same time. */
	int (*connect)(struct conform *c, struct tp **tp_out, struct err *err);
	const struct tp_module *module; /* for conform_connect_module() */
	struct tp_dev *dev;
	size_t flood; /* bytes that no buffers between two ends hold */
	int failed;   /* in the case that runs */
};

/* Runs all cases as c->side. The number of those that failed here; *run_out: how many there are. */
int conform_run(struct conform *c, int *run_out);

/* For modules: prepare, cross the blobs, connect. */
int conform_connect_module(struct conform *c, struct tp **tp_out, struct err *err);

/* Load rhea-tp-@name.so from the directory @dir. Returns borrowed, for the life of the
 * process, or ends it. */
const struct tp_module *conform_load(const char *dir, const char *name);

/* Both sides come here before either goes on. */
void conform_meet(struct conform *c);
/* Say where @what was not so. */
void conform_check(struct conform *c, int ok, const char *what, int line);
#define CONFORM(c, cond) conform_check(c, (cond), #cond, __LINE__)

/* @total bytes of stream @seed through @tp; 0 or -errno, -EBADMSG for other bytes. */
int conform_send(struct tp *tp, unsigned seed, size_t total);
int conform_recv(struct tp *tp, unsigned seed, size_t total);

#endif
