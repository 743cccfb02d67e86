/* SPDX-License-Identifier: Apache-2.0
 * journal_witness - is this the image that the journal was kept for?
 *
 * Whoever puts another image in a disk's place, an older copy of the same perhaps, and leaves the journal, would have
 * it replayed onto that. So each superblock knows some sectors as they are at its tail: of those that were
 * written last, because an older copy has not got them. Recovery looks at those that nothing in the ring
 * writes. A copy of an image has all of them, wherever it is.
 *
 * A disk that has lost a write that it confirmed is found out in the same way, if it is one of them.
 */
#include "diskrep/journal_priv.h"

#include "diskrep/epoch.h"
#include "hv/base/log.h"
#include "hv/base/xxh.h"

#include <errno.h>
#include <string.h>

enum { DISK_SHIFT = 48 };

static uint64_t sum_of(const void *sector)
{
	return XXH3_64bits(sector, JOURNAL_SECTOR);
}

void journal_witness_read(const struct jw_super *w, struct journal_witness *out)
{
	for (unsigned i = 0; i < JOURNAL_WITNESSES; i++) {
		uint64_t place = le64_get(w->witness[i].place);
		uint64_t sector = (place & ((UINT64_C(1) << DISK_SHIFT) - 1)) - 1;

		out[i] = (struct journal_witness){.there = !!place,
						  .disk = (uint32_t)(place >> DISK_SHIFT),
						  .offset = sector * JOURNAL_SECTOR,
						  .sum = le64_get(w->witness[i].sum)};
	}
}

void journal_witness_write(struct jw_super *w, const struct journal_witness *in)
{
	for (unsigned i = 0; in && i < JOURNAL_WITNESSES; i++) {
		if (!in[i].there)
			continue;
		w->witness[i].place = le64_of(((uint64_t)in[i].disk << DISK_SHIFT) +
					      in[i].offset / JOURNAL_SECTOR + 1);
		w->witness[i].sum = le64_of(in[i].sum);
	}
}

void journal_witness_drop(struct journal_witness *w, uint32_t disk, uint64_t offset,
			  uint64_t len)
{
	for (unsigned i = 0; i < JOURNAL_WITNESSES; i++)
		if (w[i].disk == disk && w[i].offset + JOURNAL_SECTOR > offset &&
		    w[i].offset < offset + len)
			w[i].there = 0;
}

static void add(struct journal *j, uint32_t disk, uint64_t offset, uint64_t sum)
{
	j->witness[j->next_witness] = (struct journal_witness){
		.there = 1, .disk = disk, .offset = offset, .sum = sum};
	j->next_witness = (j->next_witness + 1) % JOURNAL_WITNESSES;
}

void journal_witness_entry(struct journal *j, const struct drs_entry *n)
{
	if (n->resize)
		return; /* what is there stays */
	journal_witness_drop(j->witness, n->disk, n->offset, n->len);
	if (!n->erase && n->len >= JOURNAL_SECTOR && n->offset % JOURNAL_SECTOR == 0)
		add(j, n->disk, n->offset, sum_of(n->bytes));
}

void journal_look(struct journal *j, struct journal_spot *spot)
{
	unsigned n = j->disks.n;
	uint8_t sector[JOURNAL_SECTOR];

	for (unsigned i = 0; n && i < JOURNAL_WITNESSES; i++) {
		unsigned disk = i % n;
		uint64_t sectors = j->capacity[disk] / JOURNAL_SECTOR;
		uint64_t at =
			sectors / (2 * JOURNAL_WITNESSES) * (2 * i + 1) * JOURNAL_SECTOR;

		if (j->witness[i].there || !sectors)
			continue;
		/* What cannot be read is no witness. */
		if (j->io.ops->read(j->io.self, disk, sector, sizeof(sector), at))
			continue;
		j->witness[i] = (struct journal_witness){
			.there = 1, .disk = disk, .offset = at, .sum = sum_of(sector)};
	}
	memcpy(spot->witness, j->witness, sizeof(spot->witness));
}

int journal_witness_denied(struct journal *j, const struct journal_witness *w)
{
	uint8_t sector[JOURNAL_SECTOR];

	for (unsigned i = 0; i < JOURNAL_WITNESSES; i++) {
		if (!w[i].there || w[i].disk >= j->disks.n ||
		    w[i].offset + JOURNAL_SECTOR > j->disks.capacity[w[i].disk])
			continue;
		if (!j->io.ops->read(j->io.self, w[i].disk, sector, sizeof(sector),
				     w[i].offset) &&
		    sum_of(sector) != w[i].sum)
			return (int)w[i].disk;
	}
	return -1;
}
