/* SPDX-License-Identifier: Apache-2.0
 * session_path - the paths of a session: their ends, and the change from one to the next.
 */
#include "replication/session_priv.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
	if (type == SES_RESUME || type == SES_RESUMED)
		return len || !le64_get(h->pos) ? -EBADMSG : 0;
	return len || le64_get(h->pos) ? -EBADMSG : 0;
}

int ses_say(struct ses_path *p, enum ses_type type, uint64_t received, int try)
{
	struct ses_wire h = {.type = le16_of((uint16_t)type),
			     .received = le64_of(received)};
	struct iovec v = {.iov_base = &h, .iov_len = sizeof(h)};
	int rc;

	if (type == SES_RESUME || type == SES_RESUMED)
		h.pos = le64_of(p->turn);
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

uint64_t ses_path_heard(const struct ses_path *p)
{
	uint64_t part = tp_heard(p->tp);

	return part > p->heard_ns ? part : p->heard_ns;
}

void ses_path_fail(struct ses_path *p, int rc, const char *why)
{
	struct session *s = p->s;
	uint64_t now = clock_mono_ns(), heard = ses_path_heard(p);
	int by_peer = rc == -ECONNRESET || rc == -EPIPE;

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
	/* A stream over one path alone is that path's, as without a session. */
	if (by_peer && s->prm.paths == 1)
		ses_fail(s, -ECONNRESET, "the only path closed");
}

void ses_retire(struct session *s)
{
	/* Again: while we waited another change may have come through. */
	while (s->in || s->reading) {
		if (s->in) {
			s->lost_ns = clock_mono_ns();
			drop(s->in);
		}
		if (s->reading)
			(void)pthread_cond_wait(&s->change, &s->lock); /* cannot fail */
	}
}

/* @p is to take over, in change number @turn. Lock held. */
static void begin_turn(struct ses_path *p, uint64_t turn)
{
	struct session *s = p->s;

	p->resuming = 1;
	p->turn = s->turn = turn;
	s->resume_ns = clock_mono_ns();
	pathsel_taking(&s->sel, p->index, s->resume_ns);
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
	/* An end that came already is found by who reads it, after what was said before. */
	if (rc && rc != -ECONNRESET && rc != -EPIPE)
		ses_path_fail(p, rc, "it broke while it took over");
	else if (!rc && s->in == p)
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
	begin_turn(p, s->turn + 1);
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

/* The client asks for change @turn, to @p. 1: it has its way. A path may hold a word back until the client
 * has left it for another one, where the stream is then. Lock held; lets go of it. */
static int server_turn(struct ses_path *p, uint64_t turn)
{
	struct session *s = p->s;

	if (turn > s->turn) {
		begin_turn(p, turn);
		ses_retire(s);
	}
	if (turn != s->turn || turn != p->turn)
		ses_path_fail(p, 0, "what it says was overtaken");
	return !p->dead && !s->error;
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
	if (!server && le64_get(h->pos) != p->turn)
		return -EBADMSG;
	if (server && !server_turn(p, le64_get(h->pos)))
		return 0;
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
		if (!rc)
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
