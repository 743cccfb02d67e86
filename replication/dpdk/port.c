/* SPDX-License-Identifier: Apache-2.0
 * port - one Ethernet port under DPDK, with the lanes that run on it.
 *
 * System calls of all threads that poll, after port_open() has returned: futex, ppoll, write and read
 * of an event, clock_gettime, exit; madvise and munmap when the port's thread ends. The drivers add
 *   net_af_packet       sendto, poll; ioctl (SIOCGIFFLAGS) on a socket that is open already
 *   net_af_xdp          sendto, recvfrom, poll; ioctl the same
 *   with uio or vfio    read and write of the device's interrupt (registers and rings are mapped);
 *                       DPDK's interrupt thread, which is there from the start, calls epoll_wait,
 *                       read and write
 * Capabilities are needed by none of it.
 */
#include "replication/dpdk/port_impl.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <rte_ethdev.h>
#include <rte_pause.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>

enum {
	BURSTS = 4, /* of one poll, so that the lock is not kept for ever */
	SENDS = 4,
	NAP_MIN_US = 15,
	NAP_MAX_US = 100,
	NAP_IDLE_US =
		1000,	/* the longest delay of what comes next, if nothing tells of it */
	QUIET_US = 500, /* nothing came for so long: wait for what tells of it */
	SPIN_US = 40,	/* of a thread that waits for an answer, before it sleeps */
	LINK_MS = 10,
	LINK_DOWN_TIMES = 2,
	LINGER_MS = 2000,
};

void port_lock(struct port *p)
{
	pthread_mutex_lock(&p->gate);
	pthread_mutex_lock(&p->lock);
	pthread_mutex_unlock(&p->gate);
}

void port_unlock(struct port *p)
{
	pthread_mutex_unlock(&p->lock);
}

unsigned port_mtu(const struct port *p)
{
	return p->args.mtu;
}

const uint8_t *port_mac(const struct port *p)
{
	return p->mac.addr_bytes;
}

int port_is_up(const struct port *p)
{
	return !p->link_down;
}

static void wake(struct port_end *e)
{
	for (int i = 0; i < 2; i++)
		if (e->waits[i] && e->waits[i](e))
			pthread_cond_broadcast(&e->change);
}

static void end_free(struct port_end *e)
{
	if (e->lane) {
		lane_fail(e->lane, -ESHUTDOWN);
		port_settle(e);
	}
	lane_free(e->lane);
	e->lane = NULL;
	e->used = 0;
}

/* Until it has nothing more to say or the driver takes no more. */
static uint64_t serve(struct port *p, struct port_end *e, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < SENDS; i++) {
		port_feed(e);
		next = lane_output(e->lane, now);
		if (p->n_out > PORT_OUT / 2 || next <= now)
			port_flush(p);
		if (next > now || p->n_out == PORT_OUT)
			break;
	}
	atomic_store(&e->send_error, lane_send_error(e->lane));
	return next;
}

static unsigned receive(struct port *p, uint64_t now)
{
	struct rte_mbuf *b[PORT_BURST];
	unsigned all = 0, n;

	for (unsigned i = 0; i < BURSTS; i++) {
		n = rte_eth_rx_burst(p->id, 0, b, PORT_BURST);
		for (unsigned k = 0; k < n; k++)
			port_arrived(p, b[k], now);
		all += n;
		if (n < PORT_BURST)
			break;
	}
	return all;
}

void port_poll(struct port *p)
{
	uint64_t now = clock_mono_ns(), next;
	unsigned got;

	atomic_store(&p->offered, 0);
	got = receive(p, now);
	p->next_ns = UINT64_MAX;
	for (unsigned i = 0; i < PORT_ENDS; i++) {
		struct port_end *e = &p->end[i];

		if (!e->used || !e->lane)
			continue;
		next = serve(p, e, now);
		p->next_ns = next < p->next_ns ? next : p->next_ns;
		wake(e);
		if (!e->owned && lane_is_over(e->lane))
			end_free(e);
	}
	port_flush(p);
	p->polled_ns = now;
	if (got)
		p->busy_ns = now;
}

void port_push(struct port *p, struct port_end *e)
{
	uint64_t next = serve(p, e, clock_mono_ns());

	port_flush(p);
	p->next_ns = next < p->next_ns ? next : p->next_ns;
	if (p->next_ns < p->sleep.until_ns)
		port_wake(p);
}

/* A free one, or the one whose user has been gone for the longest: what it still had to say is not
 * worth a new link. */
static struct port_end *place_for_one(struct port *p)
{
	struct port_end *oldest = NULL;

