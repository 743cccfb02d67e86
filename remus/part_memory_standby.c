/* SPDX-License-Identifier: Apache-2.0
 * part_memory_standby - the guest's memory on the standby: stage, then write in one go.
 *
 * Theory of operation. Pages of pre-copy go straight into RAM, which holds no checkpoint yet.
 * Pages of an epoch are received into the stage (stage.h) and decoded when they come, one behind
 * the other, so that whatever may be wrong with them is found before the ack, and apply() is left
 * with copies and XORs that cannot fail. A large epoch is applied by workers, each taking the pages of its own residue, so that
 * changes of one page keep their order; meanwhile the next epoch may be staged. Whoever needs RAM to
 * be at an epoch settles first: the next apply(), digests, activation.
 */
#include "remus/parts.h"

#include "hv/base/err.h"
#include "hv/base/gang.h"
#include "hv/base/log.h"
#include "hv/base/xxh.h"
#include "hv/gm.h"
#include "remus/memsave.h"
#include "remus/stage.h"
#include "remus/stream.h"
#include "replication/pagecodec.h"
#include "replication/record.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	WORKERS_MAX = 4,
	INLINE_BYTES = 1 << 20, /* less is applied sooner than a worker wakes up */
	STRIPE = 16,		/* neighbouring pages go to one worker */
};

struct mem_standby {
	struct gm *gm;
	size_t limit;	   /* bytes staged, at most */
	struct stage now;  /* comes in */
	struct stage busy; /* is being applied; the receive thread's again once settled */
	struct stage_spare spare;
	uint64_t epoch; /* of what comes in */
	uint32_t *slot; /* for stage_resolve() */
	int peer_fits;
	struct memsave *save; /* wants each page before it is written; or NULL */
	struct gang *gang;
	atomic_size_t staged, staged_max; /* bytes, to be shown */
};

/* All that is ever written to memory comes by here. */
static void about_to_write(struct mem_standby *m, uint64_t page)
{
	if (m->save)
		memsave_touch(m->save, page);
}

static void apply_one(struct mem_standby *m, const struct staged *s)
{
	about_to_write(m, s->index);
	pc_apply(gm_base(m->gm) + s->index * GM_PAGE, s->change, s->data, s->len);
}

static void apply_share(void *arg, unsigned k)
{
	struct mem_standby *m = arg;

	for (size_t i = 0; i < m->busy.n; i++)
		if (m->busy.item[i].index / STRIPE % gang_size(m->gang) == k)
			apply_one(m, &m->busy.item[i]);
}

static void show(struct mem_standby *m)
{
	size_t held = m->now.held + m->busy.held;

	atomic_store(&m->staged, held);
	if (held > atomic_load(&m->staged_max))
		atomic_store(&m->staged_max, held);
}

/* All that was acked is in RAM. */
static void settle(struct mem_standby *m)
{
	if (!m->busy.n)
		return;
	gang_wait(m->gang);
	stage_forget(&m->busy, &m->spare);
	show(m);
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

	if (it->change == PC_TWIN)
		return -EINVAL; /* there is no epoch in which to look */
	if (it->change != PC_REPLACE || !is_zero(it->data) ||
	    !is_hole(m->gm, it->index)) {
		about_to_write(m, it->index);
		pc_apply(gm_base(m->gm) + it->index * GM_PAGE, it->change, it->data,
			 it->len);
	}
	return 0;
}

/* May so much more be staged? What is being applied is waited for first: slower, but no more
 * memory than was promised. */
static int may_stage(struct mem_standby *m, size_t bytes)
{
	if (m->now.held + m->busy.held + bytes > m->limit)
		settle(m);
	return m->now.held + bytes <= m->limit;
}

static void *mems_room(void *self, uint16_t type, uint64_t epoch, size_t len)
{
	struct mem_standby *m = self;

	if (type != MEM_PAGES || epoch == REC_EPOCH_SYNC || !m->peer_fits ||
	    !may_stage(m, len))
		return NULL;
	return stage_room(&m->now, &m->spare, len);
}

