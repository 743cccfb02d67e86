/* SPDX-License-Identifier: Apache-2.0
 * wait - two threads that wait for one device.
 *
 * Theory of operation. Whatever happens shows on four file descriptors: completions, the
 * connection manager's events, the device's own, and the eventfd by which other threads
 * wake this one. Only one thread at a time, the leader, asks the device for a completion
 * event and polls them; another one that has to wait follows: it sleeps on a condition
 * until the leader has seen something, or goes, and then it leads. So no event can be taken
 * away by a thread that it was not meant for. `changes` tells whether anything happened
 * between a look at the state and the sleep.
 *
 * Where waits are usually short, the time of falling asleep and waking is most of the
 * latency: then the completion queue is looked at again and again for a while first. Where
 * they are long, nothing is polled hot.
 *
 * A device tells that the peer is gone only when it has something to send. So the leader
 * sends a write of no bytes now and then when nothing is heard.
 */
#include "replication/rdma/link.h"

#include "hv/base/clock.h"
#include "replication/rdma/dev.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum {
	USUAL_WEIGHT = 8, /* how slowly the usual wait follows */
	PROBES_A_SILENCE = 4,
	NS_PER_MS = 1000000,
};

static uint64_t probe_every_ns(const struct link *l)
{
	return (uint64_t)l->dev->args.silence_ms * NS_PER_MS / PROBES_A_SILENCE;
}

/* For poll(): until @until_ns, rounded up, so that it has passed afterwards. */
static int ms_until(uint64_t until_ns, uint64_t now)
{
	return until_ns <= now ? 0 : (int)((until_ns - now + NS_PER_MS - 1) / NS_PER_MS);
}

static void take_wake(struct link *l)
{
	uint64_t count;

	/* Nothing to read is fine: somebody else has been woken by it. */
	if (read(l->wake, &count, sizeof(count)) < 0)
		return;
}

static void take_completion_event(struct link *l)
{
	struct ibv_cq *cq;
	void *context;

	if (!ibv_get_cq_event(l->comp, &cq, &context))
		ibv_ack_cq_events(cq, 1);
}

void wait_wake(struct link *l)
{
	const uint64_t one = 1;

	l->changes++;
	pthread_cond_broadcast(&l->change);
	/* Only a counter that is full refuses, and then it is readable all the same. */
	if (write(l->wake, &one, sizeof(one)) < 0)
		return;
}

/* 1 when something came. */
static int spin(struct link *l, const struct link_waiter *w, uint64_t seen)
{
	const uint64_t began = clock_mono_ns(), most = l->dev->args.spin_us * 1000ull;

	while (w->usual_ns < most && clock_mono_ns() - began < most) {
		pthread_mutex_unlock(&l->lock);
		__builtin_ia32_pause();
		pthread_mutex_lock(&l->lock);
		queue_progress(l);
		if (l->changes != seen)
			return 1;
	}
	return 0;
}

static void follow(struct link *l, uint64_t until_ns)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(until_ns / 1000000000),
		.tv_nsec = (long)(until_ns % 1000000000),
	};

	l->followers++;
	/* Whether time is up is for the caller's clock to say. */
	(void)pthread_cond_timedwait(&l->change, &l->lock, &ts);
	l->followers--;
}

/* Poll without the lock; @completions: the queue's events are wanted too. */
static void poll_all(struct link *l, int completions, uint64_t until_ns)
{
	struct pollfd fds[DEV_FDS + 2];
	int n;

	dev_poll_set(l->dev, fds);
	fds[DEV_FDS] = (struct pollfd){.fd = l->wake, .events = POLLIN};
	fds[DEV_FDS + 1] = (struct pollfd){
		.fd = completions ? l->comp->fd : -1,
		.events = POLLIN,
	};
	n = poll(fds, DEV_FDS + 2, ms_until(until_ns, clock_mono_ns()));
	if (n <= 0)
		return; /* time is up, or a signal: the caller looks again anyway */
	if (fds[0].revents || fds[1].revents)
		dev_pump(l->dev);
	if (fds[DEV_FDS].revents)
		take_wake(l);
	if (fds[DEV_FDS + 1].revents)
		take_completion_event(l);
}

static void lead(struct link *l, uint64_t seen, uint64_t until_ns)
{
	l->led = 1;
	if (ibv_req_notify_cq(l->cq, 0))
		link_end(l, -ECONNRESET);
	/* What came before the request makes no event. */
	queue_progress(l);
	if (l->changes == seen) {
		pthread_mutex_unlock(&l->lock);
		poll_all(l, 1, until_ns);
		pthread_mutex_lock(&l->lock);
		queue_progress(l);
		if (clock_mono_ns() - l->last_heard >= probe_every_ns(l) && !l->dead)
			queue_probe(l);
	}
	l->led = 0;
	pthread_cond_broadcast(&l->change); /* somebody else may have to lead */
}

int wait_change(struct link *l, struct link_waiter *w, uint64_t deadline_ns)
{
	const uint64_t seen = l->changes, began = clock_mono_ns();
	uint64_t until = began + probe_every_ns(l), waited;

	if (deadline_ns && began >= deadline_ns)
		return -ETIMEDOUT;
	if (deadline_ns && deadline_ns < until)
		until = deadline_ns;
	if (!spin(l, w, seen)) {
		if (l->led)
			follow(l, until);
		else
			lead(l, seen, until);
	}
	waited = clock_mono_ns() - began;
	w->usual_ns += waited / USUAL_WEIGHT - w->usual_ns / USUAL_WEIGHT;
	return 0;
}

void wait_event(struct link *l, uint64_t deadline_ns)
{
	poll_all(l, 0, deadline_ns);
}
