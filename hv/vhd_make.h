/* SPDX-License-Identifier: Apache-2.0
 * vhd_make - new VHD images, and changes to the whole of one: size, parent, merging, repair.
 *
 * All on given files: nothing is opened here, so that a process that cannot open files may do it,
 * too. Blocking; one thread a file. Each step of each of them can be the last one before a power cut:
 * VHD.md tells what is found afterwards.
 */
#ifndef HV_VHD_MAKE_H
#define HV_VHD_MAKE_H

#include "hv/vhd.h"

struct vhd_create {
	enum vhd_type type;
	uint64_t size;	     /* bytes, whole sectors */
	uint32_t block_size; /* 0: 2 MiB */
	int64_t now;	     /* Unix time */
	/* VHD_DIFF: */
	const uint8_t *parent_uuid;
	int64_t parent_mtime; /* Unix time */
	const char *parent_path, *parent_relative;
};

/* Into @io, an empty file. Durable when it returns 0. */
int vhd_create(struct img io, const struct vhd_create *c, struct err *err);

/* What is found in one file. */
struct vhd_report {
	uint64_t bad_front, bad_end; /* footers: 0 or 1 */
	uint64_t beyond;	     /* blocks that reach beyond the end of the file */
	uint64_t overlaps;	     /* blocks over each other or over metadata */
	uint64_t allocated;	     /* blocks */
	uint64_t holes;		     /* bytes between blocks that will be used again */
	uint64_t tail;		     /* bytes behind the last block that belong to none */
	int merging;
};
static inline int vhd_report_clean(const struct vhd_report *r)
{
	return !r->bad_front && !r->bad_end && !r->beyond && !r->overlaps;
}

/* 0 with the report, whatever it says; or an error: it is no VHD image, or cannot be read. */
int vhd_check(struct img io, struct vhd_report *out, struct err *err);
/* Mend what can be mended without guessing: footers, leaks behind the end, blocks beyond the end (they
 * become unallocated: their data is not in the file). @out: what was found. -EUCLEAN: overlapping
 * blocks are left; they say of one place that it is two. */
int vhd_repair(struct img io, struct vhd_report *out, struct err *err);

/* Grow, or with @shrink make it smaller if what is cut off reads as zeroes (-ENOTEMPTY). @part: the
 * chain, writable. @now: Unix time. */
int vhd_resize(const struct vhd_part *part, unsigned n, uint64_t size, int shrink,
	       struct err *err);

/* Tell a differencing image that its parent is @c's from now on. */
int vhd_set_parent(struct img io, const struct vhd_create *c, struct err *err);

/* Merge the leaf part[0] into part[1], which is written. Mark the leaf first (vhd_mark), and make the
 * other bear its name and identity afterwards (vhd_take_over): until then it may be broken off at
 * any moment and begun again. @progress may be NULL. */
struct vhd_mark {
	int64_t seconds; /* when the leaf was last changed before it was marked */
	uint32_t nanos;
};
/* If it is marked already, *mark becomes what it was marked with. */
int vhd_set_mark(struct img io, struct vhd_mark *mark, struct err *err);
int vhd_merge(const struct vhd_part *part, unsigned n,
	      void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg,
	      struct err *err);
/* @io becomes the image @uuid. */
int vhd_take_over(struct img io, const uint8_t *uuid, struct err *err);

/* All of @from to @to, of the same size and reading as zeroes before; holes stay holes. */
int img_copy(struct img from, struct img to, uint64_t bytes,
	     void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg,
	     struct err *err);
/* Do the two hold the same bytes? 0: yes; 1: no, *at_out says where; or -errno. */
int img_compare(struct img a, struct img b, uint64_t bytes, uint64_t *at_out);

#endif
