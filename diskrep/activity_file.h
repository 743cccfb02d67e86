/* SPDX-License-Identifier: Apache-2.0
 * activity_file - the activity log's file: read as hostile, written in the pieces of ACTIVITY.md.
 *
 * No locks and no threads: one owner at a time. All I/O goes through a small ops struct, so that a
 * test can be put below it.
 */
#ifndef DISKREP_ACTIVITY_FILE_H
#define DISKREP_ACTIVITY_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "diskrep/bits.h"
#include "diskrep/diskrep.h"
#include "diskrep/generation.h"

struct err;

enum {
	ACT_SECTOR = 512,
	ACT_HEAD = 16 * ACT_SECTOR,
	ACT_SLOTS = 1920,
	ACT_WORDS = 63, /* in a sector of a bitmap */
	ACT_EXTENT_SHIFT = 28,
};
/* Of one disk, bytes. */
#define ACT_CAPACITY_MAX (UINT64_C(1) << (ACT_EXTENT_SHIFT + 22))

enum act_role { ACT_NONE, ACT_WRITER, ACT_FOLLOWER };

/* What a host says of its images. */
struct dr_claim {
	struct dr_generation at;
	enum act_role role; /* ACT_NONE: nothing */
};

struct act_head {
	struct dr_claim claim;
	uint64_t capacity[DR_DISKS_MAX]; /* bytes that the claim is about */
	int open;
	uint32_t n;
	uint32_t active[ACT_SLOTS]; /* disk << ACT_EXTENT_SHIFT | extent */
};

/* 0 or -errno, and never less than asked. */
struct act_io_ops {
	int (*read)(void *self, void *p, size_t len, uint64_t at);
	int (*write)(void *self, const void *p, size_t len, uint64_t at);
	int (*sync)(void *self); /* what was written is on stable storage */
};

struct act_io {
	const struct act_io_ops *ops;
	void *self;
};

struct act_file {
	struct act_io io;
	unsigned disks;
	uint64_t capacity[DR_DISKS_MAX]; /* of the images: the file may speak of less */
	/* Of the images, to be set before it is loaded; 0: not known. */
	uint64_t identity[DR_DISKS_MAX];
	uint64_t seq; /* of the latest head */
};

/* The file behind @fd (borrowed). */
struct act_io act_io_of(const int *fd);

/* @capacity: of each image. 0, or -EFBIG with @err. */
int act_file_init(struct act_file *f, struct act_io io, const uint64_t *capacity,
		  unsigned disks, struct err *err);
/* Sectors of a bitmap for so many bytes of a disk. */
uint64_t act_file_sectors(uint64_t capacity);
/* What the file says: the head, and of each disk (sized by the caller) the words of its bitmap. It may speak of the first
 * part of a disk only, because the image has grown since. Returns 0; 1: not to be believed, and *why_out says why (a string for good); or -errno: it cannot be read. */
int act_file_load(struct act_file *f, struct act_head *head_out,
		  struct dr_bits *bitmap_out, const char **why_out);
/* Make a new one that claims nothing and is open. 0 or -errno. */
int act_file_format(struct act_file *f);
/* The next head, not yet on stable storage. */
int act_file_head(struct act_file *f, const struct act_head *h);
/* Sector @sector of @disk's bitmap becomes @words; likewise. */
int act_file_words(struct act_file *f, unsigned disk, uint64_t sector,
		   const uint64_t words[ACT_WORDS]);
int act_file_sync(struct act_file *f);
/* Nobody shall believe it any more. 0 if that is on stable storage. */
int act_file_spoil(struct act_file *f);

#endif
