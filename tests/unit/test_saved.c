/* SPDX-License-Identifier: Apache-2.0
 * test_saved - a guest in a file: what was put in comes out; what is cut, changed or forged is refused.
 */
#include "remus/saved.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/gm.h"
#include "remus/saved_wire.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RAM = 16 << 20, STATE = 300000, FILE_MAX = 4 << 20 };

static uint8_t state[STATE], pages[SAVED_RUN * SAVED_PAGE];
static const char said[] = "three addresses";

static int new_file(void)
{
	int fd = memfd_create("saved", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

static struct saved_info info_of(void)
{
	struct saved_info i = {.term = 7,
			       .epoch = 12345,
			       .wall_ns = 99,
			       .ram = RAM,
			       .id = {1, 2, 3},
			       .vm = "web"};
	return i;
}

/* Half of the bytes say nothing new, so that blocks of both sorts come. */
static void fill(void)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < STATE; i++)
		state[i] = (uint8_t)(i >> 9);
	for (size_t i = 0; i < sizeof(pages); i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(pages + i, &x, 8);
	}
}

/* Pages 5 and 6, 100 to 163, and one at the end of memory. */
static void write_guest(int fd, int ends)
{
	struct saved_info i = info_of();
	struct saved_writer *w;
	struct err err = {0};

	CU_ASSERT_FATAL(!saved_create(fd, &i, &w, &err));
	CU_ASSERT(!saved_put_state(w, state, STATE));
	CU_ASSERT(!saved_put_pages(w, 100, SAVED_RUN, pages));
	CU_ASSERT(!saved_put_said(w, said, sizeof(said)));
	CU_ASSERT(!saved_put_pages(w, 5, 2, state));
	CU_ASSERT(!saved_put_pages(w, RAM / SAVED_PAGE - 1, 1, pages));
	if (ends) {
		CU_ASSERT(!saved_finish(w, &err));
		CU_ASSERT_EQUAL(saved_bytes(w), lseek(fd, 0, SEEK_END));
	}
	saved_free(w);
}

static int check(int fd)
{
	const struct saved_sink none = {0};
	struct saved_info i;
	struct err err = {0};
	int rc = saved_read(fd, &none, &i, &err);

	CU_ASSERT_EQUAL(rc, err.code);
	return rc;
}

static void test_round_trip(void)
{
	struct buf s = {0}, said_back = {0};
	static const uint8_t zero[SAVED_PAGE];
	int fd = new_file();
	struct saved_info i;
	struct err err = {0};
	struct gm *gm;

	write_guest(fd, 1);
	CU_ASSERT_FATAL(!gm_create(RAM, &gm, &err));
	CU_ASSERT_EQUAL(saved_load(fd, gm, &s, &said_back, &i, &err), 0);
	CU_ASSERT_EQUAL_FATAL(s.len, STATE);
	CU_ASSERT(!memcmp(s.data, state, STATE));
	CU_ASSERT_EQUAL_FATAL(said_back.len, sizeof(said));
	CU_ASSERT(!memcmp(said_back.data, said, sizeof(said)));
	CU_ASSERT(!memcmp(gm_base(gm) + 100 * SAVED_PAGE, pages, sizeof(pages)));
	CU_ASSERT(!memcmp(gm_base(gm) + 5 * SAVED_PAGE, state, 2 * SAVED_PAGE));
	CU_ASSERT(!memcmp(gm_base(gm) + RAM - SAVED_PAGE, pages, SAVED_PAGE));
	CU_ASSERT(!memcmp(gm_base(gm) + 7 * SAVED_PAGE, zero, SAVED_PAGE));
	CU_ASSERT(i.term == 7 && i.epoch == 12345 && i.wall_ns == 99 && !i.used);
	CU_ASSERT(!strcmp(i.vm, "web") && i.id[2] == 3);
	buf_fini(&s);
	buf_fini(&said_back);
	gm_destroy(gm);
	close(fd);
}

