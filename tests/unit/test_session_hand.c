/* SPDX-License-Identifier: Apache-2.0
 * test_session_hand - a session whose peer's frames are written by hand: exact, late, old, and hostile ones.
 */
#include "replication/session_priv.h"
#include "tests/unit/sesrig.h"
#include "tests/unit/unit.h"

#include <errno.h>

enum { MiB = 1 << 20, CALM_MS = 20000 };

/* A server whose peer says these frames on its path, by hand. */
struct hand {
	struct session *s;
	struct tp *tp, *wire;
};

static void no_connect(void *arg, unsigned i)
{
}

static void hand_up(struct hand *h)
{
	struct session_params prm = {.server = 1,
				     .paths = 1,
				     .replay = MiB,
				     .silence_ns = CALM_MS * SESRIG_MS,
				     .giveup_ns = 2 * CALM_MS * SESRIG_MS,
				     .connect = no_connect,
				     .changed = sesrig_nothing};
	struct err err = {0};
	struct tp *e[2];

	CU_ASSERT_EQUAL_FATAL(session_create(&prm, &h->s, &h->tp, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	h->wire = e[0];
	session_add(h->s, 0, e[1]);
}

static void hand_down(struct hand *h)
{
	tp_close(h->wire);
	tp_close(h->tp);
	session_put(h->s);
}

static void say(struct hand *h, unsigned type, uint32_t len, uint64_t pos,
		uint64_t received)
{
	struct ses_wire w = {.len = le32_of(len),
			     .type = le16_of((uint16_t)type),
			     .pos = le64_of(pos),
			     .received = le64_of(received)};
	static uint8_t content[SES_FRAME_MAX];
	struct iovec v[2] = {{.iov_base = &w, .iov_len = sizeof(w)},
			     {.iov_base = content, .iov_len = len < 64 ? len : 0}};

	CU_ASSERT_EQUAL(tp_send(h->wire, v, 2), 0);
}

static struct ses_wire hear(struct hand *h)
{
	struct ses_wire w = {0};

	CU_ASSERT_EQUAL(tp_recv(h->wire, &w, sizeof(w)), 0);
	return w;
}

static void test_hostile(void)
{
	static const struct {
		int resumed; /* the path is in use already */
		unsigned type;
		uint32_t len;
		uint64_t pos, received;
	} bad[] = {
		{0, 0, 0, 0, 0},
		{0, SES_NTYPES, 0, 0, 0},
		{0, 0x10001, 0, 0, 0},
		{0, SES_DATA, 4, 0, 0}, /* before RESUME */
		{0, SES_RESUMED, 0, 1, 0},
		{0, SES_PONG, 0, 0, 0},
		{0, SES_RESUME, 0, 1, 1}, /* has what was never sent */
		{0, SES_RESUME, 1, 1, 0},
		{0, SES_RESUME, 0, 0, 0}, /* of no change */
		{0, SES_PING, 0, 0, 1},
		{1, SES_RESUME, 0, 2, 0},
		{1, SES_RESUMED, 0, 1, 0},
		{1, SES_DATA, 0, 0, 0},
		{1, SES_DATA, SES_FRAME_MAX + 1, 0, 0},
		{1, SES_DATA, 4, 1, 0}, /* one byte is missing */
		{1, SES_DATA, 4, UINT64_MAX, 0},
		{1, SES_ALIVE, 0, 0, UINT64_MAX},
		{1, SES_ALIVE, 0, 7, 0},
	};
	struct hand h;
	char c;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		hand_up(&h);
		if (bad[i].resumed) {
			say(&h, SES_RESUME, 0, 1, 0);
			CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
		}
		say(&h, bad[i].type, bad[i].len, bad[i].pos, bad[i].received);
		CU_ASSERT_EQUAL(tp_recv(h.tp, &c, 1), -EBADMSG);
		hand_down(&h);
	}
}

/* By hand: what is asked for again comes again, from exactly there, and is doubled for nobody. */
static void test_exact(void)
{
	struct iovec v = {.iov_base = "0123456789", .iov_len = 10};
	struct tp *e[2], *old;
	struct err err = {0};
	struct ses_wire w;
	struct hand h;
	char c[10];

	hand_up(&h);
	say(&h, SES_RESUME, 0, 1, 0);
	CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
	CU_ASSERT(!tp_send(h.tp, &v, 1) && !tp_flush(h.tp));
	do
		w = hear(&h);
	while (le16_get(w.type) == SES_ALIVE);
	CU_ASSERT_EQUAL(le32_get(w.len), 10);
	CU_ASSERT_EQUAL(tp_recv(h.wire, c, 10), 0);
	/* Four bytes of ours are taken whole, the fifth frame is cut off after its header. */
	say(&h, SES_DATA, 4, 0, 0);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 4), 0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	old = h.wire;
	h.wire = e[0];
	session_add(h.s, 0, e[1]);
	tp_close(old);
	say(&h, SES_RESUME, 0, 2, 7);
	w = hear(&h);
	CU_ASSERT_EQUAL(le16_get(w.type), SES_RESUMED);
	CU_ASSERT_EQUAL(le64_get(w.received), 4);
	w = hear(&h);
	CU_ASSERT_EQUAL(le16_get(w.type), SES_DATA);
	CU_ASSERT_EQUAL(le64_get(w.pos), 7);
	CU_ASSERT_EQUAL(le32_get(w.len), 3);
	CU_ASSERT_EQUAL(tp_recv(h.wire, c, 3), 0);
	CU_ASSERT_EQUAL(memcmp(c, "789", 3), 0);
	say(&h, SES_DATA, 4, 4, 10);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 4), 0);
	hand_down(&h);
}

