/* SPDX-License-Identifier: Apache-2.0
 * primary - the epoch thread: states, whose turn it is, and the engine's own life.
 *
 * How the parts play together is told in primary_priv.h.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "remus/schedule.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[] = {
	[PRI_ALONE] = "alone",	     [PRI_SYNCING] = "syncing",
	[PRI_ARMED] = "armed",	     [PRI_PROTECTED] = "protected",
	[PRI_UNLINKED] = "unlinked", [PRI_FENCED] = "fenced",
};
enum { PRI_STATES = sizeof(state_names) / sizeof(state_names[0]) };

/* Where one may go from each state, as bits. */
static const uint8_t legal[] = {
	[PRI_ALONE] = 1 << PRI_ALONE | 1 << PRI_SYNCING | 1 << PRI_FENCED,
	[PRI_SYNCING] = 1 << PRI_ALONE | 1 << PRI_ARMED | 1 << PRI_FENCED,
	[PRI_ARMED] =
		1 << PRI_ALONE | 1 << PRI_PROTECTED | 1 << PRI_UNLINKED | 1 << PRI_FENCED,
	[PRI_PROTECTED] = 1 << PRI_ALONE | 1 << PRI_UNLINKED | 1 << PRI_FENCED,
	[PRI_UNLINKED] = 1 << PRI_ALONE | 1 << PRI_FENCED,
	[PRI_FENCED] = 0,
};
_Static_assert(PRI_STATES == PRI_FENCED + 1, "a name for each state");
_Static_assert(sizeof(legal) == PRI_STATES, "a row for each state");

const char *primary_state_name(enum primary_state s)
{
	return (unsigned)s < PRI_STATES ? state_names[s] : "?";
}

void primary_set_state(struct primary *p, enum primary_state s, uint64_t term,
		       const char *why)
{
	enum primary_state was = p->state;

	if (!(legal[was] & 1 << s)) {
		log_err("%s: refusing to go from %s to %s", p->vm,
			primary_state_name(was), primary_state_name(s));
		assert(!"illegal change of the primary's state");
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->state = s;
	pthread_mutex_unlock(&p->lock);
	log_info("%s: primary is %s: %s", p->vm, primary_state_name(s), why);
	p->cfg.on_state(p->cfg.arg, s, term, why);
}

static void no_on_state(void *arg, enum primary_state s, uint64_t term, const char *why)
{
}

static void serve(struct primary *p)
{
	struct command *c = p->cmd_head;
	int rc;

	p->cmd_head = c->next;
	if (!p->cmd_head)
		p->cmd_tail = &p->cmd_head;
	pthread_mutex_unlock(&p->lock);
	rc = c->run(p, c->arg);
	pthread_mutex_lock(&p->lock);
	c->rc = rc;
	c->done = 1;
	pthread_cond_broadcast(&p->done);
}

/* When the next epoch starts, in ns; locked. */
static uint64_t next_epoch(struct primary *p, uint64_t now)
{
	const struct link *l = p->link;
	struct sched s;

	if (!l || !l->synced || l->ended || l->last)
		return SCHED_NEVER;
	s = (struct sched){
		.now = now,
		.last_start = p->last_start,
		.output_since = atomic_load(&p->requested),
		.inflight = (unsigned)(l->captured - l->acked),
		.max_inflight = p->cfg.max_inflight,
		.hurry = l->finishing || l->holding,
	};
	return sched_next(&s, &p->control, &p->control_cfg);
}

int link_was_frozen(struct link *l)
{
	return watch_gaps(&l->p->watch) != l->gaps;
}

static void sleep_until(struct primary *p, uint64_t when)
{
	struct timespec ts = {.tv_sec = (time_t)(when / 1000000000),
			      .tv_nsec = (long)(when % 1000000000)};

	/* However it ends, the loop looks at everything again. */
	if (when == SCHED_NEVER)
		(void)pthread_cond_wait(&p->wake, &p->lock);
	else
		(void)pthread_cond_timedwait(&p->wake, &p->lock, &ts);
}

/* The watch's thread: this process stood still. */
static void on_gap(void *arg)
{
	struct primary *p = arg;

	pthread_mutex_lock(&p->lock);
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

/* One step of the epoch thread; locked on entry and on return. */
static void step(struct primary *p)
{
	struct link *l = p->link;
	uint64_t now = clock_mono_ns(), when = next_epoch(p, now);
	int ended = l && l->ended, commit = l && l->acked && p->state == PRI_ARMED;

	if (l && !ended && link_was_frozen(l)) {
		pthread_mutex_unlock(&p->lock);
		link_fail(l, "this host stood still for longer than its peer waits");
		pthread_mutex_lock(&p->lock);
		return;
	}
	if (p->cmd_head) {
		serve(p);
		return;
	}
	if (!ended && !commit && when > now) {
		sleep_until(p, when);
		return;
	}
	pthread_mutex_unlock(&p->lock);
	if (ended)
		link_close(p);
	else if (commit)
		primary_set_state(p, PRI_PROTECTED, p->term,
				  "the standby has checkpoint 0");
	else
		epoch_run(p, l);
	pthread_mutex_lock(&p->lock);
}

static void *epoch_main(void *arg)
{
	struct primary *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stop)
		step(p);
	pthread_mutex_unlock(&p->lock);
	hold_end(p);
	if (p->link) {
		link_fail(p->link, "the engine ends");
		link_close(p);
	}
	return NULL;
}

static void request(void *arg, const char *why)
{
	struct primary *p = arg;

	uint64_t none = 0;

	if (!atomic_compare_exchange_strong(&p->requested, &none, clock_mono_ns()))
		return;
	pthread_mutex_lock(&p->lock);
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

struct epoch_trigger primary_trigger(struct primary *p)
{
	return (struct epoch_trigger){.request = request, .arg = p};
}

static int config_check(const struct primary_config *cfg, const struct part *parts,
			unsigned n, struct err *err)
{
	if (strlen(cfg->vm) > STREAM_VM_MAX)
		return err_set(err, -EINVAL, "VM name \"%s\": more than %d bytes",
			       cfg->vm, STREAM_VM_MAX);
	if (n > STREAM_PARTS_MAX)
		return err_set(err, -EINVAL, "%u participants: %d at most", n,
			       STREAM_PARTS_MAX);
	if (cfg->overhead_cap > 100)
		return err_set(err, -EINVAL, "an overhead of at most %u %%: 100 at most",
			       cfg->overhead_cap);
	if (!cfg->interval_us || cfg->max_inflight > PRI_INFLIGHT_MAX)
		return err_set(err, -EINVAL,
			       "interval of %u us, %u epochs in flight: not within "
			       "1 and up, 0 to %d",
			       cfg->interval_us, cfg->max_inflight, PRI_INFLIGHT_MAX);
	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < i; j++)
			if (parts[i].ops->kind == parts[j].ops->kind)
				return err_set(err, -EINVAL,
					       "%s and %s have one kind of records",
					       parts[j].ops->name, parts[i].ops->name);
	return 0;
}

static struct primary *primary_new(const struct primary_config *cfg,
				   const struct part *parts, unsigned n)
{
	struct primary *p = calloc(1, sizeof(*p));
	pthread_condattr_t at;

	if (!p)
		return NULL;
	p->cfg = *cfg;
	if (!p->cfg.on_state)
		p->cfg.on_state = no_on_state;
	if (!p->cfg.max_inflight)
		p->cfg.max_inflight = 1;
	p->control_cfg = (struct control_config){
		.interval = cfg->interval_us * UINT64_C(1000),
		.min_interval = cfg->min_interval_us * UINT64_C(1000),
		.latency_target = cfg->latency_target_us * UINT64_C(1000),
		.overhead_cap = cfg->overhead_cap ? cfg->overhead_cap : 100,
	};
	memcpy(p->vm, cfg->vm, strlen(cfg->vm));
	p->cfg.vm = p->vm;
	p->n = n;
	for (unsigned i = 0; i < n; i++) {
		p->part[i] = parts[i];
		p->kind[i] = parts[i].ops->kind;
	}
	p->cmd_tail = &p->cmd_head;
	p->stats.acked = UINT64_MAX;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->stats_lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &at);
	pthread_cond_init(&p->done, &at);
	pthread_condattr_destroy(&at);
	return p;
}

