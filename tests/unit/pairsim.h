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

#include "tests/unit/pairsim_arbiter.h"
#include "tests/unit/pairsim_vm.h"
#include "tests/unit/pairsim_world.h"

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
	v->link = v->copy = -1;
	sim_op(s, host,
	       a->kind != PAIR_DO_VM_BOOT ? OP_STANDBY
	       : a->u.vm.resume		  ? OP_RESUME
					  : OP_BOOT,
	       a->u.vm.term, -1, 0);
}

static inline void sim_store(struct sim *s, int host, const struct pair_action *a)
{
	struct pair_event ev = {.kind = PAIR_EV_STORED};

	ev.u.stored.id = a->u.store.id;
	ev.u.stored.ok = !(s->slow && sim_one_in(s, 20));
	if (ev.u.stored.ok || sim_one_in(s, 2)) {
		s->h[host].rec = a->u.store.record;
		s->h[host].has_rec = 1;
		sim_check_record(s, host);
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
	case PAIR_DO_VM_SUSPEND:
		sim_op(s, host, OP_SUSPEND, 0, -1, 0);
		break;
	case PAIR_DO_VM_SUSPENDED:
		if (!h->has_rec || !h->rec.saved || h->rec.wanted)
			sim_broken(s, "the standby forgets it before it is on record",
				   host);
		sim_op(s, host, OP_SUSPENDED, 0, -1, 0);
		break;
	case PAIR_DO_VM_DISK_ERRORS: /* changes what the guest sees, and nothing here */
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

	if (kind == PAIR_EV_START && s->h[host].p.rec.saved)
		ev.u.start.resume = sim_one_in(s, 8) ? PAIR_DISCARD : PAIR_RESUME;
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
	/* The journal knows better. */
	if (h->disk >= 0)
		h->rec.incomplete = 0;
	if (h->owned)
		h->rec.behind = 0;
	pair_init(&h->p, &prm, h->has_rec ? &h->rec : NULL);
	ev.u.start.automatic = 1;
	ev.u.start.resume = h->p.rec.saved ? PAIR_RESUME : PAIR_BOOT;
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
		s->h[i].vm.link = s->h[i].kept = s->h[i].file = -1;
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
