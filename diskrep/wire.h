/* SPDX-License-Identifier: Apache-2.0
 * wire - the records of kind DISK (0x04) of the replication stream.
 *
 * Disks are numbered in the order in which they were added. A chunk is 64 KiB of a disk at a
 * multiple of 64 KiB; the last one of a disk may be shorter. Whatever does not fit what is said
 * here is damage: the link is given up, and nothing of that record reaches an image.
 *
 *   P -> S  SIZES, CLAIM, BITS ...         greeting, epoch REC_EPOCH_SYNC
 *   S -> P  CLAIM, DIGESTS ...             in the standby's hello, epoch REC_EPOCH_SYNC
 *   P -> S  BASE                           before pre-copy, epoch REC_EPOCH_SYNC
 *   P -> S  CHUNK, ALIVE ...               pre-copy, epoch REC_EPOCH_SYNC: applied at once
 *   P -> S  CHUNK ..., WRITE, ERASE ..., BARRIER    checkpoint 0
 *   P -> S  WRITE, ERASE, CHUNK, RESIZE, VERIFY, GROW, NOTE ..., BARRIER    each checkpoint after it
 *   S -> P  DURABLE                        before an ACK, when it has changed; first of all before the first one
 *   S -> P  DIFFERS, GROWN, NOTE           before an ACK, if there is something to tell
 *
 * DIGESTS (0x0400): struct dr_wire_digests, then @count digests of 16 bytes: XXH3-128 in its
 *   canonical byte order, seed 0, over the chunks from @first on, without a gap. With
 *   DR_DIGEST_ZERO none follow: @count chunks read as zeroes. All disks in order, each complete;
 *   a standby without disks sends one record with @disks 0. If its CLAIM had DR_CLAIM_PARTIAL, only the chunks
 *   that either side has marked are told: ascending, gaps are left, and a record with @first = the
 *   number of chunks and @count 0 ends the disk.
 * WRITE (0x0401): struct dr_wire_write, then @len bytes for @offset, or with DR_WRITE_LZ4 one LZ4
 *   block of @packed bytes that becomes them. A guest's write that is longer than DR_WRITE_MAX comes in several.
 * ERASE (0x0402): struct dr_wire_erase: the range reads as zeroes from now on.
 * BARRIER (0x0403): struct dr_wire_barrier, the last record of its epoch, there in each epoch.
 * CHUNK (0x0404): struct dr_wire_chunk, then @len bytes: the chunk's content, as it is or as one
 *   LZ4 block. With DR_CHUNK_ZERO no bytes follow and @count chunks read as zeroes.
 * ALIVE (0x0405): empty. Pre-copy goes on, though nothing had to be sent for a while.
 * BASE (0x0406): 16 random bytes, not all zero (generation.h). At most once.
 * DURABLE (0x0407): struct dr_wire_durable: what a power cut there would leave. State DR_DURABLE_ALL, without an
 *   epoch: the standby keeps no journal, and will never tell more than its acks do.
 * CLAIM (0x0408): struct dr_wire_claim: what ACTIVITY.md calls a claim. The base is all zeroes exactly if the
 *   role is 0. From S with DR_CLAIM_PARTIAL if both claims together tell which chunks may differ; P
 *   judges that again (resync.h), and a claim of S that does not allow it is damage.
 * BITS (0x0409): struct dr_wire_bits, then @count of struct dr_wire_run: ascending, not touching, at least one
 *   chunk each; the disks in order. Only after a CLAIM with a role.
 * VERIFY (0x040a): struct dr_wire_verify: the chunk's digest when this epoch ends.
 * DIFFERS (0x040b): struct dr_wire_differs, then @count of le64: chunks of that disk, each of which a VERIFY named.
 * NOTE (0x040c): from P struct dr_wire_note, then @len bytes, 1 to DR_NOTE_MAX, for the standby's owner, after all writes of its
 *   epoch, at most 17 of them. With DR_NOTE_CUT, of which there is one at most, the last one: the end of this epoch is
 *   a cut (notes.h). From S its bytes alone, for the primary's owner.
 * SIZES (0x040d): struct dr_wire_sizes: of the guest's disks. An image that is smaller is grown by S, with zeroes; of one that
 *   is larger the first part is the disk.
 * GROW (0x040e): struct dr_wire_resize: S is to make room for a disk that is going to be so large, once this epoch is acked.
 * GROWN (0x040f): struct dr_wire_grown: that was tried. Answers each GROW of the link but those that a later one follows.
 * RESIZE (0x0410): struct dr_wire_resize: the disk is so large from the end of this epoch on, all of whose writes keep to the size
 *   before. Larger than that, not larger than S has made room for, at most once for a disk in an epoch.
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
	DR_REC_BASE = 0x0406,
	DR_REC_DURABLE = 0x0407,
	DR_REC_CLAIM = 0x0408,
	DR_REC_BITS = 0x0409,
	DR_REC_VERIFY = 0x040a,
	DR_REC_DIFFERS = 0x040b,
	DR_REC_NOTE = 0x040c,
	DR_REC_SIZES = 0x040d,
	DR_REC_GROW = 0x040e,
	DR_REC_GROWN = 0x040f,
	DR_REC_RESIZE = 0x0410,
};

enum {
	DR_DIGEST_LEN = 16,
	DR_DIGESTS_MAX = 1024, /* in one record */
	DR_WRITE_MAX = 1 << 20,
	DR_RUNS_MAX = 1024,    /* in one record */
	DR_DIFFERS_MAX = 1024, /* likewise */
	DR_DURABLE_ALL = 0x7fffffff,
};

