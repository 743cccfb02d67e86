/* SPDX-License-Identifier: Apache-2.0
 * plugkeeper - the process that may tell the kernel to hold and release a VM's plugged cards.
 *
 * Theory of operation. To change a qdisc the kernel wants CAP_NET_ADMIN of whoever opened the
 * netlink socket and of whoever sends. rhea-vm must not have it: with it, a guest that broke out could
 * rebuild the host's network. So rhea-vm, before it gives up its own rights, forks a keeper: it
 * keeps that capability and nothing else, no descriptor but the netlink socket and one to rhea-vm, and
 * no system call but to send, receive, sleep and end. It obeys four words, for the devices that it
 * was born with. rhea-vm could say those words at any time, and that is as it must be: whether output
 * may leave is its decision.
 *
 * The keeper ends when rhea-vm does, and touches nothing then: what is held stays held, and rhead removes
 * the devices. If the keeper dies, nothing can be released any more, and rhea-vm ends.
 */
#ifndef CTL_PLUGKEEPER_H
#define CTL_PLUGKEEPER_H

#include "netbuf/plug.h"

struct err;
struct plugkeeper;

enum { PLUGKEEPER_DEVICES_MAX = 8 };

/* Fork the keeper of the @n devices of @ifindex, as user @uid and group @gid (0: root, without root's
 * rights). Before there are other threads, and while this process has CAP_NET_ADMIN. Returns owned. */
int plugkeeper_start(const int *ifindex, unsigned n, unsigned uid, unsigned gid,
		     struct plugkeeper **k_out, struct err *err);
/* Readable when the keeper has ended; borrowed. */
int plugkeeper_pidfd(const struct plugkeeper *k);
/* For netbuf_add_plugged(); borrowed. Calls of it fail with -ETIMEDOUT after two seconds. */
const struct plug_kernel *plugkeeper_kernel(const struct plugkeeper *k);
void plugkeeper_stop(struct plugkeeper *k); /* it ends by itself; NULL is fine */

#endif
