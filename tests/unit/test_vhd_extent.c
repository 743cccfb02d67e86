/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_extent - what a chain says of its disk (data, zeroes, unchanged since a file of it) is so, sector
 * by sector, and says no more of it changed than was written.
 */
#include "tests/unit/vhdrig.h"

enum { LEVELS = 5, SECTORS_MAX = 48 * RIG_BLOCK / 512, WRITES = 25 };

/* The leaf first. Some are larger than their parents, one is smaller. */
static const char *const names[LEVELS + 1] = {"e5.vhd", "e4.vhd", "e3.vhd",
					      "e2.vhd", "e1.vhd", NULL};
static const uint64_t size_of[LEVELS] = {48 * RIG_BLOCK, 44 * RIG_BLOCK, 34 * RIG_BLOCK,
					 44 * RIG_BLOCK, 40 * RIG_BLOCK};
static const uint32_t block_of[LEVELS] = {16 << 10, RIG_BLOCK, 0, RIG_BLOCK, RIG_BLOCK};

static struct {
	struct rig_want disk[LEVELS];	      /* as that file was left */
	uint8_t touched[LEVELS][SECTORS_MAX]; /* written or erased in that file */
	struct rig_chain c;
	int pulled; /* more may count as changed than was */
} w;

static void scribble(unsigned level)
{
	struct rig_want *d = &w.disk[level];

	for (unsigned i = 0; i < WRITES; i++) {
		uint64_t off = rig_random() % (d->size / 512) * 512;
		uint64_t most = d->size - off < RIG_BLOCK ? d->size - off : RIG_BLOCK;
		uint64_t len = (1 + rig_random() % (most / 512)) * 512;

		if (i % 5 == 4)
			rig_erase(w.c.img, d, off, len);
		else
			rig_write(w.c.img, d, off, len, (uint8_t)(16 * level + i + 1));
		memset(w.touched[level] + off / 512, 1, len / 512);
	}
}

static void make_chain(enum vhd_type base)
{
	for (int i = LEVELS - 1; i >= 0; i--) {
		int last = i == LEVELS - 1;

		w.disk[i] = rig_want_new(size_of[i]);
		memset(w.touched[i], 0, sizeof(w.touched[i]));
		if (!last)
			memcpy(w.disk[i].bytes, w.disk[i + 1].bytes,
			       size_of[i] < size_of[i + 1] ? size_of[i] : size_of[i + 1]);
		rig_create(names[i], last ? base : VHD_DIFF, size_of[i],
			   last && base == VHD_FIXED ? 0 : block_of[i],
			   last ? NULL : names[i + 1]);
		CU_ASSERT_EQUAL_FATAL(rig_open(&w.c, names + i, VHD_WRITE), 0);
		scribble((unsigned)i);
		CU_ASSERT_EQUAL(img_sync(w.c.img), 0);
		rig_close(&w.c);
	}
}

static void free_chain(void)
{
	for (unsigned i = 0; i < LEVELS; i++)
		free(w.disk[i].bytes);
}

/* May that sector differ between the files @since and 0, by what was done? */
static int may_differ(unsigned since, uint64_t sector)
{
	int r = 0;

	for (unsigned i = 0; i <= since; i++)
		r |= (i < since && w.touched[i][sector]) || sector * 512 >= size_of[i];
	return r;
}

static int all_zero(const uint8_t *p)
{
	static const uint8_t zero[512];

	return !memcmp(p, zero, 512);
}

static void check_sector(unsigned since, uint64_t at, enum vhd_extent_kind kind,
			 unsigned *wrong)
{
	const uint8_t *now = w.disk[0].bytes + at;

	if (kind == VHD_ZERO && !all_zero(now))
		++*wrong;
	if (since >= LEVELS) {
		*wrong += kind == VHD_UNCHANGED;
		return;
	}
	/* Zeroes over zeroes need not be noted. */
	if (kind != VHD_UNCHANGED && !may_differ(since, at / 512) && !w.pulled)
		++*wrong;
	if (kind == VHD_UNCHANGED && memcmp(now, w.disk[since].bytes + at, 512) != 0)
		++*wrong;
}

/* In runs as they come, and asked for in pieces. */
static void check_since(unsigned since, uint64_t most)
{
	enum vhd_extent_kind kind;
	unsigned wrong = 0;
	uint64_t len;

	for (uint64_t at = 0; at < size_of[0]; at += len) {
		uint64_t want = size_of[0] - at < most ? size_of[0] - at : most;

		CU_ASSERT_EQUAL_FATAL(vhd_extent(w.c.v, since, at, want, &kind, &len), 0);
		CU_ASSERT_FATAL(len > 0 && len <= want && len % 512 == 0);
		for (uint64_t s = at; s < at + len; s += 512)
			check_sector(since, s, kind, &wrong);
	}
	CU_ASSERT_EQUAL(wrong, 0);
}

/* Data and holes in turn, and everything outside of the data is zero. */
static void check_holes(void)
{
	uint64_t at = 0, data, hole = 0;
	unsigned wrong = 0;

	while ((data = img_data(w.c.img, at)) < size_of[0]) {
		for (; at < data; at += 512)
			wrong += !all_zero(w.disk[0].bytes + at);
		hole = img_hole(w.c.img, data);
		CU_ASSERT_FATAL(hole > data && hole <= size_of[0]);
		at = hole;
	}
	for (; at < size_of[0]; at += 512)
		wrong += !all_zero(w.disk[0].bytes + at);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_TRUE(hole > 0);
}

