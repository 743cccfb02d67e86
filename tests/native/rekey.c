/* SPDX-License-Identifier: Apache-2.0
 * rekey - new keys under way, over a real wire.
 *
 * Between the seal and the transport lies a layer that looks on: it keeps how each record's
 * ciphertext begins, and the first record whole. The content is zeros, so a ciphertext is the bare key
 * stream: if any two records begin alike, a nonce was used twice with one key.
 */
#include "tests/native/rekey.h"

#include "hv/base/err.h"
#include "replication/seal.h"
#include "replication/transport.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	EVERY = 3,
	RECORDS = 600,
	BEGIN = 16,
	LEN_MIN = BEGIN,
	LEN_STEP = 37,
	LEN_MAX = 5000
};

struct onlooker {
	struct tp tp;
	struct tp *inner;
	unsigned records;
	uint8_t begin[RECORDS][BEGIN];
	uint8_t first[sizeof(struct seal_wire) + LEN_MAX + SEAL_TAG_LEN];
	size_t first_len;
};

static int look_on(struct tp *tp, const struct iovec *iov, int n)
{
	struct onlooker *o = (struct onlooker *)tp;
	const uint8_t *p = iov[0].iov_base;

	if (n == 1 && p && iov[0].iov_len > sizeof(struct seal_wire) + SEAL_TAG_LEN) {
		if (!o->records && iov[0].iov_len <= sizeof(o->first)) {
			memcpy(o->first, p, iov[0].iov_len);
			o->first_len = iov[0].iov_len;
		}
		if (o->records < RECORDS)
			memcpy(o->begin[o->records++], p + sizeof(struct seal_wire),
			       BEGIN);
	}
	return tp_send(o->inner, iov, n);
}

static int look_flush(struct tp *tp)
{
	return tp_flush(((struct onlooker *)tp)->inner);
}

static int look_recv(struct tp *tp, void *p, size_t len)
{
	return tp_recv(((struct onlooker *)tp)->inner, p, len);
}

static void look_shutdown(struct tp *tp)
{
	tp_shutdown(((struct onlooker *)tp)->inner);
}

/* Its memory is its maker's. */
static void look_close(struct tp *tp)
{
	tp_close(((struct onlooker *)tp)->inner);
}

static const struct tp_ops look_ops = {.name = "onlooker",
				       .send = look_on,
				       .flush = look_flush,
				       .recv = look_recv,
				       .shutdown = look_shutdown,
				       .close = look_close};

static int check(int ok, const char *what, int side)
{
	if (!ok)
		(void)fprintf(stderr, "rekey: side %d: not so: %s\n", side, what);
	return !ok;
}

static size_t length(unsigned record)
{
	return LEN_MIN + record * LEN_STEP % (LEN_MAX - LEN_MIN);
}

/* Each flush makes one record. */
static void *send_all(void *arg)
{
	static const uint8_t zeros[LEN_MAX];
	intptr_t rc = 0;

	for (unsigned i = 0; i < RECORDS && !rc; i++) {
		struct iovec v = {.iov_base = (void *)zeros, .iov_len = length(i)};

		rc = tp_send(arg, &v, 1);
		rc = rc ? rc : tp_flush(arg);
	}
	return (void *)rc;
}

static int recv_all(struct tp *tp)
{
	uint8_t got[LEN_MAX], zeros[LEN_MAX] = {0};
	int rc = 0;

	for (unsigned i = 0; i < RECORDS && !rc; i++) {
		memset(got, 1, sizeof(got));
		rc = tp_recv(tp, got, length(i));
		if (!rc && memcmp(got, zeros, length(i)) != 0)
			rc = -EBADMSG;
	}
	return rc;
}

static int by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, BEGIN);
}

static int all_differ(struct onlooker *o)
{
	qsort(o->begin, o->records, BEGIN, by_bytes);
	for (unsigned i = 1; i < o->records; i++)
		if (!memcmp(o->begin[i - 1], o->begin[i], BEGIN))
			return 0;
	return o->records == RECORDS;
}

static int under_way(struct tp *tp, struct onlooker *o, int side)
{
	uint64_t sent = 0, received = 0;
	pthread_t sender;
	void *rc = NULL;
	int bad = 0;

	if (pthread_create(&sender, NULL, send_all, tp))
		return check(0, "a thread", side);
	bad += check(recv_all(tp) == 0, "all arrives under changing keys", side);
	(void)pthread_join(sender, &rc); /* our own thread */
	bad += check(rc == NULL, "all is sent under changing keys", side);
	tp_seal_renewals(tp, &sent, &received);
	bad += check(sent == (RECORDS - 1) / EVERY, "new keys for what was sent", side);
	bad += check(received == (RECORDS - 1) / EVERY, "new keys for what was received",
		     side);
	bad += check(all_differ(o), "no key stream is used twice", side);
	return bad;
}

static int replay(struct tp *tp, struct onlooker *o, int side)
{
	struct iovec again = {.iov_base = o->first, .iov_len = o->first_len};
	uint8_t b;
	int rc;

	if (side == 0) {
		rc = tp_send(o->inner, &again, 1);
		return check(!rc && !tp_flush(o->inner), "the replay is sent", side);
	}
	return check(tp_recv(tp, &b, 1) == -EBADMSG,
		     "a record from before the new keys is refused", side);
}

int rekey_run(struct tp *tp, int side, void (*meet)(void *arg), void *arg)
{
	static const struct seal_secrets secrets = {.client = {1}, .server = {2}};
	struct onlooker *o = calloc(1, sizeof(*o));
	struct err err = {0};
	int bad;

	if (!o) {
		tp_close(tp);
		return check(0, "memory", side);
	}
	o->tp = (struct tp){.ops = &look_ops, .send_timeout_ms = tp->send_timeout_ms};
	o->inner = tp;
	if (tp_seal_wrap(&o->tp, side, &secrets, &tp, &err)) {
		free(o);
		return check(0, err.msg, side);
	}
	tp_seal_set_rekey(tp, EVERY);
	bad = under_way(tp, o, side);
	meet(arg);
	bad += replay(tp, o, side);
	meet(arg);
	tp_close(tp);
	free(o);
	return bad;
}
