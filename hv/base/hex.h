/* SPDX-License-Identifier: Apache-2.0
 * hex - hexadecimal digits. Any thread.
 */
#ifndef HV_BASE_HEX_H
#define HV_BASE_HEX_H

#include <stddef.h>
#include <stdint.h>

/* 0 to 15; -1: it is none. */
static inline int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The @n bytes at @p as 2 * n digits and a NUL. */
static inline void hex_put(char *out, const uint8_t *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	out[2 * n] = '\0';
}

#endif
