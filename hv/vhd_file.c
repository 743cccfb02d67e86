/* SPDX-License-Identifier: Apache-2.0
 * vhd_file - one VHD file: which of its footers counts, its header, and whether they fit the file.
 */
#include "hv/vhd_impl.h"
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vhd_file_has(const struct vhd *f, uint64_t at, uint64_t len)
{
	return at <= f->file_bytes && len <= f->file_bytes - at;
}

uint64_t vhd_slot_bytes(const struct vhd *f)
{
	return (uint64_t)f->bitmap_bytes + f->header.block_size;
}

/* The footer at the end; one of 511 bytes, as the oldest Virtual PC wrote it, where the file's
 * size says so. */
static int read_end(const struct vhd *f, struct vhd_footer_wire *w, struct err *err)
{
	uint64_t len = f->file_bytes % VHD_SECTOR == VHD_SECTOR - 1 ? VHD_SECTOR - 1
								    : VHD_SECTOR;
	int rc;

	memset(w, 0, sizeof(*w));
	if (f->file_bytes < len)
		return err_set(err, -ENOENT, "the file is too short");
	rc = img_read(f->io, w, len, f->file_bytes - len);
	return rc ? err_sys(err, rc, "reading the footer") : vhd_footer_check(w, err);
}

static int read_front(const struct vhd *f, struct vhd_footer_wire *w, struct err *err)
{
	int rc;

	if (f->file_bytes < sizeof(*w))
		return err_set(err, -ENOENT, "the file is too short");
	rc = img_read(f->io, w, sizeof(*w), 0);
	if (!rc)
		rc = vhd_footer_check(w, err);
	else
		return err_sys(err, rc, "reading the copy of the footer");
	/* Only sparse images have a copy there; in a fixed one these bytes are the guest's. */
	if (!rc && vhd_footer_type(w) == VHD_FIXED)
		rc = err_set(err, -ENOENT, "no copy of a footer at the front");
	return rc;
}

static int is_whole_fixed(const struct vhd *f, const struct vhd_footer_wire *w)
{
	uint64_t size = be64_get(w->current_size);

	return vhd_footer_type(w) == VHD_FIXED && size <= f->file_bytes &&
	       f->file_bytes - size <= VHD_SECTOR && size % VHD_SECTOR == 0;
}

/* A guest can write the first sector of a fixed image, and, if the power fails at the right moment, leave its
 * own data as the last sector of a sparse one. So neither place is believed for what the other
 * denies: VHD.md has the table. */
static int choose_footer(struct vhd *f, struct err *err)
{
	struct vhd_footer_wire front, end;
	struct err front_err = {0}, end_err = {0};
	int rc_front = read_front(f, &front, &front_err),
	    rc_end = read_end(f, &end, &end_err);

	if (!rc_end && is_whole_fixed(f, &end)) {
		f->footer = end;
		return 0;
	}
	if (!rc_front && !rc_end && memcmp(front.uuid, end.uuid, sizeof(front.uuid)) != 0)
		return err_set(
			err, -EBADMSG,
			"the footers at front and end are of two different images");
	if (!rc_front) {
		f->footer = front;
		f->end_bad = rc_end || memcmp(&front, &end, sizeof(front)) != 0;
		return 0;
	}
	if (rc_end) {
		*err = rc_end == -ENOENT ? front_err : end_err;
		return err->code;
	}
	if (vhd_footer_type(&end) == VHD_FIXED)
		return err_set(err, -EBADMSG,
			       "a fixed image of %llu bytes does not fit the file",
			       (unsigned long long)be64_get(end.current_size));
	f->footer = end;
	f->front_bad = 1;
	return 0;
}

/* Of XenServer's tools. One that does not hold together is as if it were not there. */
static int load_batmap(struct vhd *f, uint8_t **map_out)
{
	uint64_t at = f->header.table_offset +
		      ((uint64_t)f->header.entries * 4 + VHD_SECTOR - 1) / VHD_SECTOR *
			      VHD_SECTOR;
	struct vhd_batmap_wire w;
	uint64_t offset, len, end;
	uint32_t sum = 0;
	int rc;

	*map_out = NULL;
	if (memcmp(f->footer.creator, "tap", 3) != 0 || !vhd_file_has(f, at, sizeof(w)))
		return 0;
	rc = img_read(f->io, &w, sizeof(w), at);
	if (rc || memcmp(w.cookie, "tdbatmap", sizeof(w.cookie)) != 0)
		return rc;
	offset = be64_get(w.offset);
	len = (uint64_t)be32_get(w.sectors) * VHD_SECTOR;
	/* Those tools will look at it: no block of this image may be given up behind its back. */
	f->has_batmap = 1;
	if (len < (f->header.entries + 7) / 8 || len > VHD_ENTRIES_MAX / 8 + VHD_SECTOR ||
	    !vhd_file_has(f, offset, len))
		return 0;
	end = offset + len;
	f->end = f->end > end ? f->end : end;
	f->end = f->end > at + sizeof(w) ? f->end : at + sizeof(w);
	*map_out = malloc(len);
	if (!*map_out)
		return -ENOMEM;
	rc = img_read(f->io, *map_out, len, offset);
	for (uint64_t i = 0; !rc && i < len; i++)
		sum += be32_get(w.version) == 0x00010001
			       ? (uint32_t)(int32_t)(int8_t)(*map_out)[i]
			       : (*map_out)[i];
	if (rc || ~sum != be32_get(w.checksum)) {
		free(*map_out);
		*map_out = NULL;
	}
	return rc;
}

