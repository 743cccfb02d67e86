/* SPDX-License-Identifier: Apache-2.0
 * test_engine_hostile - peers that break the protocol: the link is given up with nothing released,
 * nothing half applied, and the process lives on.
 */
#include "tests/unit/unit.h"

#include "remus/crashpoint.h"
#include "remus/stream.h"
#include "tests/unit/engine_fake.h"

#include <semaphore.h>
#include <stdlib.h>

/* The test plays the other side by hand. */
struct peer {
	struct rig r;
	struct rec_stream rs;
	struct tp *tp;
	struct tally tally;
};

static struct peer *peer_new(void)
{
	struct peer *p = calloc(1, sizeof(*p));

	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	rig_init(&p->r);
	rig_link(&p->r, 1 << 16, -1, NULL);
	tally_init(&p->tally, fake_kind, FAKES);
	return p;
}

static void peer_free(struct peer *p)
{
	rec_stream_fini(&p->rs);
	rig_down(&p->r);
	tp_close(p->tp);
	free(p);
}

static void say(struct peer *p, uint16_t type, uint64_t epoch, const void *payload,
		size_t len)
{
	struct iovec v = {.iov_base = (void *)payload, .iov_len = len};

	CU_ASSERT_EQUAL(rec_send(&p->rs, type, epoch, &v, len ? 1 : 0), 0);
	(void)rec_flush(&p->rs); /* the other side may have closed on it already */
}

/* Read until a record of @type; fails the test if the link ends first. */
static struct rec hear(struct peer *p, uint16_t type, uint64_t epoch)
{
	struct rec rec = {0};
	struct err err = {0};

	do {
		CU_ASSERT_EQUAL_FATAL(rec_recv(&p->rs, &rec, &err), 0);
	} while (rec.type != type || rec.epoch != epoch);
	return rec;
}

static void say_hello(struct peer *p, enum stream_role role, const char *vm)
{
	struct hello_wire h;

	hello_make(&h, role, vm, fake_kind, FAKES);
	say(p, CTL_HELLO, 0, &h, sizeof(h));
}

/* -- a hostile standby -- */

static struct peer *bad_standby(void)
{
	struct peer *p = peer_new();
	struct err err = {0};

	rig_primary(&p->r, 1000, 2);
	p->tp = p->r.end[1];
	rec_stream_init(&p->rs, p->tp, 3);
	CU_ASSERT_EQUAL_FATAL(primary_attach(p->r.p, p->r.end[0], 3, &err), 0);
	return p;
}

static struct peer *bad_standby_greeted(void)
{
	struct sync_wire ready = {0};
	struct peer *p = bad_standby();

	say_hello(p, STREAM_STANDBY, "web");
	say(p, CTL_SYNC, REC_EPOCH_SYNC, &ready, sizeof(ready));
	return p;
}

/* The primary gave up: in @state, with @released epochs let out, and says @word. */
static void gave_up(struct peer *p, enum primary_state state, uint64_t released,
		    const char *word)
{
	struct world *w = &p->r.w;

	AWAIT(w, w->pstate == state && count(w, OP_UNLINKED) == FAKES);
	primary_detach(p->r.p, "test");
	CU_ASSERT_EQUAL(w->pstate, state);
	CU_ASSERT_EQUAL(w->released, released);
	CU_ASSERT_PTR_NOT_NULL(strstr(w->pwhy, word));
	CU_ASSERT_EQUAL(w->depth, state == PRI_FENCED ? FAKES : 0);
	CU_ASSERT_EQUAL(w->held,
			state == PRI_UNLINKED || (state == PRI_FENCED && w->captured));
	peer_free(p);
}

static void ack_out_of_order(void)
{
	struct peer *p = bad_standby_greeted();

	hear(p, CTL_END, 1);
	say(p, CTL_ACK, 1, NULL, 0);
	gave_up(p, PRI_UNLINKED, 0, "ACK of epoch 1");
}

static void ack_twice(void)
{
	struct peer *p = bad_standby_greeted();

	hear(p, CTL_END, 1);
	say(p, CTL_ACK, 0, NULL, 0);
	say(p, CTL_ACK, 0, NULL, 0);
	gave_up(p, PRI_UNLINKED, 1, "ACK of epoch 0");
}

