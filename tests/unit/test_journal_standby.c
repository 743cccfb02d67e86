/* SPDX-License-Identifier: Apache-2.0
 * test_journal_standby - a standby over its journal: what it tells to be durable, and disks that are slow
 * or fail.
 */
#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"
#include "tests/unit/crashrig.h"

#include <sched.h>
#include <unistd.h>

static const uint64_t sizes[CR_FILES] = {16 << 10, 16 << 10, 16 << 10, CR_BYTES};
static const uint8_t base[DR_BASE_LEN] = {1, 2, 3};

struct sb {
	struct cr_rig *r;
	struct diskrep_standby *s;
	struct standby_part p;
	enum diskrep_image image;
	unsigned news;
	char why[200];
	pthread_mutex_t lock;
	uint64_t next;
};

/* The journal's flushes wait while @shut. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t news;
	int shut, waiting;
	unsigned failing; /* a bit each: the next flushes that fail, the lowest first */
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER};

static void gate_set(int shut)
{
	pthread_mutex_lock(&gate.lock);
	gate.shut = shut;
	pthread_cond_broadcast(&gate.news);
	pthread_mutex_unlock(&gate.lock);
}

static int slow_sync(void *self, unsigned file)
{
	int fails = 0;

	pthread_mutex_lock(&gate.lock);
	while (file == DR_IO_JOURNAL && gate.shut) {
		gate.waiting = 1;
		pthread_cond_broadcast(&gate.news);
		pthread_cond_wait(&gate.news, &gate.lock);
	}
	gate.waiting = 0;
	if (file == DR_IO_JOURNAL) {
		fails = gate.failing & 1;
		gate.failing >>= 1;
	}
	pthread_mutex_unlock(&gate.lock);
	return fails ? -EIO : cr_sync(self, file);
}

static const struct dr_io_ops slow_ops = {
	.read = cr_read, .write = cr_write, .erase = cr_erase, .sync = slow_sync};

static void on_news(void *arg, enum diskrep_image image, const char *why)
{
	struct sb *b = arg;

	pthread_mutex_lock(&b->lock);
	b->image = image;
	b->news++;
	(void)snprintf(b->why, sizeof(b->why), "%s", why);
	pthread_mutex_unlock(&b->lock);
}

static void await_image(struct sb *b, enum diskrep_image image)
{
	int there = 0;

	while (!there) {
		pthread_mutex_lock(&b->lock);
		there = b->news && b->image == image;
		pthread_mutex_unlock(&b->lock);
		sched_yield();
	}
}

static struct sb *sb_new(size_t limit)
{
	struct diskrep_journal jc = {.vm = "web", .fd = 0, .bytes = CR_BYTES};
	struct sb *b = calloc(1, sizeof(*b));
	struct dr_io io = {.ops = &slow_ops};
	struct err err = {0};
	int fd[3];

	pthread_mutex_init(&b->lock, NULL);
	b->r = cr_new(sizes);
	b->r->recording = 0;
	io.self = b->r;
	for (unsigned i = 0; i < 3; i++) {
		FILE *f = tmpfile();

		CU_ASSERT_PTR_NOT_NULL_FATAL(f);
		fd[i] = fileno(f);
		CU_ASSERT_EQUAL(ftruncate(fd[i], (off_t)sizes[i]), 0);
	}
	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create_on(fd, 3, limit, &jc, &io, &b->s, &err), 0);
	b->s->stage_max = limit;
	b->p = diskrep_standby_part(b->s);
	diskrep_standby_on_news(b->s, (struct diskrep_news){.fn = on_news, .arg = b});
	return b;
}

static void sb_free(struct sb *b)
{
	b->p.ops->teardown(b->p.self);
	diskrep_standby_destroy(b->s);
	cr_free(b->r);
	free(b);
}

