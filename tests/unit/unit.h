/* SPDX-License-Identifier: Apache-2.0
 * unit - a CUnit suite's main in one call. Each test_*.c is a program of its own.
 */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>

/* The analyzer does not see that what follows a failed FATAL assertion is never run. */
#ifdef __clang_analyzer__
#undef CU_ASSERT_FATAL
#undef CU_ASSERT_PTR_NOT_NULL_FATAL
#define CU_ASSERT_FATAL(value)		    ((value) ? (void)0 : abort())
#define CU_ASSERT_PTR_NOT_NULL_FATAL(value) CU_ASSERT_FATAL(value)
#endif

struct unit_test {
	const char *name;
	void (*fn)(void);
};

/* Runs all, prints CUnit's summary, returns main's exit status. */
static inline int unit_main(const char *suite, const struct unit_test *t, unsigned n)
{
	CU_pSuite s;
	unsigned failed;

	if (CU_initialize_registry() != CUE_SUCCESS)
		return 2;
	s = CU_add_suite(suite, NULL, NULL);
	for (unsigned i = 0; s && i < n; i++)
		if (!CU_add_test(s, t[i].name, t[i].fn))
			return 2;
	CU_basic_set_mode(CU_BRM_NORMAL);
	(void)CU_basic_run_tests();
	failed = CU_get_number_of_failures() + (CU_get_number_of_tests_run() != n);
	CU_cleanup_registry();
	return failed ? 1 : 0;
}
#define UNIT_MAIN(suite, tests) \
	unit_main(suite, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
