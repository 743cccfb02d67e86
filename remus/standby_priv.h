/* SPDX-License-Identifier: Apache-2.0
 * standby_priv - what the files of the standby's engine share.
 *
 * Theory of operation. One receive thread for each link does everything in the order of the
 * stream: stage, verify, acknowledge, apply. So at most one checkpoint is staged, and what
 * was acked is applied before the next record is even read. Operators' calls (attach, detach,
 * activate) are serialised by @ctl; they end a link by shutting the transport down and joining
 * the thread, which on its way out drops what was not acked.
 *
 * The one decision that both sides race for is "ack epoch i" against "granted": it is taken
 * under @lock, once. An ack that was decided is applied, whether or not it still gets out.
 */
#ifndef REMUS_STANDBY_PRIV_H
#define REMUS_STANDBY_PRIV_H

#include <pthread.h>

#include "hv/base/err.h"
#include "remus/standby.h"
#include "remus/stream.h"
#include "replication/record.h"

struct standby {
	struct standby_config cfg;
	char vm[STREAM_VM_MAX + 1];
	struct standby_part part[STREAM_PARTS_MAX];
	uint8_t kind[STREAM_PARTS_MAX];
	unsigned n;
	struct hello_wire hello;
	pthread_mutex_t ctl; /* one operator's call at a time */

	/* The link. Made and freed under @ctl, while the thread does not run. */
	struct tp *tp; /* owned; NULL: none */
	struct rec_stream rs;
	pthread_mutex_t send_lock; /* acks, and the farewell of another thread */
	pthread_t thread;

	/* Receive thread only. */
	struct tally tally;
	int hello_seen, greeted; /* the peer's HELLO, its first SYNC */
	int armed;		 /* the primary holds its output */
	int in_epochs;		 /* pre-copy is over for good */
	int bye;

	pthread_mutex_t lock;
	pthread_cond_t news; /* farewell_done */
	enum standby_state state;
	uint64_t term;		 /* of the link, or of the grant when ACTIVE */
	uint64_t granted;	 /* acks nothing of a term below this */
	uint64_t acked, applied; /* counts: the next epoch to be so treated */
	uint64_t bytes_received;
	uint64_t
		saved; /* epoch that this host has saved, and the primary was told; a count */
	int broken; /* an acked checkpoint could not be applied, or is damaged */
	int farewell_done;
	char why[ERR_MSG_MAX]; /* why an operator ended the link; empty: nobody did */
	struct hist verify, apply;
};

/* standby.c; the thread that owns the state at that moment (see there). */
void standby_set_state(struct standby *s, enum standby_state st, int bye,
		       const char *why);
/* Tell the peer that @term holds now. Any thread; as long as the transport's send takes. */
int standby_say_fenced(struct standby *s, uint64_t term);

/* Say what became of the save of @epoch. Any thread; 0 or -errno. */
int standby_say_saved(struct standby *s, uint64_t epoch, int rc);

/* standby_recv.c */
void *standby_receiver(void *arg);

#endif
