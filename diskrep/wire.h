/* SPDX-License-Identifier: Apache-2.0
 * wire - the records of kind DISK (0x04) of the replication stream.
 *
 * Disks are numbered in the order in which they were added. A chunk is 64 KiB of a disk at a
 * multiple of 64 KiB; the last one of a disk may be shorter. Whatever does not fit what is said
 * here is damage: the link is given up, and nothing of that record reaches an image.
 *
 *   S -> P  DIGESTS ...                    in the standby's hello, epoch REC_EPOCH_SYNC
 *   P -> S  CHUNK, ALIVE ...               pre-copy, epoch REC_EPOCH_SYNC: applied at once
 *   P -> S  CHUNK ..., WRITE, ERASE ..., BARRIER    checkpoint 0
 *   P -> S  WRITE, ERASE ..., BARRIER               each checkpoint after it
 *
 * DIGESTS (0x0400): struct dr_wire_digests, then @count digests of 16 bytes: XXH3-128 in its
 *   canonical byte order, seed 0, over the chunks from @first on, without a gap. With
 *   DR_DIGEST_ZERO none follow: @count chunks read as zeroes. All disks in order, each complete;
 *   a standby without disks sends one record with @disks 0.
 * WRITE (0x0401): struct dr_wire_write, then @len bytes for @offset, or with DR_WRITE_LZ4 one LZ4
 *   block of @packed bytes that becomes them. A guest's write that is longer than DR_WRITE_MAX comes in several.
 * ERASE (0x0402): struct dr_wire_erase: the range reads as zeroes from now on.
 * BARRIER (0x0403): struct dr_wire_barrier, the last record of its epoch, there in each epoch.
 * CHUNK (0x0404): struct dr_wire_chunk, then @len bytes: the chunk's content, as it is or as one
 *   LZ4 block. With DR_CHUNK_ZERO no bytes follow and @count chunks read as zeroes.
 * ALIVE (0x0405): empty. Pre-copy goes on, though nothing had to be sent for a while.
 */
#ifndef DISKREP_WIRE_H
#define DISKREP_WIRE_H

#include "hv/base/wire.h"

enum {
	DR_REC_DIGESTS = 0x0400,
	DR_REC_WRITE = 0x0401,
	DR_REC_ERASE = 0x0402,
	DR_REC_BARRIER = 0x0403,
	DR_REC_CHUNK = 0x0404,
	DR_REC_ALIVE = 0x0405,
};

enum {
	DR_DIGEST_LEN = 16,
	DR_DIGESTS_MAX = 1024, /* in one record */
	DR_WRITE_MAX = 1 << 20,
};

enum dr_wire_flags {
	DR_DIGEST_ZERO = 1,
	DR_WRITE_LZ4 = 1,
	DR_ERASE_DISCARD = 1, /* what the guest asked for; the effect is the same */
	DR_ERASE_ZEROES = 2,
	DR_CHUNK_ZERO = 1,
	DR_CHUNK_LZ4 = 2,
};

struct dr_wire_digests {
	struct le32 disk;
	struct le32 disks;    /* how many the standby has */
	struct le64 capacity; /* of this one, in bytes */
	struct le64 first;    /* number of a chunk */
	struct le32 count;
	struct le32 flags; /* 0 or DR_DIGEST_ZERO */
};
WIRE_SIZE(struct dr_wire_digests, 32);

struct dr_wire_write {
	struct le32 disk;
	struct le32 flags; /* 0 or DR_WRITE_LZ4 */
	struct le64 offset;
	struct le32 len;    /* 1 to DR_WRITE_MAX */
	struct le32 packed; /* with DR_WRITE_LZ4 1 to less than @len, else 0 */
};
WIRE_SIZE(struct dr_wire_write, 24);

struct dr_wire_erase {
	struct le32 disk;
	struct le32 flags; /* DR_ERASE_DISCARD or DR_ERASE_ZEROES */
	struct le64 offset;
	struct le64 len; /* at least 1 */
};
WIRE_SIZE(struct dr_wire_erase, 24);

struct dr_wire_barrier {
	struct le32 count; /* records of this epoch before the barrier */
	struct le32 zero;
	struct le64 bytes; /* of their payloads */
};
WIRE_SIZE(struct dr_wire_barrier, 16);

struct dr_wire_chunk {
	struct le32 disk;
	struct le32 flags; /* 0, DR_CHUNK_ZERO or DR_CHUNK_LZ4 */
	struct le64 first; /* number of the chunk */
	struct le32 count; /* 1; any number with DR_CHUNK_ZERO */
	struct le32 len;   /* of the bytes that follow */
};
WIRE_SIZE(struct dr_wire_chunk, 24);

#endif
