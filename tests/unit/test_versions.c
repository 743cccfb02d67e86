/* SPDX-License-Identifier: Apache-2.0
 * test_versions - a peer of an older version, and of a newer one, at each place where two hosts say which
 * they speak: refused, with one line that says that it is the version.
 *
 * Paths, and the modules' own words, are in tests/native/conform_foreign.c, lanes in test_lane_hostile,
 * the machine's state (which reads one version back) in test_state.
 */
#include "ctl/heartbeat.h"
#include "ctl/pairing_msg.h"
#include "ctl/preface.h"
#include "hv/base/err.h"
#include "remus/stream.h"
#include "replication/record.h"
#include "replication/transport.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static void expect_told(const char *line, const char *word)
{
	CU_ASSERT(line[0] && !strchr(line, '\n'));
	CU_ASSERT_PTR_NOT_NULL(strstr(line, word));
}

static void test_preface(void)
{
	struct preface_wire w;
	struct preface p;

	for (int d = -1; d <= 1; d += 2) {
		struct err err = {0};

		CU_ASSERT_EQUAL(preface_encode("web", 3, 0, &w), 0);
		w.version = le16_of((uint16_t)(PREFACE_VERSION + d));
		CU_ASSERT_EQUAL(preface_parse(&w, &p, &err), -EBADMSG);
		expect_told(err.msg, "version");
	}
}

/* Behind the first words another version may look like anything. */
static void test_heartbeat(void)
{
	static const uint8_t key[CONFIG_KEY_LEN] = {1};
	uint8_t bytes[400];
	struct hb_msg m;

	memset(bytes, 0x77, sizeof(bytes));
	memcpy(bytes, "RHHB", 4);
	bytes[5] = 0;
	for (int d = -1; d <= 1; d += 2) {
		bytes[4] = (uint8_t)(1 + d);
		for (size_t len = 300; len <= sizeof(bytes); len += 50)
			CU_ASSERT_EQUAL(hb_decode(bytes, len, key, &m), HB_VERSION_OTHER);
	}
	expect_told(hb_verdict_text(HB_VERSION_OTHER), "version");
}

static void test_record(void)
{
	for (int d = -1; d <= 1; d += 2) {
		struct rec_wire h = {.magic = le32_of(REC_MAGIC),
				     .version = le16_of((uint16_t)(REC_VERSION + d)),
				     .type = le16_of(0x7777),
				     .len = le32_of(1 << 30)};
		struct iovec v = {.iov_base = &h, .iov_len = sizeof(h)};
		struct err err = {0};
		struct rec_stream in;
		struct tp *e[2];
		struct rec r;

		h.head_sum = le32_of((uint32_t)XXH3_64bits(&h, sizeof(h)));
		CU_ASSERT_EQUAL_FATAL(tp_loop_pair(1000, e, &err), 0);
		CU_ASSERT(!tp_send(e[0], &v, 1) && !tp_flush(e[0]));
		rec_stream_init(&in, e[1], 1);
		CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), -EBADMSG);
		expect_told(err.msg, "version");
		rec_stream_fini(&in);
		tp_close(e[0]);
		tp_close(e[1]);
	}
}

static void test_engine(void)
{
	static const uint8_t kinds[] = {2, 1};
	struct hello_wire ours, peer;

	hello_make(&ours, STREAM_STANDBY, "web", kinds, 2);
	for (int d = -1; d <= 1; d += 2) {
		struct err err = {0};

		hello_make(&peer, STREAM_PRIMARY, "web", kinds, 2);
		peer.version = le16_of((uint16_t)(STREAM_VERSION + d));
		CU_ASSERT_EQUAL(hello_check(&ours, &peer, sizeof(peer), &err), -EPROTO);
		expect_told(err.msg, "version");
	}
}

static void test_pairing(void)
{
	struct pairing_hello h;
	char text[64];

	for (int d = -1; d <= 1; d += 2) {
		struct err err = {0};
		int n = snprintf(text, sizeof(text), "rhea-pair %d\nwhatever this says\n",
				 PAIRING_PROTOCOL + d);

		CU_ASSERT_EQUAL(pairing_hello_parse(text, (size_t)n, &h, &err),
				-EPROTONOSUPPORT);
		expect_told(err.msg, "version");
	}
}

static const struct unit_test tests[] = {
	{"preface", test_preface}, {"heartbeat", test_heartbeat},
	{"record", test_record},   {"engine's HELLO", test_engine},
	{"pairing", test_pairing},
};

int main(void)
{
	return UNIT_MAIN("versions", tests);
}
