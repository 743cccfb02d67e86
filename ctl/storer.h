/* SPDX-License-Identifier: Apache-2.0
 * storer - writes grants to the disk on a thread of its own, so that fsync never stops the loop.
 */
#ifndef CTL_STORER_H
#define CTL_STORER_H

#include <stdint.h>

#include "ctl/config.h"
#include "ctl/grant.h"

struct err;
struct loop;
struct storer;

struct store_request {
	unsigned index; /* the VM's, for the answer */
	uint64_t id;	/* the caller's */
	char vm[CONFIG_NAME_MAX];
	struct grant grant;
};

/* @done is called on the loop's thread, once for each request, in order; @why is "" when @ok.
 * @dir and @loop are borrowed. Returns owned. */
int storer_create(const char *dir, struct loop *loop,
		  void (*done)(void *arg, unsigned index, uint64_t id, int ok,
			       const char *why),
		  void *arg, struct storer **s_out, struct err *err);
/* Finishes what was asked for; no callback any more. On the loop's thread, or after it ended.
 * NULL is fine. */
void storer_destroy(struct storer *s);
/* Queue one (copied). 0 or -ENOMEM. The loop's thread. */
int storer_submit(struct storer *s, const struct store_request *rq);

#endif
