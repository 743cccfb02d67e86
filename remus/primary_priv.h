/* SPDX-License-Identifier: Apache-2.0
 * primary_priv - what the files of the primary's engine share.
 *
 * Theory of operation. Three threads. The epoch thread lives as long as the engine; it alone
 * changes the state, makes and ends links and stops the guest, and it serves what operators
 * ask for (attach, detach, alone, between, fence) one by one between two epochs. A link
 * adds the sender (pre-copy, then each captured epoch) and the receiver (acks, in order). Any
 * of the three may find the link broken: link_fail() marks it, the epoch thread cleans up.
 *
 * Epochs are counted, not listed: acked <= end_begun <= captured, and whoever is behind waits
 * for the one before it.
 */
#ifndef REMUS_PRIMARY_PRIV_H
#define REMUS_PRIMARY_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "hv/base/err.h"
#include "remus/control.h"
#include "remus/primary.h"
#include "remus/stream.h"
#include "remus/watch.h"
#include "replication/record.h"

enum { PRI_INFLIGHT_MAX = 64 };

/* An operator's wish, on the stack of who wishes it. */
struct command {
	int (*run)(struct primary *p, void *arg); /* epoch thread, no lock held */
	void *arg;
	int done, rc;
	struct command *next;
};

/* The wish to hold the guest, on the stack of who wishes it. */
struct hold {
	int (*fn)(void *arg, uint64_t epoch);
	void *arg;
	int rc; /* what became of it */
};

/* What is kept of an epoch in flight, by its number modulo PRI_INFLIGHT_MAX. */
struct flight {
	uint64_t captured_ns, pages;
};

struct link {
	struct primary *p;
	struct tp *tp; /* owned */
	struct rec_stream rs;
	pthread_t sender, receiver;
	int have_sender, have_receiver;
	pthread_cond_t to_sender;
	struct hello_wire hello;

	/* Under the engine's lock. The numbers are counts: the next epoch to be so treated. */
	uint64_t captured, end_begun, acked;
	struct flight flight[PRI_INFLIGHT_MAX];
	int hello_seen, peer_ready; /* the peer's HELLO, its SYNC */
	int synced;		    /* pre-copy is done: checkpoint 0 may be captured */
	int armed_maybe;	    /* ARMED may have left this host */
	int finishing;		    /* the next epoch is the last */
	int holding;		    /* likewise, and after it the guest stands still */
	int let_go;		    /* it is saved: BYE may go */
	int save_sent, peer_saved;  /* SAVE left; SAVED came: 1, or -1: it failed */
	uint64_t last;		    /* that one's number + 1, once captured */
	int bye_done; /* the standby knows that there is nothing to take over */
	int receiver_done;
	uint64_t gaps; /* of the watch, when the link was made */
	int ended;     /* given up: @why says for what reason */
	int peer_gone; /* the sender found out: the peer's last word may still be unread */
	uint64_t fenced_by; /* the higher term that the peer showed, or 0 */
	char why[ERR_MSG_MAX];
};

struct primary {
	struct primary_config cfg;
	_Atomic uint64_t judged_ns; /* the freeze watch was asked about an ack */
	char vm[STREAM_VM_MAX + 1];
	struct part part[STREAM_PARTS_MAX];
	uint8_t kind[STREAM_PARTS_MAX];
	unsigned n;
	pthread_t thread;
	/* Since when somebody waits for the running epoch to end, ns; 0: nobody does. */
	atomic_uint_fast64_t requested;
	struct control_config control_cfg;
	struct control control; /* under lock */
	struct watch watch;
	uint64_t last_start; /* epoch thread: ns, 0 before the first epoch of a link */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* the epoch thread */
	pthread_cond_t done; /* callers that wait: a command is done, a link's news */
	enum primary_state state;
	uint64_t term;
	struct link *link; /* NULL: none. Set and freed by the epoch thread */
	struct command *cmd_head, **cmd_tail;
	int stop;
	int held; /* the guest stands still until it is let go; written by the epoch thread */
	struct hold *hold; /* of the checkpoint at which it will; epoch thread */

	pthread_mutex_t stats_lock;
	struct primary_stats stats;
};

/* primary.c; epoch thread */
void primary_set_state(struct primary *p, enum primary_state s, uint64_t term,
		       const char *why);
/* Did this process stand still for longer than its peer waits, since the link was made? Any
 * thread. */
int link_was_frozen(struct link *l);

/* primary_epoch.c; epoch thread */
/* Stop the guest; after a failure it runs again. */
int epoch_pause(struct primary *p);
void epoch_resume(struct primary *p);
void epoch_pause_for_good(struct primary *p);
/* One checkpoint, and hand it to the sender. A failure gives up the link. */
void epoch_run(struct primary *p, struct link *l);

/* primary_ops.c: serve @run on the epoch thread between two epochs, and wait for it. */
int primary_command(struct primary *p, int (*run)(struct primary *p, void *arg),
		    void *arg);
/* primary_hold.c. Any thread: until the guest is not held. */
void hold_await_end(struct primary *p);
/* Epoch thread, in the pause, captured: 0: it stays held. */
int hold_here(struct primary *p, uint64_t epoch);
/* Epoch thread: the guest goes on, if it was held. */
void hold_end(struct primary *p);
/* Sender, behind the last epoch: say SAVE, wait. 1: the guest goes on, 0: it is over, or -errno. */
int hold_serve(struct link *l, uint64_t epoch, struct err *err);

/* primary_send.c; sender */
int link_say(struct link *l, uint16_t type, uint64_t epoch, struct err *err);

/* primary_link.c */
/* Takes @tp also when it fails. Epoch thread. */
int link_start(struct primary *p, struct tp *tp, struct err *err);
/* Give the link up. Any thread; the first reason counts. */
void link_fail(struct link *l, const char *why);
/* The sender found the peer gone: what it said before is still read. */
void link_peer_gone(struct link *l, const char *why);
/* The peer has shown a higher term. */
void link_fenced(struct link *l, uint64_t term);
/* End the threads, tell the participants, free it, go to the state that follows. Epoch thread. */
void link_close(struct primary *p);

/* primary_send.c, primary_recv.c: threads of a link */
void *link_sender(void *arg);
void *link_receiver(void *arg);

/* primary_stats.c: what each thread counts */
struct epoch_times {
	uint64_t ahead, start, stopped, captured, resumed; /* ns */
	uint64_t part[STREAM_PARTS_MAX + 1]; /* when the i-th capture began */
};
void stats_epoch(struct primary *p, const struct epoch_times *t, uint64_t pages,
		 int early);
void stats_sent(struct primary *p, uint64_t ns, uint64_t pages, uint64_t raw,
		uint64_t bytes);
void stats_committed(struct primary *p, uint64_t ns, uint64_t epoch);
void stats_sync_left(struct primary *p, uint64_t left);
void stats_link_new(struct primary *p);

#endif
