/* SPDX-License-Identifier: Apache-2.0
 * vhdcuts - a recorder below an image, and the files that a power cut can leave of what it saw.
 *
 * It keeps each write, erasure, change of size and flush. A cut is a position in that record: all before the
 * last flush is on the disk, and of what came after it any subset. Where there are few, all
 * subsets are tried, else those in which one, or all but one, or a random choice is there.
 */
#ifndef TESTS_UNIT_VHDCUTS_H
#define TESTS_UNIT_VHDCUTS_H

#include "tests/unit/vhdrig.h"

enum {
	STEPS_MAX = 4096,
	FILE_MAX = 4 << 20,
	ALL_SUBSETS = 6, /* unflushed steps of which all subsets are tried */
	RANDOM_SUBSETS = 12,
};

enum step_kind {
	STEP_WRITE,
	STEP_ERASE,
	STEP_RESIZE,
	STEP_SYNC,
	STEP_PROMISE,
	STEP_SECTORS,
	STEP_GROWN, /* to @len: begun, or done if @at is not 0 */
};

struct step {
	enum step_kind kind;
	uint64_t at, len;
	uint8_t *bytes; /* WRITE; PROMISE: the whole disk */
};

/* A file in memory, and all that was done to it. */
struct disk {
	uint8_t *bytes;
	uint64_t size;
	struct step *rec; /* NULL: not recorded */
	unsigned n;
};

static inline void note(struct disk *d, enum step_kind kind, const void *p, uint64_t len,
			uint64_t at)
{
	struct step *s;

	if (!d->rec)
		return;
	CU_ASSERT_FATAL(d->n < STEPS_MAX);
	s = &d->rec[d->n++];
	*s = (struct step){.kind = kind, .at = at, .len = len};
	if (!p)
		return;
	s->bytes = malloc(len);
	CU_ASSERT_PTR_NOT_NULL_FATAL(s->bytes);
	memcpy(s->bytes, p, len);
}

static inline void grow_to(struct disk *d, uint64_t size)
{
	CU_ASSERT_FATAL(size <= FILE_MAX);
	d->size = d->size > size ? d->size : size;
}

static inline int disk_read(void *self, void *p, uint64_t len, uint64_t at)
{
	struct disk *d = self;

	if (at > d->size || len > d->size - at)
		return -EIO;
	memcpy(p, d->bytes + at, len);
	return 0;
}

static inline int disk_write(void *self, const void *p, uint64_t len, uint64_t at)
{
	struct disk *d = self;

	note(d, STEP_WRITE, p, len, at);
	grow_to(d, at + len);
	memcpy(d->bytes + at, p, len);
	return 0;
}

static inline int disk_erase(void *self, uint64_t at, uint64_t len)
{
	struct disk *d = self;

	note(d, STEP_ERASE, NULL, len, at);
	if (at < d->size)
		memset(d->bytes + at, 0, len < d->size - at ? len : d->size - at);
	return 0;
}

static inline uint64_t disk_data(void *self, uint64_t at)
{
	return at < ((struct disk *)self)->size ? at : UINT64_MAX;
}

static inline uint64_t disk_hole(void *self, uint64_t at)
{
	return UINT64_MAX;
}

static inline int disk_sync(void *self)
{
	note(self, STEP_SYNC, NULL, 0, 0);
	return 0;
}

static inline int disk_size(void *self, uint64_t *bytes_out)
{
	*bytes_out = ((struct disk *)self)->size;
	return 0;
}

static inline int disk_resize(void *self, uint64_t bytes)
{
	struct disk *d = self;

	note(d, STEP_RESIZE, NULL, bytes, 0);
	if (bytes < d->size)
		memset(d->bytes + bytes, 0, d->size - bytes);
	d->size = bytes;
	return 0;
}

static const struct img_ops disk_ops = {
	.name = "recorder",
	.read = disk_read,
	.write = disk_write,
	.erase = disk_erase,
	.data = disk_data,
	.hole = disk_hole,
	.sync = disk_sync,
	.size = disk_size,
	.resize = disk_resize,
};

static inline struct disk disk_new(int recorded)
{
	struct disk d = {.bytes = calloc(1, FILE_MAX)};

	if (recorded)
		d.rec = calloc(STEPS_MAX, sizeof(*d.rec));
	CU_ASSERT_FATAL(d.bytes && (!recorded || d.rec));
	return d;
}

static inline void disk_free(struct disk *d)
{
	for (unsigned i = 0; i < d->n; i++)
		free(d->rec[i].bytes);
	free(d->rec);
	free(d->bytes);
}

static inline void disk_copy(struct disk *to, const struct disk *from)
{
	if (to->size > from->size)
		memset(to->bytes + from->size, 0, to->size - from->size);
	memcpy(to->bytes, from->bytes, from->size);
	to->size = from->size;
}

static inline void replay(struct disk *d, const struct step *s)
{
	if (s->kind == STEP_WRITE)
		(void)disk_write(d, s->bytes, s->len, s->at); /* in memory */
	else if (s->kind == STEP_ERASE)
		(void)disk_erase(d, s->at, s->len);
	else if (s->kind == STEP_RESIZE)
		(void)disk_resize(d, s->len);
}

static inline struct img img_of(struct disk *d)
{
	return (struct img){&disk_ops, d};
}

/* Is the file, as a power cut left it, as it should be? */
typedef int cut_check(struct disk *d, void *arg);

/* The state with the steps of [from, to) that are in @mask. */
static inline int try_subset(const struct disk *d, const struct disk *base,
			     struct disk *room, unsigned from, unsigned to, uint64_t mask,
			     cut_check *check, void *arg)
{
	unsigned bit = 0;

	disk_copy(room, base);
	for (unsigned i = from; i < to; i++)
		if (d->rec[i].kind <= STEP_RESIZE && mask >> (bit++ % 64) & 1)
			replay(room, &d->rec[i]);
	return check(room, arg);
}

static inline unsigned count_writes(const struct disk *d, unsigned from, unsigned to)
{
	unsigned n = 0;

	for (unsigned i = from; i < to; i++)
		n += d->rec[i].kind <= STEP_RESIZE;
	return n;
}

static inline int try_cut(const struct disk *d, const struct disk *base,
			  struct disk *room, unsigned from, unsigned to, cut_check *check,
			  void *arg)
{
	unsigned n = count_writes(d, from, to);
	int ok = 1;

	if (n <= ALL_SUBSETS) {
		for (uint64_t m = 0; ok && m < 1u << n; m++)
			ok = try_subset(d, base, room, from, to, m, check, arg);
		return ok;
	}
	for (unsigned i = 0; ok && i < n && i < 64; i++)
		ok = try_subset(d, base, room, from, to, UINT64_C(1) << i, check, arg) &&
		     try_subset(d, base, room, from, to, ~(UINT64_C(1) << i), check, arg);
	for (unsigned i = 0; ok && i < RANDOM_SUBSETS; i++)
		ok = try_subset(d, base, room, from, to,
				(uint64_t)rig_random() << 32 | rig_random(), check, arg);
	return ok && try_subset(d, base, room, from, to, UINT64_MAX, check, arg);
}

#endif
