/* SPDX-License-Identifier: Apache-2.0
 * test_pair_machine - the pair machine by itself: single steps, names, and any event in any state.
 */
#include "tests/unit/pairstep.h"
#include "tests/unit/unit.h"

#include <string.h>

/* The grant is on disk before the VM hears of it, however often the disk fails. */
static void test_stored_first(void)
{
	struct pair p = machine(NULL);
	struct pair_actions a = give(&p, (struct pair_event){.kind = PAIR_EV_START});

	CU_ASSERT(find(&a, PAIR_DO_READ) != NULL);
	(void)give(&p, stored(&p, 1)); /* that it is wanted */
	a = give(&p, arbiter(&p, PAIR_ARB_VALUE, 0, 0));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_CLAIM) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM)->u.claim.from, 0);
	a = give(&p, arbiter(&p, PAIR_ARB_GRANTED, 1, 1));
	CU_ASSERT_EQUAL(p.state, PAIR_ACTIVATING);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.term, 1);
	for (int i = 0; i < 3; i++) {
		a = give(&p, stored(&p, 0));
		CU_ASSERT(find(&a, PAIR_DO_VM_BOOT) == NULL);
		CU_ASSERT(pair_deadline(&p) > p.now);
		p.now = pair_deadline(&p);
		a = give(&p, (struct pair_event){.kind = PAIR_EV_TICK});
		CU_ASSERT(find(&a, PAIR_DO_STORE) != NULL);
	}
	a = give(&p, stored(&p, 1));
	CU_ASSERT(find(&a, PAIR_DO_VM_BOOT) != NULL);
}

/* Answers to questions of an earlier time change nothing. */
static void test_stale_answers(void)
{
	struct pair p = machine(NULL);
	struct pair_event ev;
	struct pair_actions a;

	(void)give(&p, (struct pair_event){.kind = PAIR_EV_START});
	ev = arbiter(&p, PAIR_ARB_GRANTED, 9, 1);
	ev.u.arbiter.id += 5;
	a = give(&p, ev);
	CU_ASSERT_EQUAL(p.state, PAIR_STARTING);
	ev = (struct pair_event){.kind = PAIR_EV_VM_EXITED, .instance = 77};
	a = give(&p, ev);
	CU_ASSERT_EQUAL(p.state, PAIR_STARTING);
	a = give(&p, (struct pair_event){.kind = PAIR_EV_CONNECTED});
	CU_ASSERT(find(&a, PAIR_DO_LINK_CLOSE) != NULL); /* a socket never leaks */
	ev = (struct pair_event){.kind = PAIR_EV_INCOMING, .u.term = 3};
	a = give(&p, ev);
	CU_ASSERT(find(&a, PAIR_DO_LINK_CLOSE) != NULL);
}

/* A READY of an older term, heard late, is no commit of the present one. */
static void test_outdated_ready(void)
{
	struct pair_record rec = {.term = 5, .wanted = 1};
	struct pair p = machine(&rec);
	struct pair_event ev = {.kind = PAIR_EV_PEER};
	struct pair_actions a;

	ev.u.peer = (struct pair_view){
		.state = PAIR_RUNNING_ALONE, .health = PAIR_VM_OK, .term = 5};
	a = give(&p, ev);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_VM_STANDBY) != NULL);
	ev.u.peer.term = 6;
	(void)give(&p, ev);
	ev = (struct pair_event){.kind = PAIR_EV_VM_STATE, .instance = p.instance};
	ev.u.vm_state.engine = PAIR_ENG_READY;
	ev.u.vm_state.term = 5;
	a = give(&p, ev);
	CU_ASSERT(find(&a, PAIR_DO_VM_FENCE) != NULL);
	CU_ASSERT_EQUAL(p.state, PAIR_FENCED);
}

/* The standby's process is gone, or gave the link up, and says so: that is not waited for. What it said before
 * it held a commit is no such word. */
