/* SPDX-License-Identifier: Apache-2.0
 * learn - which addresses the guest speaks from, read from the frames it sends (internal).
 *
 * Theory of operation. After a failover switches and neighbours must hear where the guest is now,
 * for each address it has. The guest is not asked: its frames tell. Taken are the Ethernet source
 * (always), the sender of ARP packets, the target of neighbour advertisements and of duplicate
 * address detection, and the source of IP packets. A guest that routes also sends packets of
 * others; announcing those would take their addresses away. So an IP source counts only if
 * its hop limit is one that a sender starts with, which a router would have lowered. The table
 * is bounded; the address not heard for longest makes room. Frames are hostile input.
 */
#ifndef NETBUF_LEARN_H
#define NETBUF_LEARN_H

#include <stddef.h>
#include <stdint.h>

#include "netbuf/wire.h"

struct buf;
struct err;

/* How much of a frame (without its vnet header) nb_learn_parse() ever looks at. */
enum { NB_LEARN_BYTES = 14 + 2 * 4 + 40 + 24 };

/* All bytes count when two are compared, so unused ones are 0. */
struct nb_addr {
	uint8_t port, family, tags, zero;
	uint8_t mac[6];
	uint16_t tpid[2], vid[2];
	uint8_t ip[16];
};
_Static_assert(sizeof(struct nb_addr) == 34, "no padding: compared with memcmp");

struct nb_table {
	struct nb_addr addr[NB_ADDRS_MAX];
	uint64_t used[NB_ADDRS_MAX]; /* tick of the last frame */
	uint64_t tick, version;	     /* @version grows with each change of content */
	unsigned n, last;	     /* @last: where the last frame's address is */
};

/* Read one frame, from the Ethernet header on. 1 and *out, or 0: it teaches nothing. */
int nb_learn_parse(const uint8_t *frame, size_t len, uint8_t port, struct nb_addr *out);
void nb_table_add(struct nb_table *t, const struct nb_addr *a);
/* Same port, MAC and VLAN. */
int nb_addr_same_sender(const struct nb_addr *a, const struct nb_addr *b);

/* The payload of an ADDRS record. Appended to @b; errors stick there. */
void nb_table_encode(const struct nb_table *t, struct buf *b);
/* Hostile input. 0, or -EBADMSG with @err; *t is only written on success. */
int nb_table_decode(struct nb_table *t, const void *p, size_t len, struct err *err);

#endif
