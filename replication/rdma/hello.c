/* SPDX-License-Identifier: Apache-2.0
 * hello - what the two ends tell each other before the first byte: blob and private data.
 */
#include "replication/rdma/hello.h"

#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "replication/rdma/ring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define MAGIC_BLOB    0x31625252u /* "RRb1" */
#define MAGIC_PRIVATE 0x31705252u /* "RRp1" */

struct head_wire {
	struct le32 magic;
	struct le16 version, caps;
	uint8_t nonce[HELLO_NONCE_LEN];
};
WIRE_SIZE(struct head_wire, 24);

struct blob_wire {
	struct head_wire head;
	uint8_t family, zero;
	struct le16 port;
	uint8_t addr[16];
};
WIRE_SIZE(struct blob_wire, HELLO_BLOB_LEN);

struct private_wire {
	struct head_wire head;
	struct le32 ring, rkey;
	struct le64 addr;
	struct le16 marks, zero;
};
WIRE_SIZE(struct private_wire, HELLO_PRIVATE_LEN);

static struct head_wire head_of(uint32_t magic, uint16_t caps, const uint8_t *nonce)
{
	struct head_wire h = {
		.magic = le32_of(magic),
		.version = le16_of(HELLO_VERSION),
		.caps = le16_of(caps),
	};

	memcpy(h.nonce, nonce, sizeof(h.nonce));
	return h;
}

static int head_check(const struct head_wire *h, uint32_t magic, struct err *err)
{
	if (le32_get(h->magic) != magic)
		return err_set(err, -EBADMSG, "the peer does not speak of rdma");
	if (le16_get(h->version) != HELLO_VERSION)
		return err_set(
			err, -EPROTO,
			"the peer speaks version %u of the rdma transport, this is "
			"version %d: install the same release on both hosts",
			le16_get(h->version), HELLO_VERSION);
	return 0;
}

void hello_blob_encode(const struct hello_blob *b, uint8_t out[HELLO_BLOB_LEN])
{
	struct blob_wire w = {
		.head = head_of(MAGIC_BLOB, b->caps, b->nonce),
		.family = b->family,
		.port = le16_of(b->port),
	};

	memcpy(w.addr, b->addr, sizeof(w.addr));
	memcpy(out, &w, sizeof(w));
}

static int all_zero(const uint8_t *p, size_t len)
{
	uint8_t any = 0;

	for (size_t i = 0; i < len; i++)
		any |= p[i];
	return !any;
}

/* An address of family 4 leaves the other 12 bytes zero: one meaning, one form. */
static int address_is_sound(const struct hello_blob *b)
{
	if (b->family == 4)
		return all_zero(b->addr + 4, sizeof(b->addr) - 4);
	return b->family == 6;
}

int hello_blob_parse(const uint8_t *p, size_t len, int from_server,
		     struct hello_blob *b_out, struct err *err)
{
	struct hello_blob b = {0};
	struct blob_wire w;
	int rc, ok;

	if (len != sizeof(w))
		return err_set(err, -EBADMSG, "the peer's rdma end: %zu bytes, not %zu",
			       len, sizeof(w));
	memcpy(&w, p, sizeof(w));
	rc = head_check(&w.head, MAGIC_BLOB, err);
	if (rc)
		return rc;
	b.caps = le16_get(w.head.caps);
	memcpy(b.nonce, w.head.nonce, sizeof(b.nonce));
	b.family = w.family;
	b.port = le16_get(w.port);
	memcpy(b.addr, w.addr, sizeof(b.addr));
	if (from_server)
		ok = b.port && address_is_sound(&b);
	else
		ok = !b.port && !b.family && all_zero(b.addr, sizeof(b.addr));
	if (!ok || w.zero)
		return err_set(err, -EBADMSG,
			       "the peer's rdma end is at no sound address");
	*b_out = b;
	return 0;
}

void hello_private_encode(const struct hello_private *h, uint8_t out[HELLO_PRIVATE_LEN])
{
	struct private_wire w = {
		.head = head_of(MAGIC_PRIVATE, h->caps, h->nonce),
		.ring = le32_of(h->ring),
		.rkey = le32_of(h->rkey),
		.addr = le64_of(h->addr),
		.marks = le16_of(h->marks),
	};

	memcpy(out, &w, sizeof(w));
}

int hello_private_parse(const uint8_t *p, size_t len, struct hello_private *h_out,
			struct err *err)
{
	struct hello_private h;
	struct private_wire w;
	int rc;

	if (!p || len < sizeof(w))
		return err_set(err, -EBADMSG, "the peer says too little to connect");
	memcpy(&w, p, sizeof(w));
	rc = head_check(&w.head, MAGIC_PRIVATE, err);
	if (rc)
		return rc;
	h.caps = le16_get(w.head.caps);
	memcpy(h.nonce, w.head.nonce, sizeof(h.nonce));
	h.ring = le32_get(w.ring);
	h.rkey = le32_get(w.rkey);
	h.addr = le64_get(w.addr);
	h.marks = le16_get(w.marks);
	if (h.ring < HELLO_RING_MIN || h.ring > HELLO_RING_MAX ||
	    h.addr > UINT64_MAX - h.ring || h.marks < RING_MARKS_MIN || le16_get(w.zero))
		return err_set(err, -EBADMSG,
			       "the peer offers a ring of %u bytes and %u "
			       "announcements: out of bounds",
			       h.ring, h.marks);
	*h_out = h;
	return 0;
}

int hello_nonce_equal(const uint8_t a[HELLO_NONCE_LEN], const uint8_t b[HELLO_NONCE_LEN])
{
	uint8_t differ = 0;

	for (int i = 0; i < HELLO_NONCE_LEN; i++)
		differ |= a[i] ^ b[i];
	return !differ;
}
