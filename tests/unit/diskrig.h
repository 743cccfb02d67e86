/* SPDX-License-Identifier: Apache-2.0
 * diskrig - both sides of disk replication on temporary files, joined without an engine, over a
 * backend that completes when the test says so.
 */
#ifndef TESTS_UNIT_DISKRIG_H
#define TESTS_UNIT_DISKRIG_H

#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "remus/participant.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RIG_CAP = 20 * DR_CHUNK + 512 * 3, RIG_PENDING = 64, RIG_RECORDS = 4096 };

/* What the filter gave to the image and is not done yet, in the order given. */
struct rig_image {
	int fd;
	uint64_t cap;
	struct blk_req *req[RIG_PENDING];
	int n;
	int inline_done; /* complete inside submit */
	unsigned flushes, reads, closed;
};

struct rig_record {
	uint16_t type;
	uint64_t epoch;
	size_t len;
	uint8_t *p;
};

struct rig {
	struct rec_sink sink; /* first */
	char dir[64];
	int pfd, sfd;
	struct loop *loop;
	struct diskrep *dr;
	struct diskrep_standby *sb;
	struct part p;
	struct standby_part s;
	struct blk disk;
	struct rig_image img;
	struct rig_record rec[RIG_RECORDS]; /* sent, not yet received */
	unsigned records;
	unsigned done, failed; /* guest requests */
	unsigned asked;
	char why[64];
	void (*on_put)(struct rig *r); /* what happens while a record is sent */
};

static inline void image_apply(struct rig_image *img, const struct blk_req *r)
{
	static const uint8_t zeroes[256 << 10];

	CU_ASSERT_EQUAL(pwrite(img->fd, r->op == BLK_WRITE ? r->data->bytes : zeroes,
			       r->len, (off_t)r->offset),
			(ssize_t)r->len);
}

/* Carry out the @i-th pending request. */
static inline void image_complete(struct rig_image *img, int i)
{
	struct blk_req *r = img->req[i];

	memmove(&img->req[i], &img->req[i + 1], (size_t)(--img->n - i) * sizeof(r));
	image_apply(img, r);
	r->done(r, 0);
}

/* It fails, and nothing of it is written. */
static inline void image_fail(struct rig_image *img, int i, int status)
{
	struct blk_req *r = img->req[i];

	memmove(&img->req[i], &img->req[i + 1], (size_t)(--img->n - i) * sizeof(r));
	r->done(r, status);
}

static inline void image_submit(void *self, struct blk_req *r)
{
	struct rig_image *img = self;

	img->flushes += r->op == BLK_FLUSH;
	img->reads += r->op == BLK_READ;
	if (r->op == BLK_FLUSH || r->op == BLK_READ) {
		r->done(r, 0);
		return;
	}
	if (img->n == RIG_PENDING) {
		CU_FAIL("too many requests");
		return;
	}
	img->req[img->n++] = r;
	if (img->inline_done)
		image_complete(img, img->n - 1);
}

static inline uint64_t image_capacity(void *self)
{
	return ((struct rig_image *)self)->cap;
}

static inline void image_close(void *self)
{
	((struct rig_image *)self)->closed++;
}

static const struct blk_ops rig_image_ops = {.name = "rig",
					     .submit = image_submit,
					     .capacity = image_capacity,
					     .close = image_close};

