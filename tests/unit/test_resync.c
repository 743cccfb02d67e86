/* SPDX-License-Identifier: Apache-2.0
 * test_resync - hosts that meet again look at what either has marked, and at everything when there is any
 * doubt; images are alike afterwards.
 */
#include "diskrep/resync.h"
#include "tests/unit/resyncrig.h"

#include <stdatomic.h>

static void test_plan(void)
{
	const struct dr_claim w = {.at = {{1}, 5}, .role = ACT_WRITER};
	struct dr_claim f = {.at = {{1}, 5}, .role = ACT_FOLLOWER}, x;
	const char *why;

	CU_ASSERT_TRUE(dr_plan(&w, &f, &why));
	CU_ASSERT_PTR_NULL(why);
	CU_ASSERT_TRUE(dr_plan(&f, &w, &why));
	f.at.epoch = 9;
	CU_ASSERT_TRUE(dr_plan(&w, &f, &why));
	CU_ASSERT_TRUE(dr_plan(&f, &w, &why));
	f.at.epoch = 4;
	CU_ASSERT_FALSE(dr_plan(&w, &f, &why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "older"));
	CU_ASSERT_FALSE(dr_plan(&f, &w, &why));
	CU_ASSERT_FALSE(dr_plan(&w, &w, &why));
	CU_ASSERT_FALSE(dr_plan(&f, &f, &why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "same part"));
	x = f;
	x.at.base[15] = 1;
	CU_ASSERT_FALSE(dr_plan(&w, &x, &why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "another base"));
	x = (struct dr_claim){0};
	CU_ASSERT_FALSE(dr_plan(&w, &x, &why));
	CU_ASSERT_FALSE(dr_plan(&x, &f, &why));
}

/* The standby was away while the guest wrote on. */
static void test_standby_returns(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	uint64_t looked, sent;

	be_standby(r, NULL);
	guest_starts(r);
	protect(r, &looked, &sent);
	CU_ASSERT_EQUAL(looked, chunks); /* nothing is known of a new pair */
	CU_ASSERT_EQUAL(sent, 0);
	for (uint64_t e = 1; e < 6; e++) {
		write_at(r, e * 40 * DR_CHUNK, 4096, (uint8_t)e);
		epoch(r, e);
	}
	lose_link(r);
	for (unsigned i = 0; i < 20; i++)
		write_at(r, i * 17 * DR_CHUNK + 8192, 4096, (uint8_t)(i + 9));
	protect(r, &looked, &sent);
	/* And the two last epochs at most, which may not have been known to be safe. */
	CU_ASSERT_TRUE(looked >= 20 && looked <= 22);
	CU_ASSERT_EQUAL(sent, 20);
	lose_link(r);
	protect(r, &looked, &sent);
	CU_ASSERT_TRUE(looked <= 2);
	CU_ASSERT_EQUAL(sent, 0);
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

/* The standby's process is another one, of which it is not known what it was brought to. */
static void test_standby_anew(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	uint64_t looked, sent;

	be_standby(r, NULL);
	guest_starts(r);
	protect(r, &looked, &sent);
	lose_link(r);
	end_standby(r);
	be_standby(r, NULL);
	write_at(r, 0, 4096, 3);
	protect(r, &looked, &sent);
	CU_ASSERT_EQUAL(looked, chunks);
	CU_ASSERT_EQUAL(sent, 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r->dr->resync.why);
	CU_ASSERT_PTR_NOT_NULL(strstr(r->dr->resync.why, "not known"));
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

/* The primary dies with writes that never were committed, the other takes over, writes as well, and the
 * dead one returns as its standby: again and again. */
static void test_takeovers(void)
{
	struct pair pair = pair_new();
	struct host *p = &pair.a, *s = &pair.b, *t;
	struct rig *r = process(p, s), *next;
	uint64_t looked, sent, e;
	unsigned seed = 7;

	guest_starts(r);
	next = standby_process(s, p);
	be_standby(r, next->dr);
	protect(r, &looked, &sent);
	for (unsigned round = 0; round < 8; round++) {
		for (e = 1; e < 5; e++) {
			for (unsigned i = 0; i < 4; i++)
				write_at(r, rand_r(&seed) % chunks * DR_CHUNK / 512 * 512,
					 1024, (uint8_t)rand_r(&seed));
			epoch(r, e);
		}
		await_claim(r->dr, ACT_WRITER);
		/* Not committed, in one extent. */
		for (unsigned i = 0; i < 10; i++)
			write_at(r, (round + 1) * 20 * DR_CHUNK + i * 4096, 512, 0xee);
		lose_link(r);
		CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, NULL), 0);
		next->sb = r->sb;
		next->s = r->s;
		end_process(r);
		guest_starts(next);
		for (unsigned i = 0; i < 3; i++)
			write_at(next, (i * 97 + round) * DR_CHUNK, 4096,
				 (uint8_t)rand_r(&seed));
		/* The dead one comes back. */
		r = next;
		t = p;
		p = s;
		s = t;
		next = standby_process(s, p);
		CU_ASSERT_EQUAL(next->dr->activity.act.claim.role, ACT_WRITER);
		end_standby(r);
		be_standby(r, next->dr);
		protect(r, &looked, &sent);
		/* Active extents are looked at as a whole: 7 of them here. */
		CU_ASSERT_TRUE(r->dr->resync.partial);
		CU_ASSERT_TRUE(sent >= 1 && sent <= 20);
	}
	end_standby(r);
	end_process(next);
	end_process(r);
	pair_free(&pair);
}

