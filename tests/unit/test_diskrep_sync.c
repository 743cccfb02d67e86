/* SPDX-License-Identifier: Apache-2.0
 * test_diskrep_sync - the first sync loses no write, sends only what differs, trusts nobody.
 */
#include "tests/unit/diskrig.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

static void fill(int fd, uint64_t chunk, uint8_t with)
{
	uint8_t buf[DR_CHUNK];

	memset(buf, with, sizeof(buf));
	CU_ASSERT_EQUAL(pwrite(fd, buf, sizeof(buf), (off_t)(chunk * DR_CHUNK)),
			DR_CHUNK);
}

static void checkpoint(struct rig *r, uint64_t epoch)
{
	uint8_t *model = rig_snapshot(r);

	rig_capture(r, epoch);
	rig_ship(r, epoch);
	rig_apply(r, epoch);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
}

static void test_only_what_differs(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct diskrep_stats st;
	unsigned chunks = RIG_CAP / DR_CHUNK + 1;
	uint8_t noise[DR_CHUNK], last[1536];

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)rand();
	memset(last, 7, sizeof(last));
	fill(r->pfd, 1, 1); /* same */
	fill(r->sfd, 1, 1);
	fill(r->pfd, 2, 2); /* differs, and compresses well */
	fill(r->sfd, 2, 3);
	CU_ASSERT_EQUAL(pwrite(r->pfd, noise, DR_CHUNK, 4 * DR_CHUNK), DR_CHUNK);
	fill(r->sfd, 6, 6); /* zeroes here, not there: a run of two */
	fill(r->sfd, 7, 6);
	fill(r->pfd, 9, 0); /* written zeroes are holes to the other side */
	CU_ASSERT_EQUAL(pwrite(r->pfd, last, 1536, 20 * DR_CHUNK),
			1536); /* a short chunk */
	rig_sync(r, 1);
	diskrep_stats(r->dr, &st);
	CU_ASSERT_EQUAL(st.chunks_sent, 5);
	CU_ASSERT_EQUAL(st.chunks_same, chunks - 5);
	CU_ASSERT_TRUE(st.sent_bytes < DR_CHUNK + 2048);
	checkpoint(r, 0);
	rig_free(r);
}

static void test_stays_sparse(void)
{
	const uint64_t cap = 4096ull * DR_CHUNK;
	struct rig *r = rig_new(1 << 20, cap, cap);
	struct stat st;

	fill(r->pfd, 4000, 9);
	fill(r->sfd, 17, 9); /* must become a hole */
	rig_sync(r, 2);
	checkpoint(r, 0);
	CU_ASSERT_EQUAL(fstat(r->sfd, &st), 0);
	CU_ASSERT_TRUE(st.st_blocks * 512 <= 2 * DR_CHUNK);
	rig_free(r);
}

/* An old primary wrote on after its last commit, and comes back as the standby. */
static void test_uncommitted_writes_are_undone(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	unsigned seed = 3;
	uint8_t junk[5000];

	r->img.inline_done = 1;
	for (int i = 0; i < 200; i++)
		rig_random(r, &seed);
	rig_sync(r, 1);
	checkpoint(r, 0);
	memset(junk, 0xee, sizeof(junk));
	CU_ASSERT_EQUAL(pwrite(r->sfd, junk, sizeof(junk), 70001), sizeof(junk));
	CU_ASSERT_EQUAL(pwrite(r->sfd, junk, 1, RIG_CAP - 1), 1);
	r->p.ops->unlinked(r->p.self);
	r->s.ops->drop(r->s.self);
	for (int i = 0; i < 20; i++)
		rig_random(r, &seed);
	rig_sync(r, 1);
	checkpoint(r, 0);
	for (int i = 0; i < 20; i++)
		rig_random(r, &seed);
	checkpoint(r, 1);
	rig_free(r);
}

