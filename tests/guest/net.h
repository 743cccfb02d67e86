/* SPDX-License-Identifier: Apache-2.0
 * net - frames of proto.h over virtio-net.
 */
#ifndef TESTS_GUEST_NET_H
#define TESTS_GUEST_NET_H

#include <stdint.h>

/* What is true now, and goes into each frame. */
struct net_report {
	uint64_t boot_id, n, mem_n, disk_n, blocks;
};

/* 0: there is no such device. */
int net_open(void);
/* Broadcast @r as a turn that is done, and from now on as the answer to who asks. Waits while
 * the device takes nothing: output that is held slows the guest, it is not lost. */
void net_count(const struct net_report *r);
/* Take what came in, answer pings. */
void net_poll(void);
/* @work is done for each ping before it is answered. */
void net_serve(void (*work)(void));
/* The last word. Nothing happens without a network. */
void net_fail(const char *why);

#endif
