/* SPDX-License-Identifier: Apache-2.0
 * wire - the records of kind NETBUF (0x03) of the replication stream.
 *
 * ADDRS (0x0300), primary to standby, epoch i: the addresses the guest was heard to speak from
 * up to the end of epoch i. It replaces the whole table. It is sent with the first checkpoint
 * after a sync and with each one in which the table changed; a checkpoint without it keeps the
 * table of the one before. Payload: struct nb_wire_addrs, then @count struct nb_wire_addr.
 * A payload of any other length, a count above NB_ADDRS_MAX, a port, family or number of tags
 * out of range, a group or zero MAC, or an ADDRS record among the pre-copy is damage: the
 * link is given up.
 */
#ifndef NETBUF_WIRE_H
#define NETBUF_WIRE_H

#include "hv/base/wire.h"

enum {
	NB_REC_KIND = 0x03, /* REC_KIND_NETBUF; replication/ is not ours to include */
	NB_REC_ADDRS = 0x0300,
	NB_ADDRS_MAX = 64,
};

struct nb_wire_addrs {
	struct le16 count;
	struct le16 zero; /* must be 0 */
};
WIRE_SIZE(struct nb_wire_addrs, 4);

struct nb_wire_addr {
	uint8_t port;	/* by order of netbuf_add_net and netbuf_add_console */
	uint8_t family; /* 0: only the MAC is known; 4; 6 */
	uint8_t tags;	/* VLAN tags: 0, 1 or 2 */
	uint8_t zero;	/* must be 0 */
	uint8_t mac[6]; /* unicast */
	struct le16
		tpid[2];    /* 0x8100 or 0x88a8, outer one first; 0 where there is none */
	struct le16 vid[2]; /* VLAN number, 0 to 4095 */
	uint8_t ip[16];	    /* network order; IPv4 in the first four, the rest 0 */
};
WIRE_SIZE(struct nb_wire_addr, 34);

#endif
