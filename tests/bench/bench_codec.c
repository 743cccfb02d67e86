/* SPDX-License-Identifier: Apache-2.0
 * bench_codec - pages to bytes on the primary, and bytes to pages on the standby, on one core.
 *
 * The floor is copying as many pages.
 *
 *   bench_codec GUEST.elf OUT.json [SECONDS a turn] [TURNS]
 */
#include "tests/bench/kit.h"

#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/gm.h"
#include "remus/parts.h"
#include "remus/stream.h"
#include "replication/pagecodec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 4096, RAM = 32 << 20, BATCH = 64, APPLIED = 4 };

struct work {
	uint8_t *page[2]; /* before and after; taken in turns */
	struct gm *gm;	  /* the standby's */
	struct mem_standby *mem;
	struct standby_part part;
	struct buf batch[PAGES / BATCH];
};

static uint64_t rnd(void)
{
	static uint64_t x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* What a page is like, and what an epoch does to it. */
struct kind {
	const char *name;
	int random;	/* its content: random, or words that repeat */
	unsigned words; /* changed in each epoch; 512: all, and no delta */
	double target;	/* GB/s, 0: none */
};

static void fill(uint8_t *p, const struct kind *k)
{
	uint64_t *w = (uint64_t *)(void *)p;

	for (size_t i = 0; i < PAGES * (size_t)GM_PAGE / 8; i++)
		w[i] = k->random ? rnd() : rnd() % 64 * 0x01010101;
}

static void change(uint8_t *p, const struct kind *k)
{
	for (size_t i = 0; i < PAGES; i++)
		for (unsigned n = 0; n < k->words; n++)
			*(uint64_t *)(void *)(p + i * GM_PAGE + rnd() % 512 * 8) = rnd();
}

static void encode_all(struct work *w, const struct kind *k, int now)
{
	struct pc_stats st = {0};

	for (unsigned i = 0; i < PAGES; i++) {
		const uint8_t *base =
			k->words < 512 ? w->page[!now] + (size_t)i * GM_PAGE : NULL;

		if (!(i % BATCH))
			buf_reset(&w->batch[i / BATCH]);
		if (pc_encode(&w->batch[i / BATCH], i, w->page[now] + (size_t)i * GM_PAGE,
			      base, &st))
			kit_die("encoding", NULL);
	}
}

/* Nanoseconds, without the time in which a transport would put the records where the standby wants
 * them. */
static uint64_t apply_all(struct work *w, uint64_t epoch)
{
	uint64_t ns = 0, t0;
	struct err e = {0};
	void *room;

	for (unsigned i = 0; i < PAGES / BATCH; i++) {
		room = w->part.ops->room(w->part.self, MEM_PAGES, epoch, w->batch[i].len);
		if (!room)
			kit_die("no room to stage", NULL);
		memcpy(room, w->batch[i].data, w->batch[i].len);
		t0 = clock_mono_ns();
		if (w->part.ops->record(w->part.self, MEM_PAGES, epoch, room,
					w->batch[i].len, &e))
			kit_die("staging", &e);
		ns += clock_mono_ns() - t0;
	}
	t0 = clock_mono_ns();
	if (w->part.ops->check(w->part.self, epoch, &e) ||
	    w->part.ops->apply(w->part.self, epoch, &e))
		kit_die("applying", &e);
	return ns + clock_mono_ns() - t0;
}

static int hello(struct rec_sink *s, uint16_t type, uint64_t epoch,
		 const struct iovec *iov, int n)
{
	return 0;
}

static void work_begin(struct work *w, const struct kind *k)
{
	struct mem_hello_wire h = {.pages = le64_of(RAM / GM_PAGE)};
	struct rec_sink sink = {.put = hello};
	struct err e = {0};

	*w = (struct work){0};
	for (int i = 0; i < 2; i++) {
		w->page[i] = aligned_alloc(64, PAGES * (size_t)GM_PAGE);
		if (!w->page[i])
			kit_die("memory", NULL);
	}
	fill(w->page[0], k);
	memcpy(w->page[1], w->page[0], PAGES * (size_t)GM_PAGE);
	if (gm_create(RAM, &w->gm, &e) || mem_standby_create(w->gm, 4 * RAM, &w->mem, &e))
		kit_die("the standby", &e);
	w->part = mem_standby(w->mem);
	if (w->part.ops->hello(w->part.self, &sink, &e) ||
	    w->part.ops->record(w->part.self, MEM_HELLO, REC_EPOCH_SYNC, &h, sizeof(h),
				&e))
		kit_die("hello", &e);
	memcpy(gm_base(w->gm), w->page[0], PAGES * (size_t)GM_PAGE);
}

static void work_end(struct work *w)
{
	for (unsigned i = 0; i < PAGES / BATCH; i++)
		buf_fini(&w->batch[i]);
	mem_standby_destroy(w->mem);
	gm_destroy(w->gm);
	free(w->page[0]);
	free(w->page[1]);
}

struct rates {
	double encode[KIT_TURNS_MAX], apply[KIT_TURNS_MAX], copy[KIT_TURNS_MAX];
};

static void turn(const struct kit *k, const struct kind *kind, struct rates *r,
		 unsigned t)
{
	uint64_t encode = 0, apply = 0, copy = 0, t0, t1, t2, t3, end, n = 0;
	uint8_t *to = malloc(PAGES * (size_t)GM_PAGE);
	struct work w;

	if (!to)
		kit_die("memory", NULL);
	work_begin(&w, kind);
	end = clock_mono_ns() + k->seconds * 1000000000ull / 3;
	for (uint64_t epoch = 0; clock_mono_ns() < end; epoch++) {
		int now = !(epoch & 1);

		memcpy(w.page[now], w.page[!now], PAGES * (size_t)GM_PAGE);
		change(w.page[now], kind);
		t0 = clock_mono_ns();
		encode_all(&w, kind, now);
		t1 = clock_mono_ns();
		/* Several, because one is staged while the one before is applied. What these kinds
		 * of pages become can be applied again. */
		for (unsigned i = 0; i < APPLIED; i++)
			apply += apply_all(&w, epoch * APPLIED + i);
		t2 = clock_mono_ns();
		if (w.part.ops->activate(w.part.self, NULL))
			kit_die("applying", NULL);
		apply += clock_mono_ns() - t2;
		t2 = clock_mono_ns();
		memcpy(to, w.page[now], PAGES * (size_t)GM_PAGE);
		t3 = clock_mono_ns();
		if (memcmp(gm_base(w.gm), w.page[now], PAGES * (size_t)GM_PAGE) != 0)
			kit_die("the standby's memory differs", NULL);
		if (epoch < 2) { /* the first touch of everything */
			apply = 0;
			continue;
		}
		encode += t1 - t0;
		copy += t3 - t2;
		n += PAGES * (uint64_t)GM_PAGE;
	}
	work_end(&w);
	free(to);
	r->encode[t] = (double)n / (double)encode;
	r->apply[t] = (double)n * APPLIED / (double)apply;
	r->copy[t] = (double)n / (double)copy;
}

int main(int argc, char **argv)
{
	static const struct kind kinds[] = {
		{"one word a page", 1, 1, 4},	  {"8 words a page", 1, 8, 4},
		{"64 words a page", 1, 64, 0},	  {"new pages, compressible", 0, 512, 0},
		{"new pages, random", 1, 512, 0},
	};
	const char *only = getenv("RHEA_BENCH_ONLY");
	char name[64];
	struct rates r;
	struct kit k;

	kit_begin(&k, argc, argv);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (only && !strstr(only, "codec"))
			break;
		for (unsigned t = 0; t < k.turns; t++)
			turn(&k, &kinds[i], &r, t);
		(void)snprintf(name, sizeof(name), "encoding, %s", kinds[i].name);
		kit_row(&k, name, "GB/s", spread_of(r.encode, k.turns),
			spread_of(r.copy, k.turns),
			kinds[i].target > 0 ? VALUE_AT_LEAST : NO_TARGET,
			kinds[i].target);
		(void)snprintf(name, sizeof(name), "applying, %s, to encoding",
			       kinds[i].name);
		kit_row(&k, name, "GB/s", spread_of(r.apply, k.turns),
			spread_of(r.encode, k.turns), RATIO_AT_LEAST, 1);
	}
	return kit_end(&k, argv[2]);
}