/* Each way in which a write can meet the sender; see dr.h. */
static void test_writes_in_flight(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};
	uint64_t left;

	/* In flight before tracking begins, done during the sync. */
	rig_submit(r, BLK_WRITE, 0, 512, 1);
	/* In flight before, and still at checkpoint 0. */
	rig_submit(r, BLK_WRITE, 2 * DR_CHUNK, 512, 2);
	CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
	/* Marked, then read by the sender while in flight, then done. */
	rig_submit(r, BLK_WRITE, 4 * DR_CHUNK, 512, 3);
	/* The same, and still in flight at checkpoint 0; over two chunks. */
	rig_submit(r, BLK_WRITE, 7 * DR_CHUNK - 512, 1024, 4);
	rig_submit(r, BLK_DISCARD, 9 * DR_CHUNK, 512, 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	CU_ASSERT_EQUAL(left, 0);
	image_complete(&r->img, 0);
	image_complete(&r->img, 1);
	/* Done between the last round and the capture. */
	r->img.inline_done = 1;
	rig_submit(r, BLK_WRITE, 12 * DR_CHUNK, 512, 5);
	r->img.inline_done = 0;
	CU_ASSERT_EQUAL(r->img.n, 3);
	checkpoint(r, 0);
	while (r->img.n)
		image_complete(&r->img, 0);
	checkpoint(r, 1);
	rig_free(r);
}

/* Checkpoint 0 is the disk of its capture, not of the moment when it is sent. */
static void test_checkpoint_0_is_not_younger(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	uint8_t *model;

	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_submit(r, BLK_WRITE, 0, 4096, 1);
	model = rig_snapshot(r);
	rig_capture(r, 0);
	rig_submit(r, BLK_WRITE, 0, 8192, 2);
	rig_ship(r, 0);
	rig_apply(r, 0);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
	checkpoint(r, 1);
	rig_free(r);
}

static void write_again(struct rig *r)
{
	r->on_put = NULL;
	rig_submit(r, BLK_WRITE, 5 * DR_CHUNK, 512, (uint8_t)(r->done + 1));
}

/* A chunk that is written once more between its reading and its sending. */
static void test_written_while_sent(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};
	uint64_t left;

	r->img.inline_done = 1;
	rig_submit(r, BLK_WRITE, 5 * DR_CHUNK, 512, 1);
	rig_sync(r, 0);
	for (int round = 0; round < 3; round++) {
		r->on_put = write_again;
		CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err),
				0);
		CU_ASSERT_PTR_NULL(r->on_put);
		CU_ASSERT_EQUAL(left, DR_CHUNK);
		CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	}
	checkpoint(r, 0);
	rig_free(r);
}

/* The I/O thread and the kernel's part of it, at random, while the main thread syncs. */
struct guest {
	struct rig *r;
	pthread_mutex_t device;
	atomic_int stop, moves;
	unsigned seed;
};

/* A write as the kernel does it: without any lock, in two halves. */
static void carry_out(struct guest *g, struct blk_req *q)
{
	static const uint8_t zeroes[256 << 10];
	const uint8_t *p = q->op == BLK_WRITE ? q->data->bytes : zeroes;
	uint32_t half = q->len / 1024 * 512;

	if (pwrite(g->r->pfd, p, half, (off_t)q->offset) != (ssize_t)half)
		abort();
	sched_yield();
	if (pwrite(g->r->pfd, p + half, q->len - half, (off_t)(q->offset + half)) !=
	    (ssize_t)(q->len - half))
		abort();
}

static void *guest_io(void *arg)
{
	struct guest *g = arg;
	struct rig_image *img = &g->r->img;
	struct blk_req *q;
	int i;

	while (!atomic_load(&g->stop)) {
		pthread_mutex_lock(&g->device);
		/* Not more than that: one may wait for another, and all behind it. */
		for (int k = 0; k < 4 && img->n < 8; k++)
			rig_random(g->r, &g->seed);
		i = rand_r(&g->seed) % img->n;
		q = img->req[i];
		pthread_mutex_unlock(&g->device);
		carry_out(g, q);
		pthread_mutex_lock(&g->device);
		memmove(&img->req[i], &img->req[i + 1],
			(size_t)(--img->n - i) * sizeof(q));
		q->done(q, 0);
		pthread_mutex_unlock(&g->device);
		atomic_fetch_add(&g->moves, 1);
	}
	return NULL;
}

static void wait_moves(struct guest *g, int n)
{
	int until = atomic_load(&g->moves) + n;

	while (atomic_load(&g->moves) < until)
		sched_yield();
}

