/* SPDX-License-Identifier: Apache-2.0
 * test_record - the record layer over a tape: what is whole comes back, nothing else does.
 *
 * With RHEA_GOLDEN_WRITE in the environment the golden stream is written anew before it is
 * read; that is done only when the format's version changes.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "replication/pagecodec.h"
#include "replication/record.h"
#include "replication/transport.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define GOLDEN "tests/unit/golden/stream.bin"

/* A transport that only remembers: sent bytes go to its end, received ones come from its
 * start. */
struct tape {
	struct tp tp;
	struct buf b;
	size_t pos;
	int flushed;
};

static int tape_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct tape *t = (struct tape *)tp;

	for (int i = 0; i < n; i++)
		if (buf_add(&t->b, iov[i].iov_base, iov[i].iov_len))
			return -ENOMEM;
	return 0;
}

static int tape_flush(struct tp *tp)
{
	((struct tape *)tp)->flushed++;
	return 0;
}

static int tape_recv(struct tp *tp, void *p, size_t len)
{
	struct tape *t = (struct tape *)tp;
	size_t left = t->b.len - t->pos;

	if (left < len)
		return left ? -ECONNRESET : -EPIPE;
	memcpy(p, t->b.data + t->pos, len);
	t->pos += len;
	return 0;
}

static void tape_nothing(struct tp *tp)
{
	(void)tp;
}

static const struct tp_ops tape_ops = {
	.name = "tape",
	.send = tape_send,
	.flush = tape_flush,
	.recv = tape_recv,
	.shutdown = tape_nothing,
	.close = tape_nothing,
};

static void tape_of(struct tape *t, const void *p, size_t len)
{
	*t = (struct tape){.tp = {.ops = &tape_ops}};
	CU_ASSERT_EQUAL_FATAL(buf_add(&t->b, p, len), 0);
}

static int put(struct rec_stream *s, uint16_t type, uint64_t epoch, const void *p,
	       size_t len)
{
	struct iovec v = {.iov_base = (void *)p, .iov_len = len};

	return rec_send(s, type, epoch, &v, 1);
}

/* The first error of reading @len bytes at @p to the end, and how many records came before. */
static int read_all(const void *p, size_t len, int *count_out, struct err *err)
{
	struct rec_stream s;
	struct tape t;
	struct rec r;
	int rc;

	tape_of(&t, p, len);
	rec_stream_init(&s, &t.tp, 0);
	*count_out = 0;
	while (!(rc = rec_recv(&s, &r, err)))
		++*count_out;
	rec_stream_fini(&s);
	buf_fini(&t.b);
	return rc;
}

static void sum_head(struct rec_wire *h)
{
	h->head_sum = le32_of(0);
	h->head_sum = le32_of((uint32_t)XXH3_64bits(h, sizeof(*h)));
}

static void test_order(void)
{
	struct rec_stream out, in;
	struct err err = {0};
	struct tape t;
	struct rec r;
	char text[32];

	tape_of(&t, NULL, 0);
	rec_stream_init(&out, &t.tp, 7);
	rec_stream_init(&in, &t.tp, 99); /* the term of what comes in is not judged */
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(text, sizeof(text), "record %u", i);
		CU_ASSERT_EQUAL(
			put(&out, (uint16_t)(0x100 + i), i * 1000ull, text, strlen(text)),
			0);
	}
	CU_ASSERT_EQUAL(rec_flush(&out), 0);
	CU_ASSERT_EQUAL(t.flushed, 1);
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(text, sizeof(text), "record %u", i);
		CU_ASSERT_EQUAL_FATAL(rec_recv(&in, &r, &err), 0);
		CU_ASSERT_EQUAL(r.type, 0x100 + i);
		CU_ASSERT_EQUAL(r.epoch, i * 1000ull);
		CU_ASSERT_EQUAL(r.term, 7);
		CU_ASSERT_EQUAL(r.len, strlen(text));
		CU_ASSERT_EQUAL(memcmp(r.payload, text, r.len), 0);
	}
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), -EPIPE);
	rec_stream_fini(&in);
	rec_stream_fini(&out);
	buf_fini(&t.b);
}

