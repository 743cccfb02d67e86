/* SPDX-License-Identifier: Apache-2.0
 * plugqueue - one plug qdisc, told by netlink (net/sched/sch_plug.c of Linux).
 *
 * Theory of operation. The messages are made once, by libnl; telling is one send and one or two
 * receives, and no allocation. What makes it safe:
 *
 *   - The kernel changes the qdisc's counters without its lock. So a boundary is set only while nobody
 *     enqueues (hold: guest and vhost stand still), and a release is told only when what was
 *     released before has left the queue: else both would write the count of what may leave, and one
 *     write could be lost, which lets a frame out too early.
 *   - What has left is known by the qdisc's count of dequeued packets. hold reads, with the boundary,
 *     where that count must arrive: all frames sent and all frames queued at that moment.
 *   - Frames that passed while it was open are not counted by the kernel. Were any left when the next hold
 *     comes, they would be released in place of later ones; so hold waits for them to be gone.
 *
 * A release whose frames do not all leave in time is counted as late. It happens when the kernel's own
 * end of the release before falls into this one: it then stops the queue again, and nothing moves; the
 * next release lets those frames out too.
 */
#ifndef CTL_PLUGQUEUE_H
#define CTL_PLUGQUEUE_H

#include <stddef.h>
#include <stdint.h>

struct err;

enum {
	PLUGQUEUE_HANDLE = 1 << 16, /* 1:0, of the qdisc at the device's root */
	PLUGQUEUE_MSG_MAX = 256,
	/* Frames that may leave are waited for: whoever waits holds up acks, and so slows the guest. */
	PLUGQUEUE_WAIT_US = 1000000,
	PLUGQUEUE_STUCK_US =
		10000, /* without one of them leaving: they will not by themselves */
};

/* How the kernel is reached, for tests to stand in for: a netlink socket. */
struct plugqueue_link {
	int fd;
	uint32_t seq;
};

struct plugqueue_msg {
	size_t len;
	uint8_t bytes[PLUGQUEUE_MSG_MAX];
};

struct plugqueue {
	int ifindex; /* of the ifb device */
	struct plugqueue_msg hold, release, open, count, down;
	int is_open;
	/* What the dequeue count is when all that may leave has left, and when the closed epoch has. */
	uint32_t released_at, closed_at;
	/* As the kernel said last. The kernel's counts have 32 bits and wrap. */
	uint32_t sent, queued, backlog, drops;
	uint64_t late;
};

/* 0 or a negative errno with @err. */
int plugqueue_init(struct plugqueue *q, int ifindex, struct err *err);

/* All: 0 or -errno; -EBADMSG when the kernel's answer is none. */
int plugqueue_hold(struct plugqueue *q, struct plugqueue_link *l);
int plugqueue_release(struct plugqueue *q, struct plugqueue_link *l);
int plugqueue_open(struct plugqueue *q, struct plugqueue_link *l);
/* Switch the device off, which frees what is queued; frames that come are dropped from then on. */
int plugqueue_drop(struct plugqueue *q, struct plugqueue_link *l);
int plugqueue_count(struct plugqueue *q, struct plugqueue_link *l);

#endif
