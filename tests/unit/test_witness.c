/* SPDX-License-Identifier: Apache-2.0
 * test_witness - an image that was put in the place of another one is not taken for it: not by the journal, which
 * looks at what is in it, and not by the activity log, which looks at what file it is.
 */
#include "diskrep/activity_file.h"
#include "diskrep/epoch.h"
#include "diskrep/journal.h"
#include "diskrep/journal_priv.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/xxh.h"
#include "tests/unit/crashrig.h"

#include <stdio.h>

enum { EPOCHS = 12, MOST = 7 /* that the ring holds */ };

static const uint64_t sizes[CR_FILES] = {16 << 10, 16 << 10, 16 << 10, CR_BYTES};
static const uint64_t capacities[DR_DISKS_MAX] = {16 << 10, 16 << 10, 16 << 10};
static const uint8_t base[DR_BASE_LEN] = {1, 2, 3};

static struct journal *open_it(struct cr_rig *r, struct journal_found *f)
{
	struct journal_disks d = {
		.vm = "web", .n = 3, .capacity = {16 << 10, 16 << 10, 16 << 10}};
	struct err err = {0};
	struct journal *j;

	CU_ASSERT_EQUAL_FATAL(journal_open(cr_io(r), &d, CR_BYTES, &j, f, &err), 0);
	return j;
}

static struct journal_found found_in(struct cr_rig *r)
{
	struct journal_found f;

	journal_close(open_it(r, &f));
	return f;
}

/* A write of a sector, journaled and in the image. */
static void epoch(struct cr_rig *r, struct journal *j, uint64_t number, uint32_t disk,
		  unsigned sector, uint8_t fill, struct journal_spot *spot)
{
	uint8_t bytes[CR_SECTOR];
	struct drs_entry n = {.disk = disk,
			      .offset = (uint64_t)sector * CR_SECTOR,
			      .len = CR_SECTOR,
			      .bytes = memset(bytes, fill, sizeof(bytes))};
	struct drs_epoch e = {.epoch = number, .first = &n};

	CU_ASSERT_EQUAL(journal_epoch(j, &e, 1), 0);
	CU_ASSERT_EQUAL(journal_commit(j, spot), 0);
	CU_ASSERT_EQUAL(cr_write(r, disk, bytes, sizeof(bytes), n.offset), 0);
}

/* Epochs 0 to EPOCHS in the images and retired; then @more that are not retired, over the last sectors. */
static struct cr_rig *lived(unsigned more)
{
	struct cr_rig *r = cr_new(sizes);
	struct journal_spot spot;
	struct journal_found f;
	struct journal *j;

	r->recording = 0;
	for (unsigned d = 0; d < 3; d++)
		memset(r->now.bytes[d], 0x40 + (int)d, 16 << 10);
	j = open_it(r, &f);
	CU_ASSERT_EQUAL(journal_mark(j, JOURNAL_SYNCING, base), 0);
	epoch(r, j, 0, 0, 0, 1, &spot);
	journal_look(j, &spot);
	CU_ASSERT_EQUAL(journal_retire(j, &spot), 0);
	for (unsigned i = 1; i <= EPOCHS; i++) {
		epoch(r, j, i, i % 3, i, (uint8_t)i, &spot);
		CU_ASSERT_EQUAL(journal_retire(j, &spot), 0);
	}
	for (unsigned i = 0; i < more; i++)
		epoch(r, j, EPOCHS + 1 + i, (EPOCHS - i) % 3, EPOCHS - i, 0x80, &spot);
	journal_close(j);
	return r;
}

/* A link begins: its epoch 0 is in the images, and retired. */
static struct journal *begun(struct cr_rig *r, struct journal_spot *spot)
{
	struct journal_found f;
	struct journal *j = open_it(r, &f);

	CU_ASSERT_EQUAL(journal_mark(j, JOURNAL_SYNCING, base), 0);
	epoch(r, j, 0, 0, 0, 1, spot);
	CU_ASSERT_EQUAL(journal_retire(j, spot), 0);
	return j;
}

