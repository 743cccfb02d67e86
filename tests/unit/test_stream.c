/* SPDX-License-Identifier: Apache-2.0
 * test_stream - HELLO and END, the schedule of epochs, and the crash points' names.
 */
#include "tests/unit/unit.h"

#include "hv/base/err.h"
#include "remus/crashpoint.h"
#include "remus/schedule.h"
#include "remus/stream.h"

#include <errno.h>
#include <string.h>

static const uint8_t kinds[] = {2, 1, 3};

static void hello_fits(void)
{
	struct hello_wire p, s;
	struct err err = {0};

	hello_make(&p, STREAM_PRIMARY, "web", kinds, 3);
	hello_make(&s, STREAM_STANDBY, "web", kinds, 3);
	CU_ASSERT_EQUAL(hello_check(&p, &s, sizeof(s), &err), 0);
	CU_ASSERT_EQUAL(hello_check(&s, &p, sizeof(p), &err), 0);
}

/* @peer is not to our liking, and the text says so with @word. */
static void refused(const struct hello_wire *peer, size_t len, const char *word)
{
	struct hello_wire ours;
	struct err err = {0};

	hello_make(&ours, STREAM_STANDBY, "web", kinds, 3);
	CU_ASSERT_EQUAL(hello_check(&ours, peer, len, &err), -EPROTO);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, word));
}

static void hello_refused(void)
{
	struct hello_wire h;

	hello_make(&h, STREAM_PRIMARY, "web", kinds, 3);
	h.version = le16_of(STREAM_VERSION + 1);
	refused(&h, sizeof(h), "same version");
	refused(&h, sizeof(h) + 40, "same version");
	hello_make(&h, STREAM_STANDBY, "web", kinds, 3);
	refused(&h, sizeof(h), "role");
	hello_make(&h, STREAM_PRIMARY, "db", kinds, 3);
	refused(&h, sizeof(h), "\"db\"");
	memset(h.vm, '\n', sizeof(h.vm));
	refused(&h, sizeof(h), "\"???");
	hello_make(&h, STREAM_PRIMARY, "web", kinds, 3);
	refused(&h, sizeof(h) - 1, "bytes");
	refused(&h, 0, "bytes");
}

/* What differs about the participants is named: number, kind or order, and which they are. */
static void hello_of_other_parts(void)
{
	const uint8_t kind[] = {2, 1, 4}, order[] = {1, 2, 3}, unknown[] = {2, 1, 255};
	const uint8_t twice[] = {2, 2, 1};
	struct hello_wire h;

	hello_make(&h, STREAM_PRIMARY, "web", kinds, 2);
	refused(&h, sizeof(h),
		"VM \"web\": participants differ in number: 2 (machine, memory) on the peer, "
		"3 (machine, memory, netbuf) on this host; both need the same version");
	hello_make(&h, STREAM_PRIMARY, "web", kinds, 0);
	refused(&h, sizeof(h), "in number: 0 (none) on the peer, 3 (");
	hello_make(&h, STREAM_PRIMARY, "web", kind, 3);
	refused(&h, sizeof(h), "in kind: 3 (machine, memory, disk) on the peer, 3 (mach");
	hello_make(&h, STREAM_PRIMARY, "web", unknown, 3);
	refused(&h, sizeof(h), "in kind: 3 (machine, memory, kind 255) on the peer, 3 (");
	hello_make(&h, STREAM_PRIMARY, "web", twice, 3);
	refused(&h, sizeof(h), "in kind: 3 (machine, machine, memory) on the peer, 3 (");
	hello_make(&h, STREAM_PRIMARY, "web", order, 3);
	refused(&h, sizeof(h), "in order: 3 (memory, machine, netbuf) on the peer, 3 (m");
}

/* A list that is longer than it may be, or than it says; the longest that may be. */
static void hello_of_hostile_parts(void)
{
	uint8_t many[STREAM_PARTS_MAX];
	struct hello_wire h;

	hello_make(&h, STREAM_PRIMARY, "web", kinds, 3);
	h.parts = le16_of(STREAM_PARTS_MAX + 1);
	refused(&h, sizeof(h), "HELLO of 9 participants; at most 8");
	h.parts = le16_of(UINT16_MAX);
	refused(&h, sizeof(h), "HELLO of 65535 participants");
	h.parts = le16_of(3);
	h.kind[STREAM_PARTS_MAX - 1] = 4;
	refused(&h, sizeof(h), "counts 3 participants, but names more");
	memset(many, 255, sizeof(many));
	hello_make(&h, STREAM_PRIMARY, "web", many, STREAM_PARTS_MAX);
	refused(&h, sizeof(h),
		"kind 255, kind 255) on the peer, 3 (machine, memory, netb");
}

static int add(struct tally *t, uint16_t type, const char *text)
{
	struct iovec v = {.iov_base = (void *)text, .iov_len = strlen(text)};

	return tally_add(t, type, &v, 1);
}

/* Does a receiver that counted otherwise notice? */
static int differs(const struct tally *sent, const struct tally *got)
{
	struct end_wire end[STREAM_PARTS_MAX];
	struct err err = {0};
	size_t len = tally_end(sent, end);

	return tally_check(got, end, len, &err) == -EPROTO;
}

