/* SPDX-License-Identifier: Apache-2.0
 * badwire - two hosts' network namespaces and the wire between them, which loses, doubles, delays,
 * reorders and changes frames as it is told.
 *
 *     ns a: wire ── ns m: left ── a process ── right ── ns b: wire
 *
 * For machines without netem. The hosts' cards do no work in the wire's place: each frame is what would
 * be on a cable, its checksums done.
 */
#ifndef TESTS_NATIVE_BADWIRE_H
#define TESTS_NATIVE_BADWIRE_H

#include <stdatomic.h>
#include <sys/types.h>

/* Shared by all processes that are forked after badwire_up(): change it at any time. */
struct badwire_knobs {
	atomic_uint lose, twice, late, flip; /* of 1000 frames; late: by 2 ms */
	atomic_uint delay_us;
	atomic_uint silent; /* nothing passes */
	atomic_uint
		harmed; /* counts the frames that were lost, doubled, late or changed */
};

struct badwire {
	char ns[2][32], ns_m[32];
	struct badwire_knobs *knobs;
	pid_t pid;
};

/* Side 0 is 10.99.0.1, side 1 is 10.99.0.2. Ends the process with a message if it cannot. */
void badwire_up(struct badwire *w);
void badwire_down(struct badwire *w); /* idempotent */
/* This process from now on is on the host of @side. */
void badwire_enter(const struct badwire *w, int side);

/* A shell command; its status as system() has it. */
int badwire_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
