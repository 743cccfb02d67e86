/* SPDX-License-Identifier: Apache-2.0
 * link - one connection: its queue pair, its two rings of memory, who waits for what.
 *
 *     link.c    from prepare to connected, and the end of it
 *     queue.c   what is posted to the device, and what its completions mean
 *     wait.c    two threads that wait for one device
 *     stream.c  the operations of transport.h
 */
#ifndef REPLICATION_RDMA_LINK_H
#define REPLICATION_RDMA_LINK_H

#include "replication/rdma/hello.h"
#include "replication/rdma/ring.h"
#include "replication/transport.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>

struct err;
struct tp_dev;

/* How far the connection manager is. */
enum link_step {
	LINK_NEW,
	LINK_ADDRESS,	/* client: the peer's address is resolved */
	LINK_ROUTE,	/* client: and the route to it */
	LINK_REQUESTED, /* server: the right peer has asked */
	LINK_UP,
	LINK_FAILED,
};

/* Registered memory. */
struct link_memory {
	uint8_t *p;
	size_t len;
	struct ibv_mr *mr;
};

/* How long one of the two threads usually waits: short waits are spent polling. */
struct link_waiter {
	uint64_t usual_ns;
};

struct link {
	struct tp tp;
	struct tp_dev *dev;
	struct link *next; /* the device's */
	int server;
	uint8_t nonce[HELLO_NONCE_LEN];

	pthread_mutex_t lock;
	pthread_cond_t change; /* for who waits for the one that waits for the device */
	int wake;	       /* eventfd: for that one */

	/* Under the lock, all below. */
	enum link_step step;
	int step_status; /* what the connection manager said when it failed */
	struct rdma_cm_id *listener, *id;
	struct hello_private peer;
	struct ibv_pd *pd;
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct link_memory mem_in, mem_out; /* the bytes themselves are not */

	struct ring_out out;
	struct ring_in in;
	struct ring_sq sq;
	int down; /* tp_shutdown() was called here */
	int dead; /* 0, or what the sender gets */
	int end;  /* 0, or what the receiver gets after the last byte */

	uint64_t changes;    /* counts whatever somebody may wait for */
	int led;	     /* somebody waits for the device */
	unsigned followers;  /* so many wait for him */
	int probing;	     /* a probe is under way: */
	uint64_t probe;	     /* its number */
	uint64_t last_heard; /* clock_mono_ns() */

	struct link_waiter sender, receiver; /* each thread's own; not under the lock */
};

/* As in module.h. */
int link_prepare(struct tp_dev *dev, int server, struct link **l_out,
		 uint8_t blob_out[HELLO_BLOB_LEN], struct err *err);
int link_connect(struct link *l, const uint8_t *blob, size_t len, unsigned timeout_ms,
		 struct err *err);
/* Breaks the connection, whatever state it is in, and frees. NULL is fine. */
void link_free(struct link *l);

/* From dev_pump(), which holds the device's lock. */
void link_cm_event(struct link *l, const struct rdma_cm_event *e);
void link_async_event(struct link *l, const struct ibv_async_event *e);
/* Takes @id if it returns 1. */
int link_requested(struct link *l, struct rdma_cm_id *id, const void *data, size_t len);

/* The rest wants the link's lock held.
 *
 * The first end counts: what the receiver gets once it has read all, the sender at once. */
void link_end(struct link *l, int error);

enum link_word { LINK_TOLD, LINK_CREDIT, LINK_BYE, LINK_ABORT };

/* Slots for the peer's announcements, credits and last words, before it can send any. */
int queue_fill(struct link *l);
/* Look at what the device has done, without waiting for it; give room back if it is due. */
void queue_progress(struct link *l);
int queue_has_slot(const struct link *l);
/* The next stretch of at most @max bytes, and whether to announce all up to its end; with
 * nothing to write, the announcement alone. Needs a slot, and a mark if @tell. */
void queue_write(struct link *l, size_t max, int tell);
/* A last word: LINK_BYE or LINK_ABORT. What was posted before arrives before it. */
void queue_say(struct link *l, enum link_word word);
/* Ask the peer's device whether it is there: the answer is a failure or nothing. */
void queue_probe(struct link *l);

/* Until something changes, it may be, or the clock says @deadline_ns (0: never): then
 * -ETIMEDOUT. Lets go of the lock meanwhile. */
int wait_change(struct link *l, struct link_waiter *w, uint64_t deadline_ns);
/* The same before there is a queue pair: for the device's events only. Lock not held. */
void wait_event(struct link *l, uint64_t deadline_ns);
/* Wake whoever waits. */
void wait_wake(struct link *l);

extern const struct tp_ops stream_ops;

#endif
