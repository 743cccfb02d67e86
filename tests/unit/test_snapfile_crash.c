/* SPDX-License-Identifier: Apache-2.0
 * test_snapfile_crash - a snapshot of two disks is made, deleted, reverted, and the power fails at every step that the file
 * systems see: afterwards both chains are whole, of one moment, and the same thing can be done again.
 *
 * The program's own open, rename, link, unlink, fsync and futimens are counted and noted (powercut.h). A child process does the
 * deed and dies at one of them; or at an fsync, and of what no fsync has made durable any part is lost.
 */
#include "tests/unit/snaprig.h"

#include "tests/unit/powercut.h"

enum { STEPS_MOST = 400, SUBSETS_MOST = 1 << 10 };

static struct snap prepared;

static int do_make(void)
{
	return make("s");
}

static int do_delete(void)
{
	return delete ("s");
}

static int do_revert(void)
{
	return revert("s");
}

static int do_abandon(void)
{
	struct err err = {0};

	return snap_abandon(&prepared, &err);
}

/* The last name but one is not given: all that was done is undone. */
static int do_fail(void)
{
	int rc;

	cut_refused = "two@s.fresh";
	rc = make("s");
	cut_refused = NULL;
	return rc == -EIO ? 0 : 1;
}

static int do_recover(void)
{
	struct err err = {0};

	return snap_recover(&vm, &err);
}

static void touch(const char *name)
{
	close(rig_file(name, O_RDWR | O_CREAT));
}

static unsigned none, some, whole;

/* After a snapshot was broken off: all or nothing, and it can be deleted and made again. */
static void judge_make(void)
{
	enum snap_state st;
	int cut;

	recover();
	CU_ASSERT_TRUE(all_hold(is));
	st = state_of("s");
	cut = exists("one@s.vhd") && !same_inode("one@s.vhd", "one.vhd");
	CU_ASSERT_EQUAL(cut,
			exists("b/two@s.vhd") && !same_inode("b/two@s.vhd", "b/two.vhd"));
	CU_ASSERT_EQUAL(cut, st == SNAP_CUT || st == SNAP_COMPLETE);
	none += st == SNAP_NSTATES;
	some += st == SNAP_PREPARED;
	whole += cut ? 1 : 0;
	write_disks(2);
	if (st == SNAP_NSTATES) {
		/* At most the text of a description that nobody names. */
		CU_ASSERT_EQUAL(snap_each_file(NULL),
				2 + (unsigned)exists("one@s.json~"));
	} else {
		CU_ASSERT_EQUAL(delete ("s"), 0);
		CU_ASSERT_EQUAL(snap_each_file(NULL),
				2 + (unsigned)exists("one@s.json~"));
	}
	CU_ASSERT_TRUE(all_hold(is));
	CU_ASSERT_EQUAL(make("s"), 0);
	CU_ASSERT_EQUAL(state_of("s"), SNAP_COMPLETE);
	CU_ASSERT_TRUE(all_hold(is));
}

static void ready_to_make(void)
{
	fresh_disks();
}

/* One with another above it and one below it, all three of other content. */
static void ready_to_delete(void)
{
	fresh_disks();
	CU_ASSERT_EQUAL(make("low"), 0);
	write_disks(2);
	CU_ASSERT_EQUAL(make("s"), 0);
	write_disks(3);
	CU_ASSERT_EQUAL(make("high"), 0);
	write_disks(4);
}

static void judge_delete(void)
{
	recover();
	CU_ASSERT_TRUE(all_hold(is));
	if (state_of("s") != SNAP_NSTATES) {
		some++;
		CU_ASSERT_EQUAL(delete ("s"), 0);
	} else {
		whole++;
	}
	CU_ASSERT_EQUAL(state_of("s"), SNAP_NSTATES);
	CU_ASSERT_FALSE(exists("one@s.vhd") || exists("b/two@s.vhd"));
	CU_ASSERT_TRUE(all_hold(is));
	CU_ASSERT_EQUAL(state_of("high"), SNAP_COMPLETE);
	CU_ASSERT_EQUAL(delete ("high"), 0);
	CU_ASSERT_EQUAL(delete ("low"), 0);
	CU_ASSERT_TRUE(all_hold(is));
	CU_ASSERT_EQUAL(snap_each_file(NULL), 2 + (unsigned)exists("one@s.json~"));
}

/* Prepared, with a memory and what is left of a switch that was taken back. */
static void ready_to_abandon(void)
{
	int fd[CONFIG_DISKS_MAX];
	struct err err = {0};

	fresh_disks();
	prepared = (struct snap){.name = "s", .host = "a", .vm = "web", .with_memory = 1};
	CU_ASSERT_EQUAL_FATAL(snap_prepare(&vm, &prepared, fd, &err), 0);
	for (unsigned i = 0; i < DISKS; i++)
		close(fd[i]);
	touch("one@s.mem");
	CU_ASSERT_EQUAL(link(rig_path("b/two.vhd"), rig_path("b/two@s.vhd")), 0);
}

