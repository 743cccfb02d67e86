/* SPDX-License-Identifier: Apache-2.0
 * fuzz_saved - a saved guest's file as somebody else made it: never out of bounds, and what is taken is
 * within the guest's memory, each page once.
 *
 * The input is what follows the head, whose sum is made to fit; if its first byte is odd, so are the sums of
 * the blocks.
 */
#include "hv/base/err.h"
#include "remus/saved_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { PAGES = 256, BYTES = 1 << 20 };

static uint8_t file[BYTES], seen[PAGES];
static size_t state;

static void must(int ok)
{
	if (!ok)
		abort();
}

static int on_state(void *arg, const void *p, size_t len)
{
	state += len;
	must(len && state <= SAVED_STATE_MAX);
	return 0;
}

static int on_pages(void *arg, uint64_t page, unsigned n, const void *p)
{
	static uint8_t copy[SAVED_PIECE_MAX];

	must(n && n <= SAVED_RUN && page < PAGES && n <= PAGES - page);
	memcpy(copy, p, (size_t)n * SAVED_PAGE);
	for (unsigned i = 0; i < n; i++)
		must(!seen[page + i]++);
	return 0;
}

static void fit_head(void)
{
	struct saved_head_wire h = {.version = le32_of(SAVED_VERSION),
				    .ram = le64_of((uint64_t)PAGES * SAVED_PAGE),
				    .vm = "fuzz"};

	memcpy(h.magic, SAVED_MAGIC, sizeof(h.magic));
	h.sum = le64_of(saved_head_sum(&h));
	memcpy(file, &h, sizeof(h));
}

static void fit_blocks(size_t end)
{
	struct saved_block_wire b;

	for (size_t at = SAVED_HEAD; at + sizeof(b) <= end;) {
		memcpy(&b, file + at, sizeof(b));
		b.kind = le32_of(1 + le32_get(b.kind) % 4);
		b.stored = le32_of(le32_get(b.stored) % 8192);
		memset(&b.zero, 0, sizeof(b.zero));
		if (at + sizeof(b) + le32_get(b.stored) > end)
			return;
		b.sum = le64_of(saved_block_sum(&b, file + at + sizeof(b)));
		memcpy(file + at, &b, sizeof(b));
		at += sizeof(b) + le32_get(b.stored);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct saved_sink sink = {.state = on_state, .pages = on_pages};
	size_t n = len < BYTES - SAVED_HEAD ? len : BYTES - SAVED_HEAD;
	int fd = memfd_create("saved", MFD_CLOEXEC), rc;
	struct saved_info info;
	struct err err = {0};

	must(fd >= 0);
	memset(seen, 0, sizeof(seen));
	state = 0;
	fit_head();
	memcpy(file + SAVED_HEAD, data, n);
	if (n && data[0] & 1)
		fit_blocks(SAVED_HEAD + n);
	must(write(fd, file, SAVED_HEAD + n) == (ssize_t)(SAVED_HEAD + n));
	rc = saved_read(fd, &sink, &info, &err);
	must(rc <= 0 && rc == err.code && info.ram == (uint64_t)PAGES * SAVED_PAGE);
	close(fd);
	return 0;
}
