/* SPDX-License-Identifier: Apache-2.0
 * activity_batch - what is written next, and what is permitted once that is on stable storage.
 */
#include "diskrep/activity_priv.h"

#include <stdlib.h>
#include <string.h>

/* What has to be marked on disk of an extent that is not active. */
static uint64_t due(const struct act_disk *d, uint64_t w)
{
	return d->cur.word[w] | d->old.word[w] | d->loose.word[w] | d->loose_old.word[w] |
	       d->wide.word[w] |
	       (dr_bits_has(&d->lent, w) ? dr_bits_mask(&d->there, w) : 0);
}

/* Until it is written the word counts as the worst of both. */
static void put_word(struct act *a, struct act_batch *b, unsigned disk, uint64_t w)
{
	struct act_disk *d = &a->disk[disk];
	uint64_t v = due(d, w), was = d->there.word[w];

	b->word[b->n++] = (struct act_word){.disk = disk, .w = w, .v = v};
	/* Bits may go only under the claim that makes them needless. */
	if (was & ~v)
		b->head_first = 1;
	dr_bits_set_word(&d->there, w, was & v);
}

static void collect_activations(struct act *a, struct act_batch *b)
{
	for (unsigned i = 0; i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];

		for (uint64_t w = 0; (w = dr_bits_next(&d->want, w)) < d->want.size;
		     w++) {
			if (!d->slot[w] && !act_slot_take(a, i, w))
				return;
			(void)dr_bits_take(&d->want, w); /* it is there, as next() says */
			b->write_head = 1;
		}
	}
}

static int wants_slot(const struct act *a)
{
	for (unsigned i = 0; i < a->disks; i++)
		if (a->disk[i].want.count)
			return 1;
	return 0;
}

/* What has not been used for long, and the oldest ones if others wait for room. */
static void collect_retired(struct act *a, struct act_batch *b)
{
	unsigned reserve = a->slots / ACT_RESERVE;
	unsigned lack = wants_slot(a) ? 2 * reserve : 0;
	struct act_slot *s = act_slot_oldest(a);

	for (; s && b->n < ACT_BATCH / 2; s = act_slot_newer(a, s)) {
		if (!(lack && lack--) &&
		    !(a->tidying && a->tidy - s->used >= ACT_IDLE_TURNS))
			return;
		s->state = ACT_LEAVING;
		put_word(a, b, act_disk_of(s->id), act_word_of(s->id));
	}
}

static int in_batch(const struct act_batch *b, unsigned disk, uint64_t w)
{
	for (unsigned i = 0; i < b->n; i++)
		if (b->word[i].disk == disk && b->word[i].w == w)
			return 1;
	return 0;
}

static void collect_lent(struct act *a, struct act_batch *b)
{
	for (unsigned i = 0; i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];

		for (uint64_t w = 0;
		     b->n < ACT_BATCH && (w = dr_bits_next(&d->lend, w)) < d->lend.size;
		     w++) {
			/* With what was due before it was to be lent: the next time. */
			if (in_batch(b, i, w))
				continue;
			(void)dr_bits_take(&d->lend, w); /* it is there, as next() says */
			if (d->slot[w])
				continue;
			dr_bits_add(&d->lent, w, 1);
			put_word(a, b, i, w);
		}
	}
}

static void collect_wide(struct act *a, struct act_batch *b)
{
	for (unsigned i = 0; i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];

		for (uint64_t w = 0; b->n < ACT_BATCH &&
				     (w = dr_bits_next_word(&d->wide, w)) < d->wide.words;
		     w++)
			if ((d->there.word[w] & d->wide.word[w]) != d->wide.word[w] &&
			    !in_batch(b, i, w))
				put_word(a, b, i, w);
	}
}

/* Words on disk that say more than they must, of extents that are not active. */
static void collect_needless(struct act *a, struct act_batch *b)
{
	for (unsigned i = 0; a->tidying && i < a->disks; i++) {
		struct act_disk *d = &a->disk[i];

		for (uint64_t w = 0;
		     b->n < ACT_BATCH &&
		     (w = dr_bits_next_word(&d->there, w)) < d->there.words;
		     w++)
			if (!d->slot[w] && d->there.word[w] & ~due(d, w))
				put_word(a, b, i, w);
	}
}

static int by_place(const void *pa, const void *pb)
{
	const struct act_word *x = pa, *y = pb;

	if (x->disk != y->disk)
		return x->disk < y->disk ? -1 : 1;
	return x->w < y->w ? -1 : x->w > y->w;
}

static void fill_sectors(struct act *a, struct act_batch *b)
{
	struct act_sector *s = NULL;

	qsort(b->word, b->n, sizeof(b->word[0]), by_place);
	for (unsigned i = 0; i < b->n; i++) {
		const struct act_word *x = &b->word[i];
		const struct dr_bits *there = &a->disk[x->disk].there;
		uint64_t first = x->w / ACT_WORDS * ACT_WORDS;

		if (!s || s->disk != x->disk || s->sector != x->w / ACT_WORDS) {
			s = &b->sector[b->sectors++];
			s->disk = x->disk;
			s->sector = x->w / ACT_WORDS;
			for (unsigned k = 0; k < ACT_WORDS; k++)
				s->words[k] = first + k < there->words
						      ? there->word[first + k]
						      : 0;
		}
		s->words[x->w - first] = x->v;
	}
}

