/* SPDX-License-Identifier: Apache-2.0
 * test_engine - both engines in step: order of calls, commits, takeover, and what operators ask.
 */
#include "tests/unit/unit.h"

#include "remus/crashpoint.h"
#include "tests/unit/engine_fake.h"

#include <stdlib.h>

static struct rig *rig_new(void)
{
	struct rig *r = malloc(sizeof(*r));

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	return r;
}

static void rig_free(struct rig *r)
{
	rig_down(r);
	free(r);
}

/* The diary of some operations only, compared with what should be there from entry *at on. */
static void expect(const struct world *w, int *at, const enum fake_op *only, int n,
		   enum fake_op op, int who, uint64_t epoch)
{
	for (; *at < w->n; (*at)++)
		for (int i = 0; i < n; i++)
			if (w->diary[*at].op == only[i])
				goto found;
	CU_FAIL_FATAL("the diary is too short");
found:
	CU_ASSERT_EQUAL_FATAL(w->diary[*at].op, op);
	CU_ASSERT_EQUAL_FATAL(w->diary[*at].who, who);
	CU_ASSERT_EQUAL_FATAL(w->diary[*at].epoch, epoch);
	(*at)++;
}

static void primary_order(const struct world *w)
{
	static const enum fake_op guest[] = {OP_PAUSE, OP_CAPTURE, OP_RESUME};
	static const enum fake_op sender[] = {OP_SYNC_BEGIN, OP_SYNC_ROUND, OP_SEND};
	static const enum fake_op receiver[] = {OP_COMMITTED};
	int g = 0, s = 0, c = 0;

	for (int i = 0; i < FAKES; i++)
		expect(w, &s, sender, 3, OP_SYNC_BEGIN, i, 0);
	for (int i = 0; i < FAKES; i++)
		expect(w, &s, sender, 3, OP_SYNC_ROUND, i, 0);
	for (uint64_t e = 0; e < 4; e++) {
		for (int i = 0; i < FAKES; i++)
			expect(w, &g, guest, 3, OP_PAUSE, i, 0);
		for (int i = 0; i < FAKES; i++)
			expect(w, &g, guest, 3, OP_CAPTURE, i, e);
		for (int i = FAKES; i--;)
			expect(w, &g, guest, 3, OP_RESUME, i, 0);
		for (int i = 0; i < FAKES; i++)
			expect(w, &s, sender, 3, OP_SEND, i, e);
		for (int i = 0; i < FAKES; i++)
			expect(w, &c, receiver, 1, OP_COMMITTED, i, e);
		CU_ASSERT_TRUE(find(w, OP_CAPTURE, FAKES - 1, e) <
			       find(w, OP_SEND, 0, e));
		CU_ASSERT_TRUE(find(w, OP_SEND, FAKES - 1, e) < find(w, OP_CHECK, 0, e));
		CU_ASSERT_TRUE(find(w, OP_CHECK, FAKES - 1, e) <
			       find(w, OP_COMMITTED, 0, e));
	}
}

static void standby_order(const struct world *w)
{
	static const enum fake_op all[] = {OP_HELLO, OP_RECORD, OP_CHECK, OP_APPLY};
	int at = 0;

	for (int i = 0; i < FAKES; i++)
		expect(w, &at, all, 4, OP_HELLO, i, 0);
	for (int i = 0; i < FAKES; i++)
		expect(w, &at, all, 4, OP_RECORD, i, REC_EPOCH_SYNC);
	for (uint64_t e = 0; e < 4; e++) {
		expect(w, &at, all, 4, OP_RECORD, 0, e);
		expect(w, &at, all, 4, OP_RECORD, 1, e);
		expect(w, &at, all, 4, OP_RECORD, 1, e);
		expect(w, &at, all, 4, OP_RECORD, 2, e);
		for (int i = 0; i < FAKES; i++)
			expect(w, &at, all, 4, OP_CHECK, i, e);
		for (int i = 0; i < FAKES; i++)
			expect(w, &at, all, 4, OP_APPLY, i, e);
	}
}

