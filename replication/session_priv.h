/* SPDX-License-Identifier: Apache-2.0
 * session_priv - the inside of a session: session.c (the stream), session_path.c (its paths),
 * session_watch.c (time).
 *
 * Locks, in this order: order (who sends what next), a path's send, lock (all else; short).
 */
#ifndef REPLICATION_SESSION_PRIV_H
#define REPLICATION_SESSION_PRIV_H

#include "replication/replay.h"
#include "replication/session.h"
#include "replication/transport.h"

#include <pthread.h>

/* One connection of a path. */
struct ses_path {
	struct ses_path *next;
	struct session *s;
	unsigned index;
	struct tp *tp;	      /* under a fault layer */
	pthread_mutex_t send; /* one call to tp_send or tp_flush at a time */
	pthread_t thread;
	int users; /* who may be inside of tp, the thread not counted; under s->lock */
	int dead;  /* under s->lock */
	int thread_done;   /* under s->lock */
	int resuming;	   /* RESUME was sent or is being answered; under s->lock */
	uint64_t turn;	   /* and in which change; set once, before */
	int pinged;	   /* and no answer yet; under s->lock */
	uint64_t heard_ns; /* a whole piece; under s->lock */
};

struct session {
	struct tp tp; /* first: the engine's */
	struct session_params prm;
	pthread_mutex_t order; /* the numbers of what is sent, and its way out */
	pthread_mutex_t lock;
	pthread_cond_t change; /* anything below; also wakes the watch */
	pthread_cond_t beat;
	int refs;
	/* Under lock. */
	int error;	/* of both directions, once it is over */
	int send_error; /* the sender had to wait for too long */
	int stop;	/* the helping threads are to end */
	struct ses_path *all;
	struct ses_path *slot[PATHSEL_MAX]; /* alive, of that index */
	struct ses_path *in, *out;    /* in use; @out follows @in after sending again */
	struct pathsel sel, sel_told; /* now; as the owner knows it */
	unsigned news;		      /* counts what the watch has to look at */
	struct tp_fault fault[PATHSEL_MAX];
	int reading;	      /* the receiver is inside of in->tp */
	uint64_t reading_ns;  /* since when */
	uint64_t lost_ns;     /* since when there is no @in */
	uint64_t received;    /* bytes, by whole pieces */
	uint64_t told;	      /* of them, as last told to the peer */
	uint32_t left;	      /* bytes of the frame that is being read */
	struct replay replay; /* end changes under order and lock */
	uint64_t resume_ns;   /* since when a change of paths is under way */
	uint64_t turn;	      /* the latest change, from 1 */
	/* Helpers. */
	pthread_t watch_thread, beat_thread;
	int watching, beating;
};

/* session.c. Any thread, lock held: the stream is over, with @rc for both directions. */
void ses_fail(struct session *s, int rc, const char *why);
/* Lock held: so much came that the peer is to be told now, and not with the next sign of life. */
int ses_must_tell(const struct session *s);
/* Lock held: the peer has all before @received. -EBADMSG if that cannot be. */
int ses_confirm(struct session *s, uint64_t received);

/* session_path.c */
void ses_path_get(struct ses_path *p); /* lock held */
void ses_path_put(struct ses_path *p); /* lock held */
/* Lock held. @rc: what its transport said, or 0: given up here. */
void ses_path_fail(struct ses_path *p, int rc, const char *why);
/* When anything last came in on it, part of a piece or not. */
uint64_t ses_path_heard(const struct ses_path *p);
/* One frame without content on @p. 0 or the transport's error. @try: -EAGAIN rather than wait for
 * another sender. */
int ses_say(struct ses_path *p, enum ses_type type, uint64_t received, int try);
/* Check a header that came. 0 or -EBADMSG. */
int ses_check(const struct ses_wire *h);
/* Nobody reads the path in use any more, and it is no more. Lock held; waits. */
void ses_retire(struct session *s);
/* The client goes over to path @i, which is ready. Lock held; lets go of it meanwhile. */
void ses_switch(struct session *s, unsigned i);
void *ses_path_main(void *arg);
/* Join and free what has ended. Lock held; lets go of it meanwhile. */
void ses_reap(struct session *s);

enum { SES_TURNS = 4 }; /* of the watch, in the silence that is a failure */

/* session_watch.c */
int ses_watch_start(struct session *s, struct err *err);
void ses_watch_stop(struct session *s);

#endif
