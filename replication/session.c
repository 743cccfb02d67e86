/* SPDX-License-Identifier: Apache-2.0
 * session - the stream: what is sent, what is kept for sending again, what is received.
 */
#include "replication/session_priv.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	PIECES_MAX = 16,
	READ_MAX =
		16 << 10,   /* so much at once, so that a slow path shows that it lives */
	TELL_MAX = 1 << 20, /* received bytes after which the peer is told at once */
	SURELY_FITS = 64 << 10, /* so little under way never fills a path's buffers */
};

static const struct tp_ops session_ops;

static struct session *of(struct tp *tp)
{
	assert(tp->ops == &session_ops);
	return (struct session *)tp;
}

void ses_fail(struct session *s, int rc, const char *why)
{
	if (s->error)
		return;
	s->error = rc;
	if (rc != -ESHUTDOWN && rc != -EPIPE)
		log_warn("link: %s", why);
	for (struct ses_path *p = s->all; p; p = p->next)
		tp_shutdown(p->tp);
	pthread_cond_broadcast(&s->change);
	pthread_cond_broadcast(&s->beat);
}

int ses_confirm(struct session *s, uint64_t received)
{
	if (received > s->replay.end)
		return -EBADMSG;
	/* Words of another path may be older than what is known. */
	if (received <= s->replay.begin)
		return 0;
	pthread_cond_broadcast(&s->change);
	return replay_confirm(&s->replay, received);
}

static int wait_change(struct session *s, uint64_t until)
{
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000)};

	return pthread_cond_timedwait(&s->change, &s->lock, &ts);
}

/* Room for @len bytes: the peer's session must have confirmed enough. Lock held. */
static int wait_room(struct session *s, size_t len)
{
	uint64_t limit = s->tp.send_timeout_ms * 1000000ull, begin = s->replay.begin;
	uint64_t until = clock_mono_ns() + limit;

	while (!s->error && replay_room(&s->replay) < len) {
		if (wait_change(s, until) && s->replay.begin == begin)
			return -ETIMEDOUT;
		if (s->replay.begin != begin) {
			begin = s->replay.begin;
			until = clock_mono_ns() + limit;
		}
	}
	return s->error;
}

/* The peer's good-bye is no success for who sends. */
static int sending(int error)
{
	return error == -EPIPE ? -ECONNRESET : error;
}

static void keep(const struct iovec *from, int n, const struct iovec to[2])
{
	uint8_t *dst = to[0].iov_base;
	size_t room = to[0].iov_len, len, first;

	for (int i = 0; i < n; i++) {
		len = from[i].iov_len;
		if (!len)
			continue; /* an empty piece may be nowhere */
		first = len < room ? len : room;
		if (first) /* an empty piece may be nowhere */
			memcpy(dst, from[i].iov_base, first);
		dst += first;
		room -= first;
		if (first == len)
			continue;
		memcpy(to[1].iov_base, (const uint8_t *)from[i].iov_base + first,
		       len - first);
		dst = (uint8_t *)to[1].iov_base + len - first;
		room = to[1].iov_len - (len - first);
	}
}

/* The path takes no more. What it still has to say is read to its end, which is found there. */
static void out_failed(struct session *s, struct ses_path *p, int rc)
{
	if (s->out == p)
		s->out = NULL;
	if (rc != -ECONNRESET && rc != -EPIPE)
		ses_path_fail(p, rc, "it takes nothing");
}

/* Keep one frame of @n pieces at v[1], @len bytes together, and give it its number: there is room. v[0]
 * becomes its header, @h. Returns the path that it is to go over, with a reference, or NULL. Under
 * order. */
static struct ses_path *keep_frame(struct session *s, struct iovec *v, int n, size_t len,
				   struct ses_wire *h)
{
	struct iovec place[2];
	struct ses_path *p;

	pthread_mutex_lock(&s->lock);
	replay_place(&s->replay, len, place);
	pthread_mutex_unlock(&s->lock);
	keep(v + 1, n, place);
	pthread_mutex_lock(&s->lock);
	*h = (struct ses_wire){.len = le32_of((uint32_t)len), .type = le16_of(SES_DATA)};
	h->pos = le64_of(s->replay.end);
	h->received = le64_of(s->received);
	s->told = s->received;
	replay_commit(&s->replay, len);
	p = s->out;
	if (p)
		ses_path_get(p);
	pthread_mutex_unlock(&s->lock);
	v[0] = (struct iovec){.iov_base = h, .iov_len = sizeof(*h)};
	return p;
}