static void order_of_all_calls(void)
{
	struct rig *r = rig_new();
	struct err err = {0};
	int n;

	rig_up(r, 500, 4);
	AWAIT(&r->w, r->w.released >= 4 && r->w.pstate == PRI_PROTECTED);
	CU_ASSERT_TRUE(PEEK(&r->w, r->w.held));
	primary_detach(r->p, "test");
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.pstate), PRI_UNLINKED);
	CU_ASSERT_STRING_EQUAL(r->w.pwhy, "test");
	standby_detach(r->s, "test");
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.sstate), SB_LOST);
	primary_order(&r->w);
	standby_order(&r->w);
	n = r->w.n;
	CU_ASSERT_TRUE(r->w.held);
	CU_ASSERT_EQUAL(count(&r->w, OP_UNLINKED), FAKES);
	CU_ASSERT_EQUAL(count(&r->w, OP_ALONE), 0);
	CU_ASSERT_EQUAL(primary_alone(r->p, 2, &err), 0);
	for (int i = 0; i < FAKES; i++) {
		CU_ASSERT_EQUAL(r->w.diary[n + i].op, OP_ALONE);
		CU_ASSERT_EQUAL(r->w.diary[n + i].who, i);
	}
	CU_ASSERT_FALSE(r->w.held);
	CU_ASSERT_EQUAL(r->w.pstate, PRI_ALONE);
	CU_ASSERT_EQUAL(r->w.pterm, 2);
	n = r->w.n;
	primary_destroy(r->p);
	r->p = NULL;
	for (int i = 0; i < FAKES; i++) {
		CU_ASSERT_EQUAL(r->w.diary[n + i].op, OP_TEARDOWN);
		CU_ASSERT_EQUAL(r->w.diary[n + i].who, FAKES - 1 - i);
	}
	CU_ASSERT_EQUAL(r->w.depth, 0);
	rig_free(r);
}

/* A gate that a crash point's hook waits at. */
static struct gate {
	pthread_mutex_t lock;
	pthread_cond_t open_cond;
	enum crash_point at;
	uint64_t epoch;
	int open;
	struct world *w;
	uint64_t verified; /* count of epochs that the standby has found whole */
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .open_cond = PTHREAD_COND_INITIALIZER};

static void at_gate(enum crash_point at, uint64_t epoch)
{
	pthread_mutex_lock(&gate.lock);
	if (at == CRASH_VERIFIED)
		gate.verified = epoch + 1;
	pthread_cond_broadcast(&gate.open_cond);
	/* Rule 1: never released before the standby has it. */
	if (at == CRASH_RELEASING)
		CU_ASSERT_TRUE(gate.verified > epoch);
	while (!gate.open && at == gate.at && epoch == gate.epoch)
		pthread_cond_wait(&gate.open_cond, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
}

static void gate_set(struct world *w, enum crash_point at, uint64_t epoch)
{
	gate.w = w;
	gate.at = at;
	gate.epoch = epoch;
	gate.open = 0;
	gate.verified = 0;
	crash_hook_set(at_gate);
}

static void gate_open(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.open = 1;
	pthread_cond_broadcast(&gate.open_cond);
	pthread_mutex_unlock(&gate.lock);
}

/* The standby has found epoch 0 whole. */
static void gate_verified(void)
{
	pthread_mutex_lock(&gate.lock);
	while (!gate.verified)
		pthread_cond_wait(&gate.open_cond, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
}

static void several_in_flight(void)
{
	struct rig *r = rig_new();
	struct primary_stats st;
	struct standby_stats ss;

	gate_set(&r->w, CRASH_VERIFIED, 2);
	rig_up(r, 200, 3);
	/* The standby has 2 whole but does not ack it: 2, 3 and 4 are captured, not 5. */
	AWAIT(&r->w, r->w.captured == 5);
	AWAIT(&r->w, r->w.released == 2);
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.in_flight_max), 3);
	/* The guest runs on and all of its output since epoch 2 is held. */
	AWAIT(&r->w, r->w.depth == 0);
	gate_open();
	AWAIT(&r->w, r->w.released >= 20);
	primary_detach(r->p, "test");
	standby_detach(r->s, "test");
	crash_hook_set(NULL);
	CU_ASSERT_TRUE(r->w.in_flight_max <= 3);
	primary_stats(r->p, &st);
	standby_stats(r->s, &ss);
	CU_ASSERT_TRUE(st.acked != UINT64_MAX && st.acked + 1 == r->w.released);
	CU_ASSERT_TRUE(ss.acked >= st.acked);
	CU_ASSERT_EQUAL(ss.applied, ss.acked);
	CU_ASSERT_EQUAL(r->w.applied_value, r->w.value_of[ss.acked]);
	CU_ASSERT_EQUAL(st.commit.count, r->w.released);
	CU_ASSERT_EQUAL(st.pause.count, r->w.captured);
	CU_ASSERT_EQUAL(st.capture_part[2].count, r->w.captured);
	CU_ASSERT_EQUAL(st.dirty_pages.max, 5);
	/* The last one's ack may be here before its sender is told that the link ended. */
	CU_ASSERT_TRUE(st.pages_sent >= 5 * (r->w.released - 1));
	CU_ASSERT_TRUE(st.bytes_raw >= st.bytes_sent);
	rig_free(r);
}

