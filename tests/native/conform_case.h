/* SPDX-License-Identifier: Apache-2.0
 * conform_case - what the cases of the suite share.
 */
#ifndef TESTS_NATIVE_CONFORM_CASE_H
#define TESTS_NATIVE_CONFORM_CASE_H

#include "tests/native/conform.h"

#include <pthread.h>

struct path_key;
struct path_terms;

enum { CONFORM_TOTAL = (3 << 20) + 17, CONFORM_CONNECT_MS = 20000 };

struct conform_case {
	const char *name;
	/* Gets a link, and closes its end. */
	void (*fn)(struct conform *c, struct tp *tp);
	/* Or makes what links it wants itself. */
	void (*alone)(struct conform *c);
	int no_session; /* see end_by_receiver */
};

/* Ended by one without a name. */
extern const struct conform_case conform_whole[], conform_harm[], conform_wire[],
	conform_silent[], conform_flips[], conform_blobs[], conform_hello[];

static inline int conform_is_server(const struct conform *c)
{
	return c->side != c->swapped;
}
/* A link, or the end of the process with the reason. */
struct tp *conform_link(struct conform *c);
_Noreturn void conform_die(const char *what);

/* Somebody who sends or receives on a thread of its own. */
struct conform_worker {
	int (*fn)(struct tp *tp, unsigned seed, size_t total);
	struct tp *tp;
	unsigned seed;
	size_t total;
	int rc;
	pthread_t thread;
};
void conform_start(struct conform_worker *w,
		   int (*fn)(struct tp *tp, unsigned seed, size_t total), struct tp *tp,
		   unsigned seed, size_t total);
/* Returns what @w's function did. */
int conform_join(struct conform_worker *w);

int conform_text(struct tp *tp, const char *s); /* and flush */
/* Sends until it fails or a flood has gone out; what it failed with. */
int conform_flood(struct conform *c, struct tp *tp);

/* The connection that a path begins with. */
int conform_socket(struct conform *c);
/* The pair's key, and what both ends want of a path. */
struct path_key conform_key(unsigned timeout_ms);
struct path_terms conform_terms(const struct conform *c);
/* path_connect() or path_accept() over @fd, which is taken. */
int conform_path(struct conform *c, int fd, unsigned timeout_ms, struct tp **tp_out,
		 struct err *err);

#endif
