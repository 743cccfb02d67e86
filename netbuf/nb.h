/* SPDX-License-Identifier: Apache-2.0
 * nb - the inside of a netbuf: ports, locks, modes (internal to netbuf; tests attach ports here).
 *
 * Theory of operation. Two locks. @lock guards all fields and is held for a copy at most. @out is
 * held by whoever writes held output, so that two releases cannot cross; it is taken before
 * @lock, never inside it. A frame is held or passed by what @holding says under @lock:
 *
 *   on:  only in capture, with the device lock held. Nothing passes at that moment, because
 *        whoever passes a frame holds the device lock too. So no frame of epoch i+1 can be in
 *        flight to a tap when the guest resumes.
 *   off: only in alone, under @lock, with the queue empty and all of it written. So a frame
 *        that passes cannot overtake one that was held.
 *
 * The queue that is open has number @open; only queues below it are ever released by a commit.
 */
#ifndef NETBUF_NB_H
#define NETBUF_NB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "netbuf/learn.h"
#include "netbuf/netbuf.h"
#include "netbuf/plug.h"
#include "netbuf/queue.h"

#include <event2/util.h>

enum {
	NB_PORTS_MAX = 32,
	NB_VNET_HDR = 12, /* struct virtio_net_hdr_v1 */
	/* Consoles cannot be told to wait, so they may go over the limit by this much. */
	NB_CONSOLE_SLACK = 1 << 20,
	NB_RELEASE_WAIT_MS = 20, /* one release waits so long for full taps, in all */
};

/* Where a port's output goes. Any thread, one at a time. */
struct nb_port_ops {
	/* 0: all taken; above 0: so many bytes at the end were not; -EAGAIN: full; -errno. */
	int (*write)(void *self, const struct iovec *iov, int n);
	void (*wait)(void *self, int ms); /* until it may take more, at most so long */
	void (*resume)(void *self);	  /* I/O thread: there is room again */
};

struct nb_port {
	struct netbuf *nb;
	const struct nb_port_ops *ops;
	void *self;
	int fd; /* consoles'; a plugged card's packet socket, owned then */
	struct event *sniff, *rest; /* of a plugged card (sniff.c) */
	uint32_t index;
	int net;     /* frames, and not a stream of bytes */
	int stopped; /* was refused and waits for resume; under lock */
};

struct nb_snap; /* a table captured for an epoch, part.c */

struct netbuf {
	pthread_mutex_t out, lock;
	struct nbq q;
	size_t limit;
	uint64_t stale_ns;		  /* 0: never */
	uint64_t (*judged_ns)(void *arg); /* NULL: a release is judged when it begins */
	void *judged_arg;
	uint64_t open;	   /* the epoch whose output is being said */
	int holding, said; /* @said: the open epoch has output */
	struct nb_port port[NB_PORTS_MAX];
	uint32_t ports;
	struct epoch_trigger trigger;

	struct nb_plug plug; /* locks for itself, after @lock if at all */
	struct nb_table table;
	uint64_t
		table_sent; /* version in the last snapshot; UINT64_MAX: none for this peer */
	struct nb_snap *snaps;

	struct loop *loop;
	struct event *wake, *timer;
	int wake_fd;
	int announce; /* asked for, not yet begun */
	unsigned round;

	atomic_uint_fast64_t released_bytes, released_frames, dropped_bytes, refused;
};

/* Add a port; *port_out stays good until netbuf_destroy. 0 or -ENOSPC. */
int nb_add_port(struct netbuf *nb, const struct nb_port_ops *ops, void *self, int net,
		struct nb_port **port_out);

/* Say one frame (with its 12 bytes in front) for @p: passed, held, or refused with -EAGAIN. With
 * @stop a refused port is resumed later. Under the device lock. */
int nb_frame(struct nb_port *p, const struct iovec *iov, int n, int stop);
/* The device's way in: as nb_frame() with stop, and the sender's addresses are learned. */
int nb_guest_frame(void *port, const struct iovec *iov, int n);
void nb_bytes(void *port, const void *p, size_t len); /* console; struct con_out */

/* Write out what is held up to @epoch; any thread that does not hold a lock of ours. */
void nb_release(struct netbuf *nb, uint64_t epoch);
/* Write out everything and pass from then on. */
void nb_release_all(struct netbuf *nb);
void nb_drop_all(struct netbuf *nb);
/* Let the I/O thread look: resume ports, begin announcing. */
void nb_wake(struct netbuf *nb);
/* Takes @fd. Before the loop runs. */
int nb_sniff_start(struct nb_port *p, int fd, struct err *err);
void nb_sniff_again(struct netbuf *nb); /* I/O thread */
void nb_sniff_stop(struct nb_port *p);
/* I/O thread, under the guard. */
void nb_announce_begin(struct netbuf *nb);
void nb_announce_timer(evutil_socket_t fd, short what, void *arg);
void nb_snaps_free(struct netbuf *nb); /* under lock */

#endif
