/* SPDX-License-Identifier: Apache-2.0
 * link - how a TCP connection between two hosts' rhea-vm comes to be: listener and
 * connector.
 *
 * Theory of operation. The primary's rhead connects to the peer's replication address,
 * sends the preface (preface.h) and gives the socket to its rhea-vm. The standby's rhead
 * accepts, reads the preface, and gives the socket to the rhea-vm of that name if it
 * waits for one. Only the peer's own address may connect, at most LINK_PENDING_MAX at a
 * time may not have said their preface yet, and each has LINK_PREFACE_MS to do so.
 * Sockets are given out in blocking mode, with TCP_NODELAY.
 *
 * All calls and callbacks on the loop's thread.
 */
#ifndef CTL_LINK_H
#define CTL_LINK_H

#include <stdint.h>

#include "ctl/preface.h"

struct config_addr;
struct err;
struct link_connect;
struct link_listener;
struct loop;

enum { LINK_PENDING_MAX = 16, LINK_PREFACE_MS = 2000 };

/* @fd is taken. */
typedef void link_accept_fn(void *arg, const struct preface *p, int fd);

/* Listen on @addr; only connections from @peer's address (any port) are read. Both are
 * copied. Returns owned. */
int link_listen(struct loop *loop, const struct config_addr *addr,
		const struct config_addr *peer, link_accept_fn *fn, void *arg,
		struct link_listener **l_out, struct err *err);
void link_listener_destroy(struct link_listener *l); /* NULL is fine */
unsigned
link_listener_port(const struct link_listener *l); /* the bound one; 0: unknown */

/* How an attempt ended. @fd: connected and prefaced, taken; or a negative errno, with
 * @why. */
typedef void link_connected_fn(void *arg, int fd, const char *why);

/* Try once to reach @peer from @local's address, at most @timeout_ms. @kind: as in the preface. Calls @fn exactly
 * once, never from within this call, unless cancelled. The handle is gone once @fn was
 * called. */
int link_connect(struct loop *loop, const struct config_addr *local,
		 const struct config_addr *peer, const char *vm, uint64_t term,
		 enum preface_kind kind, unsigned timeout_ms, link_connected_fn *fn,
		 void *arg, struct link_connect **c_out, struct err *err);
void link_connect_cancel(struct link_connect *c); /* NULL is fine */

#endif
