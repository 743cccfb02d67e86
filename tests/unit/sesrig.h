/* SPDX-License-Identifier: Apache-2.0
 * sesrig - two sessions in one process with several paths between them, which tests cut and heal.
 */
#ifndef TESTS_UNIT_SESRIG_H
#define TESTS_UNIT_SESRIG_H

#include "hv/base/err.h"
#include "replication/session.h"
#include "replication/transport.h"

#include <CUnit/CUnit.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SESRIG_PATHS = 2 };
#define SESRIG_MS 1000000ull

struct sesrig {
	struct session *s[2]; /* client, server */
	struct tp *tp[2];
	atomic_int refused[SESRIG_PATHS];	   /* that path cannot be connected */
	struct tp *(*wrap)(struct tp *client_end); /* NULL: nothing is put around it */
	atomic_uint connects, changes;
	pthread_mutex_t lock;
	pthread_cond_t change;
	enum pathsel_state state[SESRIG_PATHS]; /* as the client says; under lock */
};

static inline void sesrig_changed(void *arg, unsigned i, enum pathsel_state st,
				  const char *why)
{
	struct sesrig *r = arg;

	pthread_mutex_lock(&r->lock);
	r->state[i] = st;
	pthread_cond_broadcast(&r->change);
	pthread_mutex_unlock(&r->lock);
	atomic_fetch_add(&r->changes, 1);
}

static inline void sesrig_nothing(void *arg, unsigned i, enum pathsel_state st,
				  const char *why)
{
}

static inline void sesrig_connect(void *arg, unsigned i)
{
	struct sesrig *r = arg;
	struct err err = {0};
	struct tp *e[2];

	atomic_fetch_add(&r->connects, 1);
	pthread_mutex_lock(&r->lock); /* until sesrig_up() has both ends */
	pthread_mutex_unlock(&r->lock);
	if (atomic_load(&r->refused[i]) || tp_loop_pair(60000, e, &err)) {
		session_failed(r->s[0], i, "no cable");
		return;
	}
	session_add(r->s[1], i, e[1]);
	session_add(r->s[0], i, r->wrap ? r->wrap(e[0]) : e[0]);
}

/* @silence_ms: long ones for tests in which nothing may be silent by mistake. */
static inline void sesrig_up(struct sesrig *r, size_t replay, unsigned silence_ms,
			     unsigned giveup_ms)
{
	struct session_params prm = {
		.paths = SESRIG_PATHS,
		.replay = replay,
		.silence_ns = silence_ms * SESRIG_MS,
		.giveup_ns = giveup_ms * SESRIG_MS,
		.sel = {.retry_min_ns = SESRIG_MS,
			.retry_max_ns = 8 * SESRIG_MS,
			.heal_ns = 20 * SESRIG_MS,
			.hold_max_ns = 160 * SESRIG_MS},
		.connect = sesrig_connect,
		.changed = sesrig_changed,
		.arg = r,
	};
	struct err err = {0};

	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->change, NULL);
	memcpy(prm.id, "a session's id", 14);
	prm.server = 1;
	prm.changed = sesrig_nothing;
	CU_ASSERT_EQUAL_FATAL(session_create(&prm, &r->s[1], &r->tp[1], &err), 0);
	prm.server = 0;
	prm.changed = sesrig_changed;
	pthread_mutex_lock(&r->lock);
	CU_ASSERT_EQUAL_FATAL(session_create(&prm, &r->s[0], &r->tp[0], &err), 0);
	pthread_mutex_unlock(&r->lock);
	sesrig_connect(r, 0);
}

/* Until path @i of the client is in state @st. */
static inline void sesrig_wait(struct sesrig *r, unsigned i, enum pathsel_state st)
{
	pthread_mutex_lock(&r->lock);
	while (r->state[i] != st)
		(void)pthread_cond_wait(&r->change, &r->lock); /* cannot fail */
	pthread_mutex_unlock(&r->lock);
}

static inline void sesrig_down(struct sesrig *r)
{
	tp_close(r->tp[0]);
	tp_close(r->tp[1]);
	session_put(r->s[0]);
	session_put(r->s[1]);
	pthread_cond_destroy(&r->change);
	pthread_mutex_destroy(&r->lock);
	memset(r, 0, sizeof(*r));
}

#endif
