/* SPDX-License-Identifier: Apache-2.0
 * tlsstream - one TCP connection with TLS 1.3.
 *
 * Theory of operation. Nothing is copied that need not be: records are sealed from the caller's
 * memory into @out, which goes to the kernel when it is full (16 records) or flushed; the kernel
 * fills @in with as much as there is, and records are opened from there into the caller's memory. Only
 * the end of a send that fills no record waits in @held, and only the record that is longer than what is
 * asked for is opened into @rest.
 *
 * The two directions have nothing in common, so there is no lock. A peer that wants us to change our
 * keys is the exception: a flag.
 */
#include "replication/tlsstream.h"

#include "hv/base/err.h"
#include "replication/sock.h"
#include "replication/tls.h"
#include "replication/tlsrec.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	OUT_RECORDS = 16,
	OUT_SIZE = OUT_RECORDS * TLSREC_MAX,
	IN_RECORD_MAX = TLSREC_HEAD + TLSREC_CIPHER_MAX,
	IN_SIZE = 16 * IN_RECORD_MAX,
	/* RFC 8446, sections 4 and 6 */
	MSG_NEW_SESSION_TICKET = 4,
	MSG_KEY_UPDATE = 24,
	MSG_HEAD = 4,
	CLOSE_NOTIFY = 0,
};

struct tlsstream {
	struct sock sock;
	struct tls tls;
	/* The sender's. */
	struct tlsrec tx;
	int send_error;
	uint64_t rekey_every, rekey_left;
	size_t held_len, out_len;
	uint8_t held[TLSREC_CONTENT_MAX];
	uint8_t out[OUT_SIZE];
	atomic_int rekey_asked; /* by the peer */
	/* The receiver's. */
	struct tlsrec rx;
	int recv_error;
	int recv_timeout_ms; /* -1: none */
	size_t at, end;	     /* of what @in holds */
	size_t rest_at, rest_end;
	uint8_t rest[TLSREC_CIPHER_MAX];
	uint8_t in[IN_SIZE];
};

/* Pieces on their way into one record; the first is what is held. */
struct gather {
	struct iovec v[TLSREC_PIECES - 1];
	int n;
	size_t len;
};

static int push(struct tlsstream *s, unsigned timeout_ms)
{
	s->send_error = sock_send(&s->sock, s->out, s->out_len, timeout_ms);
	s->out_len = 0;
	return s->send_error;
}

static int put_record(struct tlsstream *s, enum tlsrec_type type, const struct iovec *v,
		      int n, size_t len, unsigned timeout_ms)
{
	long size;

	if (s->out_len + TLSREC_MAX > OUT_SIZE && push(s, timeout_ms))
		return s->send_error;
	size = tlsrec_seal(&s->tx, type, v, n, len, s->out + s->out_len);
	if (size < 0)
		return s->send_error = (int)size;
	s->out_len += (size_t)size;
	return 0;
}

static int rekey(struct tlsstream *s, unsigned timeout_ms)
{
	static const uint8_t msg[MSG_HEAD + 1] = {MSG_KEY_UPDATE, 0, 0, 1, 0};
	struct iovec v = {.iov_base = (void *)msg, .iov_len = sizeof(msg)};

	if (put_record(s, TLSREC_HANDSHAKE, &v, 1, sizeof(msg), timeout_ms))
		return s->send_error;
	s->rekey_left = s->rekey_every;
	return s->send_error = tlsrec_update(&s->tx);
}

static int put_data(struct tlsstream *s, struct gather *g, unsigned timeout_ms)
{
	if ((!s->rekey_left || atomic_exchange(&s->rekey_asked, 0)) &&
	    rekey(s, timeout_ms))
		return s->send_error;
	s->rekey_left -= g->len < s->rekey_left ? g->len : s->rekey_left;
	s->held_len = 0;
	return put_record(s, TLSREC_DATA, g->v, g->n, g->len, timeout_ms);
}

static void gather_begin(struct tlsstream *s, struct gather *g)
{
	g->v[0] = (struct iovec){.iov_base = s->held, .iov_len = s->held_len};
	g->n = 1;
	g->len = s->held_len;
}