static void released_only_after_ack(void)
{
	struct rig *r = rig_new();

	gate_set(&r->w, CRASH_VERIFIED, 0);
	rig_up(r, 200, 8);
	/* Everything is captured and sent, even whole on the other side: still nothing goes. */
	AWAIT(&r->w, r->w.captured == 8);
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.released), 0);
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.pstate), PRI_ARMED);
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.sstate), SB_SYNCING);
	gate_open();
	AWAIT(&r->w, r->w.released >= 8 && r->w.pstate == PRI_PROTECTED);
	crash_hook_set(NULL);
	rig_free(r);
}

static void never_runs_without_commit(void)
{
	struct rig *r = rig_new();
	struct err err = {0};

	rig_init(r);
	rig_standby(r);
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), -EPERM);
	gate_set(&r->w, CRASH_VERIFIED, 0);
	rig_primary(r, 500, 2);
	rig_link(r, 1 << 16, -1, NULL);
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.captured == 2);
	gate_verified();
	/* ARMED was sent, checkpoint 0 is whole, but not acked. */
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), -EPERM);
	primary_detach(r->p, "test");
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.pstate), PRI_UNLINKED);
	gate_open();
	crash_hook_set(NULL);
	rig_free(r);
}

static void takeover_fences(void)
{
	struct rig *r = rig_new();
	struct standby_stats ss;
	struct err err = {0};

	rig_up(r, 500, 2);
	AWAIT(&r->w, r->w.released >= 3);
	CU_ASSERT_EQUAL(standby_activate(r->s, 1, &err), -EINVAL); /* no new term */
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), 0);
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.sstate), SB_ACTIVE);
	AWAIT(&r->w, r->w.pstate == PRI_FENCED);
	CU_ASSERT_EQUAL(r->w.pterm, 2);
	CU_ASSERT_EQUAL(r->w.depth, FAKES); /* paused for good */
	CU_ASSERT_TRUE(r->w.held);
	standby_stats(r->s, &ss);
	CU_ASSERT_EQUAL(ss.term, 2);
	CU_ASSERT_EQUAL(ss.applied, ss.acked);
	CU_ASSERT_TRUE(r->w.released <= ss.acked + 1);
	CU_ASSERT_EQUAL(r->w.applied_value, r->w.value_of[ss.acked]);
	CU_ASSERT_EQUAL(count(&r->w, OP_ACTIVATE), FAKES);
	CU_ASSERT_EQUAL(primary_alone(r->p, 3, &err), -EPERM);
	CU_ASSERT_EQUAL(standby_activate(r->s, 3, &err), -EPERM);
	primary_destroy(r->p);
	CU_ASSERT_EQUAL(r->w.depth, FAKES);
	r->p = NULL;
	rig_free(r);
}

