/* SPDX-License-Identifier: Apache-2.0
 * test_rdmahello - what the two ends of an rdma link say of themselves, and the config's words.
 */
#include "hv/base/err.h"
#include "replication/rdma/hello.h"
#include "replication/rdma/ring.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

static const struct hello_blob server_blob = {
	.nonce = "0123456789abcde",
	.family = 4,
	.port = 4791,
	.addr = {10, 88, 2, 11},
};
/* RDMA.md has the layout; a change of any byte here is a change of the version. */
static const uint8_t server_bytes[HELLO_BLOB_LEN] = {
	'R', 'R', 'b', '1', 1,	 0,   0,   0,	'0', '1', '2', '3',  '4',  '5', '6',
	'7', '8', '9', 'a', 'b', 'c', 'd', 'e', 0,   4,	  0,   0xb7, 0x12, 10,	88,
	2,   11,  0,   0,   0,	 0,   0,   0,	0,   0,	  0,   0,    0,	   0,
};

static const struct hello_private words = {
	.nonce = "0123456789abcde",
	.ring = 1 << 20,
	.rkey = 0x11223344,
	.addr = 0x7f0102030405,
	.marks = 256,
};
static const uint8_t words_bytes[HELLO_PRIVATE_LEN] = {
	'R',  'R',  'p',  '1',	1,    0,   0,	 0,    '0',  '1',  '2',
	'3',  '4',  '5',  '6',	'7',  '8', '9',	 'a',  'b',  'c',  'd',
	'e',  0,    0,	  0,	16,   0,   0x44, 0x33, 0x22, 0x11, 0x05,
	0x04, 0x03, 0x02, 0x01, 0x7f, 0,   0,	 0,    1,    0,	   0,
};

static void blob_is_golden(void)
{
	uint8_t p[HELLO_BLOB_LEN];
	struct hello_blob b;
	struct err err = {0};

	hello_blob_encode(&server_blob, p);
	CU_ASSERT_EQUAL(memcmp(p, server_bytes, sizeof(p)), 0);
	CU_ASSERT_EQUAL_FATAL(hello_blob_parse(p, sizeof(p), 1, &b, &err), 0);
	CU_ASSERT(hello_nonce_equal(b.nonce, server_blob.nonce));
	CU_ASSERT_EQUAL(b.family, 4);
	CU_ASSERT_EQUAL(b.port, 4791);
	CU_ASSERT_EQUAL(memcmp(b.addr, server_blob.addr, sizeof(b.addr)), 0);
}

static void private_is_golden(void)
{
	uint8_t p[HELLO_PRIVATE_LEN + 12] = {0}; /* the fabric pads */
	struct hello_private h;
	struct err err = {0};

	hello_private_encode(&words, p);
	CU_ASSERT_EQUAL(memcmp(p, words_bytes, sizeof(words_bytes)), 0);
	CU_ASSERT_EQUAL_FATAL(hello_private_parse(p, sizeof(p), &h, &err), 0);
	CU_ASSERT_EQUAL(h.ring, words.ring);
	CU_ASSERT_EQUAL(h.rkey, words.rkey);
	CU_ASSERT_EQUAL(h.addr, words.addr);
	CU_ASSERT_EQUAL(h.marks, words.marks);
	CU_ASSERT(hello_nonce_equal(h.nonce, words.nonce));
	h.nonce[15] ^= 0x80;
	CU_ASSERT(!hello_nonce_equal(h.nonce, words.nonce));
}

static int blob_with(size_t at, uint8_t value, int from_server)
{
	uint8_t p[HELLO_BLOB_LEN];
	struct hello_blob b;
	struct err err = {0};
	int rc;

	memcpy(p, server_bytes, sizeof(p));
	p[at] = value;
	rc = hello_blob_parse(p, sizeof(p), from_server, &b, &err);
	CU_ASSERT_EQUAL(err.code, rc);
	return rc;
}

static void bad_blobs(void)
{
	struct hello_blob client = {.nonce = "c"}, b;
	uint8_t p[HELLO_BLOB_LEN + 1];
	struct err err = {0};

	CU_ASSERT_EQUAL(blob_with(0, 'X', 1), -EBADMSG);
	CU_ASSERT_EQUAL(blob_with(4, 2, 1), -EPROTO); /* a later version */
	CU_ASSERT_EQUAL(blob_with(4, 0, 1), -EPROTO);
	CU_ASSERT_EQUAL(blob_with(6, 1, 1), 0); /* a capability that is not known */
	CU_ASSERT_EQUAL(blob_with(24, 5, 1), -EBADMSG);
	CU_ASSERT_EQUAL(blob_with(24, 0, 1), -EBADMSG);
	CU_ASSERT_EQUAL(blob_with(25, 1, 1), -EBADMSG);
	CU_ASSERT_EQUAL(blob_with(43, 1, 1), -EBADMSG); /* IPv4 with more than 4 bytes */
	CU_ASSERT_EQUAL(blob_with(8, 1, 0), -EBADMSG);	/* a client listens nowhere */
	hello_blob_encode(&client, p);
	CU_ASSERT_EQUAL(hello_blob_parse(p, HELLO_BLOB_LEN, 0, &b, &err), 0);
	CU_ASSERT_EQUAL(hello_blob_parse(p, HELLO_BLOB_LEN, 1, &b, &err), -EBADMSG);
	CU_ASSERT_EQUAL(hello_blob_parse(p, HELLO_BLOB_LEN - 1, 0, &b, &err), -EBADMSG);
	CU_ASSERT_EQUAL(hello_blob_parse(p, HELLO_BLOB_LEN + 1, 0, &b, &err), -EBADMSG);
	CU_ASSERT_EQUAL(hello_blob_parse(p, 0, 0, &b, &err), -EBADMSG);
}

