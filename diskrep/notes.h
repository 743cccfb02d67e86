/* SPDX-License-Identifier: Apache-2.0
 * notes - words that travel with the epochs, and the cut: a moment between two epochs that both hosts see
 * (internal to diskrep; diskrep.h says what they are for).
 *
 * Theory of operation. A note of the primary's goes with the running epoch and is given to the standby's owner once
 * that epoch is in its images: so it comes exactly if the epoch is committed, and in order with the writes. A
 * cut is a note with a flag. On the primary its callback runs inside the capture that closes epoch E, under the device
 * lock: what was submitted before belongs to E, what comes later does not. On the standby the applier
 * brings its images to the end of E, flushes them, and calls; what is later than E waits in memory (and
 * in the primary's) until the callback returns. A power cut there before that leaves the journal with nothing later than E.
 *
 * Without a standby in step a cut is made on the I/O thread, between two requests.
 */
#ifndef DISKREP_NOTES_H
#define DISKREP_NOTES_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"

struct diskrep;
struct diskrep_standby;
struct dr_list;
struct dr_sent;
struct drs_epoch;
struct err;
struct reader;
struct rec_sink;

enum { DR_NOTES_MAX = 16 }; /* that wait for one epoch, or come with one */

struct dr_note {
	struct dr_note *next;
	uint32_t len;
	int cut;
	uint8_t bytes[];
};
struct dr_note *dr_note_new(const void *p, size_t len, int cut); /* NULL: no memory */
void dr_notes_free(struct dr_note *n);				 /* all of the list */

/* The primary's; under its lock. */
struct dr_notes {
	struct diskrep_notes to;
	struct dr_note *first; /* for the next capture */
	struct dr_note *cut;   /* likewise, or for the I/O thread */
	uint64_t cut_epoch;    /* made, and not committed; UINT64_MAX: none */
};
void dr_notes_init(struct diskrep *dr);
void dr_notes_fini(struct diskrep *dr);
/* Capture of @l: under lock; it takes what waits. Is a cut among it? Then, once @l is sealed: */
int dr_notes_capture(struct diskrep *dr, struct dr_list *l);
void dr_notes_cut(struct diskrep *dr, uint64_t epoch);	     /* no lock */
void dr_notes_committed(struct diskrep *dr, uint64_t epoch); /* no lock */
void dr_notes_unlinked(struct diskrep *dr);		     /* no lock */
int dr_notes_record(struct diskrep *dr, const void *p, size_t len, struct err *err);

/* The standby's. */
struct drs_notes {
	pthread_mutex_t lock; /* of @say */
	struct diskrep_standby_notes to;
	struct dr_note *say;
};
void drs_notes_init(struct diskrep_standby *s);
void drs_notes_fini(struct diskrep_standby *s);
void drs_notes_forget(struct diskrep_standby *s); /* a new link */
/* One hostile record, behind its epoch's writes. */
int drs_notes_record(struct diskrep_standby *s, struct drs_epoch *e, struct reader *r,
		     struct err *err);
/* Receive thread: @e is being applied. */
void drs_notes_reached(struct diskrep_standby *s, const struct drs_epoch *e);
/* The applier: @e is in the images. 0, or -errno: they cannot be flushed. */
int drs_notes_applied(struct diskrep_standby *s, const struct drs_epoch *e);
int drs_notes_report(struct diskrep_standby *s, struct rec_sink *sink);

#endif