static int sb_record(struct sb *b, uint16_t type, uint64_t epoch, const void *head,
		     size_t len, size_t data)
{
	uint8_t *p = calloc(1, len + data);
	struct err err = {0};
	int rc;

	memcpy(p, head, len);
	memset(p + len, (int)epoch, data);
	rc = b->p.ops->record(b->p.self, type, epoch, p, len + data, &err);
	CU_ASSERT_EQUAL(err.code, rc);
	free(p);
	return rc;
}

/* Stage one epoch with @len bytes for disk 0, check it and hand it over. 0 or the first error. */
static int sb_epoch(struct sb *b, uint32_t len)
{
	struct dr_wire_write w = {.len = le32_of(len)};
	struct dr_wire_barrier z = {.count = le32_of(len ? 1 : 0),
				    .bytes = le64_of(len ? sizeof(w) + len : 0)};
	struct err err = {0};
	int rc = len ? sb_record(b, DR_REC_WRITE, b->next, &w, sizeof(w), len) : 0;

	rc = rc ? rc : sb_record(b, DR_REC_BARRIER, b->next, &z, sizeof(z), 0);
	rc = rc ? rc : b->p.ops->check(b->p.self, b->next, &err);
	rc = rc ? rc : b->p.ops->apply(b->p.self, b->next, &err);
	b->next += !rc;
	return rc;
}

static int no_sink(struct rec_sink *s, uint16_t type, uint64_t epoch,
		   const struct iovec *iov, int n)
{
	return 0;
}

static void sb_begin(struct sb *b)
{
	struct rec_sink sink = {.put = no_sink};
	struct err err = {0};

	CU_ASSERT_EQUAL(b->p.ops->hello(b->p.self, &sink, &err), 0);
	b->next = 0;
	CU_ASSERT_EQUAL(sb_record(b, DR_REC_BASE, REC_EPOCH_SYNC, base, sizeof(base), 0),
			0);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
}

static uint64_t durable(struct sb *b)
{
	struct diskrep_durable d;

	diskrep_standby_durable(b->s, &d);
	return d.epoch;
}

static void test_durable_is_told(void)
{
	struct sb *b = sb_new(1 << 20);

	CU_ASSERT_EQUAL(durable(b), UINT64_MAX);
	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	CU_ASSERT_EQUAL(durable(b), 0);
	for (unsigned i = 0; i < 10; i++)
		CU_ASSERT_EQUAL(sb_epoch(b, i % 2 ? 4096 : 0), 0);
	while (durable(b) != 10)
		sched_yield();
	/* The link is lost: what was acked is made durable at once, and that is told. */
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
	b->p.ops->drop(b->p.self);
	await_image(b, DISKREP_ALL);
	CU_ASSERT_EQUAL(durable(b), 11);
	sb_free(b);
}

struct pusher {
	struct sb *b;
	unsigned n, done;
	int rc;
	pthread_mutex_t lock;
};

