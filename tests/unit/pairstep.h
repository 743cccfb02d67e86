/* SPDX-License-Identifier: Apache-2.0
 * pairstep - one pair machine, event by event.
 */
#ifndef TESTS_UNIT_PAIRSTEP_H
#define TESTS_UNIT_PAIRSTEP_H

#include "ctl/pair.h"

#include <stddef.h>

static inline struct pair machine(const struct pair_record *rec)
{
	struct pair_params prm = pair_params_default(100, 5);
	struct pair p;

	prm.preferred = 1;
	pair_init(&p, &prm, rec);
	return p;
}

static inline const struct pair_action *find(const struct pair_actions *a,
					     enum pair_act_kind kind)
{
	for (unsigned i = 0; i < a->n; i++)
		if (a->list[i].kind == kind)
			return &a->list[i];
	return NULL;
}

static inline struct pair_actions give(struct pair *p, struct pair_event ev)
{
	struct pair_actions out;

	pair_step(p, p->now + 1000, &ev, &out);
	return out;
}

static inline struct pair_event arbiter(const struct pair *p, enum pair_arb_result r,
					uint64_t term, int mine)
{
	struct pair_event ev = {.kind = PAIR_EV_ARBITER};

	ev.u.arbiter.id = p->arb_id;
	ev.u.arbiter.result = r;
	ev.u.arbiter.term = term;
	ev.u.arbiter.mine = mine;
	return ev;
}

static inline struct pair_event stored(const struct pair *p, int ok)
{
	struct pair_event ev = {.kind = PAIR_EV_STORED};

	ev.u.stored.id = p->store_id;
	ev.u.stored.ok = ok;
	return ev;
}

static inline struct pair_actions give_kind(struct pair *p, enum pair_ev_kind kind)
{
	return give(p, (struct pair_event){.kind = kind, .instance = p->instance});
}

/* What our rhea-vm says. */
static inline struct pair_actions engine(struct pair *p, enum pair_engine e)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_STATE, .instance = p->instance};

	ev.u.vm_state.engine = e;
	ev.u.vm_state.term = p->term;
	return give(p, ev);
}

/* What it says of its disks. */
static inline struct pair_actions image_all(struct pair *p, int whole, int all)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_IMAGE, .instance = p->instance};

	ev.u.image.whole = whole;
	ev.u.image.all = all;
	ev.u.image.epoch = UINT64_MAX;
	return give(p, ev);
}

static inline struct pair_actions image(struct pair *p, int whole)
{
	return image_all(p, whole, 0);
}

/* What the peer says. */
static inline struct pair_actions peer(struct pair *p, enum pair_state s, uint64_t term)
{
	struct pair_event ev = {.kind = PAIR_EV_PEER};

	ev.u.peer = (struct pair_view){.state = s, .health = PAIR_VM_OK, .term = term};
	return give(p, ev);
}

static inline struct pair_actions incoming(struct pair *p, uint64_t term)
{
	return give(p, (struct pair_event){.kind = PAIR_EV_INCOMING, .u.term = term});
}

/* Everything that is to be on disk is there. */
static inline void settle(struct pair *p)
{
	while (p->store_id)
		(void)give(p, stored(p, 1));
}

/* A machine that runs its VM alone in term 1, and that is on disk. */
static inline struct pair running_alone(void)
{
	struct pair p = machine(NULL);

	(void)give_kind(&p, PAIR_EV_START);
	(void)give(&p, arbiter(&p, PAIR_ARB_VALUE, 0, 0));
	(void)give(&p, arbiter(&p, PAIR_ARB_GRANTED, 1, 1));
	settle(&p);
	(void)engine(&p, PAIR_ENG_ALONE);
	(void)give_kind(&p, PAIR_EV_VM_RUNNING);
	return p;
}

/* A machine whose rhea-vm waits for the link of the primary of term 5, and that is on disk. */
static inline struct pair standby_empty(void)
{
	struct pair p = machine(NULL);

	(void)peer(&p, PAIR_RUNNING_ALONE, 5);
	(void)engine(&p, PAIR_ENG_EMPTY);
	settle(&p);
	return p;
}

#endif
