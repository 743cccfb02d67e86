/* SPDX-License-Identifier: Apache-2.0
 * memsave_priv - what the files of memsave share.
 */
#ifndef REMUS_MEMSAVE_PRIV_H
#define REMUS_MEMSAVE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "hv/gm.h"
#include "remus/memsave.h"
#include "remus/saved.h"

/* A page that was copied ahead of the walker. */
struct memsave_copy {
	struct memsave_copy *next;
	uint64_t page;
	uint8_t data[GM_PAGE];
};

struct memsave {
	struct gm *gm;
	enum memsave_how how;
	uint64_t pages;
	atomic_uint_fast64_t *claimed, *copied; /* bitmaps */
	atomic_uint_fast64_t left; /* pages neither written nor known to be zero */
	atomic_int off;		   /* cancelled, or done: nobody need copy */

	pthread_mutex_t lock;
	pthread_cond_t room, news; /* in the queue */
	struct memsave_copy *head, **tail;
	size_t queued, queue_max;
	int failed; /* -errno of who copied ahead */

	/* Walker only. */
	uint64_t data_from,
		data_to; /* the last stretch that was ever written, as pages */
	uint8_t run[SAVED_RUN * GM_PAGE];

	/* Protected. */
	int uffd, stop_fd, armed, has_thread;
	pthread_t thread;
};

/* memsave_fault.c: the kernel's part; nothing to do for the other ways. */
int memsave_protect(struct memsave *m); /* all of memory, and serve faults; 0 or -errno */
void memsave_unprotect(struct memsave *m, uint64_t page,
		       unsigned n);	       /* they are copied: let go who waits */
void memsave_unprotect_all(struct memsave *m); /* idempotent */

#endif
