/* SPDX-License-Identifier: Apache-2.0
 * activity - marks, and which write is permitted.
 */
#include "diskrep/activity.h"

#include "diskrep/activity_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int init_disk(struct act_disk *d, uint64_t chunks)
{
	uint64_t words = (chunks + 63) / 64;

	d->slot = calloc(words + 1, sizeof(*d->slot));
	if (!d->slot || dr_bits_init(&d->cur, chunks) || dr_bits_init(&d->old, chunks) ||
	    dr_bits_init(&d->loose, chunks) || dr_bits_init(&d->loose_old, chunks) ||
	    dr_bits_init(&d->there, chunks) || dr_bits_init(&d->wide, chunks) ||
	    dr_bits_init(&d->want, words) || dr_bits_init(&d->lend, words) ||
	    dr_bits_init(&d->lent, words) || dr_bits_init(&d->lent_used, words))
		return -ENOMEM;
	return 0;
}

static uint64_t chunks_of(uint64_t capacity)
{
	return capacity / DR_CHUNK + (capacity % DR_CHUNK != 0);
}

int act_init(struct act *a, const uint64_t *capacity, unsigned disks, unsigned slots)
{
	int rc = 0;

	*a = (struct act){.disks = disks, .slots = slots, .off = 1};
	act_slots_init(a);
	for (unsigned i = 0; !rc && i < disks; i++) {
		a->capacity[i] = capacity[i];
		rc = init_disk(&a->disk[i], chunks_of(capacity[i]));
	}
	if (rc)
		act_fini(a);
	return rc;
}

void act_fini(struct act *a)
{
	for (unsigned i = 0; i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];

		free(d->slot);
		dr_bits_fini(&d->cur);
		dr_bits_fini(&d->old);
		dr_bits_fini(&d->loose);
		dr_bits_fini(&d->loose_old);
		dr_bits_fini(&d->there);
		dr_bits_fini(&d->wide);
		dr_bits_fini(&d->want);
		dr_bits_fini(&d->lend);
		dr_bits_fini(&d->lent);
		dr_bits_fini(&d->lent_used);
	}
	a->disks = 0;
}

static int grow_slots(struct act_disk *d, uint64_t words)
{
	uint16_t *more;

	if (words <= d->want.size)
		return 0;
	more = reallocarray(d->slot, words + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	memset(more + d->want.size + 1, 0, (words - d->want.size) * sizeof(*more));
	d->slot = more;
	if (dr_bits_grow(&d->lend, words) || dr_bits_grow(&d->lent, words) ||
	    dr_bits_grow(&d->lent_used, words))
		return -ENOMEM;
	return dr_bits_grow(&d->want, words);
}

static void cut(struct dr_bits *b, uint64_t chunks)
{
	for (uint64_t w = chunks / 64; (w = dr_bits_next_word(b, w)) < b->words; w++)
		dr_bits_set_word(b, w,
				 w == chunks / 64
					 ? b->word[w] & ((UINT64_C(1) << chunks % 64) - 1)
					 : 0);
}

/* A smaller disk: what was marked beyond its end is nobody's, also once it has grown again. */
static void cut_all(struct act_disk *d, uint64_t chunks)
{
	cut(&d->cur, chunks);
	cut(&d->old, chunks);
	cut(&d->loose, chunks);
	cut(&d->loose_old, chunks);
	cut(&d->there, chunks);
	cut(&d->wide, chunks);
	cut(&d->want, (chunks + 63) / 64);
	cut(&d->lend, (chunks + 63) / 64);
}

/* What was lent with all its chunks, and has other ones now, may be lent again. */
static void unlend(struct act_disk *d, uint64_t chunks)
{
	cut(&d->lent, chunks / 64);
	cut(&d->lent_used, chunks / 64);
}

/* A set that has grown, where another could not, does no harm. */
int act_resize(struct act *a, unsigned disk, uint64_t capacity)
{
	struct act_disk *d = &a->disk[disk];
	uint64_t chunks = chunks_of(capacity);
	int rc = grow_slots(d, (chunks + 63) / 64);

	if (rc || dr_bits_grow(&d->cur, chunks) || dr_bits_grow(&d->old, chunks) ||
	    dr_bits_grow(&d->loose, chunks) || dr_bits_grow(&d->loose_old, chunks) ||
	    dr_bits_grow(&d->there, chunks) || dr_bits_grow(&d->wide, chunks))
		return -ENOMEM;
	if (capacity < a->capacity[disk])
		cut_all(d, chunks);
	unlend(d, capacity < a->capacity[disk] ? chunks : chunks_of(a->capacity[disk]));
	a->capacity[disk] = capacity;
	return 0;
}

void act_load(struct act *a, const struct act_head *h, const struct dr_bits *bitmap)
{
	for (unsigned i = 0; i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];

		dr_bits_clear(&d->there);
		dr_bits_join(&d->there, &bitmap[i]);
		dr_bits_join(&d->old, &bitmap[i]);
	}
	for (uint32_t i = 0; i < h->n; i++) {
		uint32_t id = h->active[i];
		struct act_disk *d = &a->disk[act_disk_of(id)];
		uint64_t w = act_word_of(id);

		act_slot_load(a, id);
		dr_bits_set_word(&d->old, w, dr_bits_mask(&d->old, w));
	}
	/* Whether a flush covered all that is not known. */
	for (unsigned i = 0; i < a->disks; i++)
		dr_bits_join(&a->disk[i].loose, &a->disk[i].old);
	a->claim = a->sworn = a->told = h->claim;
	a->open = a->told_open = h->open;
	memcpy(a->capacity, h->capacity, sizeof(a->capacity));
	memcpy(a->told_capacity, h->capacity, sizeof(a->told_capacity));
	a->off = 0;
}

