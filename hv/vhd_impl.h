/* SPDX-License-Identifier: Apache-2.0
 * vhd_impl - the inside of an opened VHD chain (internal to hv/vhd_*.c).
 *
 * Locks. vhd_image.lock guards the leaf's table, bitmaps, lists and counters, and is held for moments,
 * never over I/O. Parents do not change but for bitmaps that are read on demand, under the same
 * lock. Two flags are waited for with the condition: growing (one thread takes new room), and
 * committing (one thread makes metadata durable).
 */
#ifndef HV_VHD_IMPL_H
#define HV_VHD_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "hv/vhd.h"

enum {
	VHD_ALIGN = 4096
}; /* of the data in new blocks: one page is one page of the file */

/* Which sectors of a block are in this file. */
struct vhd_bits {
	struct vhd_bits *next_dirty;
	uint32_t block;
	int dirty;
	int gone; /* its block was given up while it was on the dirty list */
	uint8_t map[];
};

/* One file. */
struct vhd {
	struct img io;
	int fd;
	int64_t mtime;
	struct vhd_footer_wire footer;
	struct vhd_header_wire header_wire;
	struct vhd_header header;
	enum vhd_type type;
	uint64_t capacity, file_bytes;
	uint64_t header_at;	/* of the sparse header */
	int front_bad, end_bad; /* that footer is missing or not the one that counts */
	int has_batmap;
	uint32_t bitmap_bytes;
	uint64_t end;  /* first byte behind all blocks and metadata */
	uint32_t *bat; /* header.entries of them */
	uint32_t allocated;
	/* A block's: NULL: not read yet; all_set: every sector is here. */
	struct vhd_bits **bits;
	/* Written, the leaf only: */
	uint64_t *bat_dirty; /* a bit for each sector of the table */
	int any_bat_dirty;
	struct vhd_bits *dirty;
	uint32_t
		*room; /* holes of a block's size, zeroes all over: their first sectors */
	uint32_t *given; /* given up, and still in the table on the disk */
	uint32_t rooms, room_cap, givens, given_cap;
};

extern struct vhd_bits vhd_all_set;

struct vhd_image {
	struct vhd *file[VHD_CHAIN_MAX];
	unsigned n;
	int write;
	_Atomic uint64_t capacity; /* grows under lock, and is looked at without */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int growing, committing;
	int failed; /* -errno of the first fdatasync or write of metadata that failed; stays */
	/* I/O under way, by the two parities: who gives room up, or a whole file, waits for the old one. */
	unsigned parity;
	uint64_t busy[2];
	/* The range that a pull fills from the parent, and in which nobody else writes. */
	uint64_t pull_off, pull_len;
};

/* A run of bytes that lie together. */
struct vhd_seg {
	struct vhd *file; /* NULL: zeroes */
	int level; /* of the file, now: the next one to be pushed changes it; -1: zeroes */
	uint64_t at;
	uint64_t len;
	uint32_t block, entry; /* in the leaf, if level is 0 and it is sparse */
};

/* vhd_file.c */
struct vhd_create;
struct vhd_report;
/* @report: count what is wrong with the table there, instead of refusing the file; or NULL. */
int vhd_file_open(struct img io, int fd, int64_t mtime, struct vhd_report *report,
		  struct vhd **out, struct err *err);
void vhd_file_free(struct vhd *f);
/* Its tables and lists for writing; footers mended, what lies behind the end cut off. */
int vhd_file_writable(struct vhd *f, struct err *err);
/* Does an extent [@at, @at + @len) lie inside the file? Safe for any numbers. */
int vhd_file_has(const struct vhd *f, uint64_t at, uint64_t len);
/* Bytes that a block takes, bitmap and data. */
uint64_t vhd_slot_bytes(const struct vhd *f);
/* vhd_table.c: the allocation table is read and held against all that is known. */
int vhd_table_load(struct vhd *f, struct vhd_report *report, struct err *err);
/* Holes of a block's size become room, once they are erased. With @report they are only counted. */
int vhd_table_find_room(struct vhd *f, struct vhd_report *report);
/* The new content of a footer: first where it counts, then its copy. */
int vhd_file_put_footer(struct vhd *f);

/* vhd_map.c: under lock. Where @len bytes at @off begin, as far as they lie together. 0, or -EAGAIN:
 * the bitmap of *block_out in *file_out has to be read first. */
int vhd_map(struct vhd_image *v, unsigned from_level, uint64_t off, uint64_t len,
	    struct vhd_seg *seg, struct vhd **file_out, uint32_t *block_out);
/* Read a bitmap; no lock. 0 also if @f has left the chain meanwhile: then it has to be mapped anew. */
int vhd_bits_load(struct vhd_image *v, struct vhd *f, uint32_t block);
/* Under lock: the sectors of [off, off + len) inside @block are here now. */
void vhd_bits_set(struct vhd *f, uint32_t block, uint64_t off, uint64_t len);
struct vhd_bits *vhd_bits_new(const struct vhd *f, uint32_t block);
int vhd_bit(const struct vhd_bits *b, uint32_t sector);

/* vhd_grow.c: no lock. Make sure that [off, off + len) is allocated and its bitmaps known. @masks:
 * blocks that are new hide the parent's content at once (they read as zeroes). */
int vhd_prepare(struct vhd_image *v, uint64_t off, uint64_t len, int masks);
/* Under lock: is it so? Not while it is pulled: prepare waits for that. */
int vhd_prepared(const struct vhd_image *v, uint64_t off, uint64_t len);
/* The same for who pulls; vhd_pull.c. */
int vhd_prepare_pulled(struct vhd_image *v, uint64_t off, uint64_t len);

/* vhd_commit.c: no lock. */
int vhd_commit(struct vhd_image *v);
/* Under lock: the block is unallocated from now on. -ENOMEM: it stays. */
int vhd_give_up(struct vhd *f, uint32_t block);

/* Under lock: I/O in a file begins; returns what to end it with. */
unsigned vhd_busy_begin(struct vhd_image *v);
void vhd_busy_end(struct vhd_image *v, unsigned parity);
/* vhd_commit.c, under lock, committing is the caller's: wait until all I/O that began before now has ended. */
void vhd_wait_for_strays(struct vhd_image *v);
/* vhd_make.c: the header @w with the parent of @c (NULL: none), sealed, and its locators, at *at, which moves on. */
int vhd_write_header(struct img io, const struct vhd_create *c, struct vhd_header_wire *w,
		     uint64_t *at, struct err *err);

/* vhd_resize.c: no lock. The disk becomes @size bytes, which are no fewer. Durable when it returns 0; else the
 * image is as it was. What is new reads as zeroes, unless a parent is that large. */
int vhd_enlarge(struct vhd_image *v, uint64_t size);

/* vhd_rw.c: no lock. @pulled: by who pulls there. */
int vhd_write_sparse(struct vhd_image *v, const void *p, uint64_t len, uint64_t off,
		     int pulled);
/* Where @off lies from level @from on; seg->file is not closed before vhd_io_end(). */
int vhd_map_wait(struct vhd_image *v, unsigned from, uint64_t off, uint64_t len,
		 struct vhd_seg *seg, unsigned *parity);
void vhd_io_end(struct vhd_image *v, const struct vhd_seg *seg, unsigned parity);
int vhd_erase(struct vhd_image *v, uint64_t off, uint64_t len);

#endif
