/* SPDX-License-Identifier: Apache-2.0
 * test_journal_resync - a standby that was killed comes back as what its journal holds: the hosts look only at
 * what was written since, unless the journal's word cannot count.
 */
#include "diskrep/resync.h"
#include "tests/unit/resyncrig.h"

enum { EPOCHS = 6 };

/* Two hosts, of which the first runs the guest, and the second's journal. */
struct world {
	struct pair pair;
	int journal;
	struct rig *r, *own; /* processes: the primary's, and the standby's own diskrep */
};

static uint64_t told(struct rig *r)
{
	struct diskrep_durable d;

	diskrep_peer_durable(r->dr, &d);
	return d.epoch;
}

/* Until the primary was told that @epoch is safe there. */
static void await_durable(struct rig *r, uint64_t epoch)
{
	while (told(r) != epoch) {
		rig_report(r);
		sched_yield();
	}
}

/* The standby's log says that no guest writes there. */
static void await_closed(struct diskrep *dr)
{
	int open = 1;

	while (open) {
		pthread_mutex_lock(&dr->lock);
		open = dr->activity.act.told_open;
		pthread_mutex_unlock(&dr->lock);
		sched_yield();
	}
}

/* In step up to epoch EPOCHS - 1, each with one chunk of its own. */
static struct world world_new(void)
{
	struct world w = {.pair = pair_new(),
			  .journal = memfd_create("journal", MFD_CLOEXEC)};
	uint64_t looked, sent;

	CU_ASSERT_EQUAL_FATAL(ftruncate(w.journal, JOURNAL), 0);
	w.r = process(&w.pair.a, &w.pair.b);
	w.own = standby_process(&w.pair.b, &w.pair.a);
	be_standby_on(w.r, w.own->dr, w.journal);
	guest_starts(w.r);
	protect(w.r, &looked, &sent);
	CU_ASSERT_EQUAL(looked, chunks);
	for (uint64_t e = 1; e < EPOCHS; e++) {
		write_at(w.r, e * 10 * DR_CHUNK, 4096, (uint8_t)e);
		epoch(w.r, e);
	}
	return w;
}

/* The standby's process ends in any state: nothing is said to its files. */
static void kill_standby(struct world *w)
{
	lose_link(w->r);
	end_standby(w->r);
	end_process(w->own);
}

static void world_free(struct world *w)
{
	end_standby(w->r);
	end_process(w->own);
	end_process(w->r);
	close(w->journal);
	pair_free(&w->pair);
}

/* Writes of the guest while it is alone. */
static void write_alone(struct rig *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		write_at(r, (100 + i * 20) * DR_CHUNK, 4096, 0xa0);
}

