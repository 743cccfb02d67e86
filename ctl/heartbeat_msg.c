/* SPDX-License-Identifier: Apache-2.0
 * heartbeat_msg - the heartbeat datagram to bytes and back; ctl/HEARTBEAT.md is its spec.
 */
#include "ctl/heartbeat.h"

#include "hv/base/wire.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stddef.h>
#include <string.h>

enum { HB_TAG_LEN = 32 };

struct hb_wire {
	char magic[4];
	struct le16 version;
	struct le16 len;
	char pair[CONFIG_NAME_MAX];
	char host[CONFIG_NAME_MAX];
	struct le64 boot_id;
	struct le64 seq;
	struct le64 mono_ns;
	struct le64 wall_ns;
	struct le64 echo_boot_id;
	struct le64 echo_mono_ns;
	struct le64 echo_delay_ns;
	struct le32 interval_us;
	uint8_t path;
	uint8_t n_vms;
	uint8_t zero[2];
	uint8_t digest[CONFIG_DIGEST_LEN];
};
WIRE_SIZE(struct hb_wire, 168);
_Static_assert(offsetof(struct hb_wire, boot_id) == 72, "boot_id is at 72");
_Static_assert(offsetof(struct hb_wire, interval_us) == 128, "interval_us is at 128");
_Static_assert(offsetof(struct hb_wire, digest) == 136, "digest is at 136");

struct hb_wire_vm {
	struct le64 term;
	struct le64 epoch;
	uint8_t state;
	uint8_t health;
	uint8_t flags;
	uint8_t zero[5];
};
WIRE_SIZE(struct hb_wire_vm, 24);
_Static_assert(sizeof(struct hb_wire) + CONFIG_VMS_MAX * sizeof(struct hb_wire_vm) +
			       HB_TAG_LEN <=
		       HB_DATAGRAM_MAX,
	       "all VMs fit into one datagram");

static const char hb_magic[4] = {'R', 'H', 'H', 'B'};

static const char *const verdict_texts[] = {
	[HB_OK] = "good",
	[HB_SHORT] = "a datagram of impossible size",
	[HB_NOT_OURS] =
		"something that is no Rhea heartbeat; who else sends to this port?",
	[HB_VERSION_OTHER] =
		"the peer runs another version of Rhea; install the same on both hosts",
	[HB_KEY] = "the peer has another key; both hosts need the same pair.key",
	[HB_PAIR] =
		"it is from another pair or host; look at pair.name and the heartbeat addresses",
	[HB_CONFIG] =
		"the peer has another config; copy the same file to both hosts and restart",
	[HB_MALFORMED] =
		"the peer sends impossible values; install the same Rhea on both hosts",
	[HB_REPLAY] = "a datagram that was heard before",
};
_Static_assert(sizeof(verdict_texts) / sizeof(verdict_texts[0]) == HB_NVERDICTS,
	       "one text for each verdict");

const char *hb_verdict_text(enum hb_verdict v)
{
	return (unsigned)v < HB_NVERDICTS ? verdict_texts[v] : "?";
}

static int tag_of(const uint8_t *p, size_t len, const uint8_t *key, uint8_t *tag)
{
	unsigned n = HB_TAG_LEN;

	return HMAC(EVP_sha256(), key, CONFIG_KEY_LEN, p, len, tag, &n) && n == HB_TAG_LEN
		       ? 0
		       : -EIO;
}

static void put_vm(struct hb_wire_vm *w, const struct pair_view *v)
{
	*w = (struct hb_wire_vm){.term = le64_of(v->term),
				 .epoch = le64_of(v->epoch),
				 .state = (uint8_t)v->state,
				 .health = (uint8_t)v->health,
				 .flags = (uint8_t)v->flags};
}