static void chain_on(enum vhd_type base)
{
	enum vhd_extent_kind kind;
	uint64_t len;

	make_chain(base);
	CU_ASSERT_EQUAL_FATAL(rig_open(&w.c, names, 0), 0);
	CU_ASSERT_EQUAL(rig_differs(w.c.img, &w.disk[0]), UINT64_MAX);
	for (unsigned since = 0; since <= LEVELS; since++) {
		check_since(since, UINT64_MAX);
		check_since(since, 5 * 512);
	}
	check_since(UINT32_MAX, UINT64_MAX);
	check_holes();
	CU_ASSERT_EQUAL(vhd_extent(w.c.v, 1, 0, 0, &kind, &len), -EINVAL);
	CU_ASSERT_EQUAL(vhd_extent(w.c.v, 1, 1, 512, &kind, &len), -EINVAL);
	CU_ASSERT_EQUAL(vhd_extent(w.c.v, 1, size_of[0], 512, &kind, &len), -EINVAL);
	CU_ASSERT_EQUAL(vhd_extent(w.c.v, 1, 512, UINT64_MAX - 511, &kind, &len),
			-EINVAL);
	rig_close(&w.c);
	free_chain();
}

static void on_dynamic(void)
{
	for (rig_seed = 1; rig_seed < 8; rig_seed++) {
		uint64_t seed = rig_seed;

		chain_on(VHD_DYNAMIC);
		rig_seed = seed;
	}
}

static void on_fixed(void)
{
	rig_seed = 9;
	chain_on(VHD_FIXED);
}

/* Their first file's parent leaves the chain, and the next one takes its place. */
static void pull(struct rig_chain *c)
{
	struct vhd_create to = {0};
	struct vhd_info grand;
	struct err err = {0};
	int fd;

	CU_ASSERT_EQUAL_FATAL(vhd_probe(c->part[2].io, &grand, &err), 0);
	to.parent_uuid = grand.uuid;
	to.parent_mtime = c->part[2].mtime;
	to.parent_path = rig_path(names[2]);
	to.parent_relative = names[2];
	CU_ASSERT_EQUAL(vhd_pull(c->v, NULL, NULL, &err), 0);
	CU_ASSERT_EQUAL(vhd_reparent(c->v, &to, &err), 0);
	CU_ASSERT_EQUAL(vhd_drop(c->v, &fd, &err), 0);
	CU_ASSERT_EQUAL(unlink(rig_path(names[1])), 0);
}

/* Who had it open to read sees the same disk, and misses no change, whatever of the bitmaps he had read before. */
static void a_file_leaves(void)
{
	struct rig_chain writer;
	uint8_t half[24 * RIG_BLOCK];

	rig_seed = 11;
	make_chain(VHD_DYNAMIC);
	CU_ASSERT_EQUAL_FATAL(rig_open(&w.c, names, 0), 0);
	CU_ASSERT_EQUAL(img_read(w.c.img, half, sizeof(half), 0), 0);
	CU_ASSERT_EQUAL_FATAL(rig_open(&writer, names, VHD_WRITE), 0);
	pull(&writer);
	CU_ASSERT_EQUAL(rig_differs(writer.img, &w.disk[0]), UINT64_MAX);
	w.pulled = 1;
	CU_ASSERT_EQUAL(rig_differs(w.c.img, &w.disk[0]), UINT64_MAX);
	for (unsigned since = 0; since <= LEVELS; since++)
		check_since(since, UINT64_MAX);
	check_holes();
	w.pulled = 0;
	rig_close(&writer);
	rig_close(&w.c);
	free_chain();
}

/* One page written in a block of 2 MiB: the rest of the block is a hole, and said to be one. */
static void holes_in_blocks(void)
{
	struct rig_want d = rig_want_new(8 << 20);
	enum vhd_extent_kind kind;
	uint64_t len;

	rig_create("h.vhd", VHD_DYNAMIC, 8 << 20, 0, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&w.c, "h.vhd", VHD_WRITE), 0);
	rig_write(w.c.img, &d, 1 << 20, 4096, 1);
	CU_ASSERT_EQUAL(img_sync(w.c.img), 0);
	CU_ASSERT_EQUAL(vhd_extent(w.c.v, 1, 0, 8 << 20, &kind, &len), 0);
	CU_ASSERT_TRUE(kind == VHD_ZERO && len == 1 << 20);
	CU_ASSERT_EQUAL(vhd_extent(w.c.v, 1, 1 << 20, 7 << 20, &kind, &len), 0);
	CU_ASSERT_TRUE(kind == VHD_DATA && len == 4096);
	CU_ASSERT_EQUAL(img_hole(w.c.img, 1 << 20), (1 << 20) + 4096);
	rig_close(&w.c);
	free(d.bytes);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a chain on a dynamic image", on_dynamic},
		{"a chain on a fixed image", on_fixed},
		{"a file leaves the chain", a_file_leaves},
		{"holes inside of blocks", holes_in_blocks},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd_extent", tests);
	rig_remove_dir();
	return rc;
}
