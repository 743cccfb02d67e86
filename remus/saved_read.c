/* SPDX-License-Identifier: Apache-2.0
 * saved_read - a saved guest as somebody left it: looked at with suspicion, and taken.
 */
#include "remus/saved_wire.h"

#include "hv/base/err.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 0: all of it; -ENODATA: the file ends before. */
static int read_at(int fd, void *p, size_t len, uint64_t at)
{
	uint8_t *to = p;
	ssize_t n;

	for (; len; to += n, len -= (size_t)n, at += (uint64_t)n) {
		do
			n = pread(fd, to, len, (off_t)at);
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			return n ? -errno : -ENODATA;
	}
	return 0;
}

static int bad(struct err *err, const char *what)
{
	return err_set(err, -EBADMSG, "the saved guest %s", what);
}

static const char *head_damage(const struct saved_head_wire *h)
{
	static const uint8_t zeroes[sizeof(h->zeroes)];
	uint64_t ram = le64_get(h->ram);

	if (memcmp(h->magic, SAVED_MAGIC, sizeof(h->magic)) != 0 &&
	    memcmp(h->magic, SAVED_MAGIC_USED, sizeof(h->magic)) != 0)
		return "is none";
	if (le64_get(h->sum) != saved_head_sum(h))
		return "has a damaged head (checksum)";
	if (le32_get(h->version) != SAVED_VERSION)
		return "is of another version of Rhea";
	if (le32_get(h->zero) || memcmp(h->zeroes, zeroes, sizeof(zeroes)) != 0 ||
	    !memchr(h->vm, '\0', sizeof(h->vm)) || !ram || ram % SAVED_PAGE ||
	    ram > SAVED_RAM_MAX)
		return "has a head with impossible values";
	return NULL;
}

int saved_head(int fd, struct saved_info *out, struct err *err)
{
	struct saved_head_wire h;
	const char *what;
	int rc = read_at(fd, &h, sizeof(h), 0);

	memset(out, 0, sizeof(*out));
	if (rc && rc != -ENODATA)
		return err_sys(err, rc, "reading the saved guest");
	what = rc ? "is cut short" : head_damage(&h);
	if (what)
		return bad(err, what);
	memcpy(out->id, h.id, sizeof(out->id));
	memcpy(out->vm, h.vm, sizeof(out->vm));
	out->term = le64_get(h.term);
	out->epoch = le64_get(h.epoch);
	out->wall_ns = le64_get(h.wall_ns);
	out->ram = le64_get(h.ram);
	out->used = !memcmp(h.magic, SAVED_MAGIC_USED, sizeof(h.magic));
	return 0;
}

struct load {
	int fd;
	const struct saved_sink *sink;
	uint64_t at, ram_pages;
	uint64_t blocks, pages, state, sum;
	int said, ended;
	uint64_t *seen; /* bitmap: pages that came */
	uint8_t stored[SAVED_PIECE_MAX], raw[SAVED_PIECE_MAX];
};

/* Numbers of a block's head, read once; what they may be is decided here alone. */
struct block {
	uint32_t kind, raw, stored;
	uint64_t page, sum;
};

static const char *block_damage(const struct load *l, const struct saved_block_wire *w,
				const struct block *b)
{
	unsigned n = b->raw / SAVED_PAGE;

	if (b->kind < SAVED_STATE || b->kind > SAVED_END || le32_get(w->zero) ||
	    !b->raw || b->raw > SAVED_PIECE_MAX || !b->stored || b->stored > b->raw)
		return "holds a block with impossible values";
	if (b->kind != SAVED_PAGES && b->page)
		return "holds a block with a page that it should not have";
	if (b->kind == SAVED_PAGES && (b->raw % SAVED_PAGE || b->page >= l->ram_pages ||
				       n > l->ram_pages - b->page))
		return "holds pages that the guest does not have";
	if (b->kind == SAVED_STATE && b->raw > SAVED_STATE_MAX - l->state)
		return "holds more state than a machine has";
	if (b->kind == SAVED_SAID && l->said)
		return "holds addresses twice";
	if (b->kind == SAVED_END &&
	    (b->raw != sizeof(struct saved_end_wire) || b->stored != b->raw))
		return "ends with a block of the wrong size";
	return NULL;
}

/* 1: one of them came before. */
static int mark_pages(struct load *l, uint64_t page, unsigned n)
{
	for (; n; n--, page++) {
		uint64_t bit = 1ull << page % 64;

		if (l->seen[page / 64] & bit)
			return 1;
		l->seen[page / 64] |= bit;
	}
	return 0;
}

