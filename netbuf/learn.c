/* SPDX-License-Identifier: Apache-2.0
 * learn - which addresses the guest speaks from: reading frames, and the bounded table.
 */
#include "netbuf/learn.h"

#include <string.h>

enum {
	ETH_LEN = 14,
	TAG_LEN = 4,
	TYPE_IP4 = 0x0800,
	TYPE_ARP = 0x0806,
	TYPE_8021Q = 0x8100,
	TYPE_IP6 = 0x86dd,
	TYPE_8021AD = 0x88a8,
	ARP_LEN = 28,
	IP4_LEN = 20,
	IP6_LEN = 40,
	ND_LEN = 24, /* ICMPv6 header, flags, target */
	PROTO_ICMP6 = 58,
	ICMP6_NS = 135,
	ICMP6_NA = 136,
};

static const uint8_t no_ip[16];

static unsigned be16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* What systems start a packet with. A packet that came through the guest has one less. */
static int own_hops(uint8_t hops)
{
	return hops == 1 || hops == 64 || hops == 128 || hops == 255;
}

static void take_ip4(const uint8_t *ip, struct nb_addr *out)
{
	if (!ip[0] || ip[0] == 127 || ip[0] >= 224)
		return;
	out->family = 4;
	memcpy(out->ip, ip, 4);
}

static void take_ip6(const uint8_t *ip, struct nb_addr *out)
{
	static const uint8_t loopback[16] = {[15] = 1};

	if (ip[0] == 0xff || !memcmp(ip, no_ip, 16) || !memcmp(ip, loopback, 16))
		return;
	out->family = 6;
	memcpy(out->ip, ip, 16);
}

static void learn_arp(const uint8_t *p, size_t len, struct nb_addr *out)
{
	static const uint8_t ethernet_ip4[6] = {0, 1, 8, 0, 6, 4};

	/* Somebody else's hardware address: the guest answers as a proxy. */
	if (len < ARP_LEN || memcmp(p, ethernet_ip4, sizeof(ethernet_ip4)) != 0 ||
	    memcmp(p + 8, out->mac, 6) != 0)
		return;
	take_ip4(p + 14, out);
}

static void learn_ip4(const uint8_t *p, size_t len, struct nb_addr *out)
{
	if (len < IP4_LEN || p[0] >> 4 != 4 || !own_hops(p[8]))
		return;
	take_ip4(p + 12, out);
}

static void learn_ip6(const uint8_t *p, size_t len, struct nb_addr *out)
{
	const uint8_t *nd = p + IP6_LEN;

	if (len < IP6_LEN || p[0] >> 4 != 6 || !own_hops(p[7]))
		return;
	/* Neighbour discovery is only valid with 255 (RFC 4861, 7.1). From "unspecified" a
	 * solicitation is a duplicate test of the address that the guest gives itself. */
	if (p[6] == PROTO_ICMP6 && p[7] == 255 && len >= IP6_LEN + ND_LEN &&
	    (nd[0] == ICMP6_NA || (nd[0] == ICMP6_NS && !memcmp(p + 8, no_ip, 16))))
		take_ip6(nd + 8, out);
	else
		take_ip6(p + 8, out);
}

int nb_learn_parse(const uint8_t *f, size_t len, uint8_t port, struct nb_addr *out)
{
	static const uint8_t zero[6];
	const uint8_t *p = f + ETH_LEN;
	unsigned type;

	*out = (struct nb_addr){.port = port};
	if (len < ETH_LEN || f[6] & 1 || !memcmp(f + 6, zero, 6))
		return 0;
	memcpy(out->mac, f + 6, 6);
	type = be16(f + 12);
	len -= ETH_LEN;
	while (type == TYPE_8021Q || type == TYPE_8021AD) {
		if (len < TAG_LEN || out->tags == 2)
			return 0;
		out->tpid[out->tags] = (uint16_t)type;
		out->vid[out->tags++] = be16(p) & 0xfff;
		type = be16(p + 2);
		p += TAG_LEN;
		len -= TAG_LEN;
	}
	if (type == TYPE_ARP)
		learn_arp(p, len, out);
	else if (type == TYPE_IP4)
		learn_ip4(p, len, out);
	else if (type == TYPE_IP6)
		learn_ip6(p, len, out);
	return 1;
}

static int same_place(const struct nb_addr *a, const struct nb_addr *b)
{
	return a->port == b->port && a->tags == b->tags &&
	       !memcmp(a->tpid, b->tpid, sizeof(a->tpid)) &&
	       !memcmp(a->vid, b->vid, sizeof(a->vid));
}

int nb_addr_same_sender(const struct nb_addr *a, const struct nb_addr *b)
{
	return same_place(a, b) && !memcmp(a->mac, b->mac, 6);
}

/* The entry that @a is news of: the same IP address (which may have moved to another MAC); for a
 * bare MAC any entry of it; and a bare MAC that now has its first IP address. -1: none. */
static int find(const struct nb_table *t, const struct nb_addr *a)
{
	int bare = -1;

	for (unsigned i = 0; i < t->n; i++) {
		const struct nb_addr *e = &t->addr[i];

		if (!same_place(e, a))
			continue;
		if (a->family && e->family == a->family && !memcmp(e->ip, a->ip, 16))
			return (int)i;
		if (memcmp(e->mac, a->mac, 6) != 0)
			continue;
		if (!a->family)
			return (int)i;
		if (!e->family)
			bare = (int)i;
	}
	return bare;
}

static unsigned oldest(const struct nb_table *t)
{
	unsigned at = 0;

	for (unsigned i = 1; i < t->n; i++)
		if (t->used[i] < t->used[at])
			at = i;
	return at;
}

void nb_table_add(struct nb_table *t, const struct nb_addr *a)
{
	int i;

	/* Most frames come from the same address as the one before. */
	if (t->last < t->n && !memcmp(&t->addr[t->last], a, sizeof(*a))) {
		t->used[t->last] = ++t->tick;
		return;
	}
	i = find(t, a);
	if (i < 0)
		i = t->n < NB_ADDRS_MAX ? (int)t->n++ : (int)oldest(t);
	else if (!a->family)
		a = &t->addr[i];
	if (memcmp(&t->addr[i], a, sizeof(*a)) != 0) {
		t->addr[i] = *a;
		t->version++;
	}
	t->used[i] = ++t->tick;
	t->last = (unsigned)i;
}
