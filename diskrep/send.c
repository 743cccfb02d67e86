/* SPDX-License-Identifier: Apache-2.0
 * send - what an epoch wrote, as records.
 */
#include "diskrep/dr.h"

#include "hv/base/err.h"
#include "remus/participant.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>

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

static int send_write(struct diskrep *dr, const struct dr_entry *e, uint64_t epoch,
		      struct rec_sink *sink, struct dr_sent *sent)
{
	int rc = 0;

	for (uint64_t at = 0; !rc && at < e->len; at += DR_WRITE_MAX) {
		uint64_t part = e->len - at < DR_WRITE_MAX ? e->len - at : DR_WRITE_MAX;
		struct dr_wire_write w = {
			.disk = le32_of(e->disk),
			.offset = le64_of(e->offset + at),
			.len = le32_of((uint32_t)part),
		};

		rc = put2(dr, sink, DR_REC_WRITE, epoch, &w, sizeof(w),
			  e->data->bytes + at, part, sent);
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
	int small = 0;

	/* An eighth less, or it is not worth the other side's time. */
	if (data)
		small = LZ4_compress_default(data, (char *)room, (int)len,
					     (int)(len - len / 8));
	if (small > 0) {
		data = room;
		len = (uint32_t)small;
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
		      const struct dr_entry *e, uint8_t *room, struct rec_sink *sink,
		      struct dr_sent *sent)
{
	if (e->op == DR_WRITE)
		return send_write(dr, e, l->epoch, sink, sent);
	if (e->op == DR_DISCARD || e->op == DR_ZEROES)
		return send_erase(dr, e, l->epoch, sink, sent);
	return dr_send_chunk(dr, &dr->disk[e->disk], l->epoch, e->offset / DR_CHUNK, 1,
			     e->data ? e->data->bytes : NULL, room, sink, sent);
}

int dr_send_list(struct diskrep *dr, const struct dr_list *l, struct rec_sink *sink,
		 struct err *err)
{
	uint8_t *room = malloc(DR_CHUNK);
	struct dr_sent sent = {0};
	struct dr_wire_barrier w;
	int rc = room ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < l->n; i++)
		rc = send_entry(dr, l, &l->e[i], room, sink, &sent);
	w = (struct dr_wire_barrier){
		.count = le32_of(sent.count),
		.bytes = le64_of(sent.bytes),
	};
	if (!rc)
		rc = rec_put(sink, DR_REC_BARRIER, l->epoch, &w, sizeof(w));
	free(room);
	return rc ? err_sys(err, rc, "sending what the disks wrote") : 0;
}
