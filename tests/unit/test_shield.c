/* SPDX-License-Identifier: Apache-2.0
 * test_shield - which errors of an image reach who uses it, which wait, and who is told.
 */
#include "tests/unit/unit.h"

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/shield.h"

#include <errno.h>
#include <event2/event.h>

enum { TOLD_MAX = 64 };

/* An image that answers at once, with what the test wants. */
static int answer, sync_answer;
static unsigned submitted, closed;
static struct loop *loop;
static struct shield *shield;
static struct blk blk;
static struct shield_fault told[TOLD_MAX];
static unsigned n_told;

struct io {
	struct blk_req r;
	int done, status;
};

static void image_submit(void *self, struct blk_req *r)
{
	submitted++;
	r->done(r, answer);
}

static uint64_t image_capacity(void *self)
{
	return 1 << 20;
}

static void image_close(void *self)
{
	closed++;
}

static const struct blk_ops image_ops = {.name = "image",
					 .submit = image_submit,
					 .capacity = image_capacity,
					 .close = image_close};

static int image_sync(void *self)
{
	return sync_answer;
}

static const struct img_ops sync_ops = {.name = "image", .sync = image_sync};

static void on_news(void *arg, const struct shield_fault *f)
{
	if (n_told < TOLD_MAX)
		told[n_told++] = *f;
}

static void on_done(struct blk_req *r, int status)
{
	struct io *io = (struct io *)r;

	io->done++;
	io->status = status;
}

