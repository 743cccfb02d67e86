/* SPDX-License-Identifier: Apache-2.0
 * test_pair_record - what must be on disk before a link is given, and what a record forbids later.
 */
#include "tests/unit/pairstep.h"
#include "tests/unit/unit.h"

#include <string.h>

/* Until just before the link is given: connected, the record on its way to the disk. */
static struct pair connected(void)
{
	struct pair p = running_alone();
	struct pair_actions a = peer(&p, PAIR_STANDBY_EMPTY, 1);

	CU_ASSERT_EQUAL(p.state, PAIR_RUNNING_ALONE);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_CONNECT) != NULL);
	a = give_kind(&p, PAIR_EV_CONNECTED);
	CU_ASSERT(!find(&a, PAIR_DO_LINK_GIVE) && !find(&a, PAIR_DO_LINK_CLOSE));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.alone, 0);
	return p;
}

static void test_not_alone_first(void)
{
	struct pair p = connected();
	struct pair_actions a;

	for (int i = 0; i < 3; i++) {
		a = give(&p, stored(&p, 0));
		CU_ASSERT(find(&a, PAIR_DO_LINK_GIVE) == NULL);
		p.now += 1000000000;
		a = give_kind(&p, PAIR_EV_TICK);
		CU_ASSERT(find(&a, PAIR_DO_LINK_GIVE) == NULL);
		CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.alone, 0);
	}
	a = give(&p, stored(&p, 1));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_LINK_GIVE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_LINK_GIVE)->u.link.primary, 1);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_LINK_GIVE)->u.link.term, 1);
	CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
}

/* Alone again without an ARMED: the record says so, but not before the engine does. */
static void test_alone_again(void)
{
	struct pair p = connected();
	struct pair_actions a = give(&p, stored(&p, 1));

	for (int i = 0; i < 100; i++) {
		p.now += 1000000000;
		a = give_kind(&p, PAIR_EV_TICK);
		CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
		CU_ASSERT(find(&a, PAIR_DO_CONNECT) == NULL); /* one is under way */
	}
	a = engine(&p, PAIR_ENG_SYNCING);
	CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
	CU_ASSERT_EQUAL(p.state, PAIR_SYNCING);
	a = engine(&p, PAIR_ENG_ALONE);
	CU_ASSERT_EQUAL(p.state, PAIR_RUNNING_ALONE);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.alone, 1);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.term, 1);
}

/* A handshake that fails is an answer too; and a stray connection meanwhile is none. */
static void test_handshake_failed(void)
{
	struct pair p = connected();
	struct pair_actions a = give(&p, stored(&p, 1));

	a = incoming(&p, 1);
	CU_ASSERT(find(&a, PAIR_DO_LINK_CLOSE) != NULL);
	CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
	a = give_kind(&p, PAIR_EV_TICK);
	CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
	a = engine(&p, PAIR_ENG_ALONE);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.alone, 1);
	settle(&p);
	p.now += 1000000000;
	a = give_kind(&p, PAIR_EV_TICK);
	CU_ASSERT(find(&a, PAIR_DO_CONNECT) != NULL);
}

/* The engine's word was late: what it began must not be armed while the record says alone. */
static void test_late_word(void)
{
	struct pair p = connected();
	struct pair_actions a = give(&p, stored(&p, 1));

	(void)engine(&p, PAIR_ENG_ALONE);
	a = engine(&p, PAIR_ENG_SYNCING);
	CU_ASSERT(find(&a, PAIR_DO_UNLINK) != NULL);
	CU_ASSERT_EQUAL(p.rec.alone, 0);
	CU_ASSERT(p.want_store || p.store_id);
}

/* What is kept is closed when it is not wanted any more. */
static void test_kept_in_vain(void)
{
	struct pair p = connected();
	struct pair_actions a = peer(&p, PAIR_RUNNING_ALONE, 9);

	CU_ASSERT(find(&a, PAIR_DO_VM_FENCE) != NULL);
	CU_ASSERT(find(&a, PAIR_DO_LINK_CLOSE) != NULL);
	a = give(&p, stored(&p, 1));
	CU_ASSERT(find(&a, PAIR_DO_LINK_GIVE) == NULL);
}