static void tally_finds_all(void)
{
	struct tally a, b;
	struct iovec cut[3] = {{(void *)"o", 1}, {NULL, 0}, {(void *)"ne", 2}};

	tally_init(&a, kinds, 3);
	tally_init(&b, kinds, 3);
	CU_ASSERT_FALSE(differs(&a, &b));
	CU_ASSERT_EQUAL(add(&a, 0x0102, "one"), 0);
	CU_ASSERT_TRUE(differs(&a, &b)); /* missing */
	CU_ASSERT_EQUAL(tally_add(&b, 0x0102, cut, 3), 0);
	CU_ASSERT_FALSE(differs(&a, &b)); /* however it was cut */
	CU_ASSERT_EQUAL(add(&b, 0x0202, "x"), 0);
	CU_ASSERT_TRUE(differs(&a, &b)); /* surplus */
	tally_reset(&a);
	tally_reset(&b);
	CU_ASSERT_EQUAL(add(&a, 0x0102, "one"), 0);
	CU_ASSERT_EQUAL(add(&a, 0x0102, "two"), 0);
	CU_ASSERT_EQUAL(add(&b, 0x0102, "two"), 0);
	CU_ASSERT_EQUAL(add(&b, 0x0102, "one"), 0);
	CU_ASSERT_TRUE(differs(&a, &b)); /* order */
	tally_reset(&a);
	tally_reset(&b);
	CU_ASSERT_EQUAL(add(&a, 0x0102, "one"), 0);
	CU_ASSERT_EQUAL(add(&b, 0x0103, "one"), 0);
	CU_ASSERT_TRUE(differs(&a, &b));		   /* type */
	CU_ASSERT_EQUAL(add(&a, 0x0402, "disk"), -EPROTO); /* nobody's kind */
	CU_ASSERT_EQUAL(tally_bytes(&a, 1), 3);
}

static void end_of_wrong_size(void)
{
	struct end_wire end[STREAM_PARTS_MAX + 1] = {0};
	struct err err = {0};
	struct tally t;
	size_t len;

	tally_init(&t, kinds, 3);
	len = tally_end(&t, end);
	CU_ASSERT_EQUAL(tally_check(&t, end, len, &err), 0);
	CU_ASSERT_EQUAL(tally_check(&t, end, len - 1, &err), -EPROTO);
	CU_ASSERT_EQUAL(tally_check(&t, end, len + sizeof(end[0]), &err), -EPROTO);
	CU_ASSERT_EQUAL(tally_check(&t, end, 0, &err), -EPROTO);
	end[0].kind = le16_of(9);
	CU_ASSERT_EQUAL(tally_check(&t, end, len, &err), -EPROTO);
}

static void epochs_in_time(void)
{
	struct control_config cfg = {
		.interval = 100, .min_interval = 10, .overhead_cap = 100};
	struct control c = {0};
	struct sched s = {.now = 1000, .max_inflight = 2};

	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), 1000); /* the first comes at once */
	s.last_start = 950;
	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), 1050);
	s.output_since = 955;
	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), 960);
	cfg.min_interval = 500; /* longer than the interval: the interval holds */
	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), 1050);
	s.inflight = 2;
	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), SCHED_NEVER);
	s.inflight = 1;
	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), 1050);
	s.hurry = 1;
	CU_ASSERT_EQUAL(sched_next(&s, &c, &cfg), 1000);
}

static void precopy_ends(void)
{
	struct sync_progress p = {.best = UINT64_MAX};
	uint64_t left = 1ull << 40;
	int rounds = 0;

	CU_ASSERT_TRUE(sync_enough(&p, SYNC_LEFT_OK));
	/* Steady progress may go on, ... */
	for (int i = 0; i < 1000; i++)
		CU_ASSERT_FALSE_FATAL(sync_enough(&p, left -= SYNC_LEFT_OK));
	/* ... a guest that writes as fast as we send may not. */
	while (!sync_enough(&p, left))
		rounds++;
	CU_ASSERT_EQUAL(rounds, SYNC_STALLED_MAX - 1);
}

static enum crash_point hit;

static void on_crash(enum crash_point at, uint64_t epoch)
{
	hit = at;
	CU_ASSERT_EQUAL(epoch, 7);
}

static void crash_points(void)
{
	for (int i = 0; i < CRASH_POINTS; i++) {
		CU_ASSERT_PTR_NOT_NULL_FATAL(crash_point_name((enum crash_point)i));
		CU_ASSERT_EQUAL(crash_point_find(crash_point_name((enum crash_point)i)),
				i);
	}
	CU_ASSERT_PTR_NULL(crash_point_name(CRASH_POINTS));
	CU_ASSERT_EQUAL(crash_point_find("lunch"), -1);
	hit = CRASH_POINTS;
	crash_at(CRASH_END_SENT, 7);
	CU_ASSERT_EQUAL(hit, CRASH_POINTS);
	crash_hook_set(on_crash);
	crash_at(CRASH_END_SENT, 7);
	crash_hook_set(NULL);
	CU_ASSERT_EQUAL(hit, CRASH_END_SENT);
}

static const struct unit_test tests[] = {
	{"two HELLOs that fit", hello_fits},
	{"HELLOs that do not", hello_refused},
	{"HELLOs of other participants", hello_of_other_parts},
	{"HELLOs of hostile participants", hello_of_hostile_parts},
	{"END finds missing, surplus, swapped and changed records", tally_finds_all},
	{"END of a wrong size or kind", end_of_wrong_size},
	{"when the next epoch starts", epochs_in_time},
	{"when pre-copy has done enough", precopy_ends},
	{"crash points have names and cost nothing unset", crash_points},
};

int main(void)
{
	return UNIT_MAIN("stream", tests);
}
