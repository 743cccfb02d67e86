/* SPDX-License-Identifier: Apache-2.0
 * tap_plug - a tap whose guest's frames all wait in a plug qdisc, for a card that vhost-net serves.
 *
 * What the guest sends arrives at the host as input of the tap. An ingress filter for all protocols takes
 * it from there to an ifb device of the tap's own, whose queue is the plug; what the plug lets go comes
 * back as input of the tap, behind the filter, and so to the bridge. The order of making is that of the
 * way: the plug, closed, before the filter, and the filter before the tap is up and in the bridge.
 *
 * The tap vanishes with its last descriptor, the ifb does not. A frame that leaves the plug when its tap
 * is gone is freed by the kernel; removing the ifb frees what it holds. So in neither order anything gets
 * out that was not released.
 */
#ifndef CTL_TAP_PLUG_H
#define CTL_TAP_PLUG_H

#include <stdint.h>

struct err;
struct nl_sock;

/* A tap's name has room for the ifb's prefix. */
enum { TAP_PLUG_NAME_MAX = 12 };

struct tap_plug {
	int tap, vhost,
		sniff; /* descriptors, owned; sniff: a packet socket for netbuf_add_plugged() */
	int ifindex; /* of the ifb */
};

/* As tap_open(). The tap takes frames worth @limit bytes of the kernel's memory; when so many wait, the guest's
 * transmit queue stands until some were released. What an earlier process left behind is removed first. 0 or
 * a negative errno; then nothing is left. Any thread; blocks for some netlink round trips. */
int tap_plug_open(const char *name, const char *bridge, unsigned mtu, uint64_t limit,
		  struct tap_plug *out, struct err *err);
/* Remove the ifb of tap @name, with what it holds; 0 also if there is none. */
int tap_plug_remove(const char *name, struct err *err);

/* A packet socket that sees the heads of what the guest behind @tap sends, with VLAN tags beside them. Owned, in
 * *fd_out, also after an error if it is not -1. */
int tap_sniff(const char *tap, int *fd_out, struct err *err);

/* For tap.c: have all input of device @from go to @to. */
int tap_plug_redirect(struct nl_sock *nl, int from, int to, struct err *err);

#endif