static inline int rig_put(struct rec_sink *s, uint16_t type, uint64_t epoch,
			  const struct iovec *iov, int n)
{
	struct rig *r = (struct rig *)s;
	struct rig_record *k = &r->rec[r->records];
	size_t at = 0;

	if (r->records == RIG_RECORDS)
		return -ENOSPC;
	*k = (struct rig_record){.type = type, .epoch = epoch};
	for (int i = 0; i < n; i++)
		k->len += iov[i].iov_len;
	k->p = malloc(k->len + 1);
	for (int i = 0; i < n; i++) {
		if (iov[i].iov_len)
			memcpy(k->p + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	r->records++;
	if (r->on_put)
		r->on_put(r);
	return 0;
}

static inline void rig_forget_records(struct rig *r)
{
	while (r->records)
		free(r->rec[--r->records].p);
}

/* Let the standby have all that was sent, where it has a place for it. */
static inline int rig_receive(struct rig *r, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; i < r->records && !rc; i++) {
		const void *p = r->rec[i].p;
		void *room = NULL;

		if (r->rec[i].len)
			room = r->s.ops->room(r->s.self, r->rec[i].type, r->rec[i].epoch,
					      r->rec[i].len);
		if (room)
			p = memcpy(room, p, r->rec[i].len);
		rc = r->s.ops->record(r->s.self, r->rec[i].type, r->rec[i].epoch, p,
				      r->rec[i].len, err);
	}
	rig_forget_records(r);
	return rc;
}

/* The primary's greeting to the standby, and the standby's hello to the primary. */
static inline int rig_hello(struct rig *r, struct err *err)
{
	int rc = r->p.ops->greet(r->p.self, &r->sink, err);

	rc = rc ? rc : rig_receive(r, err);
	rc = rc ? rc : r->s.ops->hello(r->s.self, &r->sink, err);
	for (unsigned i = 0; i < r->records && !rc; i++)
		rc = r->p.ops->peer_record(r->p.self, r->rec[i].type, r->rec[i].p,
					   r->rec[i].len, err);
	rig_forget_records(r);
	return rc;
}

static inline void rig_ask(void *arg, const char *why)
{
	struct rig *r = arg;

	r->asked++;
	(void)snprintf(r->why, sizeof(r->why), "%s", why);
}

static inline int rig_file(struct rig *r, const char *name, uint64_t bytes)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	CU_ASSERT_TRUE_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(ftruncate(fd, (off_t)bytes), 0);
	CU_ASSERT_EQUAL(unlink(path), 0);
	return fd;
}

