/* SPDX-License-Identifier: Apache-2.0
 * test_diskrep_flush - a guest that goes on where it was taken over finds on its disk what was acked, and is told that a flush is
 * done when it is, whatever the standby's own flushes were at.
 */
#include "tests/unit/diskrig.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>

/* fdatasync() of one descriptor can be made to wait, and to fail as the test says. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t news;
	int fd, inside, go_on, error;
	unsigned calls;
} slow = {.lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER, .fd = -1};

int fdatasync(int fd)
{
	int error = 0;

	pthread_mutex_lock(&slow.lock);
	if (fd == slow.fd) {
		slow.calls++;
		slow.inside = 1;
		pthread_cond_broadcast(&slow.news);
		while (!slow.go_on)
			pthread_cond_wait(&slow.news, &slow.lock);
		error = slow.error;
	}
	pthread_mutex_unlock(&slow.lock);
	if (!error)
		return (int)syscall(SYS_fdatasync, fd);
	errno = error;
	return -1;
}

static void slow_begin(int fd, int error)
{
	pthread_mutex_lock(&slow.lock);
	slow.fd = fd;
	slow.error = error;
	slow.inside = slow.go_on = 0;
	slow.calls = 0;
	pthread_mutex_unlock(&slow.lock);
}

static void slow_await(void)
{
	pthread_mutex_lock(&slow.lock);
	while (!slow.inside)
		pthread_cond_wait(&slow.news, &slow.lock);
	pthread_mutex_unlock(&slow.lock);
}

static void slow_go_on(void)
{
	pthread_mutex_lock(&slow.lock);
	slow.go_on = 1;
	pthread_cond_broadcast(&slow.news);
	pthread_mutex_unlock(&slow.lock);
}

/* The guest starts while the flusher is in fdatasync, which ends with @error. */
static void activated_while_flushing(int error)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};

	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_submit(r, BLK_WRITE, 0, 4096, 7);
	rig_capture(r, 1);
	rig_ship(r, 0);
	rig_apply(r, 0);
	rig_ship(r, 1);
	slow_begin(r->sfd, error);
	rig_apply(r, 1);
	slow_await();
	diskrep_inherit(r->dr, r->sb);
	CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, &err), 0);
	rig_settle(r);
	r->done = r->failed = 0;
	rig_submit(r, BLK_FLUSH, 0, 0, 0);
	CU_ASSERT_EQUAL(r->img.flushes, 1);
	CU_ASSERT_EQUAL(r->done, 0); /* carried out, but not answered */
	slow_go_on();
	while (!r->done)
		CU_ASSERT_FATAL(event_base_loop(loop_base(r->loop), EVLOOP_ONCE) >= 0);
	CU_ASSERT_EQUAL(r->failed, error != 0);
	rig_submit(r, BLK_FLUSH, 0, 0, 0);
	CU_ASSERT_EQUAL(r->done, 2);
	CU_ASSERT_EQUAL(r->failed, error ? 2 : 0); /* it stays so */
	CU_ASSERT_EQUAL(slow.calls, 1);
	rig_free(r); /* joins the flusher */
	slow_begin(-1, 0);
}

static void test_flush_hears_of_the_flusher(void)
{
	activated_while_flushing(0);
	activated_while_flushing(EIO);
}

/* The guest starts while what was acked is still on its way into the journal. Its requests wait for that,
 * and its flush until the journal is of no use any more. */
