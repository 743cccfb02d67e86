/* SPDX-License-Identifier: Apache-2.0
 * hello - the standby tells a digest of each chunk of its images, so that only what differs is
 * sent. Holes are told without being read.
 */
#include "diskrep/standby.h"

#include "hv/base/err.h"
#include "remus/participant.h"

#include <errno.h>
#include <stdlib.h>

/* Chunks of one disk that were looked at and not told yet. */
struct batch {
	struct diskrep_standby *s;
	struct rec_sink *sink;
	uint32_t disk;
	const struct dr_bits *look; /* NULL: all of it */
	uint64_t first;
	uint32_t count;
	int zero;
	struct dr_digest digest[DR_DIGESTS_MAX];
};

static int tell(struct batch *b)
{
	const struct dr_image *img = &b->s->img[b->disk];
	struct dr_wire_digests w = {
		.disk = le32_of(b->disk),
		.disks = le32_of(b->s->n),
		.capacity = le64_of(b->s->n ? img->capacity : 0),
		.first = le64_of(b->first),
		.count = le32_of(b->count),
		.flags = le32_of(b->zero ? DR_DIGEST_ZERO : 0),
	};
	struct iovec iov[2] = {
		{.iov_base = &w, .iov_len = sizeof(w)},
		{.iov_base = b->digest, .iov_len = (size_t)b->count * DR_DIGEST_LEN},
	};
	int plain = !b->zero && b->count;

	b->first += b->count;
	b->count = 0;
	return b->sink->put(b->sink, DR_REC_DIGESTS, REC_EPOCH_SYNC, iov, plain ? 2 : 1);
}

static int add_zeroes(struct batch *b, uint64_t count)
{
	int rc = b->count && !b->zero ? tell(b) : 0;

	b->zero = 1;
	while (!rc && count > UINT32_MAX - b->count) {
		count -= UINT32_MAX - b->count;
		b->count = UINT32_MAX;
		rc = tell(b);
	}
	b->count += (uint32_t)count;
	return rc;
}

static int add_digest(struct batch *b, struct dr_digest d)
{
	int rc = b->count && (b->zero || b->count == DR_DIGESTS_MAX) ? tell(b) : 0;

	b->zero = 0;
	b->digest[b->count++] = d;
	return rc;
}

/* The next chunk that is to be told. */
static uint64_t next_of(const struct batch *b, uint64_t c)
{
	return b->look ? dr_bits_next(b->look, c) : c;
}

/* What was gathered ends here: chunks up to @c are left out. */
static int skip_to(struct batch *b, uint64_t c)
{
	int rc = 0;

	if (c == b->first + b->count)
		return 0;
	if (b->count)
		rc = tell(b);
	b->first = c;
	return rc;
}

static int tell_disk(struct batch *b, uint8_t *buf)
{
	const struct dr_image *img = &b->s->img[b->disk];
	uint64_t c = 0, data;
	int rc = 0;

	b->first = 0;
	while (!rc && (c = next_of(b, c)) < img->chunks) {
		rc = skip_to(b, c);
		if (rc)
			break;
		data = b->look ? c : dr_chunk_data(img, c);
		if (data > c) {
			rc = add_zeroes(b, data - c);
			c = data;
			continue;
		}
		rc = dr_chunk_load(img, c, buf);
		if (rc > 0)
			rc = add_zeroes(b, 1);
		else if (!rc)
			rc = add_digest(b, dr_digest_of(buf, dr_chunk_len(img, c)));
		c++;
	}
	if (!rc && b->look)
		rc = skip_to(b, img->chunks);
	/* Also for a disk without chunks: the other side compares the capacity. */
	return rc ? rc : tell(b);
}

int drs_hello(struct diskrep_standby *s, struct rec_sink *sink, struct err *err)
{
	struct batch *b = calloc(1, sizeof(*b));
	uint8_t *buf = aligned_alloc(4096, DR_CHUNK);
	uint32_t i = 0;
	int rc = -ENOMEM, partial;

	if (!b || !buf)
		goto out;
	*b = (struct batch){.s = s, .sink = sink};
	rc = drs_resync_hello(s, sink);
	partial = rc > 0;
	rc = rc < 0 ? rc : s->n ? 0 : tell(b);
	for (; !rc && i < s->n; i++) {
		b->disk = i;
		b->look = partial ? &s->resync.look[i] : NULL;
		rc = tell_disk(b, buf);
	}
	drs_resync_reset(s);
out:
	free(b);
	free(buf);
	return rc ? err_sys(err, rc, "disk %u: telling what it holds", i ? i - 1 : 0) : 0;
}
