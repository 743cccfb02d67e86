/* SPDX-License-Identifier: Apache-2.0
 * test_journal_crash - a power cut after every single write of a standby's life: its images always
 * come back as one epoch, not older than what was told to be durable.
 *
 * A life (journallife.h) leaves a trace. For each place in it what of the unflushed sectors may be on the disks
 * is tried: of the journal's all subsets when they are few, else samples; each with several subsets of the
 * images'. In other lives the journal fails for some epochs and begins anew.
 */
#include "hv/base/log.h"
#include "tests/unit/journallife.h"

enum { ALL_SUBSETS = 9 /* of so many sectors; of more, SAMPLES */, SAMPLES = 300 };

/* What is known at a place in the trace. */
struct facts {
	int link;	     /* -1: none yet */
	int acked, durable;  /* epochs; -1: none */
	int active, flushed; /* places; 0: no */
};

static uint64_t states, replays;

static struct journal_disks disks_of(void)
{
	struct journal_disks d = {.vm = "crash", .n = DISKS};

	memcpy(d.capacity, sizes, DISKS * sizeof(d.capacity[0]));
	return d;
}

static struct facts facts_at(const struct cr_rig *r, unsigned cut)
{
	struct facts f = {.link = -1, .acked = -1, .durable = -1};

	for (unsigned i = 0; i < cut; i++) {
		const struct cr_op *o = &r->op[i];

		if (o->kind != CR_MARK)
			continue;
		if (o->what == M_SYNCING) {
			f = (struct facts){
				.link = (int)o->value, .acked = -1, .durable = -1};
		}
		if (o->what == M_ACKED)
			f.acked = (int)o->value;
		if (o->what == M_DURABLE)
			f.durable = (int)o->value;
		if (o->what == M_ACTIVATE)
			f.active = (int)i;
		if (o->what == M_FLUSHED)
			f.flushed = (int)i;
	}
	return f;
}

static int same_images(const struct cr_disk *a, const struct cr_disk *b)
{
	for (unsigned d = 0; d < DISKS; d++)
		if (memcmp(a->bytes[d], b->bytes[d], sizes[d]) != 0)
			return 0;
	return 1;
}

static int same_sizes(const struct journal_found *j, const uint64_t size[DISKS])
{
	return !memcmp(j->capacity, size, DISKS * sizeof(*size));
}

/* After the takeover: each sector is as in the last epoch or as the guest wrote it at some time, not
 * before the last of its writes that a flush covered. */
static int guest_images(const struct life *l, const struct facts *f, unsigned cut,
			const struct cr_disk *got)
{
	struct cr_disk want = l->at[LINKS - 1][EPOCHS - 1];

	for (unsigned i = (unsigned)f->active; i < cut; i++) {
		const struct cr_op *o = &l->r->op[i];

		if (o->kind == CR_WRITE && o->file != CR_JOURNAL &&
		    (i < (unsigned)f->flushed ||
		     !memcmp(got->bytes[o->file] + o->offset, o->bytes, o->len)))
			memcpy(want.bytes[o->file] + o->offset, o->bytes, o->len);
	}
	return same_images(&want, got);
}

