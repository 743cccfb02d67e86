/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_makers - small images laid out as other makers lay them out (Virtual PC, Hyper-V, VirtualBox, Azure,
 * Disk2vhd, XenServer, qemu), put together byte by byte from what is publicly known of them: what is in them is read
 * by our code and by qemu-img alike, also after our code has written to them.
 */
#include "tests/unit/vhdrig.h"

#include "ctl/image_chain.h"
#include "hv/base/wire.h"

#include <stddef.h>

enum { BLOCKS = 5, TABLE = 1536 };
#define MIB (UINT64_C(1) << 20)

enum bitmaps {
	FULL,	/* all sectors of a block that is there */
	EXACT,	/* those that were written; the others are zeroes */
	BATMAP, /* none: the batmap says that the block is whole */
};

/* How a maker lays out a dynamic or differencing image. */
struct maker {
	const char *name, *creator;
	uint32_t version; /* the maker's own */
	const char *os;
	uint32_t block;
	uint32_t spare;	 /* entries of the table that the disk does not need */
	uint32_t align;	 /* of the data of blocks; 512: they come as they come */
	uint32_t footer; /* bytes of the one at the end */
	uint64_t size;	 /* as it says; 0: of all blocks */
	uint32_t
		chs; /* cylinders, heads, sectors: 0xCCCCHHSS; 0: as the specification has it */
	uint64_t capacity; /* what of that counts; 0: the size */
	enum bitmaps bitmaps;
	int blind;	 /* qemu-img takes the geometry for the size */
	int saved_state; /* the VM was saved with it */
	uint32_t features;
};

static const struct maker makers[] = {
	{"Virtual PC 2004", "vpc ", 0x00050003, "Wi2k", 2 << 20, 0, 512, 512,
	 .chs = 0x01040411, .capacity = 0x104 * 4 * 17 * 512, .bitmaps = EXACT,
	 .features = 2},
	{"Virtual PC for Mac, short footer", "vpc ", 0x00050000, "Mac ", 2 << 20, 3, 512,
	 511, .chs = 0x01210411, .capacity = 0x121 * 4 * 17 * 512, .bitmaps = EXACT,
	 .features = 2, .saved_state = 1},
	{"Virtual Server 2005", "vs  ", 0x00010000, "Wi2k", 512 << 10, 7, 512, 512,
	 .chs = 0x00480411, .capacity = 0x48 * 4 * 17 * 512, .bitmaps = EXACT,
	 .features = 2},
	{"Hyper-V, not aligned", "win ", 0x00060001, "Wi2k", 2 << 20, 0, 512, 512,
	 .bitmaps = EXACT, .features = 2},
	{"Hyper-V, aligned", "win ", 0x000a0000, "Wi2k", 2 << 20, 0, 4096, 512,
	 .bitmaps = FULL, .features = 2},
	{"Hyper-V, 512 KiB", "win ", 0x00060003, "Wi2k", 512 << 10, 1, 4096, 512,
	 .bitmaps = FULL, .features = 2},
	{"Hyper-V, temporary", "win ", 0x000a0000, "Wi2k", 2 << 20, 0, 4096, 512,
	 .bitmaps = FULL, .features = 3},
	{"blocks of 16 MiB, bitmaps of 8 sectors", "win ", 0x000a0000, "Wi2k", 16 << 20,
	 0, 4096, 512, .bitmaps = EXACT, .features = 2},
	{"VirtualBox", "vbox", 0x00070000, "Wi2k", 2 << 20, 0, 512, 512, .bitmaps = FULL,
	 .features = 2, .size = 9 * MIB + 5 * 512, .blind = 1},
	{"Disk2vhd", "d2v ", 0x00010040, "Wi2k", 2 << 20, 2, 512, 512, .bitmaps = FULL,
	 .features = 2, .size = 9 * MIB + 512},
	{"Azure", "wa\0\0", 0x00070000, "Wi2k", 2 << 20, 0, 512, 512, .bitmaps = FULL,
	 .features = 2, .blind = 1},
	{"XenConvert", "CTXS", 0x00020003, "Wi2k", 2 << 20, 0, 512, 512, .bitmaps = EXACT,
	 .features = 2},
	{"XenServer", "tap\0", 0x00010003, "\0\0\0\0", 2 << 20, 0, 4096, 512,
	 .bitmaps = BATMAP, .features = 2},
	{"XenServer, 1 MiB", "tap\0", 0x00010003, "\0\0\0\0", 1 << 20, 30, 4096, 512,
	 .bitmaps = BATMAP, .features = 2},
	{"qemu", "qemu", 0x00050003, "Wi2k", 2 << 20, 0, 512, 512, .chs = 0x01040411,
	 .capacity = 0x104 * 4 * 17 * 512, .bitmaps = FULL, .features = 2},
	{"qemu, the size forced", "qem2", 0x00050003, "Wi2k", 2 << 20, 0, 512, 512,
	 .bitmaps = FULL, .features = 2, .size = 9 * MIB + 3 * 512},
};