static void ack_too_early(void)
{
	struct peer *p = bad_standby_greeted();

	/* Epoch 2 cannot be captured: two are in flight. */
	hear(p, CTL_END, 1);
	say(p, CTL_ACK, 0, NULL, 0);
	say(p, CTL_ACK, 1, NULL, 0);
	AWAIT(&p->r.w, p->r.w.released == 2);
	hear(p, CTL_END, 3);
	say(p, CTL_ACK, 2, NULL, 0);
	say(p, CTL_ACK, 3, NULL, 0);
	say(p, CTL_ACK, 4000, NULL, 0);
	gave_up(p, PRI_UNLINKED, 4, "ACK of epoch 4000");
}

/* Before anything was sent at all: nobody can have it, and ARMED did not leave. */
static void ack_before_all(void)
{
	struct peer *p = bad_standby();

	say_hello(p, STREAM_STANDBY, "web");
	say(p, CTL_ACK, 0, NULL, 0);
	gave_up(p, PRI_ALONE, 0, "ACK of epoch 0");
}

static void ack_of_another_term(void)
{
	struct peer *p = bad_standby_greeted();

	hear(p, CTL_END, 0);
	p->rs.term = 2;
	say(p, CTL_ACK, 0, NULL, 0);
	gave_up(p, PRI_UNLINKED, 0, "term 2");
}

static void ack_of_a_higher_term(void)
{
	struct peer *p = bad_standby_greeted();

	hear(p, CTL_END, 0);
	p->rs.term = 9;
	say(p, CTL_ACK, 0, NULL, 0);
	AWAIT(&p->r.w, p->r.w.pstate == PRI_FENCED);
	CU_ASSERT_EQUAL(p->r.w.pterm, 9);
	gave_up(p, PRI_FENCED, 0, "higher term");
}

static void fenced_at_once(void)
{
	struct fenced_wire w = {.term = le64_of(4)};
	struct peer *p = bad_standby();

	say(p, CTL_FENCED, 0, &w, sizeof(w));
	AWAIT(&p->r.w, p->r.w.pstate == PRI_FENCED);
	CU_ASSERT_EQUAL(p->r.w.pterm, 4);
	gave_up(p, PRI_FENCED, 0, "higher term");
}

static void fenced_by_nobody(void)
{
	struct fenced_wire w = {.term = le64_of(3)};
	struct peer *p = bad_standby();

	say(p, CTL_FENCED, 0, &w, sizeof(w));
	gave_up(p, PRI_ALONE, 0, "FENCED by term 3");
}

static void wrong_hello(void)
{
	struct peer *p = bad_standby();

	say_hello(p, STREAM_STANDBY, "db");
	gave_up(p, PRI_ALONE, 0, "\"db\"");
	p = bad_standby();
	say_hello(p, STREAM_PRIMARY, "web");
	gave_up(p, PRI_ALONE, 0, "role");
	p = bad_standby_greeted();
	say_hello(p, STREAM_STANDBY, "web");
	AWAIT(&p->r.w, strstr(p->r.w.pwhy, "second HELLO"));
	peer_free(p);
}

/* One record that a standby may not send, before its HELLO or after. */
static void no_standby_says(int greeted, uint16_t type, const void *payload, size_t len)
{
	struct peer *p = bad_standby();

	if (greeted)
		say_hello(p, STREAM_STANDBY, "web");
	say(p, type, 0, payload, len);
	gave_up(p, PRI_ALONE, 0,
		greeted && type == CTL_BYE && !len ? "BYE" : "not expected");
}

static void unknown_from_standby(void)
{
	static const char long_payload[100000];

	no_standby_says(0, CTL_SYNC, long_payload, sizeof(struct sync_wire));
	no_standby_says(0, CTL_ACK, NULL, 0);
	no_standby_says(0, 0x0101, "x", 1);
	no_standby_says(1, CTL_ACK, "x", 1);
	no_standby_says(1, CTL_SYNC, NULL, 0);
	no_standby_says(1, CTL_FENCED, long_payload, sizeof(long_payload));
	no_standby_says(1, CTL_BYE, NULL, 0);
	no_standby_says(1, CTL_END, NULL, 0);
	no_standby_says(1, CTL_ARMED, NULL, 0);
	no_standby_says(1, 0x00ff, NULL, 0);
	no_standby_says(1, 0x0401, "disk", 4);
	no_standby_says(1, 0xffff, "?", 1);
}

