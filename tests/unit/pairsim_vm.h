/* SPDX-License-Identifier: Apache-2.0
 * pairsim_vm - the model rhea-vm: an epoch engine reduced to what a pair machine can see of it.
 */
#ifndef TESTS_UNIT_PAIRSIM_VM_H
#define TESTS_UNIT_PAIRSIM_VM_H

#include "tests/unit/pairsim_world.h"

/* Would a rhead that is killed now find a record that tells the truth? At each change of either. */
static inline void sim_check_record(struct sim *s, int host)
{
	const struct sim_host *h = &s->h[host];
	const struct sim_vm *v = &h->vm;

	if (v->present && v->st >= PAIR_ENG_ARMED && v->st <= PAIR_ENG_UNLINKED &&
	    h->has_rec && h->rec.alone && h->rec.term == v->term)
		sim_broken(s, "a standby was armed, and the record says alone", host);
	if (h->disk < 0 && !(h->has_rec && h->rec.incomplete))
		sim_broken(s, "an image is half written, and the record does not say so",
			   host);
}

/* A cold boot may lose what was never seen and never committed, and nothing else. */
static inline void sim_check_boot(struct sim *s, int host)
{
	const struct sim_vm *o = &s->h[!host].vm;
	int disk = s->h[host].disk;

	if (disk < 0) {
		sim_broken(s, "booted from a half written image", host);
		return;
	}
	if (s->seen >= 0 && !sim_is_ancestor(s, s->seen, disk))
		sim_broken(s, "booted from an image older than what clients saw", host);
	if (!o->present)
		return;
	if (o->running && (o->st == PAIR_ENG_ALONE || o->st == PAIR_ENG_SYNCING))
		sim_broken(s, "booted beside a primary whose output passes", host);
	if ((o->st == PAIR_ENG_READY || o->st == PAIR_ENG_LOST) &&
	    !sim_is_ancestor(s, o->committed, disk))
		sim_broken(s, "booted from an image older than the peer's commit", host);
}

static inline void sim_vm_gone(struct sim *s, int host)
{
	struct sim_host *h = &s->h[host];
	struct sim_vm *v = &h->vm;

	if (!v->present)
		return;
	/* What was acked and not yet durable was in its memory only. */
	if (v->st == PAIR_ENG_READY || v->st == PAIR_ENG_LOST || h->unsettled)
		h->disk = h->flushed;
	h->unsettled = 0;
	sim_close(s, v->link, host);
	for (unsigned i = v->head; i != v->tail; i++) /* descriptors on their way to it */
		if (v->op[i % SIM_RING].kind == OP_LINK)
			sim_close(s, v->op[i % SIM_RING].link, host);
	sim_vm_event(s, host, PAIR_EV_VM_EXITED, 0);
	v->present = 0;
}

/* It goes on, as far as nobody was told that it is saved. */
static inline void sim_vm_not_saved(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->saving || v->told_saved)
		return;
	v->saving = 0;
	sim_vm_event(s, host, PAIR_EV_VM_SAVED, 0);
}

static inline void sim_vm_is_saved(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	s->h[host].file = v->cur;
	v->told_saved = 1;
	sim_vm_event(s, host, PAIR_EV_VM_SAVED, 0);
}

static inline void sim_vm_lost_link(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	sim_vm_not_saved(s, host);
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
		s->h[host].flushed = s->h[host].disk;
		sim_vm_event(s, host, PAIR_EV_VM_IMAGE, 0);
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
	s->h[host].unsettled = 1;
}

static inline void sim_vm_alone(struct sim *s, int host, uint64_t term)
{
	struct sim_vm *v = &s->h[host].vm;

	if (v->st != PAIR_ENG_UNLINKED)
		return; /* fenced meanwhile */
	v->saving = v->told_saved = 0;
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
	if (s->slow && sim_one_in(s, 12)) { /* the handshake fails, and that is told */
		sim_close(s, op->link, host);
		sim_vm_set(s, host, v->st);
		return;
	}
	v->link = op->link;
	if (!op->primary) {
		v->term = op->term;
		s->h[host].disk = s->h[host].flushed = -1;
		s->h[host].told_all = s->h[host].owned = 0;
		sim_check_record(s, host);
	}
	sim_vm_set(s, host, op->primary ? PAIR_ENG_SYNCING : PAIR_ENG_SB_SYNCING);
}

static inline void sim_vm_suspend(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (v->st == PAIR_ENG_SYNCING)
		sim_vm_lost_link(s, host);
	v->saving = 1;
	v->told_saved = 0;
	if (!v->running || v->off ||
	    (v->st != PAIR_ENG_ALONE && v->st != PAIR_ENG_PROTECTED))
		sim_vm_not_saved(s, host);
	else if (v->st == PAIR_ENG_ALONE)
		sim_vm_is_saved(s, host);
	else
		sim_send(s, v->link, !host, MSG_SAVE, v->cur, v->term);
}

/* That is on record, and only then the standby lets go of its commit. */
static inline void sim_vm_suspended(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->saving || !v->told_saved || v->st == PAIR_ENG_FENCED)
		return;
	if (v->st == PAIR_ENG_PROTECTED)
		sim_send(s, v->link, !host, MSG_BYE, v->cur, v->term);
	s->saves++;
	v->off = 1;
	v->running = 0;
	v->exit_at = s->now + (v->st == PAIR_ENG_PROTECTED ? 3000 : 0) * SIM_MS;
}