struct grantee {
	struct rig *r;
	int rc;
};

static void *grantee_main(void *arg)
{
	struct grantee *g = arg;
	struct err err = {0};

	g->rc = standby_activate(g->r->s, 2, &err);
	return NULL;
}

enum { LAST = 2 };

/* Rule 3: the grant comes when epoch LAST is acked, and no participant (or the first only)
 * has applied it. It is applied by all, and only then does anybody activate. */
static void granted_at(enum crash_point at)
{
	struct rig *r = rig_new();
	struct grantee g = {.r = r};
	struct standby_stats ss;
	pthread_t t;

	gate_set(&r->w, at, LAST);
	rig_up(r, 500, 1);
	AWAIT(&r->w, r->w.released == LAST + 1);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, grantee_main, &g), 0);
	/* The activation is under way, and waits: the old primary was told. */
	AWAIT(&r->w, r->w.pstate == PRI_FENCED);
	CU_ASSERT_EQUAL(PEEK(&r->w, count(&r->w, OP_ACTIVATE)), 0);
	CU_ASSERT_EQUAL(PEEK(&r->w, find(&r->w, OP_APPLY, FAKES - 1, LAST)), -1);
	gate_open();
	pthread_join(t, NULL); /* it was created */
	crash_hook_set(NULL);
	CU_ASSERT_EQUAL(g.rc, 0);
	standby_stats(r->s, &ss);
	CU_ASSERT_EQUAL(ss.acked, LAST);
	CU_ASSERT_EQUAL(ss.applied, LAST);
	CU_ASSERT_EQUAL(r->w.applied_value, r->w.value_of[LAST]);
	for (int i = 0; i < FAKES; i++) {
		CU_ASSERT_TRUE(find(&r->w, OP_APPLY, i, LAST) >= 0);
		CU_ASSERT_TRUE(find(&r->w, OP_APPLY, i, LAST) <
			       find(&r->w, OP_ACTIVATE, FAKES - 1, 0));
		CU_ASSERT_EQUAL(find(&r->w, OP_APPLY, i, LAST + 1), -1);
	}
	rig_free(r);
}

static void granted_before_applied(void)
{
	granted_at(CRASH_ACK_SENT);
	granted_at(CRASH_APPLYING);
}

/* A granted standby is offered a link of the old term: it says FENCED, and never acks. */
static void old_term_is_told(void)
{
	struct rig *r = rig_new();
	struct err err = {0};

	rig_up(r, 500, 2);
	AWAIT(&r->w, r->w.sstate == SB_READY);
	primary_detach(r->p, "test");
	AWAIT(&r->w, r->w.sstate == SB_LOST);
	CU_ASSERT_EQUAL(standby_activate(r->s, 5, &err), 0);
	CU_ASSERT_EQUAL(primary_alone(r->p, 2, &err), 0); /* a mistaken override */
	rig_link(r, 1 << 16, -1, NULL);
	CU_ASSERT_EQUAL(primary_attach(r->p, r->end[0], 2, &err), 0);
	CU_ASSERT_EQUAL(standby_attach(r->s, r->end[1], 2, &err), -EBUSY);
	AWAIT(&r->w, r->w.pstate == PRI_FENCED);
	CU_ASSERT_EQUAL(r->w.pterm, 5);
	CU_ASSERT_EQUAL(r->w.depth, FAKES);
	rig_free(r);
}

static void detach_before_armed(void)
{
	struct rig *r = rig_new();

	gate_set(&r->w, CRASH_RESUMED, 0);
	rig_up(r, 500, 2);
	/* Captured but not handed over: ARMED cannot have been sent. */
	AWAIT(&r->w, r->w.captured == 1);
	tp_shutdown(r->end[1]);
	gate_open();
	AWAIT(&r->w, count(&r->w, OP_ALONE) == FAKES);
	AWAIT(&r->w, r->w.pstate == PRI_ALONE);
	CU_ASSERT_FALSE(PEEK(&r->w, r->w.held));
	AWAIT(&r->w, r->w.sstate == SB_EMPTY);
	crash_hook_set(NULL);
	/* And again from the start. */
	rig_link(r, 1 << 16, -1, NULL);
	pthread_mutex_lock(&r->w.lock);
	r->w.captured = r->w.released = 0;
	pthread_mutex_unlock(&r->w.lock);
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.released >= 2 && r->w.pstate == PRI_PROTECTED);
	rig_free(r);
}

