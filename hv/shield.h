/* SPDX-License-Identifier: Apache-2.0
 * shield - between a disk's users and its image: which of the image's errors the guest gets to see.
 *
 * Theory of operation. Every request passes through. One that fails is either answered with its error,
 * or held, which to the guest is a disk that takes long:
 *   - a write that finds no room (ENOSPC, EDQUOT) is held always, and tried again every SHIELD_RETRY_MS,
 *     until there is some;
 *   - all else is held while @all is set: somebody else can carry the request out, because it is
 *     part of the next checkpoint like any request in flight. It is tried again likewise. Once @all
 *     is cleared it is tried a last time and then answered.
 * A flush that has failed is never tried again: the kernel has dropped what it could not write, and
 * says yes the second time. It is held or answered as it is, a full disk's as well.
 *
 * What the image cannot do (EOPNOTSUPP, EINVAL, EROFS) and what the host cannot (ENOMEM, EAGAIN) is no fault of
 * the disk and is always answered.
 *
 * The kernel tells a write-back error once for each open file, to whoever flushes first. If that is somebody
 * who flushes through shield_img(), the guest's next flush is told as well.
 *
 * Memory is bounded by the device, which has so many requests at most. I/O thread, inside the loop's
 * guard, unless said otherwise.
 */
#ifndef HV_SHIELD_H
#define HV_SHIELD_H

#include <stdint.h>

#include "hv/blk.h"
#include "hv/img.h"

struct err;
struct shield;
struct loop;

enum { SHIELD_RETRY_MS = 500, SHIELD_TELL_MS = 10000 };

enum shield_what {
	SHIELD_ANSWERED, /* the guest sees the error */
	SHIELD_HELD,	 /* it waits for who takes over */
	SHIELD_FULL,	 /* it waits for room */
	SHIELD_MENDED,	 /* nothing waits any more */
};

struct shield_fault {
	enum shield_what what;
	enum blk_op op;
	uint64_t offset; /* bytes */
	int rc;		 /* -errno; 0 if mended */
};

/* Told at once what is of another sort than the last one, else every SHIELD_TELL_MS at most. */
struct shield_news {
	void (*fn)(void *arg, const struct shield_fault *f);
	void *arg;
};

struct shield_stats {
	uint64_t errors;   /* that the image gave, tries included */
	uint64_t answered; /* that the guest was told */
	unsigned waiting;  /* requests */
	struct shield_fault last;
};

/* Takes @inner, also when it fails; *outer_out is what its users get, and closing that ends *h_out. */
int shield_create(struct blk inner, struct loop *loop, struct shield_news news,
		  struct shield **h_out, struct blk *outer_out, struct err *err);
/* The same image for who may wait; @inner's ops and self live as long as it is used. */
struct img shield_img(struct shield *h, struct img inner);
/* Hold every fault, or only a full disk's. What is held follows within SHIELD_RETRY_MS. Any thread. */
void shield_all(struct shield *h, int all);
void shield_stats(struct shield *h, struct shield_stats *out); /* any thread */

#endif