static void begin(void)
{
	struct shield_news news = {.fn = on_news};
	struct err err = {0};

	answer = sync_answer = 0;
	submitted = closed = n_told = 0;
	CU_ASSERT_EQUAL_FATAL(loop_create(&loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(shield_create((struct blk){.ops = &image_ops}, loop, news,
					    &shield, &blk, &err),
			      0);
}

static void end(void)
{
	blk.ops->close(blk.self);
	CU_ASSERT_EQUAL(closed, 1);
	loop_destroy(loop);
}

static void start(struct io *io, enum blk_op op)
{
	*io = (struct io){.r = {.op = op, .offset = 512, .done = on_done}};
	blk.ops->submit(blk.self, &io->r);
}

static unsigned waiting(void)
{
	struct shield_stats st;

	shield_stats(shield, &st);
	return st.waiting;
}

static void turn(void)
{
	if (event_base_loop(loop_base(loop), EVLOOP_ONCE) < 0)
		abort();
}

/* Until it was tried again, once more at least. */
static void await_try(void)
{
	unsigned before = submitted;

	while (submitted == before)
		turn();
}

static void await_told(enum shield_what what)
{
	while (!n_told || told[n_told - 1].what != what)
		turn();
}

static void what_works_passes(void)
{
	struct io io;

	begin();
	CU_ASSERT_EQUAL(blk.ops->capacity(blk.self), 1 << 20);
	start(&io, BLK_WRITE);
	CU_ASSERT_EQUAL(io.done, 1);
	CU_ASSERT_EQUAL(io.status, 0);
	CU_ASSERT_EQUAL(n_told, 0);
	end();
}

static void alone_the_guest_sees_it(void)
{
	static const enum blk_op ops[] = {BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD};
	struct shield_stats st;
	struct io io;

	begin();
	answer = -EIO;
	for (unsigned i = 0; i < 4; i++) {
		start(&io, ops[i]);
		CU_ASSERT_EQUAL(io.done, 1);
		CU_ASSERT_EQUAL(io.status, -EIO);
	}
	shield_stats(shield, &st);
	CU_ASSERT_EQUAL(st.errors, 4);
	CU_ASSERT_EQUAL(st.answered, 4);
	CU_ASSERT_EQUAL(st.waiting, 0);
	CU_ASSERT_EQUAL(st.last.op, BLK_DISCARD);
	/* One line for them all. */
	CU_ASSERT_EQUAL(n_told, 1);
	CU_ASSERT_EQUAL(told[0].what, SHIELD_ANSWERED);
	CU_ASSERT_EQUAL(told[0].rc, -EIO);
	CU_ASSERT_EQUAL(told[0].offset, 512);
	end();
}

static void a_full_disk_waits_for_room(void)
{
	static const int full[] = {-ENOSPC, -EDQUOT};
	struct io io;

	for (unsigned i = 0; i < 2; i++) {
		begin();
		answer = full[i];
		start(&io, BLK_WRITE);
		await_try();
		await_try();
		CU_ASSERT_EQUAL(io.done, 0);
		CU_ASSERT_EQUAL(waiting(), 1);
		CU_ASSERT_EQUAL(n_told, 1);
		CU_ASSERT_EQUAL(told[0].what, SHIELD_FULL);
		answer = 0;
		await_try();
		CU_ASSERT_EQUAL(io.done, 1);
		CU_ASSERT_EQUAL(io.status, 0);
		CU_ASSERT_EQUAL(waiting(), 0);
		await_told(SHIELD_MENDED);
		CU_ASSERT_EQUAL(n_told, 2);
		end();
	}
}

static void others_go_on_meanwhile(void)
{
	struct io full, io;

	begin();
	answer = -ENOSPC;
	start(&full, BLK_WRITE);
	answer = 0;
	start(&io, BLK_READ);
	CU_ASSERT_EQUAL(io.done, 1);
	start(&io, BLK_FLUSH);
	CU_ASSERT_EQUAL(io.done, 1);
	CU_ASSERT_EQUAL(full.done, 0);
	end();
	CU_ASSERT_EQUAL(full.status, -ENOSPC);
}

static void protected_nothing_is_seen(void)
{
	struct io rd, wr, fl;

	begin();
	shield_all(shield, 1);
	answer = -EIO;
	start(&rd, BLK_READ);
	start(&wr, BLK_WRITE);
	start(&fl, BLK_FLUSH);
	CU_ASSERT_EQUAL(n_told, 1);
	CU_ASSERT_EQUAL(told[0].what, SHIELD_HELD);
	await_try();
	CU_ASSERT_EQUAL(rd.done + wr.done + fl.done, 0);
	CU_ASSERT_EQUAL(waiting(), 3);
	/* The disk is well again, and the flush has failed all the same. */
	answer = 0;
	await_try();
	CU_ASSERT_EQUAL(rd.done, 1);
	CU_ASSERT_EQUAL(rd.status, 0);
	CU_ASSERT_EQUAL(wr.done, 1);
	CU_ASSERT_EQUAL(fl.done, 0);
	CU_ASSERT_EQUAL(waiting(), 1);
	/* Nobody has taken over. */
	shield_all(shield, 0);
	while (!fl.done)
		turn();
	CU_ASSERT_EQUAL(fl.status, -EIO);
	end();
}

static void alone_again_it_is_tried_once_more(void)
{
	struct io rd, wr;

	begin();
	shield_all(shield, 1);
	answer = -EIO;
	start(&rd, BLK_READ);
	answer = -ENOSPC;
	start(&wr, BLK_WRITE);
	CU_ASSERT_EQUAL(waiting(), 2);
	shield_all(shield, 0);
	await_try();
	/* Both found a full disk now. */
	CU_ASSERT_EQUAL(rd.done + wr.done, 0);
	answer = -EIO;
	while (!rd.done || !wr.done)
		turn();
	CU_ASSERT_EQUAL(rd.status, -EIO);
	CU_ASSERT_EQUAL(wr.status, -EIO);
	end();
}

static void a_flush_that_found_no_room_has_failed(void)
{
	struct io io;

	begin();
	answer = -ENOSPC;
	start(&io, BLK_FLUSH);
	CU_ASSERT_EQUAL(io.done, 1);
	CU_ASSERT_EQUAL(io.status, -ENOSPC);
	end();
}

static void what_is_no_fault_is_answered(void)
{
	static const int no_fault[] = {-EOPNOTSUPP, -EINVAL, -EROFS, -ENOMEM, -EAGAIN};
	struct io io;

	begin();
	shield_all(shield, 1);
	for (unsigned i = 0; i < 5; i++) {
		answer = no_fault[i];
		start(&io, BLK_DISCARD);
		CU_ASSERT_EQUAL(io.done, 1);
		CU_ASSERT_EQUAL(io.status, no_fault[i]);
	}
	CU_ASSERT_EQUAL(n_told, 0);
	end();
}

static void an_error_told_to_another_is_told_to_the_guest(void)
{
	struct img img;
	struct io io;

	begin();
	img = shield_img(shield, (struct img){.ops = &sync_ops});
	CU_ASSERT_EQUAL(img_sync(img), 0);
	start(&io, BLK_FLUSH);
	CU_ASSERT_EQUAL(io.status, 0);
	sync_answer = -EIO;
	CU_ASSERT_EQUAL(img_sync(img), -EIO);
	sync_answer = 0;
	CU_ASSERT_EQUAL(img_sync(img), 0);
	start(&io, BLK_READ);
	CU_ASSERT_EQUAL(io.status, 0);
	start(&io, BLK_FLUSH);
	CU_ASSERT_EQUAL(io.status, -EIO);
	start(&io, BLK_FLUSH);
	CU_ASSERT_EQUAL(io.status, 0);
	/* An image that cannot be flushed by nature owes nothing. */
	sync_answer = -EROFS;
	CU_ASSERT_EQUAL(img_sync(img), -EROFS);
	start(&io, BLK_FLUSH);
	CU_ASSERT_EQUAL(io.status, 0);
	end();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"what works passes", what_works_passes},
		{"alone, the guest sees it", alone_the_guest_sees_it},
		{"a full disk waits for room", a_full_disk_waits_for_room},
		{"others go on meanwhile", others_go_on_meanwhile},
		{"protected, nothing is seen", protected_nothing_is_seen},
		{"alone again, it is tried once more", alone_again_it_is_tried_once_more},
		{"a flush that found no room has failed",
		 a_flush_that_found_no_room_has_failed},
		{"what is no fault is answered", what_is_no_fault_is_answered},
		{"an error told to another is told to the guest",
		 an_error_told_to_another_is_told_to_the_guest},
	};

	return UNIT_MAIN("shield", tests);
}
