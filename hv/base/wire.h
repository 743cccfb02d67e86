/* SPDX-License-Identifier: Apache-2.0
 * wire - integers of fixed size and byte order for what leaves the process.
 *
 * A wire struct is made of these only, has no padding (alignment 1) and asserts its size.
 */
#ifndef HV_BASE_WIRE_H
#define HV_BASE_WIRE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

struct le16 {
	uint8_t b[2];
};
struct le32 {
	uint8_t b[4];
};
struct le64 {
	uint8_t b[8];
};

#define WIRE_DEFINE(bits)                                              \
	static inline uint##bits##_t le##bits##_get(struct le##bits v) \
	{                                                              \
		uint##bits##_t x;                                      \
		memcpy(&x, v.b, sizeof(x));                            \
		return le##bits##toh(x);                               \
	}                                                              \
	static inline struct le##bits le##bits##_of(uint##bits##_t x)  \
	{                                                              \
		struct le##bits v;                                     \
		x = htole##bits(x);                                    \
		memcpy(v.b, &x, sizeof(x));                            \
		return v;                                              \
	}
WIRE_DEFINE(16)
WIRE_DEFINE(32)
WIRE_DEFINE(64)
#undef WIRE_DEFINE

#define WIRE_SIZE(type, size) \
	_Static_assert(sizeof(type) == (size), #type " must be " #size " bytes")

#endif