static void test_pieces_and_empty(void)
{
	struct rec_stream out, in;
	struct iovec v[40];
	struct tape t;
	struct rec r;
	char text[40];

	tape_of(&t, NULL, 0);
	rec_stream_init(&out, &t.tp, 1);
	rec_stream_init(&in, &t.tp, 1);
	for (int i = 0; i < 40; i++) {
		text[i] = (char)('0' + i);
		v[i] = (struct iovec){.iov_base = &text[i], .iov_len = 1};
	}
	for (int n = 0; n <= 40; n++)
		CU_ASSERT_EQUAL(rec_send(&out, 1, 0, v, n), 0);
	for (uint32_t n = 0; n <= 40; n++) {
		CU_ASSERT_EQUAL_FATAL(rec_recv(&in, &r, NULL), 0);
		CU_ASSERT_EQUAL(r.len, n);
		CU_ASSERT(!n || !memcmp(r.payload, text, n));
	}
	rec_stream_fini(&in);
	buf_fini(&t.b);
}

static void test_largest(void)
{
	uint8_t *big = calloc(1, REC_PAYLOAD_MAX + 1);
	struct rec_stream out, in;
	struct iovec v[2] = {{.iov_base = big, .iov_len = REC_PAYLOAD_MAX},
			     {.iov_base = big, .iov_len = SIZE_MAX}};
	struct tape t;
	struct rec r;

	CU_ASSERT_PTR_NOT_NULL_FATAL(big);
	big[REC_PAYLOAD_MAX - 1] = 0x5a;
	tape_of(&t, NULL, 0);
	rec_stream_init(&out, &t.tp, 1);
	rec_stream_init(&in, &t.tp, 1);
	CU_ASSERT_EQUAL(put(&out, 1, 0, big, REC_PAYLOAD_MAX + 1), -EMSGSIZE);
	CU_ASSERT_EQUAL(rec_send(&out, 1, 0, v, 2), -EMSGSIZE);
	CU_ASSERT_EQUAL(t.b.len, 0);
	CU_ASSERT_EQUAL(put(&out, 1, 0, "small", 5), 0);
	CU_ASSERT_EQUAL(put(&out, 1, 0, big, REC_PAYLOAD_MAX), 0);
	CU_ASSERT_EQUAL_FATAL(rec_recv(&in, &r, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(rec_recv(&in, &r, NULL), 0);
	CU_ASSERT_EQUAL(r.len, REC_PAYLOAD_MAX);
	CU_ASSERT_EQUAL(memcmp(r.payload, big, REC_PAYLOAD_MAX), 0);
	rec_stream_fini(&in);
	buf_fini(&t.b);
	free(big);
}

/* Three records, the middle one without payload. */
static void three(struct tape *t)
{
	struct rec_stream out;

	tape_of(t, NULL, 0);
	rec_stream_init(&out, &t->tp, 3);
	CU_ASSERT_EQUAL(put(&out, 0x0001, 0, "hello", 5), 0);
	CU_ASSERT_EQUAL(put(&out, 0x0003, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(put(&out, 0x0100, 2, "0123456789", 10), 0);
}

static void test_damage_everywhere(void)
{
	const size_t second = sizeof(struct rec_wire) + 5,
		     third = second + sizeof(struct rec_wire);
	struct err err = {0};
	struct tape t;
	int count;

	three(&t);
	for (size_t at = 0; at < t.b.len; at++) {
		for (int bit = 0; bit < 8; bit++) {
			t.b.data[at] ^= (uint8_t)(1 << bit);
			CU_ASSERT_EQUAL(read_all(t.b.data, t.b.len, &count, &err),
					-EBADMSG);
			CU_ASSERT_EQUAL(count, at < second ? 0 : at < third ? 1 : 2);
			CU_ASSERT(err.msg[0] != '\0');
			t.b.data[at] ^= (uint8_t)(1 << bit);
		}
	}
	buf_fini(&t.b);
}

static void test_cut_everywhere(void)
{
	const size_t head = sizeof(struct rec_wire);
	const size_t end[3] = {head + 5, 2 * head + 5, 3 * head + 15};
	struct err err = {0};
	struct tape t;
	int count, whole, at_edge;

	three(&t);
	CU_ASSERT_EQUAL_FATAL(t.b.len, end[2]);
	for (size_t len = 0; len <= t.b.len; len++) {
		whole = (len >= end[0]) + (len >= end[1]) + (len >= end[2]);
		at_edge = !len || len == end[0] || len == end[1] || len == end[2];
		CU_ASSERT_EQUAL(read_all(t.b.data, len, &count, &err),
				at_edge ? -EPIPE : -ECONNRESET);
		CU_ASSERT_EQUAL(count, whole);
	}
	buf_fini(&t.b);
}

static void test_missing_and_doubled(void)
{
	const size_t first = sizeof(struct rec_wire) + 5;
	struct err err = {0};
	struct tape t;
	int count;

	three(&t);
	CU_ASSERT_EQUAL(read_all(t.b.data + first, t.b.len - first, &count, &err),
			-EBADMSG);
	CU_ASSERT_EQUAL(count, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "record 0 expected, record 1 came"));
	CU_ASSERT_EQUAL(buf_add(&t.b, t.b.data, 0), 0);
	memcpy(t.b.data + first, t.b.data, sizeof(struct rec_wire));
	CU_ASSERT_EQUAL(read_all(t.b.data, t.b.len, &count, &err), -EBADMSG);
	CU_ASSERT_EQUAL(count, 1);
	buf_fini(&t.b);
}

static void test_hostile_heads(void)
{
	struct rec_wire h = {
		.magic = le32_of(REC_MAGIC),
		.version = le16_of(REC_VERSION),
		.sum = le64_of(XXH3_64bits("", 0)),
	};
	struct rec_wire bad;
	struct err err = {0};
	int count;

	sum_head(&h);
	CU_ASSERT_EQUAL(read_all(&h, sizeof(h), &count, &err), -EPIPE);
	CU_ASSERT_EQUAL(count, 1);

	bad = h;
	bad.len = le32_of(REC_PAYLOAD_MAX + 1);
	sum_head(&bad);
	CU_ASSERT_EQUAL(read_all(&bad, sizeof(bad), &count, &err), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "4194305 bytes, more than 4194304"));

	bad.len = le32_of(UINT32_MAX);
	sum_head(&bad);
	CU_ASSERT_EQUAL(read_all(&bad, sizeof(bad), &count, &err), -EBADMSG);

	bad = h;
	bad.version = le16_of(REC_VERSION + 1);
	sum_head(&bad);
	CU_ASSERT_EQUAL(read_all(&bad, sizeof(bad), &count, &err), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "version 2"));

	bad = h;
	bad.magic = le32_of(0);
	sum_head(&bad);
	CU_ASSERT_EQUAL(read_all(&bad, sizeof(bad), &count, &err), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "not a record"));
}

