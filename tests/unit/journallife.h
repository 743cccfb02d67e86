/* SPDX-License-Identifier: Apache-2.0
 * journallife - a standby's life over files that record everything: the shipped code runs with its threads.
 *
 * Two links, each with a sync and a row of epochs on three disks, overlapping writes, erases, a ring that wraps many
 * times; then a takeover, and a guest that writes and flushes. What was promised meanwhile is marked in the trace.
 */
#ifndef TESTS_UNIT_JOURNALLIFE_H
#define TESTS_UNIT_JOURNALLIFE_H

#include "diskrep/journal.h"
#include "diskrep/standby.h"
#include "hv/base/err.h"
#include "remus/participant.h"
#include "tests/unit/crashrig.h"

#include <sched.h>
#include <unistd.h>

enum {
	DISKS = 3,
	EPOCHS = 24, /* of one link */
	LINKS = 2,
	GUEST = 40,  /* requests after the takeover */
	LOSE_AT = 8, /* epochs: where the journal fails in a life that wants that, and */
	AGAIN_AT = 16, /* from where on it is tried again */
};

/* Of the images; the disks are smaller at first, and grow. */
static const uint64_t sizes[CR_FILES] = {16 << 10, 8 << 10, (24 << 10) + 512, CR_BYTES};
static const uint64_t first_sizes[DISKS] = {8 << 10, 8 << 10, (8 << 10) + 512};

/* What the test knew. */
enum { M_SYNCING = 1, M_ACKED, M_DURABLE, M_ACTIVATE, M_FLUSHED };

struct life {
	struct cr_rig *r;
	struct diskrep_standby *s;
	struct standby_part p;
	struct cr_disk model; /* as the primary's images are */
	uint64_t size[DISKS]; /* of the disks */
	struct cr_disk at[LINKS][EPOCHS];
	uint64_t size_at[LINKS][EPOCHS][DISKS];
	uint8_t base[LINKS][DR_BASE_LEN];
	unsigned seed;
	uint64_t durable;
	int known_durable;
	int loses;		  /* in this life the journal fails once */
	unsigned unsafe, resumed; /* states that were found so; and live after that */
};

static inline unsigned rnd(struct life *l, unsigned n)
{
	return (unsigned)rand_r(&l->seed) % n;
}

static inline void say(struct life *l, uint16_t type, uint64_t epoch, const void *head,
		       size_t head_len, const void *bytes, size_t len)
{
	uint8_t *p = malloc(head_len + len);
	struct err err = {0};

	memcpy(p, head, head_len);
	if (len)
		memcpy(p + head_len, bytes, len);
	CU_ASSERT_EQUAL(l->p.ops->record(l->p.self, type, epoch, p, head_len + len, &err),
			0);
	free(p);
}

static inline int no_sink(struct rec_sink *s, uint16_t type, uint64_t epoch,
			  const struct iovec *iov, int n)
{
	return 0;
}

static inline void note_durable(struct life *l)
{
	struct diskrep_durable d;

	diskrep_standby_durable(l->s, &d);
	if (d.epoch == UINT64_MAX || (l->known_durable && d.epoch == l->durable))
		return;
	l->known_durable = 1;
	l->durable = d.epoch;
	cr_mark(l->r, M_DURABLE, d.epoch);
}

static inline void fill(struct life *l, uint8_t *p, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		p[i] = (uint8_t)rand_r(&l->seed);
}

/* One write or erase; whole sectors, and often where others were. */
static inline uint64_t change(struct life *l, uint64_t epoch)
{
	uint32_t disk = rnd(l, DISKS), sectors = 1 + rnd(l, rnd(l, 4) ? 3 : 9);
	uint64_t offset =
		CR_SECTOR *
		(uint64_t)rnd(l, (unsigned)(l->size[disk] / CR_SECTOR) - sectors + 1);
	uint64_t len = CR_SECTOR * (uint64_t)sectors;
	uint8_t *at = l->model.bytes[disk] + offset;
	struct dr_wire_write w = {.disk = le32_of(disk),
				  .offset = le64_of(offset),
				  .len = le32_of((uint32_t)len)};
	struct dr_wire_erase z = {.disk = le32_of(disk),
				  .flags = le32_of(DR_ERASE_ZEROES),
				  .offset = le64_of(offset),
				  .len = le64_of(len)};

	if (rnd(l, 6)) {
		fill(l, at, len);
		say(l, DR_REC_WRITE, epoch, &w, sizeof(w), at, len);
		return sizeof(w) + len;
	}
	memset(at, 0, len);
	say(l, DR_REC_ERASE, epoch, &z, sizeof(z), NULL, 0);
	return sizeof(z);
}

