/* SPDX-License-Identifier: Apache-2.0
 * vhd_table - the block allocation table, held against the file and against itself.
 *
 * The table may name any place: the header, another block, what is far behind the end. Nothing is
 * served from a table of which any entry is wrong; `rheactl image repair` says what it would do.
 */
#include "hv/vhd_impl.h"
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM_MAX = 16384 }; /* holes that are made ready for use at one time */

struct extent {
	uint64_t at, len;
};

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The first sectors of all blocks, ascending. Owned; NULL if there are none or no memory. */
static uint32_t *sorted(const struct vhd *f)
{
	uint32_t *s, n = 0;

	if (!f->allocated)
		return NULL;
	s = malloc((size_t)f->allocated * sizeof(*s));
	for (uint32_t i = 0; s && i < f->header.entries; i++)
		if (f->bat[i] != VHD_UNUSED)
			s[n++] = f->bat[i];
	if (s)
		qsort(s, n, sizeof(*s), by_number);
	return s;
}

/* What of the file is not for blocks. */
static unsigned reserved(const struct vhd *f, struct extent *e)
{
	unsigned n = 0;

	e[n++] = (struct extent){0, VHD_SECTOR};
	e[n++] = (struct extent){f->header_at, sizeof(f->header_wire)};
	e[n++] = (struct extent){f->header.table_offset, (uint64_t)f->header.entries * 4};
	for (unsigned i = 0; f->type == VHD_DIFF && i < VHD_LOCATORS; i++)
		if (f->header.locator[i].code && f->header.locator[i].len)
			e[n++] = (struct extent){f->header.locator[i].offset,
						 f->header.locator[i].len};
	return n;
}

static int overlap(uint64_t at, uint64_t len, const struct extent *e)
{
	return e->at < at + len && at < e->at + e->len;
}

static int over_metadata(uint64_t at, uint64_t len, const struct extent *e, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		if (overlap(at, len, &e[k]))
			return 1;
	return 0;
}

/* With @r nothing is refused but counted. */
static int check_entries(const struct vhd *f, const uint32_t *s, struct vhd_report *r,
			 struct err *err)
{
	struct extent res[3 + VHD_LOCATORS];
	unsigned n = reserved(f, res);
	uint64_t slot = vhd_slot_bytes(f);

	for (uint32_t i = 0; i < f->allocated; i++) {
		uint64_t at = (uint64_t)s[i] * VHD_SECTOR;
		int beyond = !vhd_file_has(f, at, slot);
		int twice = i && at < (uint64_t)s[i - 1] * VHD_SECTOR + slot;
		int over = over_metadata(at, slot, res, n);

		if (r) {
			r->beyond += beyond;
			r->overlaps += twice || over;
		} else if (beyond) {
			return err_set(
				err, -EBADMSG,
				"a block at %llu reaches beyond the end of the file: "
				"rheactl image repair can drop it",
				(unsigned long long)at);
		} else if (twice || over) {
			return err_set(err, -EBADMSG, "a block at %llu lies over %s",
				       (unsigned long long)at,
				       twice ? "another one" : "the header");
		}
	}
	return 0;
}

