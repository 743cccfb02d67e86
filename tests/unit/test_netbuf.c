/* SPDX-License-Identifier: Apache-2.0
 * test_netbuf - output of an epoch leaves after its commit, in order, all of it, and not before.
 */
#include "hv/base/clock.h"
#include "tests/unit/netrig.h"

#include <fcntl.h>
#include <unistd.h>

static int say_len(struct nb_port *p, uint32_t v, size_t len)
{
	uint8_t *frame = calloc(1, len);
	struct iovec iov[3];
	int rc;

	memcpy(frame + NB_VNET_HDR + 20, &v, sizeof(v));
	/* In pieces, as a guest's descriptors come; an empty one among them. */
	iov[0] = (struct iovec){frame, 7};
	iov[1] = (struct iovec){NULL, 0};
	iov[2] = (struct iovec){frame + 7, len - 7};
	rc = nb_guest_frame(p, iov, 3);
	free(frame);
	return rc;
}

static void expect(const uint32_t *seq, size_t n)
{
	CU_ASSERT_EQUAL(wire.n, n);
	if (wire.n == n && n)
		CU_ASSERT_EQUAL(memcmp(wire.seq, seq, n * sizeof(*seq)), 0);
	wire.n = 0;
}
#define EXPECT(...)                       \
	expect((uint32_t[]){__VA_ARGS__}, \
	       sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void test_passes_until_first_capture(void)
{
	struct rig r;
	struct err err = {0};
	struct netbuf_stats st;

	setup(&r, LIMIT, 0);
	CU_ASSERT_EQUAL(say(r.net[0], 1), 0);
	CU_ASSERT_EQUAL(r.part.ops->sync_begin(r.part.self, NULL, &err), 0);
	say_byte(&r, 2);
	EXPECT(1, 1002);
	capture(&r, 0);
	CU_ASSERT_EQUAL(say(r.net[0], 3), 0);
	say_byte(&r, 4);
	expect(NULL, 0);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.holding, 1);
	CU_ASSERT_EQUAL(st.held_frames, 2);
	CU_ASSERT_EQUAL(st.held_bytes, FRAME + 1);
	CU_ASSERT_EQUAL(st.released_bytes, FRAME + 1);
	finish(&r);
}

static void test_order_over_all_ports(void)
{
	struct rig r;

	setup(&r, LIMIT, 0);
	capture(&r, 0);
	CU_ASSERT_EQUAL(say(r.net[1], 1), 0);
	say_byte(&r, 2);
	say_byte(&r, 3);
	CU_ASSERT_EQUAL(say(r.net[0], 4), 0);
	say_byte(&r, 5);
	CU_ASSERT_EQUAL(say(r.net[1], 6), 0);
	capture(&r, 1);
	say_byte(&r, 7);
	capture(&r, 2);
	committed(&r, 0);
	expect(NULL, 0);
	committed(&r, 1);
	EXPECT(1, 1002, 1003, 4, 1005, 6);
	committed(&r, 2);
	EXPECT(1007);
	finish(&r);
}

static void test_commit_releases_up_to_it(void)
{
	struct rig r;

	setup(&r, LIMIT, 0);
	for (uint32_t i = 0; i < 5; i++) {
		capture(&r, i);
		CU_ASSERT_EQUAL(say(r.net[0], i + 1), 0);
	}
	/* Frame n was said in epoch n. */
	committed(&r, 2);
	EXPECT(1, 2);
	committed(&r, 2);
	expect(NULL, 0);
	committed(&r, 3);
	EXPECT(3);
	/* Epoch 5 is open: nobody can have committed it. */
	committed(&r, 5);
	expect(NULL, 0);
	committed(&r, UINT64_MAX);
	expect(NULL, 0);
	finish(&r);
}

static uint64_t judged_at(void *arg)
{
	return *(uint64_t *)arg;
}

/* A host that froze after its ack had been believed and before the release began: nothing leaves, and
 * that is told. An ack that was judged just now is as good as ever. */
