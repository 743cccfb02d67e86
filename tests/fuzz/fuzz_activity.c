/* SPDX-License-Identifier: Apache-2.0
 * fuzz_activity - the file of an activity log, as somebody else left it.
 *
 * The first byte says how the sums are treated: with bit 0 the sectors of heads, with bit 1 those of
 * bitmaps get a right one, so that what is behind them is reached; with bit 2 place 1 holds the head
 * before that of place 0. The rest is the file.
 */
#include "diskrep/activity.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum {
	DISKS = 2,
	BITMAPS_AT = 2 * ACT_HEAD,
	OF_DISK_1 = BITMAPS_AT + 8 * ACT_SECTOR,
	FILE_LEN = OF_DISK_1 + ACT_SECTOR,
};

/* One of 70 extents, two sectors, and one of less than a word. */
static const uint64_t capacity[DISKS] = {70ull * 64 * DR_CHUNK - 512, 3 * DR_CHUNK};
static uint8_t file[FILE_LEN];

static void must(int ok)
{
	if (!ok)
		abort();
}

static int do_read(void *self, void *p, size_t len, uint64_t at)
{
	must(at <= FILE_LEN && len <= FILE_LEN - at);
	memcpy(p, file + at, len);
	return 0;
}

static int do_write(void *self, const void *p, size_t len, uint64_t at)
{
	must(at <= FILE_LEN && len <= FILE_LEN - at);
	memcpy(file + at, p, len);
	return 0;
}

static int do_sync(void *self)
{
	return 0;
}

static const struct act_io_ops ops = {
	.read = do_read, .write = do_write, .sync = do_sync};

static void put_sum(uint8_t *at, uint64_t sum)
{
	struct le64 w = le64_of(sum);

	memcpy(at, &w, sizeof(w));
}

static void mend(uint8_t how)
{
	struct le64 seq;

	memcpy(&seq, file, sizeof(seq));
	seq = le64_of(le64_get(seq) - 1);
	for (unsigned i = 0; how & 4 && i < 16; i++)
		memcpy(file + ACT_HEAD + (size_t)i * ACT_SECTOR, &seq, sizeof(seq));
	for (unsigned i = 0; how & 1 && i < BITMAPS_AT / ACT_SECTOR; i++) {
		uint8_t *s = file + (size_t)i * ACT_SECTOR;

		put_sum(s + 8, 0);
		put_sum(s + 8, XXH3_64bits_withSeed(s, ACT_SECTOR, 1 + i));
	}
	for (unsigned i = 0; how & 2 && i < 3; i++) {
		uint8_t *s = i == 2 ? file + OF_DISK_1
				    : file + BITMAPS_AT + (size_t)i * ACT_SECTOR;
		uint64_t disk = i == 2, sector = i == 1;

		put_sum(s, XXH3_64bits_withSeed(s + 8, ACT_SECTOR - 8,
						((1 + disk) << 32) + sector));
	}
}

/* What was believed can be worked with, and read again after it was written. */
static void use(struct act_file *f, const struct act_head *h, const struct dr_bits *bits)
{
	static struct act_batch b;
	static struct act_head again;
	struct dr_bits more[DISKS];
	struct act act;
	const char *why;

	must(!act_init(&act, capacity, DISKS, ACT_SLOTS));
	act_load(&act, h, bits);
	must(act_active(&act) <= h->n);
	act_open(&act);
	/* It may have spoken of less: the images have grown. */
	for (unsigned i = 0; i < DISKS; i++)
		must(!act_resize(&act, i, capacity[i]));
	(void)act_admit(&act, 0, 65, 70); /* either answer is right */
	act_tidy(&act);
	for (unsigned i = 0; act_collect(&act, &b); i++) {
		must(i < 100 && !act_batch_write(f, &b));
		act_written(&act, &b);
	}
	must(act_admit(&act, 0, 65, 70));
	for (unsigned i = 0; i < DISKS; i++)
		must(!dr_bits_init(&more[i], bits[i].size));
	must(!act_file_load(f, &again, more, &why));
	for (unsigned i = 0; i < DISKS; i++)
		dr_bits_fini(&more[i]);
	act_fini(&act);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct act_head h;
	struct dr_bits bits[DISKS];
	struct act_file f;
	struct err err = {0};
	const char *why;
	int rc;

	memset(file, 0, sizeof(file));
	if (len > 1)
		memcpy(file, data + 1, len - 1 < FILE_LEN ? len - 1 : FILE_LEN);
	mend(len ? data[0] : 0);
	must(!act_file_init(&f, (struct act_io){&ops, NULL}, capacity, DISKS, &err));
	must(!dr_bits_init(&bits[0], 70 * 64) && !dr_bits_init(&bits[1], 3));
	rc = act_file_load(&f, &h, bits, &why);
	must(rc == 0 || (rc == 1 && why));
	if (!rc)
		use(&f, &h, bits);
	dr_bits_fini(&bits[0]);
	dr_bits_fini(&bits[1]);
	return 0;
}