/* The guest goes on where it was saved, once, and with the disks of that moment. */
static inline void sim_vm_resume(struct sim *s, int host, uint64_t term)
{
	struct sim_host *h = &s->h[host];
	struct sim_vm *v = &h->vm;

	if (h->file <
	    0) { /* it has run from there: what its disks hold is what there is */
		sim_check_boot(s, host);
	} else if (sim_one_in(s, 6)) { /* it cannot be loaded */
		sim_vm_gone(s, host);
		return;
	} else {
		sim_check_boot(s, host);
		if (h->disk != h->file)
			sim_broken(s, "resumed with disks that went on", host);
		s->resumes++;
	}
	h->file = -1;
	v->term = term;
	v->cur = h->disk = sim_node(s, h->disk);
	v->running = 1;
	sim_vm_set(s, host, PAIR_ENG_ALONE);
	sim_vm_event(s, host, PAIR_EV_VM_RUNNING, 0);
}

static inline void sim_vm_off(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->running || v->saving || v->off || v->st == PAIR_ENG_FENCED)
		return;
	if (v->st == PAIR_ENG_PROTECTED)
		sim_send(s, v->link, !host, MSG_BYE, v->cur, v->term);
	v->off = 1;
	v->running = 0;
	/* Told once the standby has confirmed that it has all of it, or does not answer. */
	v->exit_at = s->now + (v->st == PAIR_ENG_PROTECTED ? 3000 : 0) * SIM_MS;
}

static inline void sim_vm_off_told(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (v->off == 2) {
		sim_vm_gone(s, host);
		return;
	}
	v->off = 2;
	v->exit_at = s->now + sim_rand(s) % 50 * SIM_MS;
	sim_vm_event(s, host, PAIR_EV_VM_POWEROFF, 0);
}

static inline void sim_vm_op(struct sim *s, int host, const struct sim_op *op)
{
	struct sim_vm *v = &s->h[host].vm;

	switch (op->kind) {
	case OP_BOOT:
		sim_check_boot(s, host);
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
	case OP_RESUME:
		sim_vm_resume(s, host, op->term);
		break;
	case OP_SUSPEND:
		sim_vm_suspend(s, host);
		break;
	case OP_SUSPENDED:
		sim_vm_suspended(s, host);
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
		if (v->off) {
			v->exit_at = s->now; /* confirmed */
			break;
		}
		sim_send(s, v->link, !host, MSG_BYE, m->node, v->term);
		v->committed = s->h[host].disk = s->h[host].flushed = m->node;
		v->st = PAIR_ENG_LOST;
		sim_vm_event(s, host, PAIR_EV_VM_STATE, 1);
		break;
	case MSG_SAVE:
		if (v->st != PAIR_ENG_READY || v->committed != m->node)
			break;
		v->copy = s->h[host].file = s->h[host].flushed = m->node;
		sim_send(s, v->link, !host, MSG_SAVED, m->node, v->term);
		break;
	case MSG_SAVED:
		if (v->saving && v->st == PAIR_ENG_PROTECTED && v->cur == m->node)
			sim_vm_is_saved(s, host);
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

/* The standby's journal: what was acked becomes durable a while later. */
static inline void sim_vm_flush(struct sim *s, int host)
{
	struct sim_host *h = &s->h[host];
	int first = h->flushed < 0;

	if (h->unsettled && sim_one_in(s, 3)) {
		h->unsettled = 0;
		h->owned = 1;
		h->flushed = h->disk;
		sim_vm_event(s, host, PAIR_EV_VM_IMAGE, 0);
	}
	if (h->vm.st == PAIR_ENG_LOST && h->flushed == h->disk && !h->told_all) {
		h->told_all = 1;
		sim_vm_event(s, host, PAIR_EV_VM_IMAGE, 0);
	}
	if ((h->vm.st != PAIR_ENG_READY && h->vm.st != PAIR_ENG_LOST) || h->disk < 0 ||
	    h->flushed == h->disk || !sim_one_in(s, 3))
		return;
	h->flushed = h->disk;
	if (first)
		sim_vm_event(s, host, PAIR_EV_VM_IMAGE, 0);
}

static inline void sim_vm_guest(struct sim *s, int host)
{
	struct sim_vm *v = &s->h[host].vm;

	if (!v->running || v->saving)
		return;
	v->cur = s->h[host].disk = sim_node(s, v->cur);
	if (v->st == PAIR_ENG_ALONE || v->st == PAIR_ENG_SYNCING)
		sim_release(s, host, v->cur);
	if (v->st == PAIR_ENG_SYNCING && !s->never_arm && sim_one_in(s, 20)) {
		sim_send(s, v->link, !host, MSG_ARMED, v->cur, v->term);
		sim_vm_set(s, host, PAIR_ENG_ARMED);
		sim_check_record(s, host);
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
		sim_vm_off_told(s, host);
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
	sim_vm_flush(s, host);
	sim_vm_guest(s, host);
}

#endif