/* A standby that has not heard of our term would refuse. */
static void test_connects_in_one_term(void)
{
	struct pair p = running_alone();
	struct pair_actions a = peer(&p, PAIR_STANDBY_EMPTY, 0);

	CU_ASSERT(find(&a, PAIR_DO_CONNECT) == NULL);
	a = peer(&p, PAIR_STANDBY_EMPTY, 1);
	CU_ASSERT(find(&a, PAIR_DO_CONNECT) != NULL);
}

/* A restarted rhead with the record of a link that was given: the peer may hold a commit. */
static void test_restart_not_alone(void)
{
	struct pair_record rec = {.term = 4, .mine = 1, .wanted = 1};

	for (rec.alone = 0; rec.alone < 2; rec.alone++) {
		struct pair p = machine(&rec);
		struct pair_actions a;

		(void)give_kind(&p, PAIR_EV_START);
		a = give(&p, arbiter(&p, PAIR_ARB_VALUE, 4, 1));
		CU_ASSERT_EQUAL(find(&a, PAIR_DO_CLAIM) != NULL, rec.alone);
		CU_ASSERT_EQUAL(p.state == PAIR_YIELDING, !rec.alone);
	}
}

static void test_incomplete_first(void)
{
	struct pair p = standby_empty();
	struct pair_actions a = incoming(&p, 5);

	CU_ASSERT(!find(&a, PAIR_DO_LINK_GIVE) && !find(&a, PAIR_DO_LINK_CLOSE));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.incomplete, 1);
	a = give(&p, stored(&p, 0));
	CU_ASSERT(find(&a, PAIR_DO_LINK_GIVE) == NULL);
	p.now += 1000000000;
	(void)give_kind(&p, PAIR_EV_TICK);
	a = give(&p, stored(&p, 1));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_LINK_GIVE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_LINK_GIVE)->u.link.primary, 0);
	/* Known and on disk: another connection is given at once. */
	a = incoming(&p, 5);
	CU_ASSERT(find(&a, PAIR_DO_LINK_GIVE) != NULL);
	CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
	a = incoming(&p, 6);
	CU_ASSERT(find(&a, PAIR_DO_LINK_CLOSE) != NULL);
}

/* A standby whose sync is under way, that being on disk. */
static struct pair syncing(void)
{
	struct pair p = standby_empty();

	(void)incoming(&p, 5);
	settle(&p);
	(void)engine(&p, PAIR_ENG_SB_SYNCING);
	CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_SYNCING);
	CU_ASSERT_EQUAL(p.rec.incomplete, 1);
	return p;
}

/* Complete once the first commit is on the disk and not before; and a claim waits until the record
 * says so. */
static void test_complete(void)
{
	struct pair p = syncing();
	struct pair_actions a = engine(&p, PAIR_ENG_READY);

	CU_ASSERT(find(&a, PAIR_DO_STORE) == NULL);
	CU_ASSERT_EQUAL(p.rec.incomplete, 1);
	a = image(&p, 1);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.incomplete, 0);
	a = give_kind(&p, PAIR_EV_PEER_LOST);
	CU_ASSERT_EQUAL(p.state, PAIR_CLAIMING);
	CU_ASSERT(find(&a, PAIR_DO_CLAIM) == NULL);
	a = give(&p, stored(&p, 1));
	CU_ASSERT(find(&a, PAIR_DO_CLAIM) != NULL);
	a = give(&p, arbiter(&p, PAIR_ARB_GRANTED, 6, 1));
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.incomplete, 0);
}

/* Whatever else changes in the record, and whoever is followed: half an image stays half. */
static void test_stays_incomplete(void)
{
	struct pair p = syncing();
	struct pair_event cold = {.kind = PAIR_EV_OVERRIDE};
	char why[128];

	(void)engine(&p, PAIR_ENG_EMPTY);
	(void)peer(&p, PAIR_RUNNING_ALONE, 8);
	CU_ASSERT_EQUAL(p.rec.term, 8);
	CU_ASSERT_EQUAL(p.rec.incomplete, 1);
	(void)give_kind(&p, PAIR_EV_PEER_LOST);
	cold.u.override.cold = 1;
	CU_ASSERT(!pair_accepts(&p, &cold, why, sizeof(why)));
	CU_ASSERT(strstr(why, "half written") != NULL);
	(void)give(&p, cold);
	CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
	settle(&p);
	p = machine(&p.rec);
	CU_ASSERT(!pair_accepts(&p, &cold, why, sizeof(why)));
	p.rec.incomplete = 0;
	CU_ASSERT(pair_accepts(&p, &cold, why, sizeof(why)));
}

