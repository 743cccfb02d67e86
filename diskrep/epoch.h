/* SPDX-License-Identifier: Apache-2.0
 * epoch - what one epoch changes on the disks, as the standby keeps it (internal to diskrep).
 */
#ifndef DISKREP_EPOCH_H
#define DISKREP_EPOCH_H

#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"
#include "diskrep/room.h"

struct dr_note;

struct drs_entry {
	struct drs_entry *next;
	uint32_t disk;
	int erase;  /* the range becomes zeroes; no bytes follow */
	int resize; /* the disk has @len bytes from here on; no bytes follow */
	uint64_t offset, len;
	const uint8_t *bytes; /* in the epoch's room */
};

struct drs_epoch {
	struct drs_epoch *next;
	uint64_t epoch;
	struct drs_entry *first, **tail; /* in order of submission */
	uint32_t records;
	uint64_t bytes;	       /* of their payloads */
	size_t cost;	       /* memory */
	struct dr_room room;   /* of the entries and what they write */
	struct dr_note *notes; /* for when it is in the images */
	int cut;   /* the last of them is one: nothing later is done before it */
	int whole; /* the barrier came and fits */
	int checked;
	/* Of the disks, bytes: while it runs, which all of its writes keep to; and when it ends. */
	uint64_t capacity[DR_DISKS_MAX], after[DR_DISKS_MAX];
	uint32_t grow_disk;  /* is to get room */
	uint64_t grow_bytes; /* so much; 0: none is */
};

#endif
