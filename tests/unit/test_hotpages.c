/* SPDX-License-Identifier: Apache-2.0
 * test_hotpages - which pages are left writable, for how long, and what is told of them.
 */
#include "remus/hotpages.h"
#include "replication/pagewords.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

enum { PAGES = 2 * HOT_MAX };

static struct hot h;

static void make(void)
{
	CU_ASSERT_EQUAL_FATAL(hot_init(&h, PAGES), 0);
}

static void becomes_hot(void)
{
	make();
	for (uint64_t e = 10; e < 10 + HOT_AFTER - 1; e++) {
		CU_ASSERT_EQUAL(hot_touch(&h, 5, e), 0);
		CU_ASSERT_EQUAL(hot_touch(&h, 5, e), 0); /* twice in an epoch is once */
	}
	CU_ASSERT_FALSE(hot_is(&h, 5));
	CU_ASSERT_EQUAL(hot_touch(&h, 5, 10 + HOT_AFTER - 1), 1);
	CU_ASSERT_TRUE(hot_is(&h, 5));
	CU_ASSERT_EQUAL(h.n, 1);
	CU_ASSERT_EQUAL(hot_touch(&h, 5, 1000), 1); /* until it is idle */
	hot_fini(&h);
}

static void a_gap_starts_anew(void)
{
	make();
	for (uint64_t e = 0; e < 100; e++)
		CU_ASSERT_EQUAL(hot_touch(&h, 7, e * (HOT_GAP + 1)), 0);
	for (uint64_t e = 0; e < 400; e++)
		if (e % (HOT_GAP + HOT_AFTER - 1) >= HOT_GAP)
			CU_ASSERT_EQUAL(hot_touch(&h, 9, 1000 + e), 0);
	for (uint64_t e = 0; e < HOT_AFTER; e++)
		CU_ASSERT_EQUAL(hot_touch(&h, 11, 2000 + e * HOT_GAP),
				e + 1 == HOT_AFTER);
	hot_fini(&h);
}

static void cools(void)
{
	static uint8_t now[4096], body[PW_BODY_MAX];
	struct hot_slot *slot;

	make();
	for (uint64_t e = 1; e <= HOT_AFTER; e++)
		(void)hot_touch(&h, 5, e);
	CU_ASSERT_TRUE_FATAL(hot_is(&h, 5));
	slot = hot_slot(&h, 5);
	CU_ASSERT_TRUE(slot->page == 5 && slot->fresh);
	hot_copy(&h, slot, now);
	CU_ASSERT_FALSE(slot->fresh);
	for (unsigned i = 1; i < HOT_IDLE; i++)
		CU_ASSERT_EQUAL(hot_compare(&h, slot, now, body), 0);
	now[100] = 1; /* just in time */
	CU_ASSERT_EQUAL(hot_compare(&h, slot, now, body), 10);
	for (unsigned i = 0; i < HOT_IDLE; i++) {
		CU_ASSERT_EQUAL(hot_touch(&h, 5, 100 + i), 1);
		CU_ASSERT_EQUAL(hot_compare(&h, slot, now, body), 0);
	}
	CU_ASSERT_EQUAL(hot_touch(&h, 5, 200), 0);
	CU_ASSERT_FALSE(hot_is(&h, 5));
	CU_ASSERT_EQUAL(h.n, 0);
	/* It has to earn it again. */
	for (uint64_t e = 1; e < HOT_AFTER; e++)
		CU_ASSERT_EQUAL(hot_touch(&h, 5, 200 + e), e + 1 == HOT_AFTER);
	CU_ASSERT_TRUE(hot_slot(&h, 5)->fresh);
	hot_fini(&h);
}

/* What was told since the first copy adds up to what is there. */
static void compares(void)
{
	static uint8_t now[2][4096], there[2][4096], body[PW_BODY_MAX];
	unsigned len;

	make();
	for (uint64_t e = 1; e <= HOT_AFTER; e++)
		for (uint64_t p = 0; p < 2; p++)
			(void)hot_touch(&h, p, e);
	for (uint64_t p = 0; p < 2; p++)
		hot_copy(&h, hot_slot(&h, p), now[p]);
	for (unsigned i = 0; i < 3000; i++) {
		for (int k = rand() % 300; k--;)
			now[k & 1][rand() % 4096] = (uint8_t)rand();
		for (uint64_t p = 0; p < 2; p++) {
			len = hot_compare(&h, hot_slot(&h, p), now[p], body);
			CU_ASSERT_TRUE_FATAL(!len || pw_check(body, len));
			pw_apply(there[p], body, len);
		}
		CU_ASSERT_EQUAL_FATAL(memcmp(now, there, sizeof(now)), 0);
	}
	hot_fini(&h);
}

static void bounded(void)
{
	unsigned hot = 0;

	make();
	for (uint64_t e = 1; e <= 2 * HOT_AFTER; e++)
		for (uint64_t p = 0; p < PAGES; p++)
			(void)hot_touch(&h, p, e);
	for (uint64_t p = 0; p < PAGES; p++)
		hot += (unsigned)hot_is(&h, p);
	CU_ASSERT_EQUAL(hot, HOT_MAX);
	CU_ASSERT_EQUAL(h.n, HOT_MAX);
	hot_clear(&h);
	CU_ASSERT_EQUAL(h.n, 0);
	CU_ASSERT_EQUAL(hot_touch(&h, 0, 2 * HOT_AFTER + 1), 0);
	hot_fini(&h);
}

static const struct unit_test tests[] = {
	{"written in each epoch", becomes_hot}, {"a gap starts anew", a_gap_starts_anew},
	{"unchanged for long", cools},		{"what differs", compares},
	{"no more than there may be", bounded},
};

int main(void)
{
	return UNIT_MAIN("hotpages", tests);
}
