/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_format - VHD images as other makers lay them out, byte by byte; our own against golden files;
 * and files that lie.
 */
#include "tests/unit/vhdrig.h"

#include "hv/base/wire.h"

#include <stddef.h>

enum { FILE_MAX = 1 << 20, BLOCK = 64 << 10, MAP = VHD_SECTOR };

/* A file that is put together by hand. */
struct file {
	uint8_t b[FILE_MAX];
	uint64_t size;
};
static struct file f;

static void put(uint64_t at, const void *p, size_t len)
{
	CU_ASSERT_FATAL(at + len <= FILE_MAX);
	memcpy(f.b + at, p, len);
	f.size = f.size > at + len ? f.size : at + len;
}

static void fill(uint64_t at, uint8_t byte, size_t len)
{
	CU_ASSERT_FATAL(at + len <= FILE_MAX);
	memset(f.b + at, byte, len);
	f.size = f.size > at + len ? f.size : at + len;
}

static void put32(uint64_t at, uint32_t v)
{
	struct be32 w = be32_of(v);

	put(at, &w, sizeof(w));
}

static void put64(uint64_t at, uint64_t v)
{
	struct be64 w = be64_of(v);

	put(at, &w, sizeof(w));
}

/* A footer as the specification has it, field by field. */
static void footer(uint64_t at, uint32_t type, const char creator[4], uint64_t size,
		   uint64_t header_at)
{
	fill(at, 0, 512);
	put(at, "conectix", 8);
	put32(at + 8, 2);
	put32(at + 12, 0x00010000);
	put64(at + 16, header_at);
	put32(at + 24, 0x12345678);
	put(at + 28, creator, 4);
	put64(at + 40, size);
	put64(at + 48, size);
	put(at + 56, "\x00\x02\x04\x11", 4); /* 2 x 4 x 17 */
	put32(at + 60, type);
	put(at + 68, "0123456789abcdef", 16);
	put32(at + 64, vhd_checksum(f.b + at, 512, 64));
}

static void sparse_header(uint64_t at, uint64_t table, uint32_t entries, uint32_t block)
{
	fill(at, 0, 1024);
	put(at, "cxsparse", 8);
	put64(at + 8, UINT64_MAX);
	put64(at + 16, table);
	put32(at + 24, 0x00010000);
	put32(at + 28, entries);
	put32(at + 32, block);
	put32(at + 36, vhd_checksum(f.b + at, 1024, 36));
}

static void again_header(uint64_t at)
{
	put32(at + 36, vhd_checksum(f.b + at, 1024, 36));
}

/* Disk of 4 blocks: 0 is at 2048, 2 behind it, both with full bitmaps. */
static void usual(uint32_t type, const char creator[4])
{
	uint64_t end = 2048 + 2 * (MAP + BLOCK);

	memset(&f, 0, sizeof(f));
	footer(0, type, creator, 4 * BLOCK, 512);
	sparse_header(512, 1536, 4, BLOCK);
	fill(1536, 0xff, 512);
	put32(1536, 4);
	put32(1536 + 8, (2048 + MAP + BLOCK) / 512);
	fill(2048, 0xff, MAP);
	fill(2048 + MAP, 0x11, BLOCK);
	fill(2048 + MAP + BLOCK, 0xff, MAP);
	fill(2048 + 2 * MAP + BLOCK, 0x22, BLOCK);
	footer(end, type, creator, 4 * BLOCK, 512);
}

static void save(const char *name)
{
	int fd = rig_file(name, O_RDWR | O_CREAT | O_TRUNC);

	CU_ASSERT_EQUAL(img_write(img_of_fd(fd), f.b, f.size, 0), 0);
	close(fd);
}

static struct rig_chain c;

static int try(unsigned flags)
{
	int rc;

	save("f.vhd");
	rc = rig_open1(&c, "f.vhd", flags);
	if (rc)
		rig_close(&c);
	return rc;
}

/* The first byte of each sector at @off. */
static int byte_at(uint64_t off)
{
	uint8_t s[512];

	CU_ASSERT_EQUAL(img_read(c.img, s, sizeof(s), off / 512 * 512), 0);
	return s[0];
}

static void usual_layout(void)
{
	usual(VHD_DYNAMIC, "win ");
	CU_ASSERT_EQUAL_FATAL(try(VHD_WRITE), 0);
	CU_ASSERT_EQUAL(byte_at(0), 0x11);
	CU_ASSERT_EQUAL(byte_at(BLOCK), 0);
	CU_ASSERT_EQUAL(byte_at(3 * BLOCK - 512), 0x22);
	CU_ASSERT_EQUAL(byte_at(3 * BLOCK), 0);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean("f.vhd"));
}

