/* SPDX-License-Identifier: Apache-2.0
 * pairsim_arbiter - the model arbiter: requests are late, lost, or executed after their time-out.
 */
#ifndef TESTS_UNIT_PAIRSIM_ARBITER_H
#define TESTS_UNIT_PAIRSIM_ARBITER_H

#include "tests/unit/pairsim_world.h"

static inline void sim_arb_submit(struct sim *s, int host, const struct pair_action *a)
{
	struct sim_host *h = &s->h[host];
	uint64_t d = sim_delay(s);

	for (unsigned i = 0; i < 16; i++) {
		struct sim_txn *t = &s->txn[i];

		if (t->live)
			continue;
		*t = (struct sim_txn){.live = 1,
				      .host = host,
				      .life = h->life,
				      .id = a->u.claim.id,
				      .a = *a};
		t->read_at = s->now + d;
		t->txn_at = t->read_at + sim_delay(s);
		t->answer_at = t->txn_at + sim_delay(s);
		if (s->slow &&
		    sim_one_in(s, 10)) /* this one arrives long after its time-out */
			t->txn_at += sim_rand(s) % 3000 * SIM_MS;
		return;
	}
	sim_broken(s, "too many requests at the arbiter", host);
}

static inline void sim_arb_answer(struct sim *s, struct sim_txn *t,
				  enum pair_arb_result r)
{
	struct pair_event ev = {.kind = PAIR_EV_ARBITER};

	ev.u.arbiter.id = t->id;
	ev.u.arbiter.result = r;
	if (r != PAIR_ARB_UNREACHABLE) {
		ev.u.arbiter.term = s->arb_term;
		ev.u.arbiter.mine = s->arb_term && s->arb_owner == t->host;
	}
	if (s->h[t->host].up && s->h[t->host].life == t->life)
		sim_push(s, t->host, CH_ARB, &ev, sim_delay(s));
}

static inline int sim_arb_ours(struct sim *s, const struct sim_txn *t)
{
	return s->arb_term == t->a.u.claim.to && s->arb_owner == t->host &&
	       s->arb_life == t->life;
}

static inline void sim_arb_exec(struct sim *s, struct sim_txn *t)
{
	if (s->arb_rev == t->rev) {
		s->arb_rev++;
		s->arb_term = t->a.u.claim.to;
		s->arb_owner = t->host;
		s->arb_life = t->life;
	}
	if (t->stage != 3)
		sim_arb_answer(s, t,
			       sim_arb_ours(s, t) ? PAIR_ARB_GRANTED : PAIR_ARB_REFUSED);
	t->live = 0;
}

static inline void sim_arb_read(struct sim *s, struct sim_txn *t)
{
	const struct pair_action *a = &t->a;
	int owner = a->u.claim.from_mine ? t->host : !t->host;
	int match =
		s->arb_term == a->u.claim.from && (!s->arb_term || s->arb_owner == owner);

	if (!s->net_arb[t->host]) {
		sim_arb_answer(s, t, PAIR_ARB_UNREACHABLE);
		t->live = 0;
	} else if (a->kind == PAIR_DO_READ) {
		sim_arb_answer(s, t, PAIR_ARB_VALUE);
		t->live = 0;
	} else if (sim_arb_ours(s, t)) {
		sim_arb_answer(s, t, PAIR_ARB_GRANTED);
		t->live = 0;
	} else if (!match && !(a->u.claim.force && s->arb_term < a->u.claim.to)) {
		sim_arb_answer(s, t, PAIR_ARB_REFUSED);
		t->live = 0;
	}
	t->rev = s->arb_rev;
	t->stage = 1;
}

static inline void sim_arb_step(struct sim *s)
{
	for (unsigned i = 0; i < 16; i++) {
		struct sim_txn *t = &s->txn[i];

		if (t->live && !t->stage && t->read_at <= s->now)
			sim_arb_read(s, t);
		if (t->live && t->stage == 1 && s->now > t->read_at + 1000 * SIM_MS) {
			sim_arb_answer(s, t, PAIR_ARB_UNREACHABLE);
			t->stage = 3;
		}
		if (t->live && t->stage && t->txn_at <= s->now)
			sim_arb_exec(s, t);
	}
}

#endif
