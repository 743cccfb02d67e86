/* SPDX-License-Identifier: Apache-2.0
 * pagecodec - pages to bytes and back: unchanged, zero and equal pages, changed words, XOR delta,
 * LZ4, raw.
 *
 * Theory of operation. The cheapest answer is looked for first: same as before (nothing),
 * few words changed (pagewords.c), zero (a header), a delta of more words (deltapack.c), a dense delta that
 * still is mostly zero bytes (counters), LZ4 of the page itself, and the page as it is. Other dense deltas
 * would cost as much as the page, so they are not tried. Only a page that would go in full is
 * looked up among the others of its epoch, because that reads all of it. LZ4 gets less room than a page and
 * looks less hard the longer it finds nothing: it stops by itself once nothing is won.
 */
#include "replication/pagecodec.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "replication/deltapack.h"
#include "replication/pagetwins.h"
#include "replication/pagewords.h"

#include <errno.h>
#include <lz4.h>
#include <string.h>

/* An item: what, where, and how many bytes follow. */
struct item {
	struct le64 tag; /* kind in the low byte, page index above */
	struct le16 len;
};
WIRE_SIZE(struct item, 10);
_Static_assert(sizeof(struct item) + PC_PAGE <= PC_ITEM_MAX, "worst case");

enum {
	WORDS = PC_PAGE / 8,
	FEW_WORDS = 64,		  /* so many are sent as they are: cheap on both sides */
	SPARSE_WORDS = WORDS / 2, /* more words changed than this: a dense delta */
	ZERO_BYTES = PC_PAGE / 2, /* a dense delta with fewer of them is not tried */
	LZ4_ROOM = PC_PAGE - PC_PAGE / 8, /* less is not worth the peer's time */
	MISSES_MAX = 64, /* pages in a row that LZ4 could not shorten; after that it is */
	MISSES_RETRY = 32, /* asked for each so manieth */
	LZ4_HASTE = 4,	   /* LZ4's acceleration: its time counts more than 5 % */
};

typedef uint64_t vec __attribute__((vector_size(16), aligned(1), may_alias));
enum { VECS = PC_PAGE / sizeof(vec) };

static int vec_any(vec v)
{
	return (v[0] | v[1]) != 0;
}

static int page_is_zero(const void *page)
{
	const vec *p = page;

	/* Most pages show in their first bytes that they are not zero. */
	for (unsigned i = 0; i < VECS; i += 8) {
		vec a = p[i] | p[i + 1] | p[i + 2] | p[i + 3];
		vec b = p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7];

		if (vec_any(a | b))
			return 0;
	}
	return 1;
}

/* out = a ^ b */
static void delta_of(uint64_t *out, const void *a, const void *b)
{
	const vec *pa = a, *pb = b;
	vec *po = (vec *)out;

	for (unsigned i = 0; i < VECS; i++)
		po[i] = pa[i] ^ pb[i];
}

void pc_xor(void *dst, const void *src)
{
	const vec *s = src;
	vec *d = dst;

	for (unsigned i = 0; i < VECS; i++)
		d[i] ^= s[i];
}

typedef int8_t bytes __attribute__((vector_size(16), aligned(1), may_alias));

static unsigned zero_bytes(const uint64_t *delta)
{
	const bytes *p = (const bytes *)delta;
	unsigned n = 0;

	/* Sums of bytes overflow after 127 additions. */
	for (unsigned i = 0; i < PC_PAGE / sizeof(bytes); i += 64) {
		bytes sum = {0};

		for (unsigned k = 0; k < 64; k++)
			sum -= p[i + k] == 0;
		for (unsigned k = 0; k < sizeof(bytes); k++)
			n += (unsigned)sum[k];
	}
	return n;
}

/* LZ4 block of @page into @dst; its size, or 0 when it would not fit into LZ4_ROOM. */
static int compress(const void *page, void *dst)
{
	static _Thread_local LZ4_stream_t st; /* too large for a stack */

	return LZ4_compress_fast_extState(&st, page, dst, PC_PAGE, LZ4_ROOM, LZ4_HASTE);
}

/* The delta's body, or 0 when the page itself is the better thing to send. */
static unsigned delta_body(void *dst, const uint64_t *delta, unsigned changed)
{
	if (changed <= SPARSE_WORDS)
		return pc_delta_pack(dst, LZ4_ROOM, delta);
	if (zero_bytes(delta) < ZERO_BYTES)
		return 0;
	return (unsigned)compress(delta, dst);
}