static void detach_while_blocked(void)
{
	struct rig *r = rig_new();
	struct err err = {0};
	struct tp *mute;

	/* Nobody reads at the other end, and the buffer is smaller than one HELLO. */
	rig_init(r);
	rig_primary(r, 500, 2);
	rig_link(r, 64, -1, NULL);
	mute = r->end[1];
	CU_ASSERT_EQUAL(primary_attach(r->p, r->end[0], 1, &err), 0);
	primary_detach(r->p, "test");
	CU_ASSERT_EQUAL(r->w.pstate, PRI_ALONE);
	tp_close(mute);
	/* A standby that waits for a primary which never speaks. */
	rig_standby(r);
	rig_link(r, 64, -1, NULL);
	mute = r->end[0];
	CU_ASSERT_EQUAL(standby_attach(r->s, r->end[1], 1, &err), 0);
	standby_detach(r->s, "test");
	CU_ASSERT_EQUAL(r->w.sstate, SB_EMPTY);
	tp_close(mute);
	rig_free(r);
}

static void one_link_at_a_time(void)
{
	struct rig *r = rig_new();
	struct err err = {0};

	rig_up(r, 500, 2);
	rig_link(r, 1 << 10, -1, NULL);
	CU_ASSERT_EQUAL(primary_attach(r->p, r->end[0], 1, &err), -EBUSY);
	CU_ASSERT_EQUAL(standby_attach(r->s, r->end[1], 1, &err), -EBUSY);
	CU_ASSERT_EQUAL(primary_alone(r->p, 9, &err), -EBUSY);
	AWAIT(&r->w, r->w.released >= 2);
	primary_detach(r->p, "test");
	AWAIT(&r->w, r->w.sstate == SB_LOST);
	CU_ASSERT_EQUAL(primary_alone(r->p, 1, &err),
			-EINVAL); /* the standby's may be 2 */
	rig_link(r, 1 << 10, -1, NULL);
	CU_ASSERT_EQUAL(primary_attach(r->p, r->end[0], 2, &err), -EBUSY); /* UNLINKED */
	CU_ASSERT_EQUAL(standby_attach(r->s, r->end[1], 2, &err), -EBUSY); /* LOST */
	CU_ASSERT_EQUAL(primary_alone(r->p, 2, &err), 0);
	rig_link(r, 1 << 10, -1, NULL);
	CU_ASSERT_EQUAL(primary_attach(r->p, r->end[0], 1, &err), -EINVAL);
	tp_close(r->end[1]);
	rig_free(r);
}

static void finish_says_bye(void)
{
	struct rig *r = rig_new();
	struct err err = {0};
	struct standby_stats ss;

	rig_up(r, 1000000000, 2);
	AWAIT(&r->w, r->w.pstate == PRI_PROTECTED);
	CU_ASSERT_EQUAL(primary_finish(r->p, AWAIT_S * 1000), 0);
	CU_ASSERT_EQUAL(r->w.pstate, PRI_ALONE);
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.released), r->w.captured);
	AWAIT(&r->w, r->w.bye && r->w.sstate == SB_EMPTY);
	standby_stats(r->s, &ss);
	CU_ASSERT_EQUAL(ss.applied + 1, r->w.captured);
	CU_ASSERT_EQUAL(standby_activate(r->s, 2, &err), -EPERM);
	CU_ASSERT_EQUAL(primary_finish(r->p, 1000), 0); /* alone: nothing to tell */
	rig_free(r);
}

