/* SPDX-License-Identifier: Apache-2.0
 * fuzz_pagecodec - a batch written by an enemy, and pages that are hard to pack.
 *
 * The input is taken twice: as a batch to decode, and as the content of two pages, of which
 * one must come back from the other's delta.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "replication/pagecodec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 1000 };

static int item(void *arg, const struct pc_item *it)
{
	if (it->index >= PAGES)
		abort();
	pc_apply(arg, it->change, it->data, it->len);
	return 0;
}

static void decode(const uint8_t *data, size_t size)
{
	static uint8_t ram[PC_PAGE];
	struct err err = {0};
	int rc = pc_decode(data, size, PAGES, item, ram, &err);

	if (rc && (rc != -EBADMSG || !err.msg[0]))
		abort();
}

/* The rest of a page is zero: short inputs make sparse deltas. */
static void fill(uint8_t *page, const uint8_t *data, size_t size, size_t from)
{
	for (size_t i = 0; i < PC_PAGE; i++)
		page[i] = from + i < size ? data[from + i] : 0;
}

static void round_trip(const uint8_t *now, const uint8_t *base)
{
	static uint8_t ram[PC_PAGE];
	struct pc_stats st = {0};
	struct buf b = {0};

	if (base)
		memcpy(ram, base, PC_PAGE);
	if (pc_encode(&b, 7, now, base, &st) || b.len > PC_ITEM_MAX)
		abort();
	if (pc_decode(b.data, b.len, PAGES, item, ram, NULL) ||
	    memcmp(ram, now, PC_PAGE) != 0)
		abort();
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t now[PC_PAGE], base[PC_PAGE];

	decode(data, size);
	fill(now, data, size, 0);
	fill(base, data, size, size / 2);
	round_trip(now, NULL);
	round_trip(now, base);
	pc_xor(base, now); /* now is the delta of these two */
	round_trip(base, now);
	return 0;
}
