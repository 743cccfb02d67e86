/* SPDX-License-Identifier: Apache-2.0
 * test_activity_crash - the power goes at every single moment of a primary's life, with each choice of what
 * reached the disk: what the activity log's file then says covers all that may differ, and not everything.
 *
 * The file is a model: what was synced is there; of what was written since, any sectors may be. The
 * images are a model, too: a write given to the image may be there or not until a flush that
 * began after it has ended.
 */
#include "diskrep/activity.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	EXTENTS = 300,
	SLOTS = 24,
	CHUNKS = EXTENTS * 64 - 7,
	FIRST_CHUNKS = 50 * 64 - 3, /* at first; then the disk grows */
	FILE_MAX = 2 * ACT_HEAD + (EXTENTS / ACT_WORDS + 1) * ACT_SECTOR,
	PENDING_MAX = 4096,
	ALL_UP_TO = 7, /* sectors: each choice is tried; of more a few */
	SAMPLES = 6,
};

/* A sector on its way. */
struct pending {
	uint64_t at;
	uint8_t bytes[ACT_SECTOR];
};

/* A chunk that the guest wrote. */
struct written {
	uint64_t chunk;
	uint64_t epoch; /* counts on over links */
	int loose;	/* not flushed since: 1, or 2 while in flight */
};

struct world {
	uint8_t stable[FILE_MAX], now[FILE_MAX];
	struct pending pending[PENDING_MAX];
	unsigned n;
	struct act act;
	struct dr_bits lent; /* extents, at any time */
	unsigned syncs;
	struct act_file file;
	struct written *w;
	unsigned written;
	uint64_t chunks;    /* of the disk */
	int32_t *index;	    /* of a chunk in @w, or -1 */
	uint64_t link[256]; /* epoch 0 of each link, in counting-on numbers */
	uint8_t links;	    /* so far; also the first byte of the base of the last */
	uint64_t running;
	int claimed, alone; /* no standby: nothing becomes durable there */
	unsigned seed, cuts, most;
};

static int io_read(void *self, void *p, size_t len, uint64_t at)
{
	struct world *m = self;

	memcpy(p, m->now + at, len);
	return 0;
}

static void cut(struct world *m);
static void write_meanwhile(struct world *m);

static int io_write(void *self, const void *p, size_t len, uint64_t at)
{
	struct world *m = self;

	CU_ASSERT_TRUE_FATAL(at + len <= FILE_MAX && len % ACT_SECTOR == 0);
	memcpy(m->now + at, p, len);
	for (size_t i = 0; i < len; i += ACT_SECTOR) {
		CU_ASSERT_TRUE_FATAL(m->n < PENDING_MAX);
		m->pending[m->n].at = at + i;
		memcpy(m->pending[m->n++].bytes, (const uint8_t *)p + i, ACT_SECTOR);
	}
	cut(m);
	write_meanwhile(m);
	return 0;
}

static int io_sync(void *self)
{
	struct world *m = self;

	memcpy(m->stable, m->now, FILE_MAX);
	m->n = 0;
	m->syncs++;
	cut(m);
	write_meanwhile(m);
	return 0;
}

static const struct act_io_ops model_ops = {
	.read = io_read, .write = io_write, .sync = io_sync};

static int image_read(void *self, void *p, size_t len, uint64_t at)
{
	memcpy(p, (const uint8_t *)self + at, len);
	return 0;
}

static const struct act_io_ops image_ops = {.read = image_read};

static const uint64_t capacity = (uint64_t)CHUNKS * DR_CHUNK;