	for (unsigned i = 0; i < PORT_ENDS; i++) {
		struct port_end *e = &p->end[i];

		if (!e->used)
			return e;
		if (!e->owned && (!oldest || p->last_id - (uint32_t)e->id >
						     p->last_id - (uint32_t)oldest->id))
			oldest = e;
	}
	if (oldest)
		end_free(oldest);
	return oldest;
}

struct port_end *port_add(struct port *p, struct err *err)
{
	struct port_end *e = place_for_one(p);

	if (!e) {
		(void)err_set(err, -EMFILE, "dpdk: more than %d links on one port",
			      PORT_ENDS);
		return NULL;
	}
	e->used = e->owned = 1;
	e->down = 0;
	e->port = p;
	e->lane = NULL;
	atomic_store(&e->send_error, 0);
	e->id = (uint64_t)p->instance << 32 | ++p->last_id;
	return e;
}

void port_leave(struct port *p, struct port_end *e)
{
	e->owned = 0;
	if (!e->lane || lane_is_over(e->lane))
		end_free(e);
}

int port_start_lane(struct port *p, struct port_end *e, struct lane_cfg *cfg)
{
	cfg->own_id = e->id;
	memcpy(cfg->own_mac, &p->mac, sizeof(cfg->own_mac));
	cfg->mtu = cfg->mtu < p->args.mtu ? cfg->mtu : p->args.mtu;
	cfg->tx_slots = cfg->rx_slots = p->slots;
	e->lane = lane_new(cfg, &port_lane_ops, p, clock_mono_ns());
	return e->lane ? 0 : -ENOMEM;
}

/* Nobody else has looked for a moment. */
static int nobody_polls(const struct port *p, uint64_t now)
{
	return now - p->polled_ns >= NAP_MIN_US * 1000ull;
}

int port_wait(struct port *p, struct port_end *e, enum port_wait what,
	      int (*ready)(const struct port_end *e), uint64_t until_ns)
{
	uint64_t began = clock_mono_ns(), now = began;
	const struct timespec ts = {.tv_sec = (time_t)(until_ns / 1000000000),
				    .tv_nsec = (long)(until_ns % 1000000000)};

	/* An answer may be near. Who waits for anything else leaves it to the port's thread, which
	 * takes in more at a time. */
	while (atomic_load(&e->asked) && !ready(e) && now < until_ns &&
	       now < began + SPIN_US * 1000ull) {
		port_unlock(p);
		rte_pause();
		port_lock(p);
		if (!ready(e))
			port_poll(p);
		now = clock_mono_ns();
	}
	if (!ready(e))
		atomic_store(&e->asked, 0);
	e->waits[what] = ready;
	while (!ready(e) && now < until_ns) {
		(void)pthread_cond_timedwait(&e->change, &p->lock,
					     &ts); /* looked at anew */
		now = clock_mono_ns();
	}
	e->waits[what] = NULL;
	return ready(e) ? 0 : -ETIMEDOUT;
}

/* A cable that is out ends all links at once, instead of after their silence. */
static void watch_link(struct port *p, uint64_t now)
{
	if (now < p->link_ns + LINK_MS * 1000000ull)
		return;
	p->link_ns = now;
	p->down_seen = port_link_is_up(p) ? 0 : p->down_seen + 1;
	p->link_down = p->down_seen >= LINK_DOWN_TIMES;
	for (unsigned i = 0; i < PORT_ENDS && p->link_down; i++)
		if (p->end[i].used && p->end[i].lane) {
			lane_fail(p->end[i].lane, -ECONNRESET);
			atomic_store(&p->end[i].send_error,
				     lane_send_error(p->end[i].lane));
			wake(&p->end[i]);
		}
}

static int lingering(const struct port *p)
{
	for (unsigned i = 0; i < PORT_ENDS; i++)
		if (p->end[i].used && p->end[i].lane && !lane_is_over(p->end[i].lane))
			return 1;
	return 0;
}

static int unused(const struct port *p)
{
	for (unsigned i = 0; i < PORT_ENDS; i++)
		if (p->end[i].used && p->end[i].lane)
			return 0;
	return 1;
}

static int is_quiet(const struct port *p, uint64_t now)
{
	return p->sleep.n && now - p->busy_ns >= QUIET_US * 1000ull;
}