static void test_standby_let_go(void)
{
	static const enum pair_state says[] = {PAIR_STANDBY_EMPTY, PAIR_STANDBY_SUSPECT};

	for (unsigned i = 0; i < 2; i++) {
		struct pair p = running_alone();
		struct pair_actions a;

		(void)peer(&p, PAIR_STANDBY_READY,
			   0); /* an older commit, of another term */
		(void)peer(&p, PAIR_STANDBY_EMPTY, 1);
		(void)engine(&p, PAIR_ENG_SYNCING);
		(void)engine(&p, PAIR_ENG_ARMED);
		a = engine(&p, PAIR_ENG_PROTECTED);
		CU_ASSERT_EQUAL(p.state, PAIR_PROTECTED);
		CU_ASSERT(find(&a, PAIR_DO_UNLINK) == NULL);
		a = peer(&p, PAIR_STANDBY_SUSPECT, 0);
		CU_ASSERT(find(&a, PAIR_DO_UNLINK) == NULL);
		a = peer(&p, PAIR_STANDBY_SYNCING, 1);
		CU_ASSERT(find(&a, PAIR_DO_UNLINK) == NULL);
		a = peer(&p, PAIR_STANDBY_READY, 1);
		CU_ASSERT(find(&a, PAIR_DO_UNLINK) == NULL);
		a = peer(&p, says[i], 1);
		CU_ASSERT(find(&a, PAIR_DO_UNLINK) != NULL);
		a = peer(&p, says[i], 1);
		CU_ASSERT(find(&a, PAIR_DO_UNLINK) == NULL); /* once is enough */
	}
}

/* Whoever runs it or may claim it gives way to a later term, whatever else is under way. */
static void test_later_term(void)
{
	for (int step = 0; step < 5; step++) {
		struct pair p = running_alone();
		struct pair_actions a;

		if (step >= 1)
			(void)engine(&p, PAIR_ENG_SYNCING);
		if (step >= 2)
			(void)engine(&p, PAIR_ENG_ARMED);
		if (step >= 3)
			(void)engine(&p, PAIR_ENG_PROTECTED);
		if (step >= 4)
			(void)engine(&p, PAIR_ENG_UNLINKED);
		(void)peer(&p, PAIR_RUNNING_ALONE, 1);
		CU_ASSERT_NOT_EQUAL(p.state, PAIR_FENCED);
		a = peer(&p, PAIR_ACTIVATING, 2);
		CU_ASSERT_FATAL(find(&a, PAIR_DO_VM_FENCE) != NULL);
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_VM_FENCE)->u.vm.term, 2);
		CU_ASSERT_EQUAL(p.state, PAIR_FENCED);
		CU_ASSERT_EQUAL(p.rec.term, 2);
		CU_ASSERT_EQUAL(p.rec.mine, 0);
		(void)give_kind(&p, PAIR_EV_VM_EXITED);
		CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
	}
}

/* A standby that claims, in term 5. */
static struct pair claiming(void)
{
	struct pair p = standby_empty();

	(void)incoming(&p, 5);
	settle(&p);
	(void)engine(&p, PAIR_ENG_SB_SYNCING);
	(void)engine(&p, PAIR_ENG_READY);
	(void)image(&p, 1);
	settle(&p);
	(void)give_kind(&p, PAIR_EV_PEER_LOST);
	CU_ASSERT_EQUAL_FATAL(p.state, PAIR_CLAIMING);
	CU_ASSERT_FATAL(p.arb_id != 0);
	return p;
}

/* Our VM was lost with the claim under way, and the claim succeeded: nobody but us can go on. If all
 * that was acked is on the disks it starts at once from there. */
static void test_late_grant(void)
{
	struct pair p = claiming();
	struct pair_actions a;

	(void)image_all(&p, 1, 1);
	a = give_kind(&p, PAIR_EV_VM_EXITED);
	CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
	(void)give(&p, arbiter(&p, PAIR_ARB_GRANTED, 6, 1));
	CU_ASSERT_EQUAL(p.term, 6);
	CU_ASSERT(p.rec.mine && p.rec.term == 6);
	if (p.vm_up) { /* a new standby, on its way out */
		CU_ASSERT_EQUAL(p.state, PAIR_FENCED);
		(void)give_kind(&p, PAIR_EV_VM_EXITED);
	}
	CU_ASSERT_EQUAL(p.state, PAIR_STARTING);
	a = give(&p, arbiter(&p, PAIR_ARB_VALUE, 6, 1));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_CLAIM) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM)->u.claim.from, 6);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM)->u.claim.from_mine, 1);
}

/* The same when what was acked is not all durable: the other host's disks are later. It says so and
 * does not start, now or after a restart, until the other has taken the next term. */
