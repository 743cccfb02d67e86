/* SPDX-License-Identifier: Apache-2.0
 * test_netbuf_addrs - addresses are learned, travel with the checkpoint, and are announced.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "netbuf/announce.h"
#include "netbuf/nb.h"
#include "netbuf/standby.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mac_a[6] = {0x52, 0x54, 0, 1, 2, 3};
static const uint8_t ip6_a[16] = {0xfe, 0x80, [8] = 0x50, 0x54, 0, 0xff, 0xfe, 1, 2, 3};

/* Frames by hand; @tags tags of VLAN 5 and 6 in front of the type. */
static size_t ethernet(uint8_t *f, int tags, uint16_t type)
{
	size_t at = 12;

	memset(f, 0xff, 6);
	memcpy(f + 6, mac_a, 6);
	for (int i = 0; i < tags; i++) {
		f[at] = i + 1 < tags ? 0x88 : 0x81;
		f[at + 1] = i + 1 < tags ? 0xa8 : 0x00;
		f[at + 2] = 0xe0; /* a priority, which is not part of the VLAN */
		f[at + 3] = (uint8_t)(5 + i);
		at += 4;
	}
	f[at] = (uint8_t)(type >> 8);
	f[at + 1] = (uint8_t)type;
	return at + 2;
}

static size_t arp(uint8_t *f, int tags, const uint8_t ip[4])
{
	size_t at = ethernet(f, tags, 0x0806);

	memset(f + at, 0, 28);
	memcpy(f + at, (uint8_t[]){0, 1, 8, 0, 6, 4, 0, 1}, 8);
	memcpy(f + at + 8, mac_a, 6);
	memcpy(f + at + 14, ip, 4);
	return at + 28;
}

static size_t ip4(uint8_t *f, int tags, const uint8_t ip[4], uint8_t ttl)
{
	size_t at = ethernet(f, tags, 0x0800);

	memset(f + at, 0, 20);
	f[at] = 0x45;
	f[at + 8] = ttl;
	memcpy(f + at + 12, ip, 4);
	return at + 20;
}

static size_t ip6(uint8_t *f, int tags, const uint8_t *ip, uint8_t hops, uint8_t next)
{
	size_t at = ethernet(f, tags, 0x86dd);

	memset(f + at, 0, 40);
	f[at] = 0x60;
	f[at + 6] = next;
	f[at + 7] = hops;
	if (ip)
		memcpy(f + at + 8, ip, 16);
	return at + 40;
}

static size_t nd(uint8_t *f, const uint8_t *src, uint8_t type, const uint8_t *target)
{
	size_t at = ip6(f, 0, src, 255, 58);

	memset(f + at, 0, 24);
	f[at] = type;
	memcpy(f + at + 8, target, 16);
	return at + 24;
}

static void expect_addr(const uint8_t *f, size_t len, int family, const void *ip,
			int tags)
{
	struct nb_addr a;

	CU_ASSERT_EQUAL(nb_learn_parse(f, len, 3, &a), 1);
	CU_ASSERT_EQUAL(a.port, 3);
	CU_ASSERT_EQUAL(a.family, family);
	CU_ASSERT_EQUAL(a.tags, tags);
	CU_ASSERT_EQUAL(memcmp(a.mac, mac_a, 6), 0);
	if (family)
		CU_ASSERT_EQUAL(memcmp(a.ip, ip, family == 4 ? 4 : 16), 0);
	CU_ASSERT_EQUAL(a.vid[0], tags ? 5 : 0);
	CU_ASSERT_EQUAL(a.vid[1], tags > 1 ? 6 : 0);
	/* Cut anywhere, it must not teach an address that is not all there. */
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *copy = malloc(cut + 1);

		memcpy(copy, f, cut);
		if (nb_learn_parse(copy, cut, 3, &a) && a.family && a.family != 6)
			CU_FAIL("an address from half a frame");
		free(copy);
	}
}

