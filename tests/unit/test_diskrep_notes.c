/* SPDX-License-Identifier: Apache-2.0
 * test_diskrep_notes - words between the two owners come with their epoch or not at all, and a cut is the same moment
 * of the disks on both.
 */
#include "tests/unit/diskrig.h"

#include <pthread.h>

/* What both owners have seen. */
static struct seen {
	pthread_mutex_t lock;
	pthread_cond_t news;
	unsigned cuts, committed, lost, peer, s_peer, s_applied;
	uint64_t epoch, s_epoch;
	int s_rc; /* what the standby's cut returns */
	char last[64], s_last[64];
	int shut, waiting; /* the standby's cut does not return while shut */
	struct rig *rig;
	uint8_t *at_cut; /* the standby's image then */
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER};

static void on_peer(void *arg, const void *p, size_t len)
{
	seen.peer++;
	(void)snprintf(seen.last, sizeof(seen.last), "%.*s", (int)len, (const char *)p);
}

static void on_cut(void *arg, uint64_t epoch)
{
	seen.cuts++;
	seen.epoch = epoch;
}

static void on_committed(void *arg)
{
	seen.committed++;
}

static void on_lost(void *arg)
{
	seen.lost++;
}

static void on_s_peer(void *arg, const void *p, size_t len)
{
	seen.s_peer++;
	(void)snprintf(seen.s_last, sizeof(seen.s_last), "%.*s", (int)len,
		       (const char *)p);
}

static int on_s_cut(void *arg, uint64_t epoch, const void *p, size_t len)
{
	seen.at_cut = malloc(RIG_CAP);
	CU_ASSERT_EQUAL(pread(seen.rig->sfd, seen.at_cut, RIG_CAP, 0), RIG_CAP);
	pthread_mutex_lock(&seen.lock);
	seen.s_epoch = epoch;
	seen.waiting = 1;
	pthread_cond_broadcast(&seen.news);
	while (seen.shut)
		pthread_cond_wait(&seen.news, &seen.lock);
	seen.waiting = 0;
	pthread_mutex_unlock(&seen.lock);
	return seen.s_rc;
}

static void on_s_applied(void *arg, uint64_t epoch, const void *p, size_t len)
{
	seen.s_applied++;
}

static void await_s_cut(void)
{
	pthread_mutex_lock(&seen.lock);
	while (!seen.waiting)
		pthread_cond_wait(&seen.news, &seen.lock);
	pthread_mutex_unlock(&seen.lock);
}

static void let_s_cut(void)
{
	pthread_mutex_lock(&seen.lock);
	seen.shut = 0;
	pthread_cond_broadcast(&seen.news);
	pthread_mutex_unlock(&seen.lock);
}

static struct rig *begin(void)
{
	static const struct diskrep_notes p = {.peer = on_peer,
					       .cut = on_cut,
					       .committed = on_committed,
					       .lost = on_lost};
	static const struct diskrep_standby_notes s = {
		.peer = on_s_peer, .cut = on_s_cut, .applied = on_s_applied};
	struct rig *r = rig_new(64 << 20, RIG_CAP, RIG_CAP);

	free(seen.at_cut);
	seen = (struct seen){.lock = PTHREAD_MUTEX_INITIALIZER,
			     .news = PTHREAD_COND_INITIALIZER,
			     .rig = r};
	r->img.inline_done = 1;
	diskrep_on_notes(r->dr, &p);
	diskrep_standby_on_notes(r->sb, &s);
	return r;
}

static void in_step(struct rig *r)
{
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
}

static void with_their_epoch(void)
{
	struct rig *r = begin();

	CU_ASSERT_EQUAL(diskrep_note(r->dr, "early", 5), -ENOTCONN);
	in_step(r);
	CU_ASSERT_EQUAL(diskrep_note(r->dr, "one", 3), 0);
	CU_ASSERT_EQUAL(diskrep_note(r->dr, "two", 3), 0);
	rig_capture(r, 1);
	rig_ship(r, 1);
	CU_ASSERT_EQUAL(seen.s_peer, 0);
	rig_apply(r, 1);
	CU_ASSERT_EQUAL(seen.s_peer, 2);
	CU_ASSERT_STRING_EQUAL(seen.s_last, "two");
	CU_ASSERT_EQUAL(diskrep_standby_note(r->sb, "back", 4), 0);
	rig_report(r);
	CU_ASSERT_EQUAL(seen.peer, 1);
	CU_ASSERT_STRING_EQUAL(seen.last, "back");
	rig_report(r);
	CU_ASSERT_EQUAL(seen.peer, 1);
	CU_ASSERT_EQUAL(seen.cuts + seen.lost + seen.s_applied, 0);
	rig_free(r);
}

