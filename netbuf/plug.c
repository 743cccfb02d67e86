/* SPDX-License-Identifier: Apache-2.0
 * plug - output that never passes through this process is held by the kernel's plug qdisc instead.
 */
#include "netbuf/plug.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <string.h>

void nb_plug_init(struct nb_plug *p)
{
	pthread_mutex_init(&p->lock, NULL); /* default attributes: cannot fail */
}

void nb_plug_fini(struct nb_plug *p)
{
	pthread_mutex_destroy(&p->lock);
}

/* Under lock. */
static int tell(struct nb_plug *p, enum plug_op op, uint64_t not_after_ns)
{
	return p->kernel->tell(p->kernel->self, op, not_after_ns, &p->counts);
}

int nb_plug_capture(struct nb_plug *p, uint64_t epoch, struct err *err)
{
	int rc = 0;

	if (!p->kernel)
		return 0;
	pthread_mutex_lock(&p->lock);
	if (p->dropped) {
		rc = err_set(err, -EPERM, "plug: closed for good");
	} else if (p->pending) {
		p->refused++;
		rc = err_set(err, -EBUSY,
			     "plug: epoch %llu is still held, and there is room for one",
			     (unsigned long long)p->epoch);
	} else {
		rc = tell(p, PLUG_HOLD, 0);
		/* Also after an error: where the kernel put the boundary is not known then. */
		p->pending = p->holding = 1;
		p->epoch = epoch;
		if (rc)
			err_sys(err, rc, "plug: closing epoch %llu",
				(unsigned long long)epoch);
	}
	pthread_mutex_unlock(&p->lock);
	return rc;
}

void nb_plug_committed(struct nb_plug *p, uint64_t epoch, uint64_t stale_ns)
{
	uint64_t not_after = stale_ns ? clock_mono_ns() + stale_ns : 0;
	int rc;

	if (!p->kernel)
		return;
	pthread_mutex_lock(&p->lock);
	if (p->dropped || !p->pending || p->epoch != epoch) {
		log_err("plug: the output of epoch %llu is not released: it is not what is held",
			(unsigned long long)epoch);
	} else {
		rc = tell(p, PLUG_RELEASE, not_after);
		if (rc)
			log_err("plug: the output of epoch %llu stays held: %s",
				(unsigned long long)epoch, strerror(-rc));
		p->pending = rc != 0;
	}
	pthread_mutex_unlock(&p->lock);
}

void nb_plug_alone(struct nb_plug *p)
{
	int rc;

	if (!p->kernel)
		return;
	pthread_mutex_lock(&p->lock);
	rc = p->dropped ? -EPERM : tell(p, PLUG_OPEN, 0);
	if (rc)
		log_err("plug: output stays held: %s", strerror(-rc));
	else
		p->pending = p->holding = 0;
	pthread_mutex_unlock(&p->lock);
}

void nb_plug_drop(struct nb_plug *p)
{
	int rc;

	if (!p->kernel)
		return;
	pthread_mutex_lock(&p->lock);
	rc = p->dropped ? 0 : tell(p, PLUG_DROP, 0);
	/* Held it is in any case, until rhead takes the device away. */
	if (rc)
		log_err("plug: what is held could not be dropped: %s", strerror(-rc));
	p->dropped = 1;
	pthread_mutex_unlock(&p->lock);
}

void nb_plug_counts(struct nb_plug *p, struct plug_counts *out)
{
	*out = (struct plug_counts){0};
	if (!p->kernel || pthread_mutex_trylock(&p->lock))
		return;
	/* A failure leaves the counts as they were. */
	if (!p->dropped)
		(void)tell(p, PLUG_COUNT, 0);
	*out = p->counts;
	pthread_mutex_unlock(&p->lock);
}