/* Old Virtual PC: the geometry is the size, bitmaps are partial, the last footer has 511 bytes. */
static void virtual_pc(void)
{
	usual(VHD_DYNAMIC, "vpc ");
	fill(2048, 0, MAP);
	fill(2048, 0x80, 1); /* only the first sector was ever written */
	f.size--;
	CU_ASSERT_EQUAL_FATAL(try(VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), 2 * 4 * 17 * 512);
	CU_ASSERT_EQUAL(byte_at(0), 0x11);
	CU_ASSERT_EQUAL(byte_at(512), 0);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean("f.vhd"));
	/* A fixed one. */
	memset(&f, 0, sizeof(f));
	fill(0, 0x33, BLOCK);
	footer(BLOCK, VHD_FIXED, "vs  ", BLOCK, UINT64_MAX);
	f.size--;
	CU_ASSERT_EQUAL_FATAL(try(VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), BLOCK);
	CU_ASSERT_EQUAL(byte_at(BLOCK - 512), 0x33);
	rig_close(&c);
	/* The largest geometry says nothing about the size. */
	usual(VHD_DYNAMIC, "vpc ");
	put(56, "\xff\xff\x10\xff", 4);
	put32(64, vhd_checksum(f.b, 512, 64));
	CU_ASSERT_EQUAL_FATAL(try(0), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), 4 * BLOCK);
	rig_close(&c);
}

/* XenServer: a batmap behind the table, which says that a block is complete whatever its bitmap says. */
static void batmap(uint32_t version, int good)
{
	uint64_t at = 2048, block = at + 1024;

	memset(&f, 0, sizeof(f));
	footer(0, VHD_DYNAMIC, "tap\0", 4 * BLOCK, 512);
	sparse_header(512, 1536, 4, BLOCK);
	fill(1536, 0xff, 512);
	put32(1536, (uint32_t)(block / 512));
	fill(at, 0, 1024);
	put(at, "tdbatmap", 8);
	put64(at + 8, at + 512);
	put32(at + 16, 1);
	put32(at + 20, version);
	fill(at + 512, 0x80, 1);
	put32(at + 24, ~(version == 0x00010001 ? (uint32_t)-128 : 0x80u) + !good);
	fill(block, 0, MAP);
	fill(block + MAP, 0x44, BLOCK);
	footer(block + MAP + BLOCK, VHD_DYNAMIC, "tap\0", 4 * BLOCK, 512);
	CU_ASSERT_EQUAL_FATAL(try(VHD_WRITE), 0);
	CU_ASSERT_EQUAL(byte_at(0), good ? 0x44 : 0);
	/* No block is given up behind the batmap's back. */
	CU_ASSERT_EQUAL(img_erase(c.img, 0, BLOCK), 0);
	CU_ASSERT_EQUAL(img_sync(c.img), 0);
	CU_ASSERT_EQUAL(byte_at(0), 0);
	rig_close(&c);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "f.vhd", 0), 0);
	struct vhd_info info;
	vhd_info(c.v, &info);
	CU_ASSERT_EQUAL(info.allocated, 1);
	CU_ASSERT_EQUAL(byte_at(0), 0);
	rig_close(&c);
}

static void xenserver(void)
{
	batmap(0x00010002, 1);
	batmap(0x00010001, 1);
	batmap(0x00010002, 0);
}

/* Others: the header at the end, the table behind blocks, more entries than needed, other blocks. */
static void other_places(void)
{
	uint64_t block = 512, header = block + MAP + BLOCK, table = header + 1024;

	memset(&f, 0, sizeof(f));
	footer(0, VHD_DYNAMIC, "vbox", 4 * BLOCK, header);
	fill(block, 0xff, MAP);
	fill(block + MAP, 0x55, BLOCK);
	sparse_header(header, table, 200, BLOCK);
	fill(table, 0xff, 1024);
	put32(table + 4, 1);
	footer(table + 1024, VHD_DYNAMIC, "vbox", 4 * BLOCK, header);
	CU_ASSERT_EQUAL_FATAL(try(VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), 4 * BLOCK);
	CU_ASSERT_EQUAL(byte_at(BLOCK), 0x55);
	struct rig_want w = rig_want_new(4 * BLOCK);
	memset(w.bytes + BLOCK, 0x55, BLOCK);
	rig_write(c.img, &w, 3 * BLOCK, BLOCK, 9);
	rig_close(&c);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "f.vhd", 0), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean("f.vhd"));
	free(w.bytes);
}

static void utf16(uint64_t at, const char *s)
{
	for (; *s; s++, at += 2) {
		char unit[2] = {*s, 0};

		put(at, unit, 2);
	}
}

