/* SPDX-License-Identifier: Apache-2.0
 * lane_wire - the frames of a lane, to bytes and back.
 */
#include "replication/lane_wire.h"

#include <string.h>
#define XXH_INLINE_ALL /* one short sum a frame */
#include <xxhash.h>

static uint32_t head_sum(const struct lane_head *h)
{
	struct lane_head copy = *h;

	copy.sum = le32_of(0);
	return (uint32_t)XXH3_64bits(&copy.magic,
				     LANE_HEAD - offsetof(struct lane_head, magic));
}

static enum lane_verdict parse_hello(struct lane_msg *m)
{
	const struct lane_hello_wire *w = (const void *)m->body;
	struct lane_hello *h = &m->hello;

	if (m->len < sizeof(*w)) /* a newer version may say more */
		return LANE_BAD;
	h->version_min = le16_get(w->version_min);
	h->version_max = le16_get(w->version_max);
	h->capabilities = le32_get(w->capabilities);
	h->mtu = le32_get(w->mtu);
	h->slots = le32_get(w->slots);
	h->id = le64_get(w->id);
	if (h->version_min > h->version_max || h->mtu < LANE_MTU_MIN || !h->slots ||
	    h->slots > LANE_SLOTS_MAX)
		return LANE_BAD;
	return LANE_GOOD;
}

/* Ranges lie above the ack, in order, and do not touch each other. */
static enum lane_verdict parse_ranges(struct lane_msg *m)
{
	const struct lane_range_wire *w = (const void *)m->body;
	uint32_t low = m->ack;

	if (m->len % sizeof(*w) || m->len / sizeof(*w) > LANE_RANGES_MAX)
		return LANE_BAD;
	m->n_ranges = m->len / sizeof(*w);
	for (unsigned i = 0; i < m->n_ranges; i++) {
		struct lane_range r = {le32_get(w[i].from), le32_get(w[i].to)};

		if ((int32_t)(r.from - low) <= 0 || (int32_t)(r.to - r.from) <= 0 ||
		    r.to - m->ack > LANE_SLOTS_MAX)
			return LANE_BAD;
		low = r.to;
		m->ranges[i] = r;
	}
	return LANE_GOOD;
}

static enum lane_verdict parse_body(struct lane_msg *m)
{
	switch ((enum lane_kind)m->kind) {
	case LANE_HELLO:
		return parse_hello(m);
	case LANE_ACK:
		return parse_ranges(m);
	case LANE_DATA:
		return m->len ? LANE_GOOD : LANE_BAD;
	case LANE_RESET:
		return m->len == sizeof(struct le64) ? LANE_GOOD : LANE_BAD;
	case LANE_PROBE:
		return LANE_GOOD;
	case LANE_PROBED:
	case LANE_PING:
	case LANE_CLOSE:
		return m->len ? LANE_BAD : LANE_GOOD;
	}
	return LANE_BAD;
}

enum lane_verdict lane_parse(const uint8_t *frame, size_t len, struct lane_msg *out)
{
	struct lane_head h;

	if (len < LANE_HEAD)
		return LANE_NOT_OURS;
	memcpy(&h, frame, sizeof(h));
	if (h.ethertype[0] != LANE_ETHERTYPE >> 8 ||
	    h.ethertype[1] != (LANE_ETHERTYPE & 0xff) || le16_get(h.magic) != LANE_MAGIC)
		return LANE_NOT_OURS;
	if (h.version != LANE_VERSION || le32_get(h.sum) != head_sum(&h) ||
	    le16_get(h.zero))
		return LANE_BAD;
	memcpy(out->to, h.to, sizeof(out->to));
	memcpy(out->from, h.from, sizeof(out->from));
	out->kind = h.kind;
	out->flags = le16_get(h.flags);
	out->len = le16_get(h.len);
	out->id = le64_get(h.id);
	out->seq = le32_get(h.seq);
	out->ack = le32_get(h.ack);
	out->edge = le32_get(h.edge);
	out->body = frame + LANE_HEAD;
	out->n_ranges = 0;
	if (out->len > len - LANE_HEAD)
		return LANE_BAD;
	return parse_body(out);
}

static size_t build_body(const struct lane_msg *m, uint8_t *body)
{
	struct lane_hello_wire hello;
	struct lane_range_wire *range = (void *)body;

	switch (m->kind) {
	case LANE_HELLO:
		hello = (struct lane_hello_wire){
			.version_min = le16_of((uint16_t)m->hello.version_min),
			.version_max = le16_of((uint16_t)m->hello.version_max),
			.capabilities = le32_of(m->hello.capabilities),
			.mtu = le32_of(m->hello.mtu),
			.slots = le32_of(m->hello.slots),
			.id = le64_of(m->hello.id),
		};
		memcpy(body, &hello, sizeof(hello));
		return sizeof(hello);
	case LANE_ACK:
		for (unsigned i = 0; i < m->n_ranges; i++)
			range[i] = (struct lane_range_wire){le32_of(m->ranges[i].from),
							    le32_of(m->ranges[i].to)};
		return m->n_ranges * sizeof(*range);
	default:
		return m->len;
	}
}

size_t lane_build(const struct lane_msg *m, uint8_t *frame)
{
	size_t len = build_body(m, frame + LANE_HEAD);
	struct lane_head h = {
		.ethertype = {LANE_ETHERTYPE >> 8, LANE_ETHERTYPE & 0xff},
		.magic = le16_of(LANE_MAGIC),
		.version = LANE_VERSION,
		.kind = m->kind,
		.flags = le16_of((uint16_t)m->flags),
		.len = le16_of((uint16_t)len),
		.seq = le32_of(m->seq),
		.id = le64_of(m->id),
		.ack = le32_of(m->ack),
		.edge = le32_of(m->edge),
	};

	memcpy(h.to, m->to, sizeof(h.to));
	memcpy(h.from, m->from, sizeof(h.from));
	h.sum = le32_of(head_sum(&h));
	memcpy(frame, &h, sizeof(h));
	return LANE_HEAD + len;
}