static void finish_unheard(void)
{
	struct rig *r = rig_new();

	gate_set(&r->w, CRASH_VERIFIED, 1);
	rig_up(r, 1000000000, 2);
	AWAIT(&r->w, r->w.pstate == PRI_PROTECTED);
	CU_ASSERT_EQUAL(primary_finish(r->p, 50), -ETIMEDOUT);
	CU_ASSERT_EQUAL(r->w.pstate, PRI_UNLINKED);
	CU_ASSERT_TRUE(PEEK(&r->w, r->w.held));
	CU_ASSERT_EQUAL(PEEK(&r->w, r->w.released), 1);
	CU_ASSERT_EQUAL(primary_finish(r->p, 50), -ENOTCONN);
	gate_open();
	AWAIT(&r->w, r->w.sstate == SB_LOST);
	crash_hook_set(NULL);
	rig_free(r);
}

static int in_between(void *arg)
{
	struct world *w = arg;

	CU_ASSERT_EQUAL(PEEK(w, w->depth), FAKES);
	return -42;
}

static void between_epochs(void)
{
	struct rig *r = rig_new();

	rig_up(r, 100, 4);
	for (int i = 0; i < 200; i++)
		CU_ASSERT_EQUAL(primary_between(r->p, in_between, &r->w), -42);
	AWAIT(&r->w, r->w.released >= 3);
	primary_fence(r->p, 7);
	CU_ASSERT_EQUAL(r->w.pstate, PRI_FENCED);
	CU_ASSERT_EQUAL(r->w.pterm, 7);
	CU_ASSERT_EQUAL(r->w.depth, FAKES);
	CU_ASSERT_EQUAL(primary_between(r->p, in_between, &r->w), -EPERM);
	primary_fence(r->p, 8); /* again: nothing more happens */
	CU_ASSERT_EQUAL(r->w.depth, FAKES);
	rig_free(r);
}

static void fenced_alone(void)
{
	struct rig *r = rig_new();
	struct err err = {0};

	rig_init(r);
	rig_primary(r, 100, 4);
	CU_ASSERT_EQUAL(primary_alone(r->p, 3, &err), 0);
	primary_fence(r->p, 4);
	CU_ASSERT_EQUAL(r->w.pstate, PRI_FENCED);
	CU_ASSERT_EQUAL(r->w.depth, FAKES);
	rig_free(r);
}

static void a_request_ends_the_epoch(void)
{
	struct rig *r = rig_new();
	struct primary_stats st;
	struct epoch_trigger t;

	rig_up(r, 4000000000u, 8); /* an epoch of more than an hour */
	t = primary_trigger(r->p);
	AWAIT(&r->w, r->w.released == 1);
	for (uint64_t i = 2; i < 10; i++) {
		t.request(t.arg, "output waits");
		AWAIT(&r->w, r->w.released == i);
	}
	primary_stats(r->p, &st);
	CU_ASSERT_EQUAL(st.early_epochs, 8);
	CU_ASSERT_EQUAL(st.interval.count, 8);
	rig_free(r);
}

static const struct unit_test tests[] = {
	{"order of all calls", order_of_all_calls},
	{"several epochs in flight, and no more", several_in_flight},
	{"output goes only after the ack", released_only_after_ack},
	{"a standby without a commit never runs", never_runs_without_commit},
	{"takeover fences the primary that still lives", takeover_fences},
	{"granted between ack and apply: applied first", granted_before_applied},
	{"a link of an old term is told FENCED", old_term_is_told},
	{"lost before ARMED: alone without a grant", detach_before_armed},
	{"detach while blocked", detach_while_blocked},
	{"one link at a time, terms only grow", one_link_at_a_time},
	{"finish: last checkpoint and BYE", finish_says_bye},
	{"finish that nobody confirms", finish_unheard},
	{"operators' actions fall between epochs", between_epochs},
	{"fenced while alone", fenced_alone},
	{"a request ends the epoch", a_request_ends_the_epoch},
};

int main(void)
{
	return UNIT_MAIN("engine", tests);
}