static void test_learns(void)
{
	static const uint8_t ip[4] = {10, 0, 0, 9};
	uint8_t f[256];

	for (int tags = 0; tags <= 2; tags++) {
		expect_addr(f, arp(f, tags, ip), 4, ip, tags);
		expect_addr(f, ip4(f, tags, ip, 64), 4, ip, tags);
		expect_addr(f, ip6(f, tags, ip6_a, 64, 6), 6, ip6_a, tags);
		expect_addr(f, ethernet(f, tags, 0x88cc), 0, NULL, tags);
	}
	expect_addr(f, nd(f, ip6_a, 136, ip6_a), 6, ip6_a, 0);
	expect_addr(f, nd(f, NULL, 135, ip6_a), 6, ip6_a, 0);
	/* A solicitation asks for somebody else's address. */
	static const uint8_t other[16] = {0xfd, [15] = 7};

	expect_addr(f, nd(f, ip6_a, 135, other), 6, ip6_a, 0);
}

static void test_does_not_learn(void)
{
	static const uint8_t bad4[][4] = {
		{0}, {127, 0, 0, 1}, {224, 0, 0, 1}, {255, 255, 255, 255}};
	static const uint8_t ip[4] = {10, 0, 0, 9}, all_nodes[16] = {0xff, 2, [15] = 1};
	static const uint8_t loopback[16] = {[15] = 1};
	struct nb_addr a;
	uint8_t f[256];
	size_t len;

	for (size_t i = 0; i < sizeof(bad4) / sizeof(bad4[0]); i++) {
		expect_addr(f, arp(f, 0, bad4[i]), 0, NULL, 0);
		expect_addr(f, ip4(f, 0, bad4[i], 64), 0, NULL, 0);
	}
	/* Somebody else's packet, which the guest only passes on. */
	expect_addr(f, ip4(f, 0, ip, 63), 0, NULL, 0);
	expect_addr(f, ip6(f, 0, ip6_a, 62, 6), 0, NULL, 0);
	expect_addr(f, ip6(f, 0, NULL, 64, 6), 0, NULL, 0);
	expect_addr(f, ip6(f, 0, all_nodes, 64, 6), 0, NULL, 0);
	expect_addr(f, ip6(f, 0, loopback, 64, 6), 0, NULL, 0);
	/* ARP for another's hardware address. */
	len = arp(f, 0, ip);
	f[14 + 8] ^= 1;
	expect_addr(f, len, 0, NULL, 0);
	/* Three tags; a group as the sender; no sender. */
	len = arp(f, 2, ip);
	memmove(f + 16, f + 12, len - 12);
	CU_ASSERT_EQUAL(nb_learn_parse(f, len + 4, 0, &a), 0);
	len = arp(f, 0, ip);
	f[6] |= 1;
	CU_ASSERT_EQUAL(nb_learn_parse(f, len, 0, &a), 0);
	memset(f + 6, 0, 6);
	CU_ASSERT_EQUAL(nb_learn_parse(f, len, 0, &a), 0);
}

static struct nb_addr addr(uint8_t host, int family)
{
	struct nb_addr a = {.family = (uint8_t)family, .mac = {2, 0, 0, 0, 0, host}};

	if (family)
		memcpy(a.ip, (uint8_t[]){10, 0, 0, host}, 4);
	return a;
}

static void test_table(void)
{
	struct nb_table t = {0};
	struct nb_addr a = addr(1, 0);
	uint64_t version;

	nb_table_add(&t, &a);
	CU_ASSERT_EQUAL(t.n, 1);
	/* The MAC's first IP address takes the bare entry's place, a bare frame changes nothing. */
	a = addr(1, 4);
	nb_table_add(&t, &a);
	version = t.version;
	nb_table_add(&t, &a);
	nb_table_add(&t, &(struct nb_addr){.mac = {2, 0, 0, 0, 0, 1}});
	CU_ASSERT_EQUAL(t.n, 1);
	CU_ASSERT_EQUAL(t.version, version);
	CU_ASSERT_EQUAL(t.addr[0].family, 4);
	/* The address moves to another MAC. */
	a.mac[5] = 99;
	nb_table_add(&t, &a);
	CU_ASSERT_EQUAL(t.n, 1);
	CU_ASSERT_EQUAL(t.addr[0].mac[5], 99);
	CU_ASSERT_NOT_EQUAL(t.version, version);
	/* Full: who was not heard for longest goes. */
	for (unsigned i = 2; i <= NB_ADDRS_MAX; i++) {
		a = addr((uint8_t)i, 4);
		nb_table_add(&t, &a);
	}
	CU_ASSERT_EQUAL(t.n, NB_ADDRS_MAX);
	nb_table_add(&t, &t.addr[0]);
	a = addr(200, 4);
	nb_table_add(&t, &a);
	CU_ASSERT_EQUAL(t.n, NB_ADDRS_MAX);
	CU_ASSERT_EQUAL(t.addr[0].ip[3], 1);
	CU_ASSERT_EQUAL(t.addr[1].ip[3], 200);
}

