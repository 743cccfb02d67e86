/* SPDX-License-Identifier: Apache-2.0
 * test_redo - writes that fail on the primary while it is protected: the standby's image is not what the
 * guest was told that it is not.
 */
#include "tests/unit/diskrig.h"

/* In step, with epoch @e open. */
static struct rig *in_step(uint64_t *e)
{
	struct rig *r = rig_new(4 << 20, RIG_CAP, RIG_CAP);

	r->img.inline_done = 1;
	for (uint64_t c = 0; c < 18; c++)
		rig_submit(r, BLK_WRITE, c * DR_CHUNK, 4096, (uint8_t)(7 * c));
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	*e = 1;
	r->img.inline_done = 0;
	return r;
}

static void epoch(struct rig *r, uint64_t e)
{
	rig_capture(r, e);
	rig_ship(r, e);
	rig_apply(r, e);
}

static void expect_same(struct rig *r)
{
	uint8_t *now = rig_snapshot(r);

	CU_ASSERT_TRUE(rig_standby_is(r, now));
	free(now);
}

static void test_in_one_epoch(void)
{
	static const enum blk_op ops[] = {BLK_WRITE, BLK_DISCARD, BLK_ZEROES};

	for (unsigned i = 0; i < 3; i++) {
		uint64_t e;
		struct rig *r = in_step(&e);

		/* Over a border of chunks. */
		rig_submit(r, ops[i], DR_CHUNK - 1024, 4096, 200);
		image_fail(&r->img, 0, -EIO);
		CU_ASSERT_EQUAL(r->failed, 1);
		epoch(r, e);
		expect_same(r);
		rig_free(r);
	}
}

/* Captured while it was under way. */
static void test_in_a_later_epoch(void)
{
	uint64_t e;
	struct rig *r = in_step(&e);

	rig_submit(r, BLK_WRITE, 4 * DR_CHUNK, 4096, 200);
	epoch(r, e++);
	image_fail(&r->img, 0, -EIO);
	epoch(r, e++);
	expect_same(r);
	rig_free(r);
}

/* Of checkpoint 0. */
static void test_of_the_first(void)
{
	struct rig *r = rig_new(4 << 20, RIG_CAP, RIG_CAP);

	rig_submit(r, BLK_WRITE, 512, 4096, 3);
	rig_sync(r, 1);
	rig_capture(r, 0);
	image_fail(&r->img, 0, -EIO);
	rig_ship(r, 0);
	rig_apply(r, 0);
	epoch(r, 1);
	expect_same(r);
	rig_free(r);
}

/* Something else is on its way into the same chunk: it has the last word on both. */
static void test_beside_one_in_flight(void)
{
	uint64_t e;
	struct rig *r = in_step(&e);

	rig_submit(r, BLK_WRITE, 2 * DR_CHUNK, 4096, 200);
	rig_submit(r, BLK_WRITE, 2 * DR_CHUNK + 8192, 4096, 201);
	image_fail(&r->img, 0, -EIO);
	epoch(r, e);
	image_complete(&r->img, 0);
	expect_same(r);
	rig_free(r);
}

/* Too many to be read while the guest stands still: the link is given up, and says why. */
static void test_too_many(void)
{
	struct err err = {0};
	uint64_t e;
	struct rig *r = in_step(&e);

	rig_submit(r, BLK_DISCARD, 0, (DR_REDO_MAX + 1) * DR_CHUNK, 0);
	image_fail(&r->img, 0, -EOPNOTSUPP);
	CU_ASSERT_EQUAL(r->p.ops->capture(r->p.self, e, &err), -EIO);
	CU_ASSERT(strstr(err.msg, "failed") != NULL);
	r->p.ops->unlinked(r->p.self);
	/* The next link begins without it. */
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	epoch(r, 1);
	expect_same(r);
	rig_free(r);
}

/* What failed is marked until what was sent in its place is durable there. */
static void test_is_marked(void)
{
	struct err err = {0};
	uint64_t e, before;
	struct rig *r = rig_new(4 << 20, RIG_CAP, RIG_CAP);

	CU_ASSERT_EQUAL(diskrep_activity(r->dr, -1, NULL, NULL, &err), 0);
	r->img.inline_done = 1;
	rig_sync(r, 1);
	for (e = 0; e < 4; e++) {
		rig_capture(r, e);
		rig_ship(r, e);
		rig_report(r);
		rig_apply(r, e);
	}
	r->img.inline_done = 0;
	before = act_count(&r->dr->activity.act);
	CU_ASSERT_EQUAL(before, 0);
	rig_submit(r, BLK_WRITE, 0, 4096, 9);
	for (; e < 8; e++) {
		rig_capture(r, e);
		rig_ship(r, e);
		rig_report(r);
		rig_apply(r, e);
	}
	CU_ASSERT_EQUAL(act_count(&r->dr->activity.act), 0);
	image_fail(&r->img, 0, -EIO);
	CU_ASSERT_EQUAL(act_count(&r->dr->activity.act), 1);
	for (; e < 12; e++) {
		rig_capture(r, e);
		rig_ship(r, e);
		rig_report(r);
		rig_apply(r, e);
	}
	CU_ASSERT_EQUAL(act_count(&r->dr->activity.act), 0);
	expect_same(r);
	rig_free(r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"in one epoch", test_in_one_epoch},
		{"in a later epoch", test_in_a_later_epoch},
		{"of the first", test_of_the_first},
		{"beside one in flight", test_beside_one_in_flight},
		{"too many", test_too_many},
		{"is marked", test_is_marked},
	};

	return UNIT_MAIN("redo", tests);
}
