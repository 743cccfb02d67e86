/* SPDX-License-Identifier: Apache-2.0
 * saved - a guest in a file: its memory and its machine's state at one instant (SAVED.md).
 *
 * Written by one thread from front to back; a file is whole only with its last block, which comes
 * when all before it is durable. Read as hostile input. The disks are somebody else's: who starts a
 * guest from such a file sees to it that they are at the same instant.
 */
#ifndef REMUS_SAVED_H
#define REMUS_SAVED_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct gm;
struct saved_writer;

enum {
	SAVED_ID = 16,
	SAVED_VM_MAX = 63,
	SAVED_RUN = 64,		     /* pages in one block, at most */
	SAVED_STATE_MAX = 64 << 20,  /* bytes */
	SAVED_PIECE_MAX = 256 << 10, /* bytes of anything in one block */
	SAVED_HEAD_BYTES = 4096,     /* of a used file, this is all that counts */
};

#define SAVED_RAM_MAX (1ull << 40) /* bytes */

struct saved_info {
	uint8_t id[SAVED_ID];
	uint64_t term, epoch; /* UINT64_MAX: the guest ran alone */
	uint64_t wall_ns;
	uint64_t ram; /* bytes */
	char vm[SAVED_VM_MAX + 1];
	int used; /* a guest was started from it; not for writers */
};

/* Begin a file in @fd (borrowed), which is empty. Returns owned. */
int saved_create(int fd, const struct saved_info *info, struct saved_writer **w_out,
		 struct err *err);
/* 0 or -errno, which sticks: the next calls return it as well. */
int saved_put_state(struct saved_writer *w, const void *p, size_t len);
int saved_put_said(struct saved_writer *w, const void *p, size_t len);
/* @n pages from number @page on, SAVED_RUN at most. */
int saved_put_pages(struct saved_writer *w, uint64_t page, unsigned n, const void *p);
/* Make it whole and durable. */
int saved_finish(struct saved_writer *w, struct err *err);
uint64_t saved_bytes(const struct saved_writer *w); /* written so far */
void saved_free(struct saved_writer *w);	    /* NULL is fine */

/* Where the content goes. Each returns 0 or -errno. Without a function that content is only checked. */
struct saved_sink {
	int (*state)(void *arg, const void *p, size_t len);
	int (*said)(void *arg, const void *p, size_t len);
	int (*pages)(void *arg, uint64_t page, unsigned n, const void *p);
	void *arg;
};

/* The head of @fd. 0; -EBADMSG: this is no saved guest. */
int saved_head(int fd, struct saved_info *info_out, struct err *err);
/* All of it, in the file's order. What is wrong with it may be found when @sink has most of it. 0;
 * -EBADMSG with @err saying what is wrong; or what @sink returned. */
int saved_read(int fd, const struct saved_sink *sink, struct saved_info *info_out,
	       struct err *err);
/* Into @gm, which is as after power-on, and two buffers. All of it is checked; after an error @gm holds
 * a part of a guest. */
int saved_load(int fd, struct gm *gm, struct buf *state, struct buf *said,
	       struct saved_info *info_out, struct err *err);
/* A guest is about to run from it: durably not to be used again. */
int saved_use(int fd, struct err *err);

#endif