void act_off(struct act *a)
{
	a->off = 1;
}

/* The chunks from @first on, as far as they are in word @w. */
static uint64_t part_of(uint64_t first, uint64_t end, uint64_t w)
{
	uint64_t from = first > w * 64 ? first - w * 64 : 0;
	uint64_t to = end < (w + 1) * 64 ? end - w * 64 : 64;
	uint64_t below = to == 64 ? UINT64_MAX : (UINT64_C(1) << to) - 1;

	return below & UINT64_MAX << from;
}

static int permitted(const struct act *a, unsigned disk, uint64_t first, uint64_t end)
{
	const struct act_disk *d = &a->disk[disk];

	if (end > chunks_of(a->told_capacity[disk]))
		return 0;
	for (uint64_t w = first / 64; w <= (end - 1) / 64; w++) {
		uint64_t part = part_of(first, end, w);

		if (!act_slot_is_active(a, disk, w) && (d->there.word[w] & part) != part)
			return 0;
	}
	return 1;
}

static void lend_one(struct act_disk *d, uint64_t w)
{
	if (d->slot[w] || dr_bits_has(&d->lent, w))
		return;
	dr_bits_add(&d->lend, w, 1);
	dr_bits_add(&d->lent_used, w, 1);
}

static void lend(struct act_disk *d, uint64_t w)
{
	uint64_t first = w / ACT_WORDS * ACT_WORDS, end = first + ACT_WORDS;
	unsigned n = 0;

	end = end < d->lent.size ? end : d->lent.size;
	lend_one(d, w);
	for (uint64_t i = first; i < end; i++)
		n += dr_bits_has(&d->lent, i) || dr_bits_has(&d->lend, i);
	for (uint64_t i = first; n >= ACT_LENT_ALL && i < end; i++)
		lend_one(d, i);
}

/* Extent @w is needed; if the one before it is in use, what follows may be soon. */
static void want(const struct act *a, struct act_disk *d, uint64_t w)
{
	dr_bits_add(&d->want, w, 1);
	if (!w || !d->slot[w - 1])
		return;
	for (uint64_t i = w + 1; i < w + ACT_AHEAD && i < d->want.size; i++) {
		uint64_t all = dr_bits_mask(&d->there, i);

		if (a->free <= a->slots / 2 + d->want.count)
			return;
		if (!d->slot[i] && d->there.word[i] != all)
			dr_bits_add(&d->want, i, 1);
	}
}

static void ask_for(struct act *a, unsigned disk, uint64_t first, uint64_t end)
{
	struct act_disk *d = &a->disk[disk];

	if ((end - 1) / 64 - first / 64 >= ACT_WIDE) {
		dr_bits_add(&d->wide, first, end - first);
		return;
	}
	for (uint64_t w = first / 64; w <= (end - 1) / 64; w++) {
		uint64_t part = part_of(first, end, w);

		if (d->slot[w])
			act_slot_used(a, disk,
				      w); /* or it may go while the other comes */
		else if ((d->there.word[w] & part) == part)
			continue;
		else if (a->free < a->slots / ACT_RESERVE)
			lend(d, w);
		else
			want(a, d, w);
	}
}

