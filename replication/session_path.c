/* SPDX-License-Identifier: Apache-2.0
 * session_path - the paths of a session: their ends, and the change from one to the next.
 */
#include "replication/session_priv.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE_NS 10000000ull

void ses_path_get(struct ses_path *p)
{
	p->users++;
}

void ses_path_put(struct ses_path *p)
{
	if (!--p->users && p->dead)
		pthread_cond_broadcast(&p->s->change); /* it can be reaped */
}

int ses_check(const struct ses_wire *h)
{
	uint16_t type = le16_get(h->type);
	uint32_t len = le32_get(h->len);

	if (!type || type >= SES_NTYPES || le16_get(h->zero))
		return -EBADMSG;
	if (type == SES_DATA)
		return len && len <= SES_FRAME_MAX ? 0 : -EBADMSG;
	return len || le64_get(h->pos) ? -EBADMSG : 0;
}

int ses_say(struct ses_path *p, enum ses_type type, uint64_t received, int try)
{
	struct ses_wire h = {.type = le16_of((uint16_t)type),
			     .received = le64_of(received)};
	struct iovec v = {.iov_base = &h, .iov_len = sizeof(h)};
	int rc;

	if (!try)
		pthread_mutex_lock(&p->send);
	else if (pthread_mutex_trylock(&p->send))
		return -EAGAIN;
	rc = tp_send(p->tp, &v, 1);
	if (!rc)
		rc = tp_flush(p->tp);
	pthread_mutex_unlock(&p->send);
	return rc;
}

/* No more of it. Whoever is inside of its transport comes out with an error. Lock held. */
static void drop(struct ses_path *p)
{
	struct session *s = p->s;

	p->dead = 1;
	p->resuming = 0;
	tp_shutdown(p->tp);
	if (s->slot[p->index] == p)
		s->slot[p->index] = NULL;
	if (s->out == p)
		s->out = NULL;
	if (s->in == p)
		s->in = NULL;
	s->news++;
	pthread_cond_broadcast(&s->change);
}

/* A process that ends closes all of its paths at once. One that changes paths may close the last
 * one too, but not in the same moment. */
static int all_closed(const struct session *s)
{
	uint64_t first = UINT64_MAX, last = 0;

	for (unsigned i = 0; i < s->prm.paths; i++) {
		if (s->slot[i] || !s->ended_ns[i])
			return 0;
		first = s->ended_ns[i] < first ? s->ended_ns[i] : first;
		last = s->ended_ns[i] > last ? s->ended_ns[i] : last;
	}
	return last - first < AT_ONCE_NS;
}

void ses_path_fail(struct ses_path *p, int rc, const char *why)
{
	struct session *s = p->s;
	uint64_t now = clock_mono_ns(), heard = p->heard_ns;
	int resuming = p->resuming, by_peer = rc == -ECONNRESET || rc == -EPIPE;

	if (p->dead)
		return;
	if (s->in == p) {
		heard = heard > s->reading_ns ? heard : s->reading_ns;
		s->lost_ns = s->reading && !rc ? heard : now;
	}
	drop(p);
	if (s->error)
		return;
	pathsel_failed(&s->sel, p->index, now, by_peer ? "its peer's end closed" : why);
	/* The one before was left for this one: it serves nobody either. */
	if (resuming && s->sel.in_use >= 0)
		pathsel_failed(&s->sel, (unsigned)s->sel.in_use, now,
			       "left for another path");
	s->ended_ns[p->index] = by_peer ? now : 0;
	if (all_closed(s))
		ses_fail(s, -ECONNRESET,
			 "the peer's process has ended: all paths closed at once");
}

void ses_retire(struct session *s)
{
	if (s->in) {
		s->lost_ns = clock_mono_ns();
		drop(s->in);
	}
	while (s->reading)
		(void)pthread_cond_wait(&s->change, &s->lock); /* cannot fail */
}