static void item_put(void *at, uint64_t index, enum pc_kind kind, unsigned len)
{
	struct item h = {.tag = le64_of(index << 8 | kind),
			 .len = le16_of((uint16_t)len)};

	memcpy(at, &h, sizeof(h));
}

/* LZ4 that has found nothing for long is asked only now and then: on data that cannot be
 * compressed it would make a fast link slower than it is. */
static int worth_lz4(const struct pc_stats *st)
{
	return st->misses < MISSES_MAX || st->misses % MISSES_RETRY == 0;
}

/* The name of an equal page, or 0: there is none. */
static unsigned twin_body(void *dst, const struct pc_among *a)
{
	size_t other = a->twins ? page_twins_find(a->twins, a->content, a->n) : a->n;
	struct le64 index;

	if (other == a->n)
		return 0;
	index = le64_of(a->index[other]);
	memcpy(dst, &index, sizeof(index));
	return sizeof(index);
}

/* Writes what follows the header to @dst (room for a page); returns its size. */
static unsigned body_of(void *dst, const struct pc_among *a, const uint64_t *delta,
			unsigned changed, struct pc_stats *st, enum pc_kind *kind_out)
{
	const void *page = a->content[a->n];
	unsigned n = 0;

	*kind_out = PC_XOR_LZ4;
	n = delta ? delta_body(dst, delta, changed) : 0;
	if (n)
		return n;
	*kind_out = PC_SAME;
	n = twin_body(dst, a);
	if (n)
		return n;
	*kind_out = PC_LZ4;
	if (worth_lz4(st))
		n = (unsigned)compress(page, dst);
	st->misses = n ? 0 : st->misses + 1;
	if (n)
		return n;
	*kind_out = PC_RAW;
	memcpy(dst, page, PC_PAGE);
	return PC_PAGE;
}

static void count(struct pc_stats *st, enum pc_kind kind, size_t bytes)
{
	st->bytes_out += bytes;
	st->zero += kind == PC_ZERO;
	st->raw += kind == PC_RAW;
	st->lz4 += kind == PC_LZ4;
	st->xor_lz4 += kind == PC_XOR_LZ4;
	st->words += kind == PC_WORDS;
	st->same += kind == PC_SAME;
}

void pc_stats_move(struct pc_stats *sum, struct pc_stats *more)
{
	sum->pages += more->pages;
	sum->unchanged += more->unchanged;
	sum->zero += more->zero;
	sum->raw += more->raw;
	sum->lz4 += more->lz4;
	sum->xor_lz4 += more->xor_lz4;
	sum->words += more->words;
	sum->same += more->same;
	sum->bytes_raw += more->bytes_raw;
	sum->bytes_out += more->bytes_out;
	*more = (struct pc_stats){.misses = more->misses};
}

_Static_assert(FEW_WORDS *(2 + 8) <= PC_PAGE, "words fit where a page does");

static int few_words(struct buf *out, uint64_t index, const void *page,
		     const uint64_t *mask, struct pc_stats *st)
{
	uint8_t *p = buf_grow(out, sizeof(struct item) + PC_PAGE);
	unsigned len;

	if (!p)
		return -ENOMEM;
	len = pw_pack(p + sizeof(struct item), mask, page);
	item_put(p, index, PC_WORDS, len);
	out->len -= PC_PAGE - len;
	count(st, PC_WORDS, sizeof(struct item) + len);
	return 0;
}

_Static_assert(PC_WORDS_SMALL == FEW_WORDS * (2 + 8), "the same limit, in bytes");
_Static_assert(sizeof(struct item) + PW_BODY_MAX <= PC_ITEM_MAX, "worst case");

int pc_encode_words(struct buf *out, uint64_t index, const void *body, unsigned len,
		    struct pc_stats *st)
{
	uint8_t *p = buf_grow(out, sizeof(struct item) + len);

	if (!p)
		return -ENOMEM;
	st->pages++;
	st->bytes_raw += PC_PAGE;
	item_put(p, index, PC_WORDS, len);
	memcpy(p + sizeof(struct item), body, len);
	count(st, PC_WORDS, sizeof(struct item) + len);
	return 0;
}

int pc_encode(struct buf *out, uint64_t index, const void *page, const void *base,
	      struct pc_stats *st)
{
	struct pc_among alone = {.content = &page, .index = &index};

