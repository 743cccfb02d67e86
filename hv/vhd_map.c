/* SPDX-License-Identifier: Apache-2.0
 * vhd_map - where in which file of a chain a sector of the virtual disk lies.
 */
#include "hv/vhd_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct vhd_bits vhd_all_set;

int vhd_bit(const struct vhd_bits *b, uint32_t sector)
{
	return b == &vhd_all_set || b->map[sector / 8] & (0x80 >> sector % 8);
}

struct vhd_bits *vhd_bits_new(const struct vhd *f, uint32_t block)
{
	struct vhd_bits *b = calloc(1, sizeof(*b) + f->bitmap_bytes);

	if (b)
		b->block = block;
	return b;
}

/* Sectors from @first on that have the same bit, up to @most. */
static uint32_t run_of(const struct vhd_bits *b, uint32_t first, uint32_t most)
{
	uint32_t n = 1;

	if (b == &vhd_all_set)
		return most;
	while (n < most && !vhd_bit(b, first + n) == !vhd_bit(b, first))
		n++;
	return n;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* 1: it is in this file, *seg says where; 0: it is not, for *len bytes; -EAGAIN. */
static int map_sparse(const struct vhd *f, uint64_t off, uint64_t *len,
		      struct vhd_seg *seg)
{
	uint32_t block = (uint32_t)(off / f->header.block_size);
	uint32_t in = (uint32_t)(off % f->header.block_size), run;
	const struct vhd_bits *b = f->bits[block];

	*len = least(*len, f->header.block_size - in);
	seg->block = block;
	seg->entry = f->bat[block];
	if (f->bat[block] == VHD_UNUSED)
		return 0;
	if (!b)
		return -EAGAIN;
	run = run_of(b, in / VHD_SECTOR, (uint32_t)(*len / VHD_SECTOR));
	*len = (uint64_t)run * VHD_SECTOR;
	if (!vhd_bit(b, in / VHD_SECTOR))
		return 0;
	seg->at = (uint64_t)f->bat[block] * VHD_SECTOR + f->bitmap_bytes + in;
	return 1;
}

int vhd_map(struct vhd_image *v, unsigned from_level, uint64_t off, uint64_t len,
	    struct vhd_seg *seg, struct vhd **file_out, uint32_t *block_out)
{
	int r;

	*seg = (struct vhd_seg){.level = -1};
	for (unsigned i = from_level; i < v->n; i++) {
		struct vhd *f = v->file[i];

		/* A child may be larger than its parent. */
		if (off >= f->capacity)
			break;
		len = least(len, f->capacity - off);
		if (f->type == VHD_FIXED) {
			*seg = (struct vhd_seg){
				.file = f, .level = (int)i, .at = off, .len = len};
			return 0;
		}
		r = map_sparse(f, off, &len, seg);
		if (r < 0) {
			*file_out = f;
			*block_out = seg->block;
			return r;
		}
		if (r) {
			seg->file = f;
			seg->level = (int)i;
			break;
		}
	}
	seg->len = len;
	return 0;
}

static int is_full(const struct vhd *f, const struct vhd_bits *b)
{
	uint32_t bits = f->header.block_size / VHD_SECTOR;

	for (uint32_t i = 0; i < bits; i += 8)
		if (b->map[i / 8] != 0xff)
			return 0;
	return 1;
}

/* Under lock. */
static int is_here(const struct vhd_image *v, const struct vhd *f)
{
	for (unsigned i = 0; i < v->n; i++)
		if (v->file[i] == f)
			return 1;
	return 0;
}

int vhd_bits_load(struct vhd_image *v, struct vhd *f, uint32_t block)
{
	struct vhd_bits *b;
	unsigned parity;
	uint32_t entry;
	int rc;

	pthread_mutex_lock(&v->lock);
	if (!is_here(v, f)) {
		pthread_mutex_unlock(&v->lock);
		return 0;
	}
	b = vhd_bits_new(f, block);
	if (!b) {
		pthread_mutex_unlock(&v->lock);
		return -ENOMEM;
	}
	entry = f->bat[block];
	/* A file that leaves the chain is not closed before this has ended. */
	parity = vhd_busy_begin(v);
	pthread_mutex_unlock(&v->lock);
	rc = entry == VHD_UNUSED ? 0
				 : img_read(f->io, b->map, f->bitmap_bytes,
					    (uint64_t)entry * VHD_SECTOR);
	pthread_mutex_lock(&v->lock);
	/* Somebody else may have read it, changed it, or given the block up meanwhile. */
	if (!rc && entry != VHD_UNUSED && f->bat[block] == entry && !f->bits[block]) {
		f->bits[block] = is_full(f, b) ? &vhd_all_set : b;
		if (f->bits[block] == b)
			b = NULL;
	}
	vhd_busy_end(v, parity);
	pthread_mutex_unlock(&v->lock);
	free(b);
	return rc;
}

void vhd_bits_set(struct vhd *f, uint32_t block, uint64_t off, uint64_t len)
{
	struct vhd_bits *b = f->bits[block];
	uint32_t first = (uint32_t)(off % f->header.block_size / VHD_SECTOR);
	uint32_t n = (uint32_t)(len / VHD_SECTOR);
	int changed = 0;

	if (b == &vhd_all_set)
		return;
	for (uint32_t i = first; i < first + n; i++) {
		uint8_t bit = (uint8_t)(0x80 >> i % 8);

		changed |= !(b->map[i / 8] & bit);
		b->map[i / 8] |= bit;
	}
	if (!changed || b->dirty)
		return;
	b->dirty = 1;
	b->next_dirty = f->dirty;
	f->dirty = b;
}