static void test_hands_over(void)
{
	struct pair p = claiming();
	struct pair_event cold = {.kind = PAIR_EV_OVERRIDE};
	struct pair_actions a;
	char why[128];

	(void)give_kind(&p, PAIR_EV_VM_EXITED);
	(void)give(&p, arbiter(&p, PAIR_ARB_GRANTED, 6, 1));
	if (p.vm_up)
		(void)give_kind(&p, PAIR_EV_VM_EXITED);
	for (int life = 0; life < 2; life++) {
		CU_ASSERT_EQUAL(p.state, PAIR_STARTING);
		a = give(&p, arbiter(&p, PAIR_ARB_VALUE, 6, 1));
		CU_ASSERT(find(&a, PAIR_DO_CLAIM) == NULL);
		CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
		CU_ASSERT(pair_view(&p).flags & PAIR_VIEW_HANDS_OVER);
		CU_ASSERT_EQUAL(pair_view(&p).term, 6);
		CU_ASSERT(p.rec.behind);
		/* An operator may know that the other host will not come back. */
		cold.u.override.cold = 1;
		CU_ASSERT(pair_accepts(&p, &cold, why, sizeof(why)));
		if (life)
			break;
		p = machine(&p.rec);
		(void)give_kind(&p, PAIR_EV_START);
	}
	(void)peer(&p, PAIR_ACTIVATING, 7);
	CU_ASSERT_EQUAL(p.term, 7);
	CU_ASSERT(!(pair_view(&p).flags & PAIR_VIEW_HANDS_OVER));
}

/* The old primary, which followed: it claims from the other, if its own disks are whole and late. */
static void test_is_handed_over(void)
{
	for (int bad = 0; bad < 3; bad++) {
		struct pair_record rec = {.term = 6,
					  .wanted = 1,
					  .incomplete = bad == 1,
					  .behind = bad == 2};
		struct pair p = machine(&rec);
		struct pair_event ev = {.kind = PAIR_EV_PEER};
		struct pair_actions a;

		(void)give_kind(&p, PAIR_EV_START);
		(void)give(&p, arbiter(&p, PAIR_ARB_VALUE, 6, 0));
		CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
		ev.u.peer = (struct pair_view){.state = PAIR_STANDBY_EMPTY,
					       .health = PAIR_VM_OK,
					       .flags = PAIR_VIEW_HANDS_OVER,
					       .term = 6};
		(void)give(&p, ev);
		CU_ASSERT_EQUAL(p.state == PAIR_STANDBY_EMPTY, bad != 0);
		if (bad)
			continue;
		if (p.vm_up)
			(void)give_kind(&p, PAIR_EV_VM_EXITED);
		CU_ASSERT_EQUAL(p.state, PAIR_STARTING);
		a = give(&p, arbiter(&p, PAIR_ARB_VALUE, 6, 0));
		CU_ASSERT_FATAL(find(&a, PAIR_DO_CLAIM) != NULL);
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM)->u.claim.from, 6);
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM)->u.claim.from_mine, 0);
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM)->u.claim.to, 7);
		(void)give(&p, arbiter(&p, PAIR_ARB_GRANTED, 7, 1));
		CU_ASSERT_EQUAL(p.state, PAIR_ACTIVATING);
		CU_ASSERT_EQUAL(p.rec.behind, 0);
	}
}

/* The peer told us before the arbiter did: its answer means nothing any more, and the claim that
 * may come next does not wait for it. */
static void test_late_refusal(void)
{
	struct pair p = running_alone();

	(void)engine(&p, PAIR_ENG_SYNCING);
	(void)engine(&p, PAIR_ENG_ARMED);
	(void)engine(&p, PAIR_ENG_PROTECTED);
	settle(&p);
	(void)engine(&p, PAIR_ENG_UNLINKED);
	(void)give_kind(&p, PAIR_EV_TICK);
	CU_ASSERT_FATAL(p.arb_id != 0);
	(void)peer(&p, PAIR_RUNNING_ALONE, 2);
	CU_ASSERT_EQUAL(p.state, PAIR_FENCED);
	(void)give(&p, arbiter(&p, PAIR_ARB_REFUSED, 2, 0));
	CU_ASSERT_EQUAL(p.arb_id, 0);
	CU_ASSERT_EQUAL(p.arb_retry_at, 0);
}

/* The peer's term is not ours to claim a cold start from, unless its guest ended in good order,
 * all of it is here, and somebody typed the start. */
