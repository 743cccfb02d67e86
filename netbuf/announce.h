/* SPDX-License-Identifier: Apache-2.0
 * announce - the frames that tell switches and neighbours where an address is now (internal).
 */
#ifndef NETBUF_ANNOUNCE_H
#define NETBUF_ANNOUNCE_H

#include <stddef.h>
#include <stdint.h>

struct nb_addr;

enum nb_announcement {
	NB_ANN_RARP,	  /* moves the MAC in the tables of switches (RFC 903 format) */
	NB_ANN_ARP,	  /* gratuitous request: the ARP announcement of RFC 5227, 2.3 */
	NB_ANN_ARP_REPLY, /* the same as a reply, for those that only believe these */
	NB_ANN_NA,	  /* unsolicited neighbour advertisement, RFC 4861, 7.2.6 */
	NB_ANN_KINDS,
};

/* Zero vnet header, Ethernet with two tags, IPv6, advertisement with one option. */
enum { NB_ANN_MAX = 12 + 14 + 8 + 40 + 32 };

/* Build one announcement of @a with 12 zero bytes in front. Returns its length; 0: this kind
 * does not fit the address. */
size_t nb_announce_build(const struct nb_addr *a, enum nb_announcement kind,
			 uint8_t out[NB_ANN_MAX]);

#endif
