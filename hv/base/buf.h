/* SPDX-License-Identifier: Apache-2.0
 * buf - a byte buffer that grows, and a bounded reader over bytes that somebody else
 * wrote.
 *
 * Not locked: one owner at a time.
 */
#ifndef HV_BASE_BUF_H
#define HV_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialised is empty and valid. @failed sticks once memory ran out, so that a row
 * of appends needs one check at its end. */
struct buf {
	uint8_t *data;
	size_t len, cap;
	int failed;
};

/* Append @len bytes. 0 or -ENOMEM (and @failed is set). */
int buf_add(struct buf *b, const void *p, size_t len);
int buf_add_u16(struct buf *b, uint16_t v); /* little endian */
int buf_add_u32(struct buf *b, uint32_t v);
int buf_add_u64(struct buf *b, uint64_t v);
/* Make room for @len more bytes and count them as used; returns their start or NULL. The
 * pointer is good until the next call that grows @b. */
void *buf_grow(struct buf *b, size_t len);
/* Empty it, keep the memory; and give the memory back (idempotent). */
void buf_reset(struct buf *b);
void buf_fini(struct buf *b);

/* Reads never leave the bounds: after a short read @failed sticks and zeroes are
 * returned. */
struct reader {
	const uint8_t *p, *end;
	int failed;
};

struct reader reader_of(const void *p, size_t len); /* borrows @p */
int rd_bytes(struct reader *r, void *dst, size_t len);
const void *rd_take(struct reader *r, size_t len); /* pointer into the bytes, or NULL */
uint16_t rd_u16(struct reader *r);
uint32_t rd_u32(struct reader *r);
uint64_t rd_u64(struct reader *r);
static inline size_t rd_left(const struct reader *r)
{
	return (size_t)(r->end - r->p);
}

#endif
