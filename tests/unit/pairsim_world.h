/* SPDX-License-Identifier: Apache-2.0
 * pairsim_world - the simulated world's state: the guest's tree, queues and links.
 */
#ifndef TESTS_UNIT_PAIRSIM_WORLD_H
#define TESTS_UNIT_PAIRSIM_WORLD_H

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

enum sim_msg_kind {
	MSG_ARMED,
	MSG_EPOCH,
	MSG_ACK,
	MSG_BYE,
	MSG_FENCED,
	MSG_SAVE,
	MSG_SAVED
};
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
	OP_RESUME,
	OP_SUSPEND,
	OP_SUSPENDED,
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
	/* Primary: it stands still to be saved, and rhead was told that it is. Standby: the node that
	 * its file holds, which the primary asked for; -1: none. */
	int saving, told_saved, copy;
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
	int disk;    /* node, -1: half written */
	int flushed; /* on a standby: what its disk holds if its VM ends now */
	int told_all;
	int file;      /* the saved guest's node; -1: none, or it has run */
	int unsettled; /* it has taken over, and not all that it had acked is durable */
	int owned;     /* the journal says that a guest's writes are here */
	int kept;      /* link that rhead keeps, -1: none */
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
	unsigned takeovers, boots, alones, releases, protects, saves, resumes;
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
	/* No flush of the guest's was answered yet: nothing that a client relies on is new. */
	if (s->h[host].unsettled)
		return;
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
		ev.u.vm_state.saved = bye && v->copy >= 0 && v->copy == v->committed;
	} else if (kind == PAIR_EV_VM_IMAGE) {
		ev.u.image.whole = 1;
		ev.u.image.all =
			v->st != PAIR_ENG_READY && s->h[host].flushed == s->h[host].disk;
		ev.u.image.epoch = UINT64_MAX;
	} else if (kind == PAIR_EV_VM_SAVED) {
		ev.u.saved.ok = v->told_saved;
	} else if (kind == PAIR_EV_VM_DISK) {
		ev.u.disk.bad = !bye;
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

#endif
