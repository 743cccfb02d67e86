/* SPDX-License-Identifier: Apache-2.0
 * saved_write - a guest into a file, block by block.
 */
#include "remus/saved_wire.h"

#include "hv/base/err.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { BATCH = 1 << 20 }; /* bytes in one write */

struct saved_writer {
	int fd, rc; /* rc: the first failure */
	uint64_t at, blocks, pages, state, sum;
	size_t held; /* of batch */
	LZ4_stream_t lz4;
	uint8_t packed[SAVED_PIECE_MAX];
	uint8_t batch[BATCH];
};

uint64_t saved_block_sum(const struct saved_block_wire *w, const void *stored)
{
	return XXH3_64bits_withSeed(
		stored, le32_get(w->stored),
		XXH3_64bits(w, offsetof(struct saved_block_wire, sum)));
}

uint64_t saved_chain(uint64_t sum, uint64_t block)
{
	struct le64 b = le64_of(block);

	return XXH3_64bits_withSeed(&b, sizeof(b), sum);
}

uint64_t saved_head_sum(const struct saved_head_wire *w)
{
	return XXH3_64bits(w, offsetof(struct saved_head_wire, sum));
}

static void flush(struct saved_writer *w)
{
	size_t done = 0;
	ssize_t n;

	while (!w->rc && done < w->held) {
		n = pwrite(w->fd, w->batch + done, w->held - done, (off_t)(w->at + done));
		if (n > 0)
			done += (size_t)n;
		else if (!n || errno != EINTR)
			w->rc = n ? -errno : -EIO;
	}
	w->at += done;
	w->held = 0;
}

static void put(struct saved_writer *w, const void *p, size_t len)
{
	const uint8_t *from = p;
	size_t n;

	for (; len && !w->rc; from += n, len -= n) {
		n = BATCH - w->held < len ? BATCH - w->held : len;
		memcpy(w->batch + w->held, from, n);
		w->held += n;
		if (w->held == BATCH)
			flush(w);
	}
}

static int put_block(struct saved_writer *w, enum saved_kind kind, uint64_t page,
		     const void *p, size_t len)
{
	struct saved_block_wire b = {.kind = le32_of(kind),
				     .raw = le32_of((uint32_t)len),
				     .page = le64_of(page)};
	int n = 0;

	if (w->rc)
		return w->rc;
	if (!len || len > SAVED_PIECE_MAX)
		return w->rc = -EINVAL;
	/* Less than an eighth is not worth the time at loading. */
	if (kind != SAVED_END)
		n = LZ4_compress_fast_extState(&w->lz4, p, (char *)w->packed, (int)len,
					       (int)(len - len / 8), 1);
	if (n > 0)
		p = w->packed;
	b.stored = le32_of(n > 0 ? (uint32_t)n : (uint32_t)len);
	b.sum = le64_of(saved_block_sum(&b, p));
	w->sum = saved_chain(w->sum, le64_get(b.sum));
	w->blocks++;
	put(w, &b, sizeof(b));
	put(w, p, le32_get(b.stored));
	return w->rc;
}

int saved_put_state(struct saved_writer *w, const void *p, size_t len)
{
	const uint8_t *from = p;
	size_t n;

	if (len > SAVED_STATE_MAX - w->state)
		return w->rc = w->rc ? w->rc : -EINVAL;
	w->state += len;
	for (; len && !w->rc; from += n, len -= n) {
		n = len < SAVED_PIECE_MAX ? len : SAVED_PIECE_MAX;
		put_block(w, SAVED_STATE, 0, from, n);
	}
	return w->rc;
}

int saved_put_said(struct saved_writer *w, const void *p, size_t len)
{
	return put_block(w, SAVED_SAID, 0, p, len);
}

int saved_put_pages(struct saved_writer *w, uint64_t page, unsigned n, const void *p)
{
	w->pages += n;
	return put_block(w, SAVED_PAGES, page, p, (size_t)n * SAVED_PAGE);
}

/* What was written is on stable storage. */
static void make_durable(struct saved_writer *w)
{
	flush(w);
	if (!w->rc && fdatasync(w->fd))
		w->rc = -errno;
}

int saved_finish(struct saved_writer *w, struct err *err)
{
	struct saved_end_wire end = {.blocks = le64_of(w->blocks),
				     .pages = le64_of(w->pages),
				     .state = le64_of(w->state),
				     .sum = le64_of(w->sum)};

	/* END is the word that all before it is there: so that is durable first. */
	make_durable(w);
	put_block(w, SAVED_END, 0, &end, sizeof(end));
	make_durable(w);
	return w->rc ? err_sys(err, w->rc, "writing the saved guest") : 0;
}

uint64_t saved_bytes(const struct saved_writer *w)
{
	return w->at + w->held;
}

static void put_head(struct saved_writer *w, const struct saved_info *i)
{
	struct saved_head_wire h = {.version = le32_of(SAVED_VERSION),
				    .term = le64_of(i->term),
				    .epoch = le64_of(i->epoch),
				    .wall_ns = le64_of(i->wall_ns),
				    .ram = le64_of(i->ram)};

	memcpy(h.magic, SAVED_MAGIC, sizeof(h.magic));
	memcpy(h.id, i->id, sizeof(h.id));
	memcpy(h.vm, i->vm, strnlen(i->vm, SAVED_VM_MAX));
	h.sum = le64_of(saved_head_sum(&h));
	memset(w->batch, 0, SAVED_HEAD);
	memcpy(w->batch, &h, sizeof(h));
	w->held = SAVED_HEAD;
}

int saved_create(int fd, const struct saved_info *info, struct saved_writer **w_out,
		 struct err *err)
{
	struct saved_writer *w = malloc(sizeof(*w));

	*w_out = w;
	if (!w)
		return err_set(err, -ENOMEM, "saving the guest: out of memory");
	w->fd = fd;
	w->rc = 0;
	w->at = w->blocks = w->pages = w->state = w->sum = 0;
	put_head(w, info);
	return 0;
}

void saved_free(struct saved_writer *w)
{
	free(w);
}
