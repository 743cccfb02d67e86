/* SPDX-License-Identifier: Apache-2.0
 * port - one Ethernet port under DPDK, with the lanes that run on it.
 *
 * Theory of operation. One lock guards the port, its lanes and DPDK's queues, so none of these is
 * ever used by two threads at once. Whoever has the lock may poll. A stream's sender only fills
 * frames and puts them into its end's queue (queue.c), without the lock: the port's own thread gives
 * them to the driver, so that copying and sealing run beside what the driver and the kernel behind
 * it do, on another core. Who flushes sends the rest himself if that thread is not awake, and a
 * thread that waits polls for a little while before it sleeps: a short message and its answer take no
 * change of threads. The port's thread looks after everything else, with naps that grow while
 * nothing happens, and waits for the driver's interrupt, if there is any, when nothing has
 * come for a while (idle.c).
 */
#ifndef REPLICATION_DPDK_PORT_H
#define REPLICATION_DPDK_PORT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct lane;
struct lane_cfg;
struct port;

enum port_wait { PORT_READ, PORT_WRITE };
enum { PORT_QUEUE = 1024 };

struct port_filled {
	void *frame;
	unsigned len;
};

/* Filled frames, from the stream's sender to whoever polls: one puts, one takes. */
struct port_queue {
	atomic_uint put, taken;
	struct port_filled slot[PORT_QUEUE];
};

/* A lane's place on the port, and who waits there. */
struct port_end {
	struct port *port;
	struct lane *lane;
	struct port_queue out;
	atomic_int asked;      /* flushed since the reader waited last */
	atomic_int send_error; /* lane_send_error() after the last poll */
	uint64_t id;
	int used, owned; /* owned: its user is not gone yet */
	int down;	 /* its user will not wait for anything any more */
	pthread_cond_t change;
	int (*waits[2])(const struct port_end *e); /* for this; NULL: nobody does */
};

/* @args: see args.c. Starts DPDK, the port, its thread. Once a process. */
int port_open(const char *args, struct port **port_out, struct err *err);
/* Waits a moment for what lingers; ends the thread. */
void port_close(struct port *p);

/* Fair: who waits gets it before who had it last. */
void port_lock(struct port *p);
void port_unlock(struct port *p);

/* These three without the lock, by the end's one sender. */
/* Up to @max empty frames for stream bytes; their number. */
unsigned port_grab(struct port *p, void **frames, unsigned max);
/* Puts as many of @f as there is room for into the end's queue; their number. */
unsigned port_offer(struct port_end *e, const struct port_filled *f, unsigned n);
/* Sees to it that what was offered is sent: 1 if the port's thread is awake and does so; else
 * 0, and with @wake it is woken for it, without it is the caller's business. */
int port_attend(struct port *p, int wake);

/* All below: with the lock. */
struct port_end *port_add(struct port *p, struct err *err);
/* The user is gone: its lane goes on until it is over. */
void port_leave(struct port *p, struct port_end *e);
/* Make the end's lane; @cfg lacks only what the port knows. */
int port_start_lane(struct port *p, struct port_end *e, struct lane_cfg *cfg);
unsigned port_mtu(const struct port *p);
const uint8_t *port_mac(const struct port *p);
int port_is_up(const struct port *p);

/* Receive, let every lane send, wake who waited. */
void port_poll(struct port *p);
/* Let this lane send, now. */
void port_push(struct port *p, struct port_end *e);
/* Give all that was offered to the lane, which is about to be closed, as far as it has room. */
void port_settle(struct port_end *e);
unsigned port_queued(
	const struct port_end *e); /* frames that were offered, and the lane has not */
/* Is there room worth waking a sender for? */
int port_has_room(const struct port_end *e);
void port_put(struct port *p, void *frame);
/* Frames that were read; without the lock. */
void port_put_read(struct port *p, void *const *frames, unsigned n);
uint8_t *port_data(void *frame);

/* "naps", "interrupts" or "sockets", and how often the port's thread waited for traffic, and was woken
 * by it. Any thread, without the lock. */
const char *port_idle_mode(struct port *p, unsigned *waits, unsigned *woken);

/* Wait until @ready says so, until @until_ns of the monotonic clock at most, polling
 * for a while first; 0 or -ETIMEDOUT. The lock is given up meanwhile. */
int port_wait(struct port *p, struct port_end *e, enum port_wait what,
	      int (*ready)(const struct port_end *e), uint64_t until_ns);

#endif