/* As long as anything of it is there, so is the description by which it can be removed. */
static void judge_abandon(void)
{
	recover();
	CU_ASSERT_TRUE(all_hold(is));
	if (state_of("s") == SNAP_NSTATES) {
		whole++;
		CU_ASSERT_EQUAL(snap_each_file(NULL),
				2 + (unsigned)exists("one@s.json~"));
	} else {
		some++;
		CU_ASSERT_EQUAL(delete ("s"), 0);
	}
	CU_ASSERT_EQUAL(make("s"), 0);
	CU_ASSERT_TRUE(all_hold(is));
}

/* A switch that the power broke off, here. */
static int broken_off_at;

static void ready_to_recover(void)
{
	fresh_disks();
	CU_ASSERT_EQUAL_FATAL(cut_run(&(struct cut_plan){.step = broken_off_at}, do_make),
			      1);
}

static void ready_to_revert(void)
{
	fresh_disks();
	CU_ASSERT_EQUAL(make("s"), 0);
	for (unsigned i = 0; i < DISKS; i++)
		memcpy(was[i].bytes, is[i].bytes, SIZE);
	write_disks(2);
	touch("journal");
	touch("activity");
}

/* Neither or both; and nothing that speaks of the old content is there with the new one. */
static void judge_revert(void)
{
	int back;

	recover();
	back = holds(0, &was[0]);
	CU_ASSERT_TRUE(all_hold(back ? was : is));
	CU_ASSERT_FALSE(back && (exists("journal") || exists("activity")));
	none += !back;
	whole += back ? 1 : 0;
	CU_ASSERT_EQUAL(revert("s"), 0);
	CU_ASSERT_TRUE(all_hold(was));
	CU_ASSERT_EQUAL(state_of("s"), SNAP_COMPLETE);
}

struct deed {
	void (*ready)(void);
	int (*act)(void);
	void (*judge)(void);
};

static int at_plan(const struct deed *d, struct cut_plan plan)
{
	int died;

	d->ready();
	died = cut_run(&plan, d->act);
	d->judge();
	return died;
}

/* All that can be left of @pending changes: each is lost or kept; if there are too many, a sample. */
static unsigned at_every_loss(const struct deed *d, int sync, unsigned pending)
{
	unsigned all = pending < 10 ? 1u << pending : SUBSETS_MOST;

	/* To keep all is done. */
	for (unsigned i = 0; i + 1 < all; i++)
		CU_ASSERT_TRUE(at_plan(
			d, (struct cut_plan){.sync = sync,
					     .kept = pending < 10 ? i : rig_random()}));
	return all;
}

static unsigned losses, most, syncs;

static void at_every_cut(const struct deed *d)
{
	int at;

	for (at = 1; at < STEPS_MOST; at++)
		if (!at_plan(d, (struct cut_plan){.step = at}))
			break;
	CU_ASSERT_TRUE(at < STEPS_MOST);
	/* What was said to be done cannot be lost. */
	CU_ASSERT_EQUAL(cut.end->pending, 0);
	for (at = 1; at_plan(d, (struct cut_plan){.sync = at, .kept = UINT_MAX}); at++) {
		most = most < cut.end->pending ? cut.end->pending : most;
		losses += at_every_loss(d, at, cut.end->pending);
		syncs++;
	}
}

static void begin(void)
{
	none = some = whole = losses = most = syncs = 0;
}

static void end(void)
{
	printf("(%u states at %u fsyncs, up to %u changes each: %u none, %u some, %u whole) ",
	       losses, syncs, most, none, some, whole);
}

static void making(void)
{
	begin();
	at_every_cut(&(const struct deed){ready_to_make, do_make, judge_make});
	end();
	CU_ASSERT_TRUE(none && some && whole);
}

static void deleting(void)
{
	begin();
	at_every_cut(&(const struct deed){ready_to_delete, do_delete, judge_delete});
	end();
	CU_ASSERT_TRUE(some && whole);
}

static void reverting(void)
{
	begin();
	at_every_cut(&(const struct deed){ready_to_revert, do_revert, judge_revert});
	end();
	CU_ASSERT_TRUE(none && whole);
}

static void abandoning(void)
{
	begin();
	at_every_cut(&(const struct deed){ready_to_abandon, do_abandon, judge_abandon});
	end();
	CU_ASSERT_TRUE(some && whole);
}

static void failing(void)
{
	begin();
	at_every_cut(&(const struct deed){ready_to_make, do_fail, judge_abandon});
	end();
	CU_ASSERT_TRUE(some && whole);
}

/* The power fails a second time. */
static void recovering(void)
{
	unsigned n = 0;

	begin();
	for (broken_off_at = 1; broken_off_at < STEPS_MOST; broken_off_at++) {
		fresh_disks();
		if (!cut_run(&(struct cut_plan){.step = broken_off_at}, do_make))
			break;
		if (state_of("s") != SNAP_SWITCHING)
			continue;
		n++;
		at_every_cut(
			&(const struct deed){ready_to_recover, do_recover, judge_make});
	}
	end();
	CU_ASSERT_TRUE(n > 1 && whole && !none && !some);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"made, broken off anywhere", making},
		{"deleted, broken off anywhere", deleting},
		{"reverted, broken off anywhere", reverting},
		{"abandoned, broken off anywhere", abandoning},
		{"failed and undone, broken off anywhere", failing},
		{"recovered, broken off again", recovering},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("snapfile_crash", tests);
	free_disks();
	rig_remove_dir();
	return rc;
}