static void primary_free(struct primary *p)
{
	pthread_cond_destroy(&p->wake);
	pthread_cond_destroy(&p->done);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->stats_lock);
	free(p);
}

static void teardown_first(struct primary *p, unsigned n)
{
	while (n--)
		p->part[n].ops->teardown(p->part[n].self);
}

/* On failure nothing is left behind, not in the participants either. */
static int setup_and_start(struct primary *p, struct err *err)
{
	int rc;

	for (unsigned i = 0; i < p->n; i++) {
		rc = p->part[i].ops->setup(p->part[i].self, err);
		if (rc) {
			teardown_first(p, i + 1);
			return rc;
		}
	}
	rc = watch_start(&p->watch, p->cfg.frozen_us * 1000ull, on_gap, p);
	if (!rc) {
		rc = -pthread_create(&p->thread, NULL, epoch_main, p);
		if (!rc)
			return 0;
		watch_stop(&p->watch);
	}
	teardown_first(p, p->n);
	return err_sys(err, rc, "starting the epoch engine's threads");
}

int primary_create(const struct primary_config *cfg, const struct part *parts, unsigned n,
		   struct primary **p_out, struct err *err)
{
	struct primary *p;
	int rc;

	*p_out = NULL;
	rc = config_check(cfg, parts, n, err);
	if (rc)
		return rc;
	p = primary_new(cfg, parts, n);
	if (!p)
		return err_set(err, -ENOMEM, "the epoch engine: out of memory");
	rc = setup_and_start(p, err);
	if (rc) {
		primary_free(p);
		return rc;
	}
	*p_out = p;
	return 0;
}

void primary_destroy(struct primary *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = 1;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL); /* ours, and joined by nobody else */
	watch_stop(&p->watch);
	teardown_first(p, p->n);
	primary_free(p);
}