static void mark(struct act *a, unsigned disk, uint64_t first, uint64_t end)
{
	struct act_disk *d = &a->disk[disk];

	dr_bits_add(&d->cur, first, end - first);
	dr_bits_add(&d->loose, first, end - first);
	for (uint64_t w = first / 64; w <= (end - 1) / 64; w++) {
		act_slot_used(a, disk, w);
		if (d->lent.count && dr_bits_has(&d->lent, w))
			dr_bits_add(&d->lent_used, w, 1);
		if (d->wide.word[w])
			dr_bits_set_word(&d->wide, w,
					 d->wide.word[w] & ~part_of(first, end, w));
	}
}

void act_mark(struct act *a, unsigned disk, uint64_t first, uint64_t count)
{
	if (count)
		mark(a, disk, first, first + count);
}

int act_admit(struct act *a, unsigned disk, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	if (!count)
		return 1;
	if (!a->off && (!a->told_open || !permitted(a, disk, first, end))) {
		ask_for(a, disk, first, end);
		return 0;
	}
	mark(a, disk, first, end);
	return 1;
}

int act_flush_begins(struct act *a, unsigned disk)
{
	struct act_disk *d = &a->disk[disk];

	if (d->flushing)
		return 0;
	d->flushing = 1;
	dr_bits_join(&d->loose_old, &d->loose);
	dr_bits_clear(&d->loose);
	return 1;
}

void act_loose(struct act *a, unsigned disk, uint64_t first, uint64_t count)
{
	if (count)
		dr_bits_add(&a->disk[disk].loose, first, count);
}

void act_flushed(struct act *a, unsigned disk, int ok)
{
	struct act_disk *d = &a->disk[disk];

	d->flushing = 0;
	if (ok)
		dr_bits_clear(&d->loose_old);
}

void act_base(struct act *a, const uint8_t base[DR_BASE_LEN])
{
	memcpy(a->next.base, base, DR_BASE_LEN);
	a->next.epoch = 0;
	a->have_next = 0;
}

void act_first_epoch(struct act *a)
{
	for (unsigned i = 0; i < a->disks; i++) {
		dr_bits_join(&a->disk[i].old, &a->disk[i].cur);
		dr_bits_clear(&a->disk[i].cur);
	}
	a->turn = 0;
	a->have_next = 1;
}

void act_unlinked(struct act *a)
{
	a->have_next = 0;
}

void act_durable(struct act *a, uint64_t epoch, uint64_t running)
{
	if (epoch < a->turn)
		return;
	if (a->have_next) {
		a->claim = (struct dr_claim){.at = a->next, .role = ACT_WRITER};
		a->have_next = 0;
	}
	a->claim.at.epoch = a->turn;
	if (!a->unsure)
		a->sworn = a->claim;
	for (unsigned i = 0; i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];
		struct dr_bits was = d->old;

		dr_bits_clear(&was);
		d->old = d->cur;
		d->cur = was;
	}
	a->turn = running;
}

static void forget_marks(struct act *a)
{
	for (unsigned i = 0; i < a->disks; i++) {
		dr_bits_clear(&a->disk[i].cur);
		dr_bits_clear(&a->disk[i].old);
	}
}

void act_restart(struct act *a, const struct dr_claim *claim)
{
	forget_marks(a);
	a->claim = *claim;
	a->sworn = (struct dr_claim){0};
	a->unsure = 1;
	a->open = 1;
	a->have_next = 0;
}

void act_swear(struct act *a)
{
	a->sworn = a->claim;
	a->unsure = 0;
}

void act_open(struct act *a)
{
	a->open = 1;
}

void act_close(struct act *a)
{
	forget_marks(a);
	a->claim = a->sworn = (struct dr_claim){0};
	a->open = 0;
}

void act_marks(const struct act *a, unsigned disk, struct dr_bits *to)
{
	dr_bits_join(to, &a->disk[disk].old);
	dr_bits_join(to, &a->disk[disk].cur);
}

uint64_t act_count(const struct act *a)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < a->disks; i++)
		n += a->disk[i].old.count + a->disk[i].cur.count;
	return n;
}
