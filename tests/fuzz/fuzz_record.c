/* SPDX-License-Identifier: Apache-2.0
 * fuzz_record - a stream written by an enemy: records are whole or refused.
 *
 * The first byte chooses whether the sums are put right before each header is read, so that the
 * fuzzer gets behind them.
 */
#include "hv/base/err.h"
#include "replication/record.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct tape {
	struct tp tp;
	const uint8_t *p;
	size_t left;
	int mend;
	uint64_t seq;
};

/* What an attacker who knows the format would have written. */
static void mend(struct tape *t, struct rec_wire *h)
{
	size_t body = le32_get(h->len) < t->left ? le32_get(h->len) : t->left;

	h->magic = le32_of(REC_MAGIC);
	h->version = le16_of(REC_VERSION);
	h->seq = le64_of(t->seq++);
	h->sum = le64_of(XXH3_64bits(t->p, body));
	h->head_sum = le32_of(0);
	h->head_sum = le32_of((uint32_t)XXH3_64bits(h, sizeof(*h)));
}

static int tape_recv(struct tp *tp, void *p, size_t len)
{
	struct tape *t = (struct tape *)tp;

	if (len > REC_PAYLOAD_MAX)
		abort();
	if (t->left < len)
		return t->left ? -ECONNRESET : -EPIPE;
	memcpy(p, t->p, len);
	t->p += len;
	t->left -= len;
	if (t->mend && len == sizeof(struct rec_wire))
		mend(t, p);
	return 0;
}

static const struct tp_ops tape_ops = {.name = "tape", .recv = tape_recv};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tape t = {.tp = {.ops = &tape_ops}};
	struct rec_stream s;
	struct err err = {0};
	struct rec r;
	int rc;

	if (!size)
		return 0;
	t.mend = data[0] & 1;
	t.p = data + 1;
	t.left = size - 1;
	rec_stream_init(&s, &t.tp, 0);
	while (!(rc = rec_recv(&s, &r, &err))) {
		if (r.len > size)
			abort();
		/* Every byte of it must be there to be read. */
		if (XXH3_64bits(r.payload, r.len) == 0x1234)
			abort();
	}
	if (rc != -EPIPE && rc != -ECONNRESET && rc != -EBADMSG)
		abort();
	if (!err.msg[0])
		abort();
	rec_stream_fini(&s);
	return 0;
}
