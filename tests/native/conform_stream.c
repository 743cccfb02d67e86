/* SPDX-License-Identifier: Apache-2.0
 * conform_stream - bytes that are known by their place, and who sends and receives them.
 */
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 100000 };

uint8_t conform_byte(unsigned seed, size_t pos)
{
	uint64_t x = (pos >> 3) * 0x9e3779b97f4a7c15ull + seed;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ull;
	return (uint8_t)(x >> (8 * (pos & 7)));
}

int conform_send(struct tp *tp, unsigned seed, size_t total)
{
	static const size_t size[] = {1, 48, 0, 4096, 16383, 16384, 16385, CHUNK, 7};
	uint8_t *b = malloc(CHUNK);
	struct iovec v[3];
	size_t done = 0;
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && done < total; i++) {
		size_t n = size[i % 9];

		n = n < total - done ? n : total - done;
		for (size_t k = 0; k < n; k++)
			b[k] = conform_byte(seed, done + k);
		v[0] = (struct iovec){.iov_base = b, .iov_len = n / 3};
		v[1] = (struct iovec){.iov_base = NULL, .iov_len = 0};
		v[2] = (struct iovec){.iov_base = b + n / 3, .iov_len = n - n / 3};
		rc = tp_send(tp, v, 3);
		done += n;
	}
	free(b);
	return rc ? rc : tp_flush(tp);
}

int conform_recv(struct tp *tp, unsigned seed, size_t total)
{
	static const size_t size[] = {48, 1, 4096, 333, 65536, 16384};
	uint8_t *b = malloc(CHUNK);
	size_t done = 0;
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && done < total; i++) {
		size_t n = size[i % 6];

		n = n < total - done ? n : total - done;
		rc = tp_recv(tp, b, n);
		for (size_t k = 0; k < n && !rc; k++)
			if (b[k] != conform_byte(seed, done + k))
				rc = -EILSEQ;
		done += n;
	}
	free(b);
	return rc;
}

static void *work(void *arg)
{
	struct conform_worker *w = arg;

	w->rc = w->fn(w->tp, w->seed, w->total);
	return NULL;
}

void conform_start(struct conform_worker *w,
		   int (*fn)(struct tp *tp, unsigned seed, size_t total), struct tp *tp,
		   unsigned seed, size_t total)
{
	*w = (struct conform_worker){.fn = fn, .tp = tp, .seed = seed, .total = total};
	if (pthread_create(&w->thread, NULL, work, w))
		conform_die("a thread");
}

int conform_join(struct conform_worker *w)
{
	if (pthread_join(w->thread, NULL))
		conform_die("a thread");
	return w->rc;
}

int conform_text(struct tp *tp, const char *s)
{
	struct iovec v = {.iov_base = (void *)s, .iov_len = strlen(s)};
	int rc = tp_send(tp, &v, 1);

	return rc ? rc : tp_flush(tp);
}

int conform_flood(struct conform *c, struct tp *tp)
{
	static uint8_t page[64 << 10];
	struct iovec v = {.iov_base = page, .iov_len = sizeof(page)};
	int rc = 0;

	for (size_t n = 0; !rc && n < c->flood; n += sizeof(page))
		rc = tp_send(tp, &v, 1);
	return rc;
}
