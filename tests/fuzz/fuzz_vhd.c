/* SPDX-License-Identifier: Apache-2.0
 * fuzz_vhd - a VHD file that was made by an enemy: opened, read, written, checked, mended.
 *
 * The input is the file's content; checksums are made right first, or hardly anything would get past them. What
 * is opened for writing must hold what is written to it, be clean by its own check afterwards, and
 * open again with the same content.
 */
#include "hv/base/err.h"
#include "hv/vhd.h"
#include "hv/vhd_make.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_MAX = 1 << 20, DISK_MAX = 128 << 10 };

/* A file in memory. */
struct mem {
	uint8_t b[FILE_MAX];
	uint64_t size;
};
static struct mem file;

static int mem_read(void *self, void *p, uint64_t len, uint64_t at)
{
	const struct mem *m = self;

	if (at > m->size || len > m->size - at)
		return -EIO;
	memcpy(p, m->b + at, len);
	return 0;
}

static int mem_write(void *self, const void *p, uint64_t len, uint64_t at)
{
	struct mem *m = self;

	if (at > FILE_MAX || len > FILE_MAX - at)
		return -ENOSPC;
	memcpy(m->b + at, p, len);
	m->size = m->size > at + len ? m->size : at + len;
	return 0;
}

static int mem_erase(void *self, uint64_t at, uint64_t len)
{
	struct mem *m = self;

	if (at < m->size)
		memset(m->b + at, 0, len < m->size - at ? len : m->size - at);
	return 0;
}

static uint64_t mem_data(void *self, uint64_t at)
{
	return at < ((struct mem *)self)->size ? at : UINT64_MAX;
}

static uint64_t mem_hole(void *self, uint64_t at)
{
	return UINT64_MAX;
}

static int mem_sync(void *self)
{
	return 0;
}

static int mem_size(void *self, uint64_t *bytes_out)
{
	*bytes_out = ((struct mem *)self)->size;
	return 0;
}

static int mem_resize(void *self, uint64_t bytes)
{
	struct mem *m = self;

	if (bytes > FILE_MAX)
		return -ENOSPC;
	if (bytes < m->size)
		memset(m->b + bytes, 0, m->size - bytes);
	m->size = bytes;
	return 0;
}

static const struct img_ops mem_ops = {
	.name = "memory",
	.read = mem_read,
	.write = mem_write,
	.erase = mem_erase,
	.data = mem_data,
	.hole = mem_hole,
	.sync = mem_sync,
	.size = mem_size,
	.resize = mem_resize,
};

static const struct img io = {&mem_ops, &file};

static void put32(uint64_t at, uint32_t v)
{
	struct be32 w = be32_of(v);

	memcpy(file.b + at, &w, sizeof(w));
}

static void seal_footer(uint64_t at)
{
	memcpy(file.b + at, "conectix", 8);
	put32(at + 64, vhd_checksum(file.b + at, 512, 64));
}

static void seal(void)
{
	struct vhd_footer_wire f;
	uint64_t at;

	if (file.size < 2048)
		return;
	seal_footer(0);
	if (file.b[86] & 1) /* not every file has a footer at its end */
		seal_footer(file.size - 512);
	memcpy(&f, file.b, sizeof(f));
	at = be64_get(f.data_offset);
	if (at < 512 || at > file.size - 1024)
		return;
	memcpy(file.b + at, "cxsparse", 8);
	put32(at + 36, vhd_checksum(file.b + at, 1024, 36));
}

static int open_it(unsigned flags, struct vhd_image **v)
{
	struct vhd_part part = {io, -1, 0};
	struct err err = {0};
	int rc = vhd_open(&part, 1, flags, v, &err);

	assert(!rc || err.msg[0]);
	return rc;
}

/* What is told of the disk's first bytes: it goes forward, and zeroes are zeroes. */
static void tell(struct vhd_image *v, const uint8_t *disk, uint64_t n)
{
	enum vhd_extent_kind kind;
	uint64_t len;
	int rc;

	for (uint64_t at = 0; at < n; at += len) {
		rc = vhd_extent(v, at % 3 ? 0 : UINT32_MAX, at, n - at, &kind, &len);
		assert(!rc && len && len <= n - at && len % 512 == 0);
		assert((kind == VHD_UNCHANGED) == (at % 3 != 0));
		for (uint64_t i = 0; kind == VHD_ZERO && i < len; i++)
			assert(!disk[at + i]);
	}
}

/* @write: a sector at each of a few places, which must be found there. */
static void use(struct vhd_image *v, int write)
{
	static uint8_t want[DISK_MAX], got[DISK_MAX];
	uint64_t n = vhd_capacity(v) < DISK_MAX ? vhd_capacity(v) : DISK_MAX;
	struct vhd_image *again;
	struct vhd_report r;
	struct err err = {0};
	int rc = img_read(vhd_img(v), want, n, 0);

	assert(!rc);
	tell(v, want, n);
	if (!write)
		return;
	for (uint64_t at = 0; !rc && at < n; at += 50 * 512) {
		rc = img_write(vhd_img(v), file.b, 512, at);
		if (!rc)
			memcpy(want + at, file.b, 512);
	}
	if (!rc && n > 100 * 512 && !img_erase(vhd_img(v), 512, 99 * 512))
		memset(want + 512, 0, 99 * 512);
	rc = img_read(vhd_img(v), got, n, 0);
	assert(!rc);
	/* Only a full file may refuse a write, and then not any more what was there. */
	assert(!memcmp(got, want, n) || file.size > FILE_MAX / 2);
	if (img_sync(vhd_img(v)))
		return;
	rc = vhd_check(io, &r, &err);
	assert(!rc && !r.beyond && !r.overlaps && !r.bad_front);
	rc = open_it(0, &again);
	assert(!rc);
	rc = img_read(vhd_img(again), want, n, 0);
	assert(!rc && !memcmp(got, want, n));
	vhd_close(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vhd_report r;
	struct vhd_image *v;
	struct err err = {0};
	uint64_t whole;

	/* The first two bytes say how long the file is: blocks need not be in the input. */
	if (size < 2 || size > FILE_MAX / 2)
		return 0;
	memset(file.b, 0, file.size);
	whole = (uint64_t)(data[0] | data[1] << 8) * 8;
	file.size = size - 2 > whole ? size - 2 : whole;
	memcpy(file.b, data + 2, size - 2);
	if (size > 4096) /* the last sector of the input is the file's */
		memmove(file.b + file.size - 512, data + size - 512, 512);
	seal();
	if (!vhd_check(io, &r, &err) && !r.overlaps && file.b[87] & 1)
		(void)vhd_repair(io, &r,
				 &err); /* what it could not mend is refused below */
	if (!open_it(0, &v)) {
		use(v, 0);
		vhd_close(v);
	}
	if (open_it(VHD_WRITE, &v))
		return 0;
	use(v, 1);
	vhd_close(v);
	return 0;
}
