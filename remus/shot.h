/* SPDX-License-Identifier: Apache-2.0
 * shot - the pages that one capture copied, and the queue of shots on their way to the sender.
 *
 * Threads: any may get and put; the queue has one that adds and one that takes.
 */
#ifndef REMUS_SHOT_H
#define REMUS_SHOT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "remus/stream.h"

enum { SHOT_DIGESTS = 64 };

/* The arrays have room for all of memory, so that nothing is allocated while the guest stands;
 * untouched parts of them cost address space only. */
struct shot {
	uint64_t epoch;
	size_t n;
	uint64_t *index;
	void **page;
	void **content; /* the sender's: the pages as they were before it changed some for others */
	/* Of hot pages, what changed: bodies of pagewords.h, PW_BODY_MAX bytes apart. */
	size_t n_hot;
	struct shot_hot {
		uint64_t index;
		unsigned len; /* 0: nothing */
	} * hot;
	uint8_t *body;
	/* What the checkpoint before is checked by. */
	unsigned n_digests;
	struct digest_wire digest[SHOT_DIGESTS];
	struct shot *next;
};

struct shots {
	uint64_t pages; /* of memory */
	pthread_mutex_t lock;
	struct shot *head, **tail, *free;
};

void shots_init(struct shots *q, uint64_t pages);
void shots_fini(struct shots *q); /* what is queued must have been taken */

struct shot *shots_get(struct shots *q); /* an empty one; NULL: out of memory */
void shots_put(struct shots *q,
	       struct shot *s); /* its pages belong to somebody else by now */
void shots_queue(struct shots *q, struct shot *s);
struct shot *shots_next(struct shots *q); /* the oldest in the queue, or NULL */
/* One that shots_get() need not allocate. */
void shots_settle(struct shots *q);

#endif
