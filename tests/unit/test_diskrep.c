/* SPDX-License-Identifier: Apache-2.0
 * test_diskrep - the standby's image is the primary's at exactly the last applied epoch.
 */
#include "tests/unit/diskrig.h"

#include <signal.h>
#include <sys/resource.h>

/* Submit and complete at random, in any order that the image likes. */
static void churn(struct rig *r, unsigned *seed, int steps)
{
	while (steps--) {
		if (r->img.n < 24 && rand_r(seed) % 3)
			rig_random(r, seed);
		else if (r->img.n)
			image_complete(&r->img, rand_r(seed) % r->img.n);
	}
}

static void test_epochs_become_the_image(void)
{
	for (unsigned s = 1; s <= 12; s++) {
		struct rig *r = rig_new(64 << 20, RIG_CAP, RIG_CAP);
		unsigned seed = s;

		churn(r, &seed, 50);
		rig_sync(r, 1 + s % 3);
		for (uint64_t i = 0; i < 40; i++) {
			uint8_t *model;

			churn(r, &seed, rand_r(&seed) % 40);
			model = rig_snapshot(r);
			rig_capture(r, i);
			/* The guest goes on before anything of the epoch is sent. */
			churn(r, &seed, rand_r(&seed) % 20);
			rig_ship(r, i);
			churn(r, &seed, rand_r(&seed) % 20);
			rig_apply(r, i);
			CU_ASSERT_TRUE(rig_standby_is(r, model));
			free(model);
		}
		rig_free(r);
	}
}

static void test_drop_at_any_point(void)
{
	for (unsigned s = 1; s <= 40; s++) {
		struct rig *r = rig_new(64 << 20, RIG_CAP, RIG_CAP);
		struct err err = {0};
		unsigned seed = s;
		uint8_t *model[8];
		unsigned sent, checked, applied;

		rig_sync(r, 1);
		for (uint64_t i = 0; i < 8; i++) {
			churn(r, &seed, 40);
			model[i] = rig_snapshot(r);
			rig_capture(r, i);
		}
		/* At least checkpoint 0 is applied; of the others, fewer and fewer got further. */
		checked = 1 + (unsigned)rand_r(&seed) % 7;
		applied = 1 + (unsigned)rand_r(&seed) % checked;
		for (sent = 0; sent < checked; sent++)
			rig_ship(r, sent);
		CU_ASSERT_EQUAL(r->p.ops->send(r->p.self, checked, &r->sink, &err), 0);
		/* The last one is cut somewhere. */
		while (r->records > (unsigned)rand_r(&seed) % 30)
			free(r->rec[--r->records].p);
		CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
		for (unsigned i = 0; i < applied; i++)
			rig_apply(r, i);
		CU_ASSERT_TRUE(rig_standby_is(r, model[applied - 1]));
		/* Failover: what was acked is applied to the end, before or after drop. */
		if (s & 1)
			r->s.ops->drop(r->s.self);
		for (unsigned i = applied; i < checked; i++)
			rig_apply(r, i);
		if (!(s & 1))
			r->s.ops->drop(r->s.self);
		CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, &err), 0);
		rig_settle(r);
		CU_ASSERT_TRUE(rig_standby_is(r, model[checked - 1]));
		CU_ASSERT_PTR_NULL(r->sb->first);
		for (int i = 0; i < 8; i++)
			free(model[i]);
		rig_free(r);
	}
}

static void test_nothing_touched_before_apply(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	uint8_t *before;

	r->img.inline_done = 1;
	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	before = rig_snapshot(r);
	rig_submit(r, BLK_WRITE, 0, 8192, 2);
	rig_submit(r, BLK_DISCARD, 2048, 512, 0);
	rig_capture(r, 1);
	rig_ship(r, 1);
	CU_ASSERT_TRUE(rig_standby_is(r, before));
	r->s.ops->drop(r->s.self);
	CU_ASSERT_TRUE(rig_standby_is(r, before));
	free(before);
	rig_free(r);
}

