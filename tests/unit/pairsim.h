/* SPDX-License-Identifier: Apache-2.0
 * pairsim - two hosts with the shipped pair machine in a seeded world of everything else.
 *
 * Theory of operation. Model rhea-vms, heartbeats, links, disks and an arbiter go forward in steps of
 * some milliseconds; faults hit them at random. The guest is a tree of states: each epoch is a node
 * whose parent is the state before. What clients saw is the last node whose output left. Safety: the
 * nodes released, in the order of release, all lie on one line of the tree (an ancestor of what was
 * seen may still come, a cousin never). A host's disk is a node as well: a cold start continues from
 * it, so booting from a stale disk shows as a cousin. Any run is replayed from its seed.
 */
#ifndef TESTS_UNIT_PAIRSIM_H
#define TESTS_UNIT_PAIRSIM_H

#include "ctl/pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIM_MS 1000000ull

enum { SIM_RING = 256, SIM_NODES = 1 << 17, SIM_LINKS = 64 };
enum sim_channel { CH_VM, CH_HB, CH_ARB, CH_STORE, CH_LINK, CH_COUNT };

struct sim_ev {
	uint64_t at;
	struct pair_event ev;
};
struct sim_ring {
	unsigned head, tail;
	struct sim_ev e[SIM_RING];
};

enum sim_msg_kind { MSG_ARMED, MSG_EPOCH, MSG_ACK, MSG_BYE, MSG_FENCED };
struct sim_msg {
	enum sim_msg_kind kind;
	int node;
	uint64_t term, at;
};

/* A connection; end i belongs to host i. */
struct sim_link {
	int open[2];	       /* somebody holds this end */
	uint64_t broken_at[2]; /* this end notices a dead network then, 0: never */
	uint64_t term;
	int primary;
	struct {
		unsigned head, tail;
		struct sim_msg m[SIM_RING];
	} q[2]; /* towards host i */
};

enum sim_op_kind {
	OP_BOOT,
	OP_STANDBY,
	OP_ALONE,
	OP_ACTIVATE,
	OP_FENCE,
	OP_POWERDOWN,
	OP_LINK,
	OP_UNLINK
};
struct sim_op {
	enum sim_op_kind kind;
	uint64_t at, term;
	int link, primary;
};

struct sim_vm {
	int present, stopped, running, off;
	uint64_t instance, term, kill_at, stopped_at, exit_at;
	int hung_told;
	enum pair_engine st;
	int cur, committed;
	int link; /* -1: none */
	unsigned head, tail;
	struct sim_op op[SIM_RING];
};

struct sim_host {
	int up, stopped;
	uint64_t life, restart_at;
	struct pair p;
	struct sim_vm vm;
	struct sim_ring ch[CH_COUNT];
	int has_rec;
	struct pair_record rec;
	int disk; /* node, -1: half written */
	int kept; /* link that rhead keeps, -1: none */
	uint64_t deadline, hb_next, heard_at;
	int heard, heard_life_known;
	struct pair_view said, heard_view;
};

struct sim_txn {
	int live, host;
	uint64_t life, id, read_at, txn_at, answer_at;
	int stage; /* 0: to be read, 1: to be executed, 2: executed, 3: answered unknown already */
	struct pair_action a;
	uint64_t rev;
	struct pair_event ans;
};

struct sim {
	uint64_t rng, seed, now;
	struct sim_host h[2];
	struct sim_link link[SIM_LINKS];
	unsigned n_links;
	int net_repl, net_hb[2], net_arb[2]; /* hb[i]: towards host i */
	uint64_t arb_term, arb_rev, arb_life;
	int arb_owner;
	struct sim_txn txn[16];
	int parent[SIM_NODES], depth[SIM_NODES], n_nodes, seen;
	int slow;	  /* disturbed: delays are long, answers get lost */
	char broken[160]; /* the first violation */
	unsigned takeovers, boots, alones, releases, protects;
	int verbose;
	/* For single stories. */
	int never_arm, fail_activate, unchecked;
};

static inline uint64_t sim_rand(struct sim *s)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return s->rng * 0x2545f4914f6cdd1dull >> 16;
}

