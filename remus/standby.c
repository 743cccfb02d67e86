/* SPDX-License-Identifier: Apache-2.0
 * standby - states, links that come and go, and taking over.
 *
 * Who owns the state: the receive thread while it runs, else the operator's call under @ctl.
 * An operator's call that wants to change it joins the thread first.
 */
#include "remus/standby_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "replication/transport.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long an activation waits, at most, for FENCED to leave towards a primary that may be alive.
 * It is one small record into a buffer that is almost always empty, so this time only passes
 * when the transport is stuck. */
enum { FAREWELL_MS = 100 };

static const char *const state_names[] = {
	[SB_EMPTY] = "empty", [SB_SYNCING] = "syncing", [SB_READY] = "ready",
	[SB_LOST] = "lost",   [SB_ACTIVE] = "active",
};
enum { SB_STATES = sizeof(state_names) / sizeof(state_names[0]) };

/* Where one may go from each state, as bits. */
static const uint8_t legal[] = {
	[SB_EMPTY] = 1 << SB_SYNCING,
	[SB_SYNCING] = 1 << SB_EMPTY | 1 << SB_READY,
	[SB_READY] = 1 << SB_EMPTY | 1 << SB_LOST,
	[SB_LOST] = 1 << SB_EMPTY | 1 << SB_ACTIVE,
	[SB_ACTIVE] = 0,
};
_Static_assert(SB_STATES == SB_ACTIVE + 1, "a name for each state");
_Static_assert(sizeof(legal) == SB_STATES, "a row for each state");

const char *standby_state_name(enum standby_state s)
{
	return (unsigned)s < SB_STATES ? state_names[s] : "?";
}

void standby_set_state(struct standby *s, enum standby_state st, int bye, const char *why)
{
	enum standby_state was = s->state;
	uint64_t term;

	if (!(legal[was] & 1 << st)) {
		log_err("%s: refusing to go from %s to %s", s->vm,
			standby_state_name(was), standby_state_name(st));
		assert(!"illegal change of the standby's state");
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->state = st;
	term = s->term;
	pthread_mutex_unlock(&s->lock);
	log_info("%s: standby is %s: %s", s->vm, standby_state_name(st), why);
	s->cfg.on_state(s->cfg.arg, st, term, bye, why);
}

static void no_on_state(void *arg, enum standby_state s, uint64_t term, int bye,
			const char *why)
{
}

static int fenced_over(struct rec_stream *rs, uint64_t term)
{
	struct fenced_wire w = {.term = le64_of(term)};
	struct iovec v = {.iov_base = &w, .iov_len = sizeof(w)};
	int rc = rec_send(rs, CTL_FENCED, 0, &v, 1);

	return rc ? rc : rec_flush(rs);
}

int standby_say_fenced(struct standby *s, uint64_t term)
{
	int rc;

	pthread_mutex_lock(&s->send_lock);
	rc = fenced_over(&s->rs, term);
	pthread_mutex_unlock(&s->send_lock);
	return rc;
}

int standby_say_saved(struct standby *s, uint64_t epoch, int failed)
{
	struct saved_wire w = {.failed = le32_of(failed ? 1 : 0)};
	struct iovec v = {.iov_base = &w, .iov_len = sizeof(w)};
	int rc;

	/* Before it is said: the BYE that follows from it may come at once. */
	pthread_mutex_lock(&s->lock);
	s->saved = failed ? 0 : epoch + 1;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->send_lock);
	rc = rec_send(&s->rs, CTL_SAVED, epoch, &v, 1);
	rc = rc ? rc : rec_flush(&s->rs);
	pthread_mutex_unlock(&s->send_lock);
	return rc;
}

void standby_saved(struct standby *s, uint64_t epoch, int rc)
{
	/* So that the link is not ended and freed meanwhile. */
	pthread_mutex_lock(&s->ctl);
	if (s->tp && standby_say_saved(s, epoch, rc))
		log_info("%s: the primary could not be told what was saved", s->vm);
	pthread_mutex_unlock(&s->ctl);
}

/* End the link, if there is one; @why is told if it still was up. Under ctl. */
static void link_end(struct standby *s, const char *why)
{
	if (!s->tp)
		return;
	pthread_mutex_lock(&s->lock);
	if (!s->why[0])
		(void)snprintf(s->why, sizeof(s->why), "%s",
			       why); /* truncation is fine */
	pthread_mutex_unlock(&s->lock);
	tp_shutdown(s->tp);
	pthread_join(s->thread, NULL); /* ours, and joined by nobody else */
	rec_stream_fini(&s->rs);
	tp_close(s->tp);
	s->tp = NULL;
}