static void test_other_size(void)
{
	struct buf s = {0}, b = {0};
	int fd = new_file();
	struct saved_info i;
	struct err err = {0};
	struct gm *gm;

	write_guest(fd, 1);
	CU_ASSERT_FATAL(!gm_create(2 * RAM, &gm, &err));
	CU_ASSERT_EQUAL(saved_load(fd, gm, &s, &b, &i, &err), -EINVAL);
	CU_ASSERT_EQUAL(s.len, 0);
	gm_destroy(gm);
	close(fd);
}

static void test_used(void)
{
	int fd = new_file();
	struct saved_info i;
	struct err err = {0};

	write_guest(fd, 1);
	CU_ASSERT_EQUAL(saved_use(fd, &err), 0);
	CU_ASSERT_EQUAL(saved_head(fd, &i, &err), 0);
	CU_ASSERT(i.used && i.term == 7 && !strcmp(i.vm, "web"));
	CU_ASSERT_EQUAL(check(fd), 0); /* the rest is as it was */
	CU_ASSERT_EQUAL(saved_use(fd, &err), 0);
	close(fd);
}

/* A killed process and a power cut leave the first so many bytes, at most. */
static void test_cut_anywhere(void)
{
	static uint8_t all[FILE_MAX];
	int fd = new_file();
	off_t len, step = 1;

	write_guest(fd, 1);
	len = lseek(fd, 0, SEEK_END);
	CU_ASSERT_FATAL(len < FILE_MAX && pread(fd, all, FILE_MAX, 0) == len);
	for (off_t to = 0; to < len; to += step) {
		/* Each byte of what is near a border, some of what is in the middle. */
		step = to < 300 || len - to < 400 ? 1 : 211;
		CU_ASSERT_FATAL(!ftruncate(fd, to));
		CU_ASSERT_EQUAL(check(fd), -EBADMSG);
		CU_ASSERT_FATAL(pwrite(fd, all, (size_t)len, 0) == len);
	}
	CU_ASSERT_EQUAL(check(fd), 0);
	CU_ASSERT_FATAL(pwrite(fd, "x", 1, len) == 1);
	CU_ASSERT_EQUAL(check(fd), -EBADMSG);
	close(fd);
}

static void test_without_end(void)
{
	int fd = new_file();

	write_guest(fd, 0);
	CU_ASSERT_EQUAL(check(fd), -EBADMSG);
	close(fd);
}

static void test_flip_anywhere(void)
{
	int fd = new_file();
	off_t len, step;
	uint8_t b;

	write_guest(fd, 1);
	len = lseek(fd, 0, SEEK_END);
	for (off_t at = 0; at < len; at += step) {
		step = at < 192 || (at >= 4096 && at < 4500) || len - at < 200 ? 1 : 307;
		if (at >= 192 && at < 4096) /* says nothing */
			continue;
		CU_ASSERT_FATAL(pread(fd, &b, 1, at) == 1);
		b ^= (uint8_t)(1u << at % 8);
		CU_ASSERT_FATAL(pwrite(fd, &b, 1, at) == 1);
		CU_ASSERT_EQUAL(check(fd), -EBADMSG);
		b ^= (uint8_t)(1u << at % 8);
		CU_ASSERT_FATAL(pwrite(fd, &b, 1, at) == 1);
	}
	CU_ASSERT_EQUAL(check(fd), 0);
	close(fd);
}

/* A block that somebody made, with sums that are right, behind a true head. */
struct forged {
	uint32_t kind, raw, stored, zero;
	uint64_t page;
};

