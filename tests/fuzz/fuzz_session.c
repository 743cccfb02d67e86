/* SPDX-License-Identifier: Apache-2.0
 * fuzz_session - frames of a peer that has the key and is mad, on the paths of a session.
 *
 * The first byte says which end we are (a client has one path here), the second how the rest is shared
 * among the paths: a frame goes to path 1 when its bit is set. Content goes with its frame. Whatever
 * comes, the receiver ends with an error when there is no more, and gets no more than was sent.
 */
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "replication/session.h"
#include "replication/transport.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PATHS = 2, TAPE = 8192 };
#define MS 1000000ull

/* What one path's peer says, and that it went then. */
struct tape {
	struct tp tp;
	pthread_mutex_t lock;
	pthread_cond_t change;
	int down, resumed; /* RESUME was said to it */
	uint8_t bytes[TAPE];
	size_t len, at;
};

static struct tape *of(struct tp *tp)
{
	return (struct tape *)tp;
}

static int tape_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct tape *t = of(tp);
	struct ses_wire h;

	if (n != 1 || iov[0].iov_len != sizeof(h))
		return 0;
	memcpy(&h, iov[0].iov_base, sizeof(h));
	if (le16_get(h.type) != SES_RESUME)
		return 0;
	pthread_mutex_lock(&t->lock);
	t->resumed = 1;
	pthread_cond_broadcast(&t->change);
	pthread_mutex_unlock(&t->lock);
	return 0;
}

static int tape_flush(struct tp *tp)
{
	return 0;
}

/* An answer to RESUME comes when it was said: else nearly all runs would end at this door. Locked. */
static void wait_turn(struct tape *t, size_t len)
{
	struct ses_wire h;

	if (len != sizeof(h) || t->len - t->at < sizeof(h))
		return;
	memcpy(&h, t->bytes + t->at, sizeof(h));
	while (le16_get(h.type) == SES_RESUMED && !t->resumed && !t->down)
		(void)pthread_cond_wait(&t->change, &t->lock); /* cannot fail */
}

static int tape_recv(struct tp *tp, void *p, size_t len)
{
	struct tape *t = of(tp);
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	wait_turn(t, len);
	if (t->down)
		rc = -ESHUTDOWN;
	else if (t->len - t->at < len)
		rc = -ECONNRESET;
	if (!rc) {
		memcpy(p, t->bytes + t->at, len);
		t->at += len;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static void tape_shutdown(struct tp *tp)
{
	struct tape *t = of(tp);

	pthread_mutex_lock(&t->lock);
	t->down = 1;
	pthread_cond_broadcast(&t->change);
	pthread_mutex_unlock(&t->lock);
}

static void tape_close(struct tp *tp)
{
	struct tape *t = of(tp);

	pthread_cond_destroy(&t->change);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct tp_ops tape_ops = {.name = "tape",
				       .send = tape_send,
				       .flush = tape_flush,
				       .recv = tape_recv,
				       .shutdown = tape_shutdown,
				       .close = tape_close};

static struct tape *tape_new(void)
{
	struct tape *t = calloc(1, sizeof(*t));

	assert(t);
	t->tp = (struct tp){.ops = &tape_ops, .send_timeout_ms = TP_SEND_TIMEOUT_MS};
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->change, NULL);
	return t;
}

/* Deal the frames to the tapes; each takes the bytes that it says it carries. Returns how many bytes all
 * have together. */
static size_t deal(struct tape *t[PATHS], uint8_t which, const uint8_t *p, size_t left)
{
	size_t sum = 0;

	for (unsigned i = 0; left; i++) {
		struct tape *to = t[which >> i % 8 & 1];
		size_t n = sizeof(struct ses_wire);
		struct ses_wire h;

		if (left >= n) {
			memcpy(&h, p, n);
			if (le16_get(h.type) == SES_DATA)
				n += le32_get(h.len);
		}
		n = n < left ? n : left;
		if (n > TAPE - to->len)
			break;
		memcpy(to->bytes + to->len, p, n);
		to->len += n;
		p += n;
		left -= n;
		sum += n;
	}
	return sum;
}

static void no_path(void *arg, unsigned i)
{
}

static void no_news(void *arg, unsigned i, enum pathsel_state st, const char *why)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session_params prm = {.paths = PATHS,
				     .replay = SES_REPLAY_MIN,
				     .silence_ns = 2 * MS,
				     .giveup_ns = MS,
				     .sel = {.retry_min_ns = 1000 * MS,
					     .retry_max_ns = 1000 * MS,
					     .heal_ns = MS,
					     .hold_max_ns = MS},
				     .connect = no_path,
				     .changed = no_news};
	struct iovec v = {.iov_base = "some words of ours", .iov_len = 18};
	struct tape *t[PATHS] = {NULL};
	struct err err = {0};
	struct session *s;
	struct tp *tp;
	uint8_t byte;
	size_t room;
	int rc;

	if (size < 2)
		return 0;
	log_init("fuzz", NULL, LOG_LVL_ERR);
	prm.server = data[0] & 1;
	prm.paths = prm.server ? PATHS : 1;
	for (unsigned i = 0; i < prm.paths; i++)
		t[i] = tape_new();
	room = deal(t, prm.server ? data[1] : 0, data + 2, size - 2);
	if (session_create(&prm, &s, &tp, &err))
		abort();
	(void)tp_send(tp, &v, 1); /* may come too late, and is kept then */
	for (unsigned i = 0; i < prm.paths; i++)
		session_add(s, i, &t[i]->tp);
	for (size_t n = 0; !(rc = tp_recv(tp, &byte, 1)); n++)
		assert(n < room);
	assert(rc == -EBADMSG || rc == -ECONNRESET || rc == -EPIPE || rc == -ETIMEDOUT);
	tp_close(tp);
	session_put(s);
	return 0;
}
