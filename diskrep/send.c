/* SPDX-License-Identifier: Apache-2.0
 * send - what an epoch wrote, as records.
 */
#include "diskrep/dr.h"

#include "hv/base/err.h"
#include "remus/participant.h"

#include <errno.h>
#include <lz4.h>
#include <string.h>

/* Pieces of one record; the first is its head. Neighbours in the list that are neighbours on the disk,
 * as a guest's sequential writes are, go as one. */
enum { PIECES = 14 };

struct joined {
	struct iovec iov[PIECES];
	int n;
	uint32_t len; /* of all but the head */
};

static int put_iov(struct rec_sink *sink, uint16_t type, uint64_t epoch,
		   const struct iovec *iov, int n, struct dr_sent *sent)
{
	sent->count++;
	for (int i = 0; i < n; i++)
		sent->bytes += iov[i].iov_len;
	return sink->put(sink, type, epoch, iov, n);
}

static int put2(struct rec_sink *sink, uint16_t type, uint64_t epoch, const void *head,
		size_t head_len, const void *data, size_t len, struct dr_sent *sent)
{
	struct iovec iov[2] = {
		{.iov_base = (void *)head, .iov_len = head_len},
		{.iov_base = (void *)data, .iov_len = len},
	};

	return put_iov(sink, type, epoch, iov, len ? 2 : 1, sent);
}

/* What came since the last time. Not for each record: the I/O thread wants this lock for each of the
 * guest's requests. */
static void count(struct diskrep *dr, struct dr_sent *sent, uint32_t chunks)
{
	uint64_t news = sent->bytes - sent->counted;

	sent->counted = sent->bytes;
	pthread_mutex_lock(&dr->lock);
	dr->sent_bytes += news;
	dr->sync_sent += dr->mode == DR_SYNC ? news : 0;
	dr->chunks_sent += chunks;
	pthread_mutex_unlock(&dr->lock);
}

enum {
	MISSES_MAX =
		64, /* writes in a row that LZ4 could not shorten; after that it is */
	MISSES_RETRY =
		16, /* asked for each so manieth: a fast link shall not wait for nothing */
};

/* LZ4 block of @len bytes in @room; its size, or 0: not an eighth less, and so not worth the other
 * side's time. */
static uint32_t pack(const void *data, uint32_t len, uint8_t *room)
{
	return (uint32_t)LZ4_compress_default(data, (char *)room, (int)len,
					      (int)(len - len / 8));
}

/* LZ4 wants them in one piece. */
static const void *in_one(struct diskrep *dr, const struct joined *j)
{
	uint32_t at = 0;

	if (j->n == 2)
		return j->iov[1].iov_base;
	for (int i = 1; i < j->n; i++) {
		memcpy(dr->together + at, j->iov[i].iov_base, j->iov[i].iov_len);
		at += (uint32_t)j->iov[i].iov_len;
	}
	return dr->together;
}

static uint32_t pack_write(struct diskrep *dr, const struct joined *j)
{
	uint32_t n;
	unsigned writes = (unsigned)j->n - 1;

	if (dr->misses >= MISSES_MAX && (dr->skipped += writes) < MISSES_RETRY)
		return 0;
	n = pack(in_one(dr, j), j->len, dr->room);
	dr->misses = n ? 0 : dr->misses + writes;
	dr->skipped = 0;
	return n;
}

static int put_write(struct diskrep *dr, uint32_t disk, uint64_t offset, struct joined *j,
		     uint64_t epoch, struct rec_sink *sink, struct dr_sent *sent)
{
	uint32_t packed = pack_write(dr, j);
	struct dr_wire_write w = {
		.disk = le32_of(disk),
		.flags = le32_of(packed ? DR_WRITE_LZ4 : 0),
		.offset = le64_of(offset),
		.len = le32_of(j->len),
		.packed = le32_of(packed),
	};

	if (packed) {
		sink->saved += j->len - packed;
		return put2(sink, DR_REC_WRITE, epoch, &w, sizeof(w), dr->room, packed,
			    sent);
	}
	j->iov[0] = (struct iovec){.iov_base = &w, .iov_len = sizeof(w)};
	return put_iov(sink, DR_REC_WRITE, epoch, j->iov, j->n, sent);
}

/* @e, and of what follows up to @end all that goes with it. How many are sent, or -errno. */
static int64_t send_writes(struct diskrep *dr, const struct dr_entry *e,
			   const struct dr_entry *end, uint64_t epoch,
			   struct rec_sink *sink, struct dr_sent *sent)
{
	const struct dr_entry *x = e;
	struct joined j = {.n = 1};
	int rc;

	for (; x < end && j.n < PIECES && x->op == DR_WRITE && x->disk == e->disk &&
	       x->offset == e->offset + j.len && x->len <= DR_JOINED_MAX - j.len;
	     x++) {
		j.iov[j.n++] =
			(struct iovec){.iov_base = x->data->bytes, .iov_len = x->len};
		j.len += (uint32_t)x->len;
	}
	/* A write of no bytes is possible, and nothing. */
	rc = j.len ? put_write(dr, e->disk, e->offset, &j, epoch, sink, sent) : 0;
	return rc ? rc : x - e;
}

static int send_large(struct diskrep *dr, const struct dr_entry *e, uint64_t epoch,
		      struct rec_sink *sink, struct dr_sent *sent)
{
	int rc = 0;

