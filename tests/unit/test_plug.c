/* SPDX-License-Identifier: Apache-2.0
 * test_plug - what the kernel's plug qdisc holds for a netbuf leaves after its commit, and not before.
 */
#include "ctl/tap.h"
#include "ctl/tap_plug.h"
#include "tests/unit/netrig.h"

#include <event2/event.h>
#include <sched.h>
#include <unistd.h>

/* sch_plug as it is: three counters over one queue, and nothing that keeps its user from mistakes. */
static struct qdisc {
	unsigned queued, out, dropped;
	unsigned now, last, may_leave;
	int open, off;
	int fail[PLUG_OPS]; /* answers of the next calls */
	unsigned calls[PLUG_OPS];
	uint64_t not_after;
} q;

static void drain(void)
{
	while (q.queued && (q.open || q.may_leave)) {
		q.may_leave -= !q.open;
		q.queued--;
		q.out++;
	}
}

static int tell(void *self, enum plug_op op, uint64_t not_after_ns,
		struct plug_counts *out)
{
	q.calls[op]++;
	q.not_after = not_after_ns;
	if (!q.fail[op]) {
		if (op == PLUG_HOLD) {
			q.last = q.now;
			q.now = 0;
			q.open = 0;
		} else if (op == PLUG_RELEASE) {
			q.may_leave += q.last;
			q.last = 0;
		} else if (op == PLUG_OPEN) {
			q.open = 1;
			q.now = q.last = q.may_leave = 0;
		} else if (op == PLUG_DROP) {
			q.dropped += q.queued;
			q.queued = 0;
			q.off = 1;
		}
	}
	drain();
	*out = (struct plug_counts){.held_frames = q.queued,
				    .sent_frames = q.out,
				    .dropped_frames = q.dropped};
	return q.fail[op];
}

static const struct plug_kernel kernel = {.tell = tell};

/* A frame that vhost-net sent for the guest. */
static void frame(void)
{
	if (q.off) {
		q.dropped++;
		return;
	}
	q.queued++;
	q.now += !q.open;
	drain();
}

static void open_plugged(struct rig *r)
{
	setup(r, LIMIT, 1);
	q = (struct qdisc){0};
	r->nb->plug.kernel = &kernel;
}

static int try_capture(struct rig *r, uint64_t epoch)
{
	struct err err = {0};

	return r->part.ops->capture(r->part.self, epoch, &err);
}

/* Up to checkpoint 0 of a link: @frames wait for its ack. */
static void open_protected(struct rig *r, unsigned frames)
{
	open_plugged(r);
	r->part.ops->alone(r->part.self);
	capture(r, 0);
	while (frames--)
		frame();
}

static void held_until_alone(void)
{
	struct rig r;

	open_plugged(&r);
	frame();
	CU_ASSERT_EQUAL(q.out, 0);
	r.part.ops->alone(r.part.self);
	CU_ASSERT_EQUAL(q.out, 1);
	frame();
	CU_ASSERT_EQUAL(q.out, 2);
	finish(&r);
}

static void a_commit_releases_its_epoch(void)
{
	struct rig r;

	open_protected(&r, 3);
	committed(&r, 0);
	CU_ASSERT_EQUAL(q.out, 0);
	capture(&r, 1);
	frame();
	CU_ASSERT_EQUAL(q.out, 0);
	committed(&r, 1);
	CU_ASSERT_EQUAL(q.out, 3);
	capture(&r, 2);
	committed(&r, 2);
	CU_ASSERT_EQUAL(q.out, 4);
	finish(&r);
}

static void there_is_room_for_one_epoch(void)
{
	struct rig r;

	open_protected(&r, 1);
	CU_ASSERT_EQUAL(try_capture(&r, 1), -EBUSY);
	CU_ASSERT_EQUAL(q.calls[PLUG_HOLD], 1);
	CU_ASSERT_EQUAL(q.out, 0);
	/* The one that is closed can still be released, and nothing else. */
	committed(&r, 0);
	CU_ASSERT_EQUAL(try_capture(&r, 1), 0);
	committed(&r, 1);
	CU_ASSERT_EQUAL(q.out, 1);
	finish(&r);
}