/* What was confirmed is not kept, so it cannot be asked for. */
static void test_too_old(void)
{
	struct iovec v = {.iov_base = "0123456789", .iov_len = 10};
	struct err err = {0};
	struct tp *e[2], *old;
	struct hand h;
	char c[10];

	hand_up(&h);
	say(&h, SES_RESUME, 0, 1, 0);
	CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
	CU_ASSERT(!tp_send(h.tp, &v, 1) && !tp_flush(h.tp));
	say(&h, SES_ALIVE, 0, 0, 10);
	say(&h, SES_DATA, 1, 0, 10);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 1), 0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	old = h.wire;
	h.wire = e[0];
	session_add(h.s, 0, e[1]);
	tp_close(old);
	say(&h, SES_RESUME, 0, 2, 7);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 1), -EBADMSG);
	hand_down(&h);
}

/* A server with two paths, both by hand; @h has the one that is in use. */
static void hand_up_two(struct hand *h, struct tp **other)
{
	struct session_params prm = {.server = 1,
				     .paths = 2,
				     .replay = MiB,
				     .silence_ns = CALM_MS * SESRIG_MS,
				     .giveup_ns = 2 * CALM_MS * SESRIG_MS,
				     .connect = no_connect,
				     .changed = sesrig_nothing};
	struct err err = {0};
	struct tp *e[2][2];

	CU_ASSERT_EQUAL_FATAL(session_create(&prm, &h->s, &h->tp, &err), 0);
	for (unsigned i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e[i], &err), 0);
		session_add(h->s, i, e[i][1]);
	}
	h->wire = e[1][0];
	*other = e[0][0];
	say(h, SES_RESUME, 0, 2, 0);
	CU_ASSERT_EQUAL(le16_get(hear(h).type), SES_RESUMED);
}

/* A RESUME that its path kept back until the stream had gone to another one: only that path ends. */
static void test_overtaken(void)
{
	static const struct ses_wire late = {.type = {{SES_RESUME}}, .pos = {{1}}};
	struct iovec v = {.iov_base = (void *)&late, .iov_len = sizeof(late)};
	struct tp *other;
	struct pathsel p;
	struct hand h;
	char c;

	hand_up_two(&h, &other);
	CU_ASSERT_EQUAL(tp_send(other, &v, 1), 0);
	while (tp_recv(other, &c, 1) == 0)
		; /* until it is closed: perhaps there is a word before */
	session_paths(h.s, &p);
	CU_ASSERT_EQUAL(p.in_use, 1);
	CU_ASSERT_EQUAL(p.path[0].state, PATHSEL_DOWN);
	say(&h, SES_DATA, 1, 0, 0);
	CU_ASSERT_EQUAL(tp_recv(h.tp, &c, 1), 0);
	tp_close(other);
	hand_down(&h);
}

/* All paths end in one moment, and nobody said that the link is given up: a wire can do that. The stream goes
 * on when one comes again. */
static void test_all_reset(void)
{
	struct err err = {0};
	struct tp *e[2], *other;
	struct hand h;
	char c;

	hand_up_two(&h, &other);
	tp_shutdown(other);
	tp_shutdown(h.wire);
	tp_close(h.wire);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	h.wire = e[0];
	session_add(h.s, 1, e[1]);
	say(&h, SES_RESUME, 0, 3, 0);
	CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
	say(&h, SES_DATA, 1, 0, 0);
	CU_ASSERT_EQUAL(tp_recv(h.tp, &c, 1), 0);
	tp_close(other);
	hand_down(&h);
}

static const struct unit_test tests[] = {
	{"hostile frames", test_hostile},
	{"exactly from there", test_exact},
	{"asked for what was confirmed", test_too_old},
	{"a word that was overtaken", test_overtaken},
	{"all paths reset at once", test_all_reset},
};

int main(void)
{
	return UNIT_MAIN("session_hand", tests);
}
