/* SPDX-License-Identifier: Apache-2.0
 * session_watch - time in a session: silence, the way to the next path, signs of life.
 */
#include "replication/session_priv.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <string.h>

#define AGAIN_NS 200000ull

/* A path that is not in use may be quiet for so many times silence_ns. */
enum { SPARE_SILENCE = 3 };

static void wait_turn(struct session *s, pthread_cond_t *c, uint64_t at)
{
	struct timespec ts = {.tv_sec = (time_t)(at / 1000000000),
			      .tv_nsec = (long)(at % 1000000000)};

	/* Woken early or late: the turn looks at everything again. */
	(void)pthread_cond_timedwait(c, &s->lock, &ts);
}

static int other_ready(const struct session *s, const struct ses_path *p)
{
	for (unsigned i = 0; i < s->prm.paths; i++)
		if (i != p->index && s->sel.path[i].state == PATHSEL_READY)
			return 1;
	return 0;
}

/* Only a receiver that waits can tell silence from bytes that nobody asked for. A path that is to take
 * over is waited for while there is no other: its word may come through late, and a new connection
 * would not be quicker. */
static int is_silent(const struct session *s, const struct ses_path *p, uint64_t now)
{
	uint64_t since = ses_path_heard(p), limit = s->prm.silence_ns;

	if (p == s->in) {
		if (!s->reading)
			return 0;
		since = since > s->reading_ns ? since : s->reading_ns;
	} else if (p->resuming) {
		since = since > s->resume_ns ? since : s->resume_ns;
		if (!other_ready(s, p))
			return 0;
	} else {
		limit *= SPARE_SILENCE;
	}
	return now > since && now - since > limit;
}

static void look(struct session *s, uint64_t now)
{
	for (unsigned i = 0; i < s->prm.paths; i++)
		if (s->slot[i] && is_silent(s, s->slot[i], now))
			ses_path_fail(s->slot[i], 0, "nothing is heard on it");
	/* By the clock: a process that stood still finds that it is too late. */
	if (!s->error && !s->in && now > s->lost_ns &&
	    now - s->lost_ns > s->prm.giveup_ns)
		ses_fail(s, -ETIMEDOUT, "no path to the peer works");
}

/* Do what is to be done; returns the bits of paths that are to be connected. */
static unsigned decide(struct session *s)
{
	unsigned want = 0;
	struct pathsel_do d;

	while (!s->error) {
		for (unsigned i = 0; i < s->prm.paths; i++)
			if (s->slot[i])
				pathsel_heard(&s->sel, i, ses_path_heard(s->slot[i]));
		d = pathsel_decide(&s->sel, clock_mono_ns());
		if (d.act == PATHSEL_NOTHING)
			break;
		if (d.act == PATHSEL_CONNECT) {
			pathsel_connecting(&s->sel, d.path, clock_mono_ns());
			want |= 1u << d.path;
		} else {
			ses_switch(s, d.path);
		}
	}
	return want;
}

/* When the watch looks again, if nothing happens before. */
static uint64_t next_turn(const struct session *s)
{
	uint64_t now = clock_mono_ns(), at = now + s->prm.silence_ns / SES_TURNS;
	struct pathsel_do d = {.at = UINT64_MAX};

	if (!s->prm.server && !s->error)
		d = pathsel_decide(&s->sel, now);
	return d.act == PATHSEL_NOTHING && d.at < at ? d.at : at;
}

/* Say what changed since the last time, and ask for paths. Lock held; lets go of it. */
static void tell(struct session *s, unsigned want)
{
	struct pathsel now = s->sel, told = s->sel_told;

	s->sel_told = now;
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < now.n; i++) {
		if (now.path[i].state != told.path[i].state ||
		    now.path[i].since != told.path[i].since)
			s->prm.changed(s->prm.arg, i, now.path[i].state, now.path[i].why);
		if (want & 1u << i)
			s->prm.connect(s->prm.arg, i);
	}
	pthread_mutex_lock(&s->lock);
}

static void *watch_main(void *arg)
{
	struct session *s = arg;
	unsigned want, seen;

	pthread_mutex_lock(&s->lock);
	while (!s->stop) {
		seen = s->news;
		look(s, clock_mono_ns());
		want = s->prm.server ? 0 : decide(s);
		ses_reap(s);
		tell(s, want);
		if (!s->stop && s->news == seen)
			wait_turn(s, &s->change, next_turn(s));
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* A sign of life on the path in use, unless a sender is at it, who is one. Lock held; lets go. */
static void beat_in_use(struct session *s)
{
	struct ses_path *p = s->out;
	uint64_t received = s->received;
	int rc;

	if (!p)
		return;
	ses_path_get(p);
	pthread_mutex_unlock(&s->lock);
	rc = ses_say(p, SES_ALIVE, received, 1);
	pthread_mutex_lock(&s->lock);
	if (!rc && received > s->told)
		s->told = received;
	/* Who reads it will find out; what is still to be read there must not be lost. */
	if (rc && rc != -EAGAIN && s->out == p)
		s->out = NULL;
	ses_path_put(p);
}

/* One question at a time, so that none waits in a buffer that nobody empties. But on a path that is to take
 * over they go on: there the server hears nothing else, until its answer has come through. */
static void beat_ready(struct session *s, unsigned i)
{
	struct ses_path *p = s->slot[i];
	uint64_t received = s->received;
	int rc;

	if (!p || p == s->in || (p->pinged && !p->resuming))
		return;
	p->pinged = 1;
	ses_path_get(p);
	pthread_mutex_unlock(&s->lock);
	rc = ses_say(p, SES_PING, received, 1);
	pthread_mutex_lock(&s->lock);
	if (rc == -EAGAIN)
		p->pinged = 0;
	/* Whose end has closed is found out by who reads it, after its last words: by now it may be in use. */
	else if (rc && rc != -ECONNRESET && rc != -EPIPE)
		ses_path_fail(p, rc, "it broke");
	ses_path_put(p);
}

/* Soon, if the peer is to be told what came and a sender was in the way. */
static uint64_t next_beat(const struct session *s)
{
	return clock_mono_ns() +
	       (ses_must_tell(s) ? AGAIN_NS : s->prm.silence_ns / SES_TURNS);
}

static void *beat_main(void *arg)
{
	struct session *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->stop) {
		beat_in_use(s);
		for (unsigned i = 0; !s->prm.server && i < s->prm.paths; i++)
			beat_ready(s, i);
		if (!s->stop)
			wait_turn(s, &s->beat, next_beat(s));
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int ses_watch_start(struct session *s, struct err *err)
{
	int rc = -pthread_create(&s->watch_thread, NULL, watch_main, s);

	s->watching = !rc;
	if (!rc)
		rc = -pthread_create(&s->beat_thread, NULL, beat_main, s);
	s->beating = !rc;
	if (!rc)
		return 0;
	ses_watch_stop(s);
	return err_sys(err, rc, "a thread for a link's session");
}

void ses_watch_stop(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	s->stop = 1;
	pthread_cond_broadcast(&s->change);
	pthread_cond_broadcast(&s->beat);
	pthread_mutex_unlock(&s->lock);
	/* Joining threads of our own that nobody else joins cannot fail. */
	if (s->watching)
		pthread_join(s->watch_thread, NULL);
	if (s->beating)
		pthread_join(s->beat_thread, NULL);
	pthread_mutex_lock(&s->lock);
	s->in = NULL;
	for (ses_reap(s); s->all; ses_reap(s))
		(void)pthread_cond_wait(&s->change, &s->lock); /* cannot fail */
	pthread_mutex_unlock(&s->lock);
}
