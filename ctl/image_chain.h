/* SPDX-License-Identifier: Apache-2.0
 * image_chain - a VHD file and its parents, found by what it says of them, opened and locked.
 *
 * The locks (flock) say who uses an image: who writes it has it for himself, who reads it shares it with other
 * readers. They are on the open files, so they go with the descriptors from rhead to rhea-vm, and end
 * with the last process that has them. Blocking; any thread.
 */
#ifndef CTL_IMAGE_CHAIN_H
#define CTL_IMAGE_CHAIN_H

#include <sys/stat.h>

#include "hv/vhd.h"

struct err;

struct image_chain {
	unsigned n;
	struct image_file {
		char path[VHD_PATH_MAX];
		int fd;
		struct stat st;
	} file[VHD_CHAIN_MAX];
	struct vhd_part part[VHD_CHAIN_MAX]; /* the same, for hv/vhd.h */
};

enum {
	IMAGE_WRITE = 1,	/* the leaf is to be written */
	IMAGE_WRITE_PARENT = 2, /* and its parent */
	IMAGE_ALONE = 4,	/* no parents are looked for */
};

/* Open and lock one file. Returns the descriptor, owned; -EBUSY: it is in use. */
int image_open(const char *path, int write, struct err *err);
/* @c is filled in; close it with image_chain_close(), also after a failure. */
int image_chain_open(const char *path, unsigned flags, struct image_chain *c,
		     struct err *err);
/* vhd_open() of all of it, with its name in what is told. */
int image_chain_use(const struct image_chain *c, unsigned flags, struct vhd_image **v_out,
		    struct err *err);
void image_chain_close(struct image_chain *c); /* idempotent */

/* Does the file look like a VHD image, wherever it says so? 1, 0, or -errno. */
int image_looks_like_vhd(int fd);

#endif