/* Hyper-V: where the parent is, in the words of Windows; the room for it in bytes or sectors. */
static void parents_of_windows(void)
{
	static const char relative[] = ".\\base\\p.vhd",
			  absolute[] = "C:\\vm\\base\\p.vhd";
	struct vhd_info info;
	struct err err = {0};
	int fd;

	usual(VHD_DIFF, "win ");
	/* Three locators, of which the room is said in bytes, in sectors, and not at all. */
	put32(512 + 576, VHD_LOC_W2KU);
	put32(512 + 580, 512);
	put32(512 + 584, 2 * (sizeof(absolute) - 1));
	put64(512 + 592, 500000);
	utf16(500000, absolute);
	put32(512 + 600, VHD_LOC_W2RU);
	put32(512 + 604, 1);
	put32(512 + 608, 2 * (sizeof(relative) - 1));
	put64(512 + 616, 501000);
	utf16(501000, relative);
	put32(512 + 624, VHD_LOC_MACX);
	put32(512 + 632, 17);
	put64(512 + 640, 502000);
	put(502000, "file:///vm/a%20b%2e", 19);
	put32(512 + 632, 19);
	again_header(512);
	footer(502528, VHD_DIFF, "win ", 4 * BLOCK, 512);
	save("f.vhd");
	fd = rig_file("f.vhd", O_RDONLY);
	CU_ASSERT_EQUAL(vhd_probe(img_of_fd(fd), &info, &err), 0);
	close(fd);
	CU_ASSERT_EQUAL(info.parent_paths, 3);
	CU_ASSERT_STRING_EQUAL(info.parent_path[0], "./base/p.vhd");
	CU_ASSERT_STRING_EQUAL(info.parent_path[1], "/vm/a b.");
	CU_ASSERT_STRING_EQUAL(info.parent_path[2], "/vm/base/p.vhd");
}

static void locators_round_trip(void)
{
	static const char *const paths[] = {"/srv/a.vhd", "../b/\xc3\xa4\xe2\x82\xac.vhd",
					    "/x/\xf0\x9f\x98\x80 %41.vhd"};
	static const uint32_t codes[] = {VHD_LOC_W2KU, VHD_LOC_MACX};
	uint8_t bytes[512];
	char path[512];
	int n;

	for (unsigned i = 0; i < 3; i++)
		for (unsigned k = 0; k < (paths[i][0] == '/' ? 2 : 1); k++) {
			n = vhd_locator_bytes(codes[k], paths[i], bytes, sizeof(bytes));
			CU_ASSERT_FATAL(n > 0);
			CU_ASSERT_EQUAL(vhd_locator_path(codes[k], bytes, (size_t)n, path,
							 sizeof(path)),
					0);
			CU_ASSERT_STRING_EQUAL(path, paths[i]);
			CU_ASSERT_EQUAL(
				vhd_locator_path(codes[k], bytes, (size_t)n, path, 4),
				-ENAMETOOLONG);
			CU_ASSERT_TRUE(vhd_locator_bytes(codes[k], paths[i], bytes, 5) <
				       0);
		}
	CU_ASSERT_EQUAL(vhd_locator_path(VHD_LOC_W2KU, (const uint8_t *)"\0\xd8", 2, path,
					 sizeof(path)),
			-EBADMSG);
	CU_ASSERT_EQUAL(vhd_locator_path(0x41424344, bytes, 4, path, sizeof(path)),
			-ENOTSUP);
	CU_ASSERT_EQUAL(vhd_locator_bytes(VHD_LOC_W2KU, "\xc0\x80", bytes, 64), -EBADMSG);
}

/* The appendix of the specification, at its turning points. */
static void geometries(void)
{
	static const struct {
		uint64_t sectors;
		unsigned c, h, s;
	} known[] = {
		{0, 0, 4, 17},
		{2048, 30, 4, 17},
		{1 << 20, 1040, 16, 63},
		{65535ull * 16 * 63 - 1, 65534, 16, 63},
		{65535ull * 16 * 63, 16191, 16, 255},
		{1ull << 40, 65535, 16, 255},
	};
	struct vhd_footer_wire w;

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		vhd_geometry(known[i].sectors, &w);
		CU_ASSERT_EQUAL(be16_get(w.cylinders), known[i].c);
		CU_ASSERT_EQUAL(w.heads, known[i].h);
		CU_ASSERT_EQUAL(w.sectors, known[i].s);
	}
}

/* What is random or of this day is made the same each time. */
static void steady(uint64_t at)
{
	memset(f.b + at + 68, 0x5a, 16);
	put32(at + 64, vhd_checksum(f.b + at, 512, 64));
}