/* How long the thread may sleep: not past a lane's next deed, and longer the longer nothing came. */
static uint64_t nap_ns(const struct port *p, uint64_t now)
{
	uint64_t max = p->sleep.n ? NAP_MAX_US * 1000ull : NAP_IDLE_US * 1000ull;
	uint64_t nap = (now - p->busy_ns) / 8;

	nap = nap < max ? nap : max;
	nap = nap > NAP_MIN_US * 1000ull ? nap : NAP_MIN_US * 1000ull;
	if (is_quiet(p, now))
		nap = LINK_MS * 1000000ull;
	if (!unused(p) && now + nap > p->next_ns)
		nap = p->next_ns > now ? p->next_ns - now : 0;
	return nap;
}

/* Until there is something to do again. */
static void rest(struct port *p, uint64_t now)
{
	uint64_t ns = nap_ns(p, now);

	if (ns) {
		atomic_store(&p->hot, 0);
		if (!atomic_load(&p->offered)) {
			p->sleep.until_ns = now + ns;
			port_sleep(p, ns, is_quiet(p, now));
			p->sleep.until_ns = 0;
		}
		atomic_store(&p->hot, 1);
		return;
	}
	port_unlock(p); /* others want something, too */
	port_lock(p);
}

static void run(struct port *p)
{
	uint64_t now, end = UINT64_MAX;

	port_lock(p);
	atomic_store(&p->hot, 1);
	for (;;) {
		now = clock_mono_ns();
		if (p->stop && end == UINT64_MAX)
			end = now + LINGER_MS * 1000000ull;
		if (p->stop && (!lingering(p) || now > end))
			break;
		/* Others poll: that is as good, and they need the lock. */
		if (atomic_load(&p->offered) || nobody_polls(p, now))
			port_poll(p);
		watch_link(p, now);
		rest(p, now);
	}
	for (unsigned i = 0; i < PORT_ENDS; i++)
		if (p->end[i].used)
			end_free(&p->end[i]);
	for (unsigned i = 0; i < p->n_out; i++)
		rte_pktmbuf_free(p->out[i]);
	p->n_out = 0;
	port_unlock(p);
}

static void *port_thread(void *arg)
{
	struct port *p = arg;
	int rc;

	/* Naps of microseconds are meant as such. */
	(void)prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0); /* only makes naps longer */
	rc = port_hardware_up(p, p->err);
	port_lock(p);
	p->rc = rc;
	p->up = 1;
	p->polled_ns = p->busy_ns = clock_mono_ns();
	pthread_cond_signal(&p->started);
	port_unlock(p);
	if (!rc) {
		run(p);
		port_hardware_down(p);
	}
	return NULL;
}

static int start_thread(struct port *p, struct err *err)
{
	sigset_t all, before;
	int rc;

	/* Signals are for the threads that expect them. */
	(void)sigfillset(&all);				   /* valid pointer */
	(void)pthread_sigmask(SIG_SETMASK, &all, &before); /* valid arguments */
	rc = -pthread_create(&p->thread, NULL, port_thread, p);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL); /* the same */
	if (rc)
		return err_sys(err, rc, "dpdk: thread");
	port_lock(p);
	while (!p->up)
		(void)pthread_cond_wait(&p->started, &p->lock); /* looked at anew */
	rc = p->rc;
	port_unlock(p);
	if (rc)
		(void)pthread_join(p->thread, NULL); /* our own thread */
	return rc;
}

static void port_free(struct port *p)
{
	for (unsigned i = 0; i < PORT_ENDS; i++)
		pthread_cond_destroy(&p->end[i].change);
	pthread_cond_destroy(&p->started);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->gate);
	port_args_free(&p->args);
	free(p);
}

int port_open(const char *args, struct port **port_out, struct err *err)
{
	struct port *p = calloc(1, sizeof(*p));
	pthread_condattr_t at;
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "dpdk: out of memory");
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&p->gate, NULL);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->started, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	for (unsigned i = 0; i < PORT_ENDS; i++)
		pthread_cond_init(&p->end[i].change, &at);
	pthread_condattr_destroy(&at);
	p->err = err;
	rc = port_args_parse(&p->args, args, err);
	if (!rc && getrandom(&p->instance, sizeof(p->instance), 0) != sizeof(p->instance))
		rc = err_set(err, -EIO, "dpdk: no random number");
	if (!rc && getrandom(&p->last_id, sizeof(p->last_id), 0) != sizeof(p->last_id))
		rc = err_set(err, -EIO, "dpdk: no random number");
	if (!rc)
		rc = start_thread(p, err);
	if (rc) {
		port_free(p);
		return rc;
	}
	*port_out = p;
	return 0;
}

void port_close(struct port *p)
{
	port_lock(p);
	p->stop = 1;
	port_wake(p);
	port_unlock(p);
	(void)pthread_join(p->thread, NULL); /* our own thread */
	port_free(p);
}