static inline int sim_one_in(struct sim *s, unsigned n)
{
	return sim_rand(s) % n == 0;
}

static inline uint64_t sim_delay(struct sim *s)
{
	return (s->slow && sim_one_in(s, 8) ? sim_rand(s) % 400 : sim_rand(s) % 6) *
	       SIM_MS;
}

static inline void sim_broken(struct sim *s, const char *what, int host)
{
	if (!s->broken[0] && !s->unchecked)
		(void)snprintf(s->broken, sizeof(s->broken),
			       "seed %llu at %llu ms: host %d: %s",
			       (unsigned long long)s->seed,
			       (unsigned long long)(s->now / SIM_MS), host, what);
}

/* ---- The guest's states. ---- */

static inline int sim_node(struct sim *s, int parent)
{
	if (s->n_nodes == SIM_NODES) {
		sim_broken(s, "out of nodes: make SIM_NODES larger", -1);
		return parent;
	}
	s->parent[s->n_nodes] = parent;
	s->depth[s->n_nodes] = parent < 0 ? 0 : s->depth[parent] + 1;
	return s->n_nodes++;
}

static inline int sim_is_ancestor(const struct sim *s, int a, int b)
{
	while (b >= 0 && s->depth[b] > s->depth[a])
		b = s->parent[b];
	return a == b;
}

static inline void sim_release(struct sim *s, int host, int node)
{
	s->releases++;
	if (s->seen < 0 || sim_is_ancestor(s, s->seen, node))
		s->seen = node;
	else if (!sim_is_ancestor(s, node, s->seen))
		sim_broken(s, "output of a state that does not continue what clients saw",
			   host);
}

/* ---- Events to a pair machine. ---- */

static inline void sim_push(struct sim *s, int host, enum sim_channel c,
			    const struct pair_event *ev, uint64_t delay)
{
	struct sim_ring *r = &s->h[host].ch[c];

	if (r->tail - r->head == SIM_RING) {
		if (c !=
		    CH_HB) /* a full socket buffer drops heartbeats, nothing else is lost */
			sim_broken(s, "a queue is full", host);
		return;
	}
	r->e[r->tail++ % SIM_RING] = (struct sim_ev){.at = s->now + delay, .ev = *ev};
}

static inline void sim_vm_event(struct sim *s, int host, enum pair_ev_kind kind, int bye)
{
	struct sim_vm *v = &s->h[host].vm;
	struct pair_event ev = {.kind = kind, .instance = v->instance};

	if (kind == PAIR_EV_VM_STATE) {
		ev.u.vm_state.engine = v->st;
		ev.u.vm_state.term = v->term;
		ev.u.vm_state.bye = bye;
	} else {
		ev.u.term = v->term;
	}
	if (s->h[host].up)
		sim_push(s, host, CH_VM, &ev, sim_delay(s));
}

static inline void sim_vm_set(struct sim *s, int host, enum pair_engine st)
{
	s->h[host].vm.st = st;
	sim_vm_event(s, host, PAIR_EV_VM_STATE, 0);
}

/* ---- Links. ---- */

static inline void sim_send(struct sim *s, int link, int to, enum sim_msg_kind kind,
			    int node, uint64_t term)
{
	struct sim_link *l = &s->link[link];

	if (l->q[to].tail - l->q[to].head < SIM_RING)
		l->q[to].m[l->q[to].tail++ % SIM_RING] =
			(struct sim_msg){.kind = kind,
					 .node = node,
					 .term = term,
					 .at = s->now + sim_delay(s)};
}

static inline void sim_close(struct sim *s, int link, int host)
{
	if (link >= 0)
		s->link[link].open[host] = 0;
}

static inline int sim_new_link(struct sim *s, int primary, uint64_t term)
{
	for (int i = 0; i < SIM_LINKS; i++) {
		struct sim_link *l = &s->link[i];

		if (l->open[0] || l->open[1])
			continue;
		memset(l, 0, sizeof(*l));
		l->open[0] = l->open[1] = 1;
		l->term = term;
		l->primary = primary;
		return i;
	}
	sim_broken(s, "links are leaked", primary);
	return -1;
}

