/* SPDX-License-Identifier: Apache-2.0
 * netbuf - output commit: what the guest says is held until the checkpoint it belongs to is safe.
 *
 * Theory of operation. One netbuf holds the output of all net devices and consoles of a VM, in
 * the order said. While PASSING (alone) output goes straight out. Capturing an epoch seals its
 * queue and opens the next; committed(i) writes out queue i and all before it. The first
 * capture after sync_begin turns holding on, before the guest resumes; only alone() turns it off.
 * A full buffer refuses frames (-EAGAIN, the device's queue stops) and asks for an early epoch;
 * it never drops and never leaks. The addresses that the guest speaks from are learned and travel
 * with the checkpoint, for the announcements after a failover. Frames that never come here are held
 * by the kernel, at the same points in time (plug.h).
 */
#ifndef NETBUF_NETBUF_H
#define NETBUF_NETBUF_H

#include <stddef.h>
#include <stdint.h>

#include "hv/devices.h"
#include "netbuf/plug.h"
#include "remus/participant.h"

struct buf;
struct err;
struct loop;
struct netbuf;
struct netbuf_standby;

struct netbuf_stats {
	uint64_t held_bytes, held_frames, released_bytes, released_frames, dropped_bytes;
	uint64_t refused; /* times a device was told to wait */
	int holding;
	int plugged; /* there are cards whose frames the kernel holds, and this is what it has: */
	struct plug_counts plug;
};

/* @limit_bytes: held at most, over all epochs. @trigger: asked when half is full, and when output
 * waits (so that the engine may end the epoch early). @loop: the I/O thread (borrowed). Starts
 * holding if @hold, else passing. */
int netbuf_create(size_t limit_bytes, struct loop *loop, int hold,
		  struct epoch_trigger trigger, struct netbuf **nb_out, struct err *err);
/* If one release takes longer than @us, this host stood still meanwhile, and what it had not written
 * yet is dropped. At most the time after which the peer suspects; 0, the default: never. Before
 * vm_start. */
void netbuf_set_stale(struct netbuf *nb, unsigned us);
/* When the ack that a release follows was found to be believable (CLOCK_MONOTONIC, ns; primary.h): a host
 * that freezes between that look and the release must not say anything either. Before the engine. */
void netbuf_set_judged(struct netbuf *nb, uint64_t (*judged_ns)(void *arg), void *arg);
/* What is still held is dropped, never released. After the VM is gone and the loop has ended;
 * before loop_destroy. NULL is fine. */
void netbuf_destroy(struct netbuf *nb);

/* Put it between @dev and its tap. Before vm_start. */
int netbuf_add_net(struct netbuf *nb, struct vnet *dev, struct err *err);
/* A con_out whose bytes are held likewise and then written to @fd (borrowed, non-blocking; what
 * it does not take is dropped: a console nobody reads must not stop the VM). It cannot be
 * refused, so 1 MiB above the limit console bytes are dropped and counted. */
int netbuf_add_console(struct netbuf *nb, int fd, struct con_out *out, struct err *err);

/* A card that vhost-net serves (vnet_use_vhost): its frames are held by @kernel's queue (plug.h;
 * borrowed, one for the whole netbuf), and @sniff_fd (taken) is a packet socket that sees them pass. What
 * this process itself says for the card goes the way of netbuf_add_net(), and then through the
 * kernel's queue: so two epochs later at most. The engine must have no more than one epoch in flight. */
int netbuf_add_plugged(struct netbuf *nb, struct vnet *dev, int sniff_fd,
		       const struct plug_kernel *kernel, struct err *err);

struct part netbuf_part(struct netbuf *nb);
void netbuf_stats(struct netbuf *nb, struct netbuf_stats *out); /* any thread */

/* The standby keeps the learned addresses of the last applied epoch, to give them on. */
int netbuf_standby_create(struct netbuf_standby **s_out, struct err *err);
void netbuf_standby_destroy(struct netbuf_standby *s);
struct standby_part netbuf_standby_part(struct netbuf_standby *s);
/* The addresses that the guest speaks from, as the payload of an ADDRS record (wire.h), appended: as of now;
 * and, on a standby, as of the last applied epoch (receive thread, or no link). 0 or -ENOMEM. */
int netbuf_said(struct netbuf *nb, struct buf *b);
int netbuf_standby_said(const struct netbuf_standby *s, struct buf *b);
/* Take such a table, which somebody else wrote, for netbuf_announce(). 0 or -EBADMSG with @err. */
int netbuf_standby_hear(struct netbuf_standby *s, const void *p, size_t len,
			struct err *err);
/* Any thread. After a failover, output now being this host's: gratuitous ARP, RARP and unsolicited neighbour
 * advertisements for all learned addresses, at once and again after 50, 200, 500, 1000, 2000 ms
 * (timers on the loop). Continues the table in @nb. */
int netbuf_announce(struct netbuf *nb, const struct netbuf_standby *s, struct err *err);

#endif