/* READY, and then what it had acknowledged could not be applied. */
static void test_torn(void)
{
	struct pair p = syncing();
	struct pair_actions a;

	(void)engine(&p, PAIR_ENG_READY);
	(void)image(&p, 1);
	settle(&p);
	a = engine(&p, PAIR_ENG_EMPTY);
	CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.incomplete, 1);
}

/* The journal brought back what a power cut had left, or could not. */
static void test_recovered(void)
{
	struct pair_record rec = {.term = 3, .wanted = 1, .incomplete = 1};
	struct pair p = machine(&rec);
	struct pair_event cold = {.kind = PAIR_EV_OVERRIDE};
	struct pair_actions a;
	char why[128];

	cold.u.override.cold = 1;
	(void)give_kind(&p, PAIR_EV_START);
	(void)give(&p, arbiter(&p, PAIR_ARB_VALUE, 3, 0));
	CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
	settle(&p);
	a = image(&p, 1);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.incomplete, 0);
	CU_ASSERT(pair_accepts(&p, &cold, why, sizeof(why)));
	settle(&p);
	a = image(&p, 0);
	CU_ASSERT_FATAL(find(&a, PAIR_DO_STORE) != NULL);
	CU_ASSERT_EQUAL(find(&a, PAIR_DO_STORE)->u.store.record.incomplete, 1);
	CU_ASSERT(!pair_accepts(&p, &cold, why, sizeof(why)));
}

/* By itself it is no different: an arbiter that knows nothing, or that it is ours. */
static void test_no_start_from_half(void)
{
	struct pair_record rec = {.term = 3, .wanted = 1, .incomplete = 1};

	for (uint64_t term = 0; term < 6; term++) {
		struct pair p = machine(&rec);
		struct pair_actions a;

		(void)give_kind(&p, PAIR_EV_START);
		a = give(&p, arbiter(&p, PAIR_ARB_VALUE, term, term > 0));
		CU_ASSERT(find(&a, PAIR_DO_CLAIM) == NULL);
		CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
		CU_ASSERT_EQUAL(p.rec.incomplete, 1);
		/* Nobody shows up: it looks again, and still does not start. */
		for (int i = 0; i < 20; i++) {
			p.now += 1000000000;
			(void)give_kind(&p, PAIR_EV_TICK);
			if (p.arb_id)
				(void)give(&p,
					   arbiter(&p, PAIR_ARB_VALUE, term, term > 0));
			CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
		}
	}
}

/* The arbiter has not heard of the peer's override, but the record has. */
static void test_arbiter_behind(void)
{
	struct pair_record rec = {.term = 1001, .wanted = 1};
	struct pair p = machine(&rec);
	struct pair_actions a;

	(void)give_kind(&p, PAIR_EV_START);
	a = give(&p, arbiter(&p, PAIR_ARB_VALUE, 1, 1));
	CU_ASSERT(find(&a, PAIR_DO_CLAIM) == NULL);
	CU_ASSERT_EQUAL(p.state, PAIR_STANDBY_EMPTY);
	CU_ASSERT_EQUAL(p.term, 1001);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"not alone: on disk first", test_not_alone_first},
		{"alone again", test_alone_again},
		{"a handshake that failed", test_handshake_failed},
		{"the engine's late word", test_late_word},
		{"kept in vain", test_kept_in_vain},
		{"connects in one term", test_connects_in_one_term},
		{"restarted when not alone", test_restart_not_alone},
		{"incomplete: on disk first", test_incomplete_first},
		{"complete with the first commit", test_complete},
		{"stays incomplete", test_stays_incomplete},
		{"a commit that was torn", test_torn},
		{"recovered by the journal", test_recovered},
		{"no start from half an image", test_no_start_from_half},
		{"an arbiter that is behind", test_arbiter_behind},
	};
	return UNIT_MAIN("pair_record", tests);
}
