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

struct port {
	pthread_mutex_t lock;
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
	uint32_t instance; /* upper half of the ids that this process gives away */
	uint32_t last_id;
	unsigned app_frames; /* frames given to senders and not acknowledged */
	unsigned kept;	     /* frames received and not read */
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

#endif