static void test_frozen_between_ack_and_release(void)
{
	struct netbuf_stats st;
	uint64_t judged;
	struct rig r;

	setup(&r, LIMIT, 0);
	netbuf_set_stale(r.nb, 1000000);
	netbuf_set_judged(r.nb, judged_at, &judged);
	for (uint32_t i = 0; i < 3; i++) {
		capture(&r, i);
		CU_ASSERT_EQUAL(say(r.net[0], i + 1), 0);
	}
	judged = clock_mono_ns();
	committed(&r, 1);
	EXPECT(1);
	judged -= UINT64_C(1100000000);
	committed(&r, 2);
	expect(NULL, 0);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_TRUE(st.dropped_bytes > 0);
	finish(&r);
}

static void test_all_kinds_of_frames_are_held(void)
{
	static const uint16_t types[] = {0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8035,
					 0x88cc, 0x8847, 0x0000, 0x05dc, 0xffff};
	struct rig r;
	uint8_t frame[FRAME] = {0};

	setup(&r, LIMIT, 0);
	capture(&r, 0);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		frame[NB_VNET_HDR + 12] = (uint8_t)(types[i] >> 8);
		frame[NB_VNET_HDR + 13] = (uint8_t)types[i];
		CU_ASSERT_EQUAL(
			nb_guest_frame(r.net[0], &(struct iovec){frame, FRAME}, 1), 0);
		CU_ASSERT_EQUAL(nb_frame(r.net[1], &(struct iovec){frame, FRAME}, 1, 0),
				0);
	}
	/* Not even a whole Ethernet header. */
	CU_ASSERT_EQUAL(
		nb_guest_frame(r.net[0], &(struct iovec){frame, NB_VNET_HDR + 3}, 1), 0);
	CU_ASSERT_EQUAL(wire.n, 0);
	/* Not even the vnet header: not a frame. */
	CU_ASSERT_EQUAL(nb_guest_frame(r.net[0], &(struct iovec){frame, 11}, 1),
			-EMSGSIZE);
	finish(&r);
}

static void test_unlinked_holds_alone_releases(void)
{
	struct rig r;
	struct netbuf_stats st;

	setup(&r, LIMIT, 0);
	capture(&r, 0);
	CU_ASSERT_EQUAL(say(r.net[0], 1), 0);
	capture(&r, 1);
	CU_ASSERT_EQUAL(say(r.net[0], 2), 0);
	r.part.ops->unlinked(r.part.self);
	CU_ASSERT_EQUAL(say(r.net[0], 3), 0);
	expect(NULL, 0);
	r.part.ops->alone(r.part.self);
	EXPECT(1, 2, 3);
	CU_ASSERT_EQUAL(say(r.net[0], 4), 0);
	EXPECT(4);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.holding, 0);
	CU_ASSERT_EQUAL(st.held_bytes, 0);
	CU_ASSERT_EQUAL(st.released_frames, 4);
	/* And a new standby: epochs count from 0 again. */
	capture(&r, 0);
	CU_ASSERT_EQUAL(say(r.net[0], 5), 0);
	capture(&r, 1);
	committed(&r, 0);
	expect(NULL, 0);
	committed(&r, 1);
	EXPECT(5);
	finish(&r);
}

static void test_held_before_authority(void)
{
	struct rig r;
	struct err err = {0};

	setup(&r, LIMIT, 1);
	CU_ASSERT_EQUAL(say(r.net[0], 1), 0);
	expect(NULL, 0);
	/* It is older than checkpoint 0, and goes with it. */
	CU_ASSERT_EQUAL(r.part.ops->sync_begin(r.part.self, NULL, &err), 0);
	capture(&r, 0);
	CU_ASSERT_EQUAL(say(r.net[0], 2), 0);
	committed(&r, 0);
	EXPECT(1);
	finish(&r);
}

