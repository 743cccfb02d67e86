/* SPDX-License-Identifier: Apache-2.0
 * test_pagecodec - pages come back as they were, and a hostile batch changes nothing.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "replication/deltapack.h"
#include "replication/pagecodec.h"
#include "replication/pagewords.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 64, HEAD = 10 };

static uint64_t rnd_state = 1;

static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state;
}

static void noise(uint8_t *page)
{
	for (int i = 0; i < PC_PAGE; i++)
		page[i] = (uint8_t)(rnd() >> 13);
}

static void text(uint8_t *page)
{
	for (int i = 0; i < PC_PAGE; i++)
		page[i] = (uint8_t)("the quick brown fox "[(i * (1 + i / 500)) % 20]);
}

/* What a decoder makes of a batch. */
struct mirror {
	uint8_t page[PAGES][PC_PAGE];
	unsigned items, deltas;
	uint64_t last;
};

static int mirror_item(void *arg, const struct pc_item *it)
{
	struct mirror *m = arg;

	m->items++;
	m->deltas += it->change != PC_REPLACE;
	m->last = it->index;
	pc_apply(m->page[it->index], it->change, it->data, it->len);
	return 0;
}

static struct mirror *mirror_new(void)
{
	struct mirror *m = calloc(1, sizeof(*m));

	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	return m;
}

static int decode(const struct buf *b, struct mirror *m)
{
	struct err err = {0};
	int rc = pc_decode(b->data, b->len, PAGES, mirror_item, m, &err);

	CU_ASSERT_EQUAL(rc != 0, err.msg[0] != '\0');
	return rc;
}

static void test_kinds(void)
{
	static uint8_t page[PC_PAGE], base[PC_PAGE];
	struct mirror *m = mirror_new();
	struct pc_stats st = {0};
	struct buf b = {0};

	CU_ASSERT_EQUAL(pc_encode(&b, 1, page, NULL, &st), 0); /* zero */
	CU_ASSERT_EQUAL(b.len, HEAD);
	noise(page);
	CU_ASSERT_EQUAL(pc_encode(&b, 2, page, NULL, &st), 0); /* raw */
	CU_ASSERT_EQUAL(b.len, HEAD + HEAD + PC_PAGE);
	CU_ASSERT_EQUAL(pc_encode(&b, 2, page, page, &st), 0); /* unchanged */
	CU_ASSERT_EQUAL(b.len, HEAD + HEAD + PC_PAGE);
	memcpy(base, page, sizeof(base));
	page[1000] ^= 0x40;
	CU_ASSERT_EQUAL(pc_encode(&b, 2, page, base, &st), 0); /* delta */
	CU_ASSERT_EQUAL(decode(&b, m), 0);
	CU_ASSERT_EQUAL(m->deltas, 1);
	CU_ASSERT_EQUAL(st.words, 1);
	CU_ASSERT_EQUAL(memcmp(m->page[2], page, PC_PAGE), 0);
	memcpy(base, page, sizeof(base));
	for (int i = 0; i < PC_PAGE; i += 40)
		page[i]++;
	CU_ASSERT_EQUAL(pc_encode(&b, 2, page, base, &st), 0); /* a larger one */
	text(page);
	CU_ASSERT_EQUAL(pc_encode(&b, 3, page, base, &st),
			0); /* a delta of noise is no use */
	CU_ASSERT_EQUAL(st.pages, 6);
	CU_ASSERT_EQUAL(st.zero, 1);
	CU_ASSERT_EQUAL(st.raw, 1);
	CU_ASSERT_EQUAL(st.unchanged, 1);
	CU_ASSERT_EQUAL(st.xor_lz4, 1);
	CU_ASSERT_EQUAL(st.lz4, 1);
	CU_ASSERT_EQUAL(st.bytes_raw, 6 * PC_PAGE);
	CU_ASSERT_EQUAL(st.bytes_out, b.len);
	CU_ASSERT_EQUAL(decode(&b, m), 0);
	CU_ASSERT_EQUAL(memcmp(m->page[3], page, PC_PAGE), 0);
	buf_fini(&b);
	free(m);
}

