/* SPDX-License-Identifier: Apache-2.0
 * fuzz_rdmahello - blob, private data and words of the rdma link, and a peer's announcements.
 *
 * The first byte chooses. Whatever is accepted must mean the same when said again; no
 * sequence of announcements and credits may lead out of the rings.
 */
#include "hv/base/err.h"
#include "replication/rdma/hello.h"
#include "replication/rdma/ring.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_blob(const uint8_t *data, size_t size, int from_server)
{
	uint8_t again[HELLO_BLOB_LEN];
	struct hello_blob b;
	struct err err = {0};

	if (hello_blob_parse(data, size, from_server, &b, &err)) {
		assert(err.code < 0 && err.msg[0]);
		return;
	}
	hello_blob_encode(&b, again);
	assert(size == sizeof(again) && !memcmp(again, data, size));
}

static void try_private(const uint8_t *data, size_t size)
{
	uint8_t again[HELLO_PRIVATE_LEN];
	struct hello_private h;
	struct err err = {0};

	if (hello_private_parse(data, size, &h, &err)) {
		assert(err.code < 0 && err.msg[0]);
		return;
	}
	assert(h.ring >= HELLO_RING_MIN && h.ring <= HELLO_RING_MAX);
	hello_private_encode(&h, again);
	assert(!memcmp(again, data, sizeof(again)));
}

static void try_args(const uint8_t *data, size_t size)
{
	char text[256];
	struct hello_args a;
	struct err err = {0};

	size = size < sizeof(text) ? size : sizeof(text) - 1;
	memcpy(text, data, size);
	text[size] = 0;
	if (hello_args_parse(text, &a, &err)) {
		assert(err.code < 0 && err.msg[0]);
		return;
	}
	assert(a.family == 4 || a.family == 6);
	assert(a.ring >= HELLO_RING_MIN && a.ring <= HELLO_RING_MAX);
	assert(a.send >= HELLO_RING_MIN && a.send <= HELLO_RING_MAX);
}

/* Five bytes a step: what, and a number that the peer says. */
static void try_words(const uint8_t *data, size_t size)
{
	struct ring_out out;
	struct ring_in in;
	uint32_t n;

	ring_out_init(&out, 4096, 65536, RING_MARKS);
	ring_in_init(&in, 65536, RING_MARKS);
	for (; size >= 5; data += 5, size -= 5) {
		memcpy(&n, data + 1, sizeof(n));
		switch (data[0] & 3) {
		case 0:
			(void)ring_in_told(&in, n); /* refused or not: still in bounds */
			break;
		case 1:
			(void)ring_out_credit(&out, n);
			break;
		case 2:
			n %= 65537;
			ring_in_read(&in,
				     n < ring_in_ready(&in) ? n : ring_in_ready(&in));
			if (ring_in_due(&in))
				assert(ring_in_credit(&in) <= in.size);
			break;
		default:
			n %= 4097;
			out.put += n < ring_out_room(&out) ? n : ring_out_room(&out);
			out.posted = out.done = out.put;
			if (out.told < out.posted && ring_out_may_tell(&out))
				(void)ring_out_tell(&out);
		}
		assert(in.credited <= in.read && in.read <= in.filled);
		assert(in.filled - in.credited <= in.size);
		assert(in.marks.len <= RING_MARKS && in.passed <= in.marks.len);
		assert(out.freed <= out.told && out.put - out.freed <= out.remote);
		assert(out.marks.len <= RING_MARKS);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	switch (data[0] & 7) {
	case 0:
	case 1:
		try_blob(data + 1, size - 1, data[0] & 1);
		break;
	case 2:
		try_private(data + 1, size - 1);
		break;
	case 3:
		try_args(data + 1, size - 1);
		break;
	default:
		try_words(data + 1, size - 1);
	}
	return 0;
}