static void golden_one(const char *name, enum vhd_type type)
{
	static const uint8_t uuid[16] = "parent's number";
	struct vhd_create n = {.type = type,
			       .size = 5 << 20,
			       .now = 1700000000,
			       .parent_uuid = uuid,
			       .parent_mtime = 1600000000,
			       .parent_path = "/srv/base.vhd",
			       .parent_relative = "base.vhd"};
	char path[128];
	uint8_t want[8192];
	struct err err = {0};
	ssize_t len;
	int fd = rig_file("f.vhd", O_RDWR | O_CREAT | O_TRUNC);

	CU_ASSERT_EQUAL(vhd_create(img_of_fd(fd), &n, &err), 0);
	memset(&f, 0, sizeof(f));
	f.size = (uint64_t)pread(fd, f.b, FILE_MAX, 0);
	close(fd);
	steady(0);
	steady(f.size - 512);
	(void)snprintf(path, sizeof(path), "tests/unit/golden/%s", name); /* fits */
	if (getenv("GOLDEN_WRITE")) {
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
		CU_ASSERT_EQUAL(img_write(img_of_fd(fd), f.b, f.size, 0), 0);
		close(fd);
	}
	fd = open(path, O_RDONLY);
	CU_ASSERT_FATAL(fd >= 0);
	len = read(fd, want, sizeof(want));
	close(fd);
	CU_ASSERT_EQUAL_FATAL((uint64_t)len, f.size);
	CU_ASSERT_EQUAL(memcmp(want, f.b, f.size), 0);
}

static void golden(void)
{
	golden_one("dynamic.vhd", VHD_DYNAMIC);
	golden_one("differencing.vhd", VHD_DIFF);
}

/* Each of these is refused, by a message, without harm. */
static void expect_refused(int rc)
{
	CU_ASSERT_EQUAL(rc, -EBADMSG);
	CU_ASSERT_TRUE(c.err.msg[0] != 0);
}

static void lies_of_tables(void)
{
	struct vhd_report r;
	struct err err = {0};
	int fd;

	usual(VHD_DYNAMIC, "win ");
	put32(1536 + 4, 4); /* two blocks at one place */
	expect_refused(try(0));
	fd = rig_file("f.vhd", O_RDWR);
	CU_ASSERT_EQUAL(vhd_check(img_of_fd(fd), &r, &err), 0);
	CU_ASSERT_EQUAL(r.overlaps, 1);
	CU_ASSERT_EQUAL(vhd_repair(img_of_fd(fd), &r, &err), -EUCLEAN);
	close(fd);
	usual(VHD_DYNAMIC, "win ");
	put32(1536 + 4, 5); /* inside another */
	expect_refused(try(0));
	for (uint32_t at = 0; at < 4; at++) { /* over footer, header, table */
		usual(VHD_DYNAMIC, "win ");
		put32(1536, at);
		expect_refused(try(0));
	}
	usual(VHD_DYNAMIC, "win ");
	put32(1536, 0xfffffffe);
	expect_refused(try(0));
	usual(VHD_DYNAMIC, "win ");
	put32(1536, (uint32_t)(f.size / 512 - 1));
	expect_refused(try(0));
}

static void lies_of_headers(void)
{
	static const uint32_t blocks[] = {0,	     1,		512,	 2048,
					  BLOCK + 1, 3 * BLOCK, 1u << 29};
	static const uint64_t places[] = {
		0, 511, 513, UINT64_MAX, UINT64_MAX - 511, UINT64_MAX / 2, 1 << 19};

	for (unsigned i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
		usual(VHD_DYNAMIC, "win ");
		put32(512 + 32, blocks[i]);
		again_header(512);
		CU_ASSERT_TRUE(try(0) < 0);
	}
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		usual(VHD_DYNAMIC, "win ");
		put64(512 + 16, places[i]); /* the table */
		again_header(512);
		expect_refused(try(0));
		usual(VHD_DYNAMIC, "win ");
		footer(0, VHD_DYNAMIC, "win ", 4 * BLOCK, places[i]);
		expect_refused(try(0));
	}
	usual(VHD_DYNAMIC, "win ");
	put32(512 + 28, 3); /* too short a table */
	again_header(512);
	expect_refused(try(0));
	put32(512 + 28, UINT32_MAX);
	again_header(512);
	CU_ASSERT_EQUAL(try(0), -ENOTSUP);
	put32(512 + 28, 4);
	CU_ASSERT_EQUAL(try(0), -EBADMSG); /* the checksum */
}

