/* SPDX-License-Identifier: Apache-2.0
 * vhd_grow - room for blocks that are written for the first time.
 *
 * One thread at a time grows the file. The order inside it matters: the table points to a block, even
 * in memory only, when its bitmap is in the file, so that a commit that begins at any moment
 * makes the bitmap durable before the table.
 */
#include "hv/vhd_impl.h"

#include "hv/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

unsigned vhd_busy_begin(struct vhd_image *v)
{
	v->busy[v->parity]++;
	return v->parity;
}

void vhd_busy_end(struct vhd_image *v, unsigned parity)
{
	if (--v->busy[parity] == 0)
		pthread_cond_broadcast(&v->cond);
}

/* What a new block begins with: in a dynamic image all of it is here (and zeroes), so that programs that
 * never look at bitmaps see the same; in a differencing one nothing is, unless it is to hide
 * the parent. */
static int write_bitmap(const struct vhd *f, uint64_t at, int full)
{
	uint8_t *map = malloc(f->bitmap_bytes);
	int rc;

	if (!map)
		return -ENOMEM;
	memset(map, full ? 0xff : 0, f->bitmap_bytes);
	rc = img_write(f->io, map, f->bitmap_bytes, at);
	free(map);
	return rc;
}

/* Where the next block goes: a hole, or the end. Lock held; growing is ours. */
static uint64_t next_slot(const struct vhd *f, int *at_end)
{
	*at_end = !f->rooms;
	if (f->rooms)
		return (uint64_t)f->room[f->rooms - 1] * VHD_SECTOR;
	return (f->end + f->bitmap_bytes + VHD_ALIGN - 1) / VHD_ALIGN * VHD_ALIGN -
	       f->bitmap_bytes;
}

/* Lock held, and dropped for the I/O; growing is ours. */
static int grow_one(struct vhd_image *v, uint32_t block, int masks)
{
	struct vhd *f = v->file[0];
	int full = f->type == VHD_DYNAMIC || masks, at_end, rc;
	uint64_t at = next_slot(f, &at_end), end = at + vhd_slot_bytes(f);
	struct vhd_bits *b = full ? &vhd_all_set : vhd_bits_new(f, block);

	if (!b)
		return -ENOMEM;
	pthread_mutex_unlock(&v->lock);
	if (at / VHD_SECTOR >= VHD_UNUSED)
		rc = -EFBIG;
	else
		rc = write_bitmap(f, at, full);
	if (!rc && at_end)
		rc = img_write(f->io, &f->footer, sizeof(f->footer), end);
	pthread_mutex_lock(&v->lock);
	if (rc) {
		if (b != &vhd_all_set)
			free(b);
		return rc;
	}
	if (at_end) {
		f->end = end;
		f->file_bytes = end + sizeof(f->footer);
	} else {
		f->rooms--;
	}
	f->bat[block] = (uint32_t)(at / VHD_SECTOR);
	f->bits[block] = b;
	f->allocated++;
	f->bat_dirty[block / 128 / 64] |= UINT64_C(1) << (block / 128 % 64);
	f->any_bat_dirty = 1;
	return 0;
}

/* Lock held: the first block of the range that is missing; UINT32_MAX: none. */
static uint32_t missing(const struct vhd *f, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / f->header.block_size;
	     b <= (off + len - 1) / f->header.block_size; b++)
		if (f->bat[b] == VHD_UNUSED)
			return (uint32_t)b;
	return UINT32_MAX;
}

static uint32_t unknown(const struct vhd *f, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / f->header.block_size;
	     b <= (off + len - 1) / f->header.block_size; b++)
		if (!f->bits[b])
			return (uint32_t)b;
	return UINT32_MAX;
}

static int is_there(const struct vhd *f, uint64_t off, uint64_t len)
{
	return missing(f, off, len) == UINT32_MAX && unknown(f, off, len) == UINT32_MAX;
}

static int is_pulled(const struct vhd_image *v, uint64_t off, uint64_t len)
{
	return v->pull_len && off < v->pull_off + v->pull_len && v->pull_off < off + len;
}

int vhd_prepared(const struct vhd_image *v, uint64_t off, uint64_t len)
{
	const struct vhd *f = v->file[0];

	return f->type == VHD_FIXED || (is_there(f, off, len) && !is_pulled(v, off, len));
}

static int grow(struct vhd_image *v, uint64_t off, uint64_t len, int masks)
{
	uint32_t block;
	int rc = 0;

	while (v->growing)
		pthread_cond_wait(&v->cond, &v->lock);
	v->growing = 1;
	while (!rc && (block = missing(v->file[0], off, len)) != UINT32_MAX)
		rc = grow_one(v, block, masks);
	v->growing = 0;
	pthread_cond_broadcast(&v->cond);
	if (rc)
		log_ratelimited(LOG_LVL_ERR, 1000, "vhd: no room for a block: error %d",
				-rc);
	return rc;
}

static int prepare(struct vhd_image *v, uint64_t off, uint64_t len, int masks, int pulled)
{
	uint32_t block;
	int rc = 0;

	if (v->file[0]->type == VHD_FIXED || !len)
		return 0;
	pthread_mutex_lock(&v->lock);
	while (!rc &&
	       (pulled ? !is_there(v->file[0], off, len) : !vhd_prepared(v, off, len))) {
		if (!pulled && is_pulled(v, off, len)) {
			pthread_cond_wait(&v->cond, &v->lock);
			continue;
		}
		rc = grow(v, off, len, masks);
		block = rc ? UINT32_MAX : unknown(v->file[0], off, len);
		if (block == UINT32_MAX)
			continue;
		pthread_mutex_unlock(&v->lock);
		rc = vhd_bits_load(v, v->file[0], block);
		pthread_mutex_lock(&v->lock);
	}
	pthread_mutex_unlock(&v->lock);
	return rc;
}

int vhd_prepare(struct vhd_image *v, uint64_t off, uint64_t len, int masks)
{
	return prepare(v, off, len, masks, 0);
}

int vhd_prepare_pulled(struct vhd_image *v, uint64_t off, uint64_t len)
{
	return prepare(v, off, len, 0, 1);
}