static void test_teardown_and_destroy_drop(void)
{
	struct rig r;
	struct netbuf_stats st;

	setup(&r, LIMIT, 0);
	capture(&r, 0);
	CU_ASSERT_EQUAL(say(r.net[0], 1), 0);
	r.part.ops->teardown(r.part.self);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.held_bytes, 0);
	CU_ASSERT_EQUAL(st.dropped_bytes, FRAME);
	CU_ASSERT_EQUAL(st.holding, 1);
	CU_ASSERT_EQUAL(say(r.net[0], 2), 0);
	finish(&r);
	CU_ASSERT_EQUAL(wire.n, 0);
}

static void test_limit_refuses_and_resumes(void)
{
	struct rig r;
	struct netbuf_stats st;
	uint32_t n = 0, first;
	int rc;

	setup(&r, 4096, 0);
	capture(&r, 0);
	CU_ASSERT_EQUAL(r.asked, 0);
	CU_ASSERT_EQUAL(say(r.net[0], n++), 0);
	CU_ASSERT_STRING_EQUAL(r.why, "output waits");
	CU_ASSERT_EQUAL(r.asked, 1);
	while (!(rc = say(r.net[0], n)))
		if (++n == 4096 / 2 / 72 + 1)
			CU_ASSERT_STRING_EQUAL(r.why, "the output buffer is half full");
	CU_ASSERT_EQUAL(rc, -EAGAIN);
	CU_ASSERT_EQUAL(n, 4096 / 72);
	CU_ASSERT_STRING_EQUAL(r.why, "the output buffer is full");
	CU_ASSERT_EQUAL(say(r.net[1], n), -EAGAIN);
	capture(&r, 1);
	/* An announcement is refused too, but nobody has to be woken for it. */
	CU_ASSERT_EQUAL(say(r.net[0], n), -EAGAIN);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.refused, 3);
	CU_ASSERT_EQUAL(st.dropped_bytes, 0);
	CU_ASSERT_EQUAL(wire.resumes, 0);
	committed(&r, 1);
	CU_ASSERT_EQUAL(wire.n, n);
	for (first = 0; first < wire.n; first++)
		CU_ASSERT_EQUAL(wire.seq[first], first);
	wire.stop_on_resume = r.loop;
	CU_ASSERT_EQUAL(loop_run(r.loop), 0);
	CU_ASSERT_EQUAL(wire.resumes, 2);
	CU_ASSERT_EQUAL(say(r.net[0], n), 0);
	finish(&r);
}

static void test_empty_buffer_takes_any_frame(void)
{
	struct rig r;

	setup(&r, 16, 0);
	capture(&r, 0);
	CU_ASSERT_EQUAL(say_len(r.net[0], 1, NBQ_ENTRY_MAX), 0);
	CU_ASSERT_EQUAL(say_len(r.net[0], 2, 60), -EAGAIN);
	CU_ASSERT_EQUAL(say_len(r.net[0], 2, NBQ_ENTRY_MAX + 1), -EMSGSIZE);
	capture(&r, 1);
	committed(&r, 1);
	EXPECT(1);
	finish(&r);
}

static void test_sizes_across_chunks(void)
{
	struct rig r;
	uint32_t n = 0;
	unsigned seed = 7;

	setup(&r, 64 << 20, 0);
	for (uint64_t epoch = 0; epoch < 20; epoch++) {
		capture(&r, epoch);
		for (int i = 0; i < 30; i++)
			CU_ASSERT_EQUAL(say_len(r.net[i & 1], n++,
						60 + (size_t)rand_r(&seed) %
								(NBQ_ENTRY_MAX - 60)),
					0);
	}
	committed(&r, 10);
	CU_ASSERT_EQUAL(wire.n, 300);
	r.part.ops->alone(r.part.self);
	CU_ASSERT_EQUAL(wire.n, n);
	for (uint32_t i = 0; i < wire.n; i++)
		if (wire.seq[i] != i)
			CU_FAIL("out of order");
	finish(&r);
}

