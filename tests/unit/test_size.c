/* SPDX-License-Identifier: Apache-2.0
 * test_size - how people write an amount of bytes.
 */
#include "hv/base/size.h"
#include "tests/unit/unit.h"

#include <errno.h>

static void expect(const char *text, uint64_t bytes)
{
	uint64_t n = 0;

	CU_ASSERT_EQUAL(size_parse(text, &n), 0);
	CU_ASSERT_EQUAL(n, bytes);
}

static void test_good(void)
{
	expect("0", 0);
	expect("512", 512);
	expect("1K", 1024);
	expect("200M", UINT64_C(200) << 20);
	expect("20G", UINT64_C(20) << 30);
	expect("2T", UINT64_C(2) << 40);
}

/* Nothing wraps: who checks a range finds it too large. */
static void test_large(void)
{
	expect("18446744073709551615", UINT64_MAX);
	expect("18446744073709551616", UINT64_MAX);
	expect("16777216T", UINT64_MAX);
	expect("16777215T", UINT64_C(16777215) << 40);
	expect("99999999999999999999999T", UINT64_MAX);
}

static void test_bad(void)
{
	static const char *const bad[] = {"",	 "G",  "+20G", "-1",   " 1", "1 G",
					  "1GB", "1g", "0x10", "1.5G", "1GG"};
	uint64_t n = 7;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_EQUAL(size_parse(bad[i], &n), -EINVAL);
	CU_ASSERT_EQUAL(n, 7);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"sizes", test_good},
		{"as large as it gets", test_large},
		{"no sizes", test_bad},
	};

	return UNIT_MAIN("size", tests);
}