/* What cannot be compressed is soon not tried any more, and what can is found again. */
static void test_turns_down(void)
{
	static uint8_t page[PC_PAGE];
	struct pc_stats st = {0};
	struct buf b = {0};
	unsigned n = 0;

	for (unsigned i = 0; i < 1000; i++) {
		noise(page);
		buf_reset(&b);
		CU_ASSERT_EQUAL(pc_encode(&b, i, page, NULL, &st), 0);
	}
	CU_ASSERT_EQUAL(st.raw, 1000);
	CU_ASSERT_EQUAL(st.misses, 1000);
	text(page);
	for (; !st.lz4 && n < 1000; n++) {
		buf_reset(&b);
		CU_ASSERT_EQUAL(pc_encode(&b, n, page, NULL, &st), 0);
	}
	CU_ASSERT_TRUE(n > 1 && n <= 32); /* not at once, but soon */
	CU_ASSERT_EQUAL(st.misses, 0);
	buf_fini(&b);
}

/* A zero page over a known base is told as zero, not as a delta. */
static void test_to_zero(void)
{
	static uint8_t page[PC_PAGE], base[PC_PAGE];
	struct mirror *m = mirror_new();
	struct pc_stats st = {0};
	struct buf b = {0};

	noise(base);
	memcpy(m->page[5], base, PC_PAGE);
	CU_ASSERT_EQUAL(pc_encode(&b, 5, page, base, &st), 0);
	CU_ASSERT_EQUAL(st.zero, 1);
	CU_ASSERT_EQUAL(decode(&b, m), 0);
	CU_ASSERT_EQUAL(memcmp(m->page[5], page, PC_PAGE), 0);
	CU_ASSERT_EQUAL(pc_encode(&b, 5, page, page, &st), 0);
	CU_ASSERT_EQUAL(st.unchanged, 1);
	buf_fini(&b);
	free(m);
}

/* No byte of a page is overlooked. */
static void test_every_byte_counts(void)
{
	static uint8_t page[PC_PAGE], base[PC_PAGE], x[PC_PAGE];
	struct pc_stats st = {0};
	struct buf b = {0};
	unsigned wrong = 0;

	noise(base);
	for (int i = 0; i < PC_PAGE; i++) {
		memset(page, 0, PC_PAGE);
		page[i] = 1;
		CU_ASSERT_EQUAL(pc_encode(&b, 0, page, NULL, &st), 0);
		memcpy(x, base, PC_PAGE);
		pc_xor(x, page);
		for (int k = 0; k < PC_PAGE; k++)
			wrong += x[k] != (base[k] ^ (k == i));
		CU_ASSERT_EQUAL(pc_encode(&b, 0, x, base, &st), 0);
		buf_reset(&b);
	}
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_EQUAL(st.zero, 0);
	CU_ASSERT_EQUAL(st.unchanged, 0);
	CU_ASSERT_EQUAL(st.words, PC_PAGE);
	buf_fini(&b);
}

static void scribble(uint8_t *page)
{
	unsigned n = 1u << rnd() % 13;

	switch (rnd() % 8) {
	case 0:
		memset(page, 0, PC_PAGE);
		break;
	case 1:
		noise(page);
		break;
	case 2:
		text(page);
		break;
	case 3:
		break; /* unchanged */
	default:
		for (unsigned i = 0; i < n; i++)
			page[rnd() % PC_PAGE] = (uint8_t)rnd();
	}
}

/* Random histories of a memory, with the standby's knowledge known or not: after each batch
 * the mirror is equal to the memory, and no item is larger than promised. */