static void test_cold_claim(void)
{
	for (unsigned i = 0; i < 16; i++) {
		struct pair_record rec = {
			.term = 5, .bye = i & 1, .wanted = 1, .mine = !!(i & 4)};
		struct pair_event start = {.kind = PAIR_EV_START};
		uint64_t term = i & 8 ? 6 : 5;
		struct pair p = machine(&rec);
		struct pair_actions a;

		start.u.start.automatic = !!(i & 2);
		(void)give(&p, start);
		a = give(&p, arbiter(&p, PAIR_ARB_VALUE, term, 0));
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM) != NULL, i == 1);
		CU_ASSERT_EQUAL(p.state == PAIR_STANDBY_EMPTY, i != 1);
	}
}

static struct pair_actions disk(struct pair *p, int bad)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_DISK, .instance = p->instance};

	ev.u.disk.bad = bad;
	return give(p, ev);
}

static int asks(const struct pair *p)
{
	return !!(pair_view(p).flags & PAIR_VIEW_PLEASE);
}

static struct pair protected_one(void)
{
	struct pair p = running_alone();

	(void)peer(&p, PAIR_STANDBY_EMPTY, 1);
	(void)engine(&p, PAIR_ENG_SYNCING);
	(void)engine(&p, PAIR_ENG_ARMED);
	(void)engine(&p, PAIR_ENG_PROTECTED);
	CU_ASSERT_EQUAL_FATAL(p.state, PAIR_PROTECTED);
	return p;
}

/* A primary whose disk fails asks its standby, as soon as there is one that may; not when it is well again. */
static void test_bad_disk_asks(void)
{
	struct pair p = protected_one();

	(void)disk(&p, 1);
	CU_ASSERT(!asks(&p));
	(void)peer(&p, PAIR_STANDBY_READY, 1);
	CU_ASSERT(asks(&p));
	(void)disk(&p, 0);
	CU_ASSERT(!asks(&p));
	p = protected_one();
	(void)peer(&p, PAIR_STANDBY_READY, 1);
	CU_ASSERT(!asks(&p));
	(void)disk(&p, 1);
	CU_ASSERT(asks(&p));
	/* Alone there is nobody to ask. */
	p = running_alone();
	(void)disk(&p, 1);
	CU_ASSERT(!asks(&p));
	CU_ASSERT_EQUAL(p.state, PAIR_RUNNING_ALONE);
}

/* Away and back, and it fails again: the other host's does, too. Long after it is asked again. */
static void test_both_disks_bad(void)
{
	for (int late = 0; late < 2; late++) {
		struct pair p = protected_one();
		struct pair_actions a;

		(void)peer(&p, PAIR_STANDBY_READY, 1);
		(void)disk(&p, 1);
		(void)peer(&p, PAIR_ACTIVATING, 2);
		(void)give_kind(&p, PAIR_EV_VM_EXITED);
		settle(&p);
		(void)engine(&p, PAIR_ENG_EMPTY);
		(void)incoming(&p, 2);
		settle(&p);
		(void)engine(&p, PAIR_ENG_SB_SYNCING);
		(void)engine(&p, PAIR_ENG_READY);
		(void)image_all(&p, 1, 1);
		settle(&p);
		(void)give_kind(&p, PAIR_EV_PEER_LOST);
		(void)give(&p, arbiter(&p, PAIR_ARB_GRANTED, 3, 1));
		settle(&p);
		(void)engine(&p, PAIR_ENG_ALONE);
		(void)give_kind(&p, PAIR_EV_VM_RUNNING);
		CU_ASSERT_EQUAL_FATAL(p.state, PAIR_RUNNING_ALONE);
		(void)peer(&p, PAIR_STANDBY_READY, 3);
		(void)engine(&p, PAIR_ENG_SYNCING);
		(void)engine(&p, PAIR_ENG_PROTECTED);
		if (late)
			p.now += p.prm.disk_again_ns;
		a = disk(&p, 1);
		CU_ASSERT_EQUAL(asks(&p), late);
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_VM_DISK_ERRORS) != NULL, !late);
		a = disk(&p, 1);
		CU_ASSERT(find(&a, PAIR_DO_VM_DISK_ERRORS) == NULL); /* once is enough */
	}
}

