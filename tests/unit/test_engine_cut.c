/* SPDX-License-Identifier: Apache-2.0
 * test_engine_cut - the link is cut at, and in, every record of either direction: what was acked
 * is applied, nothing else is, and never was more released.
 */
#include "tests/unit/unit.h"

#include "tests/unit/engine_fake.h"

#include <stdatomic.h>
#include <stdlib.h>

/* A layer that notes where each record ends, in bytes sent. */
struct ruler {
	struct tp tp;
	struct tp *inner;
	uint64_t sent;
	uint64_t at[256];
	atomic_int n;
};

static struct ruler *ruler_of(struct tp *tp)
{
	return (struct ruler *)tp;
}

static int ruler_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct ruler *r = ruler_of(tp);

	for (int i = 0; i < n; i++)
		r->sent += iov[i].iov_len;
	if (r->n < 256)
		r->at[r->n++] = r->sent;
	return tp_send(r->inner, iov, n);
}

static int ruler_flush(struct tp *tp)
{
	return tp_flush(ruler_of(tp)->inner);
}

static int ruler_recv(struct tp *tp, void *p, size_t len)
{
	return tp_recv(ruler_of(tp)->inner, p, len);
}

static void ruler_shutdown(struct tp *tp)
{
	tp_shutdown(ruler_of(tp)->inner);
}

/* The marks are still wanted: the test frees the ruler itself. */
static void ruler_close(struct tp *tp)
{
	tp_close(ruler_of(tp)->inner);
}

static const struct tp_ops ruler_ops = {
	.name = "ruler",
	.send = ruler_send,
	.flush = ruler_flush,
	.recv = ruler_recv,
	.shutdown = ruler_shutdown,
	.close = ruler_close,
};

enum { EPOCHS = 4, SIDES = 2 };

/* Where the records of some epochs begin and end, by side. */
static void measure(struct ruler *ruler[SIDES])
{
	struct rig *r = malloc(sizeof(*r));

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	rig_primary(r, 300, 2);
	rig_standby(r);
	rig_link(r, 1 << 16, -1, NULL);
	for (int i = 0; i < SIDES; i++) {
		ruler[i] = calloc(1, sizeof(*ruler[i]));
		CU_ASSERT_PTR_NOT_NULL_FATAL(ruler[i]);
		ruler[i]->tp.ops = &ruler_ops;
		ruler[i]->inner = r->end[i];
		r->end[i] = &ruler[i]->tp;
	}
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.released >= EPOCHS);
	rig_down(r);
	free(r);
}

/* Both at rest after a cut: is everything true that must be? */
static void judge(struct rig *r)
{
	struct standby_stats ss;
	struct err err = {0};
	int lost = r->w.sstate == SB_LOST;

	standby_stats(r->s, &ss);
	CU_ASSERT_EQUAL(ss.acked, ss.applied);
	CU_ASSERT_EQUAL(lost, ss.acked != UINT64_MAX);
	/* Rule 1: what was released is there. (acked is UINT64_MAX, so + 1 is 0, if none.) */
	CU_ASSERT_TRUE(r->w.released <= ss.acked + 1);
	/* Rules 2 and 3: exactly the last acked, nothing of the next. */
	if (lost)
		CU_ASSERT_EQUAL(r->w.applied_value, r->w.value_of[ss.acked]);
	CU_ASSERT_EQUAL(r->w.staged, 0);
	/* Rule 6: an eligible standby means that the primary holds until it has a grant. */
	if (lost)
		CU_ASSERT_EQUAL(r->w.pstate, PRI_UNLINKED);
	CU_ASSERT_EQUAL(r->w.held, r->w.pstate == PRI_UNLINKED);
	CU_ASSERT_EQUAL(r->w.depth, 0);
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), lost ? 0 : -EPERM);
}

