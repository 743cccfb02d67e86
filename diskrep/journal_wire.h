/* SPDX-License-Identifier: Apache-2.0
 * journal_wire - the journal's format on disk; JOURNAL.md beside this file is its specification.
 */
#ifndef DISKREP_JOURNAL_WIRE_H
#define DISKREP_JOURNAL_WIRE_H

#include <stddef.h>

#include "diskrep/diskrep.h"
#include "diskrep/generation.h"
#include "diskrep/journal.h"
#include "hv/base/wire.h"

enum {
	JW_BLOCK = 4096, /* batches and superblocks begin at multiples of it */
	JW_SUPERS = 2,
	JW_HEAD = JW_SUPERS * JW_BLOCK, /* the ring begins here */
	JW_VERSION = 2,	    /* 1 has no JW_RESIZE and no witnesses, and is read */
	JW_SUPER_LEN = 512, /* one sector: never torn */
	JW_RECORD_ALIGN = 64,
	JW_ID_LEN = 16,
	JW_VM_LEN = 32,
	JW_LAST = 1, /* flag of a commit: its batch ends here */
};
#define JW_SUPER_MAGIC	"RHEAJRNL"
#define JW_RECORD_MAGIC 0x31524a52u /* "RJR1" */

enum jw_type { JW_WRITE = 1, JW_ERASE, JW_COMMIT, JW_RESIZE };

/* A sector of an image as it is at the tail. */
struct jw_witness {
	struct le64 place; /* disk * 2^48 + number of the sector + 1; 0: none */
	struct le64 sum;   /* XXH3-64 of the sector */
};
WIRE_SIZE(struct jw_witness, 16);

struct jw_super {
	char magic[8];
	struct le32 version;
	struct le32 len;
	struct le64 sequence; /* of superblocks: the higher one counts */
	uint8_t id[JW_ID_LEN];
	char vm[JW_VM_LEN];
	struct le64 ring; /* bytes */
	struct le64 tail; /* position of the first record to replay */
	struct le64 tail_seq;
	struct le64 durable; /* position up to which all was flushed */
	uint8_t base[DR_BASE_LEN];
	struct le64 epoch; /* of the images, before the tail */
	struct le32 state; /* enum journal_state */
	struct le32 disks;
	struct le64 capacity[DR_DISKS_MAX];
	struct jw_witness witness[JOURNAL_WITNESSES];
	uint8_t zero[304 - 16 * JOURNAL_WITNESSES];
	struct le64 sum; /* XXH3-64 of all before it */
};
WIRE_SIZE(struct jw_super, JW_SUPER_LEN);
_Static_assert(offsetof(struct jw_super, id) == 24, "id is at 24");
_Static_assert(offsetof(struct jw_super, ring) == 72, "ring is at 72");
_Static_assert(offsetof(struct jw_super, base) == 104, "base is at 104");
_Static_assert(offsetof(struct jw_super, capacity) == 136, "capacity is at 136");
_Static_assert(offsetof(struct jw_super, witness) == 200, "witness is at 200");
_Static_assert(offsetof(struct jw_super, sum) == 504, "sum is at 504");

struct jw_record {
	struct le32 magic;
	struct le32 type;
	struct le64 seq; /* counts records */
	struct le64 pos; /* of this header, in bytes since the journal's id was drawn */
	struct le64 durable; /* up to there all was flushed before this was written */
	struct le32 disk;
	struct le32 len; /* of the payload */
	struct le64 offset;
	struct le64 range;
	struct le64 sum;
};
WIRE_SIZE(struct jw_record, 64);
_Static_assert(offsetof(struct jw_record, sum) == 56, "sum is at 56");

struct jw_commit {
	uint8_t base[DR_BASE_LEN];
	struct le64 epoch;
	struct le32 entries;
	struct le32 flags;
	struct le64 digest;
};
WIRE_SIZE(struct jw_commit, 40);

#endif