/* What was not acked is not told, and what waits for a link that is gone goes with it. */
static void never_without(void)
{
	struct rig *r = begin();

	in_step(r);
	CU_ASSERT_EQUAL(diskrep_note(r->dr, "one", 3), 0);
	rig_capture(r, 1);
	CU_ASSERT_EQUAL(diskrep_note(r->dr, "two", 3), 0);
	r->p.ops->unlinked(r->p.self);
	r->s.ops->drop(r->s.self);
	in_step(r);
	CU_ASSERT_EQUAL(seen.s_peer, 0);
	rig_free(r);
}

static void too_many(void)
{
	struct rig *r = begin();
	static uint8_t large[DR_NOTE_MAX + 1];

	in_step(r);
	for (unsigned i = 0; i < DR_NOTES_MAX; i++) {
		CU_ASSERT_EQUAL(diskrep_note(r->dr, large, DR_NOTE_MAX), 0);
		CU_ASSERT_EQUAL(diskrep_standby_note(r->sb, large, DR_NOTE_MAX), 0);
	}
	CU_ASSERT_EQUAL(diskrep_note(r->dr, "one", 3), -EAGAIN);
	CU_ASSERT_EQUAL(diskrep_standby_note(r->sb, "one", 3), -EAGAIN);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "c", 1), 0);
	rig_capture(r, 1);
	rig_ship(r, 1);
	rig_apply(r, 1);
	CU_ASSERT_EQUAL(seen.s_peer, DR_NOTES_MAX);
	rig_report(r);
	CU_ASSERT_EQUAL(seen.peer, DR_NOTES_MAX);
	CU_ASSERT_EQUAL(diskrep_note(r->dr, large, sizeof(large)), -EMSGSIZE);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, large, sizeof(large)), -EMSGSIZE);
	CU_ASSERT_EQUAL(diskrep_standby_note(r->sb, large, sizeof(large)), -EMSGSIZE);
	rig_free(r);
}

static void one_moment(void)
{
	struct rig *r = begin();
	unsigned seed = 5;
	uint8_t *model;

	in_step(r);
	for (unsigned i = 0; i < 50; i++)
		rig_random(r, &seed);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), -EBUSY);
	CU_ASSERT_EQUAL(seen.cuts, 0);
	model = rig_snapshot(r);
	rig_capture(r, 1);
	CU_ASSERT_EQUAL(seen.cuts, 1);
	CU_ASSERT_EQUAL(seen.epoch, 1);
	seen.shut = 1;
	for (uint64_t e = 1; e < 4; e++) {
		struct err err = {0};

		for (unsigned i = 0; e > 1 && i < 50; i++)
			rig_random(r, &seed);
		if (e > 1)
			rig_capture(r, e);
		rig_ship(r, e);
		CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, e, &err), 0);
		r->p.ops->committed(r->p.self, e);
		await_s_cut();
	}
	CU_ASSERT_EQUAL(seen.committed, 1);
	CU_ASSERT_EQUAL(seen.s_applied, 1);
	CU_ASSERT_EQUAL(seen.s_epoch, 1);
	CU_ASSERT_EQUAL(memcmp(seen.at_cut, model, RIG_CAP), 0);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	let_s_cut();
	CU_ASSERT_EQUAL(drs_applier_drain(&r->sb->applier), 0);
	free(model);
	model = rig_snapshot(r);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	rig_free(r);
}

/* Whose owner cannot make it, is no standby any more, and its image stays what it was. */
static void refused_there(void)
{
	struct rig *r = begin();
	struct err err = {0};
	uint8_t *model;

	in_step(r);
	seen.s_rc = -EIO;
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	model = rig_snapshot(r);
	rig_capture(r, 1);
	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	rig_capture(r, 2);
	rig_ship(r, 1);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 1, &err), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&r->sb->applier), -EIO);
	CU_ASSERT_EQUAL(r->p.ops->send(r->p.self, 2, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 2, &err), -EIO);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	rig_free(r);
}

/* A request under way is part of the epoch that is cut off, one that waits is not. */
static void in_flight(void)
{
	struct rig *r = begin();
	uint8_t *model;

	in_step(r);
	r->img.inline_done = 0;
	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	rig_submit(r, BLK_WRITE, 512, 4096, 2); /* overlaps: waits */
	CU_ASSERT_EQUAL(r->img.n, 1);
	model = rig_snapshot(r);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	rig_capture(r, 1);
	rig_ship(r, 1);
	rig_apply(r, 1);
	CU_ASSERT_EQUAL(memcmp(seen.at_cut, model, RIG_CAP), 0);
	free(model);
	rig_free(r);
}

static void without_a_standby(void)
{
	struct rig *r = begin();

	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	CU_ASSERT_EQUAL(seen.cuts, 0);
	rig_turn(r);
	CU_ASSERT_EQUAL(seen.cuts, 1);
	CU_ASSERT_EQUAL(seen.epoch, UINT64_MAX);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	rig_turn(r);
	CU_ASSERT_EQUAL(seen.cuts, 2);
	CU_ASSERT_EQUAL(seen.lost + seen.committed, 0);
	rig_free(r);
}

