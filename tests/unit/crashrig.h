/* SPDX-License-Identifier: Apache-2.0
 * crashrig - files in memory that remember every write and flush, and what a power cut leaves of
 * them.
 *
 * A write is on the disk for certain once a flush of its file that began after it has ended.
 * Until then any part of it may be there, in units of a sector, in any order. A trace also has marks:
 * what the test knew at that moment.
 */
#ifndef TESTS_UNIT_CRASHRIG_H
#define TESTS_UNIT_CRASHRIG_H

#include "diskrep/io.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	CR_SECTOR = 512,
	CR_FILES = 4, /* three disks and the journal */
	CR_JOURNAL = CR_FILES - 1,
	CR_BYTES = 40 << 10, /* at most, each */
	CR_OPS = 20000,
};

enum cr_kind { CR_WRITE, CR_SYNC_BEGIN, CR_SYNC_END, CR_MARK };

struct cr_op {
	enum cr_kind kind;
	unsigned file;
	uint64_t offset, len;
	uint8_t *bytes;
	unsigned begin; /* SYNC_END: index of its begin */
	int what;	/* MARK */
	uint64_t value;
};

struct cr_disk {
	uint8_t bytes[CR_FILES][CR_BYTES];
};

struct cr_rig {
	pthread_mutex_t lock;
	struct cr_disk start, now;
	uint64_t size[CR_FILES];
	struct cr_op *op;
	unsigned ops;
	int fail_file, fail_after, fail_with; /* -1: no file */
	int fail_syncs;			      /* else writes */
	int fail_once;
	int recording;
};

static inline unsigned cr_file(unsigned file)
{
	return file == DR_IO_JOURNAL ? CR_JOURNAL : file;
}

static inline struct cr_op *cr_add(struct cr_rig *r, enum cr_kind kind, unsigned file)
{
	static struct cr_op dummy;

	if (!r->recording)
		return &dummy;
	if (r->ops == CR_OPS) {
		CU_FAIL("the trace is too long");
		return &dummy;
	}
	r->op[r->ops] = (struct cr_op){.kind = kind, .file = file};
	return &r->op[r->ops++];
}

static inline void cr_mark(struct cr_rig *r, int what, uint64_t value)
{
	struct cr_op *o;

	pthread_mutex_lock(&r->lock);
	o = cr_add(r, CR_MARK, 0);
	o->what = what;
	o->value = value;
	pthread_mutex_unlock(&r->lock);
}