/* -- a hostile primary -- */

static struct peer *bad_primary(void)
{
	struct peer *p = peer_new();
	struct err err = {0};

	rig_standby(&p->r);
	p->tp = p->r.end[0];
	rec_stream_init(&p->rs, p->tp, 3);
	CU_ASSERT_EQUAL_FATAL(standby_attach(p->r.s, p->r.end[1], 3, &err), 0);
	return p;
}

static struct peer *bad_primary_greeted(void)
{
	struct peer *p = bad_primary();
	struct sync_wire all_said = {0};

	say_hello(p, STREAM_PRIMARY, "web");
	say(p, CTL_SYNC, REC_EPOCH_SYNC, &all_said, sizeof(all_said));
	hear(p, CTL_SYNC, REC_EPOCH_SYNC);
	return p;
}

static void part_record(struct peer *p, int who, uint64_t epoch, uint64_t value)
{
	struct le64 v = le64_of(value);
	uint16_t type = (uint16_t)(fake_kind[who] << 8 | 2);
	struct iovec iov = {&v, sizeof(v)};

	say(p, type, epoch, &v, sizeof(v));
	if (epoch != REC_EPOCH_SYNC)
		(void)tally_add(&p->tally, type, &iov,
				1); /* a kind of ours: cannot fail */
}

static void end(struct peer *p, uint64_t epoch)
{
	struct end_wire e[STREAM_PARTS_MAX];
	size_t len = tally_end(&p->tally, e);

	say(p, CTL_END, epoch, e, len);
	tally_reset(&p->tally);
}

static void parts_of(struct peer *p, uint64_t epoch, uint64_t value)
{
	part_record(p, 0, epoch, value);
	part_record(p, 1, epoch, value);
	part_record(p, 1, epoch, value);
	part_record(p, 2, epoch, value);
}

static struct peer *bad_primary_at(uint64_t epochs)
{
	struct peer *p = bad_primary_greeted();

	for (uint64_t e = 0; e < epochs; e++) {
		parts_of(p, e, 100 + e);
		if (e == 0)
			say(p, CTL_ARMED, 0, NULL, 0);
		end(p, e);
		hear(p, CTL_ACK, e);
	}
	return p;
}

/* The standby gave up with exactly @epochs applied, says @word, and may run iff there are any. */
static void dropped(struct peer *p, uint64_t epochs, const char *word)
{
	struct world *w = &p->r.w;
	enum standby_state next = epochs ? SB_LOST : SB_EMPTY;
	struct standby_stats ss;
	struct err err = {0};

	AWAIT(w, w->sstate == next && count(w, OP_DROP) == FAKES);
	CU_ASSERT_PTR_NOT_NULL(strstr(w->swhy, word));
	standby_stats(p->r.s, &ss);
	CU_ASSERT_EQUAL(ss.acked + 1, epochs);
	CU_ASSERT_EQUAL(ss.applied + 1, epochs);
	CU_ASSERT_EQUAL(w->applied_value, epochs ? 99 + epochs : 0);
	CU_ASSERT_EQUAL(count(w, OP_APPLY), (int)epochs * FAKES);
	CU_ASSERT_EQUAL(standby_activate(p->r.s, 4, &err), epochs ? 0 : -EPERM);
	peer_free(p);
}