static void find_end(struct vhd *f, const uint32_t *s)
{
	struct extent res[3 + VHD_LOCATORS];
	unsigned n = reserved(f, res);
	uint64_t end;

	/* The locators' room belongs to them, too, if it makes sense. */
	for (unsigned k = 0; k < n; k++) {
		end = res[k].at + res[k].len;
		if (vhd_file_has(f, res[k].at, res[k].len) && end > f->end)
			f->end = end;
	}
	for (unsigned i = 0; f->type == VHD_DIFF && i < VHD_LOCATORS; i++) {
		const struct vhd_locator *l = &f->header.locator[i];

		if (l->code && vhd_file_has(f, l->offset, l->space) &&
		    l->offset + l->space > f->end)
			f->end = l->offset + l->space;
	}
	for (uint32_t i = 0; i < f->allocated; i++) {
		end = (uint64_t)s[i] * VHD_SECTOR + vhd_slot_bytes(f);
		if (end <= f->file_bytes && end > f->end)
			f->end = end;
	}
	f->end = (f->end + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
	/* A locator's room may reach into the footer of a file that is as short as possible. */
	if (!f->end_bad && f->end > f->file_bytes - VHD_SECTOR)
		f->end = f->file_bytes - f->file_bytes % VHD_SECTOR;
}

static int read_table(struct vhd *f, struct err *err)
{
	uint64_t bytes = (uint64_t)f->header.entries * 4;
	int rc;

	if (f->header.table_offset < VHD_SECTOR || f->header.table_offset % VHD_SECTOR ||
	    !vhd_file_has(f, f->header.table_offset, bytes))
		return err_set(err, -EBADMSG,
			       "the allocation table lies outside the file");
	f->bat = calloc(f->header.entries, sizeof(*f->bat));
	f->bits = calloc(f->header.entries, sizeof(struct vhd_bits *));
	if (!f->bat || !f->bits)
		return err_set(err, -ENOMEM, "no memory for the allocation table");
	rc = img_read(f->io, f->bat, bytes, f->header.table_offset);
	if (rc)
		return err_sys(err, rc, "reading the allocation table");
	for (uint32_t i = 0; i < f->header.entries; i++) {
		f->bat[i] = be32toh(f->bat[i]);
		f->allocated += f->bat[i] != VHD_UNUSED;
	}
	return 0;
}

int vhd_table_load(struct vhd *f, struct vhd_report *report, struct err *err)
{
	uint32_t *s;
	int rc = read_table(f, err);

	if (rc)
		return rc;
	s = sorted(f);
	if (f->allocated && !s)
		return err_set(err, -ENOMEM, "no memory for the allocation table");
	rc = check_entries(f, s, report, err);
	if (!rc)
		find_end(f, s);
	free(s);
	return rc;
}

static int add_room(struct vhd *f, uint64_t at)
{
	uint32_t *more;

	if (f->rooms == f->room_cap) {
		more = reallocarray(f->room, f->room_cap + 64, sizeof(*more));
		if (!more)
			return -ENOMEM;
		f->room = more;
		f->room_cap += 64;
	}
	f->room[f->rooms++] = (uint32_t)(at / VHD_SECTOR);
	return 0;
}

/* Blocks at one alignment fit in the hole [from, to). What was there is erased: a block begins as
 * zeroes. A file may have holes for more blocks than its disk has, or seem to: what is beyond
 * ROOM_MAX is found the next time. */
static int use_hole(struct vhd *f, uint64_t from, uint64_t to, struct vhd_report *r)
{
	uint64_t slot = vhd_slot_bytes(f), step, at;
	int rc = 0;

	to = to < f->file_bytes ? to : f->file_bytes;
	at = (from + f->bitmap_bytes + VHD_ALIGN - 1) / VHD_ALIGN * VHD_ALIGN -
	     f->bitmap_bytes;
	step = (slot + VHD_ALIGN - 1) / VHD_ALIGN * VHD_ALIGN;
	if (at > to || to - at < slot)
		return 0;
	if (r) {
		r->holes += ((to - at - slot) / step + 1) * slot;
		return 0;
	}
	for (; !rc && at <= to - slot && f->rooms < ROOM_MAX; at += step) {
		rc = img_erase(f->io, at, slot);
		rc = rc ? rc : add_room(f, at);
	}
	return rc;
}

static int by_place(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	return (x->at > y->at) - (x->at < y->at);
}

/* All that is taken, in order. Owned; NULL: out of memory. */
static struct extent *taken(const struct vhd *f, size_t *n_out)
{
	struct extent *e = calloc(f->allocated + 3 + VHD_LOCATORS, sizeof(*e));
	size_t n;

	if (!e)
		return NULL;
	n = reserved(f, e);
	for (uint32_t i = 0; i < f->header.entries; i++)
		if (f->bat[i] != VHD_UNUSED)
			e[n++] = (struct extent){(uint64_t)f->bat[i] * VHD_SECTOR,
						 vhd_slot_bytes(f)};
	qsort(e, n, sizeof(*e), by_place);
	*n_out = n;
	return e;
}

int vhd_table_find_room(struct vhd *f, struct vhd_report *report)
{
	uint64_t first = UINT64_MAX, last = 0;
	struct extent *e;
	size_t n = 0;
	int rc = 0;

	if (f->has_batmap)
		return 0;
	e = taken(f, &n);
	if (!e)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->header.entries; i++)
		if (f->bat[i] < first)
			first = f->bat[i];
	/* Only behind the first block: what is before it may be of a maker that we do not know. */
	for (size_t i = 0; !rc && i < n; i++) {
		if (last && e[i].at > last)
			rc = use_hole(f, last, e[i].at, report);
		if (e[i].at >= first * VHD_SECTOR && e[i].at + e[i].len > last)
			last = e[i].at + e[i].len;
	}
	free(e);
	return rc;
}
