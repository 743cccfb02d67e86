/* SPDX-License-Identifier: Apache-2.0
 * stage - the pages of one epoch on the standby, from their arrival to their way into RAM.
 *
 * Theory of operation. Records are received straight into blocks of the stage, and what they say of
 * a page is used from there; only what was compressed is unpacked into further room. Blocks are
 * kept for the next epoch. Everything is counted with what it really takes.
 *
 * One thread at a time; readers of a stage that nobody changes may be many.
 */
#ifndef REMUS_STAGE_H
#define REMUS_STAGE_H

#include <stddef.h>
#include <stdint.h>

#include "replication/pagecodec.h"

struct err;

struct staged {
	uint64_t index;
	enum pc_change change;
	unsigned len;
	const void *data; /* in a block; PC_TWIN: the other page's index, le64 */
};

struct stage_block {
	struct stage_block *next;
	size_t cap, len;
	uint8_t data[];
};

struct stage {
	struct staged *item;
	size_t n, cap;
	size_t twins;		   /* items that are PC_TWIN */
	struct stage_block *block; /* the newest first; only that one has room left */
	size_t held;		   /* bytes in blocks and items */
};

/* Spare blocks, for several stages of one thread. */
struct stage_spare {
	struct stage_block *block;
	size_t bytes;
};

void stage_fini(struct stage *st);
void stage_spare_fini(struct stage_spare *sp);

/* Room for @len bytes, in one piece; good until the stage is emptied. NULL: out of memory. */
void *stage_room(struct stage *st, struct stage_spare *sp, size_t len);
/* Is this what stage_room() gave last? */
int stage_is_last_room(const struct stage *st, const void *p, size_t len);
/* 0 or -ENOMEM. The batch of which @it is must be in the stage. */
int stage_add(struct stage *st, struct stage_spare *sp, const struct pc_item *it);
/* All of the epoch is here: find what pages that only name another one become. @slot: one word a
 * page of memory, of any content, which this stage alone uses. 0, or -EBADMSG with @err. */
int stage_resolve(struct stage *st, uint32_t *slot, struct err *err);
/* Empty it; some blocks are kept. */
void stage_forget(struct stage *st, struct stage_spare *sp);

#endif
