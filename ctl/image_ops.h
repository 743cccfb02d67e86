/* SPDX-License-Identifier: Apache-2.0
 * image_ops - what can be done with disk images that no VM uses, by their paths.
 *
 * Each locks what it touches (image_chain.h) and refuses what is in use; what replaces a file does so by one
 * rename, after the new one is durable. Each may be broken off at any moment: the images are then
 * as before, or the same command, given again, goes on. Blocking; any thread.
 */
#ifndef CTL_IMAGE_OPS_H
#define CTL_IMAGE_OPS_H

#include "hv/vhd_make.h"

struct err;
struct image_chain;

enum image_format { IMAGE_RAW, IMAGE_VHD, IMAGE_QCOW2, IMAGE_VMDK };

typedef void image_progress(void *arg, uint64_t done, uint64_t all);

struct image_new {
	enum image_format format; /* raw or VHD */
	enum vhd_type type;	  /* of a VHD */
	uint64_t size;		  /* bytes; with a parent 0: its size */
	uint32_t block_size;	  /* 0: the usual */
	const char *parent;	  /* of VHD_DIFF */
};
/* A new file, which must not be there. */
int image_create(const char *path, const struct image_new *n, struct err *err);

/* Freeze @path under the name @snap, and make it a child of that. */
int image_snapshot(const char *path, const char *snap, struct err *err);
/* Forget what @path holds beyond its parent, or beyond @to, an image further down its chain. */
int image_revert(const char *path, const char *to, struct err *err);
/* Merge @path into its parent, and let that take its place. */
int image_coalesce(const char *path, image_progress *progress, void *arg,
		   struct err *err);
int image_resize(const char *path, enum image_format format, uint64_t size, int shrink,
		 struct err *err);
int image_check(const char *path, struct vhd_report *out, struct err *err);
/* @parent: what its parent is from now on; NULL: leave it. */
int image_repair(const char *path, const char *parent, struct vhd_report *out,
		 struct err *err);

/* image_convert.c. @to is a new file. @n: what a VHD is to be. */
int image_convert(const char *from, enum image_format from_format, const char *to,
		  enum image_format to_format, const struct image_new *n,
		  image_progress *progress, void *arg, struct err *err);

/* image_files.c: shared. */
/* A new file to write, not there before. Returns the descriptor, owned. */
int image_new_file(const char *path, struct err *err);
/* Names that were made or taken away in the folder of @path are durable. */
int image_sync_dir(const char *path, struct err *err);
/* In @out: how a file in the folder of @from (a path) gets to @to, an absolute path. */
int image_relative(const char *from, const char *to, char *out, size_t room);
/* Is there an image beside @path, other than @but (may be NULL), that has @uuid for its parent? Its name is in
 * @name then (VHD_PATH_MAX bytes). 1, 0. */
int image_has_child(const char *path, const uint8_t *uuid, const char *but, char *name);

#endif
