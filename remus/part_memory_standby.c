/* SPDX-License-Identifier: Apache-2.0
 * part_memory_standby - the guest's memory on the standby: stage, then write in one go.
 *
 * Theory of operation. Pages of pre-copy go straight into RAM, which holds no checkpoint yet.
 * Pages of an epoch are decoded when they come, one behind the other, so that whatever may be
 * wrong with them is found before the ack, and apply() is left with copies and XORs that cannot
 * fail. A large epoch is applied by workers, each taking the pages of its own residue, so that
 * changes of one page keep their order; meanwhile the next epoch may be staged. Whoever needs RAM to
 * be at an epoch settles first: the next apply(), digests, activation.
 */
#include "remus/parts.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/gm.h"
#include "remus/stream.h"
#include "replication/pagecodec.h"
#include "replication/record.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct staged {
	uint64_t index;
	enum pc_change change;
	unsigned len;
	size_t at; /* in the stage's data */
};

/* The changes of an epoch. */
struct stage {
	struct staged *item;
	size_t n, cap;
	size_t held; /* bytes */
	struct buf data;
};

enum {
	WORKERS_MAX = 4,
	INLINE_BYTES = 1 << 20, /* less is applied sooner than a worker wakes up */
	KEPT_BYTES = 64 << 20,	/* of room for the next epoch */
	STRIPE = 16,		/* neighbouring pages go to one worker */
};

struct worker {
	struct mem_standby *m;
	pthread_t thread;
	unsigned k;
};

struct mem_standby {
	struct gm *gm;
	size_t limit;	   /* bytes staged, at most */
	struct stage now;  /* comes in */
	struct stage busy; /* is being applied; the receive thread's again once settled */
	uint64_t epoch;	   /* of what comes in */
	int peer_fits;

	struct worker worker[WORKERS_MAX];
	unsigned workers;
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	uint64_t turn;	  /* counts what was given to the workers */
	unsigned working; /* that have not finished it */
	int quit;
};

static void apply_one(struct mem_standby *m, const struct stage *st,
		      const struct staged *s)
{
	pc_apply(gm_base(m->gm) + s->index * GM_PAGE, s->change, st->data.data + s->at,
		 s->len);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct mem_standby *m = w->m;
	uint64_t seen = 0;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL); /* signals are other threads' business */
	pthread_mutex_lock(&m->lock);
	for (;;) {
		while (!m->quit && m->turn == seen)
			pthread_cond_wait(&m->work, &m->lock);
		if (m->turn == seen)
			break;
		seen = m->turn;
		pthread_mutex_unlock(&m->lock);
		for (size_t i = 0; i < m->busy.n; i++)
			if (m->busy.item[i].index / STRIPE % m->workers == w->k)
				apply_one(m, &m->busy, &m->busy.item[i]);
		pthread_mutex_lock(&m->lock);
		if (--m->working == 0)
			pthread_cond_signal(&m->idle);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

static void forget(struct stage *st)
{
	if (st->data.len > KEPT_BYTES)
		buf_fini(&st->data);
	buf_reset(&st->data);
	st->n = st->held = 0;
}

/* All that was acked is in RAM. */
static void settle(struct mem_standby *m)
{
	if (!m->busy.n)
		return;
	pthread_mutex_lock(&m->lock);
	while (m->working)
		pthread_cond_wait(&m->idle, &m->lock);
	pthread_mutex_unlock(&m->lock);
	forget(&m->busy);
}

static int mems_hello(void *self, struct rec_sink *sink, struct err *err)
{
	struct mem_standby *m = self;
	struct mem_hello_wire w = {.pages = le64_of(gm_pages(m->gm))};
	int rc = rec_put(sink, MEM_HELLO, REC_EPOCH_SYNC, &w, sizeof(w));

	m->peer_fits = 0;
	return rc ? err_sys(err, rc, "greeting the primary") : 0;
}

static int on_hello(struct mem_standby *m, const void *p, size_t len, struct err *err)
{
	struct mem_hello_wire w;

	if (len != sizeof(w))
		return err_set(err, -EPROTO, "hello of %zu bytes", len);
	memcpy(&w, p, sizeof(w));
	if (le64_get(w.pages) != gm_pages(m->gm))
		return err_set(err, -EPROTO,
			       "the primary gives the VM %llu MiB, this host %llu MiB",
			       (unsigned long long)le64_get(w.pages) >> 8,
			       (unsigned long long)gm_pages(m->gm) >> 8);
	m->peer_fits = 1;
	return 0;
}

/* Never written here, so zero: found out without making the kernel allocate it. */
static int is_hole(const struct gm *gm, uint64_t index)
{
	off_t at = (off_t)(index * GM_PAGE), data = lseek(gm_fd(gm), at, SEEK_DATA);

	return data < 0 ? errno == ENXIO : data >= at + GM_PAGE;
}

static int is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, GM_PAGE - 1);
}

