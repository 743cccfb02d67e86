/* SPDX-License-Identifier: Apache-2.0
 * port - one Ethernet port under DPDK, with the lanes that run on it.
 *
 * Theory of operation. One lock guards the port, its lanes and DPDK's queues and buffers, so
 * none of these is ever used by two threads at once. Whoever has the lock may poll: a sender
 * that hands over frames sends them itself and takes in what acknowledgements there are; a
 * thread that waits polls for a little while before it sleeps. The port's own thread polls
 * when nobody else does, with naps that grow while nothing happens, so that an idle link
 * costs a few per cent of a core and one under load costs no thread more than it needs. Bytes
 * are copied outside of the lock, straight between the caller and the frames.
 */
#ifndef REPLICATION_DPDK_PORT_H
#define REPLICATION_DPDK_PORT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct lane;
struct lane_cfg;
struct port;

enum port_wait { PORT_READ, PORT_WRITE };

/* A lane's place on the port, and who waits there. */
struct port_end {
	struct lane *lane;
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

void port_lock(struct port *p);
void port_unlock(struct port *p);

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
/* Up to @max empty frames for stream bytes; their number. */
unsigned port_grab(struct port *p, void **frames, unsigned max);
void port_put(struct port *p, void *frame);
uint8_t *port_data(void *frame);

/* Wait until @ready says so, until @until_ns of the monotonic clock at most, polling
 * for a while first; 0 or -ETIMEDOUT. The lock is given up meanwhile. */
int port_wait(struct port *p, struct port_end *e, enum port_wait what,
	      int (*ready)(const struct port_end *e), uint64_t until_ns);

#endif