int hb_encode(const struct hb_msg *m, const uint8_t *key, uint8_t *out, size_t room)
{
	size_t body = sizeof(struct hb_wire) + m->n_vms * sizeof(struct hb_wire_vm);
	struct hb_wire w = {
		.version = le16_of(HB_VERSION),
		.len = le16_of((uint16_t)(body + HB_TAG_LEN)),
		.boot_id = le64_of(m->boot_id),
		.seq = le64_of(m->seq),
		.mono_ns = le64_of(m->mono_ns),
		.wall_ns = le64_of(m->wall_ns),
		.echo_boot_id = le64_of(m->echo_boot_id),
		.echo_mono_ns = le64_of(m->echo_mono_ns),
		.echo_delay_ns = le64_of(m->echo_delay_ns),
		.interval_us = le32_of(m->interval_us),
		.path = m->path,
		.n_vms = (uint8_t)m->n_vms,
	};
	struct hb_wire_vm v;

	if (m->n_vms > CONFIG_VMS_MAX || body + HB_TAG_LEN > room)
		return -E2BIG;
	memcpy(w.magic, hb_magic, sizeof(w.magic));
	memcpy(w.pair, m->pair, strnlen(m->pair, sizeof(w.pair) - 1));
	memcpy(w.host, m->host, strnlen(m->host, sizeof(w.host) - 1));
	memcpy(w.digest, m->digest, sizeof(w.digest));
	memcpy(out, &w, sizeof(w));
	for (unsigned i = 0; i < m->n_vms; i++) {
		put_vm(&v, &m->vms[i]);
		memcpy(out + sizeof(w) + i * sizeof(v), &v, sizeof(v));
	}
	return tag_of(out, body, key, out + body) ? -EIO : (int)(body + HB_TAG_LEN);
}

static int get_vm(const uint8_t *p, struct pair_view *v)
{
	static const uint8_t zero[5];
	struct hb_wire_vm w;

	memcpy(&w, p, sizeof(w));
	if (pair_state_check(w.state) < 0 || w.health >= PAIR_NHEALTH ||
	    w.flags & ~(unsigned)PAIR_VIEW_FLAGS ||
	    memcmp(w.zero, zero, sizeof(zero)) != 0)
		return -EBADMSG;
	*v = (struct pair_view){.state = (enum pair_state)w.state,
				.health = (enum pair_health)w.health,
				.flags = w.flags,
				.term = le64_get(w.term),
				.epoch = le64_get(w.epoch)};
	return 0;
}

static void get_head(const struct hb_wire *w, struct hb_msg *m)
{
	memset(m, 0, sizeof(*m));
	memcpy(m->pair, w->pair, sizeof(m->pair));
	memcpy(m->host, w->host, sizeof(m->host));
	memcpy(m->digest, w->digest, sizeof(m->digest));
	m->boot_id = le64_get(w->boot_id);
	m->seq = le64_get(w->seq);
	m->mono_ns = le64_get(w->mono_ns);
	m->wall_ns = le64_get(w->wall_ns);
	m->echo_boot_id = le64_get(w->echo_boot_id);
	m->echo_mono_ns = le64_get(w->echo_mono_ns);
	m->echo_delay_ns = le64_get(w->echo_delay_ns);
	m->interval_us = le32_get(w->interval_us);
	m->path = w->path;
	m->n_vms = w->n_vms;
}

enum hb_verdict hb_decode(const uint8_t *p, size_t len, const uint8_t *key,
			  struct hb_msg *m)
{
	uint8_t tag[HB_TAG_LEN];
	struct hb_wire w;

	if (len < sizeof(w) + HB_TAG_LEN || len > HB_DATAGRAM_MAX)
		return HB_SHORT;
	memcpy(&w, p, sizeof(w));
	if (memcmp(w.magic, hb_magic, sizeof(w.magic)) != 0)
		return HB_NOT_OURS;
	if (le16_get(w.version) != HB_VERSION)
		return HB_VERSION_OTHER;
	if (le16_get(w.len) != len)
		return HB_SHORT;
	if (tag_of(p, len - HB_TAG_LEN, key, tag) ||
	    CRYPTO_memcmp(tag, p + len - HB_TAG_LEN, HB_TAG_LEN))
		return HB_KEY;
	if (w.n_vms > CONFIG_VMS_MAX || w.zero[0] || w.zero[1] ||
	    w.path >= CONFIG_PATHS_MAX ||
	    len != sizeof(w) + w.n_vms * sizeof(struct hb_wire_vm) + HB_TAG_LEN ||
	    !le64_get(w.seq) || !le64_get(w.boot_id) ||
	    !memchr(w.pair, '\0', sizeof(w.pair)) ||
	    !memchr(w.host, '\0', sizeof(w.host)))
		return HB_MALFORMED;
	get_head(&w, m);
	for (unsigned i = 0; i < m->n_vms; i++)
		if (get_vm(p + sizeof(w) + i * sizeof(struct hb_wire_vm), &m->vms[i]))
			return HB_MALFORMED;
	return HB_OK;
}