static int into_ram(void *arg, const struct pc_item *it)
{
	struct mem_standby *m = arg;

	if (it->change != PC_REPLACE || !is_zero(it->data) || !is_hole(m->gm, it->index))
		pc_apply(gm_base(m->gm) + it->index * GM_PAGE, it->change, it->data,
			 it->len);
	return 0;
}

static int stage_room(struct mem_standby *m, size_t bytes)
{
	struct stage *st = &m->now;
	size_t cap = st->cap ? 2 * st->cap : 1024;
	struct staged *s;

	if (st->held + m->busy.held + bytes > m->limit)
		settle(m); /* slower, but no more memory than was promised */
	if (bytes > m->limit - st->held)
		return -ENOBUFS;
	if (st->n < st->cap)
		return 0;
	s = realloc(st->item, cap * sizeof(*s));
	if (!s)
		return -ENOMEM;
	st->item = s;
	st->cap = cap;
	return 0;
}

static int into_stage(void *arg, const struct pc_item *it)
{
	struct mem_standby *m = arg;
	size_t bytes = it->len + (it->change == PC_PATCH ? sizeof(struct staged) : 0);
	struct stage *st = &m->now;
	int rc = stage_room(m, bytes);

	if (rc)
		return rc;
	st->item[st->n] = (struct staged){.index = it->index,
					  .change = it->change,
					  .len = it->len,
					  .at = st->data.len};
	rc = buf_add(&st->data, it->data, it->len);
	if (rc)
		return rc;
	st->held += bytes;
	st->n++;
	return 0;
}

static int on_pages(struct mem_standby *m, uint64_t epoch, const void *p, size_t len,
		    struct err *err)
{
	uint64_t pages = gm_pages(m->gm);
	int rc;

	if (!m->peer_fits)
		return err_set(err, -EPROTO, "pages before hello");
	if (epoch == REC_EPOCH_SYNC)
		return pc_decode(p, len, pages, into_ram, m, err);
	if (m->now.n && m->epoch != epoch)
		return err_set(err, -EPROTO, "pages of epoch %llu while %llu is staged",
			       (unsigned long long)epoch, (unsigned long long)m->epoch);
	m->epoch = epoch;
	rc = pc_decode(p, len, pages, into_stage, m, err);
	if (rc == -ENOBUFS)
		return err_set(err, rc,
			       "epoch %llu has more than the %zu MiB that may be staged",
			       (unsigned long long)epoch, m->limit >> 20);
	if (rc == -ENOMEM)
		return err_set(err, rc, "no memory to stage epoch %llu",
			       (unsigned long long)epoch);
	return rc;
}

/* Pages of the last checkpoint. So damage is found before the next one is acked. */
static int on_digests(struct mem_standby *m, uint64_t epoch, const uint8_t *p, size_t len,
		      struct err *err)
{
	struct digest_wire w;
	uint64_t page;

	if (!m->peer_fits || epoch == REC_EPOCH_SYNC || epoch == 0 || len % sizeof(w))
		return err_set(err, -EPROTO, "digests that nobody can compare");
	settle(m);
	for (; len; p += sizeof(w), len -= sizeof(w)) {
		memcpy(&w, p, sizeof(w));
		page = le64_get(w.page);
		if (page >= gm_pages(m->gm))
			return err_set(err, -EPROTO, "a digest of page %llu of %llu",
				       (unsigned long long)page,
				       (unsigned long long)gm_pages(m->gm));
		if (XXH3_64bits(gm_base(m->gm) + page * GM_PAGE, GM_PAGE) !=
		    le64_get(w.digest)) {
			log_err("guest memory differs between the hosts in page %llu at epoch "
				"%llu: memory of one of them is damaged, or a write was not "
				"seen; the standby is brought up anew",
				(unsigned long long)page, (unsigned long long)epoch - 1);
			return err_set(err, -EIO, "page %llu differs from the primary's",
				       (unsigned long long)page);
		}
	}
	return 0;
}

