/* SPDX-License-Identifier: Apache-2.0
 * wire - integers of fixed size and byte order for what leaves the process (le: ours; be: formats
 * of others that are big-endian).
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
struct be16 {
	uint8_t b[2];
};
struct be32 {
	uint8_t b[4];
};
struct be64 {
	uint8_t b[8];
};

#define WIRE_DEFINE(order, bits)                                             \
	static inline uint##bits##_t order##bits##_get(struct order##bits v) \
	{                                                                    \
		uint##bits##_t x;                                            \
		memcpy(&x, v.b, sizeof(x));                                  \
		return order##bits##toh(x);                                  \
	}                                                                    \
	static inline struct order##bits order##bits##_of(uint##bits##_t x)  \
	{                                                                    \
		struct order##bits v;                                        \
		x = hto##order##bits(x);                                     \
		memcpy(v.b, &x, sizeof(x));                                  \
		return v;                                                    \
	}
WIRE_DEFINE(le, 16)
WIRE_DEFINE(le, 32)
WIRE_DEFINE(le, 64)
WIRE_DEFINE(be, 16)
WIRE_DEFINE(be, 32)
WIRE_DEFINE(be, 64)
#undef WIRE_DEFINE

#define WIRE_SIZE(type, size) \
	_Static_assert(sizeof(type) == (size), #type " must be " #size " bytes")

#endif
