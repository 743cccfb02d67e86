/* SPDX-License-Identifier: Apache-2.0
 * size - how people write an amount of bytes.
 */
#ifndef HV_BASE_SIZE_H
#define HV_BASE_SIZE_H

#include <stdint.h>

/* "512", "200M": digits, and at most one of K, M, G, T for powers of 1024; nothing before or behind, so
 * that no "+20G" is taken for 20G. 0; -EINVAL: it is no size. What is more than 64 bits is UINT64_MAX. Any thread. */
int size_parse(const char *text, uint64_t *bytes_out);

#endif