static void test_overlap_across_epochs(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	uint8_t *model[6];

	r->img.inline_done = 1;
	rig_sync(r, 1);
	for (uint8_t i = 0; i < 6; i++) {
		rig_submit(r, BLK_WRITE, 512u * i, 4096, (uint8_t)(10 * i));
		rig_submit(r, BLK_ZEROES, 512u * i + 1024, 512, 0);
		rig_submit(r, BLK_WRITE, 512u * i + 1024, 1024, (uint8_t)(10 * i + 5));
		model[i] = rig_snapshot(r);
		rig_capture(r, i);
	}
	for (uint8_t i = 0; i < 6; i++)
		rig_ship(r, i);
	for (uint8_t i = 0; i < 6; i++) {
		rig_apply(r, i);
		CU_ASSERT_TRUE(rig_standby_is(r, model[i]));
		free(model[i]);
	}
	rig_free(r);
}

static void test_overlapping_requests_wait(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);

	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	rig_submit(r, BLK_WRITE, 3584, 1024, 2); /* overlaps the first */
	rig_submit(r, BLK_WRITE, 8192, 512, 3);	 /* does not, but is in line behind it */
	CU_ASSERT_EQUAL(r->img.n, 1);
	rig_submit(r, BLK_FLUSH, 0, 0, 0);
	rig_submit(r, BLK_READ, 3584, 512, 0);
	CU_ASSERT_EQUAL(r->img.flushes, 1);
	CU_ASSERT_EQUAL(r->img.reads, 1);
	CU_ASSERT_EQUAL(r->done, 2);
	image_complete(&r->img, 0);
	CU_ASSERT_EQUAL(r->img.n, 2);
	CU_ASSERT_EQUAL(r->img.req[0]->offset, 3584);
	image_complete(&r->img, 1);
	image_complete(&r->img, 0);
	CU_ASSERT_EQUAL(r->done, 5);
	/* A neighbour does not overlap. */
	rig_submit(r, BLK_WRITE, 0, 512, 1);
	rig_submit(r, BLK_WRITE, 512, 512, 1);
	CU_ASSERT_EQUAL(r->img.n, 2);
	rig_free(r);
}

static void test_limit_makes_writes_wait(void)
{
	struct rig *r = rig_new(64 << 10, RIG_CAP, RIG_CAP);
	struct diskrep_stats st;
	uint8_t *model;

	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	CU_ASSERT_EQUAL(r->asked, 0);
	for (unsigned i = 0; i < 20; i++)
		rig_submit(r, BLK_WRITE, i * 8192, 8192, (uint8_t)i);
	/* Seven fit (with what each costs beside its data). */
	CU_ASSERT_EQUAL(r->done, 7);
	CU_ASSERT_STRING_EQUAL(r->why, "the disk buffer is full");
	CU_ASSERT_EQUAL(r->asked,
			2); /* half full, full; those in line do not ask again */
	rig_submit(r, BLK_FLUSH, 0, 0, 0);
	CU_ASSERT_EQUAL(r->img.flushes, 1);
	diskrep_stats(r->dr, &st);
	CU_ASSERT_EQUAL(st.queued_bytes, 7 * (8192 + DR_ENTRY_COST));
	CU_ASSERT_EQUAL(st.epoch_bytes, st.queued_bytes);
	model = rig_snapshot(r);
	rig_capture(r, 1);
	rig_ship(r, 1);
	CU_ASSERT_EQUAL(r->done, 8);
	rig_apply(r, 1);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	rig_turn(r);
	CU_ASSERT_EQUAL(r->done, 15);
	/* The peer is lost: nothing more is kept, nobody waits. */
	r->p.ops->unlinked(r->p.self);
	rig_turn(r);
	CU_ASSERT_EQUAL(r->done, 21);
	diskrep_stats(r->dr, &st);
	CU_ASSERT_EQUAL(st.queued_bytes, 0);
	CU_ASSERT_EQUAL(r->failed, 0);
	rig_free(r);
}

