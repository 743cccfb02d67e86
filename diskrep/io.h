/* SPDX-License-Identifier: Apache-2.0
 * io - the files that a standby writes: its images and its journal, behind one ops struct.
 *
 * Whatever has to survive a power cut goes through here, so that a test can record every write and
 * flush of the shipped code, in order, and can make each of them fail.
 */
#ifndef DISKREP_IO_H
#define DISKREP_IO_H

#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"

struct dr_image;

/* A file is the number of a disk, or this. */
enum { DR_IO_JOURNAL = DR_DISKS_MAX };

/* All of it or -errno; any thread, several at once. */
struct dr_io_ops {
	int (*read)(void *self, unsigned file, void *p, size_t len, uint64_t offset);
	int (*write)(void *self, unsigned file, const void *p, size_t len,
		     uint64_t offset);
	/* The range reads as zeroes afterwards. Of images only. */
	int (*erase)(void *self, unsigned file, uint64_t offset, uint64_t len);
	/* What was written before is on stable storage. */
	int (*sync)(void *self, unsigned file);
};

struct dr_io {
	const struct dr_io_ops *ops;
	void *self;
};

/* The real ones. */
struct dr_files {
	const struct dr_image *img; /* borrowed */
	int journal;		    /* borrowed; -1: none */
};
struct dr_io dr_files_io(struct dr_files *f); /* borrows @f */

#endif