static int refused(const struct forged *f, unsigned n)
{
	struct saved_info i = info_of();
	struct saved_writer *w;
	int fd = new_file(), rc;
	struct err err = {0};
	off_t at = SAVED_HEAD;

	CU_ASSERT_FATAL(!saved_create(fd, &i, &w, &err));
	CU_ASSERT_FATAL(!saved_finish(w, &err));
	saved_free(w);
	for (unsigned k = 0; k < n; k++) {
		struct saved_block_wire b = {.kind = le32_of(f[k].kind),
					     .raw = le32_of(f[k].raw),
					     .stored = le32_of(f[k].stored),
					     .zero = le32_of(f[k].zero),
					     .page = le64_of(f[k].page)};
		size_t len = f[k].stored < sizeof(pages) ? f[k].stored : sizeof(pages);

		b.stored = le32_of((uint32_t)len);
		b.sum = le64_of(saved_block_sum(&b, pages));
		b.stored = le32_of(f[k].stored);
		if (len == f[k].stored)
			b.sum = le64_of(saved_block_sum(&b, pages));
		CU_ASSERT_FATAL(pwrite(fd, &b, sizeof(b), at) == sizeof(b));
		at += sizeof(b);
		CU_ASSERT_FATAL(pwrite(fd, pages, len, at) == (ssize_t)len);
		at += (off_t)len;
	}
	rc = check(fd);
	close(fd);
	return rc == -EBADMSG;
}

static void test_forged(void)
{
	static const struct forged f[] = {
		{0, 4096, 4096, 0, 0},
		{5, 4096, 4096, 0, 0},
		{SAVED_PAGES, 4096, 4096, 1, 0},
		{SAVED_PAGES, 0, 0, 0, 0},
		{SAVED_PAGES, 4096, 0, 0, 0},
		{SAVED_PAGES, 4096, 4097, 0, 0},
		{SAVED_PAGES, 4095, 4095, 0, 0},
		{SAVED_PAGES, 4096, 100, 0, 0}, /* no LZ4 */
		{SAVED_PAGES, SAVED_PIECE_MAX + 4096, SAVED_PIECE_MAX, 0, 0},
		{SAVED_PAGES, UINT32_MAX, UINT32_MAX, 0, 0},
		{SAVED_PAGES, 8192, 8192, 0, RAM / 4096 - 1},
		{SAVED_PAGES, 4096, 4096, 0, RAM / 4096},
		{SAVED_PAGES, 4096, 4096, 0, UINT64_MAX},
		{SAVED_STATE, 4096, 4096, 0, 1},
		{SAVED_END, 64, 64, 0, 0},
		{SAVED_END, 32, 32, 0, 0},
	};
	static const struct forged twice[] = {
		{SAVED_PAGES, 8192, 8192, 0, 10},
		{SAVED_PAGES, 8192, 8192, 0, 11},
	};
	static const struct forged said_twice[] = {
		{SAVED_SAID, 64, 64, 0, 0},
		{SAVED_SAID, 64, 64, 0, 0},
	};

	for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++)
		CU_ASSERT(refused(&f[i], 1));
	CU_ASSERT(refused(twice, 2));
	CU_ASSERT(refused(said_twice, 2));
}

static void test_full_disk(void)
{
	struct saved_info i = info_of();
	struct saved_writer *w;
	int fd = new_file(), rc = 0;
	struct err err = {0};

	CU_ASSERT_FATAL(!ftruncate(fd, 1 << 20));
	CU_ASSERT_FATAL(!fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	CU_ASSERT_FATAL(!saved_create(fd, &i, &w, &err));
	for (unsigned k = 0; k < 16 && !rc; k++)
		rc = saved_put_pages(w, k * SAVED_RUN, SAVED_RUN, pages);
	CU_ASSERT(rc < 0);
	CU_ASSERT_EQUAL(saved_put_state(w, state, 1), rc); /* it sticks */
	CU_ASSERT_EQUAL(saved_finish(w, &err), rc);
	saved_free(w);
	CU_ASSERT_EQUAL(check(fd), -EBADMSG);
	close(fd);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"what was put in comes out", test_round_trip},
		{"another size of memory", test_other_size},
		{"used once", test_used},
		{"cut anywhere", test_cut_anywhere},
		{"nothing without its end", test_without_end},
		{"a bit flipped anywhere", test_flip_anywhere},
		{"forged blocks", test_forged},
		{"a full disk", test_full_disk},
	};

	fill();
	return UNIT_MAIN("saved", tests);
}