/* Cut in the middle: what was sent is not sent again. */
static void test_cut_in_the_middle(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	struct err err = {0};
	uint64_t looked, sent, left;

	be_standby(r, NULL);
	guest_starts(r);
	protect(r, &looked, &sent);
	lose_link(r);
	for (unsigned i = 0; i < 30; i++)
		write_at(r, i * 11 * DR_CHUNK, 4096, (uint8_t)(i + 1));
	CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err), 0);
	while (r->records > 12) /* 1 of the base, 11 chunks */
		free(r->rec[--r->records].p);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	lose_link(r);
	write_at(r, 399 * DR_CHUNK, 4096, 77);
	protect(r, &looked, &sent);
	CU_ASSERT_TRUE(looked >= 31 && looked <= 32);
	CU_ASSERT_EQUAL(sent, 30 - 11 + 1);
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

/* Written after the greeting and before the sync began: nobody tells its digest. */
static void test_written_after_the_greeting(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	struct err err = {0};
	uint64_t looked, sent, left;

	be_standby(r, NULL);
	guest_starts(r);
	protect(r, &looked, &sent);
	lose_link(r);
	write_at(r, 5 * DR_CHUNK, 4096, 1);
	CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
	write_at(r, 300 * DR_CHUNK, 4096, 2);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
	write_at(r, 200 * DR_CHUNK, 4096, 3);
	CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	CU_ASSERT_EQUAL(r->dr->resync.unasked, 1);
	epoch(r, 0);
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

/* Its thread stands still: what is cold stays cold. */
static void halt_log(struct rig *r)
{
	struct dr_activity *a = &r->dr->activity;

	pthread_mutex_lock(&r->dr->lock);
	a->stop = 1;
	pthread_cond_signal(&a->work);
	pthread_mutex_unlock(&r->dr->lock);
	CU_ASSERT_EQUAL(pthread_join(a->thread, NULL), 0);
	a->stop = 0;
}

static void go_on_log(struct rig *r)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(diskrep_run(r->dr, &err), 0);
}