static inline struct rig *rig_new(size_t limit, uint64_t p_cap, uint64_t s_cap)
{
	static const struct diskrep_journal no_journal = {.fd = -1};
	struct rig *r = calloc(1, sizeof(*r));
	struct err err = {0};

	r->sink.put = rig_put;
	(void)snprintf(r->dir, sizeof(r->dir), "/tmp/rhea-disk-XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(r->dir));
	r->pfd = rig_file(r, "primary", p_cap);
	r->sfd = rig_file(r, "standby", s_cap);
	CU_ASSERT_EQUAL(rmdir(r->dir), 0);
	r->img = (struct rig_image){.fd = r->pfd, .cap = p_cap};
	CU_ASSERT_EQUAL_FATAL(loop_create(&r->loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(diskrep_create(limit, r->loop,
					     (struct epoch_trigger){rig_ask, r}, &r->dr,
					     &err),
			      0);
	CU_ASSERT_EQUAL_FATAL(diskrep_add(r->dr, (struct blk){&rig_image_ops, &r->img},
					  r->pfd, &r->disk, &err),
			      0);
	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create(&r->sfd, 1, limit, &no_journal, &r->sb, &err), 0);
	r->p = diskrep_part(r->dr);
	r->s = diskrep_standby_part(r->sb);
	return r;
}

static inline void rig_free(struct rig *r)
{
	while (r->img.n)
		image_complete(&r->img, 0);
	r->p.ops->teardown(r->p.self);
	r->s.ops->teardown(r->s.self);
	r->disk.ops->close(r->disk.self);
	CU_ASSERT_EQUAL(r->img.closed, 1);
	diskrep_destroy(r->dr);
	diskrep_standby_destroy(r->sb);
	loop_destroy(r->loop);
	rig_forget_records(r);
	close(r->pfd);
	close(r->sfd);
	free(r);
}

/* A guest's request, gone when it is done. */
struct rig_req {
	struct blk_req r; /* first */
	struct rig *rig;
};

static inline void rig_done(struct blk_req *req, int status)
{
	struct rig_req *q = (struct rig_req *)req;

	q->rig->done++;
	q->rig->failed += status != 0;
	blk_data_put(req->data);
	free(q);
}

static inline void rig_submit(struct rig *r, enum blk_op op, uint64_t offset,
			      uint32_t len, uint8_t fill)
{
	struct rig_req *q = calloc(1, sizeof(*q));

	q->rig = r;
	q->r = (struct blk_req){.op = op, .offset = offset, .len = len, .done = rig_done};
	if (op == BLK_WRITE || op == BLK_READ) {
		q->r.data = blk_data_new(len);
		for (uint32_t i = 0; i < len; i++)
			q->r.data->bytes[i] = (uint8_t)(fill + i / 512 * 31);
	}
	r->disk.ops->submit(r->disk.self, &q->r);
}

/* A write of what no compression shortens. */
static inline void rig_submit_noise(struct rig *r, uint64_t offset, uint32_t len,
				    unsigned *seed)
{
	struct rig_req *q = calloc(1, sizeof(*q));

	q->rig = r;
	q->r = (struct blk_req){
		.op = BLK_WRITE, .offset = offset, .len = len, .done = rig_done};
	q->r.data = blk_data_new(len);
	for (uint32_t i = 0; i < len; i++)
		q->r.data->bytes[i] = (uint8_t)(rand_r(seed) >> 3);
	r->disk.ops->submit(r->disk.self, &q->r);
}

/* A random request, on whole sectors: mostly small writes, in few places so that they meet. */
static inline void rig_random(struct rig *r, unsigned *seed)
{
	enum blk_op op = BLK_WRITE;
	uint32_t len = 512u * (1 + (uint32_t)rand_r(seed) % 24);
	uint64_t offset;

	if (rand_r(seed) % 10 == 0)
		len = 512u * (1 + (uint32_t)rand_r(seed) % 300);
	if (rand_r(seed) % 8 == 0)
		op = rand_r(seed) & 1 ? BLK_DISCARD : BLK_ZEROES;
	offset = 512ull * ((uint64_t)rand_r(seed) % (r->img.cap / 512 - len / 512 + 1));
	if (rand_r(seed) & 1)
		offset %= 4 * DR_CHUNK;
	rig_submit(r, op, offset, len, (uint8_t)rand_r(seed));
}

/* The disk as the guest may find it if all that was given to the image is carried out. Owned. */
static inline uint8_t *rig_snapshot(const struct rig *r)
{
	uint8_t *p = malloc(r->img.cap);

	CU_ASSERT_EQUAL(pread(r->pfd, p, r->img.cap, 0), (ssize_t)r->img.cap);
	for (int i = 0; i < r->img.n; i++) {
		const struct blk_req *q = r->img.req[i];

		if (q->op == BLK_WRITE)
			memcpy(p + q->offset, q->data->bytes, q->len);
		else
			memset(p + q->offset, 0, q->len);
	}
	return p;
}

static inline int rig_standby_is(const struct rig *r, const uint8_t *snapshot)
{
	uint8_t *p = malloc(r->img.cap);
	int same;

	CU_ASSERT_EQUAL(pread(r->sfd, p, r->img.cap, 0), (ssize_t)r->img.cap);
	same = !memcmp(p, snapshot, r->img.cap);
	free(p);
	return same;
}

static inline void rig_capture(struct rig *r, uint64_t epoch)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->p.ops->capture(r->p.self, epoch, &err), 0);
}

/* Send it, let the standby have it and check it: acked. */
static inline void rig_ship(struct rig *r, uint64_t epoch)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->p.ops->send(r->p.self, epoch, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, epoch, &err), 0);
}

/* What the standby reports before its next ack. */
static inline void rig_report(struct rig *r)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->s.ops->report(r->s.self, &r->sink), 0);
	for (unsigned i = 0; i < r->records; i++)
		CU_ASSERT_EQUAL(r->p.ops->peer_record(r->p.self, r->rec[i].type,
						      r->rec[i].p, r->rec[i].len, &err),
				0);
	rig_forget_records(r);
}

static inline void rig_apply(struct rig *r, uint64_t epoch)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, epoch, &err), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&r->sb->applier), 0);
	r->p.ops->committed(r->p.self, epoch);
}

/* Activated: until all that was acked is in the standby's image. */
static inline void rig_settle(struct rig *r)
{
	while (drs_applier_settled(&r->sb->applier) == -EAGAIN)
		sched_yield();
}

static inline void rig_sync(struct rig *r, unsigned rounds)
{
	struct err err = {0};
	uint64_t left;

	CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
	for (unsigned i = 0; i < rounds; i++) {
		CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err),
				0);
		CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	}
}

/* One turn of the I/O loop, which must have something to do. */
static inline void rig_turn(struct rig *r)
{
	CU_ASSERT_EQUAL(event_base_loop(loop_base(r->loop), EVLOOP_ONCE), 0);
}

#endif
