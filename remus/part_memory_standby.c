/* SPDX-License-Identifier: Apache-2.0
 * part_memory_standby - the guest's memory on the standby: stage, then write in one go.
 *
 * Theory of operation. Pages of pre-copy go straight into RAM, which holds no checkpoint yet.
 * Pages of an epoch are decoded when they come, into pages of a pool, so that whatever may be
 * wrong with them is found before the ack, and apply() is left with copies and XORs that cannot
 * fail. One epoch is staged at a time, because the engine applies each before it reads on.
 */
#include "remus/parts.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/gm.h"
#include "remus/pagepool.h"
#include "remus/stream.h"
#include "replication/pagecodec.h"
#include "replication/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct staged {
	uint64_t index;
	enum pc_change change;
	unsigned len;
	union {
		void *page; /* of the pool; PC_REPLACE, PC_XOR */
		size_t at;  /* in the patches; PC_PATCH */
	};
};

struct mem_standby {
	struct gm *gm;
	size_t limit, held; /* bytes staged, at most and now */
	struct page_pool pool;
	struct buf patches;
	struct staged *staged;
	size_t n, cap;
	uint64_t epoch; /* of what is staged */
	int peer_fits;
};

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
	size_t cap = m->cap ? 2 * m->cap : 1024;
	struct staged *s;

	if (bytes > m->limit - m->held)
		return -ENOBUFS;
	if (m->n < m->cap)
		return 0;
	s = realloc(m->staged, cap * sizeof(*s));
	if (!s)
		return -ENOMEM;
	m->staged = s;
	m->cap = cap;
	return 0;
}

static int into_stage(void *arg, const struct pc_item *it)
{
	struct mem_standby *m = arg;
	size_t bytes = it->change == PC_PATCH ? sizeof(struct staged) + it->len : GM_PAGE;
	struct staged *s;
	int rc = stage_room(m, bytes);

	if (rc)
		return rc;
	s = &m->staged[m->n];
	*s = (struct staged){.index = it->index, .change = it->change, .len = it->len};
	if (it->change == PC_PATCH) {
		s->at = m->patches.len;
		rc = buf_add(&m->patches, it->data, it->len);
	} else {
		rc = page_pool_take(&m->pool, &s->page, 1);
		if (!rc)
			memcpy(s->page, it->data, GM_PAGE);
	}
	if (rc)
		return rc;
	m->held += bytes;
	m->n++;
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
	if (m->n && m->epoch != epoch)
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

/* Pages of the last checkpoint, which is all in RAM by now: the engine applies each before it
 * reads on. So damage is found before the next one is acked. */
static int on_digests(struct mem_standby *m, uint64_t epoch, const uint8_t *p, size_t len,
		      struct err *err)
{
	struct digest_wire w;
	uint64_t page;

	if (!m->peer_fits || epoch == REC_EPOCH_SYNC || epoch == 0 || len % sizeof(w))
		return err_set(err, -EPROTO, "digests that nobody can compare");
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

	if (m->n && m->epoch != epoch)
		return err_set(err, -EPROTO, "epoch %llu is staged, not %llu",
			       (unsigned long long)m->epoch, (unsigned long long)epoch);
	return 0;
}

static void forget(struct mem_standby *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->staged[i].change != PC_PATCH)
			page_pool_give(&m->pool, &m->staged[i].page, 1);
	buf_reset(&m->patches);
	m->n = m->held = 0;
}

static int mems_apply(void *self, uint64_t epoch, struct err *err)
{
	struct mem_standby *m = self;
	uint8_t *ram = gm_base(m->gm);

	for (size_t i = 0; i < m->n; i++) {
		const struct staged *s = &m->staged[i];

		pc_apply(ram + s->index * GM_PAGE, s->change,
			 s->change == PC_PATCH ? m->patches.data + s->at : s->page,
			 s->len);
	}
	forget(m);
	return 0;
}

static void mems_drop(void *self)
{
	forget(self);
}

static const struct standby_part_ops mems_ops = {
	.name = "memory",
	.kind = REC_KIND_MEMORY,
	.hello = mems_hello,
	.record = mems_record,
	.check = mems_check,
	.apply = mems_apply,
	.drop = mems_drop,
	.activate = spart_no_activate,
	.teardown = part_no_teardown,
};

struct standby_part mem_standby(struct mem_standby *m)
{
	return (struct standby_part){.ops = &mems_ops, .self = m};
}

int mem_standby_create(struct gm *gm, size_t stage_bytes, struct mem_standby **m_out,
		       struct err *err)
{
	struct mem_standby *m = calloc(1, sizeof(*m));

	*m_out = NULL;
	if (!m)
		return err_set(err, -ENOMEM, "the standby's memory: out of memory");
	m->gm = gm;
	m->limit = stage_bytes;
	page_pool_init(&m->pool);
	*m_out = m;
	return 0;
}

void mem_standby_destroy(struct mem_standby *m)
{
	if (!m)
		return;
	forget(m);
	page_pool_fini(&m->pool);
	buf_fini(&m->patches);
	free(m->staged);
	free(m);
}
