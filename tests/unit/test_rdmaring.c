/* SPDX-License-Identifier: Apache-2.0
 * test_rdmaring - the book-keeping of the rdma rings: wrap-around, credits, hostile peers.
 */
#include "replication/rdma/ring.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

enum { LOCAL = 96, REMOTE = 160, WIDE = 1 << 20 };

/* Both ends of one direction and the memory between them, without a device. */
struct rig {
	struct ring_out out;
	struct ring_in in;
	struct ring_sq sq;
	uint8_t local[LOCAL], remote[REMOTE];
	uint64_t sent, read; /* bytes of the stream, for their values */
};

static uint8_t byte_at(uint64_t pos)
{
	return (uint8_t)(pos * 37 + pos / 251);
}

static void rig_init(struct rig *r, unsigned marks)
{
	memset(r, 0, sizeof(*r));
	ring_out_init(&r->out, LOCAL, REMOTE, marks);
	ring_in_init(&r->in, REMOTE, marks);
}

static void put(struct rig *r, size_t n)
{
	CU_ASSERT_FATAL(n <= ring_out_room(&r->out));
	for (size_t i = 0; i < n; i++)
		r->local[(r->out.put + i) % LOCAL] = byte_at(r->sent++);
	r->out.put += n;
}

/* What the device does with the next stretch. */
static void carry(struct rig *r, size_t max)
{
	struct ring_piece p;
	size_t n = ring_out_next(&r->out, max, &p);

	CU_ASSERT_FATAL(n && n <= max && p.local_at + n <= LOCAL &&
			p.remote_at + n <= REMOTE);
	memcpy(r->remote + p.remote_at, r->local + p.local_at, n);
	r->out.posted = p.end;
	(void)ring_sq_push(&r->sq, p.end, 1);
}

static int take(struct rig *r, size_t most)
{
	size_t n = ring_in_ready(&r->in);
	int wrong = 0;

	n = n < most ? n : most;
	for (size_t i = 0; i < n; i++)
		wrong += r->remote[(r->in.read + i) % REMOTE] != byte_at(r->read++);
	ring_in_read(&r->in, n);
	return wrong;
}

static void give_back(struct rig *r)
{
	if (ring_in_due(&r->in))
		CU_ASSERT_EQUAL(ring_out_credit(&r->out, ring_in_credit(&r->in)), 0);
}

static void complete_all(struct rig *r)
{
	if (r->sq.head != r->sq.tail)
		CU_ASSERT_EQUAL(ring_sq_done(&r->sq, r->sq.tail - 1, &r->out.done), 0);
}

/* Every order of steps, by chance: what is read is what was put, no step is ever refused,
 * nothing is overwritten, and nobody starves. */
static void wraps_around(void)
{
	struct rig r;
	uint32_t x = 1;
	int wrong = 0;

	rig_init(&r, RING_MARKS_MIN);
	for (int i = 0; i < 200000 || r.read < 100 * REMOTE; i++) {
		size_t n = (x = x * 1664525 + 1013904223) >> 16;
		size_t room = ring_out_room(&r.out);

		switch (n & 7) {
		case 0:
		case 1:
			put(&r, room ? 1 + n / 8 % room : 0);
			break;
		case 2:
		case 3:
			if (r.out.posted < r.out.put && ring_sq_free(&r.sq))
				carry(&r, 1 + n % 50);
			break;
		case 4:
			if (r.out.told < r.out.posted && ring_out_may_tell(&r.out))
				CU_ASSERT_EQUAL(
					ring_in_told(&r.in, ring_out_tell(&r.out)), 0);
			break;
		case 5:
			wrong += take(&r, 1 + n % 80);
			break;
		case 6:
			give_back(&r);
			break;
		default:
			complete_all(&r);
		}
		CU_ASSERT_FATAL(i < 10000000);
		CU_ASSERT_FATAL(r.out.put - r.out.done <= LOCAL);
		CU_ASSERT_FATAL(r.out.put - r.in.read <= REMOTE);
	}
	CU_ASSERT_EQUAL(wrong, 0);
}

