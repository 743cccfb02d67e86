/* SPDX-License-Identifier: Apache-2.0
 * conform - the promises of a transport (replication/transport.h): one suite for all of them.
 *
 * A link has two sides; each is a process, or a thread. A socket between them keeps the two in
 * step and carries descriptions of ends. A case that fails says so on stderr.
 *
 * The cases come in groups:
 *     whole    on a sound link: order, integrity, backpressure, every kind of end
 *     harm     under the fault layer: cut at and in every record, a bit flipped, a peer that is gone
 *              without a word, delay
 *     wire     what a wire may do that loses, delays, doubles or changes frames: the one who calls
 *              has made it so
 *     flips    the same, with bits that are flipped on the way
 *     silent   the wire carries nothing any more
 *     blobs    a module is given garbage, and what another version would say, for its peer's words
 *     hello    a path's peer of another version, and garbage at every state until it is agreed
 */
#ifndef TESTS_NATIVE_CONFORM_H
#define TESTS_NATIVE_CONFORM_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct tp;
struct tp_dev;
struct tp_module;

struct conform {
	int side, sock;
	int swapped; /* side 0 is the server of each link; else side 1 */
	/* One link, made by both sides at the same time. */
	int (*connect)(struct conform *c, struct tp **tp_out, struct err *err);
	const struct tp_module *module; /* NULL: none is needed */
	struct tp_dev *dev;
	void *arg;    /* for connect */
	size_t flood; /* bytes that no buffers between two ends hold */
	/* Its end is not found out by who only sends: a session, which has other paths to wait for. */
	int end_by_receiver;
	size_t wire_bytes; /* for each stretch of the group "wire"; 0: half a MiB */
	/* For the groups "silent" and "flips": the wire carries nothing; it is as it should be. Both sides
	 * ask at the same time. */
	void (*silence)(struct conform *c, int on);
	void (*sound_again)(struct conform *c);
	int flips_cut; /* a flipped bit may end the link; else it is not noticed at all */
	/* For conform_connect_path(): where the server listens. */
	const char *address;
	uint16_t port; /* 0: one that is free */
	int listener;  /* of the server, made when first needed; 0: none */
	int failed;    /* in the case that runs */
};

/* Runs all cases of one group as c->side; adds them to *@run. The number of those that failed here. */
int conform_group(struct conform *c, const char *group, int *run);
/* "whole" and "harm", "blobs" if there is a module, and "hello" if there is an address. */
int conform_run(struct conform *c, int *run_out);

/* For modules: prepare, cross the blobs, connect. */
int conform_connect_module(struct conform *c, struct tp **tp_out, struct err *err);
/* As rhea-vm does it (replication/path.h): TCP, TLS, HELLO, and c->module's transport, sealed; tcp
 * without one. */
int conform_connect_path(struct conform *c, struct tp **tp_out, struct err *err);

/* Load rhea-tp-@name.so from the directory @dir. Returns borrowed, for the life of the
 * process, or ends it. */
const struct tp_module *conform_load(const char *dir, const char *name);

/* Both sides come here before either goes on. */
void conform_meet(struct conform *c);
void conform_put(struct conform *c, const void *p, size_t len);
void conform_get(struct conform *c, void *p, size_t len);
/* Say where @what was not so. */
void conform_check(struct conform *c, int ok, const char *what, const char *file,
		   int line);
/* The same for a result of @got, which should be @want. */
void conform_result(struct conform *c, int got, int want, const char *what,
		    const char *file, int line);
#define CONFORM_RC(c, got, want) \
	conform_result(c, (got), (want), #got, __FILE__, __LINE__)
#define CONFORM(c, cond) conform_check(c, (cond), #cond, __FILE__, __LINE__)

/* The byte that belongs at @pos of stream @seed. */
uint8_t conform_byte(unsigned seed, size_t pos);
/* What the group "wire" sends first, in both directions. */
enum { CONFORM_WIRE_SEED = 11 };
/* @total bytes of stream @seed through @tp; 0 or -errno, -EILSEQ for other bytes. */
int conform_send(struct tp *tp, unsigned seed, size_t total);
int conform_recv(struct tp *tp, unsigned seed, size_t total);

#endif