static void other_commits_release_nothing(void)
{
	struct rig r;

	open_protected(&r, 0);
	committed(&r, 0);
	frame();
	capture(&r, 1);
	committed(&r, 0);
	committed(&r, 2);
	committed(&r, UINT64_MAX);
	CU_ASSERT_EQUAL(q.calls[PLUG_RELEASE], 1);
	CU_ASSERT_EQUAL(q.out, 0);
	committed(&r, 1);
	committed(&r, 1);
	CU_ASSERT_EQUAL(q.calls[PLUG_RELEASE], 2);
	CU_ASSERT_EQUAL(q.out, 1);
	finish(&r);
}

static void unlinked_holds_alone_releases(void)
{
	struct rig r;

	open_protected(&r, 2);
	committed(&r, 0);
	capture(&r, 1);
	frame();
	r.part.ops->unlinked(r.part.self);
	frame();
	CU_ASSERT_EQUAL(q.out, 0);
	r.part.ops->alone(r.part.self);
	CU_ASSERT_EQUAL(q.out, 4);
	/* A new standby: from its first checkpoint on it holds again. */
	capture(&r, 0);
	frame();
	CU_ASSERT_EQUAL(q.out, 4);
	finish(&r);
}

static void the_end_drops(void)
{
	struct rig r;

	open_protected(&r, 2);
	r.part.ops->teardown(r.part.self);
	frame();
	r.part.ops->alone(r.part.self);
	committed(&r, 0);
	CU_ASSERT_EQUAL(q.out, 0);
	CU_ASSERT_EQUAL(q.dropped, 3);
	CU_ASSERT_EQUAL(try_capture(&r, 1), -EPERM);
	finish(&r);
}

static void a_hold_that_fails_is_no_checkpoint(void)
{
	struct rig r;

	open_protected(&r, 2);
	committed(&r, 0);
	q.fail[PLUG_HOLD] = -EIO;
	CU_ASSERT_EQUAL(try_capture(&r, 1), -EIO);
	q.fail[PLUG_HOLD] = 0;
	/* Where the boundary is, nobody knows: only all of it can be released. */
	CU_ASSERT_EQUAL(try_capture(&r, 2), -EBUSY);
	CU_ASSERT_EQUAL(q.out, 0);
	r.part.ops->alone(r.part.self);
	CU_ASSERT_EQUAL(q.out, 2);
	finish(&r);
}

static void a_release_that_fails_keeps_the_epoch(void)
{
	struct rig r;

	open_protected(&r, 0);
	committed(&r, 0);
	frame();
	capture(&r, 1);
	q.fail[PLUG_RELEASE] = -ESTALE;
	committed(&r, 1);
	CU_ASSERT_EQUAL(q.out, 0);
	CU_ASSERT_EQUAL(try_capture(&r, 2), -EBUSY);
	finish(&r);
}

static void an_opening_that_fails_holds(void)
{
	struct rig r;

	open_protected(&r, 2);
	q.fail[PLUG_OPEN] = -EPIPE;
	r.part.ops->alone(r.part.self);
	CU_ASSERT_EQUAL(q.out, 0);
	CU_ASSERT_EQUAL(try_capture(&r, 1), -EBUSY);
	finish(&r);
}

static void a_release_has_its_time(void)
{
	struct rig r;

	open_protected(&r, 0);
	committed(&r, 0);
	CU_ASSERT_EQUAL(q.not_after, 0);
	netbuf_set_stale(r.nb, 1000000);
	capture(&r, 1);
	CU_ASSERT_EQUAL(q.not_after, 0);
	committed(&r, 1);
	CU_ASSERT(q.not_after > 0);
	finish(&r);
}

