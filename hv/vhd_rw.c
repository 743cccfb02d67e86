/* SPDX-License-Identifier: Apache-2.0
 * vhd_rw - the virtual disk for threads that may wait.
 */
#include "hv/vhd_impl.h"

#include <errno.h>
#include <string.h>

/* Where @off lies, reading bitmaps as needed; I/O that is to follow is counted, until vhd_io_end(). */
int vhd_map_wait(struct vhd_image *v, unsigned from, uint64_t off, uint64_t len,
		 struct vhd_seg *seg, unsigned *parity)
{
	struct vhd *file = NULL;
	uint32_t block = 0;
	int rc;

	do {
		pthread_mutex_lock(&v->lock);
		rc = vhd_map(v, from, off, len, seg, &file, &block);
		if (!rc && seg->file)
			*parity = vhd_busy_begin(v);
		pthread_mutex_unlock(&v->lock);
		if (rc == -EAGAIN)
			rc = vhd_bits_load(v, file, block) ?: -EAGAIN;
	} while (rc == -EAGAIN);
	return rc;
}

void vhd_io_end(struct vhd_image *v, const struct vhd_seg *seg, unsigned parity)
{
	if (!seg->file)
		return;
	pthread_mutex_lock(&v->lock);
	vhd_busy_end(v, parity);
	pthread_mutex_unlock(&v->lock);
}

static int outside(const struct vhd_image *v, uint64_t len, uint64_t off)
{
	return off % VHD_SECTOR || len % VHD_SECTOR || off > v->capacity ||
	       len > v->capacity - off;
}

static int image_read(void *self, void *p, uint64_t len, uint64_t off)
{
	struct vhd_image *v = self;
	uint8_t *to = p;
	struct vhd_seg seg;
	unsigned parity = 0;
	int rc = outside(v, len, off) ? -EINVAL : 0;

	while (!rc && len) {
		rc = vhd_map_wait(v, 0, off, len, &seg, &parity);
		if (rc)
			break;
		if (!seg.file)
			memset(to, 0, seg.len);
		else
			rc = img_read(seg.file->io, to, seg.len, seg.at);
		vhd_io_end(v, &seg, parity);
		to += seg.len;
		off += seg.len;
		len -= seg.len;
	}
	return rc;
}

/* One stretch inside a block: @p, or zeroes if it is NULL. -EAGAIN: the block is not prepared. */
static int write_stretch(struct vhd_image *v, const void *p, uint64_t len, uint64_t off,
			 int pulled)
{
	struct vhd *f = v->file[0];
	uint32_t block = (uint32_t)(off / f->header.block_size), entry;
	uint64_t at;
	unsigned parity;
	int rc;

	pthread_mutex_lock(&v->lock);
	if (!pulled && !vhd_prepared(v, off, len)) {
		pthread_mutex_unlock(&v->lock);
		return -EAGAIN;
	}
	parity = vhd_busy_begin(v);
	entry = f->bat[block];
	pthread_mutex_unlock(&v->lock);
	at = (uint64_t)entry * VHD_SECTOR + f->bitmap_bytes + off % f->header.block_size;
	rc = p ? img_write(f->io, p, len, at) : img_erase(f->io, at, len);
	pthread_mutex_lock(&v->lock);
	/* Given up meanwhile: then what was written is gone with it, as if it had come before. */
	if (!rc && f->bat[block] == entry)
		vhd_bits_set(f, block, off, len);
	vhd_busy_end(v, parity);
	pthread_mutex_unlock(&v->lock);
	return rc;
}

static uint64_t stretch_of(const struct vhd *f, uint64_t off, uint64_t len)
{
	uint64_t left = f->header.block_size - off % f->header.block_size;

	return len < left ? len : left;
}

