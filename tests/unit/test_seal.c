/* SPDX-License-Identifier: Apache-2.0
 * test_seal - what an attacker on the wire can do to a sealed transport: nothing but cut it.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "replication/seal.h"
#include "replication/transport.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A wire that is written to memory and read from there. */
struct tape {
	struct tp tp;
	struct buf b;
	size_t at;
};

static int tape_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct tape *t = (struct tape *)tp;

	for (int i = 0; i < n; i++)
		CU_ASSERT_EQUAL_FATAL(buf_add(&t->b, iov[i].iov_base, iov[i].iov_len), 0);
	return 0;
}

static int tape_flush(struct tp *tp)
{
	return 0;
}

static int tape_recv(struct tp *tp, void *p, size_t len)
{
	struct tape *t = (struct tape *)tp;

	if (t->b.len - t->at < len)
		return t->at == t->b.len ? -EPIPE : -ECONNRESET;
	memcpy(p, t->b.data + t->at, len);
	t->at += len;
	return 0;
}

static void tape_nothing(struct tp *tp)
{
}

static const struct tp_ops tape_ops = {.name = "tape",
				       .send = tape_send,
				       .flush = tape_flush,
				       .recv = tape_recv,
				       .shutdown = tape_nothing,
				       .close = tape_nothing};

enum { CLIENT, SERVER };

static struct seal_secrets secrets(void)
{
	struct seal_secrets s;

	for (int i = 0; i < SEAL_SECRET_LEN; i++) {
		s.client[i] = (uint8_t)i;
		s.server[i] = (uint8_t)(0xff - i);
	}
	return s;
}

static struct tp *seal(struct tape *t, int server, uint64_t rekey)
{
	struct seal_secrets s = secrets();
	struct err err = {0};
	struct tp *tp = NULL;

	t->tp.ops = &tape_ops;
	CU_ASSERT_EQUAL_FATAL(tp_seal_wrap(&t->tp, server, &s, &tp, &err), 0);
	if (rekey)
		tp_seal_set_rekey(tp, rekey);
	return tp;
}

static void say(struct tp *tp, const void *p, size_t len)
{
	struct iovec v = {.iov_base = (void *)p, .iov_len = len};

	CU_ASSERT_EQUAL(tp_send(tp, &v, 1), 0);
	CU_ASSERT_EQUAL(tp_flush(tp), 0);
}

static const char *const words[] = {"the first record", "x", "under the next key"};

/* Three records and the end, as the client says them. */
static void speak(struct tape *t)
{
	struct tp *tp = seal(t, CLIENT, 2);

	for (int i = 0; i < 3; i++)
		say(tp, words[i], strlen(words[i]));
	tp_close(tp);
}

/* Listen to the whole tape; returns how it ended. *heard_out: whole words that came right. */
static int listen_to(struct tape *t, int side, int *heard_out)
{
	struct tp *tp = seal(t, side, 2);
	char got[32];
	int rc = 0;

	for (*heard_out = 0; !rc; *heard_out += !rc) {
		size_t len = *heard_out < 3 ? strlen(words[*heard_out]) : 1;

		memset(got, 0, sizeof(got));
		rc = tp_recv(tp, got, len);
		if (!rc)
			CU_ASSERT_EQUAL(memcmp(got, words[*heard_out % 3], len), 0);
	}
	CU_ASSERT_EQUAL(tp_recv(tp, got, 1), rc); /* it stays ended */
	tp->ops->shutdown(tp);
	tp_close(tp);
	return rc;
}

/* Made by an implementation of its own from the text of STREAM.md. */
static const uint8_t golden[] = {
	0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xda, 0x13, 0x9d, 0x81,
	0x1b, 0x07, 0xab, 0xcf, 0xcb, 0xc7, 0x8b, 0x9f, 0x3c, 0x28, 0x2b, 0xd6,
	0x6e, 0x6b, 0x77, 0x04, 0x7f, 0xfe, 0xd0, 0x5f, 0x5e, 0x42, 0xa6, 0x4e,
	0x0a, 0x47, 0x9a, 0x52, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x0a, 0x5c, 0x5d, 0xb5, 0x91, 0x6e, 0xc5, 0xb9, 0xff, 0x54, 0xa5, 0xca,
	0xdd, 0x71, 0xbf, 0xbe, 0xa4, 0x12, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x1e, 0x6e, 0xad, 0xc7, 0xff, 0xeb, 0x6b, 0xb3, 0x2e, 0x49, 0xb8,
	0x4b, 0xb9, 0xbf, 0x6d, 0xcb, 0xf5, 0xa6, 0x11, 0xf8, 0xb0, 0xad, 0x7a,
	0xb5, 0x43, 0xd2, 0x83, 0xed, 0xde, 0xf8, 0x0e, 0x29, 0x5e, 0xed, 0x00,
	0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x50, 0xcd, 0x57, 0x2d, 0x53,
	0x70, 0x0a, 0x27, 0xab, 0x5f, 0x6b, 0x36, 0xc8, 0x6c, 0x26, 0xb0,
};