static int private_of(struct hello_private h)
{
	uint8_t p[HELLO_PRIVATE_LEN];
	struct hello_private got;
	struct err err = {0};

	hello_private_encode(&h, p);
	return hello_private_parse(p, sizeof(p), &got, &err);
}

static void bad_private_data(void)
{
	struct hello_private h = words;
	struct err err = {0};

	CU_ASSERT_EQUAL(hello_private_parse(NULL, 0, &h, &err), -EBADMSG);
	CU_ASSERT_EQUAL(hello_private_parse(words_bytes, 43, &h, &err), -EBADMSG);
	h = words;
	h.ring = HELLO_RING_MIN - 1;
	CU_ASSERT_EQUAL(private_of(h), -EBADMSG);
	h.ring = HELLO_RING_MAX;
	CU_ASSERT_EQUAL(private_of(h), 0);
	h.ring = HELLO_RING_MAX + 1;
	CU_ASSERT_EQUAL(private_of(h), -EBADMSG);
	h = words;
	h.addr = UINT64_MAX - h.ring + 1;
	CU_ASSERT_EQUAL(private_of(h), -EBADMSG);
	h = words;
	h.marks = RING_MARKS_MIN - 1;
	CU_ASSERT_EQUAL(private_of(h), -EBADMSG);
	h.marks = 65535;
	CU_ASSERT_EQUAL(private_of(h), 0);
}

static void good_args(void)
{
	static const uint8_t v4[16] = {10, 0, 0, 1}, v6[16] = {0xfd, 0, [15] = 1};
	struct hello_args a;
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(hello_args_parse("address=10.0.0.1", &a, &err), 0);
	CU_ASSERT_EQUAL(a.family, 4);
	CU_ASSERT_EQUAL(memcmp(a.addr, v4, sizeof(v4)), 0);
	CU_ASSERT_EQUAL(a.ring, 32 << 20);
	CU_ASSERT_EQUAL(a.send, 4 << 20);
	CU_ASSERT_EQUAL(a.silence_ms, 500);
	CU_ASSERT_EQUAL(a.spin_us, 50);
	CU_ASSERT_EQUAL_FATAL(hello_args_parse("  ring=64K  address=fd00::1 silence=80 "
					       "send=512M",
					       &a, &err),
			      0);
	CU_ASSERT_EQUAL(a.family, 6);
	CU_ASSERT_EQUAL(memcmp(a.addr, v6, sizeof(v6)), 0);
	CU_ASSERT_EQUAL(a.ring, 64 << 10);
	CU_ASSERT_EQUAL(a.send, 512 << 20);
	CU_ASSERT_EQUAL(a.silence_ms, 80);
}

static void bad_args(void)
{
	static const char *const bad[] = {
		"",
		"ring=1M",
		"address=",
		"address=10.0.0",
		"address=host",
		"10.0.0.1",
		"=1",
		"address=10.0.0.1 ring",
		"address=10.0.0.1 ring=",
		"address=10.0.0.1 ring=1G",
		"address=10.0.0.1 ring=-1",
		"address=10.0.0.1 ring=1",
		"address=10.0.0.1 ring=513M",
		"address=10.0.0.1 ring=99999999999999999999",
		"address=10.0.0.1 ring=18446744073709551615K",
		"address=10.0.0.1 silence=9",
		"address=10.0.0.1 silence=1K",
		"address=10.0.0.1 colour=red",
		"address=10.0.0.1,ring=1M",
	};
	char wide[300] = "address=10.0.0.1 ring=";
	struct hello_args a;
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err = (struct err){0};
		CU_ASSERT_EQUAL(hello_args_parse(bad[i], &a, &err), -EINVAL);
		CU_ASSERT(err.msg[0] != 0);
	}
	memset(wide + strlen(wide), '1', sizeof(wide) - strlen(wide) - 1);
	CU_ASSERT_EQUAL(hello_args_parse(wide, &a, &err), -EINVAL);
}

/* The path is declared dead after what was asked or up to half of it, never after more
 * than a tenth over it. */
static void ack_timeouts(void)
{
	for (unsigned ms = 10; ms <= 60000; ms++) {
		uint64_t all = (4096ull << hello_ack_timeout(ms)) * (HELLO_RETRIES + 1);

		CU_ASSERT_FATAL(all <= ms * 1100000ull && 2 * all > ms * 1100000ull);
	}
	CU_ASSERT_EQUAL(hello_ack_timeout(500), 14);
}

static const struct unit_test tests[] = {
	{"blob is golden", blob_is_golden},
	{"private data are golden", private_is_golden},
	{"bad blobs", bad_blobs},
	{"bad private data", bad_private_data},
	{"good args", good_args},
	{"bad args", bad_args},
	{"ack time-outs", ack_timeouts},
};

int main(void)
{
	return UNIT_MAIN("rdmahello", tests);
}