/* Does it cover @w, being at @claim? */
static void covers(struct world *m, const struct act_head *h, const struct act *found)
{
	struct dr_bits all = {0};
	uint64_t from;

	from = m->link[h->claim.at.base[0]] + h->claim.at.epoch;
	CU_ASSERT_EQUAL_FATAL(dr_bits_init(&all, CHUNKS), 0);
	act_marks(found, 0, &all);
	for (unsigned i = 0; i < m->written; i++) {
		const struct written *w = &m->w[i];

		if (w->epoch > from || w->loose)
			CU_ASSERT_TRUE_FATAL(dr_bits_has(&all, w->chunk));
		CU_ASSERT_TRUE_FATAL(w->chunk * DR_CHUNK < h->capacity[0]);
	}
	for (uint64_t c = 0; (c = dr_bits_next(&all, c)) < CHUNKS; c++)
		if (m->index[c] < 0 && !dr_bits_has(&found->disk[0].there, c)) {
			/* An active extent; skip to its end. */
			c |= 63;
		} else {
			CU_ASSERT_TRUE_FATAL(m->index[c] >= 0 ||
					     m->act.disk[0].slot[c / 64] ||
					     dr_bits_has(&m->lent, c / 64) ||
					     dr_bits_has(&m->act.disk[0].wide, c));
		}
	m->most = all.count > m->most ? (unsigned)all.count : m->most;
	dr_bits_fini(&all);
}

/* The power has gone with @disk on the disk. */
static void recover(struct world *m, uint8_t *disk)
{
	static struct act_head h;
	struct dr_bits bitmap;
	struct act_file f;
	struct act found;
	struct err err = {0};
	const char *why;
	int rc;

	m->cuts++;
	CU_ASSERT_EQUAL_FATAL(
		act_file_init(&f, (struct act_io){&image_ops, disk}, &capacity, 1, &err),
		0);
	CU_ASSERT_EQUAL_FATAL(dr_bits_init(&bitmap, CHUNKS), 0);
	rc = act_file_load(&f, &h, &bitmap, &why);
	/* A cut is no reason to doubt. */
	CU_ASSERT_EQUAL_FATAL(rc, 0);
	CU_ASSERT_TRUE_FATAL(h.open || !m->written);
	CU_ASSERT_TRUE_FATAL(h.claim.role == ACT_WRITER || !m->claimed);
	if (h.claim.role == ACT_WRITER) {
		CU_ASSERT_EQUAL_FATAL(act_init(&found, &capacity, 1, SLOTS), 0);
		act_load(&found, &h, &bitmap);
		covers(m, &h, &found);
		act_fini(&found);
	}
	dr_bits_fini(&bitmap);
}

static void cut_with(struct world *m, uint64_t choice)
{
	static uint8_t disk[FILE_MAX];
	unsigned r = (unsigned)choice;

	memcpy(disk, m->stable, FILE_MAX);
	for (unsigned i = 0; i < m->n; i++) {
		int there = m->n <= ALL_UP_TO ? (int)(choice >> i & 1)
			    : choice == 0     ? 0
			    : choice == 1     ? 1
					      : rand_r(&r) & 1;

		if (there)
			memcpy(disk + m->pending[i].at, m->pending[i].bytes, ACT_SECTOR);
	}
	recover(m, disk);
}

static void cut(struct world *m)
{
	uint64_t choices = m->n <= ALL_UP_TO ? UINT64_C(1) << m->n : SAMPLES;

	for (uint64_t i = 0; m->act.told_open && i < choices; i++)
		cut_with(m,
			 m->n <= ALL_UP_TO || i < 2 ? i : (uint64_t)rand_r(&m->seed) + 2);
}

/* What is due is written, once. 0: nothing is. */
static int step(struct world *m)
{
	static struct act_batch b;

	if (!act_collect(&m->act, &b))
		return 0;
	dr_bits_join(&m->lent, &m->act.disk[0].lent);
	CU_ASSERT_EQUAL_FATAL(act_batch_write(&m->file, &b), 0);
	act_written(&m->act, &b);
	if (b.head.claim.role == ACT_WRITER && b.write_head)
		m->claimed = 1;
	return 1;
}

static void settle(struct world *m)
{
	for (unsigned n = 0; step(m); n++)
		CU_ASSERT_TRUE_FATAL(n < 1000);
}

static void give(struct world *m, uint64_t first, uint64_t count)
{
	for (uint64_t c = first; c < first + count; c++) {
		if (m->index[c] < 0) {
			m->index[c] = (int32_t)m->written++;
			m->w[m->index[c]].chunk = c;
		}
		m->w[m->index[c]].epoch = m->link[m->links] + m->running;
		m->w[m->index[c]].loose = 1;
	}
}

