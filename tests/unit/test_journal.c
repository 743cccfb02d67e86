/* SPDX-License-Identifier: Apache-2.0
 * test_journal - what the journal holds, recovers, refuses and tells.
 */
#include "diskrep/epoch.h"
#include "diskrep/journal.h"
#include "diskrep/journal_priv.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "tests/unit/crashrig.h"

static const uint64_t sizes[CR_FILES] = {16 << 10, 16 << 10, 16 << 10, CR_BYTES};
static const uint8_t base[DR_BASE_LEN] = {1, 2, 3};

static struct journal_disks disks(void)
{
	return (struct journal_disks){
		.vm = "web", .n = 3, .capacity = {16 << 10, 16 << 10, 16 << 10}};
}

static struct journal *open_as(struct cr_rig *r, const struct journal_disks *d,
			       struct journal_found *f, int want)
{
	struct err err = {0};
	struct journal *j;

	CU_ASSERT_EQUAL(journal_open(cr_io(r), d, CR_BYTES, &j, f, &err), want);
	CU_ASSERT_EQUAL(err.code, want);
	return j;
}

static struct journal_found found_in(struct cr_rig *r)
{
	struct journal_disks d = disks();
	struct journal_found f;

	journal_close(open_as(r, &d, &f, 0));
	return f;
}

/* An epoch that writes one sector of @fill to sector @sector of each disk. */
static struct drs_epoch *epoch_of(uint64_t number, uint8_t fill, unsigned sector)
{
	struct drs_epoch *e = calloc(1, sizeof(*e));

	e->epoch = number;
	e->tail = &e->first;
	for (uint32_t d = 0; d < 3; d++) {
		struct drs_entry *n = malloc(sizeof(*n) + CR_SECTOR);

		*n = (struct drs_entry){.disk = d,
					.offset = sector * CR_SECTOR,
					.len = CR_SECTOR,
					.bytes = memset(n + 1, fill, CR_SECTOR)};
		*e->tail = n;
		e->tail = &n->next;
	}
	return e;
}

static void free_epoch(struct drs_epoch *e)
{
	for (struct drs_entry *n = e->first, *next; n; n = next) {
		next = n->next;
		free(n);
	}
	free(e);
}

static void append(struct journal *j, uint64_t number, uint8_t fill, int last,
		   struct journal_spot *spot)
{
	struct drs_epoch *e = epoch_of(number, fill, (unsigned)number % 32);

	CU_ASSERT_EQUAL(journal_epoch(j, e, last), 0);
	if (last)
		CU_ASSERT_EQUAL(journal_commit(j, spot), 0);
	free_epoch(e);
}

/* LIVE at epoch 0, and then epochs 1 to @n, each a batch of its own. */
static struct cr_rig *lived(unsigned n)
{
	struct cr_rig *r = cr_new(sizes);
	struct journal_disks d = disks();
	struct journal_spot spot;
	struct journal_found f;
	struct journal *j = open_as(r, &d, &f, 0);

	CU_ASSERT_EQUAL(f.state, JOURNAL_BLANK);
	CU_ASSERT_EQUAL(f.whole, -1);
	CU_ASSERT_EQUAL(journal_mark(j, JOURNAL_SYNCING, base), 0);
	append(j, 0, 0, 1, &spot);
	CU_ASSERT_EQUAL(journal_retire(j, &spot), 0);
	for (unsigned i = 1; i <= n; i++)
		append(j, i, (uint8_t)i, 1, &spot);
	journal_close(j);
	r->recording = 0;
	return r;
}

