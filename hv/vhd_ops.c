/* SPDX-License-Identifier: Apache-2.0
 * vhd_ops - a VHD image as a whole: resized, merged into its parent, given another identity.
 */
#include "hv/vhd_impl.h"
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 1 << 20 };

static int is_zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* 0: all zeroes; 1: not; or -errno. */
static int not_zero(struct img i, uint64_t from, uint64_t to)
{
	uint8_t *buf = malloc(STEP);
	uint64_t n;
	int rc = buf ? 0 : -ENOMEM;

	while (!rc && (from = img_data(i, from)) < to) {
		n = to - from < STEP ? to - from : STEP;
		rc = img_read(i, buf, n, from);
		rc = rc ? rc : !is_zero(buf, n);
		from += n;
	}
	free(buf);
	return rc;
}

static int shrink_fixed(struct vhd *f, uint64_t size)
{
	int rc;

	vhd_footer_resize(&f->footer, size);
	f->end = size;
	rc = vhd_file_put_footer(f);
	rc = rc ? rc : img_resize(f->io, size + VHD_SECTOR);
	return rc ? rc : img_sync(f->io);
}

static int shrink_sparse(struct vhd *f, uint64_t size)
{
	vhd_footer_resize(&f->footer, size);
	return vhd_file_put_footer(f);
}

static int resize(struct vhd_image *v, uint64_t size, int shrink, struct err *err)
{
	struct vhd *f = v->file[0];
	int rc;

	if (size == v->capacity)
		return 0;
	if (size < v->capacity) {
		if (!shrink)
			return err_set(
				err, -EINVAL,
				"%llu bytes are less than the %llu that it has; say "
				"--shrink if that is meant",
				(unsigned long long)size,
				(unsigned long long)v->capacity);
		rc = not_zero(vhd_img(v), size, v->capacity);
		if (rc > 0)
			return err_set(err, -ENOTEMPTY,
				       "what would be cut off is not empty");
		rc = rc ? rc : vhd_erase(v, size, v->capacity - size);
		rc = rc ? rc : vhd_commit(v);
		if (rc)
			return err_sys(err, rc, "emptying the end");
	}
	rc = size > v->capacity	    ? vhd_enlarge(v, size)
	     : f->type != VHD_FIXED ? shrink_sparse(f, size)
				    : shrink_fixed(f, size);
	if (rc == -EFBIG)
		return err_set(err, rc, "its blocks are too small for that size");
	return rc ? err_sys(err, rc, "writing the new size") : 0;
}

int vhd_resize(const struct vhd_part *part, unsigned n, uint64_t size, int shrink,
	       struct err *err)
{
	struct vhd_image *v;
	int rc;

	if (!size || size % VHD_SECTOR || size > VHD_SIZE_MAX)
		return err_set(
			err, -EINVAL,
			"a size of %llu bytes is not in 512 to 2040 GiB, or not in "
			"whole sectors",
			(unsigned long long)size);
	rc = vhd_open(part, n, VHD_WRITE, &v, err);
	if (rc)
		return rc;
	rc = resize(v, size, shrink, err);
	vhd_close(v);
	return rc;
}

/* The footer of a file, changed. */
static int change_footer(struct img io,
			 void (*change)(struct vhd_footer_wire *f, void *arg), void *arg,
			 struct err *err)
{
	struct vhd *f;
	int rc = vhd_file_open(io, -1, 0, NULL, &f, err);

	if (rc)
		return rc;
	rc = vhd_file_writable(f, err);
	if (!rc) {
		change(&f->footer, arg);
		vhd_footer_seal(&f->footer);
		rc = vhd_file_put_footer(f);
		rc = rc ? err_sys(err, rc, "writing the footer") : 0;
	}
	vhd_file_free(f);
	return rc;
}

