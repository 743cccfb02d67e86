/* SPDX-License-Identifier: Apache-2.0
 * kit_check - what is not so is told with its line, and counted.
 */
#ifndef TESTS_LAB_KIT_CHECK_H
#define TESTS_LAB_KIT_CHECK_H

#include <stdint.h>

extern int kit_failures;
extern const char *kit_test_name; /* of the test that runs */

void kit_check(int ok, const char *what, int line);
/* Shows the number that is wrong. */
void kit_check_rc(int got, int want, const char *what, int line);
/* @who was told of something by now, which began at @began_ns: no later than RDMA.md promises. */
void kit_check_told(const char *who, const char *of, uint64_t began_ns, int line);

#define CHECK(cond)		      kit_check(!!(cond), #cond, __LINE__)
#define CHECK_RC(got, want)	      kit_check_rc((got), (want), #got, __LINE__)
#define CHECK_TOLD(who, of, began_ns) kit_check_told(who, of, began_ns, __LINE__)

#endif