/* Does this end see the end of the stream (after what was received before)? */
static inline int sim_eof(struct sim *s, int link, int host)
{
	struct sim_link *l = &s->link[link];

	if (l->broken_at[host] && l->broken_at[host] <= s->now)
		return 1;
	return s->net_repl && !l->open[!host] && l->q[host].head == l->q[host].tail;
}

/* ---- The model rhea-vm. ---- */

static inline void sim_vm_gone(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->present)
		return;
	sim_close(s, v->link, host);
	for (unsigned i = v->head; i != v->tail; i++) /* descriptors on their way to it */
		if (v->op[i % SIM_RING].kind == OP_LINK)
			sim_close(s, v->op[i % SIM_RING].link, host);
	sim_vm_event(s, host, PAIR_EV_VM_EXITED, 0);
	v->present = 0;
}

static inline void sim_vm_lost_link(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	sim_close(s, v->link, host);
	v->link = -1;
	if (v->st == PAIR_ENG_SYNCING)
		sim_vm_set(s, host, PAIR_ENG_ALONE);
	else if (v->st == PAIR_ENG_ARMED || v->st == PAIR_ENG_PROTECTED)
		sim_vm_set(s, host, PAIR_ENG_UNLINKED);
	else if (v->st == PAIR_ENG_SB_SYNCING)
		sim_vm_set(s, host, PAIR_ENG_EMPTY);
	else if (v->st == PAIR_ENG_READY)
		sim_vm_set(s, host, PAIR_ENG_LOST);
}

static inline void sim_vm_activate(struct sim *s, int host, uint64_t term)
{
	struct sim_vm *v = &s->h[host].vm;

	if (v->st != PAIR_ENG_READY && v->st != PAIR_ENG_LOST) {
		sim_broken(s, "a standby without a commit was told to run", host);
		return;
	}
	if (s->fail_activate) {
		sim_vm_set(s, host, PAIR_ENG_EMPTY);
		return;
	}
	if (v->link >= 0 && !sim_one_in(s, 3))
		sim_send(s, v->link, !host, MSG_FENCED, -1, term);
	sim_close(s, v->link, host);
	v->link = -1;
	v->cur = v->committed;
	v->term = term;
	v->running = 1;
	s->takeovers++;
	sim_vm_set(s, host, PAIR_ENG_ACTIVE);
	sim_vm_set(s, host, PAIR_ENG_ALONE);
	sim_vm_event(s, host, PAIR_EV_VM_RUNNING, 0);
}

static inline void sim_vm_alone(struct sim *s, int host, uint64_t term)
{
	struct sim_vm *v = &s->h[host].vm;

	if (v->st != PAIR_ENG_UNLINKED)
		return; /* fenced meanwhile */
	v->term = term;
	s->alones++;
	sim_release(s, host, v->cur);
	sim_vm_set(s, host, PAIR_ENG_ALONE);
}

static inline void sim_vm_link(struct sim *s, int host, const struct sim_op *op)
{
	struct sim_vm *v = &s->h[host].vm;
	enum pair_engine want = op->primary ? PAIR_ENG_ALONE : PAIR_ENG_EMPTY;

	if (v->st != want || v->link >= 0) {
		sim_close(s, op->link, host); /* -EBUSY */
		return;
	}
	v->link = op->link;
	if (!op->primary) {
		v->term = op->term;
		s->h[host].disk = -1;
	}
	sim_vm_set(s, host, op->primary ? PAIR_ENG_SYNCING : PAIR_ENG_SB_SYNCING);
}

static inline void sim_vm_off(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->running || v->off || v->st == PAIR_ENG_FENCED)
		return;
	if (v->st == PAIR_ENG_PROTECTED)
		sim_send(s, v->link, !host, MSG_BYE, v->cur, v->term);
	v->off = 1;
	v->running = 0;
	v->exit_at = s->now + sim_rand(s) % 50 * SIM_MS;
	sim_vm_event(s, host, PAIR_EV_VM_POWEROFF, 0);
}