static void test_one_request_over_the_limit(void)
{
	struct rig *r = rig_new(4096, RIG_CAP, RIG_CAP);
	uint8_t *model;

	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	/* Larger than the limit, and than what fits one record. */
	rig_submit(r, BLK_WRITE, 512, DR_WRITE_MAX + 66048, 9);
	CU_ASSERT_EQUAL(r->done, 1);
	model = rig_snapshot(r);
	rig_capture(r, 1);
	rig_ship(r, 1);
	rig_apply(r, 1);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	rig_free(r);
}

/* What an epoch's records come to, and what compression took off them. */
static uint64_t ship_counting(struct rig *r, uint64_t epoch, uint64_t *saved_out)
{
	struct diskrep_stats before, after;
	uint64_t saved = r->sink.saved;
	uint8_t *model = rig_snapshot(r);

	diskrep_stats(r->dr, &before);
	rig_capture(r, epoch);
	rig_ship(r, epoch);
	rig_apply(r, epoch);
	diskrep_stats(r->dr, &after);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	*saved_out = r->sink.saved - saved;
	return after.sent_bytes - before.sent_bytes;
}

static void test_writes_are_packed(void)
{
	struct rig *r = rig_new(64 << 20, RIG_CAP, RIG_CAP);
	const uint64_t head = sizeof(struct dr_wire_write);
	uint64_t sent, saved, epoch = 0;
	unsigned seed = 5;

	r->img.inline_done = 1;
	rig_sync(r, 1);
	(void)ship_counting(r, epoch++, &saved); /* the sync's rest: not looked at */
	rig_submit(r, BLK_WRITE, 4096, 65536, 1);
	sent = ship_counting(r, epoch++, &saved);
	CU_ASSERT_TRUE(sent < 4096);
	CU_ASSERT_EQUAL(sent + saved, head + 65536);
	rig_submit_noise(r, 8192, 4096, &seed);
	sent = ship_counting(r, epoch++, &saved);
	CU_ASSERT_EQUAL(sent, head + 4096);
	CU_ASSERT_EQUAL(saved, 0);
	/* After a lot of noise it is asked only now and then, and comes back all the same. */
	for (unsigned i = 0; i < 100; i++)
		rig_submit_noise(r, i * 8192, 4096, &seed);
	for (unsigned i = 0; i < 100; i++)
		rig_submit(r, BLK_WRITE, i * 8192, 8192, (uint8_t)i);
	sent = ship_counting(r, epoch++, &saved);
	CU_ASSERT_TRUE(saved > 80 * 7000 && saved < 99 * 8192);
	/* The second hundred are neighbours, and go together by thirteen. */
	CU_ASSERT_EQUAL(sent + saved, (100 + 8) * head + 100 * (4096 + 8192));
	rig_free(r);
}

/* What one epoch sends beside the guest's bytes, in heads. */
static uint64_t heads(struct rig *r, uint64_t epoch, uint64_t bytes)
{
	uint64_t saved, sent = ship_counting(r, epoch, &saved);

	CU_ASSERT_EQUAL((sent + saved - bytes) % sizeof(struct dr_wire_write), 0);
	return (sent + saved - bytes) / sizeof(struct dr_wire_write);
}

/* Writes that follow each other on the disk are one record; what only touches, overlaps or goes back is
 * not, nor is more than DR_JOINED_MAX. */