/* A sink that keeps the last record. */
struct kept {
	struct rec_sink sink;
	uint16_t type;
	uint64_t epoch;
	struct buf payload;
	unsigned records;
};

static int keep(struct rec_sink *s, uint16_t type, uint64_t epoch,
		const struct iovec *iov, int n)
{
	struct kept *k = (struct kept *)s;

	k->type = type;
	k->epoch = epoch;
	k->records++;
	buf_reset(&k->payload);
	for (int i = 0; i < n; i++)
		CU_ASSERT_EQUAL(buf_add(&k->payload, iov[i].iov_base, iov[i].iov_len), 0);
	return 0;
}

/* A port that counts, and keeps the frames. */
struct tap {
	unsigned frames, stop_at;
	struct loop *loop;
	uint8_t frame[64][NB_ANN_MAX];
	size_t len[64];
};

static int tap_write(void *self, const struct iovec *iov, int n)
{
	struct tap *t = self;

	if (t->frames < 64) {
		t->len[t->frames] = iov[0].iov_len;
		memcpy(t->frame[t->frames], iov[0].iov_base,
		       iov[0].iov_len < NB_ANN_MAX ? iov[0].iov_len : NB_ANN_MAX);
	}
	if (++t->frames == t->stop_at)
		loop_stop(t->loop);
	return 0;
}

static void tap_wait(void *self, int ms)
{
}

static void tap_resume(void *self)
{
}

static const struct nb_port_ops tap_ops = {
	.write = tap_write, .wait = tap_wait, .resume = tap_resume};

struct rig {
	struct loop *loop;
	struct netbuf *nb;
	struct netbuf_standby *sb;
	struct part p;
	struct standby_part s;
	struct nb_port *port;
	struct tap tap;
	struct kept kept;
};

static void setup(struct rig *r)
{
	struct err err = {0};

	*r = (struct rig){.kept.sink.put = keep};
	CU_ASSERT_EQUAL_FATAL(loop_create(&r->loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(netbuf_create(1 << 20, r->loop, 0,
					    (struct epoch_trigger){0}, &r->nb, &err),
			      0);
	CU_ASSERT_EQUAL_FATAL(netbuf_standby_create(&r->sb, &err), 0);
	CU_ASSERT_EQUAL(nb_add_port(r->nb, &tap_ops, &r->tap, 1, &r->port), 0);
	r->tap.loop = r->loop;
	r->p = netbuf_part(r->nb);
	r->s = netbuf_standby_part(r->sb);
}

static void finish(struct rig *r)
{
	netbuf_destroy(r->nb);
	netbuf_standby_destroy(r->sb);
	loop_destroy(r->loop);
	buf_fini(&r->kept.payload);
}

static void say(struct rig *r, uint8_t host)
{
	uint8_t f[NB_VNET_HDR + 64] = {0};
	size_t len = arp(f + NB_VNET_HDR, 1, (uint8_t[]){10, 0, 0, host});

	CU_ASSERT_EQUAL(nb_guest_frame(r->port, &(struct iovec){f, NB_VNET_HDR + len}, 1),
			0);
}

/* Capture, send, receive, check. */
static void epoch(struct rig *r, uint64_t n, unsigned records)
{
	struct err err = {0};

	r->kept.records = 0;
	CU_ASSERT_EQUAL(r->p.ops->capture(r->p.self, n, &err), 0);
	CU_ASSERT_EQUAL(r->p.ops->send(r->p.self, n, &r->kept.sink, &err), 0);
	CU_ASSERT_EQUAL(r->kept.records, records);
	if (r->kept.records) {
		CU_ASSERT_EQUAL(r->kept.epoch, n);
		CU_ASSERT_EQUAL(r->s.ops->record(r->s.self, r->kept.type, n,
						 r->kept.payload.data,
						 r->kept.payload.len, &err),
				0);
	}
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, n, &err), 0);
}