static void test_random_histories(void)
{
	static uint8_t now[PAGES][PC_PAGE], sent[PAGES][PC_PAGE];
	struct mirror *m = mirror_new();
	struct pc_stats st = {0};
	struct buf b = {0};
	size_t before;

	for (int round = 0; round < 400; round++) {
		buf_reset(&b);
		for (unsigned i = 0; i < PAGES; i++) {
			scribble(now[i]);
			before = b.len;
			CU_ASSERT_EQUAL(
				pc_encode(&b, i, now[i], rnd() % 4 ? sent[i] : NULL, &st),
				0);
			CU_ASSERT(b.len - before <= PC_ITEM_MAX);
			memcpy(sent[i], now[i], PC_PAGE);
		}
		CU_ASSERT_EQUAL_FATAL(decode(&b, m), 0);
		CU_ASSERT_EQUAL_FATAL(memcmp(m->page, now, sizeof(now)), 0);
	}
	CU_ASSERT_EQUAL(st.pages, 400 * PAGES);
	CU_ASSERT_EQUAL(st.unchanged + st.zero + st.raw + st.lz4 + st.xor_lz4 + st.words,
			st.pages);
	CU_ASSERT(st.unchanged && st.zero && st.raw && st.lz4 && st.xor_lz4 && st.words);
	buf_fini(&b);
	free(m);
}

/* Packed into every size of room, @delta comes back through LZ4 or is refused. */
static void pack_and_check(const uint64_t *delta)
{
	static uint8_t back[PC_PAGE];
	unsigned need = 0, n;
	uint8_t *dst;

	for (size_t room = 8192; room; room = room == 8192 ? need : room - 1) {
		dst = malloc(room + PC_DELTA_SLACK); /* exact, for the sanitizer */
		CU_ASSERT_PTR_NOT_NULL_FATAL(dst);
		n = pc_delta_pack(dst, room, delta);
		CU_ASSERT(n <= room);
		if (room == 8192)
			need = n;
		if (n) {
			CU_ASSERT_EQUAL(LZ4_decompress_safe((char *)dst, (char *)back,
							    (int)n, PC_PAGE),
					PC_PAGE);
			CU_ASSERT_EQUAL(memcmp(back, delta, PC_PAGE), 0);
		}
		free(dst);
		if (!n || room + 64 < need)
			break;
	}
	CU_ASSERT(need != 0);
}

/* Random masks, and the two ways of finding them. */
static void test_words(void)
{
	static uint8_t page[PC_PAGE], base[PC_PAGE], copy[PC_PAGE], body[PW_BODY_MAX];
	uint64_t mask[PW_WORDS / 64], plain[PW_WORDS / 64];
	unsigned n, len;

	for (unsigned round = 0; round < 4000; round++) {
		noise(base);
		memcpy(page, base, sizeof(page));
		n = (unsigned)(rnd() % (round % 3 ? 20 : 700));
		while (n--)
			page[rnd() % PC_PAGE] ^= (uint8_t)rnd();
		if (round % 100 == 0)
			for (unsigned i = 0; i < PC_PAGE; i++)
				page[i] = (uint8_t)~base[i]; /* each word */
		if (round % 100 == 1)
			for (unsigned i = 0; i < PC_PAGE; i += 16)
				page[i] ^= 1; /* each second word */
		n = pw_diff(mask, page, base);
		CU_ASSERT_EQUAL_FATAL(n, pw_diff_plain(plain, page, base));
		CU_ASSERT_EQUAL_FATAL(memcmp(mask, plain, sizeof(mask)), 0);
		len = pw_pack(body, mask, page);
		CU_ASSERT_FATAL(len <= PW_BODY_MAX);
		CU_ASSERT_EQUAL(pw_check(body, len), n != 0);
		memcpy(copy, base, sizeof(copy));
		pw_apply(copy, body, len);
		CU_ASSERT_EQUAL_FATAL(memcmp(copy, page, sizeof(copy)), 0);
		pw_apply(copy, body, len); /* again: nothing changes */
		CU_ASSERT_EQUAL_FATAL(memcmp(copy, page, sizeof(copy)), 0);
	}
}