static void test_failure_sticks(void)
{
	struct rec_stream in;
	struct err err = {0};
	struct tape t;
	struct rec r;

	three(&t);
	t.b.data[0] ^= 1;
	rec_stream_init(&in, &t.tp, 0);
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), -EBADMSG);
	t.pos = 0;
	t.b.data[0] ^= 1;
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), -EBADMSG);
	CU_ASSERT_EQUAL(t.pos, 0);
	rec_stream_fini(&in);
	rec_stream_fini(&in); /* twice is fine */
	buf_fini(&t.b);
}

/* Blocks written by hand from LZ4's block format, so that the golden file does not hang on how
 * hard a certain release of the library tries. */
static void lz4_run(struct buf *b, const void *literals, unsigned n, uint8_t fill)
{
	static const uint8_t ff[15] = {255, 255, 255, 255, 255, 255, 255, 255,
				       255, 255, 255, 255, 255, 255, 255};
	const uint8_t token = (uint8_t)(n << 4 | 15), offset[2] = {1, 0}, last = 0x50;
	const uint8_t rest = (uint8_t)(PC_PAGE - n - 5 - 19 - 15 * 255);
	const uint8_t tail[5] = {fill, fill, fill, fill, fill};

	(void)buf_add(b, &token,
		      1); /* failure sticks in the buffer, asserted by the caller */
	(void)buf_add(b, literals, n);
	(void)buf_add(b, offset, 2);
	(void)buf_add(b, ff, sizeof(ff));
	(void)buf_add(b, &rest, 1);
	(void)buf_add(b, &last, 1);
	(void)buf_add(b, tail, 5);
}

static void item(struct buf *b, uint64_t index, enum pc_kind kind, const struct buf *body)
{
	(void)buf_add_u64(b, index << 8 | kind); /* as above */
	(void)buf_add_u16(b, (uint16_t)body->len);
	(void)buf_add(b, body->data, body->len);
}

static void noise(uint8_t *page)
{
	uint32_t x = 12345;

	for (int i = 0; i < PC_PAGE; i++) {
		x = x * 1664525 + 1013904223;
		page[i] = (uint8_t)(x >> 24);
	}
}

static void golden_batch(struct buf *b)
{
	static uint8_t page[PC_PAGE];
	struct pc_stats st = {0};
	struct buf body = {0};

	memset(page, 0, sizeof(page));
	CU_ASSERT_EQUAL(pc_encode(b, 1, page, NULL, &st), 0);
	noise(page);
	CU_ASSERT_EQUAL(pc_encode(b, 2, page, NULL, &st), 0);
	lz4_run(&body, "\xab", 1, 0xab);
	item(b, 3, PC_LZ4, &body);
	buf_reset(&body);
	lz4_run(&body, "deltaXOR\0", 9, 0);
	item(b, 0x123456, PC_XOR_LZ4, &body);
	buf_reset(&body);
	CU_ASSERT_EQUAL(buf_add(&body, "\x05\x02two words, new.\0\xff\x01the last", 28),
			0);
	item(b, 4, PC_WORDS, &body);
	buf_reset(&body);
	CU_ASSERT_EQUAL(buf_add_u64(&body, 3), 0);
	item(b, 6, PC_SAME, &body);
	CU_ASSERT_FALSE(body.failed || b->failed);
	buf_fini(&body);
}