static inline void sim_vm_op(struct sim *s, int host, const struct sim_op *op)
{
	struct sim_vm *v = &s->h[host].vm;

	switch (op->kind) {
	case OP_BOOT:
		v->term = op->term;
		v->cur = sim_node(s, s->h[host].disk);
		v->running = 1;
		s->boots++;
		sim_vm_set(s, host, PAIR_ENG_ALONE);
		sim_vm_event(s, host, PAIR_EV_VM_RUNNING, 0);
		break;
	case OP_STANDBY:
		v->term = op->term;
		sim_vm_set(s, host, PAIR_ENG_EMPTY);
		break;
	case OP_ALONE:
		sim_vm_alone(s, host, op->term);
		break;
	case OP_ACTIVATE:
		sim_vm_activate(s, host, op->term);
		break;
	case OP_FENCE:
		sim_vm_gone(s, host);
		break;
	case OP_POWERDOWN:
		sim_vm_off(s, host);
		break;
	case OP_LINK:
		sim_vm_link(s, host, op);
		break;
	case OP_UNLINK:
		sim_vm_lost_link(s, host);
		break;
	}
}

static inline void sim_vm_message(struct sim *s, int host, const struct sim_msg *m)
{
	struct sim_vm *v = &s->h[host].vm;

	switch (m->kind) {
	case MSG_ARMED:
	case MSG_EPOCH:
		if (v->st != PAIR_ENG_SB_SYNCING && v->st != PAIR_ENG_READY)
			break;
		v->committed = s->h[host].disk = m->node;
		sim_send(s, v->link, !host, MSG_ACK, m->node, v->term);
		if (v->st == PAIR_ENG_SB_SYNCING)
			sim_vm_set(s, host, PAIR_ENG_READY);
		break;
	case MSG_ACK:
		if (v->st != PAIR_ENG_ARMED && v->st != PAIR_ENG_PROTECTED)
			break;
		sim_release(s, host, m->node);
		if (v->st == PAIR_ENG_ARMED) {
			s->protects++;
			sim_vm_set(s, host, PAIR_ENG_PROTECTED);
		}
		break;
	case MSG_BYE:
		v->committed = s->h[host].disk = m->node;
		v->st = PAIR_ENG_LOST;
		sim_vm_event(s, host, PAIR_EV_VM_STATE, 1);
		break;
	case MSG_FENCED:
		if (v->st <= PAIR_ENG_UNLINKED) {
			v->term = m->term;
			v->running = 0;
			sim_vm_set(s, host, PAIR_ENG_FENCED);
		}
		break;
	}
}

static inline void sim_vm_guest(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->running)
		return;
	v->cur = s->h[host].disk = sim_node(s, v->cur);
	if (v->st == PAIR_ENG_ALONE || v->st == PAIR_ENG_SYNCING)
		sim_release(s, host, v->cur);
	if (v->st == PAIR_ENG_SYNCING && !s->never_arm && sim_one_in(s, 20)) {
		sim_send(s, v->link, !host, MSG_ARMED, v->cur, v->term);
		sim_vm_set(s, host, PAIR_ENG_ARMED);
	} else if (v->st == PAIR_ENG_PROTECTED) {
		sim_send(s, v->link, !host, MSG_EPOCH, v->cur, v->term);
	}
}

static inline void sim_vm_step(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;
	struct sim_link *l;

	if (v->present && v->kill_at && v->kill_at <= s->now && s->h[host].up &&
	    !s->h[host].stopped)
		sim_vm_gone(s, host);
	if (!v->present || v->stopped)
		return;
	while (v->present && v->head != v->tail && v->op[v->head % SIM_RING].at <= s->now)
		sim_vm_op(s, host, &v->op[v->head++ % SIM_RING]);
	if (v->present && v->off && v->exit_at <= s->now)
		sim_vm_gone(s, host);
	if (!v->present)
		return;
	while (v->link >= 0) {
		l = &s->link[v->link];
		if (!s->net_repl || l->q[host].head == l->q[host].tail ||
		    l->q[host].m[l->q[host].head % SIM_RING].at > s->now ||
		    sim_one_in(s, 6))
			break;
		sim_vm_message(s, host, &l->q[host].m[l->q[host].head++ % SIM_RING]);
	}
	if (v->link >= 0 && sim_eof(s, v->link, host) && !sim_one_in(s, 4))
		sim_vm_lost_link(s, host);
	sim_vm_guest(s, host);
}

