/* SPDX-License-Identifier: Apache-2.0
 * test_vhd - the virtual disk of VHD images of all kinds, beside plain bytes, and beside qemu.
 */
#include "tests/unit/vhdrig.h"

enum { SIZE = 40 * RIG_BLOCK + 3 * 512 };

/* Any of all operations, many times, with reopening in between. */
static void play(struct rig_chain *c, const char *const names[], struct rig_want *w,
		 unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t off = rig_random() % (w->size / 512) * 512;
		uint64_t most =
			w->size - off < 3 * RIG_BLOCK ? w->size - off : 3 * RIG_BLOCK;
		uint64_t len = (1 + rig_random() % (most / 512)) * 512;

		switch (rig_random() % 8) {
		case 0:
			off = off / RIG_BLOCK * RIG_BLOCK;
			rig_erase(c->img, w, off,
				  w->size - off < RIG_BLOCK ? w->size - off : RIG_BLOCK);
			break;
		case 1:
			rig_erase(c->img, w, off, len);
			break;
		case 2:
			CU_ASSERT_EQUAL(img_sync(c->img), 0);
			break;
		case 3:
			if (i % 5)
				break;
			rig_close(c);
			CU_ASSERT_EQUAL_FATAL(rig_open(c, names, VHD_WRITE), 0);
			CU_ASSERT_TRUE(rig_clean(names[0]));
			break;
		default:
			rig_write(c->img, w, off, len, (uint8_t)(i | 1));
		}
	}
	CU_ASSERT_EQUAL(rig_differs(c->img, w), UINT64_MAX);
}

static void play_alone(enum vhd_type type, uint32_t block)
{
	const char *const names[] = {"a.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;

	rig_create("a.vhd", type, SIZE, block, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), SIZE);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	play(&c, names, &w, 400);
	rig_close(&c);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, 0), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	CU_ASSERT_EQUAL(img_write(c.img, w.bytes, 512, 0), -EROFS);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean("a.vhd"));
	rig_save_raw(&w, "a.raw");
	CU_ASSERT_TRUE(rig_qemu_same("a.vhd", "a.raw"));
	/* So that the comparison is seen to look. */
	w.bytes[SIZE - 1] ^= 1;
	rig_save_raw(&w, "a.raw");
	CU_ASSERT_FALSE(rig_qemu_same("a.vhd", "a.raw"));
	free(w.bytes);
}

static void fixed(void)
{
	play_alone(VHD_FIXED, 0);
}

static void dynamic(void)
{
	play_alone(VHD_DYNAMIC, RIG_BLOCK);
	play_alone(VHD_DYNAMIC, VHD_BLOCK_MIN);
	play_alone(VHD_DYNAMIC, 0);
}

static const uint32_t chain_block[] = {RIG_BLOCK, 16 << 10, RIG_BLOCK, 0};

/* Four deep, with different blocks: each level is written, frozen, and gets a child. */
static void differencing(void)
{
	static const char *const all[] = {"d4.vhd", "d3.vhd", "d2.vhd", "d1.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;

	for (int i = 3; i >= 0; i--) {
		rig_create(all[i], i == 3 ? VHD_DYNAMIC : VHD_DIFF, SIZE, chain_block[i],
			   i == 3 ? NULL : all[i + 1]);
		CU_ASSERT_EQUAL_FATAL(rig_open(&c, all + i, VHD_WRITE), 0);
		CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
		play(&c, all + i, &w, 150);
		rig_close(&c);
		CU_ASSERT_TRUE(rig_clean(all[i]));
	}
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, all, 0), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	free(w.bytes);
}

static void on_a_fixed_parent(void)
{
	static const char *const all[] = {"f2.vhd", "f1.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE), larger;
	struct rig_chain c;

	rig_create("f1.vhd", VHD_FIXED, SIZE, 0, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "f1.vhd", VHD_WRITE), 0);
	play(&c, all + 1, &w, 50);
	rig_close(&c);
	/* And larger than it: what is behind its end reads as zeroes. */
	rig_create("f2.vhd", VHD_DIFF, SIZE + 3 * RIG_BLOCK, RIG_BLOCK, "f1.vhd");
	larger = rig_want_new(SIZE + 3 * RIG_BLOCK);
	memcpy(larger.bytes, w.bytes, SIZE);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, all, VHD_WRITE), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &larger), UINT64_MAX);
	play(&c, all, &larger, 200);
	rig_close(&c);
	free(w.bytes);
	free(larger.bytes);
}