static void golden_write(struct tape *t)
{
	struct rec_stream out;
	struct buf batch = {0};

	tape_of(t, NULL, 0);
	rec_stream_init(&out, &t->tp, 0x1122334455667788ull);
	CU_ASSERT_EQUAL(put(&out, 0x0001, 0, "hello", 5), 0);
	golden_batch(&batch);
	CU_ASSERT_EQUAL(put(&out, 0x0102, UINT64_MAX, batch.data, batch.len), 0);
	CU_ASSERT_EQUAL(put(&out, 0x0003, 1, NULL, 0), 0);
	buf_fini(&batch);
}

static int golden_page(void *arg, const struct pc_item *it)
{
	static const uint8_t last[] = {'t', 'h', 'e', ' ', 'l', 'a', 's', 't'};
	static uint8_t want[PC_PAGE], page[PC_PAGE];

	++*(int *)arg;
	if (it->index == 6) {
		CU_ASSERT_EQUAL(it->change, PC_TWIN);
		CU_ASSERT_EQUAL(it->twin, 3);
		return 0;
	}
	memset(page, 0, sizeof(page));
	pc_apply(page, it->change, it->data, it->len);
	memset(want, it->index == 3 ? 0xab : 0, sizeof(want));
	if (it->index == 2)
		noise(want);
	if (it->index == 0x123456)
		memcpy(want, "deltaXOR", sizeof("deltaXOR")); /* the rest is zero */
	if (it->index == 4) {
		memcpy(want + 40, "two words, new.", 16);
		memcpy(want + PC_PAGE - sizeof(last), last, sizeof(last));
	}
	CU_ASSERT_EQUAL(it->change, it->index == 0x123456 ? PC_XOR
				    : it->index == 4	  ? PC_PATCH
							  : PC_REPLACE);
	CU_ASSERT_EQUAL(memcmp(page, want, PC_PAGE), 0);
	return 0;
}

static void golden_save(const struct buf *b)
{
	FILE *f = fopen(GOLDEN, "wb");

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	CU_ASSERT_EQUAL(fwrite(b->data, 1, b->len, f), b->len);
	CU_ASSERT_EQUAL(fclose(f), 0);
}

static void test_golden(void)
{
	static uint8_t file[16 << 10];
	struct rec_stream in;
	struct err err = {0};
	struct tape t, made;
	struct rec r = {0};
	size_t len = 0;
	int pages = 0;
	FILE *f;

	golden_write(&made);
	if (getenv("RHEA_GOLDEN_WRITE"))
		golden_save(&made.b);
	f = fopen(GOLDEN, "rb");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	len = fread(file, 1, sizeof(file), f);
	CU_ASSERT_EQUAL(fclose(f), 0);
	CU_ASSERT_EQUAL_FATAL(len, made.b.len);
	CU_ASSERT_EQUAL(memcmp(file, made.b.data, len), 0);
	tape_of(&t, file, len);
	rec_stream_init(&in, &t.tp, 0);
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), 0);
	CU_ASSERT_EQUAL(r.term, 0x1122334455667788ull);
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), 0);
	CU_ASSERT_EQUAL(r.epoch, UINT64_MAX);
	CU_ASSERT_EQUAL(pc_decode(r.payload, r.len, 1 << 24, golden_page, &pages, &err),
			0);
	CU_ASSERT_EQUAL(pages, 6);
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), 0);
	CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), -EPIPE);
	rec_stream_fini(&in);
	buf_fini(&made.b);
	buf_fini(&t.b);
}

static const struct unit_test tests[] = {
	{"records come back in order", test_order},
	{"payload in pieces, and none", test_pieces_and_empty},
	{"the largest record, and one more byte", test_largest},
	{"damage at every bit", test_damage_everywhere},
	{"cut at every byte", test_cut_everywhere},
	{"missing and doubled records", test_missing_and_doubled},
	{"hostile headers", test_hostile_heads},
	{"a failed stream stays failed", test_failure_sticks},
	{"golden stream, byte for byte", test_golden},
};

int main(void)
{
	return UNIT_MAIN("record", tests);
}
