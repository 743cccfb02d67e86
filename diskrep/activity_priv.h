/* SPDX-License-Identifier: Apache-2.0
 * activity_priv - the table of active extents, as the files of the activity log share it.
 */
#ifndef DISKREP_ACTIVITY_PRIV_H
#define DISKREP_ACTIVITY_PRIV_H

#include "diskrep/activity.h"

enum act_slot_state {
	ACT_FREE,
	ACT_COMING,  /* in the head that is being written */
	ACT_ACTIVE,  /* in the head on stable storage */
	ACT_LEAVING, /* likewise; its word is being written, and no write came since */
};

static inline unsigned act_disk_of(uint32_t id)
{
	return id >> ACT_EXTENT_SHIFT;
}

static inline uint64_t act_word_of(uint32_t id)
{
	return id & ((1u << ACT_EXTENT_SHIFT) - 1);
}

/* activity_slots.c */
void act_slots_init(struct act *a);
void act_slot_load(struct act *a, uint32_t id); /* active from the start */
/* Permission to write to extent @w is on stable storage. */
int act_slot_is_active(const struct act *a, unsigned disk, uint64_t w);
/* A write came: it is not the one to be retired next, nor at all now. */
void act_slot_used(struct act *a, unsigned disk, uint64_t w);
struct act_slot *act_slot_take(struct act *a, unsigned disk,
			       uint64_t w); /* COMING; NULL: full */
void act_slot_give(struct act *a, struct act_slot *s);
/* Active ones from the least recently used on; NULL: no more. */
struct act_slot *act_slot_oldest(struct act *a);
struct act_slot *act_slot_newer(struct act *a, const struct act_slot *s);

#endif
