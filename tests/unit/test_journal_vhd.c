/* SPDX-License-Identifier: Apache-2.0
 * test_journal_vhd - a standby whose disk is a VHD image: the power goes between what the journal has and
 * what the image has, and recovery brings a dynamic and a differencing image to the epoch that was told.
 */
#include "diskrep/standby.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"
#include "tests/unit/unit.h"
#include "tests/unit/vhdrig.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CAP = 4 << 20, JOURNAL = 4 << 20, EPOCHS = 20 };

/* An image whose flushes wait while @shut. */
struct gate {
	struct img inner;
	pthread_mutex_t lock;
	pthread_cond_t news;
	int shut, within;
};

static int g_read(void *self, void *p, uint64_t len, uint64_t offset)
{
	return img_read(((struct gate *)self)->inner, p, len, offset);
}

static int g_write(void *self, const void *p, uint64_t len, uint64_t offset)
{
	return img_write(((struct gate *)self)->inner, p, len, offset);
}

static int g_erase(void *self, uint64_t offset, uint64_t len)
{
	return img_erase(((struct gate *)self)->inner, offset, len);
}

static uint64_t g_data(void *self, uint64_t offset)
{
	return img_data(((struct gate *)self)->inner, offset);
}

static uint64_t g_hole(void *self, uint64_t offset)
{
	return img_hole(((struct gate *)self)->inner, offset);
}

static int g_sync(void *self)
{
	struct gate *g = self;
	int rc;

	pthread_mutex_lock(&g->lock);
	while (g->shut)
		pthread_cond_wait(&g->news, &g->lock);
	g->within++;
	pthread_mutex_unlock(&g->lock);
	rc = img_sync(g->inner);
	pthread_mutex_lock(&g->lock);
	g->within--;
	pthread_cond_broadcast(&g->news);
	pthread_mutex_unlock(&g->lock);
	return rc;
}

static int g_size(void *self, uint64_t *bytes_out)
{
	return img_size(((struct gate *)self)->inner, bytes_out);
}

static int g_resize(void *self, uint64_t bytes)
{
	return img_resize(((struct gate *)self)->inner, bytes);
}

static const struct img_ops g_ops = {.name = "gate",
				     .read = g_read,
				     .write = g_write,
				     .erase = g_erase,
				     .data = g_data,
				     .hole = g_hole,
				     .sync = g_sync,
				     .size = g_size,
				     .resize = g_resize};