static inline int cr_read(void *self, unsigned file, void *p, size_t len, uint64_t offset)
{
	struct cr_rig *r = self;
	unsigned f = cr_file(file);

	if (offset > r->size[f] || len > r->size[f] - offset)
		return -EIO;
	pthread_mutex_lock(&r->lock);
	memcpy(p, r->now.bytes[f] + offset, len);
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* Under lock. 0, or the error that the test wants here. */
static inline int cr_failing(struct cr_rig *r, unsigned f, int sync)
{
	if (r->fail_file != (int)f || r->fail_syncs != sync)
		return 0;
	if (r->fail_after) {
		r->fail_after--;
		return 0;
	}
	if (r->fail_once)
		r->fail_file = -1;
	return r->fail_with;
}

static inline int cr_change(struct cr_rig *r, unsigned file, const void *p, uint64_t len,
			    uint64_t offset)
{
	unsigned f = cr_file(file);
	struct cr_op *o;
	int rc;

	CU_ASSERT_FATAL(offset <= r->size[f] && len <= r->size[f] - offset);
	pthread_mutex_lock(&r->lock);
	rc = cr_failing(r, f, 0);
	if (!rc) {
		o = cr_add(r, CR_WRITE, f);
		o->offset = offset;
		o->len = len;
		if (r->recording) {
			o->bytes = calloc(1, len);
			if (p)
				memcpy(o->bytes, p, len);
		}
		if (p)
			memcpy(r->now.bytes[f] + offset, p, len);
		else
			memset(r->now.bytes[f] + offset, 0, len);
	}
	pthread_mutex_unlock(&r->lock);
	return rc;
}

static inline int cr_write(void *self, unsigned file, const void *p, size_t len,
			   uint64_t offset)
{
	return cr_change(self, file, p, len, offset);
}

static inline int cr_erase(void *self, unsigned file, uint64_t offset, uint64_t len)
{
	return cr_change(self, file, NULL, len, offset);
}

static inline int cr_sync(void *self, unsigned file)
{
	struct cr_rig *r = self;
	unsigned begin, f = cr_file(file);
	int rc;

	pthread_mutex_lock(&r->lock);
	begin = r->ops;
	(void)cr_add(r, CR_SYNC_BEGIN, f);
	rc = cr_failing(r, f, 1);
	pthread_mutex_unlock(&r->lock);
	if (rc)
		return rc;
	/* So that others write meanwhile, as they do on real disks. */
	if (r->recording && f != CR_JOURNAL)
		(void)nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
	pthread_mutex_lock(&r->lock);
	cr_add(r, CR_SYNC_END, f)->begin = begin;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

static const struct dr_io_ops cr_ops = {
	.read = cr_read, .write = cr_write, .erase = cr_erase, .sync = cr_sync};

static inline struct cr_rig *cr_new(const uint64_t size[CR_FILES])
{
	struct cr_rig *r = calloc(1, sizeof(*r));

	pthread_mutex_init(&r->lock, NULL);
	r->op = calloc(CR_OPS, sizeof(*r->op));
	memcpy(r->size, size, sizeof(r->size));
	r->fail_file = -1;
	r->recording = 1;
	return r;
}

static inline void cr_free(struct cr_rig *r)
{
	for (unsigned i = 0; i < r->ops; i++)
		free(r->op[i].bytes);
	pthread_mutex_destroy(&r->lock);
	free(r->op);
	free(r);
}

static inline struct dr_io cr_io(struct cr_rig *r)
{
	return (struct dr_io){.ops = &cr_ops, .self = r};
}

/* Sectors that may or may not be on the disk at a power cut, in the order in which they were
 * written. */
struct cr_sector {
	const struct cr_op *op;
	uint64_t at; /* in it */
};

struct cr_cut {
	struct cr_disk sure; /* what is there for certain */
	struct cr_sector *maybe;
	unsigned n, cap;
	unsigned journal; /* how many of them are the journal's: they come first */
};

static inline int cr_is_sure(const struct cr_rig *r, unsigned i, unsigned cut,
			     unsigned lying)
{
	for (unsigned k = i + 1; k < cut; k++)
		if (r->op[k].kind == CR_SYNC_END && r->op[k].file == r->op[i].file &&
		    r->op[k].begin > i && !(lying & 1u << r->op[k].file))
			return 1;
	return 0;
}

static inline void cr_put(const struct cr_op *o, uint64_t at, struct cr_disk *d)
{
	uint64_t len = o->len - at < CR_SECTOR ? o->len - at : CR_SECTOR;

	memcpy(d->bytes[o->file] + o->offset + at, o->bytes + at, len);
}

static inline void cr_maybe(struct cr_cut *c, const struct cr_op *o)
{
	for (uint64_t at = 0; at < o->len; at += CR_SECTOR) {
		if (c->n == c->cap) {
			c->cap = c->cap ? 2 * c->cap : 64;
			c->maybe = reallocarray(c->maybe, c->cap, sizeof(*c->maybe));
		}
		c->maybe[c->n++] = (struct cr_sector){.op = o, .at = at};
	}
}

/* The power fails before operation @cut. @lying: a bit for each file whose flushes do nothing. A
 * write that is certain is put over all before it, so an older one that is not cannot come up again. */
static inline void cr_cut_at(const struct cr_rig *r, unsigned cut, unsigned lying,
			     struct cr_cut *c)
{
	c->sure = r->start;
	c->n = 0;
	for (unsigned i = 0; i < cut; i++)
		if (r->op[i].kind == CR_WRITE && cr_is_sure(r, i, cut, lying))
			for (uint64_t at = 0; at < r->op[i].len; at += CR_SECTOR)
				cr_put(&r->op[i], at, &c->sure);
	for (int journal = 1; journal >= 0; journal--) {
		for (unsigned i = 0; i < cut; i++)
			if (r->op[i].kind == CR_WRITE &&
			    (r->op[i].file == CR_JOURNAL) == journal &&
			    !cr_is_sure(r, i, cut, lying))
				cr_maybe(c, &r->op[i]);
		if (journal)
			c->journal = c->n;
	}
}

#endif