	return pc_encode_among(out, &alone, base, st);
}

int pc_encode_among(struct buf *out, const struct pc_among *among, const void *base,
		    struct pc_stats *st)
{
	const void *page = among->content[among->n];
	uint64_t index = among->index[among->n];
	uint64_t delta[WORDS + PC_DELTA_SLACK / 8] __attribute__((aligned(64)));
	enum pc_kind kind = PC_ZERO;
	unsigned changed = WORDS, len = 0;
	uint8_t *p;

	st->pages++;
	st->bytes_raw += PC_PAGE;
	if (base) {
		uint64_t mask[WORDS / 64];

		changed = pw_diff(mask, page, base);
		if (!changed) {
			st->unchanged++;
			return 0;
		}
		if (changed <= FEW_WORDS)
			return few_words(out, index, page, mask, st);
		delta_of(delta, page, base);
	}
	p = buf_grow(out, sizeof(struct item) + PC_PAGE);
	if (!p)
		return -ENOMEM;
	if (!page_is_zero(page))
		len = body_of(p + sizeof(struct item), among, base ? delta : NULL,
			      changed, st, &kind);
	item_put(p, index, kind, len);
	out->len -= PC_PAGE - len;
	count(st, kind, sizeof(struct item) + len);
	return 0;
}

static const uint8_t zero_page[PC_PAGE];

void pc_apply(void *page, enum pc_change change, const void *data, unsigned len)
{
	switch (change) {
	case PC_REPLACE:
		memcpy(page, data, PC_PAGE);
		break;
	case PC_XOR:
		pc_xor(page, data);
		break;
	case PC_PATCH:
		pw_apply(page, data, len);
		break;
	case PC_TWIN:
		break; /* whoever has all of the epoch made it a replacement */
	}
}

/* What an item stands for, its bytes in the batch or in @room; data NULL if it is damaged. */
static struct pc_item item_of(enum pc_kind kind, const void *body, unsigned len,
			      void *room)
{
	struct pc_item it = {.change = PC_REPLACE, .len = PC_PAGE, .lasting = 1};

	switch (kind) {
	case PC_RAW:
		it.data = len == PC_PAGE ? body : NULL;
		break;
	case PC_ZERO:
		it.data = len ? NULL : zero_page;
		break;
	case PC_XOR_LZ4:
		it.change = PC_XOR; /* fall through */
	case PC_LZ4:
		it.lasting = 0;
		if (LZ4_decompress_safe(body, room, (int)len, PC_PAGE) == PC_PAGE)
			it.data = room;
		break;
	case PC_WORDS:
		it.change = PC_PATCH;
		it.len = len;
		it.data = pw_check(body, len) ? body : NULL;
		break;
	case PC_SAME:
		it.change = PC_TWIN;
		it.len = len;
		if (len == sizeof(struct le64)) {
			struct reader r = reader_of(body, len);

			it.twin = rd_u64(&r);
			it.data = body;
		}
		break;
	}
	return it;
}

int pc_decode(const void *batch, size_t len, uint64_t pages, pc_item_fn *fn, void *arg,
	      struct err *err)
{
	uint64_t room[WORDS] __attribute__((aligned(64)));
	struct reader r = reader_of(batch, len);
	const void *body;
	struct pc_item it;
	uint64_t tag;
	unsigned n;
	int rc;

	while (rd_left(&r)) {
		size_t at = len - rd_left(&r);

		tag = rd_u64(&r);
		n = rd_u16(&r);
		body = rd_take(&r, n);
		if (!body)
			return err_set(err, -EBADMSG, "page batch: cut short at byte %zu",
				       at);
		if (tag >> 8 >= pages)
			return err_set(err, -EBADMSG,
				       "page batch: page %llu of %llu at byte %zu",
				       (unsigned long long)(tag >> 8),
				       (unsigned long long)pages, at);
		it = item_of((enum pc_kind)(tag & 0xff), body, n, room);
		it.index = tag >> 8;
		if (!it.data || it.twin >= pages)
			return err_set(
				err, -EBADMSG,
				"page batch: page %llu (kind %u, %u bytes) is damaged",
				(unsigned long long)(tag >> 8), (unsigned)(tag & 0xff),
				n);
		rc = fn(arg, &it);
		if (rc)
			return rc;
	}
	return 0;
}
