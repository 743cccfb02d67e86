/* SPDX-License-Identifier: Apache-2.0
 * fuzz_journal - a journal as somebody else left it: recovery never leaves the bounds of anything, and
 * what it calls whole it has understood.
 *
 * The input is the file's first bytes. If the first byte of the second superblock's block is odd,
 * sums are made to fit, of superblocks and of a row of records from the tail on, so that what
 * is behind the checksums is reached as well.
 */
#include "diskrep/journal.h"
#include "diskrep/journal_priv.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { BYTES = 40 << 10, DISKS = 2, CAPACITY = 16 << 10, RECORDS = 64 };

static uint8_t file[BYTES], image[DISKS][CAPACITY];

static void must(int ok)
{
	if (!ok)
		abort();
}

static int fz_read(void *self, unsigned f, void *p, size_t len, uint64_t offset)
{
	must(f == DR_IO_JOURNAL);
	if (offset > BYTES || len > BYTES - offset)
		return -EIO;
	memcpy(p, file + offset, len);
	return 0;
}

static int fz_write(void *self, unsigned f, const void *p, size_t len, uint64_t offset)
{
	if (f == DR_IO_JOURNAL) {
		must(offset <= BYTES && len <= BYTES - offset);
		memcpy(file + offset, p, len);
		return 0;
	}
	must(f < DISKS && offset <= CAPACITY && len <= CAPACITY - offset);
	memcpy(image[f] + offset, p, len);
	return 0;
}

static int fz_erase(void *self, unsigned f, uint64_t offset, uint64_t len)
{
	must(f < DISKS && offset <= CAPACITY && len <= CAPACITY - offset);
	memset(image[f] + offset, 0, len);
	return 0;
}

static int fz_sync(void *self, unsigned f)
{
	return 0;
}

static const struct dr_io_ops ops = {
	.read = fz_read, .write = fz_write, .erase = fz_erase, .sync = fz_sync};

static struct jw_super *super_at(unsigned i)
{
	return (struct jw_super *)(void *)(file + (size_t)i * JW_BLOCK);
}

static void fit_super(struct jw_super *w)
{
	memcpy(w->magic, JW_SUPER_MAGIC, sizeof(w->magic));
	w->version = le32_of(JW_VERSION);
	w->len = le32_of(sizeof(*w));
	w->ring = le64_of(BYTES - JW_HEAD);
	w->state = le32_of(le32_get(w->state) % JOURNAL_STATES);
	w->disks = le32_of(DISKS);
	memcpy(w->vm, "fuzz", sizeof("fuzz"));
	w->capacity[0] = w->capacity[1] = le64_of(CAPACITY);
	w->tail = le64_of(le64_get(w->tail) % (BYTES * 4) / JW_BLOCK * JW_BLOCK);
	w->durable = le64_of(le64_get(w->durable) % (BYTES * 4));
	memset(w->zero, 0, sizeof(w->zero));
	w->sum = le64_of(XXH3_64bits(w, offsetof(struct jw_super, sum)));
}

/* A row of records whose framing and sums are right; the rest is the input's. */
static void fit_records(const struct jw_super *w)
{
	uint64_t pos = le64_get(w->tail), seq = le64_get(w->tail_seq), digest = 0;
	uint64_t epoch = le64_get(w->epoch), ring = BYTES - JW_HEAD, start = pos;
	uint32_t entries = 0;
	struct le64 seed;

	memcpy(&seed, w->id, sizeof(seed));
	for (int i = 0; i < RECORDS; i++) {
		uint64_t at = JW_HEAD + pos % ring;
		struct jw_record *r = (void *)(file + at);
		struct jw_commit *c = (void *)(r + 1);
		uint32_t payload, type;

		if (at + sizeof(*r) + sizeof(*c) > BYTES || pos - start > ring)
			return;
		type = 1 + le32_get(r->type) % 3;
		payload = le32_get(r->len) % 2048;
		payload = type == JW_COMMIT ? sizeof(*c) : type == JW_ERASE ? 0 : payload;
		if (at + sizeof(*r) + payload > BYTES)
			return;
		r->magic = le32_of(JW_RECORD_MAGIC);
		r->type = le32_of(type);
		r->seq = le64_of(seq++);
		r->pos = le64_of(pos);
		r->len = le32_of(payload);
		/* Mostly what makes sense. */
		if (le32_get(r->disk) & 7) {
			r->disk = le32_of(le32_get(r->disk) & 1);
			r->offset = le64_of(le64_get(r->offset) % CAPACITY);
			if (type == JW_WRITE)
				r->range = le64_of(payload);
		}
		if (type == JW_COMMIT && le32_get(r->disk) != 5) {
			memcpy(c->base, w->base, sizeof(c->base));
			c->epoch = le64_of(++epoch);
			c->entries = le32_of(entries);
			c->digest = le64_of(digest);
		}
		r->sum = le64_of(journal_sum(le64_get(seed), r, r + 1));
		digest = type == JW_COMMIT ? 0 : journal_digest(digest, le64_get(r->sum));
		entries = type == JW_COMMIT ? 0 : entries + 1;
		pos += journal_padded(payload);
		if (type == JW_COMMIT && le32_get(c->flags) & JW_LAST)
			pos = (pos + JW_BLOCK - 1) / JW_BLOCK * JW_BLOCK;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct journal_disks d = {
		.vm = "fuzz", .n = DISKS, .capacity = {CAPACITY, CAPACITY}};
	struct dr_io io = {.ops = &ops};
	struct journal_found found, again;
	struct err err = {0};
	struct journal *j;
	int rc;

	log_init("fuzz", NULL, LOG_LVL_ERR);
	memset(file, 0, sizeof(file));
	memcpy(file, data, len < BYTES ? len : BYTES);
	if (len > JW_BLOCK + sizeof(struct jw_super) && data[JW_BLOCK] & 1) {
		fit_super(super_at(0));
		fit_super(super_at(1));
		fit_records(le64_get(super_at(1)->sequence) >
					    le64_get(super_at(0)->sequence)
				    ? super_at(1)
				    : super_at(0));
	}
	rc = journal_open(io, &d, BYTES, &j, &found, &err);
	must(rc <= 0 && rc == err.code && !rc == !!j);
	journal_close(j);
	if (rc)
		return 0;
	/* It is in order now, and says the same. */
	must(!journal_open(io, &d, BYTES, &j, &again, &err));
	must(again.state == found.state && again.whole == found.whole &&
	     again.epochs == 0 && again.gen.epoch == found.gen.epoch);
	journal_close(j);
	return 0;
}
