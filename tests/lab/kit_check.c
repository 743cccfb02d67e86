/* SPDX-License-Identifier: Apache-2.0
 * kit_check - what is not so is told with its line, and counted.
 */
#include "tests/lab/kit_check.h"

#include "hv/base/clock.h"

#include <stdio.h>

/* Four times `silence`, of which the scripts leave the default, as the heartbeat's. */
static const double told_ms_max = 4 * 500;

int kit_failures;
const char *kit_test_name = "";

void kit_check(int ok, const char *what, int line)
{
	if (ok)
		return;
	kit_failures++;
	(void)fprintf(stderr, "%s: line %d: not so: %s\n", kit_test_name, line, what);
}

void kit_check_rc(int got, int want, const char *what, int line)
{
	if (got == want)
		return;
	kit_failures++;
	(void)fprintf(stderr, "%s: line %d: %s is %d, not %d\n", kit_test_name, line,
		      what, got, want);
}

void kit_check_told(const char *who, const char *of, uint64_t began_ns, int line)
{
	const double ms = (double)(clock_mono_ns() - began_ns) / 1e6;

	(void)printf("figure: %s told of %s after %.0f ms\n", who, of, ms);
	kit_check(ms <= told_ms_max, "told in time", line);
}