/* While the file is written the guest goes on with what it may write. */
static void write_meanwhile(struct world *m)
{
	uint64_t c = (uint64_t)rand_r(&m->seed) % (20 * 64);

	if (rand_r(&m->seed) % 4 == 0 && m->act.told_open &&
	    act_admit(&m->act, 0, c, 1)) {
		give(m, c, 1);
		cut(m);
	}
}

static void guest_writes(struct world *m, uint64_t first, uint64_t count)
{
	/* Others may have taken the place that was made; not for ever. */
	for (unsigned tries = 0; !act_admit(&m->act, 0, first, count); tries++) {
		CU_ASSERT_TRUE_FATAL(tries < 20);
		(void)step(m); /* it may be asked for now only */
	}
	give(m, first, count);
}

/* A flush, with one write in flight over its beginning and another that begins within it. */
static void guest_flushes(struct world *m, uint64_t inflight, int ok)
{
	guest_writes(m, inflight, 1);
	CU_ASSERT_EQUAL_FATAL(act_flush_begins(&m->act, 0), 1);
	for (unsigned i = 0; i < m->written; i++)
		m->w[i].loose *= 2;
	m->w[m->index[inflight]].loose = 1;
	act_loose(&m->act, 0, inflight, 1);
	guest_writes(m, (inflight + 640) % m->chunks, 1);
	CU_ASSERT_EQUAL(act_flush_begins(&m->act, 0), 0);
	act_flushed(&m->act, 0, ok);
	for (unsigned i = 0; i < m->written; i++)
		m->w[i].loose = m->w[i].loose == 2 && ok ? 0 : !!m->w[i].loose;
}

static void new_link(struct world *m)
{
	uint8_t base[DR_BASE_LEN] = {(uint8_t)(m->links + 1), 7};

	CU_ASSERT_TRUE_FATAL(m->links < UINT8_MAX);
	act_unlinked(&m->act);
	act_base(&m->act, base);
	guest_writes(m, (uint64_t)rand_r(&m->seed) % m->chunks, 1);
	act_first_epoch(&m->act);
	/* Before this moment all was epoch 0 of the new link, or older. */
	m->link[m->links + 1] = m->link[m->links] + m->running;
	m->links++;
	m->running = 1;
}

/* The image has grown; and so has the disk, whether the file says so yet or not. */
static void grow_by(struct world *m, uint64_t more)
{
	/* Its last extent is active, and may have more now. */
	guest_writes(m, m->chunks - 1, 1);
	m->chunks = m->chunks + more < CHUNKS ? m->chunks + more : CHUNKS;
	CU_ASSERT_EQUAL_FATAL(act_resize(&m->act, 0, m->chunks * DR_CHUNK), 0);
	/* What it got is written first. */
	guest_writes(m, m->chunks - 1, 1);
}

static void one_move(struct world *m)
{
	uint64_t near = (uint64_t)rand_r(&m->seed) % (20 * 64);
	uint64_t far = (uint64_t)rand_r(&m->seed) % m->chunks;
	unsigned what = (unsigned)rand_r(&m->seed) % 100;

	if (what < 40)
		guest_writes(m, near, 1 + near % 3);
	else if (what < 60)
		guest_writes(m, far, 1);
	else if (what < 75)
		m->running++;
	else if (what < 88 && m->running > 2 && !m->alone)
		act_durable(&m->act, m->running - 1 - near % 2, m->running);
	else if (what < 93)
		guest_flushes(m, far, near % 4 != 0);
	else if (what < 97)
		/* Time goes by: what is lent comes back. */
		for (unsigned i = 0; i < ACT_IDLE_TURNS / 2; i++)
			act_tidy(&m->act);
	else if (what < 98) {
		if (m->alone)
			new_link(m);
		m->alone = !m->alone;
	} else if (m->chunks < CHUNKS && near % 4)
		grow_by(m, what % 2 ? far : far % 50);
	else
		settle(m);
}