static void *push(void *arg)
{
	struct pusher *p = arg;

	for (unsigned i = 0; !p->rc && i < p->n; i++) {
		p->rc = sb_epoch(p->b, 4096);
		pthread_mutex_lock(&p->lock);
		p->done++;
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

static size_t staged(struct sb *b)
{
	size_t n;

	pthread_mutex_lock(&b->s->applier.lock);
	n = b->s->applier.staged;
	pthread_mutex_unlock(&b->s->applier.lock);
	return n;
}

static unsigned pushed(struct pusher *p)
{
	unsigned n;

	pthread_mutex_lock(&p->lock);
	n = p->done;
	pthread_mutex_unlock(&p->lock);
	return n;
}

/* A journal whose disk does not get done: memory is bounded, the receiver waits, the link stays; and
 * all goes on when the disk does. */
static void test_slow_journal(void)
{
	const size_t limit = 64 << 10;
	struct sb *b = sb_new(limit);
	struct pusher p = {.b = b, .n = 200, .lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t t;

	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	gate_set(1);
	CU_ASSERT_EQUAL(pthread_create(&t, NULL, push, &p), 0);
	/* Full: one more would be over the limit. */
	while (staged(b) + 4096 + sizeof(struct drs_entry) <= limit) {
		CU_ASSERT(staged(b) <= limit);
		sched_yield();
	}
	for (int i = 0; i < 1000; i++)
		sched_yield();
	CU_ASSERT(staged(b) <= limit);
	CU_ASSERT(pushed(&p) < 20);
	CU_ASSERT_EQUAL(durable(b), 0);
	gate_set(0);
	CU_ASSERT_EQUAL(pthread_join(t, NULL), 0);
	CU_ASSERT_EQUAL(p.rc, 0);
	CU_ASSERT_EQUAL(p.done, 200);
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
	CU_ASSERT_EQUAL(durable(b), 200);
	CU_ASSERT_EQUAL(b->r->now.bytes[0][100], 200);
	sb_free(b);
}

/* The images wait for the journal. */
static void test_nothing_before_the_journal(void)
{
	struct sb *b = sb_new(1 << 20);

	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	gate_set(1);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
	pthread_mutex_lock(&gate.lock);
	while (!gate.waiting)
		pthread_cond_wait(&gate.news, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	CU_ASSERT_EQUAL(b->r->now.bytes[0][0], 0);
	gate_set(0);
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
	CU_ASSERT_EQUAL(b->r->now.bytes[0][0], 1);
	sb_free(b);
}

static void set_again(struct sb *b, uint64_t ms)
{
	pthread_mutex_lock(&b->s->applier.lock);
	b->s->applier.again_ms = ms;
	pthread_mutex_unlock(&b->s->applier.lock);
}

/* The journal cannot be written for a while, or not be flushed: it is marked, that is told, and the
 * standby goes on without it; the next link uses it again. */
static void test_journal_fails(void)
{
	static const int with[] = {-EIO, -ENOSPC};

	for (int syncs = 0; syncs < 2; syncs++) {
		struct sb *b = sb_new(1 << 20);

		sb_begin(b);
		await_image(b, DISKREP_WHOLE);
		pthread_mutex_lock(&b->r->lock);
		b->r->fail_file = CR_JOURNAL;
		b->r->fail_with = with[syncs];
		b->r->fail_syncs = syncs;
		b->r->fail_once = 1;
		pthread_mutex_unlock(&b->r->lock);
		set_again(b, AGAIN_MOST_MS);
		CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
		CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
		await_image(b, DISKREP_TORN);
		CU_ASSERT(strstr(b->why, strerror(-with[syncs])) != NULL);
		CU_ASSERT_EQUAL(durable(b), UINT64_MAX);
		CU_ASSERT_EQUAL(journal_state(b->s->journal), JOURNAL_UNSAFE);
		CU_ASSERT_EQUAL(b->r->now.bytes[0][0], 1);
		CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
		b->p.ops->drop(b->p.self);
		sb_begin(b);
		await_image(b, DISKREP_WHOLE);
		while (durable(b) != 0)
			sched_yield();
		CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
		sb_free(b);
	}
}

/* Within the same link: it is tried again, fails in the try, and works in the next one; from there on
 * it holds what was acked. */
static void test_journal_begins_anew(void)
{
	struct diskrep_journal jc = {.vm = "web", .fd = 0, .bytes = CR_BYTES};
	struct journal_disks d = {.vm = "web", .n = 3};
	struct sb *b = sb_new(1 << 20);
	struct journal_found found;
	struct err err = {0};
	struct cr_rig *r = b->r;
	struct dr_io io = {.ops = &cr_ops, .self = r};
	struct journal *j;

	memcpy(d.capacity, sizes, 3 * sizeof(d.capacity[0]));
	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	set_again(b, 0);
	pthread_mutex_lock(&gate.lock);
	gate.failing = 1 << 0 | 1 << 2; /* the epoch's, the try's; not their marks' */
	pthread_mutex_unlock(&gate.lock);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
	await_image(b, DISKREP_TORN);
	CU_ASSERT_EQUAL(durable(b), UINT64_MAX);
	CU_ASSERT_EQUAL(journal_state(b->s->journal), JOURNAL_UNSAFE);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
	await_image(b, DISKREP_WHOLE);
	CU_ASSERT(strstr(b->why, "works again") != NULL);
	CU_ASSERT_EQUAL(journal_state(b->s->journal), JOURNAL_LIVE);
	CU_ASSERT_EQUAL(durable(b), 2);
	for (int i = 0; i < 5; i++)
		CU_ASSERT_EQUAL(sb_epoch(b, 4096), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
	CU_ASSERT_EQUAL(durable(b), 7);
	b->p.ops->teardown(b->p.self);
	diskrep_standby_destroy(b->s);
	CU_ASSERT_EQUAL(journal_open(io, &d, jc.bytes, &j, &found, &err), 0);
	CU_ASSERT_EQUAL(found.state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(found.gen.epoch, 7);
	CU_ASSERT_EQUAL(r->now.bytes[0][4095], 7);
	journal_close(j);
	cr_free(r);
	free(b);
}

/* What an image cannot take is told: the process is of no use any more, and the journal still has it. */
static void test_image_fails(void)
{
	for (int syncs = 0; syncs < 2; syncs++) {
		struct journal_disks d = {.vm = "web", .n = 3};
		struct sb *b = sb_new(1 << 20);
		struct cr_rig *r = b->r;
		struct dr_io io = {.ops = &cr_ops, .self = r};
		struct journal_found found;
		struct err err = {0};
		struct journal *j;

		memcpy(d.capacity, sizes, 3 * sizeof(d.capacity[0]));
		sb_begin(b);
		await_image(b, DISKREP_WHOLE);
		pthread_mutex_lock(&r->lock);
		r->fail_file = 0;
		r->fail_with = syncs ? -EIO : -ENOSPC;
		r->fail_syncs = syncs;
		pthread_mutex_unlock(&r->lock);
		CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
		(void)drs_applier_drain(&b->s->applier); /* its result comes by news */
		drs_flusher_kick(&b->s->flusher, 1);
		await_image(b, DISKREP_LOST);
		CU_ASSERT_EQUAL(sb_epoch(b, 512), -EIO);
		CU_ASSERT(b->p.ops->activate(b->p.self, &err) != 0);
		b->p.ops->teardown(b->p.self);
		diskrep_standby_destroy(b->s);
		/* While it fails, another process comes to no other end; then it gets what was acked. */
		CU_ASSERT(journal_open(io, &d, CR_BYTES, &j, &found, &err) != 0);
		r->fail_file = -1;
		memset(r->now.bytes[0], 0, 512); /* as after a flush that failed */
		CU_ASSERT_EQUAL(journal_open(io, &d, CR_BYTES, &j, &found, &err), 0);
		CU_ASSERT_EQUAL(found.state, JOURNAL_LIVE);
		CU_ASSERT_EQUAL(found.gen.epoch, 1);
		CU_ASSERT_EQUAL(r->now.bytes[0][511], 1);
		journal_close(j);
		cr_free(r);
		free(b);
	}
}

/* The guest goes on here, and an image has no room for what was acked: its requests wait until there is some. */
static void test_no_room_after_takeover(void)
{
	struct sb *b = sb_new(1 << 20);
	struct err err = {0};

	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	gate_set(1);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
	CU_ASSERT_EQUAL(b->p.ops->activate(b->p.self, &err), 0);
	pthread_mutex_lock(&b->r->lock);
	b->r->fail_file = 0;
	b->r->fail_with = -ENOSPC;
	pthread_mutex_unlock(&b->r->lock);
	gate_set(0);
	while (durable(b) != 1 && !journal_room(b->s->journal))
		sched_yield();
	for (int i = 0; i < 1000; i++)
		sched_yield();
	CU_ASSERT_EQUAL(drs_applier_settled(&b->s->applier), -EAGAIN);
	pthread_mutex_lock(&b->r->lock);
	b->r->fail_file = -1;
	pthread_mutex_unlock(&b->r->lock);
	while (drs_applier_settled(&b->s->applier) == -EAGAIN)
		sched_yield();
	CU_ASSERT_EQUAL(drs_applier_settled(&b->s->applier), 0);
	CU_ASSERT_EQUAL(b->r->now.bytes[0][0], 1);
	await_image(b, DISKREP_ALL);
	sb_free(b);
}

/* It cannot even be marked: what it says would be wrong after one more write, so there is none. */
static void test_journal_is_gone(void)
{
	struct sb *b = sb_new(1 << 20);
	struct err err = {0};

	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	pthread_mutex_lock(&b->r->lock);
	b->r->fail_file = CR_JOURNAL;
	b->r->fail_with = -EIO;
	pthread_mutex_unlock(&b->r->lock);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), 0);
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), -EIO);
	await_image(b, DISKREP_LOST);
	CU_ASSERT_EQUAL(b->r->now.bytes[0][0], 0);
	CU_ASSERT_EQUAL(sb_epoch(b, 512), -EIO);
	CU_ASSERT_EQUAL(b->p.ops->activate(b->p.self, &err), -EIO);
	pthread_mutex_lock(&b->r->lock);
	b->r->fail_file = -1;
	pthread_mutex_unlock(&b->r->lock);
	sb_free(b);
}

static void test_epoch_too_large(void)
{
	struct sb *b = sb_new(1 << 20);

	sb_begin(b);
	await_image(b, DISKREP_WHOLE);
	for (int i = 0; i < 3; i++) {
		struct dr_wire_write w = {.len = le32_of(16 << 10)};

		CU_ASSERT_EQUAL(
			sb_record(b, DR_REC_WRITE, b->next, &w, sizeof(w), 16 << 10), 0);
	}
	{
		struct dr_wire_barrier z = {
			.count = le32_of(3),
			.bytes =
				le64_of(3 * (sizeof(struct dr_wire_write) + (16 << 10)))};
		struct err err = {0};

		CU_ASSERT_EQUAL(sb_record(b, DR_REC_BARRIER, b->next, &z, sizeof(z), 0),
				0);
		CU_ASSERT_EQUAL(b->p.ops->check(b->p.self, b->next, &err), 0);
		CU_ASSERT_EQUAL(b->p.ops->apply(b->p.self, b->next, &err), 0);
	}
	CU_ASSERT_EQUAL(drs_applier_drain(&b->s->applier), 0);
	await_image(b, DISKREP_TORN);
	CU_ASSERT(strstr(b->why, "larger than it") != NULL);
	sb_free(b);
}

/* Two bases, one that is none, one that comes late. */
static void test_base_is_checked(void)
{
	static const uint8_t none[DR_BASE_LEN];
	struct sb *b = sb_new(1 << 20);

	sb_begin(b);
	CU_ASSERT_EQUAL(sb_record(b, DR_REC_BASE, REC_EPOCH_SYNC, base, sizeof(base), 0),
			-EBADMSG);
	sb_free(b);
	b = sb_new(1 << 20);
	CU_ASSERT_EQUAL(sb_record(b, DR_REC_BASE, REC_EPOCH_SYNC, none, sizeof(none), 0),
			-EBADMSG);
	CU_ASSERT_EQUAL(sb_record(b, DR_REC_BASE, REC_EPOCH_SYNC, base, 15, 0), -EBADMSG);
	CU_ASSERT_EQUAL(sb_record(b, DR_REC_BASE, REC_EPOCH_SYNC, base, sizeof(base), 1),
			-EBADMSG);
	sb_free(b);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"what is durable is told", test_durable_is_told},
		{"a slow journal", test_slow_journal},
		{"nothing before the journal", test_nothing_before_the_journal},
		{"a journal that fails", test_journal_fails},
		{"a journal that begins anew", test_journal_begins_anew},
		{"a journal that is gone", test_journal_is_gone},
		{"an image that fails", test_image_fails},
		{"no room after a takeover", test_no_room_after_takeover},
		{"an epoch that is too large", test_epoch_too_large},
		{"the base is checked", test_base_is_checked},
	};

	log_init("test", NULL, LOG_LVL_ERR);
	return UNIT_MAIN("journal standby", tests);
}