static void test_delta_pack(void)
{
	enum { WORDS = PC_PAGE / 8 };
	static uint64_t d[WORDS + PC_DELTA_SLACK / 8];

	pack_and_check(d);
	for (unsigned i = 0; i < WORDS; i++) {
		memset(d, 0, sizeof(d));
		d[i] = 1ull << rnd() % 64;
		pack_and_check(d);
	}
	for (unsigned round = 0; round < 3000; round++) {
		unsigned n = (unsigned)(rnd() % (round % 3 ? 20 : WORDS + 1));

		memset(d, 0, sizeof(d));
		while (n--)
			d[rnd() % WORDS] = rnd() >> (rnd() % 8 * 8) << (rnd() % 8 * 8);
		pack_and_check(d);
	}
}

/* One item with any header and body. */
static int hostile(uint64_t tag, unsigned len, const void *body, size_t present)
{
	struct mirror *m = mirror_new();
	struct buf b = {0};
	int rc;

	CU_ASSERT_EQUAL(buf_add_u64(&b, tag), 0);
	CU_ASSERT_EQUAL(buf_add_u16(&b, (uint16_t)len), 0);
	CU_ASSERT_EQUAL(buf_add(&b, body, present), 0);
	rc = decode(&b, m);
	CU_ASSERT_EQUAL(rc ? m->items : 0, 0);
	buf_fini(&b);
	free(m);
	return rc;
}

static void test_empty_batch(void)
{
	CU_ASSERT_EQUAL(pc_decode(NULL, 0, PAGES, mirror_item, NULL, NULL), 0);
}

static void test_hostile(void)
{
	static const uint8_t junk[65535] = {0xff, 0xff, 1, 2, 3};
	/* LZ4 blocks of 5 zero bytes, and of a match that starts before the block. */
	static const uint8_t five[] = {0x50, 0, 0, 0, 0, 0},
			     back[] = {0x1f, 7, 9, 0, 0, 0x50};

	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_RAW, PC_PAGE, junk, PC_PAGE), 0);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_RAW, PC_PAGE, junk, PC_PAGE - 1), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_RAW, PC_PAGE - 1, junk, PC_PAGE - 1),
			-EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_RAW, 65535, junk, 65535), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_ZERO, 0, NULL, 0), 0);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_ZERO, 1, junk, 1), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_LZ4, 0, NULL, 0), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_LZ4, 65535, junk, 65535), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_LZ4, sizeof(five), five, sizeof(five)),
			-EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_XOR_LZ4, sizeof(back), back, sizeof(back)),
			-EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_WORDS, 0, NULL, 0), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_WORDS, 10, "\xff\x01 8 bytes", 10), 0);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_WORDS, 18, "\xff\x03 16 bytes in all", 18),
			-EBADMSG); /* the last word and one more */
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_WORDS, 9, "\x00\x00 7 byte", 9), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | PC_WORDS, 11, "\x00\x00 8 bytes?", 11),
			-EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | 5, 0, NULL, 0), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(0 << 8 | 255, PC_PAGE, junk, PC_PAGE), -EBADMSG);
	CU_ASSERT_EQUAL(hostile((PAGES - 1) << 8 | PC_ZERO, 0, NULL, 0), 0);
	CU_ASSERT_EQUAL(hostile(PAGES << 8 | PC_ZERO, 0, NULL, 0), -EBADMSG);
	CU_ASSERT_EQUAL(hostile(UINT64_MAX << 8 | PC_ZERO, 0, NULL, 0), -EBADMSG);
}

