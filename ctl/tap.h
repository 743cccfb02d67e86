/* SPDX-License-Identifier: Apache-2.0
 * tap - a guest's network card on the host: a tap device, joined to a bridge.
 *
 * The tap lives as long as its descriptor: when rhea-vm ends, it vanishes, and nothing is
 * left to clean up. Frames carry a 12-byte struct virtio_net_hdr_v1 and no packet
 * information.
 */
#ifndef CTL_TAP_H
#define CTL_TAP_H

struct err;

enum { TAP_NAME_MAX = 15, TAP_HDR_LEN = 12 };

/* Make tap @name with @mtu (0: the kernel's default), set it up, and put it into the existing
 * @bridge (NULL or "": none).
 * Returns a non-blocking, close-on-exec descriptor, owned, or a negative errno. Any
 * thread; blocks for a few netlink round trips with the kernel only. */
int tap_open(const char *name, const char *bridge, unsigned mtu, struct err *err);

/* The same, but what the guest sends goes to device @to (tap_plug.h) and nowhere else, from before the tap is
 * up; and it takes frames worth @room bytes of the kernel's memory, until some of them have left. */
int tap_open_redirected(const char *name, const char *bridge, unsigned mtu, int to,
			int room, struct err *err);

#endif
