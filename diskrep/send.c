/* SPDX-License-Identifier: Apache-2.0
 * send - what an epoch wrote, as records.
 */
#include "diskrep/dr.h"

#include "hv/base/err.h"
#include "remus/participant.h"

#include <errno.h>
#include <lz4.h>

static int put2(struct diskrep *dr, struct rec_sink *sink, uint16_t type, uint64_t epoch,
		const void *head, size_t head_len, const void *data, size_t len,
		struct dr_sent *sent)
{
	struct iovec iov[2] = {
		{.iov_base = (void *)head, .iov_len = head_len},
		{.iov_base = (void *)data, .iov_len = len},
	};
	int rc = sink->put(sink, type, epoch, iov, len ? 2 : 1);

	sent->count++;
	sent->bytes += head_len + len;
	pthread_mutex_lock(&dr->lock);
	dr->sent_bytes += head_len + len;
	pthread_mutex_unlock(&dr->lock);
	return rc;
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

static uint32_t pack_write(struct diskrep *dr, const void *data, uint32_t len)
{
	uint32_t n;

	if (dr->misses >= MISSES_MAX && ++dr->misses % MISSES_RETRY)
		return 0;
	n = pack(data, len, dr->room);
	dr->misses = n ? 0 : dr->misses + 1;
	return n;
}

static int send_part(struct diskrep *dr, const struct dr_entry *e, uint64_t at,
		     uint32_t len, uint64_t epoch, struct rec_sink *sink,
		     struct dr_sent *sent)
{
	const uint8_t *data = e->data->bytes + at;
	uint32_t packed = pack_write(dr, data, len);
	struct dr_wire_write w = {
		.disk = le32_of(e->disk),
		.flags = le32_of(packed ? DR_WRITE_LZ4 : 0),
		.offset = le64_of(e->offset + at),
		.len = le32_of(len),
		.packed = le32_of(packed),
	};

	if (!packed)
		return put2(dr, sink, DR_REC_WRITE, epoch, &w, sizeof(w), data, len,
			    sent);
	sink->saved += len - packed;
	return put2(dr, sink, DR_REC_WRITE, epoch, &w, sizeof(w), dr->room, packed, sent);
}

static int send_write(struct diskrep *dr, const struct dr_entry *e, uint64_t epoch,
		      struct rec_sink *sink, struct dr_sent *sent)
{
	int rc = 0;

	for (uint64_t at = 0; !rc && at < e->len; at += DR_WRITE_MAX) {
		uint64_t part = e->len - at < DR_WRITE_MAX ? e->len - at : DR_WRITE_MAX;

		rc = send_part(dr, e, at, (uint32_t)part, epoch, sink, sent);
	}
	return rc;
}

static int send_erase(struct diskrep *dr, const struct dr_entry *e, uint64_t epoch,
		      struct rec_sink *sink, struct dr_sent *sent)
{
	struct dr_wire_erase w = {
		.disk = le32_of(e->disk),
		.flags =
			le32_of(e->op == DR_DISCARD ? DR_ERASE_DISCARD : DR_ERASE_ZEROES),
		.offset = le64_of(e->offset),
		.len = le64_of(e->len),
	};

	return e->len ? put2(dr, sink, DR_REC_ERASE, epoch, &w, sizeof(w), NULL, 0, sent)
		      : 0;
}

int dr_send_chunk(struct diskrep *dr, const struct dr_disk *d, uint64_t epoch,
		  uint64_t first, uint32_t count, const void *data, uint8_t *room,
		  struct rec_sink *sink, struct dr_sent *sent)
{
	uint32_t len = data ? dr_chunk_len(&d->img, first) : 0,
		 flags = data ? 0 : DR_CHUNK_ZERO;
	struct dr_wire_chunk w;
	uint32_t packed = data ? pack(data, len, room) : 0;

	if (packed) {
		data = room;
		len = packed;
		flags = DR_CHUNK_LZ4;
	}
	w = (struct dr_wire_chunk){
		.disk = le32_of(d->index),
		.flags = le32_of(flags),
		.first = le64_of(first),
		.count = le32_of(count),
		.len = le32_of(len),
	};
	pthread_mutex_lock(&dr->lock);
	dr->chunks_sent += count;
	pthread_mutex_unlock(&dr->lock);
	return put2(dr, sink, DR_REC_CHUNK, epoch, &w, sizeof(w), data, len, sent);
}

static int send_entry(struct diskrep *dr, const struct dr_list *l,
		      const struct dr_entry *e, struct rec_sink *sink,
		      struct dr_sent *sent)
{
	if (e->op == DR_WRITE)
		return send_write(dr, e, l->epoch, sink, sent);
	if (e->op == DR_DISCARD || e->op == DR_ZEROES)
		return send_erase(dr, e, l->epoch, sink, sent);
	return dr_send_chunk(dr, &dr->disk[e->disk], l->epoch, e->offset / DR_CHUNK, 1,
			     e->data ? e->data->bytes : NULL, dr->room, sink, sent);
}

int dr_send_list(struct diskrep *dr, const struct dr_list *l, struct rec_sink *sink,
		 struct err *err)
{
	struct dr_sent sent = {0};
	struct dr_wire_barrier w;
	int rc = 0;

	for (size_t i = 0; !rc && i < l->n; i++)
		rc = send_entry(dr, l, &l->e[i], sink, &sent);
	w = (struct dr_wire_barrier){
		.count = le32_of(sent.count),
		.bytes = le64_of(sent.bytes),
	};
	if (!rc)
		rc = rec_put(sink, DR_REC_BARRIER, l->epoch, &w, sizeof(w));
	return rc ? err_sys(err, rc, "sending what the disks wrote") : 0;
}
