/* SPDX-License-Identifier: Apache-2.0
 * vhd_make - a new VHD image, fixed, dynamic or differencing.
 */
#include "hv/vhd_impl.h"
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_AT = VHD_SECTOR, TABLE_AT = HEADER_AT + 1024 };

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* Where the parent is, in the three ways in which others look for it. */
static int write_locators(struct img io, const struct vhd_create *c,
			  struct vhd_header_wire *w, uint64_t *at, struct err *err)
{
	const struct {
		uint32_t code;
		const char *path;
	} loc[] = {
		{VHD_LOC_W2RU, c->parent_relative},
		{VHD_LOC_W2KU, c->parent_path},
		{VHD_LOC_MACX, c->parent_path},
	};
	uint8_t bytes[3 * VHD_PATH_MAX];
	uint64_t room;
	int len, rc;

	memset(w->locator, 0, sizeof(w->locator));
	for (unsigned i = 0; i < sizeof(loc) / sizeof(loc[0]); i++) {
		memset(bytes, 0, sizeof(bytes));
		len = vhd_locator_bytes(loc[i].code, loc[i].path, bytes, sizeof(bytes));
		if (len < 0)
			return err_sys(err, len, "the parent's path %s", loc[i].path);
		room = round_up((uint64_t)len, VHD_SECTOR);
		rc = img_write(io, bytes, room, *at);
		if (rc)
			return err_sys(err, rc, "writing the parent's path");
		w->locator[i] = (struct vhd_locator_wire){
			.code = be32_of(loc[i].code),
			.space = be32_of((uint32_t)(room / VHD_SECTOR)),
			.len = be32_of((uint32_t)len),
			.offset = be64_of(*at),
		};
		*at += room;
	}
	return 0;
}

static int name_parent(const struct vhd_create *c, struct vhd_header_wire *w,
		       struct err *err)
{
	const char *name = strrchr(c->parent_path, '/');
	int rc = vhd_name_put(w, name ? name + 1 : c->parent_path);

	if (rc)
		return err_sys(err, rc, "the parent's name %s", c->parent_path);
	memcpy(w->parent_uuid, c->parent_uuid, sizeof(w->parent_uuid));
	w->parent_time = be32_of(vhd_time(c->parent_mtime));
	return 0;
}

/* An allocation table of unused entries, to the end of its last sector. */
static int write_table(struct img io, uint64_t at, uint64_t bytes)
{
	uint8_t ff[64 << 10];
	uint64_t n;
	int rc = 0;

	memset(ff, 0xff, sizeof(ff));
	for (; !rc && bytes; bytes -= n, at += n) {
		n = bytes < sizeof(ff) ? bytes : sizeof(ff);
		rc = img_write(io, ff, n, at);
	}
	return rc;
}

static int create_sparse(struct img io, const struct vhd_create *c,
			 const struct vhd_footer_wire *f, uint32_t block, struct err *err)
{
	uint64_t entries = vhd_entries_for(c->size, block);
	uint64_t end = TABLE_AT + round_up(entries * 4, VHD_SECTOR);
	struct vhd_header_wire w = {
		.next = be64_of(VHD_NO_OFFSET),
		.table_offset = be64_of(TABLE_AT),
		.version = be32_of(0x00010000),
		.entries = be32_of((uint32_t)entries),
		.block_size = be32_of(block),
	};
	int rc = 0;

	if (entries > VHD_ENTRIES_MAX)
		return err_set(err, -EFBIG,
			       "blocks of %u bytes are too small for that size", block);
	memcpy(w.cookie, "cxsparse", sizeof(w.cookie));
	if (c->type == VHD_DIFF)
		rc = name_parent(c, &w, err);
	if (!rc && c->type == VHD_DIFF)
		rc = write_locators(io, c, &w, &end, err);
	if (rc)
		return rc;
	vhd_header_seal(&w);
	rc = write_table(io, TABLE_AT, round_up(entries * 4, VHD_SECTOR));
	rc = rc ? rc : img_write(io, &w, sizeof(w), HEADER_AT);
	rc = rc ? rc : img_write(io, f, sizeof(*f), end);
	/* Last: a file without it is none. */
	rc = rc ? rc : img_sync(io);
	rc = rc ? rc : img_write(io, f, sizeof(*f), 0);
	rc = rc ? rc : img_sync(io);
	return rc ? err_sys(err, rc, "writing the image") : 0;
}

int vhd_create(struct img io, const struct vhd_create *c, struct err *err)
{
	uint32_t block = c->block_size ? c->block_size : VHD_BLOCK_DEFAULT;
	struct vhd_footer_wire f;
	int rc;

	if (!c->size || c->size % VHD_SECTOR || c->size > VHD_SIZE_MAX)
		return err_set(
			err, -EINVAL,
			"a size of %llu bytes is not in 512 to 2040 GiB, or not in "
			"whole sectors",
			(unsigned long long)c->size);
	if (block < VHD_BLOCK_MIN || block > VHD_BLOCK_MAX || block & (block - 1))
		return err_set(
			err, -EINVAL,
			"a block size of %u is no power of two in 4 KiB to 256 MiB",
			block);
	rc = vhd_footer_new(c->type, c->size, c->now, &f);
	if (rc)
		return err_sys(err, rc, "a random identity");
	if (c->type != VHD_FIXED)
		return create_sparse(io, c, &f, block, err);
	rc = img_resize(io, c->size);
	rc = rc ? rc : img_write(io, &f, sizeof(f), c->size);
	rc = rc ? rc : img_sync(io);
	return rc ? err_sys(err, rc, "writing the image") : 0;
}

int vhd_write_header(struct img io, const struct vhd_create *c, struct vhd_header_wire *w,
		     uint64_t *at, struct err *err)
{
	uint64_t header_at = *at;
	int rc;

	*at += sizeof(*w);
	if (c) {
		rc = name_parent(c, w, err);
		rc = rc ? rc : write_locators(io, c, w, at, err);
		if (rc)
			return rc;
	} else {
		memset(w->parent_uuid, 0, sizeof(w->parent_uuid));
		memset(w->parent_name, 0, sizeof(w->parent_name));
		memset(w->locator, 0, sizeof(w->locator));
		w->parent_time = be32_of(0);
	}
	vhd_header_seal(w);
	rc = img_write(io, w, sizeof(*w), header_at);
	return rc ? err_sys(err, rc, "writing the header") : 0;
}

/* A new header behind all that is there, then the one write that makes it count: the front footer. */
int vhd_set_parent(struct img io, const struct vhd_create *c, struct err *err)
{
	struct vhd_footer_wire f;
	struct vhd_header_wire w;
	uint64_t at;
	int rc = img_read(io, &f, sizeof(f), 0);

	rc = rc ? rc : vhd_footer_check(&f, err);
	if (!rc && vhd_footer_type(&f) != VHD_DIFF)
		return err_set(err, -EINVAL, "it has no parent");
	rc = rc ? rc : img_read(io, &w, sizeof(w), be64_get(f.data_offset));
	rc = rc ? rc : img_size(io, &at);
	if (rc)
		return err_sys(err, rc, "reading the image");
	at = round_up(at, VHD_SECTOR);
	f.data_offset = be64_of(at);
	rc = vhd_write_header(io, c, &w, &at, err);
	if (rc)
		return rc;
	vhd_footer_seal(&f);
	rc = img_write(io, &f, sizeof(f), at);
	rc = rc ? rc : img_sync(io);
	rc = rc ? rc : img_write(io, &f, sizeof(f), 0);
	rc = rc ? rc : img_sync(io);
	return rc ? err_sys(err, rc, "writing the image") : 0;
}