/* Send again what the peer does not have, from byte number @pos. Under order; no lock held. */
static int send_again(struct ses_path *p, uint64_t pos)
{
	struct session *s = p->s;
	struct ses_wire h;
	struct iovec v[3];
	size_t len;
	int rc = 0, n;

	/* Nobody adds to the ring while we hold order, and nothing of it is overwritten. */
	while (!rc && pos < s->replay.end) {
		pthread_mutex_lock(&s->lock);
		/* The peer may have told more by now, on this very path. */
		n = pos < s->replay.begin
			    ? 0
			    : replay_peek(&s->replay, pos, SES_FRAME_MAX, v + 1);
		h = (struct ses_wire){.type = le16_of(SES_DATA),
				      .pos = le64_of(pos),
				      .received = le64_of(s->received)};
		pthread_mutex_unlock(&s->lock);
		len = (n > 0 ? v[1].iov_len : 0) + (n > 1 ? v[2].iov_len : 0);
		if (!len)
			return -EIO; /* would be our own bug: what is not sent cannot be had */
		h.len = le32_of((uint32_t)len);
		v[0] = (struct iovec){.iov_base = &h, .iov_len = sizeof(h)};
		pthread_mutex_lock(&p->send);
		rc = tp_send(p->tp, v, n + 1);
		pthread_mutex_unlock(&p->send);
		pos += len;
	}
	if (rc)
		return rc;
	pthread_mutex_lock(&p->send);
	rc = tp_flush(p->tp);
	pthread_mutex_unlock(&p->send);
	return rc;
}

/* The stream goes on over @p; the peer has all before @pos. Lock held; lets go of it. */
static void take_over(struct ses_path *p, uint64_t pos, int answer)
{
	struct session *s = p->s;
	uint64_t received = s->received;
	int rc;

	if (pos < s->replay.begin || pos > s->replay.end) {
		ses_fail(s, -EBADMSG, "the peer's session asks for what it said it had");
		return;
	}
	s->in = p;
	s->left = 0; /* of a frame that will begin anew */
	s->told = received;
	p->resuming = 0;
	pathsel_used(&s->sel, p->index, clock_mono_ns());
	s->news++;
	ses_path_get(p);
	pthread_cond_broadcast(&s->change);
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->order);
	rc = answer ? ses_say(p, SES_RESUMED, received, 0) : 0;
	rc = rc ? rc : send_again(p, pos);
	pthread_mutex_lock(&s->lock);
	if (rc)
		ses_path_fail(p, rc, "it broke while it took over");
	else if (s->in == p)
		s->out = p;
	ses_path_put(p);
	pthread_mutex_unlock(&s->order);
}

void ses_switch(struct session *s, unsigned i)
{
	struct ses_path *p = s->slot[i];
	uint64_t received;
	int rc;

	if (!p)
		return;
	p->resuming = 1;
	s->resume_ns = clock_mono_ns();
	ses_path_get(p);
	ses_retire(s);
	received = s->received;
	if (!p->dead && !s->error) {
		pthread_mutex_unlock(&s->lock);
		rc = ses_say(p, SES_RESUME, received, 0);
		pthread_mutex_lock(&s->lock);
		if (rc)
			ses_path_fail(p, rc, "it broke while it took over");
	}
	ses_path_put(p);
}

/* One frame on a path that is not in use. 1: the path is in use now and its frames are the
 * receiver's; 0; or -EBADMSG. Lock held; lets go of it. */
static int on_frame(struct ses_path *p, const struct ses_wire *h)
{
	struct session *s = p->s;
	uint64_t received = le64_get(h->received);
	int rc = ses_check(h), server = s->prm.server;
	unsigned type = le16_get(h->type);

	rc = rc ? rc : ses_confirm(s, received);
	if (rc)
		return rc;
	if (server && type == SES_PING) {
		received = s->received;
		pthread_mutex_unlock(&s->lock);
		rc = ses_say(p, SES_PONG, received, 0);
		pthread_mutex_lock(&s->lock);
		if (rc)
			ses_path_fail(p, rc, "it broke");
		return 0;
	}
	if (!server && type == SES_PONG) {
		if (s->sel.path[p->index].state == PATHSEL_CONNECTING) {
			pathsel_ready(&s->sel, p->index, p->heard_ns);
			s->news++;
			pthread_cond_broadcast(&s->change);
		}
		return 0;
	}
	if (server ? type != SES_RESUME : type != SES_RESUMED || !p->resuming)
		return -EBADMSG;
	if (server) {
		p->resuming = 1;
		s->resume_ns = clock_mono_ns();
		ses_retire(s);
		if (p->dead || s->error)
			return 0;
	}
	take_over(p, received, server);
	return 1;
}