/* Returns when no flush is under way any more. */
static void gate_set(struct gate *g, int shut)
{
	pthread_mutex_lock(&g->lock);
	g->shut = shut;
	pthread_cond_broadcast(&g->news);
	while (shut && g->within)
		pthread_cond_wait(&g->news, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

struct world {
	struct rig_chain c;
	struct gate g;
	int journal;
	struct diskrep_standby *s;
	struct standby_part p;
	struct rig_want want;
	uint32_t records;
	uint64_t bytes;
};

static int no_sink(struct rec_sink *s, uint16_t type, uint64_t epoch,
		   const struct iovec *iov, int n)
{
	return 0;
}

static void record(struct world *w, uint16_t type, uint64_t epoch, const void *p,
		   size_t len)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(w->p.ops->record(w->p.self, type, epoch, p, len, &err), 0);
	CU_ASSERT_STRING_EQUAL(err.msg, "");
	w->records++;
	w->bytes += len;
}

static void guest_wrote(struct world *w, uint64_t epoch, uint64_t at, uint32_t len)
{
	uint8_t *p = malloc(sizeof(struct dr_wire_write) + len);
	struct dr_wire_write h = {.offset = le64_of(at), .len = le32_of(len)};

	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	memset(w->want.bytes + at, (int)(epoch * 7 + at / 512 + 1), len);
	memcpy(p, &h, sizeof(h));
	memcpy(p + sizeof(h), w->want.bytes + at, len);
	record(w, DR_REC_WRITE, epoch, p, sizeof(h) + len);
	free(p);
}

static void guest_erased(struct world *w, uint64_t epoch, uint64_t at, uint64_t len)
{
	struct dr_wire_erase e = {.flags = le32_of(DR_ERASE_DISCARD),
				  .offset = le64_of(at),
				  .len = le64_of(len)};

	memset(w->want.bytes + at, 0, len);
	record(w, DR_REC_ERASE, epoch, &e, sizeof(e));
}

/* Blocks that are new to the image, that are there, and some that go. */
static void one_epoch(struct world *w, uint64_t epoch)
{
	struct dr_wire_barrier z;
	struct err err = {0};

	w->records = 0;
	w->bytes = 0;
	for (unsigned i = 0; i < 4; i++)
		guest_wrote(w, epoch, rig_random() % (CAP / 512 - 16) * 512,
			    (1 + rig_random() % 16) * 512);
	if (epoch % 3 == 1)
		guest_erased(w, epoch, rig_random() % 16 * RIG_BLOCK, 2 * RIG_BLOCK);
	z = (struct dr_wire_barrier){.count = le32_of(w->records),
				     .bytes = le64_of(w->bytes)};
	record(w, DR_REC_BARRIER, epoch, &z, sizeof(z));
	CU_ASSERT_EQUAL(w->p.ops->check(w->p.self, epoch, &err), 0);
	CU_ASSERT_EQUAL(w->p.ops->apply(w->p.self, epoch, &err), 0);
}

static struct diskrep_journal journal_of(int fd)
{
	return (struct diskrep_journal){.vm = "web", .fd = fd, .bytes = JOURNAL};
}

static void copy(const char *from, const char *to)
{
	const char *const argv[] = {"cp", rig_path(from), rig_path(to), NULL};

	CU_ASSERT_EQUAL_FATAL(rig_run(argv), 0);
}

/* In step at epoch 0, which is in the image and flushed. */
static void world_up(struct world *w, const char *const names[])
{
	static const uint8_t base[DR_BASE_LEN] = {1, 2, 3};
	struct rec_sink sink = {.put = no_sink};
	struct diskrep_journal jc;
	struct img img;
	struct err err = {0};

	*w = (struct world){.want = rig_want_new(CAP)};
	CU_ASSERT_EQUAL_FATAL(rig_open(&w->c, names, VHD_WRITE), 0);
	CU_ASSERT_EQUAL(img_read(w->c.img, w->want.bytes, CAP, 0), 0);
	w->g.inner = w->c.img;
	pthread_mutex_init(&w->g.lock, NULL);
	pthread_cond_init(&w->g.news, NULL);
	w->journal = rig_file("journal", O_RDWR | O_CREAT | O_TRUNC);
	CU_ASSERT_EQUAL(ftruncate(w->journal, JOURNAL), 0);
	jc = journal_of(w->journal);
	img = (struct img){&g_ops, &w->g};
	CU_ASSERT_EQUAL_FATAL(
		diskrep_standby_create_img(&img, 1, 1 << 20, &jc, &w->s, &err), 0);
	w->p = diskrep_standby_part(w->s);
	CU_ASSERT_EQUAL(w->p.ops->hello(w->p.self, &sink, &err), 0);
	record(w, DR_REC_BASE, REC_EPOCH_SYNC, base, sizeof(base));
	one_epoch(w, 0);
	while (journal_state(w->s->journal) != JOURNAL_LIVE)
		sched_yield();
}

static void world_down(struct world *w)
{
	w->p.ops->teardown(w->p.self);
	diskrep_standby_destroy(w->s);
	rig_close(&w->c);
	close(w->journal);
	free(w->want.bytes);
	pthread_cond_destroy(&w->g.news);
	pthread_mutex_destroy(&w->g.lock);
}

static void await_durable(struct world *w, uint64_t epoch)
{
	struct diskrep_durable d;

	do {
		sched_yield();
		diskrep_standby_durable(w->s, &d);
	} while (d.epoch != epoch);
}

static void is_recovered(const struct journal_found *f)
{
	CU_ASSERT_EQUAL(f->state, JOURNAL_LIVE);
	CU_ASSERT_EQUAL(f->whole, 1);
	CU_ASSERT_EQUAL(f->gen.epoch, EPOCHS);
}

/* The leaf as @image, and the journal as they were when the power went: to be started from, or to be a
 * standby again. */
static void recover(const struct world *w, const char *image, const char *parent,
		    int cold)
{
	const char *const names[] = {"try", parent, NULL};
	struct diskrep_standby *s = NULL;
	struct diskrep_journal jc;
	struct journal_found f;
	struct rig_chain c;
	struct err err = {0};
	int fd;

	copy(image, "try");
	copy("journal.cut", "try.journal");
	fd = rig_file("try.journal", O_RDWR);
	jc = journal_of(fd);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, VHD_WRITE), 0);
	CU_ASSERT_NOT_EQUAL(rig_differs(c.img, &w->want), UINT64_MAX);
	if (cold) {
		CU_ASSERT_EQUAL(diskrep_recover_img(&c.img, 1, &jc, &f, &err), 0);
	} else {
		CU_ASSERT_EQUAL_FATAL(
			diskrep_standby_create_img(&c.img, 1, 1 << 20, &jc, &s, &err), 0);
		f = diskrep_standby_found(s);
		diskrep_standby_destroy(s);
	}
	is_recovered(&f);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w->want), UINT64_MAX);
	rig_close(&c);
	close(fd);
	/* In the file, too, and not just in this process. */
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, 0), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w->want), UINT64_MAX);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean("try"));
}

