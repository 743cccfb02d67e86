/* SPDX-License-Identifier: Apache-2.0
 * pagecodec - pages to bytes and back: unchanged, zero and equal pages, changed words, XOR delta,
 * LZ4, raw.
 *
 * A batch is the payload of one MEMORY record: page items one after the other
 * (STREAM.md). Pure: no threads, no I/O. An encoder or decoder serves one thread.
 */
#ifndef REPLICATION_PAGECODEC_H
#define REPLICATION_PAGECODEC_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct page_twins;

enum { PC_PAGE = 4096 };

enum pc_kind {
	PC_RAW = 0,	/* 4096 bytes */
	PC_ZERO = 1,	/* nothing follows */
	PC_LZ4 = 2,	/* LZ4 block */
	PC_XOR_LZ4 = 3, /* LZ4 block of new XOR what was sent last */
	PC_WORDS = 4,	/* words that changed since (pagewords.h) */
	PC_SAME = 5,	/* le64: the page of the same epoch that is equal */
};

struct pc_stats {
	uint64_t pages, unchanged, zero, raw, lz4, xor_lz4, words, same;
	uint64_t bytes_raw, bytes_out;
	uint64_t misses; /* pages in a row that could not be compressed */
};
/* Adds all but the misses of @more to @sum, and makes them 0. */
void pc_stats_move(struct pc_stats *sum, struct pc_stats *more);

/* Append page @index with content @page (4096 bytes) to @out. @base: what the other side
 * has for this page, or NULL if that is not known here. Appends nothing when @page equals
 * @base. Adds to @st. 0 or -ENOMEM. Worst case PC_ITEM_MAX bytes. */
int pc_encode(struct buf *out, uint64_t index, const void *page, const void *base,
	      struct pc_stats *st);
/* The pages of an epoch: page @n of them, whose content is content[n], is at hand. */
struct pc_among {
	struct page_twins *twins; /* borrowed */
	const void *const *content;
	const uint64_t *index;
	size_t n;
};
/* The same, and a page that is sent in full only names another one if that is equal. */
int pc_encode_among(struct buf *out, const struct pc_among *among, const void *base,
		    struct pc_stats *st);
/* The same for a page of which only these words are known to have changed (a body of pagewords.h). */
int pc_encode_words(struct buf *out, uint64_t index, const void *body, unsigned len,
		    struct pc_stats *st);
enum {
	PC_ITEM_MAX = 16 + PC_PAGE + 512,
	PC_WORDS_SMALL = 640, /* bytes: a longer body is better encoded from the page */
};

/* What is to be done with a page. */
enum pc_change {
	PC_REPLACE, /* by 4096 bytes */
	PC_XOR,	    /* with 4096 bytes */
	PC_PATCH,   /* with a body of pagewords.h */
	PC_TWIN,    /* as the page @twin is replaced in this epoch; not for pc_apply() */
};
struct pc_item {
	uint64_t index, twin;
	enum pc_change change;
	const void *data;
	unsigned len;
	int lasting; /* @data is as good as the batch; else only until the next item */
};
/* To the page's 4096 bytes. Cannot fail for an item that came from pc_decode(). */
void pc_apply(void *page, enum pc_change change, const void *data, unsigned len);

/* Walk a batch. Everything is checked before @fn sees an item: index below @pages, sizes, LZ4,
 * runs. 0, what @fn returned if not 0, or -EBADMSG with @err. */
typedef int pc_item_fn(void *arg, const struct pc_item *item);
int pc_decode(const void *batch, size_t len, uint64_t pages, pc_item_fn *fn, void *arg,
	      struct err *err);

/* dst ^= src, 4096 bytes each. */
void pc_xor(void *dst, const void *src);

/* What was sent last of each page, bounded: direct-mapped over @slots pages (0: no cache,
 * every lookup is NULL). pc_cache_swap() gives the slot @page (a page from pc_page_alloc
 * or an earlier swap) and takes back the one that was there, to be reused: no copy. */
struct pc_cache;
struct pc_cache *
pc_cache_create(size_t slots); /* returns owned, or NULL: out of memory */
void pc_cache_destroy(struct pc_cache *c);
const void *pc_cache_get(const struct pc_cache *c, uint64_t index);
void *pc_cache_swap(struct pc_cache *c, uint64_t index, void *page); /* may be NULL */
/* Words of a page were sent: put them into what is kept, if it is. */
void pc_cache_patch(struct pc_cache *c, uint64_t index, const void *body, unsigned len);
void pc_cache_clear(struct pc_cache *c); /* forget all: the peer is a new one */

/* One page's memory for the cache, contents undefined; NULL: out of memory. */
void *pc_page_alloc(void);
void pc_page_free(void *page); /* NULL is fine */

#endif