int vhd_write_sparse(struct vhd_image *v, const void *bytes, uint64_t len, uint64_t off,
		     int pulled)
{
	const uint8_t *p = bytes;
	int rc = 0;

	while (!rc && len) {
		uint64_t n = stretch_of(v->file[0], off, len);

		do {
			rc = pulled ? vhd_prepare_pulled(v, off, n)
				    : vhd_prepare(v, off, n, 0);
			rc = rc ? rc : write_stretch(v, p, n, off, pulled);
		} while (rc == -EAGAIN);
		p += n;
		off += n;
		len -= n;
	}
	return rc;
}

static int image_write(void *self, const void *p, uint64_t len, uint64_t off)
{
	struct vhd_image *v = self;
	struct vhd *f = v->file[0];

	if (outside(v, len, off))
		return -EINVAL;
	if (!v->write)
		return -EROFS;
	return f->type == VHD_FIXED ? img_write(f->io, p, len, off)
				    : vhd_write_sparse(v, p, len, off, 0);
}

/* Does the disk read as zeroes there, without what the leaf holds? */
static int zero_below(struct vhd_image *v, uint64_t off, uint64_t len, int *zero)
{
	struct vhd_seg seg;
	unsigned parity = 0;
	int rc = 0;

	*zero = 1;
	while (!rc && *zero && len) {
		rc = vhd_map_wait(v, 1, off, len, &seg, &parity);
		if (rc)
			break;
		*zero = !seg.file;
		vhd_io_end(v, &seg, parity);
		off += seg.len;
		len -= seg.len;
	}
	return rc;
}

/* All of an allocated block in an image without parents: its room is given up. 1: it was. */
static int give_up_whole(struct vhd_image *v, uint64_t off, uint64_t len)
{
	struct vhd *f = v->file[0];
	uint32_t block = (uint32_t)(off / f->header.block_size);
	int whole = off % f->header.block_size == 0 &&
		    (len == f->header.block_size || off + len == v->capacity);
	int r = 0;

	if (f->type != VHD_DYNAMIC || f->has_batmap || !whole)
		return 0;
	pthread_mutex_lock(&v->lock);
	while (v->growing)
		pthread_cond_wait(&v->cond, &v->lock);
	if (f->bat[block] != VHD_UNUSED)
		r = !vhd_give_up(f, block);
	pthread_mutex_unlock(&v->lock);
	return r;
}

static int erase_stretch(struct vhd_image *v, uint64_t off, uint64_t len)
{
	struct vhd *f = v->file[0];
	const uint32_t size = f->header.block_size, block = (uint32_t)(off / size);
	int whole = off % size == 0 && (len == size || off + len == v->capacity);
	int unused, zero = 1, rc = 0;

	if (give_up_whole(v, off, len))
		return 0;
	do {
		pthread_mutex_lock(&v->lock);
		unused = f->bat[block] == VHD_UNUSED;
		pthread_mutex_unlock(&v->lock);
		if (unused)
			rc = zero_below(v, off, len, &zero);
		if (rc || (unused && zero))
			return rc;
		/* A new block that hides all of the parent's needs no more than its bitmap. */
		rc = vhd_prepare(v, off, len, whole);
		rc = rc ? rc : write_stretch(v, NULL, len, off, 0);
	} while (rc == -EAGAIN);
	return rc;
}

int vhd_erase(struct vhd_image *v, uint64_t off, uint64_t len)
{
	struct vhd *f = v->file[0];
	int rc = 0;

	if (outside(v, len, off))
		return -EINVAL;
	if (!v->write)
		return -EROFS;
	if (f->type == VHD_FIXED)
		return len ? img_erase(f->io, off, len) : 0;
	while (!rc && len) {
		uint64_t n = stretch_of(f, off, len);

		rc = erase_stretch(v, off, n);
		off += n;
		len -= n;
	}
	return rc;
}

static int image_erase(void *self, uint64_t off, uint64_t len)
{
	return vhd_erase(self, off, len);
}