static void mark(struct vhd_footer_wire *f, void *arg)
{
	struct vhd_mark *m = arg;

	if (be64_get(f->mark) == VHD_MARK_MERGING) {
		m->seconds = (int64_t)be64_get(f->mark_seconds);
		m->nanos = be32_get(f->mark_nanos);
		return;
	}
	f->mark = be64_of(VHD_MARK_MERGING);
	f->mark_seconds = be64_of((uint64_t)m->seconds);
	f->mark_nanos = be32_of(m->nanos);
}

int vhd_set_mark(struct img io, struct vhd_mark *m, struct err *err)
{
	return change_footer(io, mark, m, err);
}

static void take_identity(struct vhd_footer_wire *f, void *arg)
{
	memcpy(f->uuid, arg, sizeof(f->uuid));
}

int vhd_take_over(struct img io, const uint8_t *uuid, struct err *err)
{
	uint8_t id[VHD_UUID_LEN];

	memcpy(id, uuid, sizeof(id));
	return change_footer(io, take_identity, id, err);
}

/* What the leaf has of [off, off + STEP) goes to @to. */
static int merge_step(struct vhd_image *leaf, struct img to, uint64_t *off, uint8_t *buf)
{
	uint64_t len = leaf->capacity - *off;
	struct vhd_seg seg;
	struct vhd *file;
	uint32_t block;
	int rc;

	pthread_mutex_lock(&leaf->lock);
	rc = vhd_map(leaf, 0, *off, len < STEP ? len : STEP, &seg, &file, &block);
	pthread_mutex_unlock(&leaf->lock);
	if (rc == -EAGAIN)
		return vhd_bits_load(leaf, file, block);
	if (!rc && seg.level == 0) {
		rc = img_read(leaf->file[0]->io, buf, seg.len, seg.at);
		if (!rc)
			rc = is_zero(buf, seg.len) ? img_erase(to, *off, seg.len)
						   : img_write(to, buf, seg.len, *off);
	}
	*off += seg.len;
	return rc;
}

/* The parent, to be written, as large as the leaf at least. */
static int open_target(const struct vhd_part *part, unsigned n, uint64_t capacity,
		       struct vhd_image **to, struct err *err)
{
	int rc = vhd_open(part, n, VHD_WRITE, to, err);

	if (rc || (*to)->capacity >= capacity)
		return rc;
	vhd_close(*to);
	*to = NULL;
	rc = vhd_resize(part, n, capacity, 0, err);
	return rc ? rc : vhd_open(part, n, VHD_WRITE, to, err);
}

/* What it has beyond the leaf's end nobody sees any more. */
static int cut_target(const struct vhd_part *part, unsigned n, struct vhd_image *to,
		      uint64_t capacity, struct err *err)
{
	uint64_t more = to->capacity - capacity;
	int rc = more ? vhd_erase(to, capacity, more) : 0;

	rc = rc ? rc : vhd_commit(to);
	if (rc)
		return err_sys(err, rc, "making the parent durable");
	return more ? vhd_resize(part, n, capacity, 1, err) : 0;
}

int vhd_merge(const struct vhd_part *part, unsigned n,
	      void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg,
	      struct err *err)
{
	struct vhd_image *leaf = NULL, *to = NULL;
	uint8_t *buf = malloc(STEP);
	uint64_t off = 0;
	int rc;

	if (!buf || n < 2) {
		free(buf);
		return err_set(err, n < 2 ? -EINVAL : -ENOMEM, "merging: %s",
			       n < 2 ? "it has no parent" : "out of memory");
	}
	rc = vhd_open(part, n, VHD_MERGING | VHD_ANY_PARENT, &leaf, err);
	rc = rc ? rc : open_target(part + 1, n - 1, leaf->capacity, &to, err);
	while (!rc && off < leaf->capacity) {
		rc = merge_step(leaf, vhd_img(to), &off, buf);
		if (rc)
			(void)err_sys(err, rc, "merging at %llu",
				      (unsigned long long)off); /* rc is returned */
		else if (progress)
			progress(arg, off, leaf->capacity);
	}
	rc = rc ? rc : cut_target(part + 1, n - 1, to, leaf->capacity, err);
	vhd_close(to);
	vhd_close(leaf);
	free(buf);
	return rc;
}