static void zeroes_take_no_room(void)
{
	static const char *const all[] = {"z2.vhd", "z1.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct vhd_info info;
	struct rig_chain c;

	rig_create("z1.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "z1.vhd", VHD_WRITE), 0);
	rig_erase(c.img, &w, 0, SIZE);
	vhd_info(c.v, &info);
	CU_ASSERT_EQUAL(info.allocated, 0);
	rig_write(c.img, &w, 0, 4 * RIG_BLOCK, 7);
	vhd_info(c.v, &info);
	CU_ASSERT_EQUAL(info.allocated, 4);
	CU_ASSERT_EQUAL(img_data(c.img, 0), 0);
	CU_ASSERT_EQUAL(img_data(c.img, 4 * RIG_BLOCK), UINT64_MAX);
	/* Whole blocks are given up, and their room is used again once that is durable. */
	rig_erase(c.img, &w, 512, 3 * RIG_BLOCK);
	CU_ASSERT_EQUAL(img_sync(c.img), 0);
	vhd_info(c.v, &info);
	CU_ASSERT_EQUAL(info.allocated, 2);
	rig_write(c.img, &w, 20 * RIG_BLOCK, 2 * RIG_BLOCK, 9);
	CU_ASSERT_EQUAL(img_sync(c.img), 0);
	uint64_t before = info.file_bytes;
	vhd_info(c.v, &info);
	CU_ASSERT_EQUAL(info.allocated, 4);
	CU_ASSERT_EQUAL(info.file_bytes, before);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	/* In a child they hide what the parent has, and only there. */
	rig_create("z2.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "z1.vhd");
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, all, VHD_WRITE), 0);
	rig_erase(c.img, &w, 0, SIZE);
	vhd_info(c.v, &info);
	CU_ASSERT_EQUAL(info.allocated, 4);
	CU_ASSERT_EQUAL(img_data(c.img, 0), UINT64_MAX);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	free(w.bytes);
}

static void requests_outside_are_refused(void)
{
	uint8_t buf[1024] = {0};
	struct rig_chain c;

	rig_create("o.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "o.vhd", VHD_WRITE), 0);
	CU_ASSERT_EQUAL(img_read(c.img, buf, 1024, SIZE - 512), -EINVAL);
	CU_ASSERT_EQUAL(img_read(c.img, buf, 512, UINT64_MAX - 511), -EINVAL);
	CU_ASSERT_EQUAL(img_write(c.img, buf, 1024, SIZE - 512), -EINVAL);
	CU_ASSERT_EQUAL(img_write(c.img, buf, 512, 1), -EINVAL);
	CU_ASSERT_EQUAL(img_write(c.img, buf, 100, 0), -EINVAL);
	CU_ASSERT_EQUAL(img_erase(c.img, SIZE, 512), -EINVAL);
	CU_ASSERT_EQUAL(img_read(c.img, buf, 0, SIZE), 0);
	rig_close(&c);
}

static void change_time(const char *name)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000}};

	CU_ASSERT_EQUAL(utimensat(AT_FDCWD, rig_path(name), t, 0), 0);
}

static void changed_parents_are_refused(void)
{
	static const char *const all[] = {"p2.vhd", "p1.vhd", NULL};
	static const char *const wrong[] = {"p2.vhd", "p3.vhd", NULL};
	static const char *const round[] = {"p2.vhd", "p2.vhd", "p1.vhd", NULL};
	struct rig_chain c;

	rig_create("p1.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	rig_create("p2.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "p1.vhd");
	rig_create("p3.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	CU_ASSERT_EQUAL(rig_open(&c, all, VHD_WRITE), 0);
	rig_close(&c);
	CU_ASSERT_EQUAL(rig_open1(&c, "p2.vhd", 0), -ENOENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(c.err.msg, "parent is missing"));
	rig_close(&c);
	CU_ASSERT_EQUAL(rig_open(&c, wrong, 0), -ESTALE);
	CU_ASSERT_PTR_NOT_NULL(strstr(c.err.msg, "another image"));
	rig_close(&c);
	CU_ASSERT_EQUAL(rig_open(&c, round, VHD_ANY_PARENT), -ESTALE);
	rig_close(&c);
	CU_ASSERT_EQUAL(rig_open(&c, all + 1, 0), 0);
	rig_close(&c);
	change_time("p1.vhd");
	CU_ASSERT_EQUAL(rig_open(&c, all, 0), -ESTALE);
	CU_ASSERT_PTR_NOT_NULL(strstr(c.err.msg, "changed after"));
	rig_close(&c);
	CU_ASSERT_EQUAL(rig_open(&c, all, VHD_ANY_PARENT), 0);
	rig_close(&c);
}

/* What qemu makes, of both kinds and with its two ways to say the size, is read by us and
 * written, and read by qemu again. */
static void qemu_made(const char *subformat)
{
	static const char *const names[] = {"q.vhd", NULL};
	const char *const convert[] = {"qemu-img",
				       "convert",
				       "-f",
				       "raw",
				       "-O",
				       "vpc",
				       "-o",
				       subformat,
				       rig_path("q.raw"),
				       rig_path("q.vhd"),
				       NULL};
	struct rig_want w = rig_want_new(8 << 20), more;
	struct rig_chain c;

	for (unsigned i = 0; i < 40; i++)
		memset(w.bytes + (uint64_t)(rig_random() % 2000) * 4096, (int)i + 1,
		       4096);
	rig_save_raw(&w, "q.raw");
	CU_ASSERT_EQUAL_FATAL(rig_run(convert), 0);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, VHD_WRITE), 0);
	/* Without force_size it is rounded up to a geometry. */
	CU_ASSERT_FATAL(vhd_capacity(c.v) >= w.size);
	more = rig_want_new(vhd_capacity(c.v));
	memcpy(more.bytes, w.bytes, w.size);
	CU_ASSERT_EQUAL(rig_differs(c.img, &more), UINT64_MAX);
	play(&c, names, &more, 100);
	rig_close(&c);
	rig_save_raw(&more, "q.raw");
	CU_ASSERT_TRUE(rig_qemu_same("q.vhd", "q.raw"));
	free(w.bytes);
	free(more.bytes);
}

static void from_qemu(void)
{
	qemu_made("subformat=dynamic");
	qemu_made("subformat=fixed");
	qemu_made("subformat=dynamic,force_size=on");
	qemu_made("subformat=fixed,force_size=on");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a fixed image", fixed},
		{"a dynamic image", dynamic},
		{"a chain of differencing images", differencing},
		{"a child of a fixed image", on_a_fixed_parent},
		{"zeroes take no room", zeroes_take_no_room},
		{"requests outside are refused", requests_outside_are_refused},
		{"changed parents are refused", changed_parents_are_refused},
		{"what qemu makes", from_qemu},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd", tests);
	rig_remove_dir();
	return rc;
}
