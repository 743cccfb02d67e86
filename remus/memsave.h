/* SPDX-License-Identifier: Apache-2.0
 * memsave - a guest's memory as it was at one instant, written out while it changes.
 *
 * Theory of operation. From memsave_arm() on, each page is copied once, before it is overwritten: by
 * who is about to overwrite it, or by the walker, which goes through all memory and writes everything
 * out. Two bitmaps say how far a page is: *claimed* by the one who will copy it, then *copied*; nobody
 * writes a page that is not copied. What was copied ahead of the walker waits in a queue of bounded
 * length; when that is full, who wants to overwrite waits for the disk.
 *
 *   still      nobody writes: the guest is stopped
 *   told       whoever writes says so before, by memsave_touch(): the standby, all of whose writes
 *              come from one place
 *   protected  the kernel says so (userfaultfd's write protection): a running guest, its vCPUs, the
 *              devices, and the kernel on behalf of either
 *
 * Threads: create, arm, and destroy are the owner's; run is called on a thread of the owner's; touch
 * and cancel on any.
 */
#ifndef REMUS_MEMSAVE_H
#define REMUS_MEMSAVE_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct gm;
struct memsave;
struct saved_writer;

enum memsave_how { MEMSAVE_STILL, MEMSAVE_TOLD, MEMSAVE_PROTECTED };

/* A userfaultfd that can protect guest memory, or -errno: this kernel has none, or not for us. For
 * MEMSAVE_PROTECTED; made while this process still has its privileges, good for as long as it lives. */
int memsave_uffd(void);

/* @gm is borrowed until memsave_destroy(). @uffd: of memsave_uffd(), borrowed; for MEMSAVE_PROTECTED,
 * else -1. @copies_max: bytes copied ahead, at most. Returns owned. */
int memsave_create(struct gm *gm, enum memsave_how how, int uffd, size_t copies_max,
		   struct memsave **m_out, struct err *err);
/* This is the instant. Nobody writes to memory during the call. 0 or -errno: nothing is armed. */
int memsave_arm(struct memsave *m);
/* Page @page is about to be written. Cheap once it is copied. May wait for the disk. */
void memsave_touch(struct memsave *m, uint64_t page);
/* Write all of memory to @w. Returns when that is done, or cancelled (-ECANCELED), or failed. From
 * then on nothing is protected any more. */
int memsave_run(struct memsave *m, struct saved_writer *w, struct err *err);
/* What is saved is of no use any more: nobody waits from here on. */
void memsave_cancel(struct memsave *m);
uint64_t memsave_left(const struct memsave *m); /* pages; any thread */
/* After run() has returned, if it was called; nobody touches any more. NULL is fine. */
void memsave_destroy(struct memsave *m);

#endif
