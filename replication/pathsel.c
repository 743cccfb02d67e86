/* SPDX-License-Identifier: Apache-2.0
 * pathsel - the choice among several paths, as a pure state machine.
 */
#include "replication/pathsel.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const state_names[PATHSEL_NSTATE] = {
	[PATHSEL_DOWN] = "down",
	[PATHSEL_CONNECTING] = "connecting",
	[PATHSEL_READY] = "ready",
	[PATHSEL_IN_USE] = "in-use",
};

#define TO(s) (1u << PATHSEL_##s)
static const unsigned legal[PATHSEL_NSTATE] = {
	[PATHSEL_DOWN] = TO(CONNECTING) | TO(READY) | TO(DOWN),
	[PATHSEL_CONNECTING] = TO(READY) | TO(DOWN),
	[PATHSEL_READY] = TO(IN_USE) | TO(DOWN),
	[PATHSEL_IN_USE] = TO(DOWN),
};

const char *pathsel_state_name(enum pathsel_state s)
{
	return s < PATHSEL_NSTATE ? state_names[s] : "?";
}

static void set(struct pathsel *p, unsigned i, enum pathsel_state s, uint64_t now)
{
	assert(i < p->n && legal[p->path[i].state] & 1u << s);
	p->path[i].state = s;
	p->path[i].since = now;
}

void pathsel_init(struct pathsel *p, unsigned n, const struct pathsel_params *prm,
		  uint64_t now)
{
	assert(n && n <= PATHSEL_MAX);
	*p = (struct pathsel){.prm = *prm, .n = n, .in_use = -1, .taking = -1};
	for (unsigned i = 0; i < n; i++)
		p->path[i] = (struct pathsel_path){
			.since = now, .retry_at = now, .retry_wait = prm->retry_min_ns};
}

static uint64_t doubled(uint64_t v, uint64_t max)
{
	return v > max / 2 ? max : v * 2;
}

uint64_t pathsel_heal_ns(const struct pathsel *p, unsigned i)
{
	uint64_t t = p->prm.heal_ns;

	for (unsigned k = 1; k < p->path[i].failures && t < p->prm.hold_max_ns; k++)
		t = doubled(t, p->prm.hold_max_ns);
	return t;
}

/* When READY path @i may be gone back to. */
static uint64_t healed_at(const struct pathsel *p, unsigned i)
{
	return p->path[i].since + pathsel_heal_ns(p, i);
}

static int is_fresh(const struct pathsel *p, unsigned i, uint64_t now)
{
	uint64_t heard = p->path[i].heard;

	return heard >= now || now - heard < p->prm.fresh_ns;
}

/* With the link standing still any path that is alive will do, but one without a record is better
 * than one that failed lately; in that, the order of the config. One that was not heard lately is only
 * better than none. */
static int best_ready(const struct pathsel *p, uint64_t now)
{
	int best = -1, fresh, best_fresh = 0;

	for (unsigned i = 0; i < p->n; i++) {
		if (p->path[i].state != PATHSEL_READY)
			continue;
		fresh = is_fresh(p, i, now);
		if (best >= 0 &&
		    (fresh != best_fresh ? !fresh
					 : p->path[i].failures >= p->path[best].failures))
			continue;
		best = (int)i;
		best_fresh = fresh;
	}
	return best;
}

/* While the link stands still nobody waits for longer than at first. */
static uint64_t connect_at(const struct pathsel *p, unsigned i)
{
	const struct pathsel_path *x = &p->path[i];
	uint64_t soon = x->since + p->prm.retry_min_ns;

	return p->lost && soon < x->retry_at ? soon : x->retry_at;
}

struct pathsel_do pathsel_decide(const struct pathsel *p, uint64_t now)
{
	struct pathsel_do d = {.at = UINT64_MAX};
	unsigned better = p->in_use < 0 ? 0 : (unsigned)p->in_use;
	int best = p->in_use < 0 && p->taking < 0 ? best_ready(p, now) : -1;
	uint64_t at;

	if (best >= 0)
		return (struct pathsel_do){.act = PATHSEL_USE, .path = (unsigned)best};
	for (unsigned i = 0; i < p->n; i++) {
		int ready = i < better && p->path[i].state == PATHSEL_READY &&
			    p->taking < 0 && is_fresh(p, i, now);

		if (!ready && p->path[i].state != PATHSEL_DOWN)
			continue;
		at = ready ? healed_at(p, i) : connect_at(p, i);
		if (at <= now)
			return (struct pathsel_do){
				.act = ready ? PATHSEL_USE : PATHSEL_CONNECT, .path = i};
		d.at = at < d.at ? at : d.at;
	}
	return d;
}

void pathsel_connecting(struct pathsel *p, unsigned i, uint64_t now)
{
	set(p, i, PATHSEL_CONNECTING, now);
}

void pathsel_ready(struct pathsel *p, unsigned i, uint64_t now)
{
	set(p, i, PATHSEL_READY, now);
	p->path[i].heard = now;
	p->path[i].retry_wait = p->prm.retry_min_ns;
}

void pathsel_heard(struct pathsel *p, unsigned i, uint64_t when)
{
	p->path[i].heard = when;
}

/* A path that is connected again at once would fail again at once. */
static void retry_later(struct pathsel *p, struct pathsel_path *x, uint64_t now)
{
	x->retry_at = now + x->retry_wait;
	x->retry_wait = doubled(x->retry_wait, p->prm.retry_max_ns);
}

static void take_down(struct pathsel *p, unsigned i, uint64_t now)
{
	set(p, i, PATHSEL_DOWN, now);
	retry_later(p, &p->path[i], now);
}

void pathsel_failed(struct pathsel *p, unsigned i, uint64_t now, const char *why)
{
	struct pathsel_path *x = &p->path[i];
	int used = x->state == PATHSEL_IN_USE, taking = p->taking == (int)i;

	if (used && now - x->since >= p->prm.hold_max_ns)
		x->failures = 0;
	x->failures += used || taking;
	x->failed += used || taking;
	(void)snprintf(x->why, sizeof(x->why), "%s", why); /* cutting is fine */
	take_down(p, i, now);
	if (!used && !taking)
		return;
	p->in_use = p->taking = -1;
	p->lost = 1;
}

void pathsel_taking(struct pathsel *p, unsigned i, uint64_t now)
{
	unsigned left = (unsigned)p->in_use;

	assert(i < p->n && p->path[i].state == PATHSEL_READY);
	p->taking = (int)i;
	if (p->in_use < 0)
		return;
	/* It worked until now, and will be wanted if @i never answers. */
	set(p, left, PATHSEL_DOWN, now);
	p->path[left].retry_at = now;
	p->in_use = -1;
}

void pathsel_used(struct pathsel *p, unsigned i, uint64_t now)
{
	if (p->in_use >= 0)
		take_down(p, (unsigned)p->in_use, now);
	p->failovers += p->lost != 0;
	p->lost = 0;
	p->in_use = (int)i;
	p->taking = -1;
	set(p, i, PATHSEL_IN_USE, now);
}
