/* SPDX-License-Identifier: Apache-2.0
 * part_memory_sync - pre-copy: the guest's memory to an empty standby, while the guest writes on.
 *
 * All on the sender's thread and its helpers', but for the peer's hello, which the receiver brings
 * before the engine lets the sender begin. Each lane takes its own words of the bitmap.
 */
#include "remus/part_memory_priv.h"

#include "hv/base/err.h"
#include "hv/gm.h"
#include "remus/stream.h"
#include "replication/record.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int mem_sync_begin(void *self, struct rec_sink *sink, struct err *err)
{
	struct mem_part *m = self;
	struct mem_hello_wire w = {.pages = le64_of(m->pages)};
	int rc;

	if (!m->peer_fits)
		return err_set(err, -EPROTO,
			       "the standby did not say how large its memory is");
	/* On before the first page is read, so that no write falls between. */
	rc = gm_log(m->gm, 1, err);
	if (rc)
		return rc;
	mem_capture_reset(m);
	mem_encode_reset(m);
	memset(m->todo, 0xff, m->pages / 8);
	m->first_round = 1;
	mem_settle(m, 0);
	rc = rec_put(sink, MEM_HELLO, REC_EPOCH_SYNC, &w, sizeof(w));
	return rc ? err_sys(err, rc, "greeting the standby") : 0;
}

struct data_run mem_next_data(const struct mem_part *m, uint64_t page)
{
	off_t from = lseek(gm_fd(m->gm), (off_t)(page * GM_PAGE), SEEK_DATA), to;

	if (from < 0)
		return errno == ENXIO ? (struct data_run){m->pages, m->pages}
				      : (struct data_run){page, m->pages};
	to = lseek(gm_fd(m->gm), from, SEEK_HOLE);
	if (to < 0)
		return (struct data_run){(uint64_t)from / GM_PAGE, m->pages};
	return (struct data_run){(uint64_t)from / GM_PAGE,
				 ((uint64_t)to + GM_PAGE - 1) / GM_PAGE};
}

static int sync_page(struct lane *l, uint64_t index)
{
	struct mem_part *m = l->m;
	struct pc_among alone = {.index = &index};
	const void *content;
	void *page;
	int rc = page_pool_take(&m->pool, &page, 1);

	if (rc)
		return rc;
	content = memcpy(page, gm_base(m->gm) + index * GM_PAGE, GM_PAGE);
	alone.content = &content;
	rc = mem_lane_send(l, &alone, &page);
	page_pool_give(&m->pool, &page, 1);
	return rc;
}

/* In the first round each page goes once and the cache is empty, so that a page which was
 * never written is sent as zero without a copy and without a place in the cache. Should the
 * guest write it meanwhile, the log has it for the next round. */
static int sync_word(struct lane *l, uint64_t w)
{
	struct mem_part *m = l->m;
	uint64_t word = m->todo[w], index;
	int rc = 0;

	m->todo[w] = 0;
	for (; word && !rc; word &= word - 1) {
		index = w * 64 + (uint64_t)__builtin_ctzll(word);
		if (m->first_round && index >= l->run.to)
			l->run = mem_next_data(m, index);
		if (m->first_round && index < l->run.from)
			rc = mem_lane_zero(l, index);
		else
			rc = sync_page(l, index);
	}
	return rc;
}

static int lane_sync(struct lane *l)
{
	int rc = 0;

	l->run = (struct data_run){0};
	for (uint64_t w = l->k; w < l->m->pages / 64 && !rc; w += l->m->lanes)
		if (l->m->todo[w])
			rc = sync_word(l, w);
	return rc;
}

int mem_sync_round(void *self, struct rec_sink *sink, uint64_t *left_out, struct err *err)
{
	struct mem_part *m = self;
	size_t left;
	int rc = mem_lanes_run(m, sink, REC_EPOCH_SYNC, m->pages, lane_sync);

	m->first_round = 0;
	if (rc)
		return err_sys(err, rc, "sending pages");
	rc = gm_harvest(m->gm, m->todo);
	if (rc)
		return err_sys(err, rc, "reading the dirty log");
	left = mem_bits(m->todo, m->pages);
	*left_out = (uint64_t)left * GM_PAGE;
	mem_settle(m, left);
	return 0;
}

int mem_peer_record(void *self, uint16_t type, const void *p, size_t len, struct err *err)
{
	struct mem_part *m = self;
	struct mem_hello_wire w;
	uint64_t pages;

	if (type != MEM_HELLO || len != sizeof(w))
		return part_no_peer_record(self, type, p, len, err);
	memcpy(&w, p, sizeof(w));
	pages = le64_get(w.pages);
	if (pages != m->pages)
		return err_set(err, -EPROTO,
			       "this host gives the VM %llu MiB, the standby %llu MiB",
			       (unsigned long long)m->pages >> 8,
			       (unsigned long long)pages >> 8);
	m->peer_fits = 1;
	return 0;
}