static int attach_admit(struct standby *s, uint64_t term, struct err *err)
{
	enum standby_state now;

	pthread_mutex_lock(&s->lock);
	now = s->state;
	pthread_mutex_unlock(&s->lock);
	if (now != SB_EMPTY)
		return err_set(err, -EBUSY,
			       "the standby of \"%s\" is %s and takes no new link", s->vm,
			       standby_state_name(now));
	if (term < s->term || term <= s->granted)
		return err_set(err, -EBUSY,
			       "a link of term %llu, but term %llu was seen here",
			       (unsigned long long)term,
			       (unsigned long long)(s->granted > s->term ? s->granted
									 : s->term));
	return 0;
}

/* A link that is not wanted. One of a term before our own is told so, best effort: the peer
 * also learns it from rhead. */
static void refuse(struct standby *s, struct tp *tp, uint64_t term)
{
	struct rec_stream rs;

	rec_stream_init(&rs, tp, s->granted);
	tp->send_timeout_ms = FAREWELL_MS;
	if (s->granted > term && fenced_over(&rs, s->granted))
		log_debug("%s: the peer of term %llu could not be told", s->vm,
			  (unsigned long long)term);
	rec_stream_fini(&rs);
	tp_close(tp);
}

static void link_init(struct standby *s, struct tp *tp, uint64_t term)
{
	s->tp = tp;
	rec_stream_init(&s->rs, tp, term);
	tally_init(&s->tally, s->kind, s->n);
	s->hello_seen = s->greeted = s->armed = s->in_epochs = s->bye = 0;
	pthread_mutex_lock(&s->lock);
	s->term = term;
	s->acked = s->applied = s->saved = 0;
	s->broken = 0;
	s->why[0] = 0;
	pthread_mutex_unlock(&s->lock);
	log_set_term(term);
}

static int attach_locked(struct standby *s, struct tp *tp, uint64_t term, struct err *err)
{
	int rc = attach_admit(s, term, err);

	if (rc) {
		refuse(s, tp, term);
		return rc;
	}
	link_end(s, "a new link");
	link_init(s, tp, term);
	standby_set_state(s, SB_SYNCING, 0, "a link to the primary is up");
	rc = -pthread_create(&s->thread, NULL, standby_receiver, s);
	if (rc) {
		rec_stream_fini(&s->rs);
		tp_close(s->tp);
		s->tp = NULL;
		err_sys(err, rc, "starting the standby's receive thread");
		standby_set_state(s, SB_EMPTY, 0, "no receive thread");
	}
	return rc;
}

int standby_attach(struct standby *s, struct tp *tp, uint64_t term, struct err *err)
{
	int rc;

	pthread_mutex_lock(&s->ctl);
	rc = attach_locked(s, tp, term, err);
	pthread_mutex_unlock(&s->ctl);
	return rc;
}

void standby_detach(struct standby *s, const char *why)
{
	pthread_mutex_lock(&s->ctl);
	link_end(s, why);
	pthread_mutex_unlock(&s->ctl);
}

static void *farewell_main(void *arg)
{
	struct standby *s = arg;

	if (standby_say_fenced(s, s->granted))
		log_debug("%s: the old primary could not be told", s->vm);
	pthread_mutex_lock(&s->lock);
	s->farewell_done = 1;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Tell the old primary and end the link. The telling has a thread of its own, because a peer
 * that takes nothing would hold it up; shutting the transport down ends it in any case. */
static void link_end_fenced(struct standby *s)
{
	uint64_t until = clock_mono_ns() + FAREWELL_MS * 1000000ull;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000)};
	pthread_t t;
	int r = 0;

	s->farewell_done = 0;
	if (pthread_create(&t, NULL, farewell_main, s)) {
		link_end(s, "granted");
		return;
	}
	pthread_mutex_lock(&s->lock);
	while (!s->farewell_done && !r)
		r = pthread_cond_timedwait(&s->news, &s->lock, &ts);
	pthread_mutex_unlock(&s->lock);
	tp_shutdown(s->tp);
	pthread_join(t, NULL); /* ours, and joined by nobody else */
	link_end(s, "granted");
}

