/* SPDX-License-Identifier: Apache-2.0
 * buf - a byte buffer that grows, and a bounded reader.
 */
#include "hv/base/buf.h"

#include "hv/base/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *buf_grow(struct buf *b, size_t len)
{
	size_t need, cap;
	uint8_t *p;

	if (b->failed || __builtin_add_overflow(b->len, len, &need))
		goto fail;
	if (need > b->cap) {
		cap = b->cap ? b->cap : 256;
		while (cap < need)
			cap = cap > SIZE_MAX / 2 ? need : cap * 2;
		p = realloc(b->data, cap);
		if (!p)
			goto fail;
		b->data = p;
		b->cap = cap;
	}
	p = b->data + b->len;
	b->len = need;
	return p;
fail:
	b->failed = 1;
	return NULL;
}

int buf_add(struct buf *b, const void *src, size_t len)
{
	void *p;

	if (!len)
		return b->failed ? -ENOMEM : 0;
	p = buf_grow(b, len);
	if (!p)
		return -ENOMEM;
	memcpy(p, src, len);
	return 0;
}

int buf_add_u16(struct buf *b, uint16_t v)
{
	struct le16 w = le16_of(v);

	return buf_add(b, &w, sizeof(w));
}

int buf_add_u32(struct buf *b, uint32_t v)
{
	struct le32 w = le32_of(v);

	return buf_add(b, &w, sizeof(w));
}

int buf_add_u64(struct buf *b, uint64_t v)
{
	struct le64 w = le64_of(v);

	return buf_add(b, &w, sizeof(w));
}

void buf_reset(struct buf *b)
{
	b->len = 0;
	b->failed = 0;
}

void buf_fini(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

struct reader reader_of(const void *p, size_t len)
{
	/* No bytes may be at no place at all, and NULL + 0 is undefined. */
	return (struct reader){.p = p, .end = len ? (const uint8_t *)p + len : p};
}

const void *rd_take(struct reader *r, size_t len)
{
	const void *p = r->p;

	if (r->failed || len > rd_left(r)) {
		r->failed = 1;
		return NULL;
	}
	r->p += len;
	return p;
}

int rd_bytes(struct reader *r, void *dst, size_t len)
{
	const void *p = rd_take(r, len);

	if (!p) {
		memset(dst, 0, len);
		return -EBADMSG;
	}
	memcpy(dst, p, len);
	return 0;
}

uint16_t rd_u16(struct reader *r)
{
	struct le16 w;

	(void)rd_bytes(r, &w, sizeof(w)); /* failure sticks in r->failed */
	return le16_get(w);
}

uint32_t rd_u32(struct reader *r)
{
	struct le32 w;

	(void)rd_bytes(r, &w, sizeof(w)); /* as above */
	return le32_get(w);
}

uint64_t rd_u64(struct reader *r)
{
	struct le64 w;

	(void)rd_bytes(r, &w, sizeof(w)); /* as above */
	return le64_get(w);
}