/* Make them one piece, which is ours. */
static void hold(struct tlsstream *s, struct gather *g)
{
	for (int i = 1; i < g->n; i++) {
		memcpy(s->held + s->held_len, g->v[i].iov_base, g->v[i].iov_len);
		s->held_len += g->v[i].iov_len;
	}
	gather_begin(s, g);
}

static int add_piece(struct tlsstream *s, struct gather *g, const struct iovec *iov,
		     unsigned timeout_ms)
{
	uint8_t *p = iov->iov_base;
	size_t len = iov->iov_len, n;

	while (len) {
		n = TLSREC_CONTENT_MAX - g->len;
		n = n < len ? n : len;
		g->v[g->n++] = (struct iovec){.iov_base = p, .iov_len = n};
		g->len += n;
		p += n;
		len -= n;
		if (g->len == TLSREC_CONTENT_MAX) {
			if (put_data(s, g, timeout_ms))
				return s->send_error;
			gather_begin(s, g);
		} else if (g->n == TLSREC_PIECES - 1) {
			hold(s, g);
		}
	}
	return 0;
}

int tlsstream_send(struct tlsstream *s, const struct iovec *iov, int n,
		   unsigned timeout_ms)
{
	struct gather g;

	gather_begin(s, &g);
	for (int i = 0; i < n && !s->send_error; i++)
		(void)add_piece(s, &g, &iov[i], timeout_ms); /* is in send_error */
	hold(s, &g);
	return s->send_error;
}

int tlsstream_flush(struct tlsstream *s, unsigned timeout_ms)
{
	struct gather g;

	gather_begin(s, &g);
	if (!s->send_error && g.len)
		(void)put_data(s, &g, timeout_ms); /* is in send_error */
	return s->send_error ? s->send_error : push(s, timeout_ms);
}

/* @need bytes at s->in + s->at. */
static int fill(struct tlsstream *s, size_t need)
{
	long n;

	if (s->at == s->end) {
		s->at = s->end = 0;
	} else if (s->at + IN_RECORD_MAX > IN_SIZE) {
		memmove(s->in, s->in + s->at, s->end - s->at);
		s->end -= s->at;
		s->at = 0;
	}
	while (s->end - s->at < need) {
		n = sock_recv(&s->sock, s->in + s->end, IN_SIZE - s->end,
			      s->recv_timeout_ms);
		if (n < 0)
			return (int)n;
		s->end += (size_t)n;
	}
	return 0;
}

/* Messages after the handshake, whole ones in one record. */
static int on_handshake(struct tlsstream *s, const uint8_t *p, long len)
{
	long size;

	for (; len >= MSG_HEAD; p += size, len -= size) {
		size = MSG_HEAD + (p[1] << 16 | p[2] << 8 | p[3]);
		if (size > len)
			return -EBADMSG;
		if (p[0] == MSG_NEW_SESSION_TICKET)
			continue; /* nothing is ever resumed here */
		/* Behind it come other keys, so it is the last of its record (section 5.1). */
		if (p[0] != MSG_KEY_UPDATE || size != MSG_HEAD + 1 || size != len ||
		    p[MSG_HEAD] > 1)
			return -EBADMSG;
		if (p[MSG_HEAD])
			atomic_store(&s->rekey_asked, 1);
		return tlsrec_update(&s->rx);
	}
	return len ? -EBADMSG : 0;
}

/* The next record, into @p if there is @room for all that it may be, else into rest. Returns the bytes
 * that went to @p. */
static long get_record(struct tlsstream *s, uint8_t *p, size_t room)
{
	uint8_t *to = p;
	int type = 0, rc;
	long len;

	rc = fill(s, TLSREC_HEAD);
	len = rc ? rc : tlsrec_length(s->in + s->at);
	if (len > 0)
		rc = fill(s, (size_t)len);
	if (rc || len < 0)
		return rc ? rc : len;
	if ((size_t)len - TLSREC_HEAD - TLSREC_MORE > room)
		to = s->rest;
	rc = (int)len;
	len = tlsrec_open(&s->rx, s->in + s->at, to, &type);
	s->at += (size_t)rc;
	if (len < 0)
		return len;
	if (type == TLSREC_ALERT)
		return len == 2 && to[1] == CLOSE_NOTIFY ? -EPIPE : -ECONNRESET;
	if (type == TLSREC_HANDSHAKE)
		return on_handshake(s, to, len);
	if (type != TLSREC_DATA)
		return -EBADMSG;
	if (to == p)
		return len;
	s->rest_at = 0;
	s->rest_end = (size_t)len;
	return 0;
}