/* A guest's writes do not wait for one another's permission, and keep their order where they overlap. */
static void test_cold_writes(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	const uint64_t at = 256 * DR_CHUNK; /* an extent's beginning */
	uint8_t byte;

	guest_starts(r);
	write_at(r, at, 512, 1); /* and what follows it is active */
	halt_log(r);
	/* Over the beginning of an active extent; what comes then is all within it. */
	rig_submit(r, BLK_WRITE, at - 512, 1024, 7);
	CU_ASSERT_PTR_NOT_NULL(r->dr->cold);
	rig_submit(r, BLK_WRITE, at, 512, 8);
	CU_ASSERT_EQUAL(r->done, 1);
	go_on_log(r);
	await_done(r, 3);
	CU_ASSERT_PTR_NULL(r->dr->cold);
	halt_log(r);
	rig_submit(r, BLK_WRITE, 100 * DR_CHUNK, 4096, 5); /* cold */
	CU_ASSERT_PTR_NOT_NULL(r->dr->cold);
	rig_submit(r, BLK_WRITE, at + DR_CHUNK, 512, 2); /* that extent is active */
	CU_ASSERT_EQUAL(r->done, 4);
	rig_submit(r, BLK_WRITE, 100 * DR_CHUNK + 512, 512, 6); /* behind the cold one */
	CU_ASSERT_EQUAL(r->done, 4);
	go_on_log(r);
	await_done(r, 6);
	CU_ASSERT_EQUAL(pread(p.a.image, &byte, 1, at), 1);
	CU_ASSERT_EQUAL(byte, 8);
	CU_ASSERT_EQUAL(pread(p.a.image, &byte, 1, 100 * DR_CHUNK + 512), 1);
	CU_ASSERT_EQUAL(byte, 6);
	end_process(r);
	pair_free(&p);
}

static struct diskrep_verified verified;
static atomic_int verify_ended;

static void on_verified(void *arg, const struct diskrep_verified *r)
{
	verified = *r;
	atomic_store(&verify_ended, 1);
}

/* Epochs go by, with a write in each, until the comparison has ended. */
static uint64_t verify(struct rig *r, uint64_t e, int repair)
{
	struct err err = {0};

	atomic_store(&verify_ended, 0);
	CU_ASSERT_EQUAL_FATAL(diskrep_verify(r->dr, repair, on_verified, NULL, &err), 0);
	CU_ASSERT_EQUAL(diskrep_verify(r->dr, repair, on_verified, NULL, &err), -EBUSY);
	while (!atomic_load(&verify_ended)) {
		write_at(r, (e * 7 % 30) * DR_CHUNK, 4096, (uint8_t)e);
		rig_capture(r, e);
		rig_ship(r, e);
		rig_report(r);
		rig_apply(r, e++);
		sched_yield();
	}
	return e;
}

static void flip(struct rig *r, uint64_t at)
{
	uint8_t byte;

	CU_ASSERT_EQUAL(pread(r->sfd, &byte, 1, (off_t)at), 1);
	byte ^= 4;
	CU_ASSERT_EQUAL(pwrite(r->sfd, &byte, 1, (off_t)at), 1);
}

