/* SPDX-License-Identifier: Apache-2.0
 * vmm_streams - the further connections of a tcp path with several streams, inside rhea-vm.
 *
 * The primary's handshake asks rhead for as many as both ends agreed on, and waits; rhead connects
 * them and gives each with the number of the question. On the standby's host rhead gives each that
 * comes at once, and a thread of its own finds out for which path it is (path_streams.h).
 */
#include "ctl/vmm.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "replication/path_streams.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	ANSWER_MS = 3000,
	COMING_MAX =
		2 * TP_TCP_STREAMS_MAX, /* handshakes under way on the standby's side */
};

/* A handshake that waits for connections. On its stack. */
struct want {
	struct want *next;
	uint64_t number;
	unsigned n, got;
	int fds[TP_TCP_STREAMS_MAX];
	char why[128]; /* of a refusal */
};

struct vmm_streams {
	struct path_hall *hall;
	pthread_mutex_t lock;
	pthread_cond_t change;
	/* Under lock. */
	struct want *wants;
	uint64_t asked;
	unsigned coming;
};

struct coming {
	struct vmm *m;
	int fd;
};

int vmm_streams_create(struct vmm *m, struct err *err)
{
	struct vmm_streams *s = calloc(1, sizeof(*s));
	pthread_condattr_t at;

	if (!s || path_hall_create(&s->hall)) {
		free(s);
		return err_set(err, -ENOMEM, "no memory for streams");
	}
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&s->change, &at);
	pthread_condattr_destroy(&at);
	m->streams = s;
	return 0;
}

struct path_hall *vmm_streams_hall(struct vmm *m)
{
	return m->streams ? m->streams->hall : NULL;
}

static void drop(struct want *w)
{
	while (w->got)
		(void)close(w->fds[--w->got]); /* nothing was written through it */
}

static int wait_for(struct vmm_streams *s, struct want *w, struct err *err)
{
	uint64_t until = clock_mono_ns() + ANSWER_MS * 1000000ull;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000)};
	struct want **at = &s->wants;
	int rc = 0;

	while (w->got < w->n && !w->why[0] && !rc)
		rc = -pthread_cond_timedwait(&s->change, &s->lock, &ts);
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (w->got == w->n)
		return 0;
	return err_set(err, -ECONNREFUSED, "only %u of %u further streams: %s", w->got,
		       w->n, w->why[0] ? w->why : "rhead did not answer");
}

int vmm_streams_more(struct vmm *m, unsigned path, unsigned n, int *fds, struct err *err)
{
	struct vmm_streams *s = m->streams;
	struct want w = {.n = n};
	int rc;

	pthread_mutex_lock(&s->lock);
	w.number = ++s->asked;
	w.next = s->wants;
	s->wants = &w;
	vmm_tell(m, json_pack("{s:s,s:i,s:i,s:I}", "ev", "want-streams", "path",
			      (int)path, "n", (int)n, "number", (json_int_t)w.number));
	rc = wait_for(s, &w, err);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		drop(&w);
	else
		memcpy(fds, w.fds, n * sizeof(*fds));
	return rc;
}

void vmm_streams_answer(struct vmm *m, uint64_t number, int fd, const char *why)
{
	struct vmm_streams *s = m->streams;
	struct want *w;

	if (fd >= 0)
		vmm_never_slower(fd);
	pthread_mutex_lock(&s->lock);
	for (w = s->wants; w && w->number != number;)
		w = w->next;
	if (w && fd >= 0 && w->got < w->n) {
		w->fds[w->got++] = fd;
		fd = -1;
	} else if (w && fd < 0) {
		(void)snprintf(w->why, sizeof(w->why), "%s",
			       why[0] ? why : "not connected"); /* cutting is fine */
	}
	pthread_cond_broadcast(&s->change);
	pthread_mutex_unlock(&s->lock);
	if (fd >= 0)
		(void)close(fd); /* the question is over */
}

static void *coming_main(void *arg)
{
	struct coming *c = arg;
	struct vmm_setup *set = &c->m->set;
	struct vmm_streams *s = c->m->streams;
	const struct path_key key = {
		.pair = set->pair, .psk = set->psk, .timeout_ms = ANSWER_MS};
	struct err err = {0};

	vmm_never_slower(c->fd);
	if (path_stream_accept(c->fd, &key, s->hall, &err))
		log_debug("a stream came to nothing: %s", err.msg);
	free(c);
	pthread_mutex_lock(&s->lock);
	s->coming--;
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Like a handshake of a path: whoever reaches the port may let it hang, so only a few at a time. */
void vmm_streams_come(struct vmm *m, int fd)
{
	struct vmm_streams *s = m->streams;
	struct coming *c = malloc(sizeof(*c));
	pthread_t t;
	int ok = 0;

	pthread_mutex_lock(&s->lock);
	if (c && s->coming < COMING_MAX) {
		*c = (struct coming){.m = m, .fd = fd};
		ok = !pthread_create(&t, NULL, coming_main, c);
		s->coming += (unsigned)ok;
	}
	pthread_mutex_unlock(&s->lock);
	if (ok) {
		pthread_detach(t);
		return;
	}
	log_ratelimited(LOG_LVL_WARN, 1000, "a stream could not be taken");
	free(c);
	(void)close(fd); /* nothing was written through it */
}