static size_t take(struct tlsstream *s, uint8_t *p, size_t len)
{
	size_t n = s->rest_end - s->rest_at;

	n = n < len ? n : len;
	memcpy(p, s->rest + s->rest_at, n);
	s->rest_at += n;
	return n;
}

int tlsstream_recv(struct tlsstream *s, void *p, size_t len, size_t *done_out)
{
	size_t done = take(s, p, len);
	long n;

	while (done < len && !s->recv_error) {
		n = get_record(s, (uint8_t *)p + done, len - done);
		if (n < 0)
			s->recv_error = n == -EPIPE && done ? -ECONNRESET : (int)n;
		else
			done += n ? (size_t)n : take(s, (uint8_t *)p + done, len - done);
	}
	*done_out = done;
	return done == len ? 0 : s->recv_error;
}

int tlsstream_open(int fd, int server, const char *identity, const uint8_t *psk,
		   unsigned timeout_ms, struct tlsstream **s_out, struct err *err)
{
	struct tlsstream *s = calloc(1, sizeof(*s));
	struct sock sock;
	int rc = sock_init(&sock, fd, err);

	if (rc) {
		free(s);
		return rc;
	}
	if (!s) {
		sock_fini(&sock);
		return err_set(err, -ENOMEM, "no memory for a link");
	}
	s->sock = sock;
	s->recv_timeout_ms = -1;
	s->rekey_every = s->rekey_left = TP_TCP_REKEY_BYTES;
	rc = tls_init(&s->tls, fd, server, identity, psk, timeout_ms, err);
	if (rc) {
		sock_fini(&s->sock);
		free(s);
		return rc;
	}
	if (tlsrec_init(&s->tx, s->tls.secret[server], 1) ||
	    tlsrec_init(&s->rx, s->tls.secret[!server], 0)) {
		rc = err_set(err, -EIO, "AES-128-GCM could not be set up");
		s->send_error = rc;
		tlsstream_close(s);
		return rc;
	}
	*s_out = s;
	return 0;
}

/* What was sealed but not flushed goes before it: its records have numbers. */
static void say_bye(struct tlsstream *s)
{
	static const uint8_t alert[2] = {1, CLOSE_NOTIFY};
	struct iovec v = {.iov_base = (void *)alert, .iov_len = sizeof(alert)};
	long size;

	if (s->out_len + TLSREC_MAX > OUT_SIZE)
		return; /* the peer then sees a broken link, which is true as well */
	size = tlsrec_seal(&s->tx, TLSREC_ALERT, &v, 1, sizeof(alert),
			   s->out + s->out_len);
	if (size > 0)
		sock_send_last(&s->sock, s->out, s->out_len + (size_t)size);
}

void tlsstream_close(struct tlsstream *s)
{
	if (!s->send_error && !atomic_load(&s->sock.down))
		say_bye(s);
	tls_fini(&s->tls);
	tlsrec_fini(&s->tx);
	tlsrec_fini(&s->rx);
	sock_fini(&s->sock);
	free(s);
}

void tlsstream_shutdown(struct tlsstream *s)
{
	sock_shutdown(&s->sock);
}

void tlsstream_no_more(struct tlsstream *s)
{
	sock_no_more(&s->sock);
}

void tlsstream_break(struct tlsstream *s)
{
	sock_break(&s->sock);
}

void tlsstream_set_rekey(struct tlsstream *s, uint64_t bytes)
{
	s->rekey_every = s->rekey_left = bytes;
}

void tlsstream_set_recv_timeout(struct tlsstream *s, unsigned ms)
{
	s->recv_timeout_ms = ms ? (int)ms : -1;
}

int tlsstream_export(struct tlsstream *s, const char *label, const void *context,
		     size_t context_len, void *out, size_t len)
{
	return tls_export(&s->tls, label, context, context_len, out, len);
}

uint64_t tlsstream_heard(const struct tlsstream *s)
{
	return sock_heard(&s->sock);
}

void tlsstream_loss(struct tlsstream *s, struct tp_loss *sum)
{
	sock_loss(&s->sock, sum);
}