/* The link is lost before the cut, or after it. */
static void lost(void)
{
	struct rig *r = begin();

	in_step(r);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	r->p.ops->unlinked(r->p.self);
	CU_ASSERT_EQUAL(seen.cuts, 0);
	rig_turn(r);
	CU_ASSERT_EQUAL(seen.cuts, 1);
	CU_ASSERT_EQUAL(seen.epoch, UINT64_MAX);
	CU_ASSERT_EQUAL(seen.lost, 0);
	r->s.ops->drop(r->s.self);
	in_step(r);
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	rig_capture(r, 1);
	CU_ASSERT_EQUAL(seen.epoch, 1);
	r->p.ops->unlinked(r->p.self);
	CU_ASSERT_EQUAL(seen.lost, 1);
	CU_ASSERT_EQUAL(seen.committed, 0);
	rig_free(r);
}

static int put(struct rig *r, uint32_t flags, uint32_t len, uint32_t has)
{
	struct dr_wire_note w = {.flags = le32_of(flags), .len = le32_of(len)};
	uint8_t *p = calloc(1, sizeof(w) + has);
	struct err err = {0};
	int rc;

	memcpy(p, &w, sizeof(w));
	rc = r->s.ops->record(r->s.self, DR_REC_NOTE, 1, p, sizeof(w) + has, &err);
	free(p);
	return rc;
}

static void hostile(void)
{
	struct rig *r = begin();
	struct err err = {0};

	in_step(r);
	CU_ASSERT_EQUAL(put(r, 2, 4, 4), -EBADMSG);
	CU_ASSERT_EQUAL(put(r, 0, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(put(r, 0, 4, 3), -EBADMSG);
	CU_ASSERT_EQUAL(put(r, 0, 4, 5), -EBADMSG);
	CU_ASSERT_EQUAL(put(r, 0, DR_NOTE_MAX + 1, DR_NOTE_MAX + 1), -EBADMSG);
	for (unsigned i = 0; i < DR_NOTES_MAX; i++)
		CU_ASSERT_EQUAL(put(r, 0, 4, 4), 0);
	CU_ASSERT_EQUAL(put(r, DR_NOTE_CUT, 0, 0), 0);
	CU_ASSERT_EQUAL(put(r, 0, 4, 4), -EBADMSG);
	CU_ASSERT_EQUAL(
		r->s.ops->record(r->s.self, DR_REC_NOTE, REC_EPOCH_SYNC, "x", 1, &err),
		-EBADMSG);
	CU_ASSERT_EQUAL(r->p.ops->peer_record(r->p.self, DR_REC_NOTE, "", 0, &err),
			-EBADMSG);
	CU_ASSERT_EQUAL(seen.s_peer + seen.peer, 0);
	rig_free(r);
}

/* While the standby's owner deals with a cut, its journal has nothing that comes later. */
static void journal_ends_there(void)
{
	struct rig *r = begin();
	FILE *f = tmpfile();
	struct diskrep_journal jc = {.vm = "web", .bytes = 1 << 20};
	const struct diskrep_standby_notes to = r->sb->notes.to;
	struct diskrep_durable d;
	struct err err = {0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	jc.fd = fileno(f);
	CU_ASSERT_EQUAL(ftruncate(jc.fd, (off_t)jc.bytes), 0);
	diskrep_standby_destroy(r->sb);
	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create(&r->sfd, 1, 64 << 20, &jc, &r->sb, &err), 0);
	r->s = diskrep_standby_part(r->sb);
	diskrep_standby_on_notes(r->sb, &to);
	in_step(r);
	seen.shut = 1;
	CU_ASSERT_EQUAL(diskrep_cut(r->dr, "cut", 3), 0);
	for (uint64_t e = 1; e < 5; e++) {
		rig_submit(r, BLK_WRITE, 4096 * e, 4096, (uint8_t)e);
		rig_capture(r, e);
		rig_ship(r, e);
		CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, e, &err), 0);
	}
	await_s_cut();
	diskrep_standby_durable(r->sb, &d);
	CU_ASSERT_TRUE(d.epoch <= 1);
	CU_ASSERT_EQUAL(journal_size(r->sb->journal) - journal_room(r->sb->journal) >
				2 * 4096 + 4096,
			0);
	let_s_cut();
	CU_ASSERT_EQUAL(drs_applier_drain(&r->sb->applier), 0);
	diskrep_standby_durable(r->sb, &d);
	CU_ASSERT_EQUAL(d.epoch, 4);
	rig_free(r);
	CU_ASSERT_EQUAL(fclose(f), 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"with their epoch", with_their_epoch},
		{"never without", never_without},
		{"too many", too_many},
		{"a cut is one moment", one_moment},
		{"refused by its owner", refused_there},
		{"requests under way", in_flight},
		{"a cut without a standby", without_a_standby},
		{"the link is lost", lost},
		{"hostile", hostile},
		{"the journal ends there", journal_ends_there},
	};
	int rc = UNIT_MAIN("diskrep_notes", tests);

	free(seen.at_cut);
	return rc;
}