/* No flush of the image since epoch 0: the power takes all that was written to it, or nothing but what the
 * image keeps in memory. */
static void power_cut(const char *parent)
{
	const char *const names[] = {"leaf", parent, NULL};
	struct world w;

	world_up(&w, names);
	gate_set(&w.g, 1);
	copy("leaf", "leaf.flushed");
	for (uint64_t e = 1; e <= EPOCHS; e++)
		one_epoch(&w, e);
	await_durable(&w, EPOCHS);
	CU_ASSERT_EQUAL(drs_applier_drain(&w.s->applier), 0);
	CU_ASSERT_EQUAL(rig_differs(w.c.img, &w.want), UINT64_MAX);
	copy("leaf", "leaf.killed");
	copy("journal", "journal.cut");
	gate_set(&w.g, 0);
	for (int cold = 0; cold < 2; cold++) {
		recover(&w, "leaf.flushed", parent, cold);
		recover(&w, "leaf.killed", parent, cold);
	}
	world_down(&w);
}

static void test_dynamic(void)
{
	rig_create("leaf", VHD_DYNAMIC, CAP, RIG_BLOCK, NULL);
	power_cut(NULL);
}

static void test_differencing(void)
{
	struct rig_want want = rig_want_new(CAP);
	struct rig_chain c;

	rig_create("parent", VHD_DYNAMIC, CAP, RIG_BLOCK, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "parent", VHD_WRITE), 0);
	for (uint64_t at = 0; at < CAP; at += 3 * RIG_BLOCK)
		rig_write(c.img, &want, at, RIG_BLOCK, 0x55);
	CU_ASSERT_EQUAL(img_sync(c.img), 0);
	rig_close(&c);
	free(want.bytes);
	rig_create("leaf", VHD_DIFF, CAP, RIG_BLOCK, "parent");
	power_cut("parent");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a dynamic image", test_dynamic},
		{"a differencing image", test_differencing},
	};
	int rc;

	log_init("test", NULL, LOG_LVL_ERR);
	rig_make_dir();
	rc = UNIT_MAIN("journal vhd", tests);
	rig_remove_dir();
	return rc;
}