static void run_cut(int side, const struct tp_fault *fault)
{
	struct rig *r = malloc(sizeof(*r));

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	rig_primary(r, 200, 2);
	rig_standby(r);
	rig_link(r, 1 << 16, side, fault);
	rig_attach(r, 1);
	/* The damage ends the link by itself, on both sides. */
	AWAIT(&r->w, r->w.pstate == PRI_ALONE || r->w.pstate == PRI_UNLINKED);
	AWAIT(&r->w, r->w.sstate == SB_EMPTY || r->w.sstate == SB_LOST);
	primary_detach(r->p, "test");
	standby_detach(r->s, "test");
	judge(r);
	rig_down(r);
	free(r);
}

/* At each end of a record, and one byte, a header, and all but a byte further. */
static void each_place(void (*one)(int side, uint64_t at))
{
	struct ruler *ruler[SIDES];

	measure(ruler);
	for (int side = 0; side < SIDES; side++) {
		uint64_t from = 0;

		CU_ASSERT_TRUE_FATAL(ruler[side]->n > EPOCHS + 3);
		for (int i = 0; i < ruler[side]->n; i++) {
			uint64_t to = ruler[side]->at[i];

			one(side, from + 1);
			if (from + sizeof(struct rec_wire) < to)
				one(side, from + sizeof(struct rec_wire));
			one(side, to - 1);
			one(side, to);
			from = to;
		}
		free(ruler[side]);
	}
}

static void cut_at(int side, uint64_t at)
{
	run_cut(side, &(struct tp_fault){.cut_after = at});
}

static void flip_at(int side, uint64_t at)
{
	run_cut(side, &(struct tp_fault){.flip_after = at});
}

static void cut_everywhere(void)
{
	each_place(cut_at);
}

static void flip_everywhere(void)
{
	each_place(flip_at);
}

/* A pulled cable tells nobody: only rhead's detach ends it. */
static void stall(void)
{
	struct rig *r = malloc(sizeof(*r));
	struct tp_fault none = {0}, pulled = {.stall_after = 1};

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	rig_primary(r, 200, 4);
	rig_standby(r);
	rig_link(r, 1 << 16, 1, &none);
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.released >= 2);
	tp_fault_set(r->end[1], &pulled); /* the acks do not arrive any more */
	AWAIT(&r->w, r->w.captured - r->w.released == 4);
	AWAIT(&r->w, r->w.depth == 0);
	primary_detach(r->p, "the peer is silent");
	CU_ASSERT_EQUAL(r->w.pstate, PRI_UNLINKED);
	standby_detach(r->s, "the peer is silent");
	CU_ASSERT_EQUAL(r->w.sstate, SB_LOST);
	judge(r);
	rig_down(r);
	free(r);
}

/* The engine gives up the link, never the guest, whatever fails where. */
static void fail_at(int op, int who, uint64_t epoch)
{
	struct rig *r = malloc(sizeof(*r));

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	r->w.fail_op = op;
	r->w.fail_who = who;
	r->w.fail_epoch = epoch;
	rig_primary(r, 200, 3);
	rig_standby(r);
	rig_link(r, 1 << 16, -1, NULL);
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.pstate == PRI_ALONE || r->w.pstate == PRI_UNLINKED);
	AWAIT(&r->w, r->w.sstate == SB_EMPTY || r->w.sstate == SB_LOST);
	primary_detach(r->p, "test");
	standby_detach(r->s, "test");
	CU_ASSERT_TRUE(r->w.released <= epoch || epoch == UINT64_MAX || op == OP_APPLY);
	CU_ASSERT_TRUE(strstr(r->w.pwhy, "told to fail") ||
		       strstr(r->w.swhy, "told to fail") || op == OP_PAUSE);
	CU_ASSERT_EQUAL(count(&r->w, OP_UNLINKED), FAKES);
	CU_ASSERT_EQUAL(count(&r->w, OP_DROP), FAKES);
	if (op != OP_APPLY)
		judge(r);
	rig_down(r);
	free(r);
}

static void any_step_fails(void)
{
	static const enum fake_op early[] = {OP_SYNC_BEGIN, OP_SYNC_ROUND, OP_PEER_RECORD,
					     OP_PAUSE, OP_HELLO};
	static const enum fake_op in_epoch[] = {OP_CAPTURE, OP_SEND, OP_RECORD, OP_CHECK};

	for (int who = 0; who < FAKES; who++) {
		for (unsigned i = 0; i < sizeof(early) / sizeof(early[0]); i++)
			fail_at(early[i], who, UINT64_MAX);
		for (unsigned i = 0; i < sizeof(in_epoch) / sizeof(in_epoch[0]); i++)
			for (uint64_t e = 0; e < 3; e++)
				fail_at(in_epoch[i], who, e);
	}
}