static void test_full_tap(void)
{
	struct rig r;
	struct netbuf_stats st;

	setup(&r, LIMIT, 0);
	capture(&r, 0);
	for (uint32_t i = 0; i < 10; i++)
		CU_ASSERT_EQUAL(say(r.net[0], i), 0);
	capture(&r, 1);
	wire.full = 3;
	committed(&r, 1);
	EXPECT(0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
	CU_ASSERT_EQUAL(wire.waits, 3);
	/* For ever: given up after a while, counted. */
	CU_ASSERT_EQUAL(say(r.net[0], 11), 0);
	CU_ASSERT_EQUAL(say(r.net[0], 12), 0);
	capture(&r, 2);
	wire.full = -1;
	committed(&r, 2);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.dropped_bytes, 2 * FRAME);
	CU_ASSERT_EQUAL(st.held_bytes, 0);
	finish(&r);
}

static void test_console_fd(void)
{
	struct rig r;
	struct err err = {0};
	struct con_out out;
	struct netbuf_stats st;
	char text[200001], back[200001];
	size_t got = 0;
	ssize_t n;
	int p[2];

	setup(&r, LIMIT, 0);
	CU_ASSERT_EQUAL_FATAL(pipe2(p, O_NONBLOCK), 0);
	CU_ASSERT_TRUE(fcntl(p[1], F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
	CU_ASSERT_EQUAL(netbuf_add_console(r.nb, p[1], &out, &err), 0);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 7 + i / 251);
	capture(&r, 0);
	for (size_t at = 0; at < sizeof(text); at += 1003)
		out.bytes(out.self, text + at,
			  at + 1003 < sizeof(text) ? 1003 : sizeof(text) - at);
	CU_ASSERT_EQUAL(read(p[0], back, sizeof(back)), -1);
	capture(&r, 1);
	committed(&r, 1);
	while ((n = read(p[0], back + got, sizeof(back) - got)) > 0)
		got += (size_t)n;
	CU_ASSERT_EQUAL(got, sizeof(text));
	CU_ASSERT_EQUAL(memcmp(text, back, sizeof(text)), 0);
	/* Nobody reads: what does not fit is dropped, and nothing waits. */
	for (int i = 0; i < 6; i++)
		out.bytes(out.self, text, sizeof(text));
	r.part.ops->alone(r.part.self);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_TRUE(st.dropped_bytes > 0);
	for (got = 0; (n = read(p[0], back, sizeof(back))) > 0;)
		got += (size_t)n;
	CU_ASSERT_EQUAL(got + st.dropped_bytes, 6 * sizeof(text));
	close(p[0]);
	close(p[1]);
	finish(&r);
}

static void test_console_over_limit(void)
{
	struct rig r;
	struct netbuf_stats st;
	static char text[NB_CONSOLE_SLACK];

	setup(&r, 4096, 0);
	capture(&r, 0);
	/* Frames are refused at the limit, consoles cannot be. */
	while (!say(r.net[0], 0))
		;
	nb_bytes(r.con, text, 1000);
	nb_bytes(r.con, text, sizeof(text));
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.dropped_bytes, sizeof(text));
	CU_ASSERT_EQUAL(st.held_bytes, 4096 / 72 * FRAME + 1000);
	finish(&r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"passes until the first capture", test_passes_until_first_capture},
		{"one order over all ports", test_order_over_all_ports},
		{"a commit releases up to it", test_commit_releases_up_to_it},
		{"frozen between ack and release", test_frozen_between_ack_and_release},
		{"all kinds of frames are held", test_all_kinds_of_frames_are_held},
		{"unlinked holds, alone releases", test_unlinked_holds_alone_releases},
		{"held before authority", test_held_before_authority},
		{"teardown and destroy drop", test_teardown_and_destroy_drop},
		{"the limit refuses and resumes", test_limit_refuses_and_resumes},
		{"an empty buffer takes any frame", test_empty_buffer_takes_any_frame},
		{"sizes across chunks", test_sizes_across_chunks},
		{"a full tap", test_full_tap},
		{"a console's descriptor", test_console_fd},
		{"consoles over the limit", test_console_over_limit},
	};

	return UNIT_MAIN("netbuf", tests);
}
