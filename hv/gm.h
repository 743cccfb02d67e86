/* SPDX-License-Identifier: Apache-2.0
 * gm - guest memory: one memfd, mapped once, seen by the guest in one or two pieces.
 *
 * "Page" is 4 KiB; a page's index is its offset in the memfd / 4096, without the hole below
 * 4 GiB, and is what checkpoints speak of. Guest-physical addresses come from the guest and
 * are hostile: only gm_at() and the helpers turn them into pointers.
 */
#ifndef HV_GM_H
#define HV_GM_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct gm;

enum { GM_PAGE = 4096 };
enum { GM_STEP = 2 << 20, GM_MIN = 16 << 20 }; /* of a guest's memory, in bytes */

/* @bytes: multiple of GM_STEP, at least GM_MIN. Returns owned. */
int gm_create(uint64_t bytes, struct gm **gm_out, struct err *err);
void gm_destroy(struct gm *gm); /* NULL is fine */

uint64_t gm_bytes(const struct gm *gm);
uint64_t gm_pages(const struct gm *gm);
int gm_fd(const struct gm *gm);	       /* the memfd; borrowed */
uint8_t *gm_base(const struct gm *gm); /* page index i is at gm_base() + i * GM_PAGE */

/* The pieces of guest-physical memory, from the lowest on. Returns how many. */
enum { GM_REGIONS_MAX = 2 };
struct gm_region {
	uint64_t gpa, bytes;
	uint8_t *host;
};
unsigned gm_regions(const struct gm *gm, struct gm_region out[GM_REGIONS_MAX]);

/* Host address of [gpa, gpa + len), or NULL if any byte of it is not RAM or it wraps or
 * crosses the hole. Whoever writes through it calls gm_mark() afterwards, before the guest
 * is told. Any thread. */
void *gm_at(const struct gm *gm, uint64_t gpa, uint64_t len);
/* The VMM wrote [gpa, gpa + len): count its pages as dirty (KVM's log does not see our
 * writes). Any thread; lock-free. Out-of-range is ignored. */
void gm_mark(struct gm *gm, uint64_t gpa, uint64_t len);
/* Copy in and out; 0 or -EFAULT. gm_write() marks. */
int gm_write(struct gm *gm, uint64_t gpa, const void *src, uint64_t len);
int gm_read(const struct gm *gm, uint64_t gpa, void *dst, uint64_t len);

/* All zeroes again, as after power-on; marks every page. The guest must not run, and nobody may
 * hold a pointer's content for true. 0 or -errno. */
int gm_clear(struct gm *gm, struct err *err);

/* Give the memory to KVM as slots of @vm_fd (borrowed). Once. */
int gm_attach(struct gm *gm, int vm_fd, struct err *err);
/* Dirty logging on or off. On: the log starts empty, so what was written before must be
 * sent whole by other means. Guest may run. Before gm_attach() only our own writes count. */
int gm_log(struct gm *gm, int on, struct err *err);
/* OR all pages written since they were protected last (by the guest and by us) into @bitmap
 * (gm_pages() bits, little-endian words). Our own marks move there; KVM's log stays as it is,
 * so a page that is not protected afterwards costs the guest no fault when it is written
 * again, and is named again each time. @words: a bit for each word of @bitmap, set where a page
 * was named, so that a large bitmap need not be read whole; or NULL. Costs the guest nothing. 0 or -errno; after an error
 * some marks may be in neither place: the caller must treat the checkpoint as failed and sync
 * in full. One thread at a time, also with the two below. */
int gm_peek(struct gm *gm, uint64_t *bitmap, uint64_t *words);
/* Start anew for the pages that @bitmap names in its words [from, to): the next write to each is
 * logged. What is copied after this, while the guest runs, may be torn, but then it will be named
 * again. 0 or -errno. */
int gm_protect(struct gm *gm, const uint64_t *bitmap, uint64_t from, uint64_t to);
/* gm_peek(), and gm_protect() for all that it found. */
int gm_harvest(struct gm *gm, uint64_t *bitmap);

#endif
