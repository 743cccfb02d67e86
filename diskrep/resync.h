/* SPDX-License-Identifier: Apache-2.0
 * resync - how two hosts that meet find out which chunks have to be looked at (internal to
 * diskrep).
 *
 * Theory of operation. Each host has a claim about its own images (ACTIVITY.md): a generation, its
 * role in that base, and marked chunks. The primary greets with its own. The standby compares it with its own and,
 * if both are of one base and reach back far enough, tells digests of what either has marked; else of
 * everything. The primary sends what differs, and what was marked after it greeted without asking.
 *
 * Why the union is enough. The writer w and the follower f of a base have both been at (base, e), the
 * follower's epoch. The writer differs from that in what it wrote after e, and has marked all it wrote after c
 * <= e, committed or not. The follower differs from it in what it wrote when it had taken over: marked.
 *
 * Both claims hold while the sync goes on, because what it changes at the standby is marked at the primary
 * until checkpoint 0 of the new base is durable there. So a sync that was cut is begun anew, and what was sent
 * is found equal then.
 */
#ifndef DISKREP_RESYNC_H
#define DISKREP_RESYNC_H

#include "diskrep/activity_file.h"
#include "diskrep/verify.h"

struct diskrep;
struct diskrep_standby;
struct err;
struct reader;
struct rec_sink;

/* May only marked chunks be looked at? If not, *why_out is a string for good. */
int dr_plan(const struct dr_claim *primary, const struct dr_claim *standby,
	    const char **why_out);

/* A claim as a record, and from one (hostile). 0 or -errno; -EBADMSG with @err. */
int dr_claim_put(struct rec_sink *sink, const struct dr_claim *c, uint32_t flags);
int dr_claim_parse(struct reader *r, struct dr_claim *c, uint32_t *flags_out,
		   struct err *err);

/* The standby's side of it; the receive thread's. */
struct drs_resync {
	struct diskrep
		*own;	    /* borrowed; has this host's claim from earlier. NULL: none */
	struct dr_claim at; /* what this process was brought to */
	struct dr_claim found;	   /* the same by the journal, before it began */
	uint8_t base[DR_BASE_LEN]; /* of the link */
	struct dr_claim theirs;
	int told; /* their claim came */
	struct dr_bits
		look[DR_DISKS_MAX]; /* what the primary has marked, then the union */
	int have_look;
	struct drs_verify verify;
};

/* A link begins: forget what the last primary greeted with. */
void drs_resync_reset(struct diskrep_standby *s);
/* SIZES, CLAIM, BITS, BASE, of epoch REC_EPOCH_SYNC. 1: it is another record. */
int drs_resync_record(struct diskrep_standby *s, uint16_t type, struct reader *r,
		      struct err *err);
/* The hello: say our claim. Returns 1 if only s->resync.look is to be told, 0: everything; or
 * -errno. */
int drs_resync_hello(struct diskrep_standby *s, struct rec_sink *sink);
/* Checkpoint @epoch was acked and is on its way into the images. */
void drs_resync_applied(struct diskrep_standby *s, uint64_t epoch);

/* The primary's side. */
int dr_greet(void *self, struct rec_sink *sink, struct err *err);
int dr_claim_record(struct diskrep *dr, struct reader *r,
		    struct err *err); /* under lock */
/* Draw a base and tell it. Sender thread, no lock. */
int dr_base_send(struct diskrep *dr, struct rec_sink *sink, struct err *err);

#endif