static void test_sync_beside_a_writer(void)
{
	for (unsigned s = 1; s <= 25; s++) {
		struct rig *r = rig_new(64 << 20, RIG_CAP, RIG_CAP);
		struct guest g = {.r = r, .device = PTHREAD_MUTEX_INITIALIZER, .seed = s};
		struct err err = {0};
		pthread_t thread;
		uint8_t *model;
		uint64_t left;

		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, guest_io, &g), 0);
		wait_moves(&g, 20);
		CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
		CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
		/* One round: in later ones writers may have to wait for the I/O loop. */
		CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err),
				0);
		CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
		for (uint64_t i = 0; i < 4; i++) {
			pthread_mutex_lock(&g.device);
			model = rig_snapshot(r);
			rig_capture(r, i);
			pthread_mutex_unlock(&g.device);
			rig_ship(r, i);
			rig_apply(r, i);
			CU_ASSERT_TRUE(rig_standby_is(r, model));
			free(model);
			wait_moves(&g, 5);
		}
		atomic_store(&g.stop, 1);
		pthread_join(thread, NULL);
		rig_free(r);
	}
}

/* A write that ends while its chunk is read to be compared: the read may have missed it. */
static void test_written_while_compared(void)
{
	struct rig *r = rig_new(1 << 20, DR_CHUNK, DR_CHUNK);
	unsigned seed = 1, wrong = 0;
	struct err err = {0};
	uint64_t left;

	r->img.inline_done = 1;
	fill(r->pfd, 0, 1);
	fill(r->sfd, 0, 1);
	for (unsigned i = 0; i < 2000; i++) {
		uint8_t *model;

		CU_ASSERT_EQUAL_FATAL(rig_hello(r, &err), 0);
		CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
		for (int k = rand_r(&seed) % 20000; k; k--)
			__asm__ volatile("");
		rig_submit(r, BLK_WRITE, DR_CHUNK - 512, 512, (uint8_t)(i + 2));
		CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err),
				0);
		CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
		model = rig_snapshot(r);
		wrong += !rig_standby_is(r, model);
		free(model);
		r->p.ops->unlinked(r->p.self);
	}
	CU_ASSERT_EQUAL(wrong, 0);
	rig_free(r);
}

static void test_writers_wait_for_the_sync(void)
{
	struct rig *r = rig_new(1 << 20, 64 * DR_CHUNK, 64 * DR_CHUNK);
	struct err err = {0};
	uint64_t left;

	r->img.inline_done = 1;
	rig_sync(r, 0);
	/* Nobody waits for the first round, however much is written. */
	for (unsigned i = 0; i < 40; i++)
		rig_submit(r, BLK_WRITE, i * (uint64_t)DR_CHUNK, 512, 1);
	CU_ASSERT_EQUAL(r->done, 40);
	CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err), 0);
	CU_ASSERT_EQUAL(left, 0);
	for (unsigned i = 0; i < 40; i++)
		rig_submit(r, BLK_WRITE, i * (uint64_t)DR_CHUNK, 512, 2);
	CU_ASSERT_EQUAL(r->done, 40 + 16);
	CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err), 0);
	rig_turn(r);
	CU_ASSERT_EQUAL(r->done, 40 + 32);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	/* The capture ends the wait: what is in line belongs to the next epoch. */
	checkpoint(r, 0);
	rig_turn(r);
	CU_ASSERT_EQUAL(r->done, 80);
	checkpoint(r, 1);
	/* So does the loss of the peer. */
	r->p.ops->unlinked(r->p.self);
	rig_sync(r, 1);
	for (unsigned i = 0; i < 40; i++)
		rig_submit(r, BLK_WRITE, i * (uint64_t)DR_CHUNK, 512, 3);
	CU_ASSERT_EQUAL(r->done, 80 + 16);
	r->p.ops->unlinked(r->p.self);
	rig_turn(r);
	CU_ASSERT_EQUAL(r->done, 120);
	rig_free(r);
}

/* While it reads long, and that is only a matter of time: a few tries. */
static void test_says_that_it_lives(void)
{
	const unsigned chunks = 512;
	const uint64_t cap = (uint64_t)chunks * DR_CHUNK;
	struct rig *r = rig_new(1 << 20, cap, cap);
	struct err err = {0};
	unsigned alive = 0;
	uint64_t left;

	for (unsigned i = 0; i < chunks; i++) {
		fill(r->pfd, i, 1);
		fill(r->sfd, i, 1);
	}
	r->dr->compare.alive_ms = 1;
	for (unsigned tries = 0; tries < 100 && !alive; tries++) {
		CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
		CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
		CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err),
				0);
		for (unsigned i = 0; i < r->records; i++)
			alive |= r->rec[i].type == DR_REC_ALIVE;
		CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
		r->p.ops->unlinked(r->p.self);
	}
	CU_ASSERT_TRUE(alive);
	rig_free(r);
}