static void test_requests_wait_for_what_was_acked(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	int fd = fileno(tmpfile());
	struct diskrep_journal jc = {.vm = "rig", .fd = fd, .bytes = 1 << 20};
	struct err err = {0};
	uint8_t *model;

	CU_ASSERT_EQUAL(ftruncate(fd, 1 << 20), 0);
	diskrep_standby_destroy(r->sb);
	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create(&r->sfd, 1, 1 << 20, &jc, &r->sb, &err), 0);
	r->s = diskrep_standby_part(r->sb);
	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_submit(r, BLK_WRITE, 0, 4096, 7);
	model = rig_snapshot(r);
	rig_capture(r, 1);
	rig_ship(r, 0);
	rig_apply(r, 0);
	while (journal_state(r->sb->journal) != JOURNAL_LIVE)
		sched_yield();
	rig_ship(r, 1);
	slow_begin(fd, 0);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 1, &err), 0);
	diskrep_inherit(r->dr, r->sb);
	CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, &err), 0);
	slow_await();
	r->done = r->failed = 0;
	rig_submit(r, BLK_READ, 0, 512, 0);
	rig_submit(r, BLK_WRITE, 8192, 512, 3);
	rig_submit(r, BLK_FLUSH, 0, 0, 0);
	CU_ASSERT(!r->done && !r->img.reads && !r->img.flushes);
	CU_ASSERT_FALSE(rig_standby_is(r, model));
	/* Nor does the next standby get what is stale. */
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), -EAGAIN);
	slow_go_on();
	while (!r->img.reads)
		CU_ASSERT_FATAL(event_base_loop(loop_base(r->loop), EVLOOP_ONCE) >= 0);
	CU_ASSERT_TRUE(rig_standby_is(r, model));
	while (r->done < 3)
		CU_ASSERT_FATAL(event_base_loop(loop_base(r->loop), EVLOOP_ONCE) >= 0);
	CU_ASSERT_EQUAL(r->failed, 0);
	CU_ASSERT_EQUAL(journal_state(r->sb->journal), JOURNAL_OWNED);
	slow_begin(-1, 0);
	free(model);
	rig_free(r);
	(void)close(fd); /* its content does not matter any more */
}

/* fdatasyncs of a flusher that was abandoned while it gathered. */
static unsigned flushes_after_abandon(struct rig *r)
{
	drs_flusher_stop(&r->sb->flusher);
	CU_ASSERT_EQUAL(drs_flusher_start(&r->sb->flusher, r->sb), 0);
	slow_begin(r->sfd, 0);
	slow_go_on();
	drs_flusher_kick(&r->sb->flusher, 0);
	(void)nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	drs_flusher_finish(&r->sb->flusher);
	drs_flusher_stop(&r->sb->flusher);
	return slow.calls;
}

/* The guest starts while the flusher still gathers: then it does not flush any more. */
static void test_an_abandoned_flusher_is_quiet(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	unsigned quiet = 0;

	/* Whether it has begun to gather, or has done so already, cannot be seen from here; of ten
	 * times it is still at it in most. */
	for (int i = 0; i < 10; i++)
		quiet += flushes_after_abandon(r) == 0;
	CU_ASSERT_TRUE(quiet >= 5);
	rig_free(r); /* joins the flusher */
	slow_begin(-1, 0);
}

/* A disk that is closed while its flush waits for the flusher. */
static void test_closed_while_a_flush_waits(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};

	r->img.inline_done = 1;
	diskrep_inherit(r->dr, r->sb);
	slow_begin(r->sfd, 0);
	drs_flusher_kick(&r->sb->flusher, 1);
	slow_await();
	CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, &err), 0);
	rig_settle(r);
	rig_submit(r, BLK_FLUSH, 0, 0, 0);
	CU_ASSERT_EQUAL(r->done, 0);
	dr_flushes_end(r->disk.self);
	CU_ASSERT_EQUAL(r->failed, 1);
	slow_go_on();
	rig_free(r);
	slow_begin(-1, 0);
}

static void test_failed_flush_ends_trust(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	struct err err = {0};
	struct img good;
	int closed = dup(0);

	r->img.inline_done = 1;
	rig_sync(r, 1);
	rig_capture(r, 0);
	rig_ship(r, 0);
	rig_apply(r, 0);
	drs_flusher_stop(&r->sb->flusher);
	/* fdatasync of a closed descriptor fails, as that of a broken disk does. */
	close(closed);
	good = r->sb->img[0].io;
	r->sb->img[0].io = img_of_fd(closed);
	CU_ASSERT_EQUAL(drs_flusher_start(&r->sb->flusher, r->sb), 0);
	drs_flusher_kick(&r->sb->flusher, 1);
	while (!drs_flusher_failed(&r->sb->flusher))
		sched_yield();
	r->sb->img[0].io = good;
	rig_capture(r, 1);
	CU_ASSERT_EQUAL(r->p.ops->send(r->p.self, 1, &r->sink, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 1, &err), -EIO);
	CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, &err), -EBADF);
	rig_free(r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a failed flush ends trust", test_failed_flush_ends_trust},
		{"the guest's flush hears of the flusher's",
		 test_flush_hears_of_the_flusher},
		{"requests wait for what was acked",
		 test_requests_wait_for_what_was_acked},
		{"an abandoned flusher is quiet", test_an_abandoned_flusher_is_quiet},
		{"closed while a flush waits", test_closed_while_a_flush_waits},
	};

	return UNIT_MAIN("diskrep_flush", tests);
}