static int mems_record(void *self, uint16_t type, uint64_t epoch, const void *p,
		       size_t len, struct err *err)
{
	struct mem_standby *m = self;

	switch (type) {
	case MEM_HELLO:
		return on_hello(m, p, len, err);
	case MEM_PAGES:
		return on_pages(m, epoch, p, len, err);
	case MEM_DIGESTS:
		return on_digests(m, epoch, p, len, err);
	}
	return err_set(err, -EPROTO, "record type 0x%04x is not expected", type);
}

static int mems_check(void *self, uint64_t epoch, struct err *err)
{
	struct mem_standby *m = self;

	if (m->now.n && m->epoch != epoch)
		return err_set(err, -EPROTO, "epoch %llu is staged, not %llu",
			       (unsigned long long)m->epoch, (unsigned long long)epoch);
	return 0;
}

static int mems_apply(void *self, uint64_t epoch, struct err *err)
{
	struct mem_standby *m = self;
	struct stage st;

	settle(m);
	if (m->now.held < INLINE_BYTES) {
		for (size_t i = 0; i < m->now.n; i++)
			apply_one(m, &m->now, &m->now.item[i]);
		forget(&m->now);
		return 0;
	}
	st = m->busy;
	m->busy = m->now;
	m->now = st;
	pthread_mutex_lock(&m->lock);
	m->turn++;
	m->working = m->workers;
	pthread_cond_broadcast(&m->work);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static void mems_drop(void *self)
{
	struct mem_standby *m = self;

	forget(&m->now);
}

static int mems_activate(void *self, struct err *err)
{
	settle(self);
	return 0;
}

static const struct standby_part_ops mems_ops = {
	.name = "memory",
	.kind = REC_KIND_MEMORY,
	.hello = mems_hello,
	.record = mems_record,
	.check = mems_check,
	.apply = mems_apply,
	.drop = mems_drop,
	.activate = mems_activate,
	.teardown = part_no_teardown,
};

struct standby_part mem_standby(struct mem_standby *m)
{
	return (struct standby_part){.ops = &mems_ops, .self = m};
}

/* Half of the processors: the others have a stream to decode. */
static int workers_start(struct mem_standby *m)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN) / 2;

	m->workers = n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
	for (unsigned k = 0; k < m->workers; k++) {
		struct worker *w = &m->worker[k];
		int rc;

		*w = (struct worker){.m = m, .k = k};
		rc = -pthread_create(&w->thread, NULL, worker_main, w);
		if (rc) {
			m->workers = k;
			return rc;
		}
	}
	return 0;
}

int mem_standby_create(struct gm *gm, size_t stage_bytes, struct mem_standby **m_out,
		       struct err *err)
{
	struct mem_standby *m = calloc(1, sizeof(*m));
	int rc;

	*m_out = NULL;
	if (!m)
		return err_set(err, -ENOMEM, "the standby's memory: out of memory");
	m->gm = gm;
	m->limit = stage_bytes;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->work, NULL);
	pthread_cond_init(&m->idle, NULL);
	rc = workers_start(m);
	if (rc) {
		mem_standby_destroy(m);
		return err_sys(err, rc, "the standby's memory: starting its threads");
	}
	*m_out = m;
	return 0;
}

static void stage_free(struct stage *st)
{
	buf_fini(&st->data);
	free(st->item);
}

void mem_standby_destroy(struct mem_standby *m)
{
	if (!m)
		return;
	settle(m);
	pthread_mutex_lock(&m->lock);
	m->quit = 1;
	pthread_cond_broadcast(&m->work);
	pthread_mutex_unlock(&m->lock);
	for (unsigned k = 0; k < m->workers; k++)
		pthread_join(m->worker[k].thread, NULL); /* ours, joined once */
	stage_free(&m->now);
	stage_free(&m->busy);
	pthread_cond_destroy(&m->work);
	pthread_cond_destroy(&m->idle);
	pthread_mutex_destroy(&m->lock);
	free(m);
}