static int into_stage(void *arg, const struct pc_item *it)
{
	struct mem_standby *m = arg;

	if (!may_stage(m, sizeof(struct staged) + (it->lasting ? 0 : it->len)))
		return -ENOBUFS;
	return stage_add(&m->now, &m->spare, it);
}

/* The batch, in the stage. */
static int stage_batch(struct mem_standby *m, const void *p, size_t len, struct err *err)
{
	void *room;

	if (!stage_is_last_room(&m->now, p, len)) {
		if (!may_stage(m, len))
			return -ENOBUFS;
		room = stage_room(&m->now, &m->spare, len);
		if (!room)
			return -ENOMEM;
		p = memcpy(room, p, len);
	}
	return pc_decode(p, len, gm_pages(m->gm), into_stage, m, err);
}

static int on_pages(struct mem_standby *m, uint64_t epoch, const void *p, size_t len,
		    struct err *err)
{
	int rc;

	if (!m->peer_fits)
		return err_set(err, -EPROTO, "pages before hello");
	if (epoch == REC_EPOCH_SYNC) {
		rc = pc_decode(p, len, gm_pages(m->gm), into_ram, m, err);
		return rc == -EINVAL
			       ? err_set(err, -EBADMSG, "pre-copy names an equal page")
			       : rc;
	}
	if (m->now.n && m->epoch != epoch)
		return err_set(err, -EPROTO, "pages of epoch %llu while %llu is staged",
			       (unsigned long long)epoch, (unsigned long long)m->epoch);
	m->epoch = epoch;
	rc = stage_batch(m, p, len, err);
	show(m);
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
	return stage_resolve(&m->now, m->slot, err);
}

static int mems_apply(void *self, uint64_t epoch, struct err *err)
{
	struct mem_standby *m = self;
	struct stage st;

	settle(m);
	if (m->now.held < INLINE_BYTES) {
		for (size_t i = 0; i < m->now.n; i++)
			apply_one(m, &m->now.item[i]);
		stage_forget(&m->now, &m->spare);
		show(m);
		return 0;
	}
	st = m->busy;
	m->busy = m->now;
	m->now = st;
	gang_start(m->gang, apply_share, m);
	return 0;
}

static void mems_drop(void *self)
{
	struct mem_standby *m = self;

	stage_forget(&m->now, &m->spare);
	show(m);
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
	.room = mems_room,
	.record = mems_record,
	.check = mems_check,
	.report = spart_no_report,
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
static unsigned workers_of_host(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN) / 2;

	return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
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
	m->slot = calloc(gm_pages(gm), sizeof(*m->slot));
	rc = m->slot ? gang_create(workers_of_host(), &m->gang) : -ENOMEM;
	if (rc) {
		mem_standby_destroy(m);
		return err_sys(err, rc, "the standby's memory: starting its threads");
	}
	*m_out = m;
	return 0;
}

void mem_standby_save(struct mem_standby *m, struct memsave *save)
{
	settle(m);
	if (m->save)
		memsave_cancel(m->save);
	m->save = save;
}

void mem_standby_forget(struct mem_standby *m, const struct memsave *save)
{
	if (m->save != save)
		return;
	settle(m);
	m->save = NULL;
}

void mem_standby_stats(struct mem_standby *m, struct mem_standby_stats *out)
{
	*out = (struct mem_standby_stats){
		.staged = atomic_load(&m->staged),
		.staged_max = atomic_load(&m->staged_max),
		.limit = m->limit,
	};
}

void mem_standby_destroy(struct mem_standby *m)
{
	if (!m)
		return;
	gang_destroy(m->gang);
	stage_fini(&m->now);
	stage_fini(&m->busy);
	stage_spare_fini(&m->spare);
	free(m->slot);
	free(m);
}
