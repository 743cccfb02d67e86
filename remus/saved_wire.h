/* SPDX-License-Identifier: Apache-2.0
 * saved_wire - the structs of a saved guest's file (SAVED.md), for who writes and who reads it.
 */
#ifndef REMUS_SAVED_WIRE_H
#define REMUS_SAVED_WIRE_H

#include <stddef.h>

#include "hv/base/wire.h"
#include "remus/saved.h"

#define SAVED_MAGIC	 "RHEASAVE"
#define SAVED_MAGIC_USED "RHEAUSED"

enum { SAVED_VERSION = 1, SAVED_HEAD = SAVED_HEAD_BYTES, SAVED_PAGE = 4096 };
enum saved_kind { SAVED_STATE = 1, SAVED_PAGES = 2, SAVED_SAID = 3, SAVED_END = 4 };

/* Within the first sector, so that it changes as a whole. */
struct saved_head_wire {
	char magic[8];
	struct le32 version, zero;
	uint8_t id[SAVED_ID];
	struct le64 term, epoch, wall_ns, ram;
	char vm[SAVED_VM_MAX + 1];
	uint8_t zeroes[56];
	struct le64 sum;
};
WIRE_SIZE(struct saved_head_wire, 192);
_Static_assert(offsetof(struct saved_head_wire, vm) == 64, "vm is at 64");
_Static_assert(offsetof(struct saved_head_wire, sum) == 184, "sum is at 184");

struct saved_block_wire {
	struct le32 kind, raw, stored, zero;
	struct le64 page, sum;
};
WIRE_SIZE(struct saved_block_wire, 32);
_Static_assert(offsetof(struct saved_block_wire, sum) == 24, "sum is at 24");

struct saved_end_wire {
	struct le64 blocks, pages, state, sum;
};
WIRE_SIZE(struct saved_end_wire, 32);

_Static_assert(SAVED_PIECE_MAX == SAVED_RUN * SAVED_PAGE, "one bound of a block");

/* Of a block with this head and these @w->stored bytes. */
uint64_t saved_block_sum(const struct saved_block_wire *w, const void *stored);
/* The chained sum, with one block more. */
uint64_t saved_chain(uint64_t sum, uint64_t block);
uint64_t saved_head_sum(const struct saved_head_wire *w);

#endif