/* A disk may have more from the end of this epoch on. */
static inline uint64_t resize(struct life *l, uint64_t epoch)
{
	uint32_t disk = rnd(l, DISKS);
	uint64_t to = l->size[disk] + CR_SECTOR * (1 + (uint64_t)rnd(l, 8));
	struct dr_wire_resize w = {.disk = le32_of(disk), .capacity = le64_of(to)};

	if (to > sizes[disk] || rnd(l, 3))
		return 0;
	say(l, DR_REC_RESIZE, epoch, &w, sizeof(w), NULL, 0);
	l->size[disk] = to;
	return sizeof(w);
}

static inline void one_epoch(struct life *l, unsigned link, uint64_t e)
{
	unsigned n = rnd(l, 4) ? rnd(l, 5) : 0;
	struct dr_wire_barrier b;
	struct err err = {0};
	uint64_t bytes = 0, more;

	for (unsigned i = 0; i < n; i++)
		bytes += change(l, e);
	more = resize(l, e);
	bytes += more;
	n += more != 0;
	b = (struct dr_wire_barrier){.count = le32_of(n), .bytes = le64_of(bytes)};
	say(l, DR_REC_BARRIER, e, &b, sizeof(b), NULL, 0);
	l->at[link][e] = l->model;
	memcpy(l->size_at[link][e], l->size, sizeof(l->size));
	CU_ASSERT_EQUAL(l->p.ops->check(l->p.self, e, &err), 0);
	cr_mark(l->r, M_ACKED, e);
	CU_ASSERT_EQUAL(l->p.ops->apply(l->p.self, e, &err), 0);
}

static inline void sync_link(struct life *l, unsigned link)
{
	struct rec_sink sink = {.put = no_sink};
	struct dr_wire_sizes z = {.disks = le32_of(DISKS)};
	struct err err = {0};

	for (uint32_t d = 0; d < DISKS; d++)
		z.capacity[d] = le64_of(l->size[d]);
	say(l, DR_REC_SIZES, REC_EPOCH_SYNC, &z, sizeof(z), NULL, 0);
	CU_ASSERT_EQUAL(l->p.ops->hello(l->p.self, &sink, &err), 0);
	fill(l, l->base[link], DR_BASE_LEN);
	cr_mark(l->r, M_SYNCING, link);
	l->known_durable = 0;
	say(l, DR_REC_BASE, REC_EPOCH_SYNC, l->base[link], DR_BASE_LEN, NULL, 0);
	for (uint32_t d = 0; d < DISKS; d++) {
		struct dr_wire_chunk w = {.disk = le32_of(d),
					  .count = le32_of(1),
					  .len = le32_of((uint32_t)l->size[d])};

		fill(l, l->model.bytes[d], l->size[d]);
		say(l, DR_REC_CHUNK, REC_EPOCH_SYNC, &w, sizeof(w), l->model.bytes[d],
		    l->size[d]);
	}
}

static inline void set_again(struct life *l, uint64_t ns)
{
	pthread_mutex_lock(&l->s->applier.lock);
	l->s->applier.again_ms = 0;
	l->s->applier.again_ns = ns;
	pthread_mutex_unlock(&l->s->applier.lock);
}

/* The journal's next flush, or write, fails: between two epochs, when all before is in the images. In every other
 * life it begins anew at once. */
static inline void lose_journal(struct life *l)
{
	CU_ASSERT_EQUAL(drs_applier_drain(&l->s->applier), 0);
	pthread_mutex_lock(&l->r->lock);
	l->r->fail_file = CR_JOURNAL;
	l->r->fail_with = -EIO;
	l->r->fail_syncs = l->seed & 1;
	l->r->fail_once = 1;
	pthread_mutex_unlock(&l->r->lock);
	pthread_mutex_lock(&l->s->applier.lock);
	l->s->applier.again_ms = l->seed & 2 ? 0 : AGAIN_MOST_MS;
	pthread_mutex_unlock(&l->s->applier.lock);
}

