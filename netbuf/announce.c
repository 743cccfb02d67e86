/* SPDX-License-Identifier: Apache-2.0
 * announce - after a failover: the guest's addresses are here now, said several times.
 *
 * Announcements are output of the guest and go the way of all output: held again if a new
 * standby was attached meanwhile.
 */
#include "netbuf/announce.h"

#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "netbuf/nb.h"
#include "netbuf/standby.h"

#include <event2/event.h>
#include <string.h>

/* Frames get lost while ports come up and neighbours learn: so again, further and further apart. */
static const unsigned round_ms[] = {0, 50, 200, 500, 1000, 2000};
enum { ROUNDS = sizeof(round_ms) / sizeof(round_ms[0]) };

static uint8_t *put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static uint8_t *put(uint8_t *p, const void *src, size_t len)
{
	memcpy(p, src, len);
	return p + len;
}

static uint8_t *put_ethernet(uint8_t *p, const struct nb_addr *a, const uint8_t dst[6],
			     unsigned type)
{
	p = put(p, dst, 6);
	p = put(p, a->mac, 6);
	for (int i = 0; i < a->tags; i++) {
		p = put16(p, a->tpid[i]);
		p = put16(p, a->vid[i]);
	}
	return put16(p, type);
}

/* ARP and RARP share their format: sender and target, the hardware and the protocol address. */
static uint8_t *put_arp(uint8_t *p, const struct nb_addr *a, unsigned op,
			const uint8_t target_mac[6], const uint8_t ip[4])
{
	static const uint8_t ethernet_ip4[6] = {0, 1, 8, 0, 6, 4};

	p = put(p, ethernet_ip4, sizeof(ethernet_ip4));
	p = put16(p, op);
	p = put(p, a->mac, 6);
	p = put(p, ip, 4);
	p = put(p, target_mac, 6);
	return put(p, ip, 4);
}

static unsigned sum16(unsigned sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 2)
		sum += (unsigned)p[i] << 8 | p[i + 1];
	return sum;
}

static uint8_t *put_na(uint8_t *p, const struct nb_addr *a)
{
	static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
	enum { NA_LEN = 32, NEXT_ICMP6 = 58 };
	uint8_t *src, *na;
	unsigned sum;

	p = put(p, (uint8_t[]){0x60, 0, 0, 0, 0, NA_LEN, NEXT_ICMP6, 255}, 8);
	src = p;
	p = put(p, a->ip, 16);
	p = put(p, all_nodes, 16);
	na = p;
	p = put(p, (uint8_t[]){136, 0, 0, 0, 0x20 /* override */, 0, 0, 0}, 8);
	p = put(p, a->ip, 16);
	p = put(p, (uint8_t[]){2, 1}, 2); /* option: target link-layer address */
	p = put(p, a->mac, 6);
	/* Pseudo-header (RFC 8200, 8.1): both addresses, length, next header. */
	sum = sum16(NA_LEN + NEXT_ICMP6, src, 32);
	sum = sum16(sum, na, NA_LEN);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	(void)put16(na + 2, ~sum & 0xffff); /* in the middle: the end does not move */
	return p;
}

size_t nb_announce_build(const struct nb_addr *a, enum nb_announcement kind,
			 uint8_t out[NB_ANN_MAX])
{
	static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};
	static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
	static const uint8_t zero[NB_VNET_HDR];
	uint8_t *p = put(out, zero, NB_VNET_HDR);

	switch (kind) {
	case NB_ANN_RARP:
		p = put_ethernet(p, a, broadcast, 0x8035);
		p = put_arp(p, a, 3, a->mac, zero);
		break;
	case NB_ANN_ARP:
	case NB_ANN_ARP_REPLY:
		if (a->family != 4)
			return 0;
		p = put_ethernet(p, a, broadcast, 0x0806);
		if (kind == NB_ANN_ARP)
			p = put_arp(p, a, 1, zero, a->ip);
		else
			p = put_arp(p, a, 2, broadcast, a->ip);
		break;
	case NB_ANN_NA:
		if (a->family != 6)
			return 0;
		p = put_ethernet(p, a, all_nodes_mac, 0x86dd);
		p = put_na(p, a);
		break;
	default:
		return 0;
	}
	return (size_t)(p - out);
}

static int first_of_sender(const struct nb_table *t, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (nb_addr_same_sender(&t->addr[k], &t->addr[i]))
			return 0;
	return 1;
}

static void announce_addr(struct netbuf *nb, const struct nb_addr *a, int rarp)
{
	uint8_t frame[NB_ANN_MAX];
	struct iovec iov = {.iov_base = frame};

	/* The table came over the wire: this host may have other devices. */
	if (a->port >= nb->ports || !nb->port[a->port].net)
		return;
	for (int kind = rarp ? NB_ANN_RARP : NB_ANN_ARP; kind < NB_ANN_KINDS; kind++) {
		iov.iov_len = nb_announce_build(a, (enum nb_announcement)kind, frame);
		/* Refused when the buffer is full: the next round says it again. */
		if (iov.iov_len)
			(void)nb_frame(&nb->port[a->port], &iov, 1, 0);
	}
}

static void announce_round(struct netbuf *nb)
{
	struct nb_table t;
	struct timeval tv;
	unsigned ms;

	pthread_mutex_lock(&nb->lock);
	t = nb->table;
	pthread_mutex_unlock(&nb->lock);
	for (unsigned i = 0; i < t.n; i++)
		announce_addr(nb, &t.addr[i], first_of_sender(&t, i));
	if (++nb->round >= ROUNDS)
		return;
	ms = round_ms[nb->round] - round_ms[nb->round - 1];
	tv = (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	if (event_add(nb->timer, &tv))
		log_warn("the guest's addresses will not be announced again: no timer");
}

void nb_announce_begin(struct netbuf *nb)
{
	nb->round = 0;
	announce_round(nb);
}

void nb_announce_timer(evutil_socket_t fd, short what, void *arg)
{
	struct netbuf *nb = arg;

	loop_enter(nb->loop);
	announce_round(nb);
	loop_leave(nb->loop);
}

int netbuf_announce(struct netbuf *nb, const struct netbuf_standby *s, struct err *err)
{
	struct nb_table heard;

	pthread_mutex_lock(&nb->lock);
	/* What the guest said here already is newer than what it said there. */
	heard = nb->table;
	nb->table = s->table;
	nb->table.version += heard.version + 1;
	for (unsigned i = 0; i < heard.n; i++)
		nb_table_add(&nb->table, &heard.addr[i]);
	nb->announce = 1;
	pthread_mutex_unlock(&nb->lock);
	log_info("announcing %u addresses of the guest", s->table.n);
	nb_wake(nb);
	return 0;
}