static int on_end(struct load *l, const uint8_t *raw, struct err *err)
{
	struct saved_end_wire end;
	uint8_t more;
	int rc;

	memcpy(&end, raw, sizeof(end));
	if (le64_get(end.blocks) != l->blocks || le64_get(end.pages) != l->pages ||
	    le64_get(end.state) != l->state || le64_get(end.sum) != l->sum)
		return bad(err, "is not whole: its end speaks of other blocks");
	rc = read_at(l->fd, &more, 1, l->at);
	if (rc != -ENODATA)
		return rc ? err_sys(err, rc, "reading the saved guest")
			  : bad(err, "has bytes behind its end");
	l->ended = 1;
	return 0;
}

static int deliver(struct load *l, const struct block *b, const uint8_t *raw,
		   struct err *err)
{
	const struct saved_sink *s = l->sink;
	unsigned n = b->raw / SAVED_PAGE;
	int rc = 0;

	switch ((enum saved_kind)b->kind) {
	case SAVED_STATE:
		l->state += b->raw;
		rc = s->state ? s->state(s->arg, raw, b->raw) : 0;
		break;
	case SAVED_SAID:
		l->said = 1;
		rc = s->said ? s->said(s->arg, raw, b->raw) : 0;
		break;
	case SAVED_PAGES:
		if (mark_pages(l, b->page, n))
			return bad(err, "holds a page twice");
		l->pages += n;
		rc = s->pages ? s->pages(s->arg, b->page, n, raw) : 0;
		break;
	case SAVED_END:
		return on_end(l, raw, err);
	}
	return rc ? err_sys(err, rc, "loading the saved guest") : 0;
}

static int unpack(struct load *l, const struct block *b, const uint8_t **raw_out,
		  struct err *err)
{
	*raw_out = l->stored;
	if (b->stored == b->raw)
		return 0;
	*raw_out = l->raw;
	if (LZ4_decompress_safe((const char *)l->stored, (char *)l->raw, (int)b->stored,
				(int)b->raw) != (int)b->raw)
		return bad(err, "holds a block that cannot be unpacked");
	return 0;
}

static int next_block(struct load *l, struct err *err)
{
	struct saved_block_wire w;
	const char *what = "is cut short";
	const uint8_t *raw;
	struct block b;
	int rc = read_at(l->fd, &w, sizeof(w), l->at);

	if (!rc) {
		b = (struct block){.kind = le32_get(w.kind),
				   .raw = le32_get(w.raw),
				   .stored = le32_get(w.stored),
				   .page = le64_get(w.page),
				   .sum = le64_get(w.sum)};
		what = block_damage(l, &w, &b);
		if (what)
			return bad(err, what);
		what = "is cut short";
		rc = read_at(l->fd, l->stored, b.stored, l->at + sizeof(w));
	}
	if (rc)
		return rc == -ENODATA ? bad(err, what)
				      : err_sys(err, rc, "reading the saved guest");
	if (saved_block_sum(&w, l->stored) != b.sum)
		return bad(err, "is damaged (checksum of a block)");
	l->at += sizeof(w) + b.stored;
	rc = unpack(l, &b, &raw, err);
	rc = rc ? rc : deliver(l, &b, raw, err);
	if (!rc && b.kind != SAVED_END) {
		l->blocks++;
		l->sum = saved_chain(l->sum, b.sum);
	}
	return rc;
}

int saved_read(int fd, const struct saved_sink *sink, struct saved_info *info,
	       struct err *err)
{
	int rc = saved_head(fd, info, err);
	struct load *l;

	if (rc)
		return rc;
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(err, -ENOMEM, "loading the saved guest: out of memory");
	l->fd = fd;
	l->sink = sink;
	l->at = SAVED_HEAD;
	l->ram_pages = info->ram / SAVED_PAGE;
	l->seen = calloc(l->ram_pages / 64 + 1, sizeof(*l->seen));
	if (!l->seen)
		rc = err_set(err, -ENOMEM, "loading the saved guest: out of memory");
	while (!rc && !l->ended)
		rc = next_block(l, err);
	free(l->seen);
	free(l);
	return rc;
}

int saved_use(int fd, struct err *err)
{
	struct saved_head_wire h;
	const char *what;
	ssize_t n;
	int rc = read_at(fd, &h, sizeof(h), 0);

	if (rc)
		return err_sys(err, rc, "reading the saved guest");
	what = head_damage(&h);
	if (what)
		return bad(err, what);
	memcpy(h.magic, SAVED_MAGIC_USED, sizeof(h.magic));
	h.sum = le64_of(saved_head_sum(&h));
	/* One sector, durable before the guest runs: it has not run, or this says so. */
	do
		n = pwrite(fd, &h, sizeof(h), 0);
	while (n < 0 && errno == EINTR);
	if (n == sizeof(h))
		rc = fdatasync(fd) ? -errno : 0;
	else
		rc = n < 0 ? -errno : -EIO;
	return rc ? err_sys(err, rc, "noting that the saved guest is used") : 0;
}
