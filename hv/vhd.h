/* SPDX-License-Identifier: Apache-2.0
 * vhd - VHD images, alone or as a chain of differencing images, as a virtual disk.
 *
 * Theory of operation. A chain is a list of files, the one that is written (the leaf) first, then its
 * parent, and so on to one that has none. Opening a file reads its footer, header and
 * allocation table, checks them against each other and the file's size, and refuses what does
 * not fit; bitmaps are read when they are needed. VHD.md tells what is written in which order, and
 * why a power cut between any two writes loses nothing that was flushed:
 *   - room for a block is taken at the end of the file (or in a hole that was made before): its bitmap
 *     first, a footer behind it; the table points to it only in memory;
 *   - data goes straight to its place; its bits of the bitmap are set in memory when it is there;
 *   - a flush is: fdatasync, then the table's and bitmaps' sectors that changed before it, then
 *     fdatasync. So nothing on the disk ever points to what is not there.
 *   - room that was given up is used again only when the table on the disk does not point to it any
 *     more and nobody reads or writes there.
 *
 * A vhd_image is for threads that may wait (vhd_img(), any number of them); vhd_blk.c serves the same
 * image to a device, without waiting on the I/O thread. Both may go on at one time.
 */
#ifndef HV_VHD_H
#define HV_VHD_H

#include <stddef.h>
#include <stdint.h>

#include "hv/img.h"
#include "hv/vhd_format.h"

struct blk;
struct err;
struct loop;
struct vhd;
struct vhd_image;

enum { VHD_CHAIN_MAX = 32 };

/* One file of a chain. */
struct vhd_part {
	struct img io; /* borrowed: what it is read and written through */
	int fd; /* the same (borrowed), for the ring of vhd_blk; -1: not to be served so */
	int64_t mtime; /* Unix time of its last change, as it was before anything was written */
};

enum {
	VHD_WRITE = 1, /* the leaf is written; else nothing is */
	/* A parent that was changed since its child was made is taken. For tools that mend. */
	VHD_ANY_PARENT = 2,
	/* Also a leaf that is being merged into its parent. For the tool that goes on with it. */
	VHD_MERGING = 4,
};

struct vhd_info {
	enum vhd_type type;
	uint64_t capacity; /* bytes */
	uint64_t file_bytes;
	uint32_t block_size, entries, allocated; /* 0 for a fixed image */
	char creator[5];
	uint8_t uuid[VHD_UUID_LEN], parent_uuid[VHD_UUID_LEN];
	uint32_t parent_time;
	int merging;	   /* into its parent; was broken off */
	int footer_mended; /* one of the two footers was missing or wrong */
	char parent_name[VHD_PATH_MAX];
	/* What the locators say, those of them that could be read; "" else. In the order in which they
	 * should be tried: relative to the image's folder first. */
	char parent_path[VHD_LOCATORS + 1][VHD_PATH_MAX];
	unsigned parent_paths;
};

/* What one file says of itself, whether its parents are there or not. */
int vhd_probe(struct img io, struct vhd_info *out, struct err *err);

/* The chain @part[0..n), the leaf first. Returns owned in *out. With VHD_WRITE the leaf's footers
 * are mended and what a crash left behind its end is cut off. -ESTALE: a parent is not the one that
 * its child was made from, or changed since. */
int vhd_open(const struct vhd_part *part, unsigned n, unsigned flags,
	     struct vhd_image **out, struct err *err);
/* Makes durable what was written (errors go unheard: sync before). NULL is fine. No call may be
 * under way. */
void vhd_close(struct vhd_image *v);

uint64_t vhd_capacity(const struct vhd_image *v);
void vhd_info(struct vhd_image *v, struct vhd_info *out);
/* The virtual disk. Offsets and lengths in whole sectors and inside it, else -EINVAL. */
struct img vhd_img(struct vhd_image *v);

enum vhd_extent_kind { VHD_UNCHANGED, VHD_ZERO, VHD_DATA };
/* What the disk holds at @off, at most @len bytes of it, whole sectors inside it (else -EINVAL). @since
 * is the number of a file of the chain: what none of the files above it has is unchanged since that was the
 * leaf; the files' number or more: nothing counts as unchanged. 0 or -errno. Any thread; with a
 * @since only while no child is pushed. */
int vhd_extent(struct vhd_image *v, unsigned since, uint64_t off, uint64_t len,
	       enum vhd_extent_kind *kind_out, uint64_t *len_out);

/* vhd_push.c. @part, an empty child of the leaf, opened (borrowing its descriptor), to become the leaf later: owned by the caller
 * until vhd_push() has taken it. */
int vhd_child_open(struct vhd_image *v, const struct vhd_part *part,
		   struct vhd **child_out, struct err *err);
void vhd_child_close(struct vhd *child); /* NULL is fine */
/* From now on @child (taken, unless it fails) is written. All before was written and made durable, and nothing is being
 * written; reads may go on. Any thread. -EBUSY: it was written after the last flush. */
int vhd_push(struct vhd_image *v, struct vhd *child, struct err *err);
int vhd_leaf_fd(struct vhd_image *v); /* borrowed; -1: none was given */

/* vhd_pull.c: the leaf becomes independent of its parent while it is used. Any thread; one at a time for an image, and no
 * push meanwhile.
 * All that the parent itself has and the leaf lacks is copied into the leaf; made durable. @pace (NULL: none) is told
 * each time how many bytes were done of how many, may wait, and ends it by returning not 0, which is returned. */
int vhd_pull(struct vhd_image *v,
	     int (*pace)(void *arg, uint64_t bytes, uint64_t done, uint64_t all),
	     void *arg, struct err *err);
/* After it: the leaf is a child of @c's from now on (its parent_* members), which is its parent's parent; NULL: there is
 * none, and it becomes dynamic. Durable when it returns 0; before, the old parent holds. */
struct vhd_create;
int vhd_reparent(struct vhd_image *v, const struct vhd_create *c, struct err *err);
/* After that: the old parent leaves the chain, and nobody reads it any more. Its descriptor is in *fd_out. */
int vhd_drop(struct vhd_image *v, int *fd_out, struct err *err);
/* The same for a file that is not the leaf. @c is a chain of file @level and its parents, opened apart, to which the three
 * above were done; its leaf takes the place of @v's files @level and @level + 1, whose descriptors are in fd_out[2]. @c is closed. */
int vhd_replace(struct vhd_image *v, unsigned level, struct vhd_image *c, int fd_out[2],
		struct err *err);
/* The file of the chain that is image @uuid: its number, and its descriptor in *fd_out; -ENOENT. */
int vhd_find(struct vhd_image *v, const uint8_t *uuid, int *fd_out);
/* How many files the chain has, and the descriptor (borrowed) of each in fd[VHD_CHAIN_MAX]. */
unsigned vhd_files(struct vhd_image *v, int *fd);

/* As a device's backend, over io_uring, on @loop. Borrows @v, which has descriptors; after close()
 * of the backend it is the caller's to close. */
int vhd_blk_open(struct vhd_image *v, struct loop *loop, struct blk *blk_out,
		 struct err *err);
/* Writes, discards and zeroes that are submitted from now on wait; once none is under way any more, @drained is
 * called, on the I/O thread or in this call. Reads and flushes go on. Inside the loop's guard. */
void vhd_blk_hold(struct blk b, void (*drained)(void *arg), void *arg);
/* What waits goes on, in order. Inside the loop's guard; nothing is held: nothing happens. */
void vhd_blk_release(struct blk b);

#endif
