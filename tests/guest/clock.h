/* SPDX-License-Identifier: Apache-2.0
 * clock - the guest's monotonic time, from KVM's paravirtual clock.
 */
#ifndef TESTS_GUEST_CLOCK_H
#define TESTS_GUEST_CLOCK_H

#include <stdint.h>

/* Nanoseconds; 0 if there is no such clock. */
uint64_t clock_ns(void);

#endif