static struct world *world_new(unsigned seed)
{
	struct world *m = calloc(1, sizeof(*m));
	const uint64_t first = (uint64_t)FIRST_CHUNKS * DR_CHUNK;
	struct act_head h = {.open = 0, .capacity = {first}};
	struct dr_bits bitmap;
	struct err err = {0};

	m->seed = seed;
	m->w = calloc(CHUNKS, sizeof(*m->w));
	m->index = malloc(CHUNKS * sizeof(*m->index));
	memset(m->index, 0xff, CHUNKS * sizeof(*m->index));
	m->chunks = FIRST_CHUNKS;
	CU_ASSERT_EQUAL_FATAL(act_init(&m->act, &first, 1, SLOTS), 0);
	CU_ASSERT_EQUAL_FATAL(dr_bits_init(&m->lent, (CHUNKS + 63) / 64), 0);
	CU_ASSERT_EQUAL_FATAL(
		act_file_init(&m->file, (struct act_io){&model_ops, m}, &first, 1, &err),
		0);
	CU_ASSERT_EQUAL_FATAL(act_file_format(&m->file), 0);
	CU_ASSERT_EQUAL_FATAL(dr_bits_init(&bitmap, FIRST_CHUNKS), 0);
	act_load(&m->act, &h, &bitmap);
	dr_bits_fini(&bitmap);
	act_open(&m->act);
	settle(m);
	new_link(m);
	act_durable(&m->act, 0, 1);
	settle(m);
	CU_ASSERT_TRUE(m->claimed);
	return m;
}

static void world_free(struct world *m)
{
	act_fini(&m->act);
	dr_bits_fini(&m->lent);
	free(m->w);
	free(m->index);
	free(m);
}

static void test_every_moment(void)
{
	unsigned cuts = 0, most = 0;

	for (unsigned seed = 1; seed <= 8; seed++) {
		struct world *m = world_new(seed);

		for (unsigned i = 0; i < 1200; i++) {
			one_move(m);
			cut(m);
		}
		cuts += m->cuts;
		most = m->most > most ? m->most : most;
		world_free(m);
	}
	printf("    %u power cuts, at most %u of %u chunks to be looked at\n", cuts, most,
	       (unsigned)CHUNKS);
	CU_ASSERT_TRUE(cuts > 20000);
	CU_ASSERT_TRUE(most < CHUNKS / 2);
}

/* So many extents that they have to be retired, in a batch with what is due otherwise. */
static void test_full_table(void)
{
	struct world *m = world_new(77);
	unsigned before;

	grow_by(m, CHUNKS);
	for (uint64_t w = 0; w < EXTENTS - 1; w++) {
		guest_writes(m, w * 64 + w % 64, 1);
		if (w % 97 == 0) {
			m->running++;
			act_durable(&m->act, m->running - 1, m->running);
		}
		if (w % 301 == 0)
			guest_flushes(m, w * 64, 1);
	}
	before = m->cuts;
	CU_ASSERT_TRUE(act_active(&m->act) <= SLOTS);
	for (unsigned i = 0; i < 200; i++) {
		one_move(m);
		cut(m);
	}
	printf("    %u power cuts, %u of them beside retired extents\n", m->cuts, before);
	CU_ASSERT_TRUE(before > 400);
	world_free(m);
}

