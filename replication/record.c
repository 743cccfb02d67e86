/* SPDX-License-Identifier: Apache-2.0
 * record - cuts a transport's bytes into checked records, and back.
 *
 * Theory of operation. The header has a sum of its own, so that its length can be trusted
 * before anything is allocated for it; the payload's sum is in the header. Sequence
 * numbers catch what sums cannot: a record that is missing, doubled or out of order. TLS
 * already authenticates the bytes; these sums also cover what TLS does not: memory and
 * software on the way to and from it, and transports without TLS.
 */
#include "replication/record.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/xxh.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { IOV_JOIN_MAX = 16 }; /* up to so many pieces go to the transport in one call */

static uint32_t head_sum(const struct rec_wire *h)
{
	struct rec_wire z = *h;

	z.head_sum = le32_of(0);
	return (uint32_t)XXH3_64bits(&z, sizeof(z));
}

static uint64_t iov_sum(const struct iovec *iov, int n)
{
	XXH3_state_t st;

	if (n == 1)
		return XXH3_64bits(iov[0].iov_base, iov[0].iov_len);
	/* A reset of our own, inlined state cannot fail. */
	(void)XXH3_64bits_reset(&st);
	for (int i = 0; i < n; i++)
		if (iov[i].iov_len)
			(void)XXH3_64bits_update(&st, iov[i].iov_base, iov[i].iov_len);
	return XXH3_64bits_digest(&st);
}

/* The sum of all lengths, or -EMSGSIZE. */
static int64_t iov_total(const struct iovec *iov, int n)
{
	size_t total = 0;

	for (int i = 0; i < n; i++) {
		if (iov[i].iov_len > REC_PAYLOAD_MAX - total)
			return -EMSGSIZE;
		total += iov[i].iov_len;
	}
	return (int64_t)total;
}

void rec_stream_init(struct rec_stream *s, struct tp *tp, uint64_t term)
{
	*s = (struct rec_stream){.tp = tp, .term = term};
}

void rec_stream_fini(struct rec_stream *s)
{
	free(s->in);
	s->in = NULL;
	s->in_cap = 0;
}

int rec_send(struct rec_stream *s, uint16_t type, uint64_t epoch, const struct iovec *iov,
	     int n)
{
	struct iovec v[IOV_JOIN_MAX];
	struct rec_wire h;
	int64_t len;
	int rc;

	len = iov_total(iov, n);
	if (len < 0)
		return (int)len;
	h = (struct rec_wire){
		.magic = le32_of(REC_MAGIC),
		.version = le16_of(REC_VERSION),
		.type = le16_of(type),
		.len = le32_of((uint32_t)len),
		.term = le64_of(s->term),
		.epoch = le64_of(epoch),
		.seq = le64_of(s->seq_out),
		.sum = le64_of(iov_sum(iov, n)),
	};
	h.head_sum = le32_of(head_sum(&h));
	v[0] = (struct iovec){.iov_base = &h, .iov_len = sizeof(h)};
	if (n < IOV_JOIN_MAX) {
		if (n > 0)
			memcpy(&v[1], iov, (size_t)n * sizeof(*iov));
		rc = tp_send(s->tp, v, n + 1);
	} else {
		rc = tp_send(s->tp, v, 1);
		if (!rc)
			rc = tp_send(s->tp, iov, n);
	}
	if (!rc)
		s->seq_out++;
	return rc;
}

int rec_flush(struct rec_stream *s)
{
	return tp_flush(s->tp);
}

static int head_check(const struct rec_stream *s, const struct rec_wire *h,
		      struct err *err)
{
	if (le32_get(h->magic) != REC_MAGIC)
		return err_set(err, -EBADMSG, "record %llu: not a record: magic 0x%08x",
			       (unsigned long long)s->seq_in, le32_get(h->magic));
	if (le32_get(h->head_sum) != head_sum(h))
		return err_set(err, -EBADMSG, "record %llu: header damaged on the way",
			       (unsigned long long)s->seq_in);
	if (le16_get(h->version) != REC_VERSION)
		return err_set(
			err, -EBADMSG,
			"the peer speaks version %u of the stream, this host version %u: "
			"install the same release on both hosts",
			le16_get(h->version), REC_VERSION);
	if (le64_get(h->seq) != s->seq_in)
		return err_set(err, -EBADMSG, "record %llu expected, record %llu came",
			       (unsigned long long)s->seq_in,
			       (unsigned long long)le64_get(h->seq));
	if (le32_get(h->len) > REC_PAYLOAD_MAX)
		return err_set(err, -EBADMSG, "record %llu: %u bytes, more than %u",
			       (unsigned long long)s->seq_in, le32_get(h->len),
			       REC_PAYLOAD_MAX);
	return 0;
}

/* Room for @len bytes, already found to be at most REC_PAYLOAD_MAX. The old content goes.
 */
static int in_reserve(struct rec_stream *s, size_t len, struct err *err)
{
	size_t cap = s->in_cap ? s->in_cap : 64 << 10;

	if (len <= s->in_cap)
		return 0;
	while (cap < len)
		cap *= 2;
	free(s->in);
	s->in_cap = 0;
	s->in = malloc(cap);
	if (!s->in)
		return err_set(err, -ENOMEM, "no memory for a record of %zu bytes", len);
	s->in_cap = cap;
	return 0;
}

/* The reader of this kind of records may have a place for it. */
static int room_for(struct rec_stream *s, const struct rec_wire *h, uint8_t **room_out,
		    struct err *err)
{
	uint32_t len = le32_get(h->len);
	int rc;

	*room_out = s->room && len ? s->room(s->room_arg, le16_get(h->type),
					     le64_get(h->epoch), len)
				   : NULL;
	if (*room_out)
		return 0;
	rc = in_reserve(s, len, err);
	*room_out = s->in;
	return rc;
}

static int recv_one(struct rec_stream *s, struct rec *rec_out, struct err *err)
{
	struct rec_wire h;
	uint8_t *room;
	uint32_t len;
	int rc;

	rc = tp_recv(s->tp, &h, sizeof(h));
	if (rc == -EPIPE)
		return err_set(err, rc, "the peer closed the link");
	if (rc)
		return err_sys(err, rc, "receiving record %llu",
			       (unsigned long long)s->seq_in);
	rc = head_check(s, &h, err);
	if (rc)
		return rc;
	len = le32_get(h.len);
	rc = room_for(s, &h, &room, err);
	if (rc)
		return rc;
	rc = len ? tp_recv(s->tp, room, len) : 0;
	if (rc == -EPIPE)
		rc = -ECONNRESET; /* between two calls, but not between two records */
	if (rc)
		return err_sys(err, rc, "receiving %u bytes of record %llu", len,
			       (unsigned long long)s->seq_in);
	if (XXH3_64bits(room, len) != le64_get(h.sum))
		return err_set(err, -EBADMSG,
			       "record %llu (type 0x%04x): payload damaged on the way",
			       (unsigned long long)s->seq_in, le16_get(h.type));
	s->seq_in++;
	*rec_out = (struct rec){
		.type = le16_get(h.type),
		.term = le64_get(h.term),
		.epoch = le64_get(h.epoch),
		.payload = room,
		.len = len,
	};
	return 0;
}

int rec_recv(struct rec_stream *s, struct rec *rec_out, struct err *err)
{
	/* Where the next record starts is not known any more after an error. */
	if (s->failed)
		return err_sys(err, s->failed, "the stream had failed before");
	s->failed = recv_one(s, rec_out, err);
	return s->failed;
}
