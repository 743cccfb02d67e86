/* SPDX-License-Identifier: Apache-2.0
 * release - held output goes out, in the order said, by one writer at a time.
 */
#include "netbuf/nb.h"

#include "hv/base/clock.h"

#include <errno.h>

enum { ROUNDS_MAX = 8, LAST_BYTES = 64 << 10 };

/* A full tap is given a moment, once for a whole release: whoever waits here holds up acks. */
static int write_entry(struct netbuf *nb, struct nbq_entry *e, uint64_t deadline)
{
	struct nb_port *p = &nb->port[e->port];
	struct iovec iov = {.iov_base = e->bytes, .iov_len = e->len};
	int rc;

	while ((rc = p->ops->write(p->self, &iov, 1)) == -EAGAIN) {
		uint64_t now = clock_mono_ns();

		if (now >= deadline)
			break;
		p->ops->wait(p->self, 1 + (int)((deadline - now) / 1000000));
	}
	return rc;
}

/* A host that froze while it wrote must not say the rest when it is continued: another may speak
 * for the guest by then. To clients that is a lost packet. */
static int went_stale(const struct netbuf *nb, uint64_t judged)
{
	return nb->stale_ns && clock_mono_ns() - judged > nb->stale_ns;
}

/* @judged: when it was last known that this host may speak. */
static void write_chunks(struct netbuf *nb, struct nbq_chunk *c, uint64_t judged)
{
	uint64_t deadline = clock_mono_ns() + NB_RELEASE_WAIT_MS * UINT64_C(1000000);
	uint64_t sent = 0, frames = 0, lost = 0;

	for (; c; c = c->next) {
		for (struct nbq_entry *e = nbq_next(c, NULL); e; e = nbq_next(c, e)) {
			int rc = went_stale(nb, judged) ? -ESTALE
							: write_entry(nb, e, deadline);

			lost += rc < 0 ? e->len : (uint64_t)rc;
			sent += rc < 0 ? 0 : e->len - (uint64_t)rc;
			frames += rc >= 0;
		}
	}
	atomic_fetch_add_explicit(&nb->released_bytes, sent, memory_order_relaxed);
	atomic_fetch_add_explicit(&nb->released_frames, frames, memory_order_relaxed);
	atomic_fetch_add_explicit(&nb->dropped_bytes, lost, memory_order_relaxed);
}

/* Under lock: is there a port that waits, and room enough to be worth waking it? An empty
 * buffer always is, as it takes any frame. */
static int worth_waking(const struct netbuf *nb)
{
	if (nb->q.cost && nb->q.cost > nb->limit - nb->limit / 4)
		return 0;
	for (uint32_t i = 0; i < nb->ports; i++)
		if (nb->port[i].stopped)
			return 1;
	return 0;
}

/* Under out. Returns whether there was something. */
static int release_once(struct netbuf *nb, uint64_t epoch, uint64_t judged)
{
	struct nbq_chunk *list;
	int wake;

	pthread_mutex_lock(&nb->lock);
	list = nbq_take(&nb->q, epoch);
	pthread_mutex_unlock(&nb->lock);
	if (!list)
		return 0;
	write_chunks(nb, list, judged);
	pthread_mutex_lock(&nb->lock);
	nbq_give_back(&nb->q, list);
	wake = worth_waking(nb);
	pthread_mutex_unlock(&nb->lock);
	if (wake)
		nb_wake(nb);
	return 1;
}

void nb_release(struct netbuf *nb, uint64_t epoch)
{
	uint64_t judged = nb->judged_ns ? nb->judged_ns(nb->judged_arg) : clock_mono_ns();

	pthread_mutex_lock(&nb->out);
	(void)release_once(nb, epoch,
			   judged); /* an epoch without output is nothing special */
	pthread_mutex_unlock(&nb->out);
}

/* The guest goes on talking while its held output is written. A few rounds catch up with it; what
 * is left then is written with the lock held, so that this ends whatever the guest does. */
void nb_release_all(struct netbuf *nb)
{
	struct nbq_chunk *list;
	int left = 1;

	pthread_mutex_lock(&nb->out);
	for (int round = 0; left && round < ROUNDS_MAX; round++) {
		left = release_once(nb, UINT64_MAX, clock_mono_ns());
		pthread_mutex_lock(&nb->lock);
		left = left && nb->q.cost > LAST_BYTES;
		pthread_mutex_unlock(&nb->lock);
	}
	pthread_mutex_lock(&nb->lock);
	list = nbq_take(&nb->q, UINT64_MAX);
	write_chunks(nb, list, clock_mono_ns());
	nbq_give_back(&nb->q, list);
	nb->holding = 0;
	nb->said = 0;
	nb->open = 0;
	pthread_mutex_unlock(&nb->lock);
	pthread_mutex_unlock(&nb->out);
	nb_wake(nb);
}

void nb_drop_all(struct netbuf *nb)
{
	struct nbq_chunk *list;

	pthread_mutex_lock(&nb->out);
	pthread_mutex_lock(&nb->lock);
	atomic_fetch_add_explicit(&nb->dropped_bytes, nb->q.payload,
				  memory_order_relaxed);
	list = nbq_take(&nb->q, UINT64_MAX);
	nbq_give_back(&nb->q, list);
	pthread_mutex_unlock(&nb->lock);
	pthread_mutex_unlock(&nb->out);
}
