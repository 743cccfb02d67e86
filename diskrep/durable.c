/* SPDX-License-Identifier: Apache-2.0
 * durable - the primary's side of the standby's journal: which epoch is on the standby's disks.
 */
#include "diskrep/dr.h"

#include "diskrep/journal.h"
#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>

void dr_durable_reset(struct diskrep *dr)
{
	struct dr_durable *d = &dr->durable;

	d->told =
		(struct diskrep_durable){.state = DISKREP_NOT_TOLD, .epoch = UINT64_MAX};
	d->committed = UINT64_MAX;
}

/* What is known to be durable goes to the activity log. No word: nothing is. */
static void conclude(struct diskrep *dr)
{
	struct dr_durable *d = &dr->durable;
	uint64_t epoch = UINT64_MAX;

	pthread_mutex_lock(&dr->lock);
	if (d->told.state == DISKREP_NO_JOURNAL)
		epoch = d->committed;
	else if (d->told.state == JOURNAL_LIVE && d->told.epoch != UINT64_MAX &&
		 d->committed != UINT64_MAX)
		/* A standby that says more than it was acked for is not believed more. */
		epoch = d->told.epoch < d->committed ? d->told.epoch : d->committed;
	pthread_mutex_unlock(&dr->lock);
	if (epoch != UINT64_MAX)
		dr_durable(dr, epoch);
}

void dr_durable_committed(struct diskrep *dr, uint64_t epoch)
{
	pthread_mutex_lock(&dr->lock);
	dr->durable.committed = epoch;
	dr->durable.when_ns[epoch % DR_LAGS] = clock_mono_ns();
	pthread_mutex_unlock(&dr->lock);
	conclude(dr);
}

int dr_durable_record(struct diskrep *dr, const void *p, size_t len, struct err *err)
{
	struct reader r = reader_of(p, len);
	uint32_t state = rd_u32(&r), zero = rd_u32(&r);
	struct diskrep_durable t = {.state = (int)state};

	t.epoch = rd_u64(&r);
	t.used_bytes = rd_u64(&r);
	t.size_bytes = rd_u64(&r);
	if (state == DR_DURABLE_ALL)
		t.state = DISKREP_NO_JOURNAL;
	if (r.failed || rd_left(&r) || zero ||
	    (t.state != DISKREP_NO_JOURNAL && state >= JOURNAL_STATES) ||
	    t.size_bytes > INT64_MAX || t.used_bytes > t.size_bytes)
		return err_set(err, -EBADMSG, "what is durable: the record is not valid");
	pthread_mutex_lock(&dr->lock);
	dr->durable.told = t;
	pthread_mutex_unlock(&dr->lock);
	conclude(dr);
	return 0;
}

/* Under lock. Epochs that are committed and not durable, and how long the first of them is. */
static void lag(const struct dr_durable *d, struct diskrep_durable *out)
{
	uint64_t first = out->epoch + 1; /* none is UINT64_MAX */

	if (d->committed == UINT64_MAX || first > d->committed)
		return;
	out->lag_epochs = d->committed - first + 1;
	if (out->lag_epochs > DR_LAGS)
		first = d->committed - DR_LAGS + 1;
	out->lag_ms = (clock_mono_ns() - d->when_ns[first % DR_LAGS]) / 1000000;
}

void diskrep_peer_durable(struct diskrep *dr, struct diskrep_durable *out)
{
	pthread_mutex_lock(&dr->lock);
	*out = dr->durable.told;
	if (out->state >= 0)
		lag(&dr->durable, out);
	pthread_mutex_unlock(&dr->lock);
}