static void put_at(int fd, const void *p, size_t len, uint64_t at)
{
	CU_ASSERT_EQUAL_FATAL(pwrite(fd, p, len, (off_t)at), (ssize_t)len);
}

static void set32(uint8_t *p, uint32_t v)
{
	struct be32 w = be32_of(v);

	memcpy(p, &w, sizeof(w));
}

static void set64(uint8_t *p, uint64_t v)
{
	struct be64 w = be64_of(v);

	memcpy(p, &w, sizeof(w));
}

static uint64_t size_of(const struct maker *m)
{
	return m->size ? m->size : (uint64_t)BLOCKS * m->block;
}

static uint64_t capacity_of(const struct maker *m)
{
	return m->capacity ? m->capacity : size_of(m);
}

/* Field by field, as the specification has it. */
static void footer(const struct maker *m, enum vhd_type type, uint8_t id, uint8_t *b)
{
	static const char cookie[8] = "conectix";
	struct vhd_footer_wire geometry;
	uint32_t chs = m->chs;

	memset(b, 0, 512);
	memcpy(b, cookie, sizeof(cookie));
	set32(b + 8, m->features);
	set32(b + 12, 0x00010000);
	set64(b + 16, type == VHD_FIXED ? UINT64_MAX : 512);
	set32(b + 24, 0x2345678);
	memcpy(b + 28, m->creator, 4);
	set32(b + 32, m->version);
	memcpy(b + 36, m->os, 4);
	set64(b + 40, size_of(m));
	set64(b + 48, size_of(m));
	vhd_geometry(size_of(m) / 512, &geometry);
	set32(b + 56, chs ? chs
			  : (uint32_t)be16_get(geometry.cylinders) << 16 |
				      (uint32_t)geometry.heads << 8 | geometry.sectors);
	set32(b + 60, type);
	memset(b + 68, id, 16);
	b[84] = (uint8_t)m->saved_state;
	set32(b + 64, vhd_checksum(b, 512, 64));
}

static uint32_t entries_of(const struct maker *m)
{
	return (uint32_t)((size_of(m) + m->block - 1) / m->block) + m->spare;
}

static uint64_t up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* What is written into a block: its first sectors, some in the middle, and its end if it may. */
static void pattern(uint8_t *disk, uint64_t off, uint64_t len, uint8_t *bits,
		    uint8_t fill)
{
	static const uint32_t at[][2] = {{0, 9}, {100, 1}, {333, 60}, {1000, 24}};

	for (unsigned i = 0; i < 4; i++)
		for (uint32_t s = at[i][0]; s < at[i][0] + at[i][1]; s++) {
			if ((s + 1) * UINT64_C(512) > len)
				return;
			memset(disk + off + s * UINT64_C(512), fill + (int)i, 512);
			bits[s / 8] |= (uint8_t)(0x80 >> s % 8);
		}
}

/* The batmap: behind the table, all blocks of the list are whole. Returns its end. */
static uint64_t batmap(int fd, const struct maker *m, uint64_t at, const uint8_t *map)
{
	uint8_t head[512] = "tdbatmap";
	uint32_t bytes = (uint32_t)up(entries_of(m) / 8 + 1, 512);

	set64(head + 8, at + 512);
	set32(head + 16, bytes / 512);
	set32(head + 20, 0x00010002);
	set32(head + 24, vhd_checksum(map, bytes, bytes));
	put_at(fd, head, 512, at);
	put_at(fd, map, bytes, at + 512);
	return at + 512 + bytes;
}

/* Where a differencing image says that its parent is. */
struct parent {
	uint8_t id;
	uint32_t time;
	uint32_t code;
	const char *words;
	int space_in_sectors;
};

static size_t utf16(const char *s, int big, uint8_t *out)
{
	size_t n = 0;

	for (; *s; s++, n += 2) {
		out[n + (size_t)!big] = 0;
		out[n + (size_t)big] = (uint8_t)*s;
	}
	return n;
}

/* Returns the end of what it took behind @at. */
static uint64_t name_parent(int fd, const struct parent *p, uint8_t *header, uint64_t at)
{
	uint8_t words[512] = {0};
	size_t n;

	memset(header + 40, p->id, 16);
	set32(header + 56, p->time);
	utf16("elsewhere.vhd", 1, header + 64);
	n = p->code == VHD_LOC_MACX ? (size_t)snprintf((char *)words, sizeof(words), "%s",
						       p->words) /* fits */
				    : utf16(p->words, 0, words);
	set32(header + 576, p->code);
	set32(header + 580, p->space_in_sectors ? 1 : 512);
	set32(header + 584, (uint32_t)n);
	set64(header + 592, at);
	put_at(fd, words, sizeof(words), at);
	return at + sizeof(words);
}