static void test_travels_with_the_checkpoint(void)
{
	struct rig r;
	struct err err = {0};

	setup(&r);
	CU_ASSERT_EQUAL(r.p.ops->sync_begin(r.p.self, &r.kept.sink, &err), 0);
	epoch(&r, 0, 1); /* empty, but sent: a new peer knows nothing */
	say(&r, 1);
	epoch(&r, 1, 1);
	say(&r, 1);
	epoch(&r, 2, 0);
	CU_ASSERT_EQUAL(r.s.ops->apply(r.s.self, 0, &err), 0);
	CU_ASSERT_EQUAL(r.sb->table.n, 0);
	CU_ASSERT_EQUAL(r.s.ops->apply(r.s.self, 1, &err), 0);
	CU_ASSERT_EQUAL(r.s.ops->apply(r.s.self, 2, &err), 0);
	CU_ASSERT_EQUAL(r.sb->table.n, 1);
	CU_ASSERT_EQUAL(memcmp(&r.sb->table.addr[0], &r.nb->table.addr[0],
			       sizeof(struct nb_addr)),
			0);
	/* Epoch 3 was checked, so it may be acked, and is applied after drop. Epoch 4 was not. */
	say(&r, 2);
	epoch(&r, 3, 1);
	say(&r, 3);
	CU_ASSERT_EQUAL(r.p.ops->capture(r.p.self, 4, &err), 0);
	CU_ASSERT_EQUAL(r.p.ops->send(r.p.self, 4, &r.kept.sink, &err), 0);
	CU_ASSERT_EQUAL(r.s.ops->record(r.s.self, NB_REC_ADDRS, 4, r.kept.payload.data,
					r.kept.payload.len, &err),
			0);
	r.s.ops->drop(r.s.self);
	CU_ASSERT_EQUAL(r.s.ops->apply(r.s.self, 3, &err), 0);
	CU_ASSERT_EQUAL(r.s.ops->activate(r.s.self, &err), 0);
	CU_ASSERT_EQUAL(r.sb->table.n, 2);
	/* The next peer gets the whole table again. */
	r.p.ops->unlinked(r.p.self);
	r.p.ops->alone(r.p.self);
	CU_ASSERT_EQUAL(r.p.ops->sync_begin(r.p.self, &r.kept.sink, &err), 0);
	CU_ASSERT_EQUAL(r.s.ops->hello(r.s.self, &r.kept.sink, &err), 0);
	epoch(&r, 0, 1);
	CU_ASSERT_EQUAL(r.s.ops->apply(r.s.self, 0, &err), 0);
	CU_ASSERT_EQUAL(r.sb->table.n, 3);
	finish(&r);
}

static void refuse(struct rig *r, uint16_t type, uint64_t epoch_nr, const void *p,
		   size_t len)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->s.ops->record(r->s.self, type, epoch_nr, p, len, &err),
			-EBADMSG);
	CU_ASSERT_EQUAL(err.code, -EBADMSG);
	CU_ASSERT_NOT_EQUAL(err.msg[0], 0);
}

