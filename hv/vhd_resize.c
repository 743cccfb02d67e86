/* SPDX-License-Identifier: Apache-2.0
 * vhd_resize - a VHD image becomes larger, also while it is read and written.
 *
 * Who grows the image holds "growing" and "committing": no block gets room and no metadata is written
 * meanwhile, so that the table in memory stands still. All else goes on. What is new is written where nothing is yet;
 * then one sector makes it count: the footer at the front, or in a fixed image the one at the new end. Only
 * when that is durable does this process know of it, so that the guest's bytes never lie beyond an end that
 * a power cut could bring back.
 */
#include "hv/vhd_impl.h"

#include "hv/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What the image becomes. */
struct grown {
	struct vhd_footer_wire footer;
	struct vhd_header_wire header;
	uint64_t header_at, end;
	uint32_t entries; /* 0: the table is long enough */
	uint32_t *bat;
	struct vhd_bits **bits;
	uint64_t *bat_dirty;
};

/* A failed flush: what is on the disk is not known any more. */
static int sync_leaf(struct vhd_image *v, int *failed)
{
	int rc = img_sync(v->file[0]->io);

	*failed = *failed ? *failed : rc;
	return rc;
}

/* The footer for the new size is valid at both ends of the file for a moment; the last one counts. */
static int grow_fixed(struct vhd_image *v, const struct grown *g, int *failed)
{
	struct vhd *f = v->file[0];
	uint64_t room = g->end - f->end;
	int rc = img_write(f->io, &g->footer, sizeof(g->footer), g->end);

	if (rc) {
		/* Without a footer at its end it would be no image: back to where it was. */
		*failed = img_resize(f->io, f->end + sizeof(f->footer));
		return rc;
	}
	rc = sync_leaf(v, failed);
	rc = rc ? rc : img_erase(f->io, f->end, VHD_SECTOR < room ? VHD_SECTOR : room);
	return rc ? rc : sync_leaf(v, failed);
}

/* A longer table has no room where the old one is: it comes with a header behind all that is there. */
static int write_table(struct vhd_image *v, const struct grown *g)
{
	struct vhd *f = v->file[0];
	uint64_t bytes = g->end - g->header_at - sizeof(g->header);
	uint8_t *table = malloc(bytes);
	int rc;

	if (!table)
		return -ENOMEM;
	memset(table, 0xff, bytes);
	for (uint32_t i = 0; i < f->header.entries; i++) {
		struct be32 e = be32_of(f->bat[i]);

		memcpy(table + (size_t)i * 4, &e, sizeof(e));
	}
	rc = img_write(f->io, &g->header, sizeof(g->header), g->header_at);
	rc = rc ? rc : img_write(f->io, table, bytes, g->header_at + sizeof(g->header));
	free(table);
	return rc;
}

/* What was written behind the end goes: the next block there must find zeroes. */
static int take_back(struct vhd *f)
{
	int rc = img_resize(f->io, f->end);

	return rc ? rc : img_write(f->io, &f->footer, sizeof(f->footer), f->end);
}

/* The table names blocks whose bitmaps no flush has covered yet: the flush before the front footer does. */
static int grow_sparse(struct vhd_image *v, const struct grown *g, int *failed)
{
	struct vhd *f = v->file[0];
	int rc = g->entries ? write_table(v, g) : 0;

	rc = rc ? rc : img_write(f->io, &g->footer, sizeof(g->footer), g->end);
	if (rc) {
		*failed = take_back(f);
		return rc;
	}
	rc = sync_leaf(v, failed);
	rc = rc ? rc : img_write(f->io, &g->footer, sizeof(g->footer), 0);
	/* It may be there or not: no later write may build on either. */
	*failed = *failed ? *failed : rc;
	return rc ? rc : sync_leaf(v, failed);
}

