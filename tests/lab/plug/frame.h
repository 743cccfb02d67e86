/* SPDX-License-Identifier: Apache-2.0
 * frame - what chatter says and the listener hears: numbered frames of four kinds.
 */
#ifndef TESTS_LAB_PLUG_FRAME_H
#define TESTS_LAB_PLUG_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum chat_kind { CHAT_IPV4, CHAT_IPV6, CHAT_ARP, CHAT_VLAN, CHAT_KINDS };
enum { CHAT_FRAME = 128, CHAT_VLAN_ID = 7, CHAT_BODY = 64, CHAT_MACS = 12 };

/* Behind the kind's own headers. Whoever made it is known by the mark. */
struct chat_body {
	uint8_t mark[8];
	uint8_t kind, zero[7];
	uint64_t n;
};

static const uint8_t chat_mark[8] = {'c', 'h', 'a', 't', 't', 'e', 'r', '1'};

enum { CHAT_LEN = CHAT_BODY + sizeof(struct chat_body) };

/* From the Ethernet type on, and right as far as switches look: a bridge drops IP headers that it finds
 * to be wrong. Constant, so the checksum is as well. */
enum { CHAT_IP_LEN = CHAT_LEN - CHAT_MACS - 2, CHAT_IP6_LEN = CHAT_IP_LEN - 40 };
static const uint8_t chat_head[CHAT_KINDS][48] = {
	/* UDP from 10.88.1.50 to all; the sum is filled in */
	[CHAT_IPV4] = {0x08, 0x00, 0x45, 0,  0,	 CHAT_IP_LEN, 0,  0,   0,   0,	 64,
		       17,   0,	   0,	 10, 88, 1,	      50, 255, 255, 255, 255},
	/* no next header, from fe80::1 to ff02::1 */
	[CHAT_IPV6] = {0x86, 0xdd, 0x60, 0, 0, 0, 0, CHAT_IP6_LEN, 59, 1, 0xfe,
		       0x80, [25] = 1, [26] = 0xff, 2, [41] = 1},
	/* 10.88.1.50 asks for itself */
	[CHAT_ARP] = {0x08, 0x06, 0,  1, 8,  0, 6, 4, 0, 1, 0x52, 0x54, 0,  0x88, 1,
		      0x50, 10,	  88, 1, 50, 0, 0, 0, 0, 0, 0,	  10,	88, 1,	  50},
	/* an unknown type with a tag */
	[CHAT_VLAN] = {0x81, 0x00, 0, CHAT_VLAN_ID, 0x88, 0xb5},
};

static inline void chat_sum(uint8_t *ip)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < 20; i += 2)
		sum += (unsigned)ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16));
	ip[10] = (uint8_t)(sum >> 8);
	ip[11] = (uint8_t)sum;
}

/* Write turn @n's frame of @kind to @f, CHAT_FRAME bytes; returns its length. */
static inline size_t chat_frame(uint8_t *f, unsigned kind, uint64_t n)
{
	static const uint8_t macs[CHAT_MACS] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
						0x52, 0x54, 0x00, 0x88, 0x01, 0x50};
	struct chat_body b = {.kind = (uint8_t)kind, .n = n};

	memset(f, 0, CHAT_FRAME);
	memcpy(f, macs, sizeof(macs));
	memcpy(f + CHAT_MACS, chat_head[kind], sizeof(chat_head[kind]));
	if (kind == CHAT_IPV4)
		chat_sum(f + CHAT_MACS + 2);
	memcpy(b.mark, chat_mark, sizeof(b.mark));
	memcpy(f + CHAT_BODY, &b, sizeof(b));
	return CHAT_LEN;
}

#endif