static inline void live_link(struct life *l, unsigned link)
{
	sync_link(l, link);
	for (uint64_t e = 0; e < EPOCHS; e++) {
		if (l->loses && e == LOSE_AT)
			lose_journal(l);
		if (l->loses && e == AGAIN_AT)
			set_again(l, 0);
		one_epoch(l, link, e);
		note_durable(l);
		/* Now several epochs go together, now the disks keep up. */
		if (!rnd(l, 3))
			CU_ASSERT_EQUAL(drs_applier_drain(&l->s->applier), 0);
		if (!rnd(l, 5))
			drs_flusher_kick(&l->s->flusher, 1);
		note_durable(l);
	}
	while (!l->known_durable || l->durable < EPOCHS - 1) {
		sched_yield();
		note_durable(l);
	}
	l->p.ops->drop(l->p.self);
}

static inline int flushed(struct life *l)
{
	int rc;

	while ((rc = drs_flusher_verdict(&l->s->flusher, 0)) == -EAGAIN)
		sched_yield();
	return rc;
}

/* Some epochs that are acked and nothing else, then the guest goes on here. */
static inline void take_over(struct life *l)
{
	struct err err = {0};
	int answered = 0;

	sync_link(l, LINKS - 1);
	for (uint64_t e = 0; e < EPOCHS; e++) {
		one_epoch(l, LINKS - 1, e);
		if (e == EPOCHS - 6)
			CU_ASSERT_EQUAL(drs_applier_drain(&l->s->applier), 0);
		note_durable(l);
	}
	CU_ASSERT_EQUAL(l->p.ops->activate(l->p.self, &err), 0);
	while (drs_applier_settled(&l->s->applier) == -EAGAIN)
		sched_yield();
	cr_mark(l->r, M_ACTIVATE, 0);
	for (int i = 0; i < GUEST; i++) {
		uint8_t bytes[CR_SECTOR];
		unsigned d = rnd(l, DISKS);
		uint64_t at =
			CR_SECTOR * (uint64_t)rnd(l, (unsigned)(l->size[d] / CR_SECTOR));

		fill(l, bytes, sizeof(bytes));
		CU_ASSERT_EQUAL(cr_write(l->r, d, bytes, sizeof(bytes), at), 0);
		if (i % 10 != 9)
			continue;
		for (d = 0; d < DISKS; d++)
			CU_ASSERT_EQUAL(cr_sync(l->r, d), 0);
		/* What dr_flush() asks before it answers the guest. */
		if (!answered)
			CU_ASSERT_EQUAL(flushed(l), 0);
		answered = 1;
		cr_mark(l->r, M_FLUSHED, 0);
	}
}

static inline struct diskrep_journal journal_of(void)
{
	return (struct diskrep_journal){.vm = "crash", .fd = 0, .bytes = CR_BYTES};
}

static inline void live(struct life *l)
{
	struct diskrep_journal jc = journal_of();
	struct dr_io io = cr_io(l->r);
	struct err err = {0};
	int fd[DISKS];

	for (unsigned i = 0; i < DISKS; i++) {
		FILE *f = tmpfile();

		/* Only its size is looked at. */
		CU_ASSERT_PTR_NOT_NULL_FATAL(f);
		fd[i] = fileno(f);
		CU_ASSERT_EQUAL(ftruncate(fd[i], (off_t)sizes[i]), 0);
		fill(l, l->r->start.bytes[i], sizes[i]);
	}
	l->r->now = l->model = l->r->start;
	memcpy(l->size, first_sizes, sizeof(l->size));
	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create_on(fd, DISKS, 1 << 20, &jc, &io, &l->s, &err), 0);
	l->p = diskrep_standby_part(l->s);
	live_link(l, 0);
	take_over(l);
	l->p.ops->teardown(l->p.self);
	diskrep_standby_destroy(l->s);
}

static inline struct life *new_life(unsigned seed, int loses)
{
	struct life *l = calloc(1, sizeof(*l));

	l->seed = seed;
	l->loses = loses;
	l->r = cr_new(sizes);
	live(l);
	return l;
}

static inline void free_life(struct life *l)
{
	cr_free(l->r);
	free(l);
}

#endif