/* Bits flip in the standby's image: told, and only then and only if asked for, mended. */
static void test_verify(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	uint64_t looked, sent, e = 1;
	struct err err = {0};
	uint8_t *model;

	be_standby(r, NULL);
	guest_starts(r);
	CU_ASSERT_EQUAL(diskrep_verify(r->dr, 0, on_verified, NULL, &err), -ENOTCONN);
	protect(r, &looked, &sent);
	e = verify(r, e, 0);
	CU_ASSERT_EQUAL(verified.differ, 0);
	CU_ASSERT_EQUAL(verified.chunks + verified.busy, chunks);
	CU_ASSERT_EQUAL(verified.why[0], 0);
	flip(r, 200 * DR_CHUNK + 77);
	flip(r, CAP - 1);
	flip(r, 311 * DR_CHUNK);
	e = verify(r, e, 0);
	CU_ASSERT_EQUAL(verified.differ, 3);
	CU_ASSERT_EQUAL(verified.repaired, 0);
	CU_ASSERT_EQUAL(verified.first[0].offset, 200 * DR_CHUNK);
	CU_ASSERT_EQUAL(verified.first[2].offset, 400 * DR_CHUNK);
	e = verify(r, e, 1);
	CU_ASSERT_EQUAL(verified.differ, 3);
	CU_ASSERT_EQUAL(verified.repaired, 3);
	model = rig_snapshot(r);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	(void)verify(r, e, 1); /* which epoch it ended in does not matter */
	CU_ASSERT_EQUAL(verified.differ, 0);
	lose_link(r);
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

/* The standby goes away in the middle. */
static void test_verify_cut(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	uint64_t looked, sent;
	struct err err = {0};

	be_standby(r, NULL);
	guest_starts(r);
	protect(r, &looked, &sent);
	atomic_store(&verify_ended, 0);
	CU_ASSERT_EQUAL(diskrep_verify(r->dr, 0, on_verified, NULL, &err), 0);
	lose_link(r);
	while (!atomic_load(&verify_ended))
		sched_yield();
	CU_ASSERT_PTR_NOT_NULL(strstr(verified.why, "standby is gone"));
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

static int says(struct rig *r, int to_primary, uint16_t type, uint64_t epoch_no,
		const void *p, size_t len)
{
	uint8_t *copy = malloc(len + 1); /* so that a sanitizer sees what reads beyond */
	struct err err = {0};
	int rc;

	memcpy(copy, p, len);
	rc = to_primary ? r->p.ops->peer_record(r->p.self, type, copy, len, &err)
			: r->s.ops->record(r->s.self, type, epoch_no, copy, len, &err);
	CU_ASSERT_EQUAL(rc, err.code);
	free(copy);
	return rc;
}

static int claims(struct rig *r, int to_primary, uint8_t base, uint32_t role,
		  uint32_t flags)
{
	struct dr_wire_claim w = {
		.base = {base}, .role = le32_of(role), .flags = le32_of(flags)};

	return says(r, to_primary, DR_REC_CLAIM, REC_EPOCH_SYNC, &w, sizeof(w));
}

static int marks(struct rig *r, uint32_t disk, uint32_t count, uint64_t first, uint64_t n,
		 uint64_t first2)
{
	struct {
		struct dr_wire_bits w;
		struct dr_wire_run run[2];
	} m = {.w = {le32_of(disk), le32_of(count)},
	       .run = {{le64_of(first), le64_of(n)}, {le64_of(first2), le64_of(1)}}};

	return says(r, 0, DR_REC_BITS, REC_EPOCH_SYNC, &m, sizeof(m));
}

static void hostile_primary(struct rig *r)
{
	struct dr_wire_verify v = {.disk = le32_of(0), .chunk = le64_of(chunks)};
	uint8_t none[DR_BASE_LEN] = {0};

	CU_ASSERT_EQUAL(marks(r, 0, 2, 0, 1, 2), -EBADMSG); /* before a claim */
	CU_ASSERT_EQUAL(claims(r, 0, 0, ACT_WRITER, 0), -EBADMSG);
	CU_ASSERT_EQUAL(claims(r, 0, 1, ACT_NONE, 0), -EBADMSG);
	CU_ASSERT_EQUAL(claims(r, 0, 1, ACT_FOLLOWER + 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(claims(r, 0, 1, ACT_WRITER, 1), -EBADMSG);
	CU_ASSERT_EQUAL(says(r, 0, DR_REC_CLAIM, REC_EPOCH_SYNC, "abc", 3), -EBADMSG);
	CU_ASSERT_EQUAL(claims(r, 0, 0, ACT_NONE, 0), 0);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 0, 1, 2), -EBADMSG); /* of no claim */
	CU_ASSERT_EQUAL(claims(r, 0, 1, ACT_WRITER, 0), 0);
	CU_ASSERT_EQUAL(marks(r, 1, 2, 0, 1, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 1, 0, 1, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, UINT32_MAX, 0, 1, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 0, 0, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 0, chunks + 1, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 5, UINT64_MAX, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, UINT64_MAX, 1, 2), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 5, 3, 6), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 5, 3, chunks), -EBADMSG);
	CU_ASSERT_EQUAL(marks(r, 0, 2, 5, 3, chunks - 1), 0);
	CU_ASSERT_EQUAL(says(r, 0, DR_REC_BASE, REC_EPOCH_SYNC, none, sizeof(none)),
			-EBADMSG);
	CU_ASSERT_EQUAL(says(r, 0, DR_REC_BASE, REC_EPOCH_SYNC, "1234567", 7), -EBADMSG);
	CU_ASSERT_EQUAL(says(r, 0, DR_REC_VERIFY, 0, &v, sizeof(v)), -EBADMSG);
	v.disk = le32_of(1);
	CU_ASSERT_EQUAL(says(r, 0, DR_REC_VERIFY, 0, &v, sizeof(v)), -EBADMSG);
	CU_ASSERT_EQUAL(says(r, 0, DR_REC_VERIFY, 0, &v, 5), -EBADMSG);
}