static int plan_table(const struct vhd *f, uint64_t entries, struct grown *g)
{
	uint64_t bytes = (entries * 4 + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;

	g->entries = (uint32_t)entries;
	g->header_at = (f->end + VHD_ALIGN - 1) / VHD_ALIGN * VHD_ALIGN;
	g->header = f->header_wire;
	g->header.table_offset = be64_of(g->header_at + sizeof(g->header));
	g->header.entries = be32_of(g->entries);
	vhd_header_seal(&g->header);
	g->footer.data_offset = be64_of(g->header_at);
	g->end = g->header_at + sizeof(g->header) + bytes;
	g->bat = malloc(entries * sizeof(*g->bat));
	g->bits = calloc(entries, sizeof(struct vhd_bits *));
	g->bat_dirty = calloc(bytes / VHD_SECTOR / 64 + 1, sizeof(*g->bat_dirty));
	return g->bat && g->bits && g->bat_dirty ? 0 : -ENOMEM;
}

static int plan(const struct vhd *f, uint64_t size, struct grown *g)
{
	uint64_t entries;
	int rc = 0;

	*g = (struct grown){.footer = f->footer, .end = f->end};
	if (f->type == VHD_FIXED) {
		g->end = size;
	} else {
		entries = vhd_entries_for(size, f->header.block_size);
		if (entries > VHD_ENTRIES_MAX)
			return -EFBIG;
		if (entries > f->header.entries)
			rc = plan_table(f, entries, g);
	}
	vhd_footer_resize(&g->footer, size);
	return rc;
}

/* Lock held. Who looks at the table looks at the new one from now on. */
static void use_table(struct vhd *f, struct grown *g)
{
	uint32_t old = f->header.entries;

	memset(g->bat, 0xff, g->entries * sizeof(*g->bat));
	memcpy(g->bat, f->bat, old * sizeof(*g->bat));
	memcpy(g->bits, f->bits, old * sizeof(struct vhd_bits *));
	free(f->bat);
	free(f->bits);
	free(f->bat_dirty);
	f->bat = g->bat;
	f->bits = g->bits;
	/* All that had changed was written with the table. */
	f->bat_dirty = g->bat_dirty;
	f->any_bat_dirty = 0;
	g->bat = NULL;
	g->bits = NULL;
	g->bat_dirty = NULL;
	f->header_wire = g->header;
	f->header_at = g->header_at;
	f->header.entries = g->entries;
	f->header.table_offset = be64_get(g->header.table_offset);
	f->has_batmap = 0;
}

/* Lock held, and dropped for the I/O; growing and committing are ours. */
static int enlarge(struct vhd_image *v, uint64_t size)
{
	struct vhd *f = v->file[0];
	struct grown g;
	int failed = 0, rc;

	pthread_mutex_unlock(&v->lock);
	rc = plan(f, size, &g);
	if (!rc)
		rc = f->type == VHD_FIXED ? grow_fixed(v, &g, &failed)
					  : grow_sparse(v, &g, &failed);
	pthread_mutex_lock(&v->lock);
	v->failed = v->failed ? v->failed : failed;
	if (!rc) {
		if (g.entries)
			use_table(f, &g);
		f->footer = g.footer;
		f->end = g.end;
		f->file_bytes = g.end + sizeof(f->footer);
		f->capacity = size;
		atomic_store(&v->capacity, size);
	}
	free(g.bat);
	free(g.bits);
	free(g.bat_dirty);
	return rc;
}

int vhd_enlarge(struct vhd_image *v, uint64_t size)
{
	int rc = 0;

	if (!v->write)
		return -EROFS;
	if (size % VHD_SECTOR || size > VHD_SIZE_MAX)
		return size > VHD_SIZE_MAX ? -EFBIG : -EINVAL;
	pthread_mutex_lock(&v->lock);
	while (v->growing || v->committing)
		pthread_cond_wait(&v->cond, &v->lock);
	v->growing = v->committing = 1;
	if (v->failed || size < v->capacity)
		rc = v->failed ? v->failed : -EINVAL;
	else if (size > v->capacity)
		rc = enlarge(v, size);
	v->growing = v->committing = 0;
	pthread_cond_broadcast(&v->cond);
	pthread_mutex_unlock(&v->lock);
	if (rc)
		log_err("vhd: it cannot become %llu bytes: %s", (unsigned long long)size,
			strerror(-rc));
	return rc;
}
