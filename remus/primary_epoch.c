/* SPDX-License-Identifier: Apache-2.0
 * primary_epoch - one checkpoint: stop, capture, go on. All of it on the epoch thread.
 *
 * Between pause and resume nothing is logged or allocated here and no lock is taken that
 * another thread keeps for long.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "remus/crashpoint.h"

static void resume_first(struct primary *p, unsigned n)
{
	while (n--)
		p->part[n].ops->resume(p->part[n].self);
}

int epoch_pause(struct primary *p)
{
	int rc;

	for (unsigned i = 0; i < p->n; i++) {
		rc = p->part[i].ops->pause(p->part[i].self);
		if (rc) {
			resume_first(p, i + 1);
			return rc;
		}
	}
	return 0;
}

void epoch_resume(struct primary *p)
{
	resume_first(p, p->n);
}

void epoch_pause_for_good(struct primary *p)
{
	int rc;

	if (p->held) /* it stands already, and nobody will let it go */
		return;
	for (unsigned i = 0; i < p->n; i++) {
		rc = p->part[i].ops->pause(p->part[i].self);
		if (rc)
			log_err("pausing %s for good: error %d; it stays paused",
				p->part[i].ops->name, rc);
	}
}

/* The guest runs. */
static int ahead_all(struct primary *p, uint64_t epoch, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; i < p->n && !rc; i++) {
		rc = p->part[i].ops->ahead(p->part[i].self, epoch, err);
		if (rc)
			err_ctx(err, "%s: working ahead", p->part[i].ops->name);
	}
	return rc;
}

/* The guest stands. Stops at the first participant that fails. */
static int capture_all(struct primary *p, uint64_t epoch, struct epoch_times *t,
		       uint64_t *pages, struct err *err)
{
	int rc;

	t->part[0] = clock_mono_ns();
	for (unsigned i = 0; i < p->n; i++) {
		rc = p->part[i].ops->capture(p->part[i].self, epoch, err);
		if (rc < 0)
			return err_ctx(err, "capturing %s", p->part[i].ops->name);
		*pages += (uint64_t)rc;
		t->part[i + 1] = clock_mono_ns();
	}
	return 0;
}

static int checkpoint(struct primary *p, uint64_t epoch, struct epoch_times *t,
		      uint64_t *pages, struct err *err)
{
	int rc;

	t->ahead = clock_mono_ns();
	rc = ahead_all(p, epoch, err);
	if (rc)
		return rc;
	crash_at(CRASH_BEFORE_PAUSE, epoch);
	t->start = clock_mono_ns();
	rc = epoch_pause(p);
	t->stopped = clock_mono_ns();
	if (rc)
		return err_sys(err, rc, "pausing the guest");
	crash_at(CRASH_PAUSED, epoch);
	rc = capture_all(p, epoch, t, pages, err);
	t->captured = clock_mono_ns();
	crash_at(CRASH_CAPTURED, epoch);
	if (rc || !p->hold || hold_here(p, epoch))
		epoch_resume(p);
	t->resumed = clock_mono_ns();
	return rc;
}

static void hand_over(struct link *l, uint64_t epoch, uint64_t captured_ns,
		      uint64_t pages)
{
	pthread_mutex_lock(&l->p->lock);
	l->flight[epoch % PRI_INFLIGHT_MAX] = (struct flight){captured_ns, pages};
	l->captured = epoch + 1;
	if (l->finishing || l->holding)
		l->last = epoch + 1;
	pthread_cond_signal(&l->to_sender);
	pthread_mutex_unlock(&l->p->lock);
}

void epoch_run(struct primary *p, struct link *l)
{
	uint64_t epoch = l->captured, pages = 0;
	struct epoch_times t = {0};
	struct err err = {0};
	int early;

	/* What is requested from now on is about output of the epoch that follows, or of
	 * this one at most: then one epoch more comes early. */
	early = atomic_exchange(&p->requested, 0) && p->last_start &&
		clock_mono_ns() - p->last_start < p->cfg.interval_us * 1000ull;
	if (checkpoint(p, epoch, &t, &pages, &err)) {
		link_fail(l, err.msg);
		return;
	}
	crash_at(CRASH_RESUMED, epoch);
	pthread_mutex_lock(&p->lock);
	control_pause(&p->control, t.resumed - t.start);
	pthread_mutex_unlock(&p->lock);
	stats_epoch(p, &t, pages, early);
	p->last_start = t.start;
	log_set_epoch(epoch + 1);
	/* Before the sender can say so to the peer. */
	if (epoch == 0)
		primary_set_state(p, PRI_ARMED, p->term,
				  "checkpoint 0 is captured, output is held");
	hand_over(l, epoch, t.captured, pages);
}
