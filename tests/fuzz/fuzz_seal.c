/* SPDX-License-Identifier: Apache-2.0
 * fuzz_seal - records of an enemy without the key: none is ever opened.
 *
 * The first byte says how many genuine records precede, so that the fuzzer gets to every state.
 */
#include "hv/base/err.h"
#include "replication/seal.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	GENUINE_MAX = 8,
	WORD = 16,
	RECORD = sizeof(struct seal_wire) + WORD + SEAL_TAG_LEN
};

struct tape {
	struct tp tp;
	uint8_t genuine[GENUINE_MAX * RECORD];
	size_t made, genuine_left;
	const uint8_t *p;
	size_t left;
};

static int tape_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct tape *t = (struct tape *)tp;

	if (n != 1 || iov[0].iov_len != RECORD || t->made + RECORD > sizeof(t->genuine))
		abort();
	memcpy(t->genuine + t->made, iov[0].iov_base, RECORD);
	t->made += RECORD;
	return 0;
}

static int tape_flush(struct tp *tp)
{
	return 0;
}

static int tape_recv(struct tp *tp, void *p, size_t len)
{
	struct tape *t = (struct tape *)tp;
	const uint8_t **from = &t->p;
	size_t *left = &t->left;
	const uint8_t *genuine = t->genuine + t->made - t->genuine_left;

	if (len > SEAL_CONTENT_MAX + SEAL_TAG_LEN)
		abort();
	if (t->genuine_left) {
		from = &genuine;
		left = &t->genuine_left;
	}
	if (*left < len)
		return -ECONNRESET;
	memcpy(p, *from, len);
	*from += len;
	*left -= len;
	return 0;
}

static void nothing(struct tp *tp)
{
}

static const struct tp_ops tape_ops = {.name = "tape",
				       .send = tape_send,
				       .flush = tape_flush,
				       .recv = tape_recv,
				       .shutdown = nothing,
				       .close = nothing};

static struct tp *seal(struct tape *t, int server)
{
	static const struct seal_secrets secrets = {.client = "a", .server = "b"};
	struct err err = {0};
	struct tp *tp;

	t->tp.ops = &tape_ops;
	if (tp_seal_wrap(&t->tp, server, &secrets, &tp, &err))
		abort();
	tp_seal_set_rekey(tp, 3);
	return tp;
}

static void genuine(struct tape *t, unsigned n)
{
	struct tp *tx = seal(t, 0);
	char word[WORD] = "a genuine word";
	struct iovec v = {.iov_base = word, .iov_len = sizeof(word)};

	while (n--)
		if (tp_send(tx, &v, 1) || tp_flush(tx))
			abort();
	tp_shutdown(tx);
	tp_close(tx);
	t->genuine_left = t->made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tape t = {.p = data + 1, .left = size - 1};
	unsigned n = size ? data[0] % (GENUINE_MAX + 1) : 0;
	uint8_t got[WORD];
	struct tp *rx;

	if (!size)
		return 0;
	genuine(&t, n);
	rx = seal(&t, 1);
	while (n--)
		if (tp_recv(rx, got, sizeof(got)))
			abort();
	/* Not one byte, and no end in good order either. */
	if (tp_recv(rx, got, 1) == 0 || tp_recv(rx, got, 1) == -EPIPE)
		abort();
	tp_shutdown(rx);
	tp_close(rx);
	return 0;
}