/* The image @name: blocks 3, 0 and 4 in that order, written over @disk, which becomes what it should hold. */
static void make(const struct maker *m, const char *name, uint8_t id,
		 const struct parent *parent, struct rig_want *disk, uint8_t fill)
{
	static const uint32_t order[] = {3, 0, 4};
	enum vhd_type type = parent ? VHD_DIFF : VHD_DYNAMIC;
	uint32_t map = vhd_bitmap_bytes(m->block), entries = entries_of(m);
	uint64_t at = TABLE + up(entries * UINT64_C(4), 512);
	uint8_t foot[512], header[1024] = "cxsparse", whole[1024] = {0};
	uint8_t *table = malloc(up(entries * UINT64_C(4), 512));
	int fd = rig_file(name, O_RDWR | O_CREAT | O_TRUNC);

	CU_ASSERT_PTR_NOT_NULL_FATAL(table);
	memset(table, 0xff, up(entries * UINT64_C(4), 512));
	for (unsigned i = 0; i < 3; i++)
		whole[order[i] / 8] |= (uint8_t)(0x80 >> order[i] % 8);
	set64(header + 8, UINT64_MAX);
	set64(header + 16, TABLE);
	set32(header + 24, 0x00010000);
	set32(header + 28, entries);
	set32(header + 32, m->block);
	if (m->bitmaps == BATMAP)
		at = batmap(fd, m, at, whole);
	if (parent)
		at = name_parent(fd, parent, header, at);
	set32(header + 36, vhd_checksum(header, 1024, 36));
	for (unsigned i = 0; i < 3; i++) {
		uint64_t off = (uint64_t)order[i] * m->block;
		uint8_t bits[4096] = {0};
		uint64_t len;

		if (off >= disk->size)
			continue;
		len = disk->size - off < m->block ? disk->size - off : m->block;
		pattern(disk->bytes, off, len, bits, (uint8_t)(fill + 16 * i));
		if (m->bitmaps != EXACT && !parent)
			memset(bits, m->bitmaps == FULL ? 0xff : 0, sizeof(bits));
		at = up(at + map, m->align) - map;
		set32(table + 4 * order[i], (uint32_t)(at / 512));
		put_at(fd, bits, map, at);
		put_at(fd, disk->bytes + off, len, at + map);
		at += map + m->block;
	}
	put_at(fd, header, sizeof(header), 512);
	put_at(fd, table, up(entries * UINT64_C(4), 512), TABLE);
	footer(m, type, id, foot);
	put_at(fd, foot, 512, 0);
	put_at(fd, foot, m->footer, at);
	free(table);
	close(fd);
}

static void check_qemu(const struct maker *m, const char *name, const struct rig_want *w)
{
	rig_save_raw(w, "w.raw");
	CU_ASSERT_TRUE(m->blind || rig_qemu_same(name, "w.raw"));
}

static void dynamic_one(const struct maker *m)
{
	struct rig_want w = rig_want_new(capacity_of(m));
	struct rig_chain c;

	make(m, "m.vhd", 7, NULL, &w, 1);
	check_qemu(m, "m.vhd", &w);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "m.vhd", VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), w.size);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	/* A block that is there, one that is not, and the disk's end. */
	rig_write(c.img, &w, 50 * 512, 3 * 512, 9);
	rig_write(c.img, &w, m->block + 4096, 8192, 10);
	rig_write(c.img, &w, w.size - 2048, 2048, 11);
	rig_erase(c.img, &w, 3 * (uint64_t)m->block, 4096);
	CU_ASSERT_EQUAL(img_sync(c.img), 0);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean("m.vhd"));
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "m.vhd", 0), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	check_qemu(m, "m.vhd", &w);
	free(w.bytes);
}

static void dynamic(void)
{
	for (unsigned i = 0; i < sizeof(makers) / sizeof(makers[0]); i++) {
		unsigned failed = CU_get_number_of_failures();

		dynamic_one(&makers[i]);
		if (CU_get_number_of_failures() > failed)
			printf("\nthe last failures: %s\n", makers[i].name);
	}
}