static void test_replayed(void)
{
	struct cr_rig *r = lived(5);
	struct journal_found f = found_in(r);

	CU_ASSERT_EQUAL(f.state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(f.whole, 1);
	CU_ASSERT_EQUAL(f.epochs, 5);
	CU_ASSERT_EQUAL(f.bytes, 5 * 3 * CR_SECTOR);
	CU_ASSERT_EQUAL(f.gen.epoch, 5);
	CU_ASSERT_EQUAL(memcmp(f.gen.base, base, sizeof(base)), 0);
	for (unsigned d = 0; d < 3; d++)
		for (unsigned i = 1; i <= 5; i++)
			CU_ASSERT_EQUAL(r->now.bytes[d][i * CR_SECTOR + 7], i);
	/* Once: the next one has nothing to do, and says the same. */
	f = found_in(r);
	CU_ASSERT_EQUAL(f.state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(f.epochs, 0);
	CU_ASSERT_EQUAL(f.gen.epoch, 5);
	cr_free(r);
}

static void test_states(void)
{
	static const enum journal_state marks[] = {JOURNAL_SYNCING, JOURNAL_UNSAFE,
						   JOURNAL_OWNED};
	static const int whole[] = {0, 0, 1};

	for (unsigned i = 0; i < 3; i++) {
		struct cr_rig *r = lived(3);
		struct journal_disks d = disks();
		struct journal_found f;
		struct journal *j = open_as(r, &d, &f, 0);
		struct journal_spot spot;

		append(j, 4, 9, 1, &spot);
		CU_ASSERT_EQUAL(journal_mark(j, marks[i], base), 0);
		/* What was flushed before that counts no more. */
		CU_ASSERT_EQUAL(journal_retire(j, &spot), 0);
		CU_ASSERT_EQUAL(journal_state(j), marks[i]);
		journal_close(j);
		memset(r->now.bytes[0], 0x77, sizes[0]);
		f = found_in(r);
		CU_ASSERT_EQUAL(f.state, marks[i]);
		CU_ASSERT_EQUAL(f.whole, whole[i]);
		CU_ASSERT_EQUAL(f.epochs, 0);
		CU_ASSERT_EQUAL(r->now.bytes[0][4 * CR_SECTOR], 0x77);
		cr_free(r);
	}
}

/* Any byte of a record that was flushed, with more behind it that was flushed after: told, and
 * nothing is replayed. In the last batch it looks like one that was torn. */
static void test_damage_is_told(void)
{
	unsigned told = 0, torn = 0;

	for (unsigned at = 0; at < 4 * JW_BLOCK; at += 97) {
		struct cr_rig *r = lived(3);
		struct journal_found f;
		/* Epoch 0 has the first block of the ring. */
		uint64_t where = JW_HEAD + JW_BLOCK + at % (3 * JW_BLOCK);
		unsigned in = (unsigned)(where % JW_BLOCK);

		r->now.bytes[CR_JOURNAL][where] ^= 0x10;
		f = found_in(r);
		if (in >= 3 * journal_padded(CR_SECTOR) +
				  journal_padded(sizeof(struct jw_commit)) - 24) {
			CU_ASSERT_EQUAL(f.gen.epoch, 3); /* padding */
		} else if (at % (3 * JW_BLOCK) < 2 * JW_BLOCK) {
			told++;
			CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
			CU_ASSERT_EQUAL(f.whole, 0);
			CU_ASSERT_EQUAL(f.epochs, 0);
			CU_ASSERT(strstr(f.why, "lost a write") != NULL);
		} else {
			torn++;
			CU_ASSERT_EQUAL(f.state, JOURNAL_LIVE);
			CU_ASSERT_EQUAL(f.gen.epoch, 2);
		}
		cr_free(r);
	}
	CU_ASSERT(told > 20 && torn > 10);
}

/* A flush that did nothing, found out by what was flushed after it. */
static void test_lost_write(void)
{
	struct cr_rig *r = lived(3);
	struct journal_found f;

	memset(r->now.bytes[CR_JOURNAL] + JW_HEAD + 2 * JW_BLOCK, 0, JW_BLOCK);
	f = found_in(r);
	CU_ASSERT_EQUAL(f.whole, 0);
	CU_ASSERT(strstr(f.why, "lost a write") != NULL);
	/* And it stays so until a sync. */
	f = found_in(r);
	CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
	cr_free(r);
}

static void test_superblock_damage(void)
{
	for (unsigned i = 0; i < 2 * JW_SUPER_LEN; i += 13) {
		struct cr_rig *r = lived(2);
		struct journal_found f;

		r->now.bytes[CR_JOURNAL]
			    [i / JW_SUPER_LEN * JW_BLOCK + i % JW_SUPER_LEN] ^= 0x40;
		f = found_in(r);
		/* The older one must not be taken instead. */
		CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
		CU_ASSERT_EQUAL(f.whole, 0);
		CU_ASSERT_EQUAL(r->now.bytes[0][CR_SECTOR], 0);
		/* Also not the next time. */
		f = found_in(r);
		CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
		CU_ASSERT_EQUAL(r->now.bytes[0][CR_SECTOR], 0);
		cr_free(r);
	}
}

static void test_another_vm(void)
{
	struct cr_rig *r = lived(2);
	struct journal_disks d = disks();
	struct journal_found f;

	d.vm = "mail";
	CU_ASSERT_PTR_NULL(open_as(r, &d, &f, -EINVAL));
	d.vm = "web";
	journal_close(open_as(r, &d, &f, 0));
	CU_ASSERT_EQUAL(f.gen.epoch, 2); /* nothing was touched */
	cr_free(r);
}

/* An image that has grown since: the disk is its first part. */
static void test_grown_image(void)
{
	struct cr_rig *r = lived(2);
	struct journal_disks d = disks();
	struct journal_found f;

	d.capacity[1] += CR_SECTOR;
	journal_close(open_as(r, &d, &f, 0));
	CU_ASSERT_EQUAL(f.state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(f.gen.epoch, 2);
	CU_ASSERT_EQUAL(f.capacity[1], d.capacity[1] - CR_SECTOR);
	cr_free(r);
}

static void test_other_disks(void)
{
	for (int more = 0; more < 2; more++) {
		struct cr_rig *r = lived(2);
		struct journal_disks d = disks();
		struct journal_found f;

		if (more)
			d.n = 2;
		else
			d.capacity[1] -= CR_SECTOR;
		journal_close(open_as(r, &d, &f, 0));
		CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
		CU_ASSERT_EQUAL(f.whole, 0);
		CU_ASSERT(strstr(f.why, "other disks") != NULL);
		CU_ASSERT_EQUAL(r->now.bytes[0][CR_SECTOR], 0);
		cr_free(r);
	}
}

/* Round and round: with a tail that follows, room is never short, and nothing old is replayed. */
static void test_wraps(void)
{
	struct cr_rig *r = cr_new(sizes);
	struct journal_disks d = disks();
	struct journal_found f;
	struct journal *j = open_as(r, &d, &f, 0);
	struct journal_spot spot = {.link = 0}, before;

	r->recording = 0;
	CU_ASSERT_EQUAL(journal_mark(j, JOURNAL_SYNCING, base), 0);
	for (unsigned i = 0; i < 100; i++) {
		before = spot;
		CU_ASSERT(journal_room(j) >= 2 * JW_BLOCK);
		append(j, 2 * i, (uint8_t)i, 0, &spot);
		append(j, 2 * i + 1, (uint8_t)i, 1, &spot);
		for (unsigned k = 0; k < 3; k++)
			memset(r->now.bytes[k] + 2 * i % 32 * CR_SECTOR, (int)i,
			       2 * CR_SECTOR);
		if (i)
			CU_ASSERT_EQUAL(journal_retire(j, &before), 0);
	}
	journal_close(j);
	f = found_in(r);
	CU_ASSERT_EQUAL(f.gen.epoch, 199);
	CU_ASSERT_EQUAL(f.epochs, 2);
	cr_free(r);
}

/* Bytes on the disk, field by field: what is written today is read tomorrow. */
static void test_golden(void)
{
	struct cr_rig *r = lived(1);
	const uint8_t *p = r->now.bytes[CR_JOURNAL];
	const uint8_t *s = p + (p[16] > p[JW_BLOCK + 16] ? 0 : JW_BLOCK);
	const uint8_t *e = p + JW_HEAD + JW_BLOCK;

	CU_ASSERT_EQUAL(memcmp(s, "RHEAJRNL\2\0\0\0\0\2\0\0", 16), 0);
	CU_ASSERT_EQUAL(memcmp(s + 40, "web", 4), 0);
	CU_ASSERT_EQUAL(memcmp(s + 72, "\0\x80\0\0\0\0\0\0", 8), 0); /* ring */
	CU_ASSERT_EQUAL(memcmp(s + 80, "\0\x10\0\0\0\0\0\0", 8), 0); /* tail */
	CU_ASSERT_EQUAL(memcmp(s + 88, "\4\0\0\0\0\0\0\0", 8), 0);   /* its number */
	CU_ASSERT_EQUAL(memcmp(s + 96, "\0\x10\0\0\0\0\0\0", 8), 0); /* durable */
	CU_ASSERT_EQUAL(memcmp(s + 104, base, sizeof(base)), 0);
	CU_ASSERT_EQUAL(memcmp(s + 120, "\0\0\0\0\0\0\0\0\2\0\0\0\3\0\0\0", 16), 0);
	CU_ASSERT_EQUAL(memcmp(s + 136, "\0\x40\0\0\0\0\0\0", 8), 0); /* capacity */
	/* Witnesses: the first sectors of disks 0 and 1. */
	CU_ASSERT_EQUAL(memcmp(s + 200, "\1\0\0\0\0\0\0\0", 8), 0);
	CU_ASSERT_EQUAL(memcmp(s + 216, "\1\0\0\0\0\0\1\0", 8), 0);
	CU_ASSERT_EQUAL(memcmp(s + 208, s + 224, 8), 0);
	CU_ASSERT_EQUAL(memcmp(e, "RJR1\1\0\0\0\4\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0", 24),
			0);
	CU_ASSERT_EQUAL(memcmp(e + 24, "\0\x10\0\0\0\0\0\0\0\0\0\0\0\2\0\0", 16), 0);
	CU_ASSERT_EQUAL(memcmp(e + 40, "\0\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0", 16), 0);
	CU_ASSERT_EQUAL(e[64], 1);
	e += 3 * journal_padded(CR_SECTOR);
	CU_ASSERT_EQUAL(memcmp(e, "RJR1\3\0\0\0\7\0\0\0\0\0\0\0", 16), 0);
	CU_ASSERT_EQUAL(memcmp(e + 64, base, sizeof(base)), 0);
	CU_ASSERT_EQUAL(memcmp(e + 80, "\1\0\0\0\0\0\0\0\3\0\0\0\1\0\0\0", 16), 0);
	cr_free(r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"replayed", test_replayed},
		{"states", test_states},
		{"damage is told", test_damage_is_told},
		{"a lost write", test_lost_write},
		{"a superblock's damage", test_superblock_damage},
		{"another VM's", test_another_vm},
		{"an image that has grown", test_grown_image},
		{"other disks", test_other_disks},
		{"wraps", test_wraps},
		{"the format", test_golden},
	};

	log_init("test", NULL, LOG_LVL_ERR);
	return UNIT_MAIN("journal", tests);
}
