/* SPDX-License-Identifier: Apache-2.0
 * seal - the layer that seals what a transport carries, and opens it at the other end.
 *
 * Theory of operation. What is sent is cut into records of at most SEAL_CONTENT_MAX bytes; a
 * short rest is kept until the flush. The nonce is a counter that is not sent: a record that was
 * changed, left out, doubled or put elsewhere fails its tag, and so does one of the other
 * direction, whose keys differ. The end in good order is a record of its own, so that a stream
 * that was cut off between two records is told from one that ended.
 *
 * Large pieces are encrypted straight from the caller's memory, and decrypted straight into
 * it when a whole record fits.
 */
#include "replication/seal.h"

#include "hv/base/err.h"
#include "replication/seal_key.h"
#include "replication/transport.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
	RECORD_MAX = sizeof(struct seal_wire) + SEAL_CONTENT_MAX + SEAL_TAG_LEN,
	BYE_MS = 100, /* for the closing record */
};

struct seal_tp {
	struct tp tp;
	struct tp *inner;
	atomic_int down; /* tp_shutdown() was called here */
	/* The sender's. */
	struct seal_key out_key;
	int send_error;
	size_t held; /* bytes in plain */
	uint8_t plain[SEAL_CONTENT_MAX];
	uint8_t out[RECORD_MAX];
	/* The receiver's. */
	struct seal_key in_key;
	int recv_error;
	size_t at, have; /* in.at .. in.have are opened and not yet taken */
	uint8_t in[SEAL_CONTENT_MAX + SEAL_TAG_LEN];
};

static const struct tp_ops seal_ops;

static struct seal_tp *of(struct tp *tp)
{
	assert(tp->ops == &seal_ops);
	return (struct seal_tp *)tp;
}

/* What is held, then @len bytes at @p, as one record. */
static int put_record(struct seal_tp *t, uint8_t type, const void *p, size_t len)
{
	struct iovec piece[2] = {{.iov_base = t->plain, .iov_len = t->held},
				 {.iov_base = (void *)p, .iov_len = len}};
	uint32_t content = (uint32_t)(t->held + len);
	struct iovec all = {.iov_base = t->out,
			    .iov_len = sizeof(struct seal_wire) + content + SEAL_TAG_LEN};
	int rc = seal_key_put(&t->out_key, type, piece, 2, content, t->out);

	t->held = 0;
	if (!rc)
		rc = tp_send(t->inner, &all, 1);
	if (rc)
		t->send_error = rc;
	return rc;
}

static void hold(struct seal_tp *t, const uint8_t *p, size_t len)
{
	if (len) /* an empty piece may be nowhere */
		memcpy(t->plain + t->held, p, len);
	t->held += len;
}

static int send_piece(struct seal_tp *t, const uint8_t *p, size_t len)
{
	size_t n;
	int rc = 0;

	while (!rc && t->held + len >= SEAL_CONTENT_MAX) {
		n = SEAL_CONTENT_MAX - t->held;
		rc = put_record(t, SEAL_TYPE_DATA, p, n);
		p += n;
		len -= n;
	}
	if (!rc)
		hold(t, p, len);
	return rc;
}

static int seal_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct seal_tp *t = of(tp);
	int rc = t->send_error;

	t->inner->send_timeout_ms = tp->send_timeout_ms;
	for (int i = 0; i < n && !rc; i++) {
		rc = send_piece(t, iov[i].iov_base, iov[i].iov_len);
		if (!rc)
			tp->bytes_sent += iov[i].iov_len;
	}
	return rc;
}

static int seal_flush(struct tp *tp)
{
	struct seal_tp *t = of(tp);

	if (t->send_error)
		return t->send_error;
	if (t->held && put_record(t, SEAL_TYPE_DATA, NULL, 0))
		return t->send_error;
	t->send_error = tp_flush(t->inner);
	return t->send_error;
}

static int header_ok(const struct seal_wire *h)
{
	uint32_t len = le32_get(h->len);

	if (h->zero[0] || h->zero[1] || h->zero[2] || len > SEAL_CONTENT_MAX)
		return 0;
	return h->type == SEAL_TYPE_DATA ? len > 0 : h->type == SEAL_TYPE_CLOSE && !len;
}

/* The next record, into @p if its content fits there, else into t->in. Returns the bytes that went
 * to @p, or -errno. */