/* A full ring, all of it announced and read, always comes back. */
static void no_starvation(void)
{
	struct rig r;

	rig_init(&r, RING_MARKS_MIN);
	for (int round = 0; round < 1000; round++) {
		size_t n = 1 + (size_t)round % 20;

		if (!ring_out_room(&r.out) || !ring_out_may_tell(&r.out)) {
			while (r.in.read < r.in.filled)
				CU_ASSERT_EQUAL(take(&r, REMOTE), 0);
			CU_ASSERT_FATAL(ring_in_due(&r.in) ||
					r.out.put == r.in.credited ||
					ring_out_may_tell(&r.out));
			give_back(&r);
			complete_all(&r);
		}
		CU_ASSERT_FATAL(ring_out_room(&r.out) && ring_out_may_tell(&r.out));
		put(&r, n < ring_out_room(&r.out) ? n : ring_out_room(&r.out));
		while (r.out.posted < r.out.put)
			carry(&r, LOCAL);
		CU_ASSERT_EQUAL(ring_in_told(&r.in, ring_out_tell(&r.out)), 0);
	}
}

/* A credit does not let the local bytes be reused before the device is done with them. */
static void room_waits_for_both(void)
{
	struct rig r;

	rig_init(&r, RING_MARKS_MIN);
	put(&r, LOCAL);
	CU_ASSERT_EQUAL(ring_out_room(&r.out), 0);
	while (r.out.posted < r.out.put)
		carry(&r, LOCAL);
	CU_ASSERT_EQUAL(ring_in_told(&r.in, ring_out_tell(&r.out)), 0);
	CU_ASSERT_EQUAL(take(&r, LOCAL), 0);
	give_back(&r);
	CU_ASSERT_EQUAL(r.out.freed, LOCAL);
	CU_ASSERT_EQUAL(ring_out_room(&r.out), 0);
	complete_all(&r);
	CU_ASSERT_EQUAL(ring_out_room(&r.out), LOCAL);
}

/* Announcements of one byte: no more under way than agreed, and a part read gives back. */
static void marks_are_bounded(void)
{
	struct ring_out out;
	struct ring_in in;
	unsigned n;

	ring_out_init(&out, WIDE, WIDE, 64);
	ring_in_init(&in, WIDE, 64);
	for (n = 0; ring_out_may_tell(&out); n++) {
		out.posted = out.put += 1;
		CU_ASSERT_EQUAL(ring_in_told(&in, ring_out_tell(&out)), 0);
	}
	CU_ASSERT_EQUAL(n, 64);
	ring_in_read(&in, 15);
	CU_ASSERT(!ring_in_due(&in));
	ring_in_read(&in, 1);
	CU_ASSERT(ring_in_due(&in));
	CU_ASSERT_EQUAL(ring_out_credit(&out, ring_in_credit(&in)), 0);
	for (n = 0; ring_out_may_tell(&out); n++) {
		out.posted = out.put += 1;
		CU_ASSERT_EQUAL(ring_in_told(&in, ring_out_tell(&out)), 0);
	}
	CU_ASSERT_EQUAL(n, 16);
	/* A limit above what there is room for is cut down. */
	ring_in_init(&in, WIDE, 100000);
	CU_ASSERT_EQUAL(in.marks.max, RING_MARKS);
}

static void hostile_announcements(void)
{
	struct ring_in in;

	ring_in_init(&in, REMOTE, RING_MARKS);
	CU_ASSERT_EQUAL(ring_in_told(&in, 0), -EBADMSG);
	CU_ASSERT_EQUAL(ring_in_told(&in, REMOTE + 1), -EBADMSG);
	CU_ASSERT_EQUAL(ring_in_told(&in, 0x3fffffff), -EBADMSG);
	CU_ASSERT_EQUAL(ring_in_told(&in, UINT64_MAX), -EBADMSG);
	CU_ASSERT_EQUAL(in.filled, 0);
	CU_ASSERT_EQUAL(ring_in_told(&in, REMOTE), 0);
	CU_ASSERT_EQUAL(ring_in_told(&in, 1), -EBADMSG);
	/* Read is not given back: still not the peer's to fill. */
	ring_in_read(&in, 10);
	CU_ASSERT_EQUAL(ring_in_told(&in, 10), -EBADMSG);
	CU_ASSERT_EQUAL(ring_in_credit(&in), 10);
	CU_ASSERT_EQUAL(ring_in_told(&in, 11), -EBADMSG);
	CU_ASSERT_EQUAL(ring_in_told(&in, 10), 0);
	CU_ASSERT_EQUAL(in.filled, REMOTE + 10);
}