enum dr_wire_flags {
	DR_DIGEST_ZERO = 1,
	DR_WRITE_LZ4 = 1,
	DR_ERASE_DISCARD = 1, /* what the guest asked for; the effect is the same */
	DR_ERASE_ZEROES = 2,
	DR_CHUNK_ZERO = 1,
	DR_CHUNK_LZ4 = 2,
	DR_CLAIM_PARTIAL = 1,
	DR_NOTE_CUT = 1,
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

struct dr_wire_claim {
	uint8_t base[16];
	struct le64 epoch;
	struct le32 role;  /* enum act_role */
	struct le32 flags; /* 0, or from S DR_CLAIM_PARTIAL */
};
WIRE_SIZE(struct dr_wire_claim, 32);

struct dr_wire_bits {
	struct le32 disk;
	struct le32 count; /* 1 to DR_RUNS_MAX */
};
WIRE_SIZE(struct dr_wire_bits, 8);

struct dr_wire_run {
	struct le64 first; /* number of a chunk */
	struct le64 count;
};
WIRE_SIZE(struct dr_wire_run, 16);

struct dr_wire_verify {
	struct le32 disk;
	struct le32 zero;
	struct le64 chunk;
	uint8_t digest[DR_DIGEST_LEN];
};
WIRE_SIZE(struct dr_wire_verify, 32);

struct dr_wire_differs {
	struct le32 disk;
	struct le32 count; /* 1 to DR_DIFFERS_MAX */
};
WIRE_SIZE(struct dr_wire_differs, 8);

struct dr_wire_note {
	struct le32 flags; /* 0 or DR_NOTE_CUT */
	struct le32 len;
};
WIRE_SIZE(struct dr_wire_note, 8);
struct dr_wire_sizes {
	struct le32 disks, zero;
	struct le64 capacity[8]; /* bytes, whole sectors; 0 of those that are not there */
};
WIRE_SIZE(struct dr_wire_sizes, 72);

struct dr_wire_resize {
	struct le32 disk, zero;
	struct le64 capacity; /* bytes, whole sectors */
};
WIRE_SIZE(struct dr_wire_resize, 16);

struct dr_wire_grown {
	struct le32 disk, error; /* 0, or an errno of Linux */
	struct le64 capacity;
};
WIRE_SIZE(struct dr_wire_grown, 16);

struct dr_wire_chunk {
	struct le32 disk;
	struct le32 flags; /* 0, DR_CHUNK_ZERO or DR_CHUNK_LZ4 */
	struct le64 first; /* number of the chunk */
	struct le32 count; /* 1; any number with DR_CHUNK_ZERO */
	struct le32 len;   /* of the bytes that follow */
};
WIRE_SIZE(struct dr_wire_chunk, 24);

struct dr_wire_durable {
	struct le32 state; /* enum journal_state, or DR_DURABLE_ALL */
	struct le32 zero;
	struct le64 epoch; /* UINT64_MAX: none */
	struct le64 used;  /* bytes of the journal */
	struct le64 size;
};
WIRE_SIZE(struct dr_wire_durable, 32);

#endif