void *ses_path_main(void *arg)
{
	struct ses_path *p = arg;
	struct session *s = p->s;
	struct ses_wire h;
	int rc, done = 0;

	while (!done) {
		rc = tp_recv(p->tp, &h, sizeof(h));
		pthread_mutex_lock(&s->lock);
		p->heard_ns = clock_mono_ns();
		p->pinged = 0;
		if (rc)
			ses_path_fail(p, rc, "it broke");
		if (!p->dead && !s->error)
			done = on_frame(p, &h);
		if (done < 0)
			ses_fail(s, -EBADMSG, "the peer's session says what cannot be");
		done |= p->dead || s->error;
		p->thread_done = done;
		s->news += done != 0;
		pthread_cond_broadcast(&s->change);
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

void ses_reap(struct session *s)
{
	struct ses_path **at = &s->all, *p;

	while ((p = *at)) {
		if (!(p->dead || s->error) || p->users || !p->thread_done || s->in == p) {
			at = &p->next;
			continue;
		}
		drop(p);
		*at = p->next;
		pthread_mutex_unlock(&s->lock);
		pthread_join(p->thread, NULL); /* ours, and joined by nobody else */
		tp_close(p->tp);
		pthread_mutex_destroy(&p->send);
		free(p);
		pthread_mutex_lock(&s->lock);
		at = &s->all;
	}
}

static int path_start(struct session *s, struct ses_path *p)
{
	int rc;

	p->heard_ns = clock_mono_ns();
	rc = -pthread_create(&p->thread, NULL, ses_path_main, p);
	if (rc)
		return rc;
	p->next = s->all;
	s->all = p;
	s->slot[p->index] = p;
	s->ended_ns[p->index] = 0;
	/* The client calls it ready when it has answered. */
	if (s->prm.server)
		pathsel_ready(&s->sel, p->index, p->heard_ns);
	s->news++;
	pthread_cond_signal(&s->beat);
	pthread_cond_broadcast(&s->change);
	return 0;
}

void session_add(struct session *s, unsigned i, struct tp *tp)
{
	struct ses_path *p = calloc(1, sizeof(*p));
	struct err err = {0};
	int rc = -ENOMEM;

	pthread_mutex_lock(&s->lock);
	if (p && i < s->prm.paths) {
		*p = (struct ses_path){.s = s, .index = i};
		pthread_mutex_init(&p->send, NULL); /* cannot fail on Linux */
		rc = tp_fault_wrap(tp, &s->fault[i], &p->tp, &err);
		tp = rc ? NULL : p->tp;
		/* The client opens it anew because the one before has failed, which is not always
		 * known here yet. */
		if (!rc && s->prm.server && s->slot[i])
			ses_path_fail(s->slot[i], 0, "it was opened anew");
		if (!rc && !s->error && !s->slot[i] &&
		    s->sel.path[i].state ==
			    (s->prm.server ? PATHSEL_DOWN : PATHSEL_CONNECTING))
			rc = path_start(s, p);
		else if (!rc)
			rc = -EBUSY;
	}
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		return;
	tp_close(tp);
	free(p);
	session_failed(s, i, "no memory for a path");
}

void session_failed(struct session *s, unsigned i, const char *why)
{
	pthread_mutex_lock(&s->lock);
	if (i < s->prm.paths && s->sel.path[i].state == PATHSEL_CONNECTING) {
		pathsel_failed(&s->sel, i, clock_mono_ns(), why);
		s->news++;
		pthread_cond_broadcast(&s->change);
	}
	pthread_mutex_unlock(&s->lock);
}

void session_paths(struct session *s, struct pathsel *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->sel;
	pthread_mutex_unlock(&s->lock);
}

void session_fault(struct session *s, unsigned i, const struct tp_fault *f)
{
	pthread_mutex_lock(&s->lock);
	if (i < s->prm.paths) {
		s->fault[i] = *f;
		if (s->slot[i])
			tp_fault_set(s->slot[i]->tp, f);
	}
	pthread_mutex_unlock(&s->lock);
}
