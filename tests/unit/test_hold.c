/* SPDX-License-Identifier: Apache-2.0
 * test_hold - the guest is held at a checkpoint for both hosts to save it: what each has is that
 * checkpoint, and whatever fails, it goes on somewhere.
 */
#include "tests/unit/unit.h"

#include "tests/unit/engine_fake.h"

#include <stdlib.h>

enum { MS = 20000, NOT_LONG_MS = 50 };

struct held {
	struct rig r;
	uint64_t epoch;	    /* that the primary was held at */
	uint64_t guest;	    /* the number then */
	int fn_rc, save_rc; /* what is to be answered */
	uint64_t
		asked; /* epoch that the standby was asked to save, a count; under w.lock */
	pthread_t thread;
	int between_done; /* under w.lock */
};

static int on_hold(void *arg, uint64_t epoch)
{
	struct held *h = arg;

	pthread_mutex_lock(&h->r.w.lock);
	h->epoch = epoch;
	h->guest = h->r.w.guest;
	pthread_mutex_unlock(&h->r.w.lock);
	return h->fn_rc;
}

static int on_save(void *arg, uint64_t epoch)
{
	struct held *h = (struct held *)((char *)arg - offsetof(struct held, r.w));

	pthread_mutex_lock(&h->r.w.lock);
	h->asked = epoch + 1;
	pthread_cond_broadcast(&h->r.w.news);
	pthread_mutex_unlock(&h->r.w.lock);
	return h->save_rc;
}

static struct held *up(int linked)
{
	struct standby_config cfg = {
		.vm = "web", .on_state = on_standby, .on_save = on_save};
	struct held *h = calloc(1, sizeof(*h));
	struct standby_part part[FAKES];
	struct err err = {0};
	struct rig *r;

	CU_ASSERT_PTR_NOT_NULL_FATAL(h);
	r = &h->r;
	rig_init(r);
	rig_primary(r, 1000, 2);
	cfg.arg = &r->w;
	for (int i = 0; i < FAKES; i++)
		part[i] = (struct standby_part){&sfake_ops[i], &r->f[i]};
	CU_ASSERT_EQUAL_FATAL(standby_create(&cfg, part, FAKES, &r->s, &err), 0);
	if (!linked)
		return h;
	rig_link(r, 1 << 16, -1, NULL);
	rig_attach(r, 1);
	AWAIT(&r->w, r->w.pstate == PRI_PROTECTED && r->w.released > 3);
	return h;
}

static void down(struct held *h)
{
	rig_down(&h->r);
	free(h);
}

static int hold(struct held *h)
{
	struct err err = {0};
	int rc = primary_hold(h->r.p, on_hold, h, MS, &err);

	CU_ASSERT_EQUAL(rc, err.code);
	return rc;
}

static uint64_t resumed(struct held *h)
{
	uint64_t n;

	pthread_mutex_lock(&h->r.w.lock);
	n = h->r.w.guest;
	pthread_mutex_unlock(&h->r.w.lock);
	return n;
}

static void protected_and_saved(void)
{
	struct held *h = up(1);
	struct world *w = &h->r.w;

	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	AWAIT(w, h->asked == h->epoch + 1);
	/* All of it: what was captured last is acked, released and applied, and the guest stands. */
	CU_ASSERT_EQUAL(w->captured, h->epoch + 1);
	CU_ASSERT_EQUAL(w->released, h->epoch + 1);
	AWAIT(w, w->applied_value == w->value_of[h->epoch]);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, NOT_LONG_MS), -ETIMEDOUT);
	CU_ASSERT_EQUAL(resumed(h), h->guest);
	/* Until BYE the standby could take over. */
	CU_ASSERT_EQUAL(w->sstate, SB_READY);
	standby_saved(h->r.s, h->epoch, 0);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, MS), 0);
	CU_ASSERT_EQUAL(w->sstate, SB_READY);
	CU_ASSERT_EQUAL(primary_hold_done(h->r.p, MS), 0);
	AWAIT(w, w->sstate == SB_EMPTY);
	CU_ASSERT_EQUAL(w->bye, STANDBY_BYE_SAVED);
	CU_ASSERT_EQUAL(resumed(h), h->guest);
	CU_ASSERT_TRUE(w->depth > 0);
	down(h);
}

static void called_off(void)
{
	struct held *h = up(1);
	struct world *w = &h->r.w;
	uint64_t released;

	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	AWAIT(w, h->asked);
	primary_hold_end(h->r.p);
	released = w->released;
	AWAIT(w, w->released > released + 5);
	CU_ASSERT_EQUAL(w->pstate, PRI_PROTECTED);
	/* An answer that comes too late does no harm, and is none to the next question. */
	standby_saved(h->r.s, h->epoch, 0);
	h->asked = 0;
	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	AWAIT(w, h->asked == h->epoch + 1);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, NOT_LONG_MS), -ETIMEDOUT);
	standby_saved(h->r.s, h->epoch, -EIO);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, MS), -EIO);
	primary_hold_end(h->r.p);
	released = w->released;
	AWAIT(w, w->released > released + 5);
	/* What ends in good order after that was not saved. */
	CU_ASSERT_EQUAL(primary_finish(h->r.p, MS), 0);
	AWAIT(w, w->sstate == SB_EMPTY);
	CU_ASSERT_EQUAL(w->bye, 1);
	CU_ASSERT_EQUAL(w->depth, 0);
	down(h);
}