static void test_killed_and_restarted(void)
{
	struct world w = world_new();
	uint64_t looked, sent;

	await_durable(w.r, EPOCHS - 1);
	await_closed(w.own->dr);
	kill_standby(&w);
	write_alone(w.r, 7);
	w.own = standby_process(&w.pair.b, &w.pair.a);
	be_standby_on(w.r, w.own->dr, w.journal);
	CU_ASSERT_EQUAL(diskrep_standby_found(w.r->sb).state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(diskrep_standby_found(w.r->sb).gen.epoch, EPOCHS - 1);
	protect(w.r, &looked, &sent);
	CU_ASSERT_TRUE(w.r->dr->resync.partial);
	/* And what the last turn wrote, as the primary forgets by turns. */
	CU_ASSERT_TRUE(looked >= 7 && looked <= 7 + EPOCHS);
	CU_ASSERT_EQUAL(sent, 7);
	await_durable(w.r, 0);
	world_free(&w);
}

/* What was acked and is not known to be durable is looked at as well. */
static void test_not_told_is_looked_at(void)
{
	struct world w = world_new();
	uint64_t looked, sent;

	await_durable(w.r, EPOCHS - 1);
	await_closed(w.own->dr);
	for (uint64_t e = EPOCHS; e < EPOCHS + 5; e++) {
		write_at(w.r, (e * 10 + 200) * DR_CHUNK, 4096, (uint8_t)e);
		rig_capture(w.r, e);
		rig_ship(w.r, e);
		rig_apply(w.r, e);
	}
	kill_standby(&w);
	w.own = standby_process(&w.pair.b, &w.pair.a);
	be_standby_on(w.r, w.own->dr, w.journal);
	protect(w.r, &looked, &sent);
	CU_ASSERT_TRUE(w.r->dr->resync.partial);
	CU_ASSERT_TRUE(looked >= 5 && looked <= 5 + EPOCHS);
	CU_ASSERT_EQUAL(sent, 0);
	world_free(&w);
}

/* The journal says one thing, but this host may have written since: its log is another, or gone. */
static void test_a_journal_alone_is_no_word(void)
{
	struct world w = world_new();
	uint64_t looked, sent;

	await_durable(w.r, EPOCHS - 1);
	await_closed(w.own->dr);
	kill_standby(&w);
	close(w.pair.b.meta);
	w.pair.b.meta = memfd_create("meta", MFD_CLOEXEC);
	w.own = standby_process(&w.pair.b, &w.pair.a);
	be_standby_on(w.r, w.own->dr, w.journal);
	CU_ASSERT_EQUAL(diskrep_standby_found(w.r->sb).state, JOURNAL_LIVE);
	protect(w.r, &looked, &sent);
	CU_ASSERT_EQUAL(looked, chunks);
	kill_standby(&w);
	close(w.pair.b.meta);
	w.pair.b.meta = -1;
	w.own = standby_process(&w.pair.b, &w.pair.a);
	be_standby_on(w.r, w.own->dr, w.journal);
	protect(w.r, &looked, &sent);
	CU_ASSERT_EQUAL(looked, chunks);
	world_free(&w);
}

/* A sync that is cut short: the journal holds nothing then. */
static void test_cut_in_a_sync(void)
{
	struct world w = world_new();
	uint64_t looked, sent;

	await_durable(w.r, EPOCHS - 1);
	await_closed(w.own->dr);
	lose_link(w.r);
	write_alone(w.r, 3);
	rig_sync(w.r, 1);
	CU_ASSERT_TRUE(w.r->dr->resync.partial);
	kill_standby(&w);
	w.own = standby_process(&w.pair.b, &w.pair.a);
	be_standby_on(w.r, w.own->dr, w.journal);
	CU_ASSERT_EQUAL(diskrep_standby_found(w.r->sb).state, JOURNAL_SYNCING);
	protect(w.r, &looked, &sent);
	CU_ASSERT_EQUAL(looked, chunks);
	world_free(&w);
}

/* Its host goes on from the journal after a kill; then the old primary comes back. */
static void test_cold_start(void)
{
	struct world w = world_new();
	struct diskrep_journal jc = {.vm = "rig", .fd = w.journal, .bytes = JOURNAL};
	struct journal_found found;
	struct err err = {0};
	uint64_t looked, sent;

	await_durable(w.r, EPOCHS - 1);
	await_closed(w.own->dr);
	await_claim(w.r->dr, ACT_WRITER);
	kill_standby(&w);
	write_alone(w.r, 3);
	end_process(w.r);
	w.r = process(&w.pair.b, &w.pair.a);
	CU_ASSERT_EQUAL(diskrep_recover(&w.pair.b.image, 1, &jc, &found, &err), 0);
	diskrep_recovered(w.r->dr, &found);
	guest_starts(w.r);
	write_at(w.r, 333 * DR_CHUNK, 4096, 5);
	w.own = standby_process(&w.pair.a, &w.pair.b);
	be_standby(w.r, w.own->dr);
	protect(w.r, &looked, &sent);
	CU_ASSERT_TRUE(w.r->dr->resync.partial);
	CU_ASSERT_TRUE(sent >= 4 && sent <= 4 + EPOCHS);
	world_free(&w);
	CU_ASSERT_STRING_EQUAL(err.msg, "");
}

static enum act_role role_of(struct rig *r)
{
	return r->dr->activity.act.claim.role;
}

static int says(struct rig *r, uint32_t state, uint64_t e)
{
	struct dr_wire_durable w = {.state = le32_of(state), .epoch = le64_of(e)};
	struct err err = {0};

	return r->p.ops->peer_record(r->p.self, DR_REC_DURABLE, &w, sizeof(w), &err);
}

/* With no word, nothing is durable; a word counts for what was committed only. */
static void test_what_counts_as_durable(void)
{
	struct pair pair = pair_new();
	struct rig *r = process(&pair.a, &pair.b);

	be_standby(r, NULL);
	guest_starts(r);
	rig_sync(r, 1);
	for (uint64_t e = 0; e < 3; e++) {
		rig_capture(r, e);
		rig_ship(r, e);
		rig_apply(r, e);
	}
	CU_ASSERT_EQUAL(role_of(r), ACT_NONE);
	CU_ASSERT_EQUAL(says(r, JOURNAL_UNSAFE, UINT64_MAX), 0);
	CU_ASSERT_EQUAL(says(r, JOURNAL_LIVE, UINT64_MAX), 0);
	CU_ASSERT_EQUAL(says(r, JOURNAL_STATES, 0), -EBADMSG);
	CU_ASSERT_EQUAL(role_of(r), ACT_NONE);
	CU_ASSERT_EQUAL(says(r, JOURNAL_LIVE, UINT64_MAX - 1), 0);
	CU_ASSERT_EQUAL(role_of(r), ACT_WRITER);
	CU_ASSERT_TRUE(r->dr->activity.act.claim.at.epoch <= 2);
	CU_ASSERT_EQUAL(says(r, DR_DURABLE_ALL, UINT64_MAX), 0);
	CU_ASSERT_TRUE(r->dr->activity.act.claim.at.epoch <= 2);
	end_standby(r);
	end_process(r);
	pair_free(&pair);
}

static void gets(struct rig *r, uint16_t type, uint64_t e, const void *p, size_t len)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->s.ops->record(r->s.self, type, e, p, len, &err), 0);
}