static void hostile_standby(struct rig *r)
{
	struct {
		struct dr_wire_differs w;
		struct le64 chunk;
	} d = {.w = {le32_of(0), le32_of(1)}, .chunk = le64_of(3)};
	struct err err = {0};

	/* Nothing is verified. */
	CU_ASSERT_EQUAL(says(r, 1, DR_REC_DIFFERS, 0, &d, sizeof(d)), -EBADMSG);
	CU_ASSERT_EQUAL(r->p.ops->greet(r->p.self, &r->sink, &err), 0);
	rig_forget_records(r);
	/* A part only, of a base that this host does not know. */
	CU_ASSERT_EQUAL(claims(r, 1, 9, ACT_FOLLOWER, DR_CLAIM_PARTIAL), -EBADMSG);
	CU_ASSERT_EQUAL(claims(r, 1, 9, ACT_FOLLOWER, 2), -EBADMSG);
	CU_ASSERT_EQUAL(claims(r, 1, 9, ACT_FOLLOWER, 0), 0);
	CU_ASSERT_EQUAL(claims(r, 1, 9, ACT_FOLLOWER, 0), -EBADMSG);
	r->p.ops->unlinked(r->p.self);
}

static void test_hostile(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);

	be_standby(r, NULL);
	guest_starts(r);
	hostile_primary(r);
	hostile_standby(r);
	end_standby(r);
	end_process(r);
	pair_free(&p);
}

static unsigned failures, was_spoiled;

static void on_failed(void *arg, int rc, int spoiled)
{
	failures++;
	was_spoiled = (unsigned)spoiled;
}

/* No room, or a disk that fails: the guest goes on, and the file is not believed again. */
static void test_log_fails(void)
{
	struct pair p = pair_new();
	struct rig *r = process(&p.a, &p.b);
	struct act_file f;
	struct act_head h;
	struct dr_bits bits;
	struct err err = {0};
	const uint64_t cap = CAP;
	const char *why;
	int full;

	be_standby(r, NULL);
	guest_starts(r);
	write_at(r, 300 * DR_CHUNK, 512, 1);
	end_standby(r);
	r->dr->activity.on_failed = on_failed;
	full = open("/dev/full", O_RDWR | O_CLOEXEC);
	CU_ASSERT_TRUE_FATAL(full >= 0);
	pthread_mutex_lock(&r->dr->lock);
	r->dr->activity.fd = full;
	pthread_mutex_unlock(&r->dr->lock);
	write_at(r, 0, 512, 1);
	CU_ASSERT_EQUAL(failures, 1);
	CU_ASSERT_EQUAL(was_spoiled, 0);
	for (unsigned i = 0; i < 50; i++)
		write_at(r, i * 7 * DR_CHUNK, 512, 2);
	end_process(r);
	close(full);
	/* A file that only refused once is spoiled. */
	CU_ASSERT_EQUAL(act_file_init(&f, act_io_of(&p.a.meta), &cap, 1, &err), 0);
	CU_ASSERT_EQUAL(dr_bits_init(&bits, chunks), 0);
	CU_ASSERT_EQUAL(act_file_load(&f, &h, &bits, &why), 0);
	CU_ASSERT_EQUAL(act_file_spoil(&f), 0);
	CU_ASSERT_EQUAL(act_file_load(&f, &h, &bits, &why), 1);
	dr_bits_fini(&bits);
	pair_free(&p);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"when a part is enough", test_plan},
		{"a standby returns", test_standby_returns},
		{"a standby of which nothing is known", test_standby_anew},
		{"takeovers and returns", test_takeovers},
		{"cut in the middle", test_cut_in_the_middle},
		{"written after the greeting", test_written_after_the_greeting},
		{"cold writes", test_cold_writes},
		{"the log fails", test_log_fails},
		{"hostile greetings", test_hostile},
		{"verify", test_verify},
		{"verify is cut", test_verify_cut},
	};

	return UNIT_MAIN("resync", tests);
}