/* All bytes of the disk, then a footer; not always at the end of a block, or of a MiB. */
static void fixed(void)
{
	for (unsigned i = 0; i < sizeof(makers) / sizeof(makers[0]); i++) {
		const struct maker *m = &makers[i];
		struct rig_want w = rig_want_new(size_of(m));
		uint8_t foot[512], bits[4096];
		struct rig_chain c;
		int fd = rig_file("f.vhd", O_RDWR | O_CREAT | O_TRUNC);

		pattern(w.bytes, 0, m->block, bits, 5);
		pattern(w.bytes, w.size - m->block, m->block, bits, 50);
		put_at(fd, w.bytes, w.size, 0);
		footer(m, VHD_FIXED, 8, foot);
		put_at(fd, foot, m->footer, w.size);
		close(fd);
		w.size = capacity_of(m);
		/* Of 511 bytes is a fixed one's footer to us alone. */
		if (m->footer == 512)
			check_qemu(m, "f.vhd", &w);
		CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "f.vhd", VHD_WRITE), 0);
		CU_ASSERT_EQUAL(vhd_capacity(c.v), w.size);
		rig_write(c.img, &w, w.size - 512, 512, 12);
		CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
		rig_close(&c);
		CU_ASSERT_TRUE(rig_clean("f.vhd"));
		check_qemu(m, "f.vhd", &w);
		free(w.bytes);
	}
}

static void set_time(const char *name, uint32_t vhd_seconds)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT},
				{.tv_sec = VHD_EPOCH_UNIX + vhd_seconds}};

	CU_ASSERT_EQUAL(utimensat(AT_FDCWD, rig_path(name), t, 0), 0);
}

/* A child in one folder of a parent in another, which only that locator finds. */
static void child_one(const struct maker *m, const struct parent *p)
{
	static struct image_chain chain; /* large */
	struct rig_want w = rig_want_new(capacity_of(m));
	struct vhd_image *v = NULL;
	struct err err = {0};

	make(m, "base/p.vhd", p->id, NULL, &w, 1);
	set_time("base/p.vhd", p->time);
	make(m, "kids/c.vhd", 9, p, &w, 100);
	CU_ASSERT_EQUAL(
		image_chain_open(rig_path("kids/c.vhd"), IMAGE_WRITE, &chain, &err), 0);
	CU_ASSERT_EQUAL(image_chain_use(&chain, VHD_WRITE, &v, &err), 0);
	CU_ASSERT_STRING_EQUAL(err.msg, "");
	if (v) {
		CU_ASSERT_EQUAL(chain.n, 2);
		CU_ASSERT_EQUAL(rig_differs(vhd_img(v), &w), UINT64_MAX);
		rig_write(vhd_img(v), &w, m->block - 512, 1024, 77);
		CU_ASSERT_EQUAL(rig_differs(vhd_img(v), &w), UINT64_MAX);
	}
	vhd_close(v);
	image_chain_close(&chain);
	CU_ASSERT_TRUE(rig_clean("kids/c.vhd"));
	free(w.bytes);
}

static void children(void)
{
	static char absolute[2][200];
	const struct parent parents[] = {
		{3, 100, VHD_LOC_W2RU, "..\\base\\p.vhd", 0},
		{3, 100, VHD_LOC_W2RU, ".\\..\\base\\p.vhd", 1},
		{4, 200, VHD_LOC_W2KU, absolute[0], 0},
		{5, 300, VHD_LOC_MACX, absolute[1], 1},
		{5, 300, VHD_LOC_MACX, "file://../base/p.vhd", 1},
		{5, 300, VHD_LOC_MACX, "file://./../base/p%2evhd", 0},
	};
	char *s = absolute[0];

	CU_ASSERT_EQUAL(mkdir(rig_path("base"), 0700), 0);
	CU_ASSERT_EQUAL(mkdir(rig_path("kids"), 0700), 0);
	(void)snprintf(s, sizeof(absolute[0]), "D:%s", rig_path("base/p.vhd")); /* fits */
	for (; *s; s++)
		*s = *s == '/' ? '\\' : *s;
	(void)snprintf(absolute[1], sizeof(absolute[1]), "file://localhost%s",
		       rig_path("base/p.vhd")); /* fits */
	for (unsigned i = 0; i < sizeof(makers) / sizeof(makers[0]); i++)
		for (unsigned k = 0; k < sizeof(parents) / sizeof(parents[0]); k++) {
			unsigned failed = CU_get_number_of_failures();

			if (makers[i].block > 2 << 20)
				continue;
			child_one(&makers[i], &parents[k]);
			if (CU_get_number_of_failures() > failed)
				printf("\nthe last failures: %s, parent at %s\n",
				       makers[i].name, parents[k].words);
		}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"dynamic images", dynamic},
		{"fixed images", fixed},
		{"children, by their locators", children},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd_makers", tests);
	rig_remove_dir();
	return rc;
}
