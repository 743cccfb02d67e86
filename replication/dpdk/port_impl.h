/* SPDX-License-Identifier: Apache-2.0
 * port_impl - what the files of a port know of each other.
 */
#ifndef REPLICATION_DPDK_PORT_IMPL_H
#define REPLICATION_DPDK_PORT_IMPL_H

#include "replication/dpdk/port.h"
#include "replication/lane.h"

#include <rte_ether.h>
#include <rte_mbuf.h>

enum {
	PORT_ENDS = 32,
	PORT_BURST = 32,
	PORT_OUT = 64,	  /* frames gathered for one call of the driver */
	PORT_WORDS = 32,  /* of the arguments */
	PORT_RING = 2048, /* descriptors, if the driver has so many */
	PORT_RING_JUMBO = 512,
	PORT_CACHE = 256,
};

/* What a frame counts as. */
enum { PORT_FREE_USE, PORT_APP_USE, PORT_KEPT_USE };

/* What the arguments say. */
struct port_args {
	char *text; /* owned; the words point into it */
	char *eal[PORT_WORDS];
	int n_eal;
	char name[64];	/* of the port; empty: the first one */
	char iface[16]; /* of the kernel's, on which a virtual port runs; or empty */
	unsigned mtu, window_mib;
	int core; /* -1: any */
	int huge; /* there are huge pages */
	unsigned
		frame_room; /* bytes that a frame's buffer must have; the driver wants it so */
};
int port_args_parse(struct port_args *a, const char *args, struct err *err);
/* Descriptors in each direction, and the frames that there must be beside the windows: a driver
 * may hold two rings full in each direction (af_xdp: waiting and completed). */
unsigned port_ring(const struct port_args *a);
unsigned port_margin(const struct port_args *a);
void port_args_free(struct port_args *a);

/* How the port's thread waits when nothing happens. */
enum port_idle {
	PORT_IDLE_NAPS,	      /* it looks now and then */
	PORT_IDLE_INTERRUPTS, /* the driver's */
	PORT_IDLE_SOCKETS,    /* those on which a virtual port runs */
};
enum { PORT_SOCKETS = 4, PORT_FDS = 1024 };

struct port_sleep {
	enum port_idle mode;
	int event;	      /* wakes it; -1: not open */
	int fd[PORT_SOCKETS]; /* of the interrupt; of sockets */
	unsigned n;
	uint64_t until_ns; /* asleep until then; 0: awake. Under the lock. */
	/* for tests: times that it waited for traffic, and that traffic ended the wait */
	atomic_uint waits, woken;
	uint8_t before[PORT_FDS / 8]; /* files that were open before DPDK's start */
};

struct port {
	/* The lock; who waits for it holds the gate, so that the port's thread cannot take it
	 * again at once. */
	pthread_mutex_t gate, lock;
	pthread_t thread;
	struct port_args args;
	/* of the start, under the lock */
	pthread_cond_t started;
	int up, rc;
	struct err *err; /* the opener's */

	uint16_t id;
	struct rte_ether_addr mac;
	struct rte_mempool *pool;
	unsigned slots;	   /* frames of a window */
	unsigned queue;	   /* frames of an end's queue that are used */
	uint32_t instance; /* upper half of the ids that this process gives away */
	uint32_t last_id;
	atomic_uint app_frames; /* frames given to senders and not acknowledged */
	atomic_uint kept;	/* frames received and not read */
	atomic_int hot;		/* the port's thread will look at the queues again */
	atomic_int offered;	/* something was put into a queue since the last poll */
	struct port_sleep sleep;
	int stop, link_down;
	int flags_fd; /* to ask for the interface's flags; -1: there is none */
	unsigned down_seen;
	uint64_t polled_ns, busy_ns, next_ns, link_ns;
	struct rte_mbuf *out[PORT_OUT];
	unsigned n_out;
	struct port_end end[PORT_ENDS];
};

/* eal.c: DPDK, then the port's hardware; on the port's own thread. */
int port_hardware_up(struct port *p, struct err *err);
void port_hardware_down(struct port *p);
/* Is the cable in? 0 or 1; also 1 when the driver cannot tell. */
int port_link_is_up(const struct port *p);

extern const struct lane_ops port_lane_ops;
/* Takes what came in. */
void port_arrived(struct port *p, struct rte_mbuf *b, uint64_t now);
void port_flush(struct port *p); /* what is gathered, as far as the driver takes it */

/* queue.c */
/* Frames of at most @mtu bytes in a queue: few enough to be in a cache still. */
unsigned port_queue(unsigned mtu);
/* Locked: give the lane as much of what was offered as it can soon send. */
void port_feed(struct port_end *e);

/* idle.c */
void port_idle_before(struct port *p); /* DPDK's start */
/* The port is configured with rx interrupts if @interrupts, and started. */
int port_idle_up(struct port *p, int interrupts, struct err *err);
void port_idle_down(struct port *p);
/* Locked; gives up the lock meanwhile. Sleep for @ns, or until port_wake(), or, with @quiet,
 * until there is traffic. */
void port_sleep(struct port *p, uint64_t ns, int quiet);
void port_wake(struct port *p);

#endif