/* ---- The arbiter. ---- */

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

/* ---- rhead. ---- */

static inline void sim_op(struct sim *s, int host, enum sim_op_kind kind, uint64_t term,
			  int link, int primary)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->present)
		return;
	v->op[v->tail++ % SIM_RING] = (struct sim_op){.kind = kind,
						      .at = s->now + sim_delay(s),
						      .term = term,
						      .link = link,
						      .primary = primary};
}

static inline void sim_vm_start(struct sim *s, int host, const struct pair_action *a)
{
	struct sim_vm *v = &s->h[host].vm;

	if (v->present)
		sim_broken(s, "a second VM process on one host", host);
	memset(v, 0, sizeof(*v));
	v->present = 1;
	v->instance = a->u.vm.instance;
	v->link = -1;
	sim_op(s, host, a->kind == PAIR_DO_VM_BOOT ? OP_BOOT : OP_STANDBY, a->u.vm.term,
	       -1, 0);
}

static inline void sim_store(struct sim *s, int host, const struct pair_action *a)
{
	struct pair_event ev = {.kind = PAIR_EV_STORED};

	ev.u.stored.id = a->u.store.id;
	ev.u.stored.ok = !(s->slow && sim_one_in(s, 20));
	if (ev.u.stored.ok || sim_one_in(s, 2)) {
		s->h[host].rec = a->u.store.record;
		s->h[host].has_rec = 1;
	}
	sim_push(s, host, CH_STORE, &ev, sim_delay(s));
}

static inline void sim_connect(struct sim *s, int host, uint64_t term)
{
	struct sim_host *peer = &s->h[!host];
	struct pair_event ev = {.kind = PAIR_EV_CONNECT_FAILED};
	int link;

	if (s->net_repl && peer->up && !peer->stopped && peer->kept < 0 &&
	    !sim_one_in(s, 10)) {
		link = sim_new_link(s, host, term);
		s->h[host].kept = peer->kept = link;
		ev.kind = PAIR_EV_CONNECTED;
		sim_push(s, host, CH_LINK, &ev, sim_delay(s));
		ev.kind = PAIR_EV_INCOMING;
		ev.u.term = term;
		sim_push(s, !host, CH_LINK, &ev, sim_delay(s));
		return;
	}
	sim_push(s, host, CH_LINK, &ev, sim_delay(s));
}

static inline void sim_act(struct sim *s, int host, const struct pair_action *a)
{
	struct sim_host *h = &s->h[host];

	switch (a->kind) {
	case PAIR_DO_LOG:
		if (s->verbose)
			printf("%8llu ms host %d: %s\n",
			       (unsigned long long)(s->now / SIM_MS), host,
			       a->u.log.text);
		break;
	case PAIR_DO_READ:
	case PAIR_DO_CLAIM:
		sim_arb_submit(s, host, a);
		break;
	case PAIR_DO_STORE:
		sim_store(s, host, a);
		break;
	case PAIR_DO_VM_BOOT:
	case PAIR_DO_VM_STANDBY:
		sim_vm_start(s, host, a);
		break;
	case PAIR_DO_VM_ALONE:
	case PAIR_DO_VM_ACTIVATE:
		if (!h->has_rec || h->rec.term != a->u.vm.term || !h->rec.mine)
			sim_broken(s, "told to run before the grant was on disk", host);
		sim_op(s, host, a->kind == PAIR_DO_VM_ALONE ? OP_ALONE : OP_ACTIVATE,
		       a->u.vm.term, -1, 0);
		break;
	case PAIR_DO_VM_FENCE:
		sim_op(s, host, OP_FENCE, a->u.vm.term, -1, 0);
		h->vm.kill_at =
			s->now + (h->vm.hung_told ? 0 : PAIR_FENCE_KILL_MS) * SIM_MS;
		break;
	case PAIR_DO_VM_POWERDOWN:
		sim_op(s, host, OP_POWERDOWN, 0, -1, 0);
		break;
	case PAIR_DO_UNLINK:
		sim_op(s, host, OP_UNLINK, 0, -1, 0);
		break;
	case PAIR_DO_CONNECT:
		sim_connect(s, host, a->u.link.term);
		break;
	case PAIR_DO_LINK_GIVE:
		if (!h->vm.present)
			sim_close(s, h->kept, host);
		sim_op(s, host, OP_LINK, a->u.link.term, h->kept, a->u.link.primary);
		h->kept = -1;
		break;
	case PAIR_DO_LINK_CLOSE:
		sim_close(s, h->kept, host);
		h->kept = -1;
		break;
	case PAIR_NACT:
		break;
	}
}