/* A standby whose disk fails is started again and again, ever more seldom, however often it held a commit. */
static void test_bad_disk_of_a_standby(void)
{
	struct pair p = standby_empty();
	uint64_t pause = 0;

	for (int i = 0; i < 20; i++) {
		(void)incoming(&p, 5);
		settle(&p);
		if (i % 2) {
			(void)engine(&p, PAIR_ENG_SB_SYNCING);
			(void)engine(&p, PAIR_ENG_READY);
		}
		(void)disk(&p, 1);
		(void)give_kind(&p, PAIR_EV_VM_EXITED);
		CU_ASSERT_EQUAL_FATAL(p.state, PAIR_STANDBY_EMPTY);
		CU_ASSERT(i < 2 || p.restart_at - p.now >= pause);
		pause = p.restart_at - p.now;
		p.now = p.restart_at;
		(void)give_kind(&p, PAIR_EV_TICK);
		settle(&p);
		CU_ASSERT_FATAL(p.vm_up);
		(void)engine(&p, PAIR_ENG_EMPTY);
	}
	CU_ASSERT_EQUAL(pause, p.prm.disk_backoff_ns);
	/* A good life, then another end. */
	p.now += p.prm.stable_ns;
	(void)give_kind(&p, PAIR_EV_VM_EXITED);
	CU_ASSERT(p.restart_at - p.now < p.prm.backoff_max_ns);
}

/* Granted, and not all that it had acked is durable: the record says so until it is. */
static void test_behind_until_durable(void)
{
	struct pair p = claiming();
	struct pair_actions a;

	a = give(&p, arbiter(&p, PAIR_ARB_GRANTED, 6, 1));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.term, 6);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.behind, 1);
	settle(&p);
	(void)engine(&p, PAIR_ENG_ALONE);
	(void)give_kind(&p, PAIR_EV_VM_RUNNING);
	CU_ASSERT_EQUAL(p.state, PAIR_RUNNING_ALONE);
	CU_ASSERT(p.rec.behind);
	a = image_all(&p, 1, 1);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.behind, 0);
}

static void test_names(void)
{
	for (int i = 0; i < PAIR_NSTATES; i++) {
		CU_ASSERT(strlen(pair_state_name((enum pair_state)i)) > 1);
		CU_ASSERT_EQUAL(pair_state_check((unsigned)i), i);
		for (int k = 0; k < i; k++)
			CU_ASSERT_STRING_NOT_EQUAL(pair_state_name((enum pair_state)i),
						   pair_state_name((enum pair_state)k));
	}
	CU_ASSERT_EQUAL(pair_state_check(PAIR_NSTATES), -1);
	CU_ASSERT_STRING_EQUAL(pair_state_name(PAIR_NSTATES), "?");
	CU_ASSERT_EQUAL(pair_engine_of("primary", "syncing"), PAIR_ENG_SYNCING);
	CU_ASSERT_EQUAL(pair_engine_of("standby", "syncing"), PAIR_ENG_SB_SYNCING);
	CU_ASSERT_EQUAL(pair_engine_of("standby", "protected"), PAIR_ENG_NONE);
	CU_ASSERT_EQUAL(pair_engine_of(NULL, "ready"), PAIR_ENG_NONE);
	CU_ASSERT_EQUAL(pair_engine_of("none", "none"), PAIR_ENG_NONE);
	for (int i = 0; i < PAIR_NEV; i++)
		CU_ASSERT(strlen(pair_event_name((enum pair_ev_kind)i)) > 1);
	for (int i = 0; i < PAIR_NACT; i++)
		CU_ASSERT(strlen(pair_action_name((enum pair_act_kind)i)) > 1);
}

static void test_refusals_are_told(void)
{
	struct pair p = machine(NULL);
	char why[128];

	CU_ASSERT(pair_accepts(&p, &(struct pair_event){.kind = PAIR_EV_START}, why,
			       sizeof(why)));
	CU_ASSERT_STRING_EQUAL(why, "");
	for (int k = PAIR_EV_STOP; k <= PAIR_EV_OVERRIDE; k++) {
		struct pair_event ev = {.kind = (enum pair_ev_kind)k};
		struct pair_actions a;

		CU_ASSERT(!pair_accepts(&p, &ev, why, sizeof(why)));
		CU_ASSERT(strlen(why) > 10);
		a = give(&p, ev);
		CU_ASSERT_EQUAL(a.n, 1);
		CU_ASSERT_EQUAL(a.list[0].kind, PAIR_DO_LOG);
		CU_ASSERT_EQUAL(p.state, PAIR_OFF);
	}
}

