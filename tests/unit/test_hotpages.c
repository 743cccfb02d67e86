/* SPDX-License-Identifier: Apache-2.0
 * test_hotpages - which pages are left writable, and for how long.
 */
#include "remus/hotpages.h"
#include "tests/unit/unit.h"

enum { PAGES = 1024 };

static struct hot make(size_t max)
{
	struct hot h;

	CU_ASSERT_EQUAL_FATAL(hot_init(&h, PAGES, max), 0);
	return h;
}

static void becomes_hot(void)
{
	struct hot h = make(8);

	for (uint64_t e = 10; e < 10 + HOT_AFTER - 1; e++) {
		CU_ASSERT_EQUAL(hot_touch(&h, 5, e), 0);
		CU_ASSERT_EQUAL(hot_touch(&h, 5, e), 0); /* twice in an epoch is once */
	}
	CU_ASSERT_FALSE(hot_is(&h, 5));
	CU_ASSERT_EQUAL(hot_touch(&h, 5, 10 + HOT_AFTER - 1), 1);
	CU_ASSERT_TRUE(hot_is(&h, 5));
	CU_ASSERT_EQUAL(h.n, 1);
	CU_ASSERT_EQUAL(hot_touch(&h, 5, 1000), 1); /* until somebody cools it */
	hot_fini(&h);
}

static void a_gap_starts_anew(void)
{
	struct hot h = make(8);

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
	struct hot h = make(8);

	for (uint64_t e = 1; e <= HOT_AFTER; e++)
		(void)hot_touch(&h, 5, e);
	CU_ASSERT_TRUE(hot_is(&h, 5));
	hot_cool(&h, 5);
	hot_cool(&h, 5);
	hot_cool(&h, 6); /* never was */
	CU_ASSERT_FALSE(hot_is(&h, 5));
	CU_ASSERT_EQUAL(h.n, 0);
	/* It has to earn it again. */
	for (uint64_t e = HOT_AFTER + 1; e < 2 * HOT_AFTER; e++)
		CU_ASSERT_EQUAL(hot_touch(&h, 5, e), 0);
	CU_ASSERT_EQUAL(hot_touch(&h, 5, 2 * HOT_AFTER), 1);
	hot_fini(&h);
}

static void bounded(void)
{
	struct hot h = make(3);
	unsigned hot = 0;

	for (uint64_t e = 1; e <= 2 * HOT_AFTER; e++)
		for (uint64_t p = 0; p < PAGES; p++)
			(void)hot_touch(&h, p, e);
	for (uint64_t p = 0; p < PAGES; p++)
		hot += (unsigned)hot_is(&h, p);
	CU_ASSERT_EQUAL(hot, 3);
	CU_ASSERT_EQUAL(h.n, 3);
	hot_clear(&h);
	CU_ASSERT_EQUAL(h.n, 0);
	CU_ASSERT_EQUAL(hot_touch(&h, 0, 2 * HOT_AFTER + 1), 0);
	hot_fini(&h);
}

static const struct unit_test tests[] = {
	{"written in each epoch", becomes_hot},
	{"a gap starts anew", a_gap_starts_anew},
	{"unchanged for long", cools},
	{"no more than there may be", bounded},
};

int main(void)
{
	return UNIT_MAIN("hotpages", tests);
}