/* A guest that writes in a row waits once for several extents, as long as half of the slots are free. */
static void test_ahead(void)
{
	static struct act_batch b;
	struct act_head h = {.open = 1, .capacity = {capacity}};
	struct dr_bits none;
	struct act a;
	unsigned waits = 0;

	CU_ASSERT_EQUAL_FATAL(act_init(&a, &capacity, 1, 4 * ACT_AHEAD), 0);
	CU_ASSERT_EQUAL_FATAL(dr_bits_init(&none, CHUNKS), 0);
	act_load(&a, &h, &none);
	/* One that stands alone brings nothing along. */
	CU_ASSERT_EQUAL(act_admit(&a, 0, 200 * 64, 1), 0);
	CU_ASSERT_TRUE(act_collect(&a, &b));
	act_written(&a, &b);
	CU_ASSERT_EQUAL(act_active(&a), 1);
	for (uint64_t w = 0; w < 3 * ACT_AHEAD; w++)
		while (!act_admit(&a, 0, w * 64, 64)) {
			waits++;
			CU_ASSERT_TRUE_FATAL(act_collect(&a, &b));
			act_written(&a, &b);
		}
	/* One for the first extent, two for the rest of half of the slots, one for each further one. */
	CU_ASSERT_EQUAL(waits, 4 + ACT_AHEAD);
	CU_ASSERT_EQUAL(act_active(&a), 3 * ACT_AHEAD + 1);
	dr_bits_fini(&none);
	act_fini(&a);
}

/* A guest that writes all over a disk that the slots are too few for: each extent is waited for once, in a
 * sector with many of them not even that; and when it has stopped, and all is at the other host, nothing
 * stays marked. */
static void test_lent(void)
{
	struct world *m = world_new(9);
	struct dr_bits *there = &m->act.disk[0].there;
	unsigned once;

	grow_by(m, CHUNKS);
	m->syncs = 0;
	for (uint64_t w = 0; w < EXTENTS - 1; w++)
		guest_writes(m, w * 64 + w % 61, 1);
	CU_ASSERT_TRUE(m->syncs < EXTENTS);
	CU_ASSERT_TRUE(act_active(&m->act) <= SLOTS);
	CU_ASSERT_TRUE(m->act.disk[0].lent.count > EXTENTS - 1 - SLOTS);
	settle(m);
	once = m->syncs;
	for (uint64_t w = 0; w < EXTENTS - 1; w++) {
		guest_writes(m, w * 64 + w % 59, 1);
		guest_writes(m, w * 64 + 63 - w % 60, 1);
	}
	CU_ASSERT_EQUAL(m->syncs, once);
	cut(m);
	for (unsigned i = 0; i < 3 * ACT_IDLE_TURNS; i++) {
		act_durable(&m->act, m->running, m->running + 1);
		m->running++;
		if (act_flush_begins(&m->act, 0))
			act_flushed(&m->act, 0, 1);
		for (unsigned k = 0; k < m->written; k++)
			m->w[k].loose = 0;
		act_tidy(&m->act);
		settle(m);
		cut(m);
	}
	CU_ASSERT_EQUAL(m->act.disk[0].lent.count, 0);
	/* But for what the guest wrote while the file was written. */
	CU_ASSERT_TRUE(there->count < 64);
	world_free(m);
}

/* The last extent was lent when it had fewer chunks: the new ones can be written, too. */
static void test_lent_grows(void)
{
	struct world *m = world_new(10);
	uint64_t last = (FIRST_CHUNKS - 1) / 64;

	for (uint64_t w = 0; w <= last; w++)
		guest_writes(m, w * 64, 1);
	settle(m);
	CU_ASSERT_TRUE(dr_bits_has(&m->act.disk[0].lent, last));
	for (unsigned i = 0; i < 2; i++) {
		grow_by(m, 1);
		cut(m);
	}
	grow_by(m, CHUNKS);
	cut(m);
	world_free(m);
}

/* A discard of all of the disk takes no slots. */
static void test_wide(void)
{
	struct world *m = world_new(5);

	grow_by(m, CHUNKS);
	guest_writes(m, 3, 200 * 64);
	/* And two for the disk's growth. */
	CU_ASSERT_TRUE(act_active(&m->act) <= SLOTS / 2 + 3);
	cut(m);
	for (unsigned i = 0; i < 100; i++) {
		one_move(m);
		cut(m);
	}
	world_free(m);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the power goes at every moment", test_every_moment},
		{"more extents than slots", test_full_table},
		{"extents that are lent", test_lent},
		{"a lent extent grows", test_lent_grows},
		{"extents that follow", test_ahead},
		{"a write over many extents", test_wide},
	};

	return UNIT_MAIN("activity log, crash points", tests);
}