static inline void sim_event(struct sim *s, int host, const struct pair_event *ev)
{
	struct pair_actions acts;

	if (s->verbose > 1 && ev->kind != PAIR_EV_TICK)
		printf("%8llu ms host %d: [%s]\n", (unsigned long long)(s->now / SIM_MS),
		       host, pair_event_name(ev->kind));
	pair_step(&s->h[host].p, s->now, ev, &acts);
	for (unsigned i = 0; i < acts.n; i++)
		sim_act(s, host, &acts.list[i]);
	s->h[host].deadline = pair_deadline(&s->h[host].p);
}

static inline void sim_operator(struct sim *s, int host, enum pair_ev_kind kind)
{
	struct pair_event ev = {.kind = kind};

	if (s->h[host].up && !s->h[host].stopped)
		sim_event(s, host, &ev);
}

static inline void sim_rhead_start(struct sim *s, int host, int autostart)
{
	struct sim_host *h = &s->h[host];
	struct pair_params prm = pair_params_default(100, 5);
	struct pair_event ev = {.kind = PAIR_EV_START};

	prm.preferred = host == 0;
	h->up = 1;
	h->stopped = 0;
	h->life = sim_rand(s);
	h->kept = -1;
	h->heard = 0;
	h->hb_next = s->now;
	memset(h->ch, 0, sizeof(h->ch));
	memset(&h->said, 0, sizeof(h->said));
	pair_init(&h->p, &prm, h->has_rec ? &h->rec : NULL);
	ev.u.start.automatic = 1;
	if (h->has_rec ? h->rec.wanted : autostart)
		sim_event(s, host, &ev);
}

/* rhead dies, and its VM with it. */
static inline void sim_rhead_kill(struct sim *s, int host, uint64_t back_in)
{
	struct sim_host *h = &s->h[host];

	if (!h->up)
		return;
	h->up = 0;
	sim_vm_gone(s, host);
	sim_close(s, h->kept, host);
	h->kept = -1;
	h->restart_at = s->now + back_in;
}

/* The power goes: connections do not even close. */
static inline void sim_power_cut(struct sim *s, int host, uint64_t back_in)
{
	int link = s->h[host].vm.present ? s->h[host].vm.link : -1;

	sim_rhead_kill(s, host, back_in);
	if (link >= 0) {
		s->link[link].open[host] =
			s->link[link].open[!host]; /* no end of stream is seen */
		s->link[link].broken_at[!host] = s->now + 3000 * SIM_MS;
		s->link[link].broken_at[host] = s->now;
	}
}

static inline int sim_view_differs(const struct pair_view *a, const struct pair_view *b)
{
	return a->state != b->state || a->health != b->health || a->flags != b->flags ||
	       a->term != b->term;
}

static inline void sim_heartbeat(struct sim *s, int host)
{
	struct sim_host *h = &s->h[host];
	struct pair_view v = pair_view(&h->p);
	struct pair_event ev = {.kind = PAIR_EV_PEER, .u.peer = v};

	if (h->hb_next > s->now && !sim_view_differs(&v, &h->said))
		return;
	h->hb_next = s->now + 100 * SIM_MS;
	h->said = v;
	if (s->net_hb[!host] && s->h[!host].up && !(s->slow && sim_one_in(s, 5)))
		sim_push(s, !host, CH_HB, &ev, sim_delay(s));
}