/* It takes the images for its own, and replays that many epochs. The epoch that they are of. */
static uint64_t is_live(struct cr_rig *r, uint64_t epochs)
{
	struct journal_found f = found_in(r);

	CU_ASSERT_EQUAL(f.state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(f.epochs, epochs);
	return f.gen.epoch;
}

static void test_the_same(void)
{
	for (unsigned more = 0; more <= MOST; more++) {
		struct cr_rig *r = lived(more);

		(void)is_live(r, more); /* asserts */
		/* And once more, with what recovery left. */
		(void)is_live(r, 0);
		cr_free(r);
	}
}

/* Whatever of the unretired epochs is in the images, or not. */
static void test_half_applied(void)
{
	for (unsigned k = 0; k < 64; k++) {
		struct cr_rig *r = lived(6);

		for (unsigned i = 0; i < 6; i++)
			if (k >> i & 1) /* it has not got there */
				memset(r->now.bytes[(EPOCHS - i) % 3] +
					       (EPOCHS - i) * CR_SECTOR,
				       (int)(EPOCHS - i), CR_SECTOR);
		(void)is_live(r, 6); /* asserts */
		cr_free(r);
	}
}

/* A copy of some epochs ago; another image; one that is empty: nothing is replayed onto it. */
static void test_another(void)
{
	for (unsigned kind = 0; kind < 3; kind++)
		for (unsigned more = 0; more < 5; more++) {
			struct cr_rig *r = lived(more);
			struct cr_disk was;
			struct journal_found f;

			if (kind == 0) /* before the last retired epoch */
				memset(r->now.bytes[(EPOCHS - 5) % 3] +
					       (EPOCHS - 5) * CR_SECTOR,
				       0x40 + (EPOCHS - 5) % 3, CR_SECTOR);
			else if (kind == 1)
				for (unsigned i = 0; i < sizes[1]; i++)
					r->now.bytes[1][i] = (uint8_t)(i * 7);
			else
				memset(r->now.bytes[2], 0, sizes[2]);
			was = r->now;
			f = found_in(r);
			CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
			CU_ASSERT_EQUAL(f.whole, 0);
			CU_ASSERT(strstr(f.why, "another image") != NULL);
			for (unsigned d = 0; d < 3; d++)
				CU_ASSERT_EQUAL(
					memcmp(was.bytes[d], r->now.bytes[d], sizes[d]),
					0);
			f = found_in(r);
			CU_ASSERT_EQUAL(f.state, JOURNAL_UNSAFE);
			cr_free(r);
		}
}

/* After a journal that failed has begun anew, it looks at the images as they are then. */
static void test_after_a_resume(void)
{
	for (unsigned other = 0; other < 2; other++) {
		struct cr_rig *r = lived(0);
		struct journal_found f;
		struct journal_spot spot;
		struct journal *j = begun(r, &spot);

		CU_ASSERT_EQUAL(journal_mark(j, JOURNAL_UNSAFE, NULL), 0);
		memset(r->now.bytes[0], 0x99, sizes[0]); /* without it */
		CU_ASSERT_EQUAL(journal_resume(j, 7, capacities), 0);
		epoch(r, j, 8, 1, 5, 8, &spot);
		journal_close(j);
		if (other)
			memset(r->now.bytes[0], 0x98, sizes[0]);
		f = found_in(r);
		CU_ASSERT_EQUAL(f.state, other ? JOURNAL_UNSAFE : JOURNAL_LIVE);
		CU_ASSERT(other || f.gen.epoch == 8);
		cr_free(r);
	}
}

/* A guest goes on here and writes past the journal, which still counts: also after one more retirement. */
static void test_dismissed(void)
{
	for (unsigned retired = 0; retired < 2; retired++) {
		struct cr_rig *r = lived(0);
		struct journal_spot spot;
		struct journal *j = begun(r, &spot);

		epoch(r, j, 1, 1, 3, 1, &spot);
		CU_ASSERT_EQUAL(journal_dismiss(j), 0);
		if (retired)
			CU_ASSERT_EQUAL(journal_retire(j, &spot), 0);
		for (unsigned d = 0; d < 3; d++)
			memset(r->now.bytes[d], 0x77, sizes[d]);
		journal_close(j);
		CU_ASSERT_EQUAL(is_live(r, !retired), 1);
		cr_free(r);
	}
}

/* Version 1 has none, and is believed. */
static void test_version_1(void)
{
	struct cr_rig *r = lived(2);

	for (unsigned i = 0; i < JW_SUPERS; i++) {
		struct jw_super w;

		memcpy(&w, r->now.bytes[CR_JOURNAL] + (size_t)i * JW_BLOCK, sizeof(w));
		w.version = le32_of(1);
		memset(w.witness, 0, sizeof(w.witness));
		w.sum = le64_of(XXH3_64bits(&w, offsetof(struct jw_super, sum)));
		memcpy(r->now.bytes[CR_JOURNAL] + (size_t)i * JW_BLOCK, &w, sizeof(w));
	}
	(void)is_live(r, 2); /* asserts */
	cr_free(r);
}

/* What a head says, read by who knows @known of the images. 1: nothing. */
static int load_as(FILE *file, const uint64_t known[2])
{
	const uint64_t capacity[2] = {8 * DR_CHUNK, 8 * DR_CHUNK};
	int fd = fileno(file), rc;
	struct dr_bits bits[2] = {{0}};
	struct act_head h;
	struct err err = {0};
	const char *why = NULL;
	struct act_file f;

	CU_ASSERT_EQUAL(act_file_init(&f, act_io_of(&fd), capacity, 2, &err), 0);
	memcpy(f.identity, known, 2 * sizeof(known[0]));
	for (unsigned i = 0; i < 2; i++)
		CU_ASSERT_EQUAL(dr_bits_init(&bits[i], 8), 0);
	rc = act_file_load(&f, &h, bits, &why);
	CU_ASSERT(rc != 1 || strstr(why, "not the file") != NULL);
	for (unsigned i = 0; i < 2; i++)
		dr_bits_fini(&bits[i]);
	return rc;
}

static void test_activity(void)
{
	static const struct {
		uint64_t was[2], is[2];
		int want;
	} t[] = {
		{{3, 5}, {3, 5}, 0}, {{3, 5}, {3, 7}, 1}, {{3, 5}, {9, 5}, 1},
		{{0, 5}, {3, 5}, 0}, {{3, 5}, {0, 0}, 0}, {{3, 5}, {5, 3}, 1},
	};
	const uint64_t capacity[2] = {8 * DR_CHUNK, 8 * DR_CHUNK};

	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct act_head h = {.open = 1};
		FILE *file = tmpfile();
		struct err err = {0};
		struct act_file f;
		int fd;

		CU_ASSERT_PTR_NOT_NULL_FATAL(file);
		fd = fileno(file);
		CU_ASSERT_EQUAL(act_file_init(&f, act_io_of(&fd), capacity, 2, &err), 0);
		memcpy(f.identity, t[i].was, sizeof(t[i].was));
		CU_ASSERT_EQUAL(act_file_format(&f), 0);
		CU_ASSERT_EQUAL(act_file_head(&f, &h), 0);
		CU_ASSERT_EQUAL(load_as(file, t[i].is), t[i].want);
		(void)fclose(file); /* it is gone with that */
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the same image", test_the_same},
		{"half applied", test_half_applied},
		{"another image", test_another},
		{"after a resume", test_after_a_resume},
		{"dismissed", test_dismissed},
		{"version 1", test_version_1},
		{"the activity log", test_activity},
	};

	log_init("test", NULL, LOG_LVL_ERR);
	return UNIT_MAIN("witness", tests);
}