/* The journal gathers for a while, and so do the images lag behind what was acked. */
static void test_verify_does_not_see_what_is_stale(void)
{
	struct world w = world_new();
	struct dr_wire_verify v = {.chunk = le64_of(0)};
	struct dr_wire_barrier z = {.count = le32_of(1), .bytes = le64_of(sizeof(v))};
	static uint8_t chunk[DR_CHUNK];
	struct dr_digest d;
	struct err err = {0};

	write_at(w.r, 0, 4096, 0x77);
	rig_capture(w.r, EPOCHS);
	rig_ship(w.r, EPOCHS);
	CU_ASSERT_EQUAL(w.r->s.ops->apply(w.r->s.self, EPOCHS, &err), 0);
	CU_ASSERT_EQUAL(pread(w.pair.a.image, chunk, DR_CHUNK, 0), DR_CHUNK);
	d = dr_digest_of(chunk, DR_CHUNK);
	memcpy(v.digest, &d, sizeof(d));
	gets(w.r, DR_REC_VERIFY, EPOCHS + 1, &v, sizeof(v));
	gets(w.r, DR_REC_BARRIER, EPOCHS + 1, &z, sizeof(z));
	CU_ASSERT_EQUAL(w.r->s.ops->check(w.r->s.self, EPOCHS + 1, &err), 0);
	CU_ASSERT_EQUAL(w.r->s.ops->apply(w.r->s.self, EPOCHS + 1, &err), 0);
	CU_ASSERT_EQUAL(w.r->sb->resync.verify.n, 0);
	CU_ASSERT_EQUAL(w.r->sb->resync.verify.bads, 0);
	lose_link(w.r);
	world_free(&w);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a standby killed and restarted", test_killed_and_restarted},
		{"what was not told is looked at", test_not_told_is_looked_at},
		{"a journal alone is no word", test_a_journal_alone_is_no_word},
		{"cut in a sync", test_cut_in_a_sync},
		{"a cold start from the journal", test_cold_start},
		{"what counts as durable", test_what_counts_as_durable},
		{"verify does not see what is stale",
		 test_verify_does_not_see_what_is_stale},
	};

	return UNIT_MAIN("journal resync", tests);
}