static long get_record(struct seal_tp *t, uint8_t *p, size_t room)
{
	struct seal_wire h;
	uint8_t *to;
	uint32_t len;
	int rc;

	rc = tp_recv(t->inner, &h, sizeof(h));
	/* The transport may end in good order where it likes: only the closing record counts. */
	if (rc)
		return rc == -EPIPE ? -ECONNRESET : rc;
	if (!header_ok(&h))
		return -EBADMSG;
	len = le32_get(h.len);
	rc = tp_recv(t->inner, t->in, len + SEAL_TAG_LEN);
	if (rc)
		return rc == -EPIPE ? -ECONNRESET : rc;
	to = len <= room ? p : t->in;
	rc = seal_key_get(&t->in_key, &h, t->in, to);
	if (rc)
		return rc;
	if (h.type == SEAL_TYPE_CLOSE)
		return -EPIPE;
	if (to == p)
		return (long)len;
	t->at = 0;
	t->have = len;
	return 0;
}

static size_t take(struct seal_tp *t, uint8_t *p, size_t len)
{
	size_t n = t->have - t->at < len ? t->have - t->at : len;

	memcpy(p, t->in + t->at, n);
	t->at += n;
	return n;
}

static int seal_recv(struct tp *tp, void *p, size_t len)
{
	struct seal_tp *t = of(tp);
	size_t done = take(t, p, len);
	long n;

	while (done < len && !t->recv_error) {
		n = get_record(t, (uint8_t *)p + done, len - done);
		if (n < 0)
			t->recv_error = n == -EPIPE && done ? -ECONNRESET : (int)n;
		else
			done += n ? (size_t)n : take(t, (uint8_t *)p + done, len - done);
	}
	tp->bytes_received += done;
	return done == len ? 0 : t->recv_error;
}

static void seal_shutdown(struct tp *tp)
{
	struct seal_tp *t = of(tp);

	atomic_store(&t->down, 1);
	tp_shutdown(t->inner);
}

static void seal_free(struct seal_tp *t)
{
	tp_close(t->inner);
	seal_key_fini(&t->out_key);
	seal_key_fini(&t->in_key);
	free(t);
}

static uint64_t seal_heard(struct tp *tp)
{
	return tp_heard(of(tp)->inner);
}

static void seal_loss(struct tp *tp, struct tp_loss *out)
{
	tp_loss(of(tp)->inner, out);
}

static void seal_close(struct tp *tp)
{
	struct seal_tp *t = of(tp);

	t->inner->send_timeout_ms = BYE_MS;
	t->held = 0; /* what was not flushed is not owed */
	/* A peer that does not get this sees a broken link, which is true as well. */
	if (!t->send_error && !atomic_load(&t->down) &&
	    !put_record(t, SEAL_TYPE_CLOSE, NULL, 0))
		(void)tp_flush(t->inner);
	seal_free(t);
}

static const struct tp_ops seal_ops = {
	.name = "seal",
	.send = seal_send,
	.flush = seal_flush,
	.recv = seal_recv,
	.shutdown = seal_shutdown,
	.heard = seal_heard,
	.loss = seal_loss,
	.close = seal_close,
};

int tp_seal_wrap(struct tp *inner, int server, const struct seal_secrets *secrets,
		 struct tp **tp_out, struct err *err)
{
	struct seal_tp *t = calloc(1, sizeof(*t));

	if (!t) {
		tp_close(inner); /* taken */
		return err_set(err, -ENOMEM, "no memory to seal a link");
	}
	t->tp.ops = &seal_ops;
	t->tp.send_timeout_ms = inner->send_timeout_ms;
	t->inner = inner;
	if (seal_key_init(&t->out_key, server ? secrets->server : secrets->client, 1) ||
	    seal_key_init(&t->in_key, server ? secrets->client : secrets->server, 0)) {
		seal_free(t);
		return err_set(err, -EIO, "AES-256-GCM could not be set up");
	}
	*tp_out = &t->tp;
	return 0;
}

void tp_seal_set_rekey(struct tp *tp, uint64_t records)
{
	struct seal_tp *t = of(tp);

	t->out_key.rekey_every = t->out_key.rekey_left = records;
	t->in_key.rekey_every = t->in_key.rekey_left = records;
}

void tp_seal_renewals(struct tp *tp, uint64_t *sent_out, uint64_t *received_out)
{
	*sent_out = of(tp)->out_key.renewed;
	*received_out = of(tp)->in_key.renewed;
}
