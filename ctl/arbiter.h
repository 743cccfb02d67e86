/* SPDX-License-Identifier: Apache-2.0
 * arbiter - the third party that lets exactly one host take the next term of a VM.
 *
 * Theory of operation. A kind of arbiter offers two blocking operations on one key for
 * each VM (term, owner): read it, and compare-and-set it. A few worker threads call them,
 * so that rhead's loop never waits, and post the answer to the loop. Each request gets
 * exactly one answer.
 *
 * A compare-and-set whose answer was lost may have happened, or may still happen. It is
 * answered ARB_UNREACHABLE unless reading the key back settles it. Nothing is misread
 * later: the value carries this process's nonce, so asking for the same step again finds
 * its own success and answers ARB_GRANTED; and the comparison is with the very revision
 * that was read, so a late request can only hit the state that it was made for.
 */
#ifndef CTL_ARBITER_H
#define CTL_ARBITER_H

#include <stdint.h>

#include "ctl/config.h"

struct arbiter;
struct err;
struct loop;

enum { ARB_WHY_MAX = 160, ARB_WORKERS = 4, ARB_QUEUE_MAX = 4 * CONFIG_VMS_MAX };

struct arb_value {
	uint64_t term; /* 0: the key is absent */
	char owner[CONFIG_NAME_MAX];
};

enum arb_result {
	ARB_VALUE,   /* read: value is what is there */
	ARB_GRANTED, /* cas: done (now or by an earlier try of this process); value is the
			new one */
	ARB_REFUSED, /* cas: something else is there; value says what. It did not and will
		      * not happen by this request. */
	ARB_UNREACHABLE /* not answered in time by any endpoint, or outcome unknown; why
			   tells */
};
const char *arb_result_name(enum arb_result r);

struct arb_request {
	char vm[CONFIG_NAME_MAX];
	int is_read;
	struct arb_value expect; /* cas: term 0 = the key must be absent */
	struct arb_value desired;
	int force; /* cas: any term below desired.term will do, whoever owns it: tells an
		    * operator's override */
	uint64_t id; /* the caller's; comes back in the answer */
};

struct arb_answer {
	uint64_t id;
	char vm[CONFIG_NAME_MAX];
	enum arb_result result;
	struct arb_value value;
	char why[ARB_WHY_MAX];
};

/* One kind of arbiter. All operations may be called on several worker threads at once,
 * each with its own @worker from worker_open. None waits longer than the configured
 * time-outs allow. */
struct arbiter_ops {
	const char *name;
	int (*worker_open)(const struct config *cfg, uint64_t nonce, void **worker_out,
			   struct err *err);
	void (*worker_close)(void *worker);
	/* Fill *ans except id and vm. */
	void (*read)(void *worker, const struct arb_request *rq, struct arb_answer *ans);
	void (*cas)(void *worker, const struct arb_request *rq, struct arb_answer *ans);
};

extern const struct arbiter_ops arbiter_etcd, arbiter_manual;
/* All kinds, by enum config_arbiter_kind. */
extern const struct arbiter_ops *const arbiter_kinds[];

/* Start the workers. @cfg and @loop are borrowed until arbiter_destroy(). @on_answer is
 * called on the loop's thread. Call it after blocking the signals that the loop handles.
 */
int arbiter_create(const struct config *cfg, struct loop *loop,
		   void (*on_answer)(void *arg, const struct arb_answer *ans), void *arg,
		   struct arbiter **a_out, struct err *err);
/* Waits for requests under way (bounded by their time-outs). Queued requests are dropped
 * and no answer is delivered any more. On the loop's thread, or after it ended. NULL is
 * fine. */
void arbiter_destroy(struct arbiter *a);
/* Queue a request (copied). 0, -EAGAIN (queue full), -ENOMEM; then no answer comes. Any
 * thread. */
int arbiter_submit(struct arbiter *a, const struct arb_request *rq);
const char *arbiter_name(const struct arbiter *a);

#endif
