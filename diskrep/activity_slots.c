/* SPDX-License-Identifier: Apache-2.0
 * activity_slots - the table of active extents: two rings through an array, one by use, one free.
 */
#include "diskrep/activity_priv.h"

#include <assert.h>

enum { USED = ACT_SLOTS, UNUSED }; /* the rings' heads */

static void link_before(struct act *a, uint16_t ring, uint16_t i)
{
	struct act_slot *s = a->slot;

	s[i].next = ring;
	s[i].prev = s[ring].prev;
	s[s[ring].prev].next = i;
	s[ring].prev = i;
}

static void unlink_slot(struct act *a, uint16_t i)
{
	a->slot[a->slot[i].prev].next = a->slot[i].next;
	a->slot[a->slot[i].next].prev = a->slot[i].prev;
}

void act_slots_init(struct act *a)
{
	for (unsigned ring = USED; ring <= UNUSED; ring++)
		a->slot[ring].prev = a->slot[ring].next = (uint16_t)ring;
	for (unsigned i = 0; i < a->slots; i++)
		link_before(a, UNUSED, (uint16_t)i);
	a->free = a->slots;
}

struct act_slot *act_slot_take(struct act *a, unsigned disk, uint64_t w)
{
	uint16_t i = a->slot[UNUSED].next;
	struct act_slot *s = &a->slot[i];

	if (i == UNUSED)
		return NULL;
	unlink_slot(a, i);
	link_before(a, USED, i);
	s->id = (uint32_t)(disk << ACT_EXTENT_SHIFT | w);
	s->state = ACT_COMING;
	s->used = a->tidy;
	a->disk[disk].slot[w] = (uint16_t)(i + 1);
	a->free--;
	return s;
}

void act_slot_load(struct act *a, uint32_t id)
{
	struct act_slot *s;

	if (a->disk[act_disk_of(id)].slot[act_word_of(id)])
		return; /* named twice */
	s = act_slot_take(a, act_disk_of(id), act_word_of(id));
	assert(s);
	s->state = ACT_ACTIVE;
	/* Of an earlier life: idle until somebody writes there. */
	s->used = a->tidy - ACT_IDLE_TURNS;
}

void act_slot_give(struct act *a, struct act_slot *s)
{
	uint16_t i = (uint16_t)(s - a->slot);

	a->disk[act_disk_of(s->id)].slot[act_word_of(s->id)] = 0;
	unlink_slot(a, i);
	link_before(a, UNUSED, i);
	s->state = ACT_FREE;
	a->free++;
}

int act_slot_is_active(const struct act *a, unsigned disk, uint64_t w)
{
	uint16_t i = a->disk[disk].slot[w];

	return i && a->slot[i - 1].state >= ACT_ACTIVE;
}

void act_slot_used(struct act *a, unsigned disk, uint64_t w)
{
	uint16_t i = a->disk[disk].slot[w];

	if (!i--)
		return;
	if (a->slot[i].state == ACT_LEAVING)
		a->slot[i].state = ACT_ACTIVE;
	a->slot[i].used = a->tidy;
	unlink_slot(a, i);
	link_before(a, USED, i);
}

static struct act_slot *active_from(struct act *a, uint16_t i)
{
	while (i != USED && a->slot[i].state != ACT_ACTIVE)
		i = a->slot[i].next;
	return i == USED ? NULL : &a->slot[i];
}

struct act_slot *act_slot_oldest(struct act *a)
{
	return active_from(a, a->slot[USED].next);
}

struct act_slot *act_slot_newer(struct act *a, const struct act_slot *s)
{
	return active_from(a, s->next);
}

unsigned act_active(const struct act *a)
{
	return a->slots - a->free;
}