static void test_golden(void)
{
	struct tape t = {0};
	int heard;

	speak(&t);
	CU_ASSERT_EQUAL_FATAL(t.b.len, sizeof(golden));
	CU_ASSERT_EQUAL(memcmp(t.b.data, golden, sizeof(golden)), 0);
	CU_ASSERT_EQUAL(listen_to(&t, SERVER, &heard), -EPIPE);
	CU_ASSERT_EQUAL(heard, 3);
	buf_fini(&t.b);
}

/* Where record @i begins in the golden bytes; 4 is their end. */
static size_t start_of(int i)
{
	size_t at = 0;

	for (int k = 0; k < i; k++)
		at += sizeof(struct seal_wire) + (k < 3 ? strlen(words[k]) : 0) +
		      SEAL_TAG_LEN;
	return at;
}

/* Listen to the records @order of the golden bytes, -1 ends the list. */
static int in_order(const int *order, int *heard_out)
{
	struct tape t = {0};
	int rc;

	for (; *order >= 0; order++)
		CU_ASSERT_EQUAL_FATAL(buf_add(&t.b, golden + start_of(*order),
					      start_of(*order + 1) - start_of(*order)),
				      0);
	rc = listen_to(&t, SERVER, heard_out);
	buf_fini(&t.b);
	return rc;
}

static void test_order(void)
{
	static const struct {
		int order[6], heard;
	} t[] = {
		{{0, 0, 1, 2, 3, -1}, 1}, /* said again */
		{{1, 0, 2, 3, -1}, 0},	  /* changed about */
		{{0, 2, 3, -1}, 1},	  /* one is missing */
		{{1, 2, 3, -1}, 0},
		{{0, 1, 3, -1}, 2}, /* the end too soon */
		{{0, 1, 2, 2, 3, -1}, 3},
		{{0, 1, 2, 0, 3, -1}, 3}, /* from before the new keys */
	};
	int heard;

	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		CU_ASSERT_EQUAL(in_order(t[i].order, &heard), -EBADMSG);
		CU_ASSERT_EQUAL(heard, t[i].heard);
	}
}

enum { ZEROS = 500, ZEROS_LEN = 16 };

static int by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, ZEROS_LEN);
}

/* The ciphertext of zeros is the bare key stream: no two records may have the same. */
static void test_nonces(void)
{
	static uint8_t zeros[ZEROS_LEN], stream[ZEROS][ZEROS_LEN];
	const size_t step = sizeof(struct seal_wire) + ZEROS_LEN + SEAL_TAG_LEN;
	struct tape t = {0};
	struct tp *tp = seal(&t, CLIENT, 3);
	uint64_t sent = 0, received = 0;

	for (int i = 0; i < ZEROS; i++)
		say(tp, zeros, sizeof(zeros));
	tp_seal_renewals(tp, &sent, &received);
	CU_ASSERT_EQUAL(sent, (ZEROS - 1) / 3);
	CU_ASSERT_EQUAL(received, 0);
	CU_ASSERT_EQUAL_FATAL(t.b.len, ZEROS * step);
	for (size_t i = 0; i < ZEROS; i++)
		memcpy(stream[i], t.b.data + i * step + sizeof(struct seal_wire),
		       ZEROS_LEN);
	qsort(stream, ZEROS, ZEROS_LEN, by_bytes);
	for (int i = 1; i < ZEROS; i++)
		CU_ASSERT_NOT_EQUAL(memcmp(stream[i - 1], stream[i], ZEROS_LEN), 0);
	tp_close(tp);
	buf_fini(&t.b);
}

