/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_blk - VHD images of all kinds as a device's backend: many requests at a time, over the
 * ring and the workers, beside plain bytes.
 */
#include "tests/unit/vhdload.h"

#include <pthread.h>

static void play(const char *const names[], struct rig_want *w)
{
	struct rig_chain c;

	for (unsigned round = 0; round < 4; round++) {
		serve(&c, names, VHD_WRITE);
		for (unsigned i = 0; i < 300; i++)
			one(w, i);
		/* Twice, what is in flight ends in close(). */
		if (round % 2) {
			wait_all();
			CU_ASSERT_EQUAL(rig_differs(c.img, w), UINT64_MAX);
		}
		end(&c);
		CU_ASSERT_TRUE(rig_clean(names[0]));
	}
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, 0), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, w), UINT64_MAX);
	rig_close(&c);
}

static void alone(enum vhd_type type, uint32_t block)
{
	static const char *const names[] = {"a.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);

	rig_create("a.vhd", type, SIZE, block, NULL);
	play(names, &w);
	rig_save_raw(&w, "a.raw");
	CU_ASSERT_TRUE(rig_qemu_same("a.vhd", "a.raw"));
	free(w.bytes);
}

static void fixed(void)
{
	alone(VHD_FIXED, 0);
}

static void dynamic(void)
{
	alone(VHD_DYNAMIC, RIG_BLOCK);
	alone(VHD_DYNAMIC, VHD_BLOCK_MIN);
	alone(VHD_DYNAMIC, 0);
}

static void differencing(void)
{
	static const char *const all[] = {"c3.vhd", "c2.vhd", "c1.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);

	rig_create("c1.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	play(all + 2, &w);
	rig_create("c2.vhd", VHD_DIFF, SIZE, 16 << 10, "c1.vhd");
	play(all + 1, &w);
	rig_create("c3.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "c2.vhd");
	play(all, &w);
	free(w.bytes);
}

/* Other threads read while the device writes, as a sync of disks does. */
static void *reader(void *arg)
{
	struct rig_chain *c = arg;
	static uint8_t buf[RIG_BLOCK];

	for (unsigned i = 0; i < 2000; i++)
		CU_ASSERT_EQUAL(img_read(c->img, buf, sizeof(buf), i % 60 * RIG_BLOCK),
				0);
	CU_ASSERT_EQUAL(img_sync(c->img), 0);
	return NULL;
}

static void with_other_readers(void)
{
	static const char *const names[] = {"r2.vhd", "r1.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;
	pthread_t t;

	rig_create("r1.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	rig_create("r2.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "r1.vhd");
	serve(&c, names, VHD_WRITE);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, reader, &c), 0);
	for (unsigned i = 0; i < 500; i++)
		one(&w, i);
	wait_all();
	CU_ASSERT_EQUAL(pthread_join(t, NULL), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	end(&c);
	free(w.bytes);
}

static int refused;

static void on_refused(struct blk_req *r, int status)
{
	refused = status;
}

static void read_only_is_refused(void)
{
	static const char *const names[] = {"a.vhd", NULL};
	struct blk_req r = {.op = BLK_WRITE, .len = 512, .done = on_refused};
	struct rig_chain c;

	rig_create("a.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	serve(&c, names, 0);
	r.data = blk_data_new(512);
	blk.ops->submit(blk.self, &r);
	CU_ASSERT_EQUAL(refused, -EROFS);
	blk_data_put(r.data);
	end(&c);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a fixed image", fixed},
		{"a dynamic image", dynamic},
		{"a chain of differencing images", differencing},
		{"with other readers", with_other_readers},
		{"read-only is refused", read_only_is_refused},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd_blk", tests);
	rig_remove_dir();
	return rc;
}
