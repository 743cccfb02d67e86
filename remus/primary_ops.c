/* SPDX-License-Identifier: Apache-2.0
 * primary_ops - what operators and rhead ask of the primary.
 *
 * Each wish is a command that the epoch thread serves between two epochs, in the order asked;
 * the caller waits. So none of it can fall into a checkpoint, and do_*() below own the state
 * while they run. A caller must not hold the device lock: an epoch may be waiting for it.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "replication/transport.h"

#include <errno.h>

static void take_term(struct primary *p, uint64_t term)
{
	pthread_mutex_lock(&p->lock);
	p->term = term;
	pthread_mutex_unlock(&p->lock);
	log_set_term(term);
}

int primary_command(struct primary *p, int (*run)(struct primary *p, void *arg),
		    void *arg)
{
	struct command c = {.run = run, .arg = arg};

	pthread_mutex_lock(&p->lock);
	*p->cmd_tail = &c;
	/* cppcheck-suppress autoVariables ; off the list before it is done, awaited below */
	p->cmd_tail = &c.next;
	pthread_cond_signal(&p->wake);
	while (!c.done)
		pthread_cond_wait(&p->done, &p->lock);
	pthread_mutex_unlock(&p->lock);
	return c.rc;
}

struct attach {
	struct tp *tp;
	uint64_t term;
	struct err *err;
};

static int do_attach(struct primary *p, void *arg)
{
	struct attach *a = arg;

	if (p->state != PRI_ALONE || p->held) {
		tp_close(a->tp);
		return err_set(a->err, -EBUSY,
			       "the primary of \"%s\" is %s: no standby now", p->vm,
			       p->held ? "being saved" : primary_state_name(p->state));
	}
	if (a->term < p->term) {
		tp_close(a->tp);
		return err_set(a->err, -EINVAL,
			       "a link of term %llu, but term %llu is ours",
			       (unsigned long long)a->term, (unsigned long long)p->term);
	}
	take_term(p, a->term);
	return link_start(p, a->tp, a->err);
}

int primary_attach(struct primary *p, struct tp *tp, uint64_t term, struct err *err)
{
	struct err own = {0};
	struct attach a = {.tp = tp, .term = term, .err = err ? err : &own};

	return primary_command(p, do_attach, &a);
}

static int do_detach(struct primary *p, void *arg)
{
	if (p->link) {
		link_fail(p->link, arg);
		link_close(p);
	}
	return 0;
}

void primary_detach(struct primary *p, const char *why)
{
	(void)primary_command(p, do_detach, (void *)why); /* cannot fail */
}

struct alone {
	uint64_t term;
	struct err *err;
};

static int do_alone(struct primary *p, void *arg)
{
	struct alone *a = arg;

	if (p->state != PRI_ALONE && p->state != PRI_UNLINKED)
		return err_set(a->err, p->state == PRI_FENCED ? -EPERM : -EBUSY,
			       "the primary of \"%s\" is %s and cannot go on alone",
			       p->vm, primary_state_name(p->state));
	/* The term of the lost link is the one that the standby may have been granted from. */
	if (a->term < p->term || (p->state == PRI_UNLINKED && a->term == p->term))
		return err_set(a->err, -EINVAL,
			       "a grant of term %llu does not follow term %llu",
			       (unsigned long long)a->term, (unsigned long long)p->term);
	take_term(p, a->term);
	for (unsigned i = 0; i < p->n; i++)
		p->part[i].ops->alone(p->part[i].self);
	primary_set_state(p, PRI_ALONE, a->term,
			  "authority is ours: nobody else may run");
	return 0;
}

int primary_alone(struct primary *p, uint64_t term, struct err *err)
{
	struct alone a = {.term = term, .err = err};

	return primary_command(p, do_alone, &a);
}

struct between {
	int (*fn)(void *arg);
	void *arg;
	int held; /* not done: the guest is held */
};

static int do_between(struct primary *p, void *arg)
{
	struct between *b = arg;
	int rc;

	if (p->state == PRI_FENCED)
		return -EPERM;
	b->held = p->held;
	if (b->held)
		return 0;
	rc = epoch_pause(p);
	if (rc)
		return rc;
	rc = b->fn(b->arg);
	epoch_resume(p);
	return rc;
}

int primary_between(struct primary *p, int (*fn)(void *arg), void *arg)
{
	struct between b = {.fn = fn, .arg = arg};
	int rc;

	do {
		hold_await_end(p);
		rc = primary_command(p, do_between, &b);
	} while (b.held);
	return rc;
}

static int do_fence(struct primary *p, void *arg)
{
	uint64_t term = *(uint64_t *)arg;

	if (p->state == PRI_FENCED)
		return 0;
	if (p->link) {
		link_fenced(p->link, term);
		link_close(p);
		return 0;
	}
	epoch_pause_for_good(p);
	primary_set_state(p, PRI_FENCED, term, "fenced");
	return 0;
}

void primary_fence(struct primary *p, uint64_t term)
{
	(void)primary_command(p, do_fence, &term); /* cannot fail */
}

enum { FINISH_WAIT = 1 };

/* 0: nothing to tell anybody. FINISH_WAIT: a last checkpoint is on its way. */
static int do_finish(struct primary *p, void *arg)
{
	if (p->held)
		return -EAGAIN;
	switch (p->state) {
	case PRI_ALONE:
		return 0;
	case PRI_SYNCING:
		return do_detach(p, "the guest ended before the standby was in step");
	case PRI_ARMED:
	case PRI_PROTECTED:
		pthread_mutex_lock(&p->lock);
		p->link->finishing = 1;
		pthread_mutex_unlock(&p->lock);
		return FINISH_WAIT;
	case PRI_UNLINKED:
		return -ENOTCONN;
	case PRI_FENCED:
		return -EPERM;
	}
	return -EINVAL;
}

/* Until the standby has confirmed, the link is gone, or the time is up. */
static int finish_wait(struct primary *p, unsigned timeout_ms)
{
	uint64_t until = clock_mono_ns() + timeout_ms * 1000000ull;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000)};
	int r = 0, ok = 0;

	pthread_mutex_lock(&p->lock);
	while (!r && p->link && !p->link->ended && !(ok = p->link->bye_done))
		r = pthread_cond_timedwait(&p->done, &p->lock, &ts);
	if (p->link)
		ok = p->link->bye_done;
	pthread_mutex_unlock(&p->lock);
	if (ok)
		return 0;
	return r ? -ETIMEDOUT : -ENOTCONN;
}

int primary_finish(struct primary *p, unsigned timeout_ms)
{
	int rc;

	do {
		hold_await_end(p);
		rc = primary_command(p, do_finish, NULL);
	} while (rc == -EAGAIN);
	if (rc != FINISH_WAIT)
		return rc;
	rc = finish_wait(p, timeout_ms);
	primary_detach(p, rc ? "the standby did not confirm the guest's end"
			     : "the guest ended");
	return rc;
}