	for (uint64_t at = 0; !rc && at < e->len; at += DR_WRITE_MAX) {
		uint64_t part = e->len - at < DR_WRITE_MAX ? e->len - at : DR_WRITE_MAX;
		struct joined j = {.n = 2, .len = (uint32_t)part};

		j.iov[1] =
			(struct iovec){.iov_base = e->data->bytes + at, .iov_len = part};
		rc = put_write(dr, e->disk, e->offset + at, &j, epoch, sink, sent);
	}
	return rc;
}

static int send_erase(const struct dr_entry *e, uint64_t epoch, struct rec_sink *sink,
		      struct dr_sent *sent)
{
	struct dr_wire_erase w = {
		.disk = le32_of(e->disk),
		.flags =
			le32_of(e->op == DR_DISCARD ? DR_ERASE_DISCARD : DR_ERASE_ZEROES),
		.offset = le64_of(e->offset),
		.len = le64_of(e->len),
	};

	return e->len ? put2(sink, DR_REC_ERASE, epoch, &w, sizeof(w), NULL, 0, sent) : 0;
}

int dr_send_chunk(struct diskrep *dr, const struct dr_disk *d, uint64_t epoch,
		  uint64_t first, uint32_t chunks, const void *data, uint8_t *room,
		  struct rec_sink *sink, struct dr_sent *sent)
{
	uint32_t len = data ? dr_chunk_len(&d->img, first) : 0,
		 flags = data ? 0 : DR_CHUNK_ZERO;
	struct dr_wire_chunk w;
	uint32_t packed = data ? pack(data, len, room) : 0;
	int rc;

	if (packed) {
		data = room;
		len = packed;
		flags = DR_CHUNK_LZ4;
	}
	w = (struct dr_wire_chunk){
		.disk = le32_of(d->index),
		.flags = le32_of(flags),
		.first = le64_of(first),
		.count = le32_of(chunks),
		.len = le32_of(len),
	};
	rc = put2(sink, DR_REC_CHUNK, epoch, &w, sizeof(w), data, len, sent);
	count(dr, sent, chunks);
	return rc;
}

static int send_size(uint16_t type, uint32_t disk, uint64_t bytes, uint64_t epoch,
		     struct rec_sink *sink, struct dr_sent *sent)
{
	struct dr_wire_resize w = {.disk = le32_of(disk), .capacity = le64_of(bytes)};

	return put2(sink, type, epoch, &w, sizeof(w), NULL, 0, sent);
}

/* The entry @i, and what goes with it. How many are sent, or -errno. */
static int64_t send_from(struct diskrep *dr, const struct dr_list *l, size_t i,
			 struct rec_sink *sink, struct dr_sent *sent)
{
	const struct dr_entry *e = &l->e[i];
	int rc;

	if (e->op == DR_WRITE && e->len <= DR_JOINED_MAX)
		return send_writes(dr, e, l->e + l->n, l->epoch, sink, sent);
	if (e->op == DR_WRITE)
		rc = send_large(dr, e, l->epoch, sink, sent);
	else if (e->op == DR_DISCARD || e->op == DR_ZEROES)
		rc = send_erase(e, l->epoch, sink, sent);
	else if (e->op == DR_RESIZE)
		rc = send_size(DR_REC_RESIZE, e->disk, e->len, l->epoch, sink, sent);
	else
		rc = dr_send_chunk(dr, &dr->disk[e->disk], l->epoch, e->offset / DR_CHUNK,
				   1, e->data ? e->data->bytes : NULL, dr->room, sink,
				   sent);
	return rc ? rc : 1;
}

static int send_check(const struct dr_check *c, uint64_t epoch, struct rec_sink *sink,
		      struct dr_sent *sent)
{
	struct dr_wire_verify w = {.disk = le32_of(c->disk), .chunk = le64_of(c->chunk)};

	memcpy(w.digest, &c->digest, sizeof(w.digest));
	return put2(sink, DR_REC_VERIFY, epoch, &w, sizeof(w), NULL, 0, sent);
}

static int send_note(const struct dr_note *n, uint64_t epoch, struct rec_sink *sink,
		     struct dr_sent *sent)
{
	struct dr_wire_note w = {.flags = le32_of(n->cut ? DR_NOTE_CUT : 0),
				 .len = le32_of(n->len)};

	return put2(sink, DR_REC_NOTE, epoch, &w, sizeof(w), n->bytes, n->len, sent);
}

int dr_send_list(struct diskrep *dr, const struct dr_list *l, struct rec_sink *sink,
		 struct err *err)
{
	struct dr_sent sent = {0};
	struct dr_wire_barrier w;
	int64_t went;
	int rc = 0;

	for (size_t i = 0; !rc && i < l->n; i += (size_t)went) {
		went = send_from(dr, l, i, sink, &sent);
		rc = went < 0 ? (int)went : 0;
	}
	for (unsigned i = 0; !rc && i < l->checks; i++)
		rc = send_check(&l->check[i], l->epoch, sink, &sent);
	if (!rc && l->grow_bytes)
		rc = send_size(DR_REC_GROW, l->grow_disk, l->grow_bytes, l->epoch, sink,
			       &sent);
	for (const struct dr_note *n = l->notes; !rc && n; n = n->next)
		rc = send_note(n, l->epoch, sink, &sent);
	count(dr, &sent, 0);
	w = (struct dr_wire_barrier){
		.count = le32_of(sent.count),
		.bytes = le64_of(sent.bytes),
	};
	if (!rc)
		rc = rec_put(sink, DR_REC_BARRIER, l->epoch, &w, sizeof(w));
	return rc ? err_sys(err, rc, "sending what the disks wrote") : 0;
}