static void test_hostile_records(void)
{
	struct {
		struct nb_wire_addrs head;
		struct nb_wire_addr a[NB_ADDRS_MAX + 1];
	} good = {.head.count = le16_of(1)}, w;
	size_t one = sizeof(good.head) + sizeof(good.a[0]);
	struct err err = {0};
	struct rig r;

	setup(&r);
	memcpy(good.a[0].mac, mac_a, 6);
	good.a[0].family = 4;
	good.a[0].ip[0] = 10;
	for (size_t len = 0; len < one; len++)
		refuse(&r, NB_REC_ADDRS, 0, &good, len);
	refuse(&r, NB_REC_ADDRS, 0, &good, one + 1);
	refuse(&r, NB_REC_ADDRS + 1, 0, &good, one);
	refuse(&r, NB_REC_ADDRS, REC_EPOCH_SYNC, &good, one);
#define SPOIL(len, change)                            \
	do {                                          \
		w = good;                             \
		change;                               \
		refuse(&r, NB_REC_ADDRS, 0, &w, len); \
	} while (0)
	SPOIL(sizeof(w), w.head.count = le16_of(NB_ADDRS_MAX + 1));
	SPOIL(one, w.head.count = le16_of(65535));
	SPOIL(one, w.head.zero = le16_of(1));
	SPOIL(one, w.a[0].port = NB_PORTS_MAX);
	SPOIL(one, w.a[0].family = 5);
	SPOIL(one, w.a[0].family = 0);
	SPOIL(one, w.a[0].tags = 3);
	SPOIL(one, w.a[0].zero = 1);
	SPOIL(one, w.a[0].mac[0] |= 1);
	SPOIL(one, memset(w.a[0].mac, 0, 6));
	SPOIL(one, w.a[0].vid[0] = le16_of(1));
	SPOIL(one, w.a[0].tags = 1);
	SPOIL(one, w.a[0].ip[4] = 1);
	CU_ASSERT_EQUAL(r.sb->count, 0);
	/* Well-formed, but too many, or out of order. */
	for (uint64_t n = 1; n <= NB_STAGED_MAX; n++)
		CU_ASSERT_EQUAL(
			r.s.ops->record(r.s.self, NB_REC_ADDRS, n, &good, one, &err), 0);
	refuse(&r, NB_REC_ADDRS, 1, &good, one);
	CU_ASSERT_EQUAL(r.s.ops->record(r.s.self, NB_REC_ADDRS, 1000, &good, one, &err),
			-ENOBUFS);
	finish(&r);
}

static void test_announcement_bytes(void)
{
	static const uint8_t rarp[] = {
		0,    0,    0,	  0,	0,    0,    0, 0, 0, 0, 0, 0, /* vnet header */
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x80, 0x35,
		0,    1,    8,	  0,	6,    4,    0, 3, 2, 0, 0, 0, 0,    1,
		0,    0,    0,	  0,	2,    0,    0, 0, 0, 1, 0, 0, 0,    0};
	static const uint8_t request[] = {
		0,    0,    0,	  0, 0, 0, 0, 0, 0, 0,	  0, 0, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 5,    8,    6,
		0,    1,    8,	  0, 6, 4, 0, 1, 2, 0,	  0, 0, 0,    1,    10,
		0,    0,    1,	  0, 0, 0, 0, 0, 0, 10,	  0, 0, 1};
	static const uint8_t na[] = {
		0,    0,    0,	  0,	0, 0,	 0,    0,    0,	   0,	 0,    0,    0x33,
		0x33, 0,    0,	  0,	1, 0x52, 0x54, 0,    1,	   2,	 3,    0x86, 0xdd,
		0x60, 0,    0,	  0,	0, 32,	 58,   255, /* IPv6 */
		0xfe, 0x80, 0,	  0,	0, 0,	 0,    0,    0x50, 0x54, 0,    0xff, 0xfe,
		1,    2,    3,	  0xff, 2, 0,	 0,    0,    0,	   0,	 0,    0,    0,
		0,    0,    0,	  0,	0, 1,	 136,  0,    0x62, 0x95, 0x20, 0,    0,
		0,    0xfe, 0x80, 0,	0, 0,	 0,    0,    0,	   0x50, 0x54, 0,    0xff,
		0xfe, 1,    2,	  3,	2, 1,	 0x52, 0x54, 0,	   1,	 2,    3};
	struct nb_addr a = addr(1, 4), six = {.family = 6};
	uint8_t f[NB_ANN_MAX];

	CU_ASSERT_EQUAL(nb_announce_build(&a, NB_ANN_RARP, f), sizeof(rarp));
	CU_ASSERT_EQUAL(memcmp(f, rarp, sizeof(rarp)), 0);
	a.tags = 1;
	a.tpid[0] = 0x8100;
	a.vid[0] = 5;
	CU_ASSERT_EQUAL(nb_announce_build(&a, NB_ANN_ARP, f), sizeof(request));
	CU_ASSERT_EQUAL(memcmp(f, request, sizeof(request)), 0);
	CU_ASSERT_EQUAL(nb_announce_build(&a, NB_ANN_ARP_REPLY, f), sizeof(request));
	CU_ASSERT_EQUAL(f[37], 2);
	CU_ASSERT_EQUAL(memcmp(f + 48, "\xff\xff\xff\xff\xff\xff\x0a\0\0\1", 10), 0);
	memcpy(six.mac, mac_a, 6);
	memcpy(six.ip, ip6_a, 16);
	CU_ASSERT_EQUAL(nb_announce_build(&six, NB_ANN_NA, f), sizeof(na));
	CU_ASSERT_EQUAL(memcmp(f, na, sizeof(na)), 0);
	CU_ASSERT_EQUAL(nb_announce_build(&six, NB_ANN_ARP, f), 0);
	CU_ASSERT_EQUAL(nb_announce_build(&a, NB_ANN_NA, f), 0);
	six.tags = 2;
	CU_ASSERT_EQUAL(nb_announce_build(&six, NB_ANN_NA, f), NB_ANN_MAX);
}