static void test_flips(void)
{
	struct tape t = {0};
	int heard, rc;

	CU_ASSERT_EQUAL_FATAL(buf_add(&t.b, golden, sizeof(golden)), 0);
	for (size_t i = 0; i < 8 * sizeof(golden); i++) {
		t.b.data[i / 8] ^= (uint8_t)(1 << i % 8);
		t.at = 0;
		rc = listen_to(&t, SERVER, &heard);
		/* A length that points beyond the end is a cut; all else is seen for what it is. */
		CU_ASSERT(rc == -EBADMSG || rc == -ECONNRESET);
		CU_ASSERT(start_of(heard + 1) > i / 8);
		t.b.data[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	buf_fini(&t.b);
}

/* Nothing is taken for an end in good order but the whole closing record. */
static void test_cuts(void)
{
	struct tape t = {0};
	int heard;

	CU_ASSERT_EQUAL_FATAL(buf_add(&t.b, golden, sizeof(golden)), 0);
	for (size_t len = 0; len < sizeof(golden); len++) {
		t.b.len = len;
		t.at = 0;
		CU_ASSERT_EQUAL(listen_to(&t, SERVER, &heard), -ECONNRESET);
		CU_ASSERT(start_of(heard) <= len);
	}
	buf_fini(&t.b);
}

/* What one end said is not taken by that end itself. */
static void test_reflected(void)
{
	struct tape t = {0};
	int heard;

	speak(&t);
	CU_ASSERT_EQUAL(listen_to(&t, CLIENT, &heard), -EBADMSG);
	CU_ASSERT_EQUAL(heard, 0);
	buf_fini(&t.b);
}

static void test_other_keys(void)
{
	struct seal_secrets s = secrets();
	struct tape t = {0};
	struct err err = {0};
	struct tp *tp = NULL;
	char c;

	speak(&t);
	s.client[31] ^= 1;
	CU_ASSERT_EQUAL_FATAL(tp_seal_wrap(&t.tp, SERVER, &s, &tp, &err), 0);
	CU_ASSERT_EQUAL(tp_recv(tp, &c, 1), -EBADMSG);
	tp_close(tp);
	buf_fini(&t.b);
}

/* Neither length nor type nor reserved bytes of a stranger lead anywhere. */
static void test_headers(void)
{
	static const uint8_t head[][8] = {
		{0x01, 0x00, 0x01, 0x00},		   /* longer than any */
		{0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0, 0}, /* data without a byte */
		{1, 0, 0, 0, 1},			   /* an end with one */
		{1, 0, 0, 0, 2},	  {1, 0, 0, 0, 0, 1}, {1, 0, 0, 0, 0, 0, 0, 1},
	};
	static uint8_t rest[SEAL_CONTENT_MAX + 64];

	for (unsigned i = 0; i < sizeof(head) / sizeof(head[0]); i++) {
		struct tape t = {0};
		int heard;

		CU_ASSERT_EQUAL_FATAL(buf_add(&t.b, head[i], 8), 0);
		CU_ASSERT_EQUAL_FATAL(buf_add(&t.b, rest, sizeof(rest)), 0);
		CU_ASSERT_EQUAL(listen_to(&t, SERVER, &heard), -EBADMSG);
		CU_ASSERT_EQUAL(t.at, 8);
		buf_fini(&t.b);
	}
}

/* No two records look alike, and none shows what is in it. */
static void test_same_words(void)
{
	static uint8_t zero[4096];
	struct tape t = {0};
	struct tp *tp = seal(&t, CLIENT, 1);
	size_t len;

	say(tp, zero, sizeof(zero));
	len = t.b.len;
	for (int i = 1; i < 20; i++) {
		say(tp, zero, sizeof(zero));
		CU_ASSERT_EQUAL_FATAL(t.b.len, (size_t)(i + 1) * len);
		for (int k = 0; k < i; k++)
			CU_ASSERT(memcmp(t.b.data + (size_t)k * len + 8,
					 t.b.data + (size_t)i * len + 8, 64) != 0);
	}
	tp_close(tp);
	buf_fini(&t.b);
}

static void test_sizes(void)
{
	static const size_t size[] = {1, 65535, 65536, 65537, 300000, 48, 131072};
	static uint8_t out[300000 + 7], in[300000];
	struct tape t = {0};
	struct tp *tx = seal(&t, CLIENT, 3), *rx;

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 251);
	for (unsigned i = 0; i < 7; i++)
		say(tx, out + i, size[i] - i % 2);
	tp_close(tx);
	rx = seal(&t, SERVER, 3);
	for (unsigned i = 0; i < 7; i++) {
		CU_ASSERT_EQUAL(tp_recv(rx, in, size[i] - i % 2), 0);
		CU_ASSERT_EQUAL(memcmp(in, out + i, size[i] - i % 2), 0);
	}
	CU_ASSERT_EQUAL(tp_recv(rx, in, 1), -EPIPE);
	tp_close(rx);
	buf_fini(&t.b);
}

static const struct unit_test tests[] = {
	{"golden vector", test_golden},
	{"replayed, reordered, left out", test_order},
	{"no nonce twice", test_nonces},
	{"a bit flipped anywhere", test_flips},
	{"cut at every byte", test_cuts},
	{"reflected", test_reflected},
	{"other keys", test_other_keys},
	{"false headers", test_headers},
	{"the same words never look the same", test_same_words},
	{"sizes", test_sizes},
};

int main(void)
{
	return UNIT_MAIN("seal", tests);
}
