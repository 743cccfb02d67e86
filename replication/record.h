/* SPDX-License-Identifier: Apache-2.0
 * record - how the stream is cut into records; the format is in STREAM.md.
 */
#ifndef REPLICATION_RECORD_H
#define REPLICATION_RECORD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/wire.h"

struct buf;
struct err;
struct tp;

enum {
	REC_MAGIC = 0x41454852, /* "RHEA" */
	REC_VERSION = 1,
	REC_PAYLOAD_MAX = 4 << 20,
};

/* The high byte of a type is its kind: who makes and who reads it. */
enum rec_kind {
	REC_KIND_CONTROL = 0x00,
	REC_KIND_MEMORY = 0x01,
	REC_KIND_MACHINE = 0x02,
	REC_KIND_NETBUF = 0x03,
	REC_KIND_DISK = 0x04,
};

struct rec_wire {
	struct le32 magic;
	struct le16 version;
	struct le16 type;
	struct le32 len;      /* of the payload */
	struct le32 head_sum; /* low half of XXH3-64 of this header with head_sum 0 */
	struct le64 term;
	struct le64 epoch;
	struct le64
		seq; /* counts records in this direction from 0: none lost, none twice */
	struct le64 sum; /* XXH3-64 of the payload */
};
WIRE_SIZE(struct rec_wire, 48);

/* A record in hand. The payload belongs to the stream until the next rec_recv(), or is where
 * rec_room_fn said. */
struct rec {
	uint16_t type;
	uint64_t term, epoch;
	const uint8_t *payload;
	uint32_t len;
};

/* Where a payload of @len bytes shall be received, or NULL: wherever the stream likes. Called when
 * only the header has come; its sum is right. */
typedef void *rec_room_fn(void *arg, uint16_t type, uint64_t epoch, size_t len);

/* Sequence numbers and the receive buffer of one transport. One sender, one receiver. */
struct rec_stream {
	struct tp *tp; /* borrowed */
	uint64_t seq_out, seq_in;
	uint8_t *in;
	size_t in_cap;
	uint64_t term;	   /* put on what is sent */
	rec_room_fn *room; /* set by the receiver, or NULL */
	void *room_arg;
	int failed; /* the first error of rec_recv(); later calls return it again */
};

void rec_stream_init(struct rec_stream *s, struct tp *tp, uint64_t term);
void rec_stream_fini(struct rec_stream *s);
/* 0 or -errno. Payload is the sum of @iov, at most REC_PAYLOAD_MAX. Not flushed. */
int rec_send(struct rec_stream *s, uint16_t type, uint64_t epoch, const struct iovec *iov,
	     int n);
int rec_flush(struct rec_stream *s);
/* The next whole record with both checksums right, or -errno: -EBADMSG with @err for one
 * that is damaged, out of sequence, of another version or too long; else the transport's
 * error. The term is not judged here. */
int rec_recv(struct rec_stream *s, struct rec *rec_out, struct err *err);

#endif