static void test_neighbours_go_together(void)
{
	struct rig *r = rig_new(64 << 20, RIG_CAP, RIG_CAP);
	unsigned seed = 6;

	r->img.inline_done = 1;
	rig_sync(r, 1);
	(void)heads(r, 0, 0); /* the sync's rest: not looked at */
	for (unsigned i = 0; i < 4; i++)
		rig_submit_noise(r, i * 4096, 4096, &seed);
	CU_ASSERT_EQUAL(heads(r, 1, 4 * 4096), 1);
	for (unsigned i = 0; i < 4; i++)
		rig_submit_noise(r, (3 - i) * 4096, 4096, &seed);
	CU_ASSERT_EQUAL(heads(r, 2, 4 * 4096), 4);
	for (unsigned i = 0; i < 4; i++)
		rig_submit_noise(r, i * 4096, 8192, &seed);
	CU_ASSERT_EQUAL(heads(r, 3, 4 * 8192), 4);
	for (unsigned i = 0; i < 4; i++)
		rig_submit_noise(r, i * 8192, 4096, &seed);
	CU_ASSERT_EQUAL(heads(r, 4, 4 * 4096), 4);
	for (unsigned i = 0; i < 3; i++)
		rig_submit_noise(r, i * (DR_JOINED_MAX / 2), DR_JOINED_MAX / 2, &seed);
	CU_ASSERT_EQUAL(heads(r, 5, 3 * (DR_JOINED_MAX / 2)), 2);
	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	rig_submit(r, BLK_WRITE, 4096, 0, 2);
	rig_submit(r, BLK_WRITE, 4096, 4096, 3);
	CU_ASSERT_EQUAL(heads(r, 6, 8192), 1);
	rig_submit(r, BLK_WRITE, 4096, 0, 2);
	CU_ASSERT_EQUAL(heads(r, 7, 0), 0);
	rig_free(r);
}

static void test_nothing_kept_without_a_peer(void)
{
	struct rig *r = rig_new(4096, RIG_CAP, RIG_CAP);
	struct diskrep_stats st;
	struct err err = {0};

	r->img.inline_done = 1;
	for (int i = 0; i < 100; i++)
		rig_submit(r, BLK_WRITE, 0, 8192, 1);
	CU_ASSERT_EQUAL(r->done, 100);
	diskrep_stats(r->dr, &st);
	CU_ASSERT_EQUAL(st.queued_bytes, 0);
	CU_ASSERT_EQUAL(r->p.ops->capture(r->p.self, 0, &err), -EPROTO);
	CU_ASSERT_EQUAL(r->disk.ops->capacity(r->disk.self), RIG_CAP);
	rig_free(r);
}

/* An image that does not take what was acked: this host is no standby any more. */
static void test_an_image_that_cannot_be_written(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};
	struct rlimit was, small;

	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	rig_capture(r, 1);
	rig_ship(r, 1);
	CU_ASSERT_NOT_EQUAL(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
	CU_ASSERT_EQUAL(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = (struct rlimit){.rlim_cur = 700, .rlim_max = was.rlim_max};
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &small), 0);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 1, &err), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&r->sb->applier), -EFBIG);
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &was), 0);
	rig_capture(r, 2);
	CU_ASSERT_EQUAL(r->p.ops->send(r->p.self, 2, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 2, &err), -EIO);
	CU_ASSERT_NOT_EQUAL(err.msg[0], 0);
	CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, &err), -EFBIG);
	rig_free(r);
}

/* What was applied is not applied twice, and not out of order. */
static void test_applied_once(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};

	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_capture(r, 1);
	rig_ship(r, 0);
	rig_ship(r, 1);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 1, &err), -EPROTO);
	rig_apply(r, 0);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 0, &err), -EPROTO);
	rig_apply(r, 1);
	rig_free(r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"epochs become the image", test_epochs_become_the_image},
		{"drop at any point", test_drop_at_any_point},
		{"nothing touched before apply", test_nothing_touched_before_apply},
		{"overlap across epochs", test_overlap_across_epochs},
		{"overlapping requests wait", test_overlapping_requests_wait},
		{"the limit makes writes wait", test_limit_makes_writes_wait},
		{"one request over the limit", test_one_request_over_the_limit},
		{"writes are packed", test_writes_are_packed},
		{"neighbours go together", test_neighbours_go_together},
		{"nothing kept without a peer", test_nothing_kept_without_a_peer},
		{"an image that cannot be written", test_an_image_that_cannot_be_written},
		{"applied once", test_applied_once},
	};

	return UNIT_MAIN("diskrep", tests);
}
