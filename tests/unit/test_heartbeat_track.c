/* SPDX-License-Identifier: Apache-2.0
 * test_heartbeat_track - what a peer's datagrams add up to: its lives, losses, and silence.
 */
#include "ctl/heartbeat_track.h"
#include "tests/unit/hbrig.h"

enum { MS = 1000000, OWN_ID = 42 };

static struct hb_track track(const struct config *cfg)
{
	return (struct hb_track){.cfg = cfg, .own_boot_id = OWN_ID};
}

/* The first datagrams of a life count from the echo on; then numbers only go up. */
static void test_track_start_and_replay(void)
{
	struct config *a = hb_config("a", "11111111", 5),
		      *b = hb_config("b", "11111111", 5);
	struct hb_track t = track(a);
	struct hb_msg m = hb_message(b, 1);

	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 100 * MS, 0), HB_REPLAY);
	CU_ASSERT_EQUAL(t.up, 0);
	CU_ASSERT_EQUAL(t.paths[0].echo_boot_id, 77); /* but it is echoed */
	m.seq = 2;
	m.echo_boot_id = OWN_ID + 1; /* an earlier life of ours */
	m.echo_mono_ns = 100 * MS;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 101 * MS, 0), HB_REPLAY);
	m.echo_boot_id = OWN_ID;
	m.echo_delay_ns = 2 * MS;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 105 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(t.up, 1);
	CU_ASSERT_EQUAL(t.peer.boot_id, 77);
	CU_ASSERT_EQUAL(t.peer.vms[0].term, 3);
	CU_ASSERT_EQUAL(t.paths[0].st.rtt_ns, 3 * MS);
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 106 * MS, 0), HB_REPLAY);
	CU_ASSERT_EQUAL(hb_track_heard(&t, 1, &m, 106 * MS, 0),
			HB_OK); /* the same round elsewhere */
	m.seq = 5;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 107 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(t.paths[0].st.lost, 2);
	m.seq = 3; /* late on the slow path: counts for it, tells nothing new */
	m.vms[0].term = 2;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 1, &m, 108 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(t.peer.vms[0].term, 3);
	config_free(a);
	config_free(b);
}

/* A peer whose clock says what it likes spoils a figure for people, and nothing else. */
static void test_track_mad_clock(void)
{
	struct config *a = hb_config("a", "11111111", 5),
		      *b = hb_config("b", "11111111", 5);
	static const uint64_t clock[] = {1, (1ull << 63) + 1, 1, UINT64_MAX};
	struct hb_track t = track(a);
	struct hb_msg m = hb_message(b, 1);

	m.echo_boot_id = OWN_ID;
	m.echo_mono_ns = 1 * MS;
	for (unsigned i = 0; i < sizeof(clock) / sizeof(clock[0]); i++) {
		m.seq = i + 1;
		m.mono_ns = clock[i];
		CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, (10 + i) * MS, 0), HB_OK);
		if (i && i < 3)
			CU_ASSERT(t.paths[0].st.jitter_ns > 1ull << 58);
	}
	config_free(a);
	config_free(b);
}

static void test_track_lives(void)
{
	struct config *a = hb_config("a", "11111111", 5),
		      *b = hb_config("b", "11111111", 5);
	struct hb_track t = track(a);
	struct hb_msg old = hb_message(b, 50), m = hb_message(b, 60);

	old.echo_boot_id = m.echo_boot_id = OWN_ID;
	old.echo_mono_ns = 10 * MS;
	m.echo_mono_ns = 20 * MS;
	m.boot_id = 78;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &old, 30 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 31 * MS, 0),
			HB_OK); /* it has restarted */
	CU_ASSERT_EQUAL(t.peer.boot_id, 78);
	old.seq = 1000; /* a recording of its earlier life */
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &old, 32 * MS, 0), HB_REPLAY);
	CU_ASSERT_EQUAL(t.peer.boot_id, 78);
	m.boot_id = 79;
	m.seq = 1; /* the next life starts its numbers again */
	m.echo_mono_ns = 25 * MS;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 33 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(t.peer.boot_id, 79);
	config_free(a);
	config_free(b);
}

static void test_track_origin(void)
{
	struct config *a = hb_config("a", "11111111", 5),
		      *b = hb_config("b", "11111111", 5);
	struct config *other = hb_config("b", "11111111", 6);
	struct hb_track t = track(a);
	struct hb_msg m = hb_message(a, 1);

	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, MS, 0),
			HB_PAIR); /* our own come back */
	m = hb_message(b, 1);
	memcpy(m.pair, "q", 2);
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, MS, 0), HB_PAIR);
	m = hb_message(other, 1);
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, MS, 0), HB_CONFIG);
	m = hb_message(b, 1);
	m.n_vms = 1;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, MS, 0), HB_MALFORMED);
	CU_ASSERT_EQUAL(t.paths[0].st.refused, 4);
	CU_ASSERT_EQUAL(t.up, 0);
	config_free(a);
	config_free(b);
	config_free(other);
}

static void test_track_silence(void)
{
	struct config *a = hb_config("a", "11111111", 5),
		      *b = hb_config("b", "11111111", 5);
	struct hb_track t = track(a);
	struct hb_msg m = hb_message(b, 1);

	CU_ASSERT_EQUAL(hb_track_deadline(&t), UINT64_MAX);
	m.echo_boot_id = OWN_ID;
	m.echo_mono_ns = MS;
	CU_ASSERT_EQUAL(hb_track_heard(&t, 0, &m, 100 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(hb_track_heard(&t, 1, &m, 120 * MS, 0), HB_OK);
	CU_ASSERT_EQUAL(hb_track_deadline(&t), 150 * MS + 1);
	hb_track_time(&t, 150 * MS);
	CU_ASSERT(t.paths[0].st.up && t.paths[1].st.up && t.up);
	hb_track_time(&t, 150 * MS + 1);
	CU_ASSERT(!t.paths[0].st.up && t.paths[1].st.up && t.up);
	hb_track_time(&t, 171 * MS);
	CU_ASSERT(!t.paths[1].st.up && !t.up);
	CU_ASSERT_EQUAL(t.losses, 1);
	CU_ASSERT_EQUAL(hb_track_deadline(&t), UINT64_MAX);
	config_free(a);
	config_free(b);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"start and replay", test_track_start_and_replay},
		{"a clock that is mad", test_track_mad_clock},
		{"lives of the peer", test_track_lives},
		{"where it comes from", test_track_origin},
		{"silence", test_track_silence},
	};
	return UNIT_MAIN("heartbeat_track", tests);
}