/* What the batmap says is complete needs no bitmap. */
static void use_batmap(struct vhd *f, const uint8_t *map)
{
	for (uint32_t i = 0; map && i < f->header.entries; i++)
		if (map[i / 8] & (0x80 >> i % 8) && f->bat[i] != VHD_UNUSED)
			f->bits[i] = &vhd_all_set;
}

static int load_header(struct vhd *f, struct err *err)
{
	int rc;

	f->header_at = be64_get(f->footer.data_offset);
	if (f->header_at < VHD_SECTOR || f->header_at % VHD_SECTOR ||
	    !vhd_file_has(f, f->header_at, sizeof(f->header_wire)))
		return err_set(err, -EBADMSG, "the sparse header lies outside the file");
	rc = img_read(f->io, &f->header_wire, sizeof(f->header_wire), f->header_at);
	if (rc)
		return err_sys(err, rc, "reading the sparse header");
	rc = vhd_header_parse(&f->header_wire, &f->header, err);
	if (rc)
		return rc;
	f->bitmap_bytes = vhd_bitmap_bytes(f->header.block_size);
	/* An old maker's geometry may say more than the table can hold. */
	if (vhd_entries_for(f->capacity, f->header.block_size) > f->header.entries)
		return err_set(err, -EBADMSG,
			       "the allocation table is too short for the disk");
	return 0;
}

static int load_sparse(struct vhd *f, struct vhd_report *report, struct err *err)
{
	uint8_t *map = NULL;
	int rc = load_header(f, err);

	if (rc)
		return rc;
	rc = vhd_table_load(f, report, err);
	if (rc)
		return rc;
	rc = load_batmap(f, &map);
	use_batmap(f, map);
	free(map);
	return rc ? err_sys(err, rc, "reading the batmap") : 0;
}

int vhd_file_open(struct img io, int fd, int64_t mtime, struct vhd_report *report,
		  struct vhd **out, struct err *err)
{
	struct vhd *f = calloc(1, sizeof(*f));
	int rc;

	*out = NULL;
	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	*f = (struct vhd){.io = io, .fd = fd, .mtime = mtime};
	rc = img_size(io, &f->file_bytes);
	if (rc)
		rc = err_sys(err, rc, "the file's size");
	else
		rc = choose_footer(f, err);
	if (!rc) {
		f->type = vhd_footer_type(&f->footer);
		f->capacity = vhd_footer_capacity(&f->footer);
		if (f->type == VHD_FIXED)
			f->end = be64_get(f->footer.current_size);
		else
			rc = load_sparse(f, report, err);
	}
	if (rc)
		vhd_file_free(f);
	else
		*out = f;
	return rc;
}

void vhd_file_free(struct vhd *f)
{
	struct vhd_bits *b, *next;

	if (!f)
		return;
	for (b = f->dirty; b; b = next) {
		next = b->next_dirty;
		if (b->gone)
			free(b);
	}
	for (uint32_t i = 0; f->bits && i < f->header.entries; i++)
		if (f->bits[i] != &vhd_all_set)
			free(f->bits[i]);
	free(f->bits);
	free(f->bat);
	free(f->bat_dirty);
	free(f->room);
	free(f->given);
	free(f);
}

/* In this order: the copy at the front is whole before the one at the end is touched. */
static int mend_footers(struct vhd *f)
{
	int rc = 0;

	if (f->front_bad) {
		rc = img_write(f->io, &f->footer, sizeof(f->footer), 0);
		rc = rc ? rc : img_sync(f->io);
	}
	if (rc || (!f->end_bad && f->file_bytes == f->end + sizeof(f->footer)))
		return rc;
	/* What lies behind the last block was never committed; it must read as zeroes when the
	 * next block takes it. */
	rc = img_resize(f->io, f->end);
	rc = rc ? rc : img_write(f->io, &f->footer, sizeof(f->footer), f->end);
	rc = rc ? rc : img_sync(f->io);
	if (!rc)
		f->file_bytes = f->end + sizeof(f->footer);
	return rc;
}

int vhd_file_put_footer(struct vhd *f)
{
	int rc = 0;

	if (f->type != VHD_FIXED) {
		rc = img_write(f->io, &f->footer, sizeof(f->footer), 0);
		rc = rc ? rc : img_sync(f->io);
	}
	rc = rc ? rc : img_write(f->io, &f->footer, sizeof(f->footer), f->end);
	return rc ? rc : img_sync(f->io);
}

int vhd_file_writable(struct vhd *f, struct err *err)
{
	uint64_t sectors =
		((uint64_t)f->header.entries * 4 + VHD_SECTOR - 1) / VHD_SECTOR;
	int rc;

	if (f->type == VHD_FIXED)
		return 0;
	f->bat_dirty = calloc(sectors / 64 + 1, sizeof(uint64_t));
	if (!f->bat_dirty)
		return err_set(err, -ENOMEM, "out of memory");
	rc = mend_footers(f);
	rc = rc ? rc : vhd_table_find_room(f, NULL);
	return rc ? err_sys(err, rc, "making the image ready for writing") : 0;
}