/* Is it right? NULL, or what is wrong. */
static const char *judge(struct life *l, unsigned cut, const struct journal_found *j,
			 const struct cr_disk *got)
{
	struct facts f = facts_at(l->r, cut);
	/* The first mark of a link comes before the first thing that is written for it. */
	int before = f.link > 0 && f.durable < 0 && j->state == JOURNAL_LIVE &&
		     !memcmp(j->gen.base, l->base[f.link - 1], DR_BASE_LEN);

	if (f.active && j->state == JOURNAL_OWNED)
		return guest_images(l, &f, cut, got) ? NULL : "the guest's disk is wrong";
	if (f.flushed)
		return "a flush was answered, and a replay is still to come";
	if (j->state == JOURNAL_OWNED)
		return f.acked == EPOCHS - 1 && f.link == LINKS - 1
			       ? same_images(got, &l->at[f.link][f.acked])
					 ? NULL
					 : "retired too early"
			       : "owned before the takeover";
	if (j->state == JOURNAL_BLANK)
		return f.link <= 0 && f.durable < 0 ? NULL : "the journal is blank";
	if (j->state == JOURNAL_SYNCING)
		return f.durable < 0 ? NULL : "what was durable is gone";
	if (j->state == JOURNAL_UNSAFE && l->loses && f.link == 0 && f.acked >= LOSE_AT &&
	    !j->why[0]) {
		l->unsafe++;
		return NULL;
	}
	if (j->state != JOURNAL_LIVE)
		return j->why[0] ? j->why : "not live";
	if (before)
		return same_images(got, &l->at[f.link - 1][EPOCHS - 1]) &&
				       same_sizes(j, l->size_at[f.link - 1][EPOCHS - 1])
			       ? NULL
			       : "the last link's image is wrong";
	if (f.link < 0 || memcmp(j->gen.base, l->base[f.link], DR_BASE_LEN) != 0)
		return "another base";
	if (f.durable >= 0 && j->gen.epoch < (uint64_t)f.durable)
		return "older than what was told to be durable";
	if (f.acked < 0 || j->gen.epoch > (uint64_t)f.acked)
		return "an epoch that was never acked";
	if (!same_sizes(j, l->size_at[f.link][j->gen.epoch]))
		return "a disk has another size in that epoch";
	l->resumed += l->unsafe && f.link == 0 && j->gen.epoch >= LOSE_AT;
	if (f.active)
		return guest_images(l, &f, cut, got) ? NULL : "the guest's disk is wrong";
	return same_images(got, &l->at[f.link][j->gen.epoch]) ? NULL : "not that epoch";
}

static int recover(struct cr_rig *disk, struct journal_found *found)
{
	struct journal_disks d = disks_of();
	struct journal *j;
	struct err err = {0};
	int rc = journal_open(cr_io(disk), &d, CR_BYTES, &j, found, &err);

	journal_close(j);
	replays += found->epochs;
	return rc;
}

/* Recovery is cut short as well, and begun again: it must come to the same end. */
static const char *cut_again(const struct cr_rig *first,
			     const struct journal_found *found)
{
	static struct cr_rig *again;
	static struct cr_cut c;
	struct journal_found f2;

	if (!again)
		again = cr_new(sizes);
	again->recording = 0;
	for (unsigned cut = 0; cut <= first->ops; cut++) {
		cr_cut_at(first, cut, 0, &c);
		for (unsigned half = 0; half < 3; half++) {
			again->now = c.sure;
			for (unsigned i = 0; i < c.n; i++)
				if (half == 2 || (half && i % 2))
					cr_put(c.maybe[i].op, c.maybe[i].at, &again->now);
			states++;
			if (recover(again, &f2) || f2.state != found->state ||
			    (f2.state == JOURNAL_LIVE &&
			     (f2.gen.epoch != found->gen.epoch ||
			      !same_sizes(&f2, found->capacity) ||
			      !same_images(&again->now, &first->now))))
				return "a recovery that was cut short ends elsewhere";
		}
	}
	return NULL;
}

/* What the power cut left, recovered and judged. Returns 1 if it is wrong. */
static int try_state(struct life *l, unsigned cut, struct cr_rig *disk, int again,
		     int loud)
{
	struct journal_found found;
	const char *wrong;

	states++;
	disk->start = disk->now;
	disk->recording = again;
	wrong = recover(disk, &found) ? "recovery failed" : NULL;
	wrong = wrong ? wrong : judge(l, cut, &found, &disk->now);
	if (!wrong && again)
		wrong = cut_again(disk, &found);
	while (disk->ops)
		free(disk->op[--disk->ops].bytes);
	if (wrong && loud)
		printf("    cut before %u of %u: %s (%s, epoch %llu)\n", cut, l->r->ops,
		       wrong, journal_state_name(found.state),
		       (unsigned long long)found.gen.epoch);
	return wrong != NULL;
}