static void test_announces_six_times(void)
{
	struct rig r;
	struct err err = {0};
	struct nb_addr a = addr(1, 4), b = addr(1, 4), c = addr(9, 4);

	setup(&r);
	b.ip[3] = 2;		   /* same MAC: one RARP for both */
	c.port = NB_PORTS_MAX - 1; /* a device that this host does not have */
	nb_table_add(&r.sb->table, &a);
	nb_table_add(&r.sb->table, &b);
	nb_table_add(&r.sb->table, &c);
	r.tap.stop_at = 6 * 5;
	CU_ASSERT_EQUAL(netbuf_announce(r.nb, r.sb, &err), 0);
	CU_ASSERT_EQUAL(r.tap.frames, 0);
	CU_ASSERT_EQUAL(loop_run(r.loop), 0);
	CU_ASSERT_EQUAL(r.tap.frames, 30);
	for (int i = 0; i < 30; i++)
		CU_ASSERT_EQUAL(r.tap.frame[i][NB_VNET_HDR + 12], i % 5 ? 0x08 : 0x80);
	/* The table goes on here. */
	CU_ASSERT_EQUAL(r.nb->table.n, 3);
	finish(&r);
}

static void test_announcements_are_held_too(void)
{
	struct rig r;
	struct err err = {0};
	struct nb_addr a = addr(1, 4);

	setup(&r);
	nb_table_add(&r.sb->table, &a);
	CU_ASSERT_EQUAL(r.p.ops->capture(r.p.self, 0, &err), 0);
	CU_ASSERT_EQUAL(netbuf_announce(r.nb, r.sb, &err), 0);
	for (unsigned held = 0; !held;) {
		struct netbuf_stats st;

		CU_ASSERT_EQUAL(event_base_loop(loop_base(r.loop), EVLOOP_ONCE), 0);
		netbuf_stats(r.nb, &st);
		held = (unsigned)st.held_frames;
	}
	CU_ASSERT_EQUAL(r.tap.frames, 0);
	CU_ASSERT_EQUAL(r.p.ops->capture(r.p.self, 1, &err), 0);
	r.p.ops->committed(r.p.self, 1);
	CU_ASSERT_EQUAL(r.tap.frames, 3);
	finish(&r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"learns", test_learns},
		{"does not learn", test_does_not_learn},
		{"the table", test_table},
		{"travels with the checkpoint", test_travels_with_the_checkpoint},
		{"hostile records", test_hostile_records},
		{"announcements, byte by byte", test_announcement_bytes},
		{"announces six times", test_announces_six_times},
		{"announcements are held too", test_announcements_are_held_too},
	};

	return UNIT_MAIN("netbuf addresses", tests);
}
