/* SPDX-License-Identifier: Apache-2.0
 * pair_machine - what the files of the pair state machine share. Internal to ctl/pair*.c.
 */
#ifndef CTL_PAIR_MACHINE_H
#define CTL_PAIR_MACHINE_H

#include "ctl/pair.h"

/* FENCED: what follows the end of our VM. */
enum after_exit { AFTER_OFF, AFTER_STANDBY, AFTER_START, AFTER_OVERRIDE };
/* ACTIVATING: how our VM takes the granted term. */
enum grant_how { HOW_BOOT, HOW_ALONE, HOW_ACTIVATE };

/* The only way to change the state; asserts that the table allows it and logs one line. */
void pm_set(struct pair *p, enum pair_state to, struct pair_actions *out, const char *fmt,
	    ...) __attribute__((format(printf, 4, 5)));
struct pair_action *pm_emit(struct pair_actions *out, enum pair_act_kind kind);
void pm_log(struct pair_actions *out, int level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static inline int pm_due(const struct pair *p, uint64_t at)
{
	return at <= p->now;
}

/* Is the peer up, and does it say that it is a primary whose guest runs? */
int pm_peer_alive(const struct pair *p);
/* Does the peer say that it is the owner of a term at or above @term? */
int pm_peer_owns(const struct pair *p, uint64_t term);
/* Does the peer own a term at or above @term that it wants us to take? */
int pm_handed_over(const struct pair *p, uint64_t term);
int pm_is_armed(const struct pair *p); /* our engine holds output for a standby */

/* Is the record on disk as it is here? */
static inline int pm_durable(const struct pair *p)
{
	return !p->want_store && !p->store_id;
}

/* Transitions that several files need. */
void pm_grant(struct pair *p, enum grant_how how, uint64_t term, int override,
	      struct pair_actions *out);
void pm_end_vm(struct pair *p, enum after_exit after, struct pair_actions *out,
	       const char *why);
void pm_turn_off(struct pair *p, struct pair_actions *out, const char *why);
void pm_follow(struct pair *p, uint64_t term, struct pair_actions *out, const char *why);
void pm_read(struct pair *p, struct pair_actions *out);
void pm_claim(struct pair *p, uint64_t from, int from_mine, uint64_t to, int force,
	      struct pair_actions *out);

/* Links, in pair_link.c. */
/* On the primary: can a standby have been armed in this term? */
void pm_note_alone(struct pair *p, int alone);
/* On the standby: is its image being overwritten by a sync? */
void pm_note_incomplete(struct pair *p, int incomplete);
void pm_note_behind(struct pair *p, int behind);
void pm_connect_standby(struct pair *p, struct pair_actions *out); /* if it is time to */
/* Give the kept link to our rhea-vm once the record says what that may lead to, or close it. */
void pm_decide_kept(struct pair *p, struct pair_actions *out);

/* By kind of event, in pair_events.c, pair_link.c and pair_arbiter.c. */
void pm_on_operator(struct pair *p, const struct pair_event *ev,
		    struct pair_actions *out);
void pm_on_vm(struct pair *p, const struct pair_event *ev, struct pair_actions *out);
void pm_on_reverted(struct pair *p, const struct pair_event *ev);
void pm_on_stored(struct pair *p, const struct pair_event *ev, struct pair_actions *out);
void pm_on_link(struct pair *p, const struct pair_event *ev);
void pm_on_arbiter(struct pair *p, const struct pair_event *ev, struct pair_actions *out);
/* What follows from what is known now; until nothing changes. In pair_decide.c. */
void pm_decide(struct pair *p, struct pair_actions *out);

#endif