static void test_cut_anywhere(void)
{
	static uint8_t page[PC_PAGE];
	struct mirror *m = mirror_new();
	struct pc_stats st = {0};
	struct buf b = {0}, cut;
	size_t first;

	text(page);
	CU_ASSERT_EQUAL(pc_encode(&b, 1, page, NULL, &st), 0);
	first = b.len;
	page[0]++;
	CU_ASSERT_EQUAL(pc_encode(&b, 2, page, NULL, &st), 0);
	for (size_t n = 0; n <= b.len; n++) {
		cut = (struct buf){.data = malloc(n ? n : 1), .len = n};
		CU_ASSERT_PTR_NOT_NULL_FATAL(cut.data);
		memcpy(cut.data, b.data,
		       n); /* of its own, so that a sanitizer sees the end */
		CU_ASSERT_EQUAL(decode(&cut, m),
				!n || n == first || n == b.len ? 0 : -EBADMSG);
		buf_fini(&cut);
	}
	buf_fini(&b);
	free(m);
}

static int stop_at_second(void *arg, const struct pc_item *it)
{
	return ++*(int *)arg == 2 ? -EIO : 0;
}

static void test_callback_stops(void)
{
	static uint8_t page[PC_PAGE];
	struct pc_stats st = {0};
	struct err err = {0};
	struct buf b = {0};
	int seen = 0;

	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(pc_encode(&b, i, page, NULL, &st), 0);
	CU_ASSERT_EQUAL(pc_decode(b.data, b.len, 3, stop_at_second, &seen, &err), -EIO);
	CU_ASSERT_EQUAL(seen, 2);
	buf_fini(&b);
}

static void test_cache(void)
{
	struct pc_cache *c = pc_cache_create(4);
	void *p[3] = {pc_page_alloc(), pc_page_alloc(), pc_page_alloc()};

	CU_ASSERT_PTR_NOT_NULL_FATAL(c);
	CU_ASSERT_FATAL(p[0] && p[1] && p[2]);
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 1));
	CU_ASSERT_PTR_NULL(pc_cache_swap(c, 1, p[0]));
	CU_ASSERT_PTR_EQUAL(pc_cache_get(c, 1), p[0]);
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 5)); /* the same slot, another page */
	CU_ASSERT_PTR_EQUAL(pc_cache_swap(c, 5, p[1]), p[0]);
	CU_ASSERT_PTR_EQUAL(pc_cache_get(c, 5), p[1]);
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 1));
	CU_ASSERT_PTR_NULL(pc_cache_swap(c, 6, p[2]));
	pc_cache_clear(c);
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 5));
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 6));
	CU_ASSERT_PTR_EQUAL(pc_cache_swap(c, 5, p[0]), p[1]); /* memory is kept */
	pc_cache_destroy(c);
	pc_page_free(p[1]);
	pc_page_free(NULL);
}

static void test_cache_of_nothing(void)
{
	struct pc_cache *c = pc_cache_create(0);
	char page;

	CU_ASSERT_PTR_NOT_NULL_FATAL(c);
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 0));
	CU_ASSERT_PTR_EQUAL(pc_cache_swap(c, 0, &page), &page);
	CU_ASSERT_PTR_NULL(pc_cache_get(c, 0));
	pc_cache_clear(c);
	pc_cache_destroy(c);
	pc_cache_destroy(NULL);
	CU_ASSERT_PTR_NULL(pc_cache_create(SIZE_MAX / 2));
}

static const struct unit_test tests[] = {
	{"each kind of item", test_kinds},
	{"a page becomes zero", test_to_zero},
	{"incompressible data", test_turns_down},
	{"every byte counts", test_every_byte_counts},
	{"random histories", test_random_histories},
	{"words that changed", test_words},
	{"sparse deltas are LZ4 blocks", test_delta_pack},
	{"a batch of nothing", test_empty_batch},
	{"hostile items", test_hostile},
	{"a batch cut anywhere", test_cut_anywhere},
	{"the callback stops the walk", test_callback_stops},
	{"cache", test_cache},
	{"cache of no pages", test_cache_of_nothing},
};

int main(void)
{
	return UNIT_MAIN("pagecodec", tests);
}