/* A standby that tells of another size than it was greeted with. */
static void test_capacity_mismatch(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct dr_wire_digests w = {.disks = le32_of(1), .capacity = le64_of(512)};
	struct err err = {0};

	CU_ASSERT_EQUAL(r->p.ops->greet(r->p.self, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(
		r->p.ops->peer_record(r->p.self, DR_REC_DIGESTS, &w, sizeof(w), &err),
		-EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "disk 0"));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "equally large"));
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), -EPROTO);
	rig_free(r);
}

static void test_number_of_disks(void)
{
	static const struct diskrep_journal none = {.fd = -1};
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct diskrep_standby *more = NULL;
	struct standby_part was = r->s;
	struct err err = {0};
	int fds[DR_DISKS_MAX + 1];

	for (int i = 0; i <= DR_DISKS_MAX; i++)
		fds[i] = r->sfd;
	for (unsigned n = 0; n <= 2; n += 2) {
		CU_ASSERT_EQUAL(
			diskrep_standby_create(fds, n, 1 << 20, &none, &more, &err), 0);
		r->s = diskrep_standby_part(more);
		CU_ASSERT_EQUAL(rig_hello(r, &err), -EINVAL);
		r->p.ops->unlinked(r->p.self);
		diskrep_standby_destroy(more);
	}
	r->s = was;
	CU_ASSERT_EQUAL(
		diskrep_standby_create(fds, DR_DISKS_MAX + 1, 1, &none, &more, &err),
		-ENOSPC);
	rig_free(r);
}

static int digests(struct rig *r, uint32_t disk, uint32_t disks, uint64_t cap,
		   uint64_t first, uint32_t count, uint32_t flags, size_t digests_len)
{
	size_t len = sizeof(struct dr_wire_digests) + digests_len;
	struct dr_wire_digests *w = calloc(1, len);
	struct err err = {0};
	int rc;

	*w = (struct dr_wire_digests){.disk = le32_of(disk),
				      .disks = le32_of(disks),
				      .capacity = le64_of(cap),
				      .first = le64_of(first),
				      .count = le32_of(count),
				      .flags = le32_of(flags)};
	rc = r->p.ops->peer_record(r->p.self, DR_REC_DIGESTS, w, len, &err);
	CU_ASSERT_EQUAL(err.code, rc);
	free(w);
	return rc;
}

static void test_hostile_standby(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};

	CU_ASSERT_EQUAL(r->p.ops->peer_record(r->p.self, DR_REC_WRITE, "", 0, &err),
			-EBADMSG);
	CU_ASSERT_EQUAL(r->p.ops->peer_record(r->p.self, DR_REC_DIGESTS, "abc", 3, &err),
			-EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, 5, 0, 79), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, 5, 1, 16), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, 5, 2, 80), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 1, 1, RIG_CAP, 0, 5, 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, UINT32_MAX, 1, RIG_CAP, 0, 5, 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 1, 5, 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, 22, 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, UINT32_MAX, 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, UINT32_MAX, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(digests(r, 0, 1, UINT64_MAX, 0, 5, 1, 0), -EINVAL);
	/* Half a table is not enough to begin with. */
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, 5, 1, 0), 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), -EPROTO);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 5, 16, 0, 256), 0);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 21, 0, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(digests(r, 0, 1, RIG_CAP, 0, 5, 1, 0), -EBADMSG);
	/* A checkpoint without a round would not hold the disk. */
	CU_ASSERT_EQUAL(r->p.ops->capture(r->p.self, 0, &err), -EPROTO);
	/* What one peer told does not count for the next. */
	r->p.ops->unlinked(r->p.self);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), -EPROTO);
	rig_free(r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"only what differs", test_only_what_differs},
		{"stays sparse", test_stays_sparse},
		{"uncommitted writes are undone", test_uncommitted_writes_are_undone},
		{"writes in flight", test_writes_in_flight},
		{"checkpoint 0 is not younger", test_checkpoint_0_is_not_younger},
		{"written while sent", test_written_while_sent},
		{"sync beside a writer", test_sync_beside_a_writer},
		{"written while compared", test_written_while_compared},
		{"writers wait for the sync", test_writers_wait_for_the_sync},
		{"says that it lives", test_says_that_it_lives},
		{"capacity mismatch", test_capacity_mismatch},
		{"number of disks", test_number_of_disks},
		{"hostile standby", test_hostile_standby},
	};

	return UNIT_MAIN("diskrep sync", tests);
}