/* Acked, and then it cannot be applied: this standby is at no epoch at all. */
static void apply_fails(void)
{
	struct rig *r = malloc(sizeof(*r));
	struct err err = {0};

	for (uint64_t e = 0; e < 3; e++)
		fail_at(OP_APPLY, 1, e);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	r->w.fail_op = OP_APPLY;
	r->w.fail_who = 2;
	r->w.fail_epoch = 2;
	rig_primary(r, 200, 1);
	rig_standby(r);
	rig_link(r, 1 << 16, -1, NULL);
	rig_attach(r, 1);
	/* The ack went out before the failure: the primary may have captured one more. */
	AWAIT(&r->w, r->w.sstate == SB_EMPTY && r->w.captured >= 3);
	AWAIT(&r->w, r->w.pstate == PRI_UNLINKED);
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), -EPERM);
	CU_ASSERT_TRUE(PEEK(&r->w, r->w.held));
	rig_down(r);
	free(r);
}

/* A record that shows the standby's memory or disk to be damaged: whatever it acked, it never runs. */
static void damaged(void)
{
	struct rig *r = malloc(sizeof(*r));
	struct err err = {0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	rig_primary(r, 200, 2);
	rig_standby(r);
	r->w.fail_op = OP_RECORD;
	r->w.fail_who = 1;
	r->w.fail_epoch = 3;
	r->w.fail_rc = -EIO;
	rig_link(r, 1 << 16, -1, NULL);
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.pstate == PRI_UNLINKED);
	AWAIT(&r->w, r->w.sstate == SB_EMPTY || r->w.sstate == SB_LOST);
	CU_ASSERT_TRUE(r->w.released <= 3);
	CU_ASSERT_EQUAL(r->w.sstate, SB_EMPTY);
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), -EPERM);
	rig_down(r);
	free(r);
}

static void setup_fails(void)
{
	struct primary_config cfg = {.vm = "web", .interval_us = 100, .max_inflight = 1};
	struct rig *r = malloc(sizeof(*r));
	struct part part[FAKES];
	struct err err = {0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	rig_init(r);
	for (int i = 0; i < FAKES; i++)
		part[i] = (struct part){&fake_ops[i], &r->f[i]};
	r->w.fail_op = OP_SETUP;
	r->w.fail_who = 1;
	CU_ASSERT_EQUAL(primary_create(&cfg, part, FAKES, &r->p, &err), -EIO);
	CU_ASSERT_PTR_NULL(r->p);
	CU_ASSERT_EQUAL(count(&r->w, OP_SETUP), 2);
	CU_ASSERT_TRUE(find(&r->w, OP_TEARDOWN, 1, 0) >= 0); /* also who failed */
	CU_ASSERT_EQUAL(find(&r->w, OP_TEARDOWN, 2, 0), -1);
	cfg.interval_us = 0;
	CU_ASSERT_EQUAL(primary_create(&cfg, part, FAKES, &r->p, &err), -EINVAL);
	cfg.interval_us = 1;
	part[1] = part[0];
	CU_ASSERT_EQUAL(primary_create(&cfg, part, FAKES, &r->p, &err), -EINVAL);
	primary_destroy(NULL);
	standby_destroy(NULL);
	world_fini(&r->w);
	free(r);
}

static const struct unit_test tests[] = {
	{"cut at and in every record, both directions", cut_everywhere},
	{"a bit flipped in every record, both directions", flip_everywhere},
	{"a cable pulled", stall},
	{"any step of any participant fails", any_step_fails},
	{"an acked checkpoint that cannot be applied", apply_fails},
	{"a standby that is damaged", damaged},
	{"setup fails", setup_fails},
};

int main(void)
{
	return UNIT_MAIN("engine_cut", tests);
}