static int put_frame(struct session *s, struct iovec *v, int n, size_t len)
{
	struct ses_wire h;
	struct ses_path *p;
	int rc;

	/* Not under order: what makes room may have to be sent again first. */
	pthread_mutex_lock(&s->lock);
	rc = s->send_error ? s->send_error : wait_room(s, len);
	if (rc && !s->error)
		s->send_error = rc;
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return sending(rc);
	pthread_mutex_lock(&s->order);
	p = keep_frame(s, v, n, len, &h);
	if (p) {
		pthread_mutex_lock(&p->send);
		p->tp->send_timeout_ms = s->tp.send_timeout_ms;
		rc = tp_send(p->tp, v, n + 1);
		pthread_mutex_unlock(&p->send);
		pthread_mutex_lock(&s->lock);
		if (rc)
			out_failed(s, p, rc);
		ses_path_put(p);
		rc = sending(s->error);
		pthread_mutex_unlock(&s->lock);
	}
	/* Without a path it is kept, and goes when there is one. */
	pthread_mutex_unlock(&s->order);
	v[0] = (struct iovec){0}; /* the caller's array outlives the header */
	return rc;
}

static int session_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct session *s = of(tp);
	struct iovec v[PIECES_MAX + 1];
	size_t at = 0, len, take;
	int rc = 0, i = 0, k;

	while (i < n && !rc) {
		for (k = 0, len = 0; i < n && k < PIECES_MAX && len < SES_FRAME_MAX;
		     k++) {
			take = iov[i].iov_len - at;
			take = take < SES_FRAME_MAX - len ? take : SES_FRAME_MAX - len;
			v[k + 1] = (struct iovec){.iov_base =
							  (uint8_t *)iov[i].iov_base + at,
						  .iov_len = take};
			len += take;
			at += take;
			if (at == iov[i].iov_len) {
				at = 0;
				i++;
			}
		}
		rc = len ? put_frame(s, v, k, len) : 0;
		if (!rc)
			tp->bytes_sent += len;
	}
	return rc;
}

static int session_flush(struct tp *tp)
{
	struct session *s = of(tp);
	struct ses_path *p;
	int rc = 0;

	pthread_mutex_lock(&s->order);
	pthread_mutex_lock(&s->lock);
	p = s->out;
	if (p) {
		ses_path_get(p);
		pthread_mutex_unlock(&s->lock);
		pthread_mutex_lock(&p->send);
		rc = tp_flush(p->tp);
		pthread_mutex_unlock(&p->send);
		pthread_mutex_lock(&s->lock);
		if (rc)
			out_failed(s, p, rc);
		ses_path_put(p);
	}
	rc = sending(s->error ? s->error : s->send_error);
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->order);
	return rc;
}

/* A header came on the path in use. Lock held. */
static int on_header(struct session *s, const struct ses_wire *h)
{
	int rc = ses_check(h);

	if (!rc)
		rc = ses_confirm(s, le64_get(h->received));
	if (rc)
		return rc;
	switch (le16_get(h->type)) {
	case SES_DATA:
		/* Exactly the next byte: a path that lost one, or doubles one, is found here. */
		if (le64_get(h->pos) != s->received)
			return -EBADMSG;
		s->left = le32_get(h->len);
		return 0;
	case SES_ALIVE:
	case SES_PING: /* was on its way while the path came into use */
		return 0;
	case SES_END:
		ses_fail(s, -EPIPE, "the peer closed the link");
		return 0;
	case SES_GONE:
		ses_fail(s, -ECONNRESET, "the peer gave the link up");
		return 0;
	default:
		return -EBADMSG;
	}
}

int ses_must_tell(const struct session *s)
{
	size_t often = s->prm.replay / 8 < TELL_MAX ? s->prm.replay / 8 : TELL_MAX;

	return s->out && s->received - s->told >= often;
}

static void note_received(struct session *s, size_t n)
{
	s->received += n;
	s->left -= (uint32_t)n;
	if (ses_must_tell(s))
		pthread_cond_signal(&s->beat);
}

/* The next header, or the next piece of content, from the path in use. Lock held; lets go of it to
 * read. Returns the bytes that came for the caller. */
static size_t read_step(struct session *s, uint8_t *p, size_t len)
{
	struct ses_path *path = s->in;
	struct ses_wire h;
	size_t n = s->left < len ? s->left : len;
	int rc;

	n = n < READ_MAX ? n : READ_MAX;
	ses_path_get(path);
	s->reading = 1;
	s->reading_ns = clock_mono_ns();
	pthread_mutex_unlock(&s->lock);
	rc = n ? tp_recv(path->tp, p, n) : tp_recv(path->tp, &h, sizeof(h));
	pthread_mutex_lock(&s->lock);
	s->reading = 0;
	if (!rc)
		path->heard_ns = clock_mono_ns();
	if (path->dead)
		pthread_cond_broadcast(
			&s->change); /* somebody waits for us to leave it */
	if (rc)
		ses_path_fail(path, rc, "it broke");
	else if (n)
		note_received(s, n);
	else if (!path->dead && on_header(s, &h))
		ses_fail(s, -EBADMSG, "the peer's session says what cannot be");
	ses_path_put(path);
	return rc ? 0 : n;
}