static void hostile_flood_of_announcements(void)
{
	struct ring_in in;

	ring_in_init(&in, WIDE, RING_MARKS_MIN);
	for (int i = 0; i < RING_MARKS_MIN; i++)
		CU_ASSERT_EQUAL(ring_in_told(&in, 1), 0);
	CU_ASSERT_EQUAL(ring_in_told(&in, 1), -EBADMSG);
	CU_ASSERT_EQUAL(in.filled, RING_MARKS_MIN);
}

static void hostile_credits(void)
{
	struct rig r;

	rig_init(&r, RING_MARKS);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, 0), -EBADMSG);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, 1), -EBADMSG);
	put(&r, 20);
	carry(&r, 20);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, 1), -EBADMSG); /* not announced yet */
	CU_ASSERT_EQUAL(ring_out_tell(&r.out), 20);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, 21), -EBADMSG);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, UINT64_MAX), -EBADMSG);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, 20), 0);
	CU_ASSERT_EQUAL(ring_out_credit(&r.out, 1), -EBADMSG);
	CU_ASSERT_EQUAL(r.out.freed, 20);
}

static void requests_in_order(void)
{
	struct ring_sq q = {0};
	uint64_t done = 7;

	CU_ASSERT_EQUAL(ring_sq_done(&q, 0, &done), -EBADMSG);
	CU_ASSERT_EQUAL(done, 7);
	for (uint64_t i = 0; i < RING_SQ; i++)
		CU_ASSERT_EQUAL(ring_sq_push(&q, 10 * i, 0), i);
	CU_ASSERT_EQUAL(ring_sq_free(&q), 0);
	CU_ASSERT_EQUAL(ring_sq_done(&q, RING_SQ, &done), -EBADMSG);
	CU_ASSERT_EQUAL(ring_sq_done(&q, 4, &done), 0);
	CU_ASSERT_EQUAL(done, 40);
	CU_ASSERT_EQUAL(ring_sq_free(&q), 5);
	CU_ASSERT_EQUAL(ring_sq_done(&q, 4, &done), -EBADMSG); /* told of twice */
	CU_ASSERT_EQUAL(ring_sq_done(&q, RING_SQ - 1, &done), 0);
	CU_ASSERT_EQUAL(ring_sq_free(&q), RING_SQ);
}

/* Whoever fills the queue or the ring can wait: enough of it will be told of. */
static void signals_are_enough(void)
{
	struct ring_sq q = {0};
	unsigned quiet = 0, most = 0;

	for (uint64_t end = 1; end < 1000; end++) {
		int signal = ring_sq_wants_signal(&q, end, WIDE);

		(void)ring_sq_push(&q, end, signal);
		quiet = signal ? 0 : quiet + 1;
		most = quiet > most ? quiet : most;
		q.head = q.tail;
	}
	CU_ASSERT(most > 0 && most < RING_SQ / 4);
	q = (struct ring_sq){0};
	CU_ASSERT(!ring_sq_wants_signal(&q, WIDE / 4 - 1, WIDE));
	CU_ASSERT(ring_sq_wants_signal(&q, WIDE / 4, WIDE));
	(void)ring_sq_push(&q, WIDE / 4, 1);
	CU_ASSERT(!ring_sq_wants_signal(&q, WIDE / 4 + 1, WIDE));
}

static const struct unit_test tests[] = {
	{"wraps around", wraps_around},
	{"no starvation", no_starvation},
	{"room waits for both", room_waits_for_both},
	{"marks are bounded", marks_are_bounded},
	{"hostile announcements", hostile_announcements},
	{"hostile flood of announcements", hostile_flood_of_announcements},
	{"hostile credits", hostile_credits},
	{"requests in order", requests_in_order},
	{"signals are enough", signals_are_enough},
};

int main(void)
{
	return UNIT_MAIN("rdmaring", tests);
}