/* Which of the sectors that may be there are. */
static void choose(const struct cr_cut *c, unsigned from, unsigned to, unsigned how,
		   unsigned mode, unsigned *seed, struct cr_disk *d)
{
	unsigned n = to - from, bound = n ? (unsigned)rand_r(seed) % (n + 1) : 0;

	for (unsigned i = 0; i < n; i++) {
		int there;

		if (mode == 0)
			there = how >> i & 1;
		else if (mode ==
			 1) /* all but the last ones; nothing but the last ones; dice */
			there = how % 3 == 0   ? i < bound
				: how % 3 == 1 ? i >= bound
					       : rand_r(seed) & 1;
		else
			there = how == 1 || (how == 2 && rand_r(seed) & 1);
		if (there)
			cr_put(c->maybe[from + i].op, c->maybe[from + i].at, d);
	}
}

/* Each place, each subset. Returns how many states are wrong; stops at @enough. */
static unsigned cut_everywhere(struct life *l, unsigned lying, unsigned enough)
{
	struct cr_rig *disk = cr_new(sizes);
	struct cr_cut c = {.n = 0};
	unsigned wrong = 0, seed = 1;

	for (unsigned cut = 0; cut <= l->r->ops && wrong < enough; cut++) {
		unsigned all, n;

		if (cut && l->r->op[cut - 1].kind == CR_SYNC_BEGIN)
			continue; /* as before it */
		cr_cut_at(l->r, cut, lying, &c);
		all = c.journal <= ALL_SUBSETS;
		n = all ? 1u << c.journal : SAMPLES;
		for (unsigned i = 0; i < n && wrong < enough; i++)
			for (unsigned images = 0; images < 3; images++) {
				disk->now = c.sure;
				choose(&c, 0, c.journal, i, !all, &seed, &disk->now);
				choose(&c, c.journal, c.n, images, 2, &seed, &disk->now);
				wrong += (unsigned)try_state(l, cut, disk,
							     !lying && !(states % 499),
							     !lying && wrong < 5);
			}
	}
	free(c.maybe);
	cr_free(disk);
	return wrong;
}

static void test_power_cut_anywhere(void)
{
	for (unsigned seed = 1; seed <= 6; seed++) {
		struct life *l = new_life(seed, 0);

		CU_ASSERT_EQUAL(cut_everywhere(l, 0, 50), 0);
		printf("    life %u: %u operations, %llu states so far, %llu epochs replayed\n",
		       seed, l->r->ops, (unsigned long long)states,
		       (unsigned long long)replays);
		free_life(l);
	}
}

/* The same when it fails for a time: what is in the images then is nobody's, until it begins anew. */
static void test_a_journal_that_begins_anew(void)
{
	for (unsigned seed = 1; seed <= 4; seed++) {
		struct life *l = new_life(seed, 1);

		CU_ASSERT_EQUAL(cut_everywhere(l, 0, 50), 0);
		CU_ASSERT_TRUE(l->unsafe > 0);
		CU_ASSERT_TRUE(l->resumed > 0);
		printf("    life %u: %u operations, %u states unsafe, %u live after it\n",
		       seed, l->r->ops, l->unsafe, l->resumed);
		free_life(l);
	}
}

/* The test itself: disks that do nothing when they are told to flush are found out. */
static void test_a_lying_disk_is_found_out(void)
{
	struct life *l = new_life(4, 0);

	CU_ASSERT_TRUE(cut_everywhere(l, 1u << CR_JOURNAL, 1) > 0);
	for (unsigned d = 0; d < DISKS; d++)
		CU_ASSERT_TRUE(cut_everywhere(l, 1u << d, 1) > 0);
	free_life(l);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a power cut anywhere", test_power_cut_anywhere},
		{"a journal that begins anew", test_a_journal_that_begins_anew},
		{"a lying disk is found out", test_a_lying_disk_is_found_out},
	};

	log_init("test", NULL, LOG_LVL_ERR);
	return UNIT_MAIN("journal crash", tests);
}
