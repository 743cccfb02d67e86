/* SPDX-License-Identifier: Apache-2.0
 * primary_hold - the guest stands still at a checkpoint, for as long as it takes to save it.
 *
 * Theory of operation. The checkpoint at which it stops is an epoch like any other, but for its end:
 * nobody lets the guest go on. So what both hosts save is that checkpoint, byte for byte. When it is
 * acked (and its output released) the sender says SAVE, and then waits for what is decided here: BYE,
 * or the next epoch. Until BYE the standby holds its commit: whatever dies before, the guest goes on
 * from there. Alone there is no epoch; the guest is only stopped.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"

#include <errno.h>

static struct timespec deadline(unsigned ms)
{
	uint64_t until = clock_mono_ns() + ms * 1000000ull;

	return (struct timespec){.tv_sec = (time_t)(until / 1000000000),
				 .tv_nsec = (long)(until % 1000000000)};
}

int hold_here(struct primary *p, uint64_t epoch)
{
	struct hold *h = p->hold;

	h->rc = h->fn(h->arg, epoch);
	p->hold = NULL;
	pthread_mutex_lock(&p->lock);
	p->held = !h->rc;
	if (h->rc && p->link)
		p->link->holding = 0;
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	return h->rc;
}

void hold_end(struct primary *p)
{
	struct link *l = p->link;

	if (!p->held)
		return;
	pthread_mutex_lock(&p->lock);
	p->held = 0;
	if (l) {
		l->holding = l->save_sent = l->peer_saved = 0;
		l->last = 0;
		pthread_cond_signal(&l->to_sender);
	}
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	epoch_resume(p);
}

static int hold_alone(struct primary *p, struct hold *h)
{
	int rc = epoch_pause(p);

	p->hold = h;
	rc = rc ? rc : hold_here(p, UINT64_MAX);
	p->hold = NULL;
	if (rc && h->rc == rc)
		epoch_resume(p);
	return rc;
}

enum { HOLD_WAIT = 1 };

static int hold_protected(struct primary *p, struct hold *h)
{
	int rc = HOLD_WAIT;

	pthread_mutex_lock(&p->lock);
	if (p->link->finishing || p->link->last)
		rc = -EBUSY; /* the guest has ended */
	else
		p->link->holding = 1;
	pthread_mutex_unlock(&p->lock);
	p->hold = rc == HOLD_WAIT ? h : NULL;
	return rc;
}

static int do_hold(struct primary *p, void *arg)
{
	if (p->held || p->hold)
		return -EBUSY;
	/* One that was armed is waited for or lost, and nobody knows which yet. */
	if (p->state == PRI_SYNCING) {
		link_fail(p->link, "the guest is to be saved");
		link_close(p);
	}
	switch (p->state) {
	case PRI_ALONE:
		return hold_alone(p, arg);
	case PRI_PROTECTED:
		return hold_protected(p, arg);
	case PRI_SYNCING:
	case PRI_ARMED:
		return -EBUSY;
	case PRI_UNLINKED:
		return -ENOTCONN;
	case PRI_FENCED:
		return -EPERM;
	}
	return -EINVAL;
}

/* Held, and the last checkpoint is committed; or it will not be. */
static int await_commit(struct primary *p, struct hold *h, unsigned timeout_ms)
{
	struct timespec until = deadline(timeout_ms);
	int r = 0, ok = 0;

	pthread_mutex_lock(&p->lock);
	while (!r && !h->rc && p->link && !p->link->ended &&
	       !(ok = p->held && p->link->save_sent))
		r = pthread_cond_timedwait(&p->done, &p->lock, &until);
	pthread_mutex_unlock(&p->lock);
	if (ok || h->rc)
		return h->rc;
	return r ? -ETIMEDOUT : -ENOTCONN;
}

/* The checkpoint that it waited for may come no more. */
static int do_end(struct primary *p, void *arg)
{
	p->hold = NULL;
	if (p->link) {
		pthread_mutex_lock(&p->lock);
		p->link->holding = 0;
		pthread_mutex_unlock(&p->lock);
	}
	hold_end(p);
	return 0;
}

void primary_hold_end(struct primary *p)
{
	(void)primary_command(p, do_end, NULL); /* cannot fail */
}

int primary_hold(struct primary *p, int (*fn)(void *arg, uint64_t epoch), void *arg,
		 unsigned timeout_ms, struct err *err)
{
	struct hold h = {.fn = fn, .arg = arg};
	int rc = primary_command(p, do_hold, &h);

	if (rc == HOLD_WAIT) {
		rc = await_commit(p, &h, timeout_ms);
		if (rc)
			primary_hold_end(p);
	}
	return rc ? err_sys(err, rc, "stopping the guest at a checkpoint") : 0;
}

int primary_hold_wait(struct primary *p, unsigned timeout_ms)
{
	struct timespec until = deadline(timeout_ms);
	int r = 0, rc;

	pthread_mutex_lock(&p->lock);
	if (!p->link) {
		rc = p->held && p->state == PRI_ALONE ? 1 : -ENOTCONN;
	} else {
		while (!r && p->link && !p->link->ended && !p->link->peer_saved)
			r = pthread_cond_timedwait(&p->done, &p->lock, &until);
		if (!p->link || p->link->ended)
			rc = -ENOTCONN;
		else
			rc = p->link->peer_saved > 0 ? 0 : r ? -ETIMEDOUT : -EIO;
	}
	pthread_mutex_unlock(&p->lock);
	return rc;
}

int primary_hold_done(struct primary *p, unsigned timeout_ms)
{
	struct timespec until = deadline(timeout_ms);
	int r = 0, ok = 0, alone;

	pthread_mutex_lock(&p->lock);
	alone = !p->link && p->state == PRI_ALONE;
	if (p->link) {
		p->link->let_go = 1;
		pthread_cond_signal(&p->link->to_sender);
	}
	while (!r && p->link && !p->link->ended && !(ok = p->link->bye_done))
		r = pthread_cond_timedwait(&p->done, &p->lock, &until);
	if (p->link)
		ok = p->link->bye_done;
	pthread_mutex_unlock(&p->lock);
	return ok || alone ? 0 : r ? -ETIMEDOUT : -ENOTCONN;
}

void hold_await_end(struct primary *p)
{
	pthread_mutex_lock(&p->lock);
	while (p->held && !p->stop)
		pthread_cond_wait(&p->done, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

/* Until the last epoch is acked, and then until it is decided what follows. */
static int wait_for(struct link *l, int decided)
{
	struct primary *p = l->p;
	int holding;

	pthread_mutex_lock(&p->lock);
	while (l->holding && !l->ended && !(decided ? l->let_go : l->acked == l->last))
		pthread_cond_wait(&l->to_sender, &p->lock);
	holding = l->holding && !l->ended;
	pthread_mutex_unlock(&p->lock);
	return holding;
}

int hold_serve(struct link *l, uint64_t epoch, struct err *err)
{
	struct primary *p = l->p;
	int rc;

	if (!wait_for(l, 0))
		return 1;
	rc = link_say(l, CTL_SAVE, epoch, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&p->lock);
	l->save_sent = l->holding;
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	if (!wait_for(l, 1))
		return 1;
	return link_say(l, CTL_BYE, epoch, err);
}