/* What the guest behind tap @fd sends: ARP from 10.0.0.@ip, tagged or not. */
static void guest_says(int fd, uint8_t ip, int tagged)
{
	static const uint8_t macs[12] = {255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1};
	static const uint8_t arp[18] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1};
	uint8_t f[NB_VNET_HDR + 64] = {0}, *p = f + NB_VNET_HDR;

	memcpy(p, macs, sizeof(macs));
	p += sizeof(macs);
	if (tagged)
		memcpy(p, (uint8_t[]){0x81, 0, 0, 7}, 4);
	p += tagged ? 4 : 0;
	memcpy(p, arp, sizeof(arp));
	memcpy(p + 16, (uint8_t[]){10, 0, 0, ip}, 4);
	CU_ASSERT_EQUAL(write(fd, f, sizeof(f)), sizeof(f));
}

static void turn(struct rig *r)
{
	for (int i = 0; i < 4; i++)
		CU_ASSERT(event_base_loop(loop_base(r->loop), EVLOOP_NONBLOCK) >= 0);
}

static void frames_that_pass_by_are_seen(void)
{
	struct err err = {0};
	struct rig r;
	int tap, fd;

	open_plugged(&r);
	tap = tap_open("plugged0", NULL, 0, &err);
	CU_ASSERT_FATAL(tap >= 0);
	CU_ASSERT_EQUAL_FATAL(tap_sniff("plugged0", &fd, &err), 0);
	CU_ASSERT_EQUAL_FATAL(nb_sniff_start(r.net[1], fd, &err), 0);
	guest_says(tap, 1, 0);
	turn(&r);
	CU_ASSERT_EQUAL(r.asked, 1);
	CU_ASSERT_STRING_EQUAL(r.why, "output waits");
	/* Only the first frame of an epoch ends it; but the next epoch looks again, at once. */
	guest_says(tap, 2, 1);
	turn(&r);
	CU_ASSERT_EQUAL(r.asked, 1);
	capture(&r, 0);
	r.part.ops->resume(r.part.self);
	turn(&r);
	CU_ASSERT_EQUAL(r.asked, 2);
	CU_ASSERT_EQUAL(r.nb->table.n, 2);
	CU_ASSERT_EQUAL(r.nb->table.addr[0].port, 1);
	CU_ASSERT_EQUAL(r.nb->table.addr[0].tags, 0);
	CU_ASSERT_EQUAL(r.nb->table.addr[0].ip[3], 1);
	CU_ASSERT_EQUAL(r.nb->table.addr[1].tags, 1);
	CU_ASSERT_EQUAL(r.nb->table.addr[1].tpid[0], 0x8100);
	CU_ASSERT_EQUAL(r.nb->table.addr[1].vid[0], 7);
	CU_ASSERT_EQUAL(r.nb->table.addr[1].ip[3], 2);
	finish(&r);
	close(tap);
}

static void it_is_counted(void)
{
	struct netbuf_stats st;
	struct rig r;

	open_protected(&r, 2);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.plugged, 1);
	CU_ASSERT_EQUAL(st.plug.held_frames, 2);
	CU_ASSERT_EQUAL(st.plug.sent_frames, 0);
	r.part.ops->teardown(r.part.self);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.plug.held_frames, 0);
	CU_ASSERT_EQUAL(st.plug.dropped_frames, 2);
	finish(&r);
	setup(&r, LIMIT, 1);
	netbuf_stats(r.nb, &st);
	CU_ASSERT_EQUAL(st.plugged, 0);
	finish(&r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"held until alone", held_until_alone},
		{"a commit releases its epoch", a_commit_releases_its_epoch},
		{"there is room for one epoch", there_is_room_for_one_epoch},
		{"other commits release nothing", other_commits_release_nothing},
		{"unlinked holds, alone releases", unlinked_holds_alone_releases},
		{"the end drops", the_end_drops},
		{"a hold that fails is no checkpoint",
		 a_hold_that_fails_is_no_checkpoint},
		{"a release that fails keeps the epoch",
		 a_release_that_fails_keeps_the_epoch},
		{"an opening that fails holds", an_opening_that_fails_holds},
		{"a release has its time", a_release_has_its_time},
		{"frames that pass by are seen", frames_that_pass_by_are_seen},
		{"it is counted", it_is_counted},
	};

	if (unshare(CLONE_NEWNET)) {
		(void)fprintf(stderr, "test_plug needs root: %s\n", strerror(errno));
		return 2;
	}

	return UNIT_MAIN("plug", tests);
}