static inline void sim_hear(struct sim *s, int host)
{
	struct sim_host *h = &s->h[host];
	struct sim_ring *r = &h->ch[CH_HB];
	struct pair_event ev;

	while (r->head != r->tail && r->e[r->head % SIM_RING].at <= s->now) {
		ev = r->e[r->head++ % SIM_RING].ev;
		h->heard_at = s->now;
		if (h->heard && !sim_view_differs(&ev.u.peer, &h->heard_view))
			continue;
		h->heard = 1;
		h->heard_view = ev.u.peer;
		sim_event(s, host, &ev);
	}
	if (h->heard && s->now - h->heard_at > 500 * SIM_MS) {
		h->heard = 0;
		ev = (struct pair_event){.kind = PAIR_EV_PEER_LOST};
		sim_event(s, host, &ev);
	}
}

static inline void sim_watch_vm(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->present ||
	    v->hung_told == (v->stopped && s->now - v->stopped_at > 300 * SIM_MS))
		return;
	v->hung_told = !v->hung_told;
	sim_vm_event(s, host, v->hung_told ? PAIR_EV_VM_HUNG : PAIR_EV_VM_ALIVE, 0);
}

static inline void sim_rhead_step(struct sim *s, int host)
{
	static const enum sim_channel order[] = {CH_VM, CH_ARB, CH_STORE, CH_LINK};
	struct sim_host *h = &s->h[host];
	struct pair_event tick = {.kind = PAIR_EV_TICK};

	if (!h->up && h->restart_at && h->restart_at <= s->now)
		sim_rhead_start(s, host, 1);
	if (!h->up || h->stopped)
		return;
	sim_watch_vm(s, host);
	for (unsigned k = sim_rand(s) % 4, n = 0; n < 4; n++, k++) {
		struct sim_ring *r = &h->ch[order[k % 4]];

		while (r->head != r->tail && r->e[r->head % SIM_RING].at <= s->now &&
		       !sim_one_in(s, 5)) {
			struct pair_event ev = r->e[r->head++ % SIM_RING].ev;

			sim_event(s, host, &ev);
		}
	}
	sim_hear(s, host);
	if (h->deadline && h->deadline <= s->now)
		sim_event(s, host, &tick);
	sim_heartbeat(s, host);
}

/* ---- The world. ---- */

static inline struct sim *sim_create(uint64_t seed)
{
	struct sim *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->seed = seed;
	s->rng = seed * 0x9e3779b97f4a7c15ull + 1;
	s->now = 1000 * SIM_MS;
	s->seen = -1;
	s->net_repl = s->net_hb[0] = s->net_hb[1] = s->net_arb[0] = s->net_arb[1] = 1;
	for (int i = 0; i < 2; i++) {
		s->h[i].vm.link = s->h[i].kept = -1;
		s->h[i].disk = sim_node(s, -1);
	}
	s->h[1].disk = s->h[0].disk; /* the same image was put on both */
	return s;
}

static inline void sim_step(struct sim *s)
{
	int first = (int)(sim_rand(s) & 1);

	s->now += (1 + sim_rand(s) % 15) * SIM_MS;
	sim_arb_step(s);
	for (int i = 0; i < 2; i++) {
		sim_rhead_step(s, first ^ i);
		sim_vm_step(s, first ^ i);
	}
}

static inline void sim_run(struct sim *s, uint64_t ms)
{
	uint64_t end = s->now + ms * SIM_MS;

	while (s->now < end && !s->broken[0])
		sim_step(s);
}

/* Until host @host is in @want or @ms went by. Returns whether it is. */
static inline int sim_until(struct sim *s, int host, enum pair_state want, uint64_t ms)
{
	uint64_t end = s->now + ms * SIM_MS;

	while (s->now < end && !s->broken[0]) {
		if (s->h[host].up && s->h[host].p.state == want)
			return 1;
		sim_step(s);
	}
	return 0;
}

static inline int sim_protected(const struct sim *s)
{
	for (int i = 0; i < 2; i++)
		if (s->h[i].up && s->h[!i].up && s->h[i].p.state == PAIR_PROTECTED &&
		    s->h[!i].p.state == PAIR_STANDBY_READY &&
		    s->h[i].p.term == s->h[!i].p.term)
			return 1;
	return 0;
}

#endif
