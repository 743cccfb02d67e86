/* SPDX-License-Identifier: Apache-2.0
 * vhd_commit - a flush: first what was written, then what points to it.
 *
 * Theory of operation. The sectors of the table and the bitmaps that changed are copied at one moment,
 * under the lock. All that they point to was written before that moment, so an fdatasync after it
 * makes that durable; only then the copies are written, and an fdatasync makes them durable. A
 * power cut before the second write leaves the old table with the old content; between it and
 * the last fdatasync any mixture of old and new sectors, each of which points only to what is there.
 *
 * Room that was given up is in use on the disk until the table says otherwise there. So it is erased and
 * used again only after that, and after all I/O that had found its way there has ended.
 *
 * A failure is final: what the disk holds is not known any more, and a later fdatasync would not say.
 */
#include "hv/vhd_impl.h"

#include "hv/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A piece of metadata as it was at the moment of the commit. */
struct piece {
	struct piece *next;
	uint64_t at;
	uint32_t len;
	uint8_t bytes[];
};

static struct piece *new_piece(uint64_t at, uint32_t len, struct piece *next)
{
	struct piece *p = malloc(sizeof(*p) + len);

	if (p)
		*p = (struct piece){.next = next, .at = at, .len = len};
	return p;
}

static void free_pieces(struct piece *p)
{
	struct piece *next;

	for (; p; p = next) {
		next = p->next;
		free(p);
	}
}

/* Lock held. A sector of the table; its last one may be cut short. */
static int take_sector(const struct vhd *f, uint32_t sector, struct piece **list)
{
	uint32_t first = sector * (VHD_SECTOR / 4), n = f->header.entries - first;
	struct piece *p;
	struct be32 e;

	n = n < VHD_SECTOR / 4 ? n : VHD_SECTOR / 4;
	p = new_piece(f->header.table_offset + (uint64_t)sector * VHD_SECTOR, n * 4,
		      *list);
	if (!p)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		e = be32_of(f->bat[first + i]);
		memcpy(p->bytes + (size_t)i * 4, &e, sizeof(e));
	}
	*list = p;
	return 0;
}

/* Lock held. */
static int take_table(struct vhd *f, struct piece **list)
{
	uint32_t words = (f->header.entries * 4u / VHD_SECTOR) / 64 + 1;
	int rc = 0;

	for (uint32_t w = 0; f->any_bat_dirty && !rc && w < words; w++) {
		while (!rc && f->bat_dirty[w]) {
			unsigned bit = (unsigned)__builtin_ctzll(f->bat_dirty[w]);

			rc = take_sector(f, w * 64 + bit, list);
			f->bat_dirty[w] &= f->bat_dirty[w] - 1;
		}
	}
	f->any_bat_dirty = 0;
	return rc;
}

/* Lock held. */
static int take_bitmaps(struct vhd *f, struct piece **list)
{
	struct vhd_bits *b;
	struct piece *p;

	while ((b = f->dirty)) {
		f->dirty = b->next_dirty;
		b->dirty = 0;
		if (b->gone) {
			free(b);
			continue;
		}
		p = new_piece((uint64_t)f->bat[b->block] * VHD_SECTOR, f->bitmap_bytes,
			      *list);
		if (!p)
			return -ENOMEM;
		memcpy(p->bytes, b->map, f->bitmap_bytes);
		*list = p;
	}
	return 0;
}

static int write_pieces(struct img io, const struct piece *p)
{
	int rc = 0;

	for (; !rc && p; p = p->next)
		rc = img_write(io, p->bytes, p->len, p->at);
	return rc;
}

int vhd_give_up(struct vhd *f, uint32_t block)
{
	struct vhd_bits *b = f->bits[block];
	uint32_t *more;

	if (f->givens == f->given_cap) {
		more = reallocarray(f->given, f->given_cap + 64, sizeof(*more));
		if (!more)
			return -ENOMEM;
		f->given = more;
		f->given_cap += 64;
	}
	f->given[f->givens++] = f->bat[block];
	f->bat[block] = VHD_UNUSED;
	f->bits[block] = NULL;
	f->allocated--;
	f->bat_dirty[block / 128 / 64] |= UINT64_C(1) << (block / 128 % 64);
	f->any_bat_dirty = 1;
	if (b && b != &vhd_all_set && b->dirty)
		b->gone = 1;
	else if (b != &vhd_all_set)
		free(b);
	return 0;
}

/* Lock held: nobody is on his way to a place that the table named before now. */
void vhd_wait_for_strays(struct vhd_image *v)
{
	unsigned old = v->parity;

	v->parity = !old;
	while (v->busy[old])
		pthread_cond_wait(&v->cond, &v->lock);
}

/* No lock. The table on the disk does not name these any more. */
static void reuse(struct vhd_image *v, const uint32_t *slot, uint32_t n)
{
	struct vhd *f = v->file[0];
	uint32_t *more = NULL;

	for (uint32_t i = 0; i < n; i++) {
		/* Not erased is not usable: the room is lost until the image is opened again. */
		if (img_erase(f->io, (uint64_t)slot[i] * VHD_SECTOR, vhd_slot_bytes(f)))
			continue;
		pthread_mutex_lock(&v->lock);
		while (v->growing)
			pthread_cond_wait(&v->cond, &v->lock);
		if (f->rooms == f->room_cap) {
			more = reallocarray(f->room, f->room_cap + 64, sizeof(*more));
			f->room_cap += more ? 64 : 0;
			f->room = more ? more : f->room;
		}
		if (f->rooms < f->room_cap)
			f->room[f->rooms++] = slot[i];
		pthread_mutex_unlock(&v->lock);
	}
}

static int commit_pieces(struct vhd_image *v, const struct piece *list)
{
	struct img io = v->file[0]->io;
	int rc = img_sync(io);

	if (!rc && list) {
		rc = write_pieces(io, list);
		rc = rc ? rc : img_sync(io);
	}
	return rc;
}

/* Lock held, committing is ours; dropped meanwhile. */
static int commit(struct vhd_image *v)
{
	struct vhd *f = v->file[0];
	struct piece *list = NULL;
	uint32_t *given = f->given, givens = f->givens;
	int rc = f->type == VHD_FIXED ? 0 : take_table(f, &list);

	rc = rc ? rc : take_bitmaps(f, &list);
	f->given = NULL;
	f->givens = f->given_cap = 0;
	if (!rc && givens)
		vhd_wait_for_strays(v);
	pthread_mutex_unlock(&v->lock);
	rc = rc ? rc : commit_pieces(v, list);
	if (!rc)
		reuse(v, given, givens);
	free_pieces(list);
	free(given);
	pthread_mutex_lock(&v->lock);
	return rc;
}

int vhd_commit(struct vhd_image *v)
{
	int rc;

	if (!v->write)
		return 0;
	pthread_mutex_lock(&v->lock);
	while (v->committing)
		pthread_cond_wait(&v->cond, &v->lock);
	v->committing = 1;
	if (!v->failed) {
		v->failed = commit(v);
		if (v->failed)
			log_err("vhd: a flush failed (%s); nothing more is promised of "
				"this image",
				strerror(-v->failed));
	}
	rc = v->failed;
	v->committing = 0;
	pthread_cond_broadcast(&v->cond);
	pthread_mutex_unlock(&v->lock);
	return rc;
}
