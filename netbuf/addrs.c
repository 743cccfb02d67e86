/* SPDX-License-Identifier: Apache-2.0
 * addrs - the table of learned addresses as a record, and back from hostile bytes.
 */
#include "netbuf/learn.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "netbuf/nb.h"

#include <errno.h>
#include <string.h>

void nb_table_encode(const struct nb_table *t, struct buf *b)
{
	struct nb_wire_addrs head = {.count = le16_of((uint16_t)t->n)};

	/* A failed append sticks in @b, where the caller looks once. */
	(void)buf_add(b, &head, sizeof(head));
	for (unsigned i = 0; i < t->n; i++) {
		const struct nb_addr *a = &t->addr[i];
		struct nb_wire_addr w = {
			.port = a->port,
			.family = a->family,
			.tags = a->tags,
			.tpid = {le16_of(a->tpid[0]), le16_of(a->tpid[1])},
			.vid = {le16_of(a->vid[0]), le16_of(a->vid[1])},
		};

		memcpy(w.mac, a->mac, 6);
		memcpy(w.ip, a->ip, 16);
		(void)buf_add(b, &w, sizeof(w)); /* as above */
	}
}

static int tags_valid(const struct nb_addr *a)
{
	for (int i = 0; i < 2; i++) {
		int used = i < a->tags;

		if (used && a->tpid[i] != 0x8100 && a->tpid[i] != 0x88a8)
			return 0;
		if (!used && (a->tpid[i] || a->vid[i]))
			return 0;
		if (a->vid[i] > 0xfff)
			return 0;
	}
	return a->tags <= 2;
}

static int addr_valid(const struct nb_addr *a)
{
	static const uint8_t none[16];
	unsigned ip_len = a->family == 6 ? 16 : a->family;

	if (a->port >= NB_PORTS_MAX || a->zero || !tags_valid(a))
		return 0;
	if (a->family != 0 && a->family != 4 && a->family != 6)
		return 0;
	if (a->mac[0] & 1 || !memcmp(a->mac, none, 6))
		return 0;
	return !memcmp(a->ip + ip_len, none, 16 - ip_len);
}

static struct nb_addr from_wire(const struct nb_wire_addr *w)
{
	struct nb_addr a = {
		.port = w->port,
		.family = w->family,
		.tags = w->tags,
		.zero = w->zero,
		.tpid = {le16_get(w->tpid[0]), le16_get(w->tpid[1])},
		.vid = {le16_get(w->vid[0]), le16_get(w->vid[1])},
	};

	memcpy(a.mac, w->mac, 6);
	memcpy(a.ip, w->ip, 16);
	return a;
}

int nb_table_decode(struct nb_table *t, const void *p, size_t len, struct err *err)
{
	struct reader r = reader_of(p, len);
	struct nb_table out = {0};
	unsigned count = rd_u16(&r), zero = rd_u16(&r);

	if (r.failed || zero || count > NB_ADDRS_MAX ||
	    rd_left(&r) != count * sizeof(struct nb_wire_addr))
		return err_set(err, -EBADMSG, "address table: %zu bytes for %u addresses",
			       len, count);
	for (unsigned i = 0; i < count; i++) {
		struct nb_wire_addr w;

		if (rd_bytes(&r, &w, sizeof(w)))
			return err_set(err, -EBADMSG, "address table: cut short");
		out.addr[i] = from_wire(&w);
		if (!addr_valid(&out.addr[i]))
			return err_set(err, -EBADMSG,
				       "address table: entry %u is not valid", i);
		out.used[i] = ++out.tick;
	}
	out.n = count;
	*t = out;
	return 0;
}
