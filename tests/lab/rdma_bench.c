/* SPDX-License-Identifier: Apache-2.0
 * rdma_bench - throughput and round trips of a transport's module between two hosts.
 *
 *   rdma_bench MODULE ARGS PORT bw|lat ROUNDS SIZE [HOST]    without HOST: the server
 *
 * bw: ROUNDS messages of SIZE bytes, flushed once at the end, until the other side has read
 * the last one: MB/s. lat: ROUNDS times SIZE bytes there and as many back, each flushed:
 * half of the round trip in us, p50 and p99. The client prints one line of figures.
 */
#include "hv/base/clock.h"
#include "tests/lab/kit_link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE_MAX_BYTES = 1 << 20, ROUNDS_MAX = 1 << 20 };

static void send_one(struct tp *tp, void *p, size_t len, int flush)
{
	struct iovec v = {.iov_base = p, .iov_len = len};
	int rc = tp_send(tp, &v, 1);

	if (!rc && flush)
		rc = tp_flush(tp);
	if (rc)
		kit_die("send: %d", rc);
}

static void recv_one(struct tp *tp, void *p, size_t len)
{
	int rc = tp_recv(tp, p, len);

	if (rc)
		kit_die("recv: %d", rc);
}

static void bandwidth(const struct kit *k, struct tp *tp, unsigned rounds, void *p,
		      size_t size)
{
	const uint64_t began = clock_mono_ns();
	char done = 'd';

	if (k->server) {
		for (unsigned i = 0; i < rounds; i++)
			recv_one(tp, p, size);
		send_one(tp, &done, 1, 1);
		recv_one(tp, &done, 1); /* so that ours is not the first to close */
		return;
	}
	for (unsigned i = 0; i < rounds; i++)
		send_one(tp, p, size, i + 1 == rounds);
	recv_one(tp, &done, 1);
	(void)printf("%.2f\n", (double)rounds * (double)size * 1e3 /
				       (double)(clock_mono_ns() - began));
	send_one(tp, &done, 1, 1);
}

static int by_size(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void latency(const struct kit *k, struct tp *tp, unsigned rounds, void *p,
		    size_t size)
{
	uint64_t *ns = calloc(rounds, sizeof(*ns)), began;
	size_t half, most;

	if (!ns)
		kit_die("no memory");
	for (unsigned i = 0; i < rounds; i++) {
		began = clock_mono_ns();
		if (!k->server)
			send_one(tp, p, size, 1);
		recv_one(tp, p, size);
		if (k->server)
			send_one(tp, p, size, 1);
		ns[i] = (clock_mono_ns() - began) / 2;
	}
	qsort(ns, rounds, sizeof(*ns), by_size);
	half = rounds / 2;
	most = rounds - rounds / 100 - 1;
	if (!k->server)
		(void)printf("%.1f %.1f\n", (double)ns[half] / 1e3,
			     (double)ns[most] / 1e3);
	free(ns);
}

int main(int argc, char **argv)
{
	unsigned long rounds, size;
	struct kit k = {0};
	struct tp *tp;
	void *p;

	if (argc < 7)
		kit_die("usage: rdma_bench MODULE ARGS PORT bw|lat ROUNDS SIZE [HOST]");
	rounds = strtoul(argv[5], NULL, 10);
	size = strtoul(argv[6], NULL, 10);
	if (!rounds || rounds > ROUNDS_MAX || !size || size > SIZE_MAX_BYTES)
		kit_die("ROUNDS or SIZE is out of bounds");
	p = calloc(1, size);
	if (!p)
		kit_die("no memory");
	kit_meet(&k, argc > 7 ? argv[7] : NULL, (unsigned)strtoul(argv[3], NULL, 10));
	kit_open(&k, argv[1], argv[2]);
	tp = kit_link(&k);
	kit_sync(&k);
	if (!strcmp(argv[4], "bw"))
		bandwidth(&k, tp, (unsigned)rounds, p, size);
	else
		latency(&k, tp, (unsigned)rounds, p, size);
	kit_sync(&k);
	tp_close(tp);
	k.mod->close(k.dev);
	free(p);
	return 0;
}