static void end_that_lies(void)
{
	struct end_wire e[STREAM_PARTS_MAX];
	struct peer *p;
	size_t len;

	p = bad_primary_at(2); /* one record less than promised */
	parts_of(p, 2, 102);
	len = tally_end(&p->tally, e);
	e[1].records = le32_of(3);
	say(p, CTL_END, 2, e, len);
	dropped(p, 2, "END promises");
	p = bad_primary_at(1); /* bytes */
	parts_of(p, 1, 101);
	len = tally_end(&p->tally, e);
	e[2].bytes = le64_of(UINT64_MAX);
	say(p, CTL_END, 1, e, len);
	dropped(p, 1, "END promises");
	p = bad_primary_at(0); /* content, in the very first */
	parts_of(p, 0, 100);
	say(p, CTL_ARMED, 0, NULL, 0);
	len = tally_end(&p->tally, e);
	e[0].sum.b[0] ^= 1;
	say(p, CTL_END, 0, e, len);
	dropped(p, 0, "END promises");
	p = bad_primary_at(1); /* fewer participants */
	parts_of(p, 1, 101);
	len = tally_end(&p->tally, e);
	say(p, CTL_END, 1, e, len - sizeof(e[0]));
	dropped(p, 1, "END of");
}

/* True to its count, but a participant misses something. */
static void a_part_is_missing(void)
{
	struct peer *p = bad_primary_at(1);

	part_record(p, 0, 1, 101);
	part_record(p, 1, 1, 101);
	end(p, 1);
	dropped(p, 1, "checking memory");
}

static void epochs_out_of_order(void)
{
	struct peer *p = bad_primary_at(2);

	part_record(p, 0, 3, 103); /* a gap */
	dropped(p, 2, "epoch 3, but 2");
	p = bad_primary_at(2);
	part_record(p, 0, 1, 101); /* again */
	dropped(p, 2, "epoch 1, but 2");
	p = bad_primary_at(2);
	parts_of(p, 2, 102);
	end(p, 3);
	dropped(p, 2, "epoch 3, but 2");
	p = bad_primary_at(2);
	end(p, 1);
	dropped(p, 2, "epoch 1, but 2");
}

static void end_before_armed(void)
{
	struct peer *p = bad_primary_greeted();

	parts_of(p, 0, 100);
	end(p, 0);
	dropped(p, 0, "END before ARMED");
}

/* Rule 2: pre-copy writes straight into memory, so never after an epoch has begun. */
static void precopy_after_commit(void)
{
	struct sync_wire w = {0};
	struct peer *p = bad_primary_at(1);

	part_record(p, 1, REC_EPOCH_SYNC, 666);
	dropped(p, 1, "pre-copy after epoch 0");
	p = bad_primary_greeted();
	part_record(p, 1, 0, 100);
	part_record(p, 1, REC_EPOCH_SYNC, 666);
	dropped(p, 0, "pre-copy after epoch 0");
	p = bad_primary_greeted();
	say(p, CTL_ARMED, 0, NULL, 0);
	say(p, CTL_SYNC, REC_EPOCH_SYNC, &w, sizeof(w));
	dropped(p, 0, "pre-copy after epoch 0");
}

static void unknown_from_primary(void)
{
	struct peer *p = bad_primary();

	say(p, CTL_ARMED, 0, NULL, 0); /* before HELLO */
	dropped(p, 0, "not expected");
	p = bad_primary_at(1);
	say(p, CTL_ARMED, 0, NULL, 0);
	dropped(p, 1, "ARMED twice");
	p = bad_primary_at(1);
	say(p, CTL_ACK, 1, NULL, 0);
	dropped(p, 1, "not expected");
	p = bad_primary_at(1);
	say(p, 0x0402, 1, "disk", 4);
	dropped(p, 1, "not expected");
	p = bad_primary_at(1);
	say(p, 0x00aa, 1, "?", 1);
	dropped(p, 1, "not expected");
	p = bad_primary_at(1);
	say(p, CTL_BYE, 1, NULL, 0); /* epoch 1 was never acked */
	dropped(p, 1, "BYE after epoch 1");
	p = bad_primary_greeted();
	say(p, CTL_BYE, UINT64_MAX, NULL, 0);
	dropped(p, 0, "BYE");
	p = bad_primary();
	say_hello(p, STREAM_PRIMARY, "web");
	say(p, CTL_ARMED, 0, NULL, 0);
	dropped(p, 0, "before the greeting");
	p = bad_primary();
	say_hello(p, STREAM_PRIMARY, "web");
	part_record(p, 1, 0, 100);
	dropped(p, 0, "before the greeting");
	p = bad_primary();
	say_hello(p, STREAM_PRIMARY, "db");
	dropped(p, 0, "\"db\"");
}