static void standby_cannot(void)
{
	struct held *h = up(1);

	h->save_rc = -ENOSPC;
	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, MS), -EIO);
	primary_hold_end(h->r.p);
	AWAIT(&h->r.w, h->r.w.released > h->epoch + 3);
	down(h);
}

static void nobody_wants_it(void)
{
	struct held *h = up(1);

	h->fn_rc = -ENOMEM;
	CU_ASSERT_EQUAL(hold(h), -ENOMEM);
	AWAIT(&h->r.w, h->r.w.released > h->epoch + 3);
	CU_ASSERT_EQUAL(h->asked, 0);
	CU_ASSERT_EQUAL(h->r.w.pstate, PRI_PROTECTED);
	down(h);
}

static void alone(void)
{
	struct held *h = up(0);
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	CU_ASSERT_EQUAL(h->epoch, UINT64_MAX);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, MS), 1);
	CU_ASSERT_EQUAL(hold(h), -EBUSY);
	/* No standby now. */
	rig_link(&h->r, 1 << 16, -1, NULL);
	CU_ASSERT_EQUAL(standby_attach(h->r.s, h->r.end[1], 1, &err), 0);
	CU_ASSERT_EQUAL(primary_attach(h->r.p, h->r.end[0], 1, &err), -EBUSY);
	CU_ASSERT_TRUE(h->r.w.depth > 0);
	primary_hold_end(h->r.p);
	CU_ASSERT_EQUAL(h->r.w.depth, 0);
	h->fn_rc = -EIO;
	CU_ASSERT_EQUAL(hold(h), -EIO);
	CU_ASSERT_EQUAL(h->r.w.depth, 0);
	h->fn_rc = 0;
	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	CU_ASSERT_EQUAL(primary_hold_done(h->r.p, MS), 0);
	CU_ASSERT_TRUE(h->r.w.depth > 0);
	down(h);
}

/* The primary's host dies when it is held: the guest goes on from there. */
static void lost_while_held(void)
{
	struct held *h = up(1);
	struct world *w = &h->r.w;
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	AWAIT(w, h->asked);
	standby_saved(h->r.s, h->epoch, 0);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, MS), 0);
	primary_detach(h->r.p, "its host is dead");
	CU_ASSERT_EQUAL(w->pstate, PRI_UNLINKED);
	CU_ASSERT_EQUAL(primary_hold_wait(h->r.p, MS), -ENOTCONN);
	CU_ASSERT_EQUAL(primary_hold_done(h->r.p, MS), -ENOTCONN);
	AWAIT(w, w->sstate == SB_LOST);
	CU_ASSERT_EQUAL(w->bye, 0);
	CU_ASSERT_EQUAL(standby_activate(h->r.s, 2, &err), 0);
	CU_ASSERT_EQUAL(w->applied_value, w->value_of[h->epoch]);
	primary_hold_end(h->r.p);
	CU_ASSERT_EQUAL(w->depth, 0);
	down(h);
}

static void fenced_while_held(void)
{
	struct held *h = up(1);

	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	primary_fence(h->r.p, 9);
	CU_ASSERT_EQUAL(h->r.w.pstate, PRI_FENCED);
	CU_ASSERT_EQUAL(resumed(h), h->guest);
	down(h);
}

static int nothing(void *arg)
{
	return 7;
}

static int again(void *arg)
{
	++*(int *)arg;
	return -EAGAIN;
}

static void *between_main(void *arg)
{
	struct held *h = arg;
	int rc = primary_between(h->r.p, nothing, NULL);

	pthread_mutex_lock(&h->r.w.lock);
	h->between_done = rc;
	pthread_cond_broadcast(&h->r.w.news);
	pthread_mutex_unlock(&h->r.w.lock);
	return NULL;
}

/* A reboot that is asked for meanwhile comes after it. */
static void others_wait(void)
{
	struct held *h = up(0);
	int calls = 0;

	CU_ASSERT_EQUAL_FATAL(hold(h), 0);
	CU_ASSERT_FATAL(!pthread_create(&h->thread, NULL, between_main, h));
	CU_ASSERT_EQUAL(hold(h), -EBUSY); /* commands are served, and it is not done */
	CU_ASSERT_EQUAL(h->between_done, 0);
	primary_hold_end(h->r.p);
	AWAIT(&h->r.w, h->between_done == 7);
	pthread_join(h->thread, NULL);
	/* What it returns is its own business. */
	CU_ASSERT_EQUAL(primary_between(h->r.p, again, &calls), -EAGAIN);
	CU_ASSERT_EQUAL(calls, 1);
	down(h);
}

static void wrong_moments(void)
{
	struct held *h = up(1);

	primary_detach(h->r.p, "a test");
	CU_ASSERT_EQUAL(hold(h), -ENOTCONN);
	primary_fence(h->r.p, 5);
	CU_ASSERT_EQUAL(hold(h), -EPERM);
	down(h);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"protected, and saved on both", protected_and_saved},
		{"called off, and again", called_off},
		{"the standby cannot", standby_cannot},
		{"nobody wants it", nobody_wants_it},
		{"alone", alone},
		{"lost while held", lost_while_held},
		{"fenced while held", fenced_while_held},
		{"others wait", others_wait},
		{"wrong moments", wrong_moments},
	};
	return UNIT_MAIN("hold", tests);
}