static int session_recv(struct tp *tp, void *p, size_t len)
{
	struct session *s = of(tp);
	size_t done = 0;
	int rc;

	pthread_mutex_lock(&s->lock);
	while (done < len && !s->error) {
		if (s->in)
			done += read_step(s, (uint8_t *)p + done, len - done);
		else
			(void)pthread_cond_wait(&s->change, &s->lock); /* cannot fail */
	}
	rc = done == len ? 0 : s->error;
	if (rc == -EPIPE && done)
		rc = s->error = -ECONNRESET;
	tp->bytes_received += done;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Say that the stream ends, if that cannot hold us up: a peer that does not get it sees its paths
 * end. Lock held; lets go of it. */
static void say_last(struct session *s, enum ses_type type)
{
	struct ses_path *p = s->out;
	uint64_t received = s->received;

	if (!p || s->error || s->replay.end - s->replay.begin > SURELY_FITS)
		return;
	ses_path_get(p);
	pthread_mutex_unlock(&s->lock);
	(void)ses_say(p, type, received, 1); /* best effort, see above */
	pthread_mutex_lock(&s->lock);
	ses_path_put(p);
}

static void session_shutdown(struct tp *tp)
{
	struct session *s = of(tp);

	pthread_mutex_lock(&s->lock);
	say_last(s, SES_GONE);
	ses_fail(s, -ESHUTDOWN, "");
	pthread_mutex_unlock(&s->lock);
}

static void session_close(struct tp *tp)
{
	struct session *s = of(tp);

	pthread_mutex_lock(&s->lock);
	say_last(s, SES_END);
	ses_fail(s, -ESHUTDOWN, "");
	pthread_mutex_unlock(&s->lock);
	ses_watch_stop(s);
	session_put(s);
}

static const struct tp_ops session_ops = {
	.name = "session",
	.send = session_send,
	.flush = session_flush,
	.recv = session_recv,
	.shutdown = session_shutdown,
	.loss = tp_loss_unseen,
	.close = session_close,
};

static void init_locks(struct session *s)
{
	pthread_condattr_t at;

	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&s->order, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&s->change, &at);
	pthread_cond_init(&s->beat, &at);
	pthread_condattr_destroy(&at);
}

static void session_free(struct session *s)
{
	pthread_cond_destroy(&s->beat);
	pthread_cond_destroy(&s->change);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->order);
	replay_fini(&s->replay);
	free(s);
}

void session_put(struct session *s)
{
	int last;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	last = !--s->refs;
	pthread_mutex_unlock(&s->lock);
	if (last)
		session_free(s);
}

int session_create(const struct session_params *prm, struct session **s_out,
		   struct tp **tp_out, struct err *err)
{
	struct session *s = calloc(1, sizeof(*s));
	int rc;

	if (!s || replay_init(&s->replay, prm->replay)) {
		free(s);
		return err_set(err, -ENOMEM, "no memory for a link's session");
	}
	init_locks(s);
	s->prm = *prm;
	s->tp.ops = &session_ops;
	s->tp.send_timeout_ms = TP_SEND_TIMEOUT_MS;
	s->lost_ns = clock_mono_ns();
	s->refs = 2;
	s->prm.sel.fresh_ns = prm->silence_ns;
	pathsel_init(&s->sel, prm->paths, &s->prm.sel, s->lost_ns);
	if (!prm->server)
		pathsel_connecting(&s->sel, prm->first, s->lost_ns);
	s->sel_told = s->sel;
	rc = ses_watch_start(s, err);
	if (rc) {
		session_free(s);
		return rc;
	}
	*s_out = s;
	*tp_out = &s->tp;
	return 0;
}

void session_hold(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	s->refs++;
	pthread_mutex_unlock(&s->lock);
}

void session_id(struct session *s, uint8_t id_out[PATH_SESSION_LEN])
{
	memcpy(id_out, s->prm.id, PATH_SESSION_LEN);
}

int session_is(struct session *s, const uint8_t id[PATH_SESSION_LEN])
{
	int yes;

	pthread_mutex_lock(&s->lock);
	yes = !s->error && !memcmp(s->prm.id, id, PATH_SESSION_LEN);
	pthread_mutex_unlock(&s->lock);
	return yes;
}