static uint64_t roll(uint64_t n)
{
	static uint64_t x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (x >> 11) % n;
}

/* Terms close to the machine's own, where decisions lie. */
static uint64_t near(const struct pair *p)
{
	return p->term - 1 + roll(3);
}

/* What the machine waits for, mostly. */
static enum pair_ev_kind awaited(const struct pair *p)
{
	switch (p->state) {
	case PAIR_OFF:
	case PAIR_FAILED:
		return PAIR_EV_START;
	case PAIR_FENCED:
		return PAIR_EV_VM_EXITED;
	case PAIR_ACTIVATING:
		return p->store_id ? PAIR_EV_STORED : PAIR_EV_VM_RUNNING;
	default:
		return p->arb_id ? PAIR_EV_ARBITER : PAIR_EV_VM_STATE;
	}
}

/* What comes is awaited, or one of the kinds in @mood: leaving kinds out for a while leads to
 * states that the right mix of all would hardly ever reach. */
static struct pair_event any_event(const struct pair *p, unsigned mood)
{
	struct pair_event ev = {.kind = awaited(p), .instance = p->instance - !roll(8)};

	if (roll(4))
		do
			ev.kind = (enum pair_ev_kind)roll(PAIR_NEV);
		while (!(mood & 1u << ev.kind));
	switch (ev.kind) {
	case PAIR_EV_PEER:
		ev.u.peer.state = (enum pair_state)roll(PAIR_NSTATES);
		ev.u.peer.health = (enum pair_health)roll(PAIR_NHEALTH);
		ev.u.peer.flags = (unsigned)roll(PAIR_VIEW_FLAGS + 1);
		ev.u.peer.term = near(p);
		break;
	case PAIR_EV_VM_STATE:
		/* Often the one that comes next in a good life. */
		ev.u.vm_state.engine = (enum pair_engine)(
			roll(2) ? roll(PAIR_NENGINE) : (p->engine + 1) % PAIR_NENGINE);
		ev.u.vm_state.term = near(p);
		ev.u.vm_state.bye = !roll(10);
		break;
	case PAIR_EV_ARBITER:
		return arbiter(p, (enum pair_arb_result)roll(4), near(p), !roll(2));
	case PAIR_EV_STORED:
		return stored(p, !!roll(4));
	case PAIR_EV_START:
	case PAIR_EV_OVERRIDE:
		ev.u.override.cold = !roll(2);
		break;
	default:
		ev.u.term = near(p);
	}
	return ev;
}

/* Never an illegal transition, never too many actions: both are asserted in the machine. */
static void test_any_event(void)
{
	struct pair p = machine(NULL);
	struct pair_actions out;
	unsigned seen = 0, mood = ~0u;
	uint64_t now = 1;

	for (int i = 0; i < 1000000; i++) {
		struct pair_event ev = any_event(&p, mood);

		if (!roll(300))
			mood = (unsigned)roll(1u << PAIR_NEV) | 1u << PAIR_EV_TICK;
		now += roll(100000000);
		pair_step(&p, now, &ev, &out);
		seen |= 1u << p.state;
		if (pair_deadline(&p) && pair_deadline(&p) <= now)
			CU_FAIL_FATAL("a deadline that is over");
		if (p.term > UINT64_MAX / 2 || !roll(5000))
			p = machine(NULL);
	}
	for (int i = 0; i < PAIR_NSTATES; i++) /* and it has been everywhere */
		if (!(seen & 1u << i))
			CU_FAIL("a state that no event led to");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"grant on disk first", test_stored_first},
		{"stale answers", test_stale_answers},
		{"outdated ready", test_outdated_ready},
		{"the standby let go", test_standby_let_go},
		{"a later term", test_later_term},
		{"late grant", test_late_grant},
		{"hands over", test_hands_over},
		{"is handed over", test_is_handed_over},
		{"a refusal that comes too late", test_late_refusal},
		{"cold claim", test_cold_claim},
		{"a bad disk asks the standby", test_bad_disk_asks},
		{"both disks are bad", test_both_disks_bad},
		{"a bad disk of a standby", test_bad_disk_of_a_standby},
		{"behind until durable", test_behind_until_durable},
		{"names", test_names},
		{"refusals are told", test_refusals_are_told},
		{"any event in any state", test_any_event},
	};
	return UNIT_MAIN("pair_machine", tests);
}
