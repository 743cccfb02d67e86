/* SPDX-License-Identifier: Apache-2.0
 * resyncrig - two hosts whose images and activity logs outlive their processes.
 */
#ifndef TESTS_UNIT_RESYNCRIG_H
#define TESTS_UNIT_RESYNCRIG_H

#include "tests/unit/diskrig.h"

#include <sched.h>
#include <sys/mman.h>

enum { LIMIT = 4 << 20, JOURNAL = 1 << 20, CAP = 400 * DR_CHUNK + 512 * 5 };

static const uint64_t chunks = CAP / DR_CHUNK + 1;

/* One host of a pair: its image and activity log outlive its process. */
struct host {
	int image, meta;
};

static inline uint64_t size_of_file(int fd)
{
	struct stat st;

	CU_ASSERT_EQUAL_FATAL(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

/* A process on each of two hosts: @p runs the guest. */
static inline struct rig *process(struct host *p, struct host *s)
{
	static const struct epoch_trigger none;
	struct rig *r = calloc(1, sizeof(*r));
	struct err err = {0};

	r->sink.put = rig_put;
	r->pfd = p->image;
	r->sfd = s->image;
	r->img = (struct rig_image){
		.fd = r->pfd, .cap = size_of_file(p->image), .inline_done = 1};
	CU_ASSERT_EQUAL_FATAL(loop_create(&r->loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(diskrep_create(LIMIT, r->loop, none, &r->dr, &err), 0);
	CU_ASSERT_EQUAL_FATAL(diskrep_add(r->dr, (struct blk){&rig_image_ops, &r->img},
					  r->pfd, &r->disk, &err),
			      0);
	CU_ASSERT_EQUAL_FATAL(diskrep_activity(r->dr, p->meta, NULL, NULL, &err), 0);
	CU_ASSERT_EQUAL_FATAL(diskrep_run(r->dr, &err), 0);
	r->p = diskrep_part(r->dr);
	return r;
}

/* @journal: a descriptor; -1: none. */
static inline void be_standby_on(struct rig *r, struct diskrep *own, int journal)
{
	const struct diskrep_journal jc = {.vm = "rig", .fd = journal, .bytes = JOURNAL};
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create(&r->sfd, 1, LIMIT, &jc, &r->sb, &err), 0);
	r->s = diskrep_standby_part(r->sb);
	if (own)
		diskrep_meet(own, r->sb);
}

static inline void be_standby(struct rig *r, struct diskrep *own)
{
	be_standby_on(r, own, -1);
}

/* The standby's own diskrep, as each process has one. */
static inline struct rig *standby_process(struct host *s, struct host *p)
{
	return process(s, p);
}

static inline void end_process(struct rig *r)
{
	r->p.ops->teardown(r->p.self);
	r->disk.ops->close(r->disk.self);
	diskrep_destroy(r->dr);
	loop_destroy(r->loop);
	rig_forget_records(r);
	free(r);
}

static inline void end_standby(struct rig *r)
{
	r->s.ops->teardown(r->s.self);
	diskrep_standby_destroy(r->sb);
	r->sb = NULL;
}

/* Until all that was submitted is done: the activity log is written by its thread. */
static inline void await_done(struct rig *r, unsigned done)
{
	while (r->done < done)
		rig_turn(r);
}

static unsigned submitted;

static inline void write_at(struct rig *r, uint64_t offset, uint32_t len, uint8_t fill)
{
	rig_submit(r, BLK_WRITE, offset, len, fill);
	await_done(r, ++submitted);
}

static inline void guest_starts(struct rig *r)
{
	submitted = 0;
	diskrep_start(r->dr);
}

/* In memory: how long a disk takes to flush is nothing that is tested here. */
static inline struct host host_new(void)
{
	struct host h = {.image = memfd_create("image", MFD_CLOEXEC),
			 .meta = memfd_create("meta", MFD_CLOEXEC)};

	CU_ASSERT_TRUE_FATAL(h.image >= 0 && h.meta >= 0);
	CU_ASSERT_EQUAL(ftruncate(h.image, CAP), 0);
	return h;
}

struct pair {
	struct host a, b;
};

static inline struct pair pair_new(void)
{
	struct pair p = {.a = host_new(), .b = host_new()};
	unsigned seed = 1;

	/* Something everywhere, so that what is read can be counted. */
	for (uint64_t at = 0; at + 512 <= CAP; at += 4096) {
		uint8_t some[512];

		memset(some, rand_r(&seed) | 1, sizeof(some));
		CU_ASSERT_EQUAL(pwrite(p.a.image, some, sizeof(some), (off_t)at),
				sizeof(some));
		CU_ASSERT_EQUAL(pwrite(p.b.image, some, sizeof(some), (off_t)at),
				sizeof(some));
	}
	return p;
}

static inline void pair_free(struct pair *p)
{
	close(p->a.image);
	close(p->a.meta);
	close(p->b.image);
	close(p->b.meta);
}

static inline void epoch(struct rig *r, uint64_t n)
{
	uint8_t *model = rig_snapshot(r);

	rig_capture(r, n);
	rig_ship(r, n);
	rig_report(r);
	rig_apply(r, n);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	free(model);
}

/* Sync and protect; how many chunks were compared and sent? */
static inline void protect(struct rig *r, uint64_t *looked_out, uint64_t *sent_out)
{
	struct diskrep_stats before, after;

	diskrep_stats(r->dr, &before);
	rig_sync(r, 1);
	diskrep_stats(r->dr, &after);
	*looked_out = r->dr->compare.looked;
	*sent_out = after.chunks_sent - before.chunks_sent;
	epoch(r, 0);
}

static inline void lose_link(struct rig *r)
{
	r->p.ops->unlinked(r->p.self);
	r->s.ops->drop(r->s.self);
}

/* The log says what it has to: written, whatever the thread was at. */
static inline void await_claim(struct diskrep *dr, enum act_role role)
{
	enum act_role now;

	do {
		pthread_mutex_lock(&dr->lock);
		now = dr->activity.act.told.role;
		pthread_mutex_unlock(&dr->lock);
		sched_yield();
	} while (now != role);
}

#endif
