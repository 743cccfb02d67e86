/* SPDX-License-Identifier: Apache-2.0
 * test_raw - raw images over io_uring, on real files.
 */
#include "tests/unit/unit.h"

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/blk.h"

#include <dlfcn.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGE = 1 << 20 };

/* A request and what became of it. */
struct io {
	struct blk_req r;
	int done, status;
};

/* What goes to the kernel, and how often. */
static unsigned calls, given;

int io_uring_submit(struct io_uring *ring)
{
	static int (*real)(struct io_uring * ring);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
	CU_ASSERT_PTR_NOT_NULL_FATAL(real);
	given += io_uring_sq_ready(ring);
	calls += io_uring_sq_ready(ring) != 0;
	return real(ring);
}

static char dir[] = "/tmp/rhea-raw-XXXXXX", path[64];
static struct loop *loop;
static struct blk blk;

static void on_done(struct blk_req *r, int status)
{
	struct io *io = (struct io *)r;

	io->done++;
	io->status = status;
}

static void open_image(int flags)
{
	struct err err = {0};
	int fd = open(path, flags | O_CLOEXEC, 0600);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL_FATAL(loop_create(&loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(raw_open(fd, loop, &blk, &err), 0);
}

static void new_image(off_t size)
{
	int fd;

	(void)unlink(path); /* the first time there is none */
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CU_ASSERT_FATAL(fd >= 0 && ftruncate(fd, size) == 0);
	close(fd);
	open_image(O_RDWR);
}

static void close_image(void)
{
	blk.ops->close(blk.self);
	loop_destroy(loop);
}

static void start(struct io *io, enum blk_op op, uint64_t offset, uint32_t len, int fill)
{
	*io = (struct io){.r = {.op = op, .offset = offset, .len = len, .done = on_done}};
	if (op == BLK_READ || op == BLK_WRITE) {
		io->r.data = blk_data_new(len);
		CU_ASSERT_PTR_NOT_NULL_FATAL(io->r.data);
		memset(io->r.data->bytes, fill, len);
	}
	blk.ops->submit(blk.self, &io->r);
}

static void finish(struct io *io)
{
	while (!io->done)
		if (event_base_loop(loop_base(loop), EVLOOP_ONCE) < 0)
			abort();
	CU_ASSERT_EQUAL(io->done, 1);
}

/* Run one to its end; returns the status. */
static int run(struct io *io, enum blk_op op, uint64_t offset, uint32_t len, int fill)
{
	start(io, op, offset, len, fill);
	finish(io);
	return io->status;
}

/* All of @len bytes at @offset are @want, as another reader of the file sees it. */
static int file_is(uint64_t offset, uint32_t len, int want)
{
	uint8_t *p = malloc(len);
	int fd = open(path, O_RDONLY | O_CLOEXEC), ok;

	ok = p && fd >= 0 && pread(fd, p, len, (off_t)offset) == (ssize_t)len;
	for (uint32_t i = 0; ok && i < len; i++)
		ok = p[i] == want;
	close(fd);
	free(p);
	return ok;
}

static void writes_and_reads(void)
{
	struct io io;

	new_image(IMAGE);
	CU_ASSERT_EQUAL(blk.ops->capacity(blk.self), IMAGE);
	CU_ASSERT_EQUAL(run(&io, BLK_WRITE, 4096, 8192, 0xA5), 0);
	blk_data_put(io.r.data);
	CU_ASSERT_TRUE(file_is(4096, 8192, 0xA5));
	CU_ASSERT_TRUE(file_is(0, 4096, 0));
	CU_ASSERT_EQUAL(run(&io, BLK_READ, 8192, 4096, 0), 0);
	CU_ASSERT_EQUAL(io.r.data->bytes[0], 0xA5);
	CU_ASSERT_EQUAL(io.r.data->bytes[4095], 0xA5);
	blk_data_put(io.r.data);
	CU_ASSERT_EQUAL(run(&io, BLK_FLUSH, 0, 0, 0), 0);
	close_image();
}

static void forced_writes_are_done(void)
{
	struct io io = {.r = {.op = BLK_WRITE, .len = 512, .fua = 1, .done = on_done}};

	new_image(IMAGE);
	io.r.data = blk_data_new(512);
	memset(io.r.data->bytes, 9, 512);
	blk.ops->submit(blk.self, &io.r);
	finish(&io);
	CU_ASSERT_EQUAL(io.status, 0);
	CU_ASSERT_TRUE(file_is(0, 512, 9));
	blk_data_put(io.r.data);
	close_image();
}

static void zeroes_and_holes(void)
{
	struct stat before, after;
	struct io io;

	new_image(IMAGE);
	CU_ASSERT_EQUAL(run(&io, BLK_WRITE, 0, IMAGE / 2, 7), 0);
	blk_data_put(io.r.data);
	CU_ASSERT_EQUAL(run(&io, BLK_FLUSH, 0, 0, 0), 0);
	CU_ASSERT_EQUAL(run(&io, BLK_ZEROES, 512, 200 << 10, 0), 0);
	CU_ASSERT_TRUE(file_is(0, 512, 7));
	CU_ASSERT_TRUE(file_is(512, 200 << 10, 0));
	CU_ASSERT_TRUE(file_is(512 + (200 << 10), 512, 7));
	CU_ASSERT_EQUAL(stat(path, &before), 0);
	CU_ASSERT_EQUAL(run(&io, BLK_DISCARD, 256 << 10, 256 << 10, 0), 0);
	CU_ASSERT_EQUAL(stat(path, &after), 0);
	CU_ASSERT_TRUE(after.st_blocks < before.st_blocks);
	CU_ASSERT_EQUAL(after.st_size, IMAGE);
	CU_ASSERT_TRUE(file_is(256 << 10, 256 << 10, 0));
	close_image();
}

/* A file system without the range operation: a memfd has none for zeroes. */
static void zeroes_without_help_are_written(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC), copy;
	struct err err = {0};
	uint8_t want[512], got[512];
	struct io io;

	CU_ASSERT_FATAL(fd >= 0 && ftruncate(fd, IMAGE) == 0);
	copy = dup(fd);
	CU_ASSERT_FATAL(copy >= 0);
	CU_ASSERT_EQUAL_FATAL(loop_create(&loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(raw_open(fd, loop, &blk, &err), 0);
	CU_ASSERT_EQUAL(run(&io, BLK_WRITE, 0, IMAGE, 3), 0);
	blk_data_put(io.r.data);
	CU_ASSERT_EQUAL(run(&io, BLK_ZEROES, 512, IMAGE - 1024, 0), 0);
	memset(want, 3, sizeof(want));
	CU_ASSERT_EQUAL(pread(copy, got, 512, 0), 512);
	CU_ASSERT_EQUAL(memcmp(got, want, 512), 0);
	CU_ASSERT_EQUAL(pread(copy, got, 512, IMAGE - 512), 512);
	CU_ASSERT_EQUAL(memcmp(got, want, 512), 0);
	memset(want, 0, sizeof(want));
	for (off_t at = 512; at < IMAGE - 512; at += 512)
		if (pread(copy, got, 512, at) != 512 || memcmp(got, want, 512) != 0) {
			CU_FAIL("a sector is not zero");
			break;
		}
	close(copy);
	close_image();
}

static void many_at_once_all_end(void)
{
	static struct io io[600];
	unsigned wrong = 0;

	new_image(IMAGE);
	for (unsigned i = 0; i < 600; i++)
		start(&io[i], BLK_WRITE, i * 512, 512, (int)(i % 251));
	for (unsigned i = 0; i < 600; i++) {
		finish(&io[i]);
		blk_data_put(io[i].r.data);
		wrong += io[i].status != 0 || !file_is(i * 512, 512, (int)(i % 251));
	}
	CU_ASSERT_EQUAL(wrong, 0);
	close_image();
}

static void close_waits_for_what_is_in_flight(void)
{
	static struct io io[300];

	new_image(IMAGE);
	for (unsigned i = 0; i < 300; i++)
		start(&io[i], BLK_WRITE, i * 512, 512, 1);
	close_image();
	for (unsigned i = 0; i < 300; i++) {
		CU_ASSERT_EQUAL(io[i].done, 1);
		blk_data_put(io[i].r.data);
	}
	CU_ASSERT_TRUE(file_is(0, 300 * 512, 1));
}

static struct io orphans[120];

static void *submit_and_end(void *arg)
{
	for (unsigned i = 0; i < 120; i++)
		start(&orphans[i], i % 2 ? BLK_WRITE : BLK_FLUSH, 0, i % 2 ? IMAGE : 0,
		      1);
	return NULL;
}

/* After a takeover a thread that soon ends starts again what was under way. Linux 6.1 and 6.18 carry
 * all of it out; this tells should one cancel it and that not be made up for. */
static void what_an_ended_thread_began_is_done(void)
{
	unsigned wrong = 0;
	pthread_t t;

	new_image(IMAGE);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, submit_and_end, NULL), 0);
	pthread_join(t, NULL);
	for (unsigned i = 0; i < 120; i++) {
		finish(&orphans[i]);
		blk_data_put(orphans[i].r.data);
		wrong += orphans[i].status != 0;
	}
	CU_ASSERT_EQUAL(wrong, 0);
	close_image();
}

static void errors_are_told(void)
{
	struct io io;

	new_image(IMAGE);
	close_image();
	open_image(O_RDONLY);
	CU_ASSERT_EQUAL(run(&io, BLK_WRITE, 0, 512, 1), -EBADF);
	blk_data_put(io.r.data);
	/* Somebody cuts the image under us. */
	CU_ASSERT_EQUAL(truncate(path, 4096), 0);
	CU_ASSERT_EQUAL(run(&io, BLK_READ, 2048, 4096, 0), -EIO);
	blk_data_put(io.r.data);
	close_image();
}

static void odd_ends_are_not_shown(void)
{
	new_image(IMAGE + 100);
	CU_ASSERT_EQUAL(blk.ops->capacity(blk.self), IMAGE);
	close_image();
}

static void what_is_no_image_is_refused(void)
{
	struct err err = {0};
	int fds[2], fd = memfd_create("empty", MFD_CLOEXEC);

	CU_ASSERT_EQUAL_FATAL(loop_create(&loop, &err), 0);
	CU_ASSERT_EQUAL(raw_open(fd, loop, &blk, &err), -EINVAL);
	CU_ASSERT_PTR_NULL(blk.ops);
	CU_ASSERT_EQUAL_FATAL(pipe(fds), 0);
	CU_ASSERT_EQUAL(raw_open(fds[0], loop, &blk, &err), -EINVAL);
	close(fds[1]);
	CU_ASSERT_EQUAL(fcntl(fd, F_GETFD), -1); /* taken, also in failure */
	loop_destroy(loop);
}

static void data_is_shared(void)
{
	struct blk_data *d = blk_data_new(16);

	CU_ASSERT_PTR_NOT_NULL_FATAL(d);
	CU_ASSERT_EQUAL(d->len, 16);
	CU_ASSERT_PTR_EQUAL(blk_data_get(d), d);
	blk_data_put(d);
	d->bytes[15] = 1; /* still there: the sanitizer would tell */
	blk_data_put(d);
	blk_data_put(NULL);
}

/* A guest's sixteen requests in one turn of the loop cost one system call, and nothing before it. */
static void one_turn_goes_together(void)
{
	struct io io[16];

	new_image(IMAGE);
	calls = given = 0;
	for (int i = 0; i < 16; i++)
		start(&io[i], BLK_WRITE, (uint64_t)i * 8192, 4096, i + 1);
	CU_ASSERT_EQUAL(calls, 0);
	for (int i = 0; i < 16; i++)
		finish(&io[i]);
	CU_ASSERT_EQUAL(given, 16);
	CU_ASSERT_EQUAL(calls, 1);
	for (int i = 0; i < 16; i++) {
		CU_ASSERT_EQUAL(io[i].status, 0);
		CU_ASSERT_TRUE(file_is((uint64_t)i * 8192, 4096, i + 1));
		blk_data_put(io[i].r.data);
	}
	close_image();
}

/* Bytes that are given back may be anybody's next; two at one time never share any. */
static void bytes_are_used_again(void)
{
	static const uint32_t len[] = {1, 512, 4096, 4097, 16384, 65536, 65537, 1 << 20};
	struct blk_data *d[64];
	unsigned seed = 3;

	for (unsigned turn = 0; turn < 20; turn++) {
		for (unsigned i = 0; i < 64; i++) {
			d[i] = blk_data_new(len[(unsigned)rand_r(&seed) % 8]);
			CU_ASSERT_PTR_NOT_NULL_FATAL(d[i]);
			memset(d[i]->bytes, (int)i, d[i]->len);
		}
		for (unsigned i = 0; i < 64; i++) {
			CU_ASSERT_EQUAL(d[i]->bytes[0], i);
			CU_ASSERT_EQUAL(d[i]->bytes[d[i]->len - 1], i);
		}
		for (unsigned i = 0; i < 64; i++)
			blk_data_put(d[i]);
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"writes and reads", writes_and_reads},
		{"forced writes are done", forced_writes_are_done},
		{"zeroes and holes", zeroes_and_holes},
		{"zeroes without help are written", zeroes_without_help_are_written},
		{"many at once all end", many_at_once_all_end},
		{"close waits for what is in flight", close_waits_for_what_is_in_flight},
		{"what an ended thread began is done",
		 what_an_ended_thread_began_is_done},
		{"errors are told", errors_are_told},
		{"odd ends are not shown", odd_ends_are_not_shown},
		{"what is no image is refused", what_is_no_image_is_refused},
		{"data is shared", data_is_shared},
		{"one turn goes together", one_turn_goes_together},
		{"bytes are used again", bytes_are_used_again},
	};
	int rc;

	if (!mkdtemp(dir))
		return 2;
	snprintf(path, sizeof(path), "%s/image", dir);
	rc = UNIT_MAIN("raw", tests);
	(void)unlink(path); /* clean-up of a temporary directory: nobody waits for it */
	(void)rmdir(dir);
	return rc;
}