/* A hole in a block of a file is as good as no block. */
static uint64_t image_data(void *self, uint64_t off)
{
	struct vhd_image *v = self;
	struct vhd_seg seg;
	unsigned parity = 0;
	uint64_t at;

	while (off < v->capacity) {
		/* What cannot be read may hold anything. */
		if (vhd_map_wait(v, 0, off, v->capacity - off, &seg, &parity))
			return off;
		at = !seg.file ? UINT64_MAX : img_data(seg.file->io, seg.at);
		vhd_io_end(v, &seg, parity);
		if (at != UINT64_MAX && at < seg.at + seg.len)
			return off + (at > seg.at
					      ? (at - seg.at) / VHD_SECTOR * VHD_SECTOR
					      : 0);
		off += seg.len;
	}
	return UINT64_MAX;
}

/* Bytes of a file: the zeroes or the data that it begins with, in whole sectors. */
static void file_extent(struct img io, uint64_t at, uint64_t len,
			enum vhd_extent_kind *kind_out, uint64_t *len_out)
{
	uint64_t data = img_data(io, at), end;

	*len_out = len;
	*kind_out = VHD_ZERO;
	if (data >= at + len)
		return;
	if (data - at >= VHD_SECTOR) {
		*len_out = (data - at) / VHD_SECTOR * VHD_SECTOR;
		return;
	}
	*kind_out = VHD_DATA;
	end = img_hole(io, data);
	if (end < at + len)
		*len_out = (end - at + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
}

/* Where the smallest of the disks ends that the chain's files down to @since are. */
static uint64_t common_end(const struct vhd_image *v, unsigned since)
{
	uint64_t end = v->capacity;

	for (unsigned i = 0; i <= since && i < v->n; i++)
		if (v->file[i]->capacity < end)
			end = v->file[i]->capacity;
	return end;
}

/* Is what @file has, or nobody if it is NULL, the same seen from the chain's file @since? */
static int is_below(const struct vhd_image *v, const struct vhd *file, unsigned since)
{
	for (unsigned i = 0; i < since; i++)
		if (v->file[i] == file)
			return 0;
	return 1;
}

int vhd_extent(struct vhd_image *v, unsigned since, uint64_t off, uint64_t len,
	       enum vhd_extent_kind *kind_out, uint64_t *len_out)
{
	uint64_t end = since < v->n ? common_end(v, since) : 0;
	struct vhd_seg seg;
	unsigned parity = 0;
	int rc;

	if (!len || outside(v, len, off))
		return -EINVAL;
	if (off < end && len > end - off)
		len = end - off;
	rc = vhd_map_wait(v, 0, off, len, &seg, &parity);
	if (rc)
		return rc;
	*len_out = seg.len;
	if (off < end && is_below(v, seg.file, since))
		*kind_out = VHD_UNCHANGED;
	else if (!seg.file)
		*kind_out = VHD_ZERO;
	else
		file_extent(seg.file->io, seg.at, seg.len, kind_out, len_out);
	vhd_io_end(v, &seg, parity);
	return 0;
}

static uint64_t image_hole(void *self, uint64_t off)
{
	struct vhd_image *v = self;
	enum vhd_extent_kind kind;
	uint64_t len;

	while (off < v->capacity) {
		/* What cannot be read may hold anything. */
		if (vhd_extent(v, UINT32_MAX, off, v->capacity - off, &kind, &len))
			return UINT64_MAX;
		if (kind != VHD_DATA)
			return off;
		off += len;
	}
	return off;
}

static int image_sync(void *self)
{
	return vhd_commit(self);
}

static int image_size(void *self, uint64_t *bytes_out)
{
	*bytes_out = ((struct vhd_image *)self)->capacity;
	return 0;
}

static int image_resize(void *self, uint64_t bytes)
{
	return vhd_enlarge(self, bytes);
}

static const struct img_ops image_ops = {
	.name = "vhd",
	.read = image_read,
	.write = image_write,
	.erase = image_erase,
	.data = image_data,
	.hole = image_hole,
	.sync = image_sync,
	.size = image_size,
	.resize = image_resize,
};

struct img vhd_img(struct vhd_image *v)
{
	return (struct img){.ops = &image_ops, .self = v};
}