/* From the moment that @granted is set no ack is decided any more. */
static int grant(struct standby *s, uint64_t term, int *link_up, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	*link_up = s->state == SB_READY;
	if (s->state != SB_READY && s->state != SB_LOST)
		rc = err_set(err, -EPERM,
			     "the standby of \"%s\" is %s: nothing to run from", s->vm,
			     standby_state_name(s->state));
	else if (term <= s->term)
		rc = err_set(err, -EINVAL,
			     "a grant of term %llu does not follow term %llu",
			     (unsigned long long)term, (unsigned long long)s->term);
	else
		s->granted = term;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* In reverse: the machine is first in the array, and is loaded once all that it uses is ready. */
static int activate_parts(struct standby *s, struct err *err)
{
	for (unsigned i = s->n; i--;) {
		int rc = s->part[i].ops->activate(s->part[i].self, err);

		if (rc) {
			err_ctx(err, "activating %s", s->part[i].ops->name);
			return rc;
		}
	}
	return 0;
}

static int activate_locked(struct standby *s, uint64_t term, struct err *err)
{
	int link_up, rc;

	rc = grant(s, term, &link_up, err);
	if (rc)
		return rc;
	if (link_up)
		link_end_fenced(s);
	else
		link_end(s, "granted");
	if (s->state != SB_LOST)
		return err_set(err, -EPERM,
			       "the standby of \"%s\" is %s: nothing to run from", s->vm,
			       standby_state_name(s->state));
	rc = activate_parts(s, err);
	pthread_mutex_lock(&s->lock);
	s->term = term;
	pthread_mutex_unlock(&s->lock);
	log_set_term(term);
	if (rc)
		standby_set_state(s, SB_EMPTY, 0, "the checkpoint could not be loaded");
	else
		standby_set_state(s, SB_ACTIVE, 0, "granted");
	return rc;
}

int standby_activate(struct standby *s, uint64_t term, struct err *err)
{
	struct err own = {0};
	int rc;

	pthread_mutex_lock(&s->ctl);
	rc = activate_locked(s, term, err ? err : &own);
	pthread_mutex_unlock(&s->ctl);
	return rc;
}

void standby_stats(struct standby *s, struct standby_stats *out)
{
	pthread_mutex_lock(&s->lock);
	*out = (struct standby_stats){
		.state = s->state,
		.term = s->term,
		.acked = s->acked - 1, /* 0, none yet, becomes UINT64_MAX */
		.applied = s->applied - 1,
		.bytes_received = s->bytes_received,
		.verify = s->verify,
		.apply = s->apply,
	};
	pthread_mutex_unlock(&s->lock);
}

static int config_check(const struct standby_config *cfg,
			const struct standby_part *parts, unsigned n, struct err *err)
{
	if (strlen(cfg->vm) > STREAM_VM_MAX)
		return err_set(err, -EINVAL, "VM name \"%s\": more than %d bytes",
			       cfg->vm, STREAM_VM_MAX);
	if (n > STREAM_PARTS_MAX)
		return err_set(err, -EINVAL, "%u participants: %d at most", n,
			       STREAM_PARTS_MAX);
	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < i; j++)
			if (parts[i].ops->kind == parts[j].ops->kind)
				return err_set(err, -EINVAL,
					       "%s and %s have one kind of records",
					       parts[j].ops->name, parts[i].ops->name);
	return 0;
}

static void locks_init(struct standby *s)
{
	pthread_condattr_t at;

	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&s->ctl, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->send_lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&s->news, &at);
	pthread_condattr_destroy(&at);
}

int standby_create(const struct standby_config *cfg, const struct standby_part *parts,
		   unsigned n, struct standby **s_out, struct err *err)
{
	struct standby *s;
	int rc;

	*s_out = NULL;
	rc = config_check(cfg, parts, n, err);
	if (rc)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, -ENOMEM, "the standby's engine: out of memory");
	s->cfg = *cfg;
	if (!s->cfg.on_state)
		s->cfg.on_state = no_on_state;
	memcpy(s->vm, cfg->vm, strlen(cfg->vm));
	s->cfg.vm = s->vm;
	s->n = n;
	for (unsigned i = 0; i < n; i++) {
		s->part[i] = parts[i];
		s->kind[i] = parts[i].ops->kind;
	}
	hello_make(&s->hello, STREAM_STANDBY, s->vm, s->kind, n);
	locks_init(s);
	*s_out = s;
	return 0;
}

void standby_destroy(struct standby *s)
{
	if (!s)
		return;
	standby_detach(s, "the engine ends");
	for (unsigned i = s->n; i--;)
		s->part[i].ops->teardown(s->part[i].self);
	pthread_mutex_destroy(&s->ctl);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->send_lock);
	pthread_cond_destroy(&s->news);
	free(s);
}