/* Extents beyond the end of a disk that was larger are active again when it has them once more. */
static int is_inside(const struct act *a, uint32_t id)
{
	return act_word_of(id) * 64 * DR_CHUNK < a->capacity[act_disk_of(id)];
}

static void fill_head(struct act *a, struct act_batch *b)
{
	b->head.claim = a->sworn;
	b->head.open = a->open;
	memcpy(b->head.capacity, a->capacity, sizeof(b->head.capacity));
	b->head.n = 0;
	for (unsigned i = 0; i < a->slots; i++)
		if (a->slot[i].state != ACT_FREE && is_inside(a, a->slot[i].id))
			b->head.active[b->head.n++] = a->slot[i].id;
}

/* Sizes that the head has not told yet. 1: there are some. */
static int collect_sizes(const struct act *a, struct act_batch *b)
{
	int any = 0;

	for (unsigned i = 0; i < a->disks; i++) {
		b->fresh[i] = act_file_sectors(a->told_capacity[i]);
		b->fresh_end[i] = act_file_sectors(a->capacity[i]);
		any |= a->capacity[i] != a->told_capacity[i];
	}
	return any;
}

int act_collect(struct act *a, struct act_batch *b)
{
	int news = a->open != a->told_open ||
		   memcmp(&a->sworn.at, &a->told.at, sizeof(a->told.at)) != 0 ||
		   a->sworn.role != a->told.role;
	/* The epoch alone moves all the time: only with what needs it. */
	int only_epoch = news && a->open == a->told_open &&
			 a->sworn.role == a->told.role &&
			 !memcmp(a->sworn.at.base, a->told.at.base, DR_BASE_LEN);
	int sizes;

	b->n = b->sectors = 0;
	b->write_head = b->head_first = 0;
	if (a->off)
		return 0;
	sizes = collect_sizes(a, b);
	collect_activations(a, b);
	collect_retired(a, b);
	collect_lent(a, b);
	collect_wide(a, b);
	collect_needless(a, b);
	a->tidying = 0;
	b->write_head |= news && !only_epoch;
	b->head_first &= news;
	/* No word of what the head does not speak of. */
	b->head_first |= sizes;
	b->write_head |= b->head_first;
	if (b->write_head)
		fill_head(a, b);
	fill_sectors(a, b);
	return b->write_head || b->n;
}

void act_written(struct act *a, const struct act_batch *b)
{
	for (unsigned i = 0; i < b->n; i++) {
		const struct act_word *x = &b->word[i];
		struct act_disk *d = &a->disk[x->disk];
		struct act_slot *s = d->slot[x->w] ? &a->slot[d->slot[x->w] - 1] : NULL;

		dr_bits_set_word(&d->there, x->w, x->v);
		if (s && s->state == ACT_LEAVING)
			act_slot_give(a, s);
	}
	if (!b->write_head)
		return;
	for (unsigned i = 0; i < a->slots; i++)
		if (a->slot[i].state == ACT_COMING)
			a->slot[i].state = ACT_ACTIVE;
	a->told = b->head.claim;
	a->told_open = b->head.open;
	memcpy(a->told_capacity, b->head.capacity, sizeof(a->told_capacity));
}

/* What was lent and not written since the last time. */
static void give_back(struct act_disk *d)
{
	for (uint64_t w = 0; (w = dr_bits_next(&d->lent, w)) < d->lent.size; w++)
		if (!dr_bits_has(&d->lent_used, w))
			(void)dr_bits_take(&d->lent, w); /* as next() says */
	dr_bits_clear(&d->lent_used);
}

void act_tidy(struct act *a)
{
	a->tidy++;
	for (unsigned i = 0; a->tidy % ACT_IDLE_TURNS == 0 && i < a->disks; i++)
		give_back(&a->disk[i]);
	a->tidying = 1;
}

/* Nothing is marked there. Whoever believes the head believes these, so they come first. */
static int write_fresh(struct act_file *f, const struct act_batch *b)
{
	static const uint64_t none[ACT_WORDS];
	int rc = 0, any = 0;

	for (unsigned i = 0; b->write_head && i < f->disks; i++)
		for (uint64_t n = b->fresh[i]; !rc && n < b->fresh_end[i]; n++) {
			rc = act_file_words(f, i, n, none);
			any = 1;
		}
	return rc || !any ? rc : act_file_sync(f);
}

int act_batch_write(struct act_file *f, const struct act_batch *b)
{
	int rc = write_fresh(f, b);

	if (rc)
		return rc;
	if (b->head_first) {
		rc = act_file_head(f, &b->head);
		rc = rc ? rc : act_file_sync(f);
	}
	for (unsigned i = 0; !rc && i < b->sectors; i++)
		rc = act_file_words(f, b->sector[i].disk, b->sector[i].sector,
				    b->sector[i].words);
	if (!rc && b->write_head && !b->head_first)
		rc = act_file_head(f, &b->head);
	if (!rc && (b->sectors || !b->head_first))
		rc = act_file_sync(f);
	return rc;
}