static void huge_length(void)
{
	struct rec_wire h;
	struct iovec v = {&h, sizeof(h)};
	struct peer *p = bad_primary_at(1);

	memset(&h, 0xff, sizeof(h));
	h.magic = le32_of(REC_MAGIC);
	h.version = le16_of(REC_VERSION);
	CU_ASSERT_EQUAL(tp_send(p->tp, &v, 1), 0);
	dropped(p, 1, "record");
}

static void older_term_is_fenced(void)
{
	struct peer *p = bad_primary();
	struct fenced_wire w;
	struct rec rec;

	p->rs.term = 2;
	say_hello(p, STREAM_PRIMARY, "web");
	rec = hear(p, CTL_FENCED, 0);
	CU_ASSERT_EQUAL_FATAL(rec.len, sizeof(w));
	memcpy(&w, rec.payload, sizeof(w));
	CU_ASSERT_EQUAL(le64_get(w.term), 3);
	dropped(p, 0, "term 2");
	p = bad_primary();
	p->rs.term = 4;
	say_hello(p, STREAM_PRIMARY, "web");
	dropped(p, 0, "term 4");
}

static sem_t verified, go_on;

static void hold_verified(enum crash_point at, uint64_t epoch)
{
	if (at != CRASH_VERIFIED || epoch != 2)
		return;
	(void)sem_post(&verified); /* these fail only for a bad semaphore */
	while (sem_wait(&go_on))
		;
}

static void *activate(void *arg)
{
	struct peer *p = arg;
	struct err err = {0};

	return (void *)(intptr_t)standby_activate(p->r.s, 4, &err);
}

/* Rule 6: checkpoint 2 is whole and about to be acked when the grant comes: it gets FENCED, no
 * ack, and is not applied. */
static void no_ack_after_grant(void)
{
	struct peer *p = bad_primary_at(2);
	struct err err = {0};
	struct rec rec;
	pthread_t t;
	void *ret;
	int rc;

	(void)sem_init(&verified, 0, 0); /* fail only for a value that is too large */
	(void)sem_init(&go_on, 0, 0);
	crash_hook_set(hold_verified);
	parts_of(p, 2, 102);
	end(p, 2);
	while (sem_wait(&verified))
		;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, activate, p), 0);
	/* FENCED, or on a busy machine just the end of the link: the grant is there. */
	if (!rec_recv(&p->rs, &rec, &err))
		CU_ASSERT_EQUAL(rec.type, CTL_FENCED);
	(void)sem_post(&go_on);
	pthread_join(t, &ret);
	crash_hook_set(NULL);
	CU_ASSERT_EQUAL((intptr_t)ret, 0);
	CU_ASSERT_EQUAL(p->r.w.applied_value, 101);
	while (!(rc = rec_recv(&p->rs, &rec, &err)))
		CU_ASSERT_EQUAL(rec.type, CTL_FENCED);
	CU_ASSERT_EQUAL(rc, -ECONNRESET);
	peer_free(p);
}

static const struct unit_test tests[] = {
	{"standby: ack out of order", ack_out_of_order},
	{"standby: ack twice", ack_twice},
	{"standby: ack of what was never sent", ack_too_early},
	{"standby: ack before all", ack_before_all},
	{"standby: ack of an older term", ack_of_another_term},
	{"standby: ack of a higher term", ack_of_a_higher_term},
	{"standby: FENCED at once", fenced_at_once},
	{"standby: FENCED by a term that is not higher", fenced_by_nobody},
	{"standby: HELLO of another VM, role, or twice", wrong_hello},
	{"standby: records it may not send", unknown_from_standby},
	{"primary: END that does not fit", end_that_lies},
	{"primary: a participant misses something", a_part_is_missing},
	{"primary: epochs out of order", epochs_out_of_order},
	{"primary: END before ARMED", end_before_armed},
	{"primary: pre-copy after an epoch began", precopy_after_commit},
	{"primary: records it may not send", unknown_from_primary},
	{"primary: a huge length", huge_length},
	{"primary: an older or higher term", older_term_is_fenced},
	{"no ack after a grant", no_ack_after_grant},
};

int main(void)
{
	return UNIT_MAIN("engine_hostile", tests);
}