static void lies_of_footers(void)
{
	static const uint64_t sizes[] = {0, 511, UINT64_MAX, UINT64_MAX - 511,
					 VHD_SIZE_MAX + 512};

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		usual(VHD_DYNAMIC, "win ");
		footer(0, VHD_DYNAMIC, "win ", sizes[i], 512);
		f.size -= 512;
		CU_ASSERT_EQUAL(try(0), -EBADMSG);
		memset(&f, 0, sizeof(f));
		footer(0, VHD_FIXED, "win ", sizes[i], UINT64_MAX);
		CU_ASSERT_TRUE(try(0) < 0);
	}
	memset(&f, 0, sizeof(f));
	f.size = 4096;
	CU_ASSERT_EQUAL(try(0), -ENOENT);
	f.size = 0;
	CU_ASSERT_EQUAL(try(0), -ENOENT);
	usual(VHD_DYNAMIC, "win ");
	footer(0, 6, "win ", 4 * BLOCK, 512);
	f.size -= 512;
	CU_ASSERT_EQUAL(try(0), -ENOTSUP);
}

/* A guest writes its own first sector, or, if the power fails, leaves the last one. */
static void guests_that_forge(void)
{
	uint8_t forged[2048];

	usual(VHD_DIFF, "win ");
	memcpy(forged, f.b, sizeof(forged));
	/* On a fixed image: it stays fixed. */
	memset(&f, 0, sizeof(f));
	put(0, forged, sizeof(forged));
	footer(BLOCK, VHD_FIXED, "win ", BLOCK, UINT64_MAX);
	CU_ASSERT_EQUAL_FATAL(try(VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_capacity(c.v), BLOCK);
	CU_ASSERT_EQUAL(byte_at(0), 'c');
	rig_close(&c);
	/* At the end of a sparse one whose footer is lost: neither is believed. */
	usual(VHD_DYNAMIC, "win ");
	f.size -= 512;
	put(68, "another identity", 16);
	put32(64, vhd_checksum(f.b, 512, 64));
	put(f.size - 512, forged, 512);
	CU_ASSERT_EQUAL(try(VHD_WRITE), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(c.err.msg, "two different"));
}

/* A footer is lost at either end, or a block: repair brings back what there is. */
static void repairs(void)
{
	struct vhd_report r;
	struct err err = {0};
	int fd;

	for (unsigned what = 0; what < 5; what++) {
		usual(VHD_DYNAMIC, "win ");
		if (what == 0)
			fill(0, 0, 512);
		else if (what == 1)
			f.size -= 512;
		else if (what == 2)
			f.size -= 512 + 600; /* the last block's end, too */
		else if (what == 3)
			put32(1536 + 12, 100000); /* a block that is nowhere */
		else
			fill(f.size, 0x66, 5000); /* left behind by a crash */
		save("f.vhd");
		fd = rig_file("f.vhd", O_RDWR);
		CU_ASSERT_EQUAL(vhd_check(img_of_fd(fd), &r, &err), 0);
		CU_ASSERT_FALSE(vhd_report_clean(&r));
		CU_ASSERT_EQUAL(r.bad_front, what == 0);
		CU_ASSERT_EQUAL(r.bad_end, what == 1 || what == 2 || what == 4);
		CU_ASSERT_EQUAL(r.beyond, what == 2 || what == 3);
		CU_ASSERT_EQUAL(r.tail > 0, what == 2 || what == 4);
		CU_ASSERT_EQUAL(vhd_repair(img_of_fd(fd), &r, &err), 0);
		close(fd);
		CU_ASSERT_TRUE(rig_clean("f.vhd"));
		CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "f.vhd", 0), 0);
		CU_ASSERT_EQUAL(byte_at(BLOCK - 512), 0x11);
		CU_ASSERT_EQUAL(byte_at(2 * BLOCK), 0x22);
		CU_ASSERT_EQUAL(byte_at(3 * BLOCK - 512), what == 2 ? 0 : 0x22);
		CU_ASSERT_EQUAL(byte_at(3 * BLOCK), 0);
		rig_close(&c);
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the usual layout", usual_layout},
		{"Virtual PC", virtual_pc},
		{"XenServer", xenserver},
		{"header and table elsewhere", other_places},
		{"parents in the words of Windows", parents_of_windows},
		{"locators there and back", locators_round_trip},
		{"geometries", geometries},
		{"golden files", golden},
		{"lies of tables", lies_of_tables},
		{"lies of headers", lies_of_headers},
		{"lies of footers", lies_of_footers},
		{"guests that forge footers", guests_that_forge},
		{"repairs", repairs},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd_format", tests);
	rig_remove_dir();
	return rc;
}
