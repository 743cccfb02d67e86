/* SPDX-License-Identifier: Apache-2.0
 * vhd_check - what is wrong with a VHD file, and what of it can be mended without guessing.
 */
#include "hv/vhd_impl.h"
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <string.h>

static int examine(struct img io, struct vhd **f_out, struct vhd_report *r,
		   struct err *err)
{
	struct vhd *f;
	int rc;

	*r = (struct vhd_report){0};
	rc = vhd_file_open(io, -1, 0, r, f_out, err);
	if (rc)
		return rc;
	f = *f_out;
	r->bad_front = (uint64_t)f->front_bad;
	r->bad_end = (uint64_t)f->end_bad;
	r->allocated = f->allocated;
	r->merging = be64_get(f->footer.mark) == VHD_MARK_MERGING;
	if (f->file_bytes > f->end + VHD_SECTOR)
		r->tail = f->file_bytes - f->end - VHD_SECTOR;
	if (f->type == VHD_FIXED || r->overlaps)
		return 0;
	rc = vhd_table_find_room(f, r);
	return rc ? err_sys(err, rc, "checking the allocation table") : 0;
}

int vhd_check(struct img io, struct vhd_report *out, struct err *err)
{
	struct vhd *f = NULL;
	int rc = examine(io, &f, out, err);

	vhd_file_free(f);
	return rc;
}

/* A block that begins in the file keeps what there is of it; one that does not is dropped. */
static int mend_block(struct vhd *f, uint32_t i, uint64_t *grown)
{
	uint64_t at = (uint64_t)f->bat[i] * VHD_SECTOR, end = at + vhd_slot_bytes(f);
	struct be32 unused = be32_of(VHD_UNUSED);
	int rc;

	if (vhd_file_has(f, at, vhd_slot_bytes(f)))
		return 0;
	if (vhd_file_has(f, at, f->bitmap_bytes)) {
		*grown = *grown > end ? *grown : end;
		return 0;
	}
	rc = img_write(f->io, &unused, sizeof(unused),
		       f->header.table_offset + (uint64_t)i * 4);
	f->bat[i] = VHD_UNUSED;
	f->allocated -= !rc;
	return rc;
}

static int mend_table(struct vhd *f)
{
	uint64_t grown = 0, end = f->file_bytes - f->file_bytes % VHD_SECTOR;
	int rc = 0;

	for (uint32_t i = 0; !rc && i < f->header.entries; i++)
		if (f->bat[i] != VHD_UNUSED)
			rc = mend_block(f, i, &grown);
	/* The footer that is there now would be the block's data. */
	if (!rc && grown && !f->end_bad)
		rc = img_erase(f->io, end - VHD_SECTOR, VHD_SECTOR);
	if (!rc && grown) {
		f->end = grown;
		f->end_bad = 1;
	}
	return rc ? rc : img_sync(f->io);
}

int vhd_repair(struct img io, struct vhd_report *out, struct err *err)
{
	struct vhd *f = NULL;
	int rc = examine(io, &f, out, err);

	if (rc || f->type == VHD_FIXED)
		goto out;
	if (out->overlaps) {
		rc = err_set(
			err, -EUCLEAN,
			"%llu blocks overlap: which of them is right cannot be told from "
			"the image",
			(unsigned long long)out->overlaps);
		goto out;
	}
	if (out->beyond) {
		/* The only copy of the footer that is not in the way. */
		rc = f->front_bad ? img_write(io, &f->footer, sizeof(f->footer), 0) : 0;
		rc = rc ? rc : img_sync(io);
		rc = rc ? rc : mend_table(f);
	}
	rc = rc ? err_sys(err, rc, "mending the allocation table")
		: vhd_file_writable(f, err);
out:
	vhd_file_free(f);
	return rc;
}
