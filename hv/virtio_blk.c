/* SPDX-License-Identifier: Apache-2.0
 * virtio_blk - a disk (Virtual I/O Device 1.2, 5.2).
 *
 * Theory of operation. A chain is parsed once into operation, offset and length; write data is
 * copied once from the guest, read data is copied to it at completion, under the device lock.
 * A request that is in flight belongs to the checkpoint as what was parsed and its descriptor
 * head: after a restore the head's buffers are looked up again in the restored memory and the
 * request is issued again. Doing it twice is harmless, as its driver has not seen it done.
 *
 * A reset or a load disowns what is in flight: it may end, but touches no guest memory, and
 * nothing new is issued before all of it ended, so that no old write lands after a new one.
 */
#include "hv/devices.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/wire.h"
#include "hv/state.h"
#include "hv/virtio_pci.h"
#include "hv/virtq.h"
#include "hv/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
	F_SIZE_MAX = 1,
	F_SEG_MAX = 2,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
};
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13
};
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

enum {
	SECTOR = 512,
	ID_LEN = 20,
	QUEUE_SIZE = 128,
	REQS = QUEUE_SIZE,
	SEG_MAX = QUEUE_SIZE - 2,
	SEG_BYTES = 64 << 10,
	REQ_BYTES = SEG_MAX * SEG_BYTES,
	FLIGHT_BYTES = 64 << 20, /* of our memory that one guest can bind */
	DISCARD_SECTORS = 1 << 22,
	ZEROES_SECTORS = 1 << 15,
	KICK_BUDGET = 256, /* requests before the lock is given to others */
};

struct cfg_wire {
	struct le64 capacity; /* sectors */
	struct le32 size_max, seg_max;
	uint8_t geometry[4];
	struct le32 blk_size;
	uint8_t topology[8], writeback, unused0;
	struct le16 num_queues;
	struct le32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
	struct le32 max_zeroes_sectors, max_zeroes_seg;
	uint8_t zeroes_may_unmap, unused1[3];
};
WIRE_SIZE(struct cfg_wire, 60);

struct head_wire {
	struct le32 type, reserved;
	struct le64 sector;
};
WIRE_SIZE(struct head_wire, 16);

struct range_wire {
	struct le64 sector;
	struct le32 sectors, flags;
};
WIRE_SIZE(struct range_wire, 16);
enum { RANGE_UNMAP = 1 };

/* A request as parsed: all that a checkpoint needs of it. */
struct parsed {
	uint64_t offset; /* bytes */
	uint32_t len;
	uint16_t head;
	uint8_t op; /* enum blk_op */
};

enum vreq_state { VREQ_FREE, VREQ_FLIGHT, VREQ_DISOWNED };

struct vreq {
	struct blk_req r; /* first: done() gets this */
	struct vblk *d;
	enum vreq_state state;
	struct parsed p;
	struct virtq_chain chain;
	TAILQ_ENTRY(vreq) link; /* in flight, in the order of issue; or free */
};
TAILQ_HEAD(vreq_list, vreq);

struct vblk {
	struct vpci *v;
	struct blk blk;
	int read_only;
	uint64_t bytes;
	char id[ID_LEN];
	struct cfg_wire cfg;
	struct vreq_list flight, unused;
	uint64_t flight_bytes;
	unsigned disowned;
	int stalled;		   /* the queue has more than we had room for */
	struct parsed again[REQS]; /* loaded, to be issued again */
	unsigned n_again, at_again;
	struct vreq req[REQS];
};

struct vblk_state {
	uint32_t flight; /* sections of requests that follow */
	uint64_t bytes;	 /* the disk; 0: what this host's image has */
};
static const struct state_field vblk_fields[] = {
	STATE_INT(1, 1, struct vblk_state, flight),
	STATE_INT(2, 2, struct vblk_state, bytes),
	STATE_END,
};
static const struct state_table vblk_table = {"virtio-blk", 2, vblk_fields};

static const struct state_field req_fields[] = {
	STATE_INT(1, 1, struct parsed, offset),
	STATE_INT(2, 1, struct parsed, len),
	STATE_INT(3, 1, struct parsed, head),
	STATE_INT(4, 1, struct parsed, op),
	STATE_END,
};
static const struct state_table req_table = {"virtio-blk-req", 1, req_fields};

static void req_free(struct vblk *d, struct vreq *q)
{
	blk_data_put(q->r.data);
	q->r.data = NULL;
	q->state = VREQ_FREE;
	TAILQ_INSERT_HEAD(&d->unused, q, link);
}

/* Answer a chain with @status; @written bytes of data are in place before it. */
static void answer(struct vblk *d, const struct virtq_chain *c, uint8_t status,
		   uint32_t written)
{
	struct virtq *vq = vpci_queue(d->v, 0);

	/* The chain has at least this byte: parse_chain() looked. */
	(void)virtq_write(vq, c, c->in_len - 1, &status, 1);
	virtq_push(vq, c->head, written + 1);
	vpci_notify(d->v, 0);
}

static uint8_t answer_to(int rc)
{
	if (rc == -EOPNOTSUPP)
		return S_UNSUPP;
	return rc ? S_IOERR : S_OK;
}

static void disowned_done(struct vblk *d, struct vreq *q)
{
	req_free(d, q);
	if (--d->disowned == 0)
		vpci_kick(d->v, 0);
}

static void on_done(struct blk_req *r, int status)
{
	struct vreq *q = (struct vreq *)r;
	struct vblk *d = q->d;
	uint32_t written = 0;

	d->flight_bytes -= r->data ? r->len : 0;
	TAILQ_REMOVE(&d->flight, q, link);
	if (q->state == VREQ_DISOWNED) {
		disowned_done(d, q);
		return;
	}
	if (status == 0 && r->op == BLK_READ)
		written = (uint32_t)virtq_write(vpci_queue(d->v, 0), &q->chain, 0,
						r->data->bytes, r->len);
	answer(d, &q->chain, answer_to(status), written);
	req_free(d, q);
	if (d->stalled) {
		d->stalled = 0;
		vpci_kick(d->v, 0);
	}
}

static uint64_t len_max(enum blk_op op)
{
	if (op == BLK_DISCARD)
		return (uint64_t)DISCARD_SECTORS * SECTOR;
	if (op == BLK_ZEROES)
		return (uint64_t)ZEROES_SECTORS * SECTOR;
	return REQ_BYTES;
}

/* What the backend may be asked: all within the disk, whole sectors, of bounded size. */
static int parsed_ok(const struct vblk *d, const struct parsed *p)
{
	if (p->op == BLK_FLUSH)
		return p->len == 0;
	if (p->op > BLK_ZEROES || (p->op != BLK_READ && d->read_only))
		return 0;
	return p->len <= len_max(p->op) && p->len % SECTOR == 0 &&
	       p->offset % SECTOR == 0 && p->len <= d->bytes &&
	       p->offset <= d->bytes - p->len;
}

/* Hand q->p, checked, with q->chain to the backend. */
static int issue(struct vblk *d, struct vreq *q)
{
	const struct parsed *p = &q->p;
	int has_data = p->op == BLK_READ || p->op == BLK_WRITE;

	q->r = (struct blk_req){
		.op = p->op, .offset = p->offset, .len = p->len, .done = on_done};
	if (has_data) {
		q->r.data = blk_data_new(p->len);
		if (!q->r.data)
			return S_IOERR;
	}
	if (p->op == BLK_WRITE && virtq_read(&q->chain, sizeof(struct head_wire),
					     q->r.data->bytes, p->len) != p->len) {
		blk_data_put(q->r.data);
		q->r.data = NULL;
		return S_IOERR;
	}
	TAILQ_REMOVE(&d->unused, q, link);
	TAILQ_INSERT_TAIL(&d->flight, q, link);
	q->state = VREQ_FLIGHT;
	d->flight_bytes += has_data ? p->len : 0;
	d->blk.ops->submit(d->blk.self, &q->r);
	return S_OK;
}

/* A number of sectors in bytes; too many give what parsed_ok() refuses. */
static uint64_t sectors(uint64_t n)
{
	return n > UINT64_MAX / SECTOR ? UINT64_MAX : n * SECTOR;
}

static int parse_range(const struct virtq_chain *c, int discard, struct parsed *p)
{
	struct range_wire w;
	uint64_t len;

	if (c->out_len != sizeof(struct head_wire) + sizeof(w) ||
	    virtq_read(c, sizeof(struct head_wire), &w, sizeof(w)) != sizeof(w))
		return S_IOERR;
	if (le32_get(w.flags) & ~(discard ? 0u : (uint32_t)RANGE_UNMAP))
		return S_UNSUPP;
	len = sectors(le32_get(w.sectors));
	p->op = discard ? BLK_DISCARD : BLK_ZEROES;
	p->offset = sectors(le64_get(w.sector));
	if (len > UINT32_MAX)
		return S_IOERR;
	p->len = (uint32_t)len;
	return S_OK;
}

static int parse_data(const struct virtq_chain *c, int write, uint64_t sector,
		      struct parsed *p)
{
	uint64_t len = write ? c->out_len - sizeof(struct head_wire) : c->in_len - 1;

	if (len > REQ_BYTES)
		return S_IOERR;
	p->op = write ? BLK_WRITE : BLK_READ;
	p->offset = sectors(sector);
	p->len = (uint32_t)len;
	return S_OK;
}

/* S_OK: *p is to be issued. -1: answered here. Else the status to answer with. */
static int parse_request(struct vblk *d, const struct virtq_chain *c, struct parsed *p)
{
	struct head_wire h;
	size_t n = virtq_read(c, 0, &h, sizeof(h));

	*p = (struct parsed){.head = c->head, .op = BLK_FLUSH};
	if (n != sizeof(h))
		return S_IOERR;
	switch (le32_get(h.type)) {
	case T_IN:
	case T_OUT:
		return parse_data(c, le32_get(h.type) == T_OUT, le64_get(h.sector), p);
	case T_FLUSH:
		return S_OK;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return parse_range(c, le32_get(h.type) == T_DISCARD, p);
	case T_GET_ID:
		n = c->in_len - 1 < ID_LEN ? c->in_len - 1 : ID_LEN;
		n = virtq_write(vpci_queue(d->v, 0), c, 0, d->id, n);
		answer(d, c, S_OK, (uint32_t)n);
		return -1;
	default:
		return S_UNSUPP;
	}
}

/* One chain in q->chain, from the ring. 0, or -EPROTO: it has not even room for an answer. */
static int start(struct vblk *d, struct vreq *q)
{
	int status;

	if (q->chain.out_len < sizeof(struct head_wire) || q->chain.in_len < 1)
		return -EPROTO;
	status = parse_request(d, &q->chain, &q->p);
	if (status == S_OK && !parsed_ok(d, &q->p))
		status = S_IOERR;
	if (status == S_OK)
		status = issue(d, q);
	if (status > S_OK)
		answer(d, &q->chain, (uint8_t)status, 0);
	return 0;
}

/* One request that was in flight when the state was saved. */
static int start_again(struct vblk *d, struct vreq *q, const struct parsed *p)
{
	uint64_t data = p->op == BLK_READ || p->op == BLK_WRITE ? p->len : 0;
	int status;

	if (virtq_parse(vpci_queue(d->v, 0), p->head, &q->chain) || q->chain.in_len < 1)
		return -EPROTO;
	q->p = *p;
	status = p->op == BLK_READ && q->chain.in_len - 1 < data ? S_IOERR : issue(d, q);
	if (status > S_OK)
		answer(d, &q->chain, (uint8_t)status, 0);
	return 0;
}

static int has_room(const struct vblk *d)
{
	return !TAILQ_EMPTY(&d->unused) && d->flight_bytes < FLIGHT_BYTES;
}

/* The next chain from the ring. 1: there was one, 0: none, -EPROTO. */
static int next(struct vblk *d)
{
	struct vreq *q = TAILQ_FIRST(&d->unused);
	int rc = virtq_pop(vpci_queue(d->v, 0), &q->chain);

	return rc <= 0 ? rc : start(d, q) ? -EPROTO : 1;
}

static int issue_saved(struct vblk *d)
{
	while (d->at_again < d->n_again)
		if (start_again(d, TAILQ_FIRST(&d->unused), &d->again[d->at_again++]))
			return -EPROTO;
	return 0;
}

static void vblk_kick(void *self, unsigned queue)
{
	struct vblk *d = self;
	int rc;

	if (d->disowned)
		return;
	rc = issue_saved(d);
	for (unsigned n = 0; !rc; n++) {
		if (!has_room(d)) {
			d->stalled = 1;
			return;
		}
		if (n == KICK_BUDGET) {
			vpci_kick(d->v, queue);
			return;
		}
		rc = next(d);
		if (rc == 0 && !virtq_wait(vpci_queue(d->v, 0)))
			return;
		rc = rc < 0 ? rc : 0;
	}
	vpci_broken(d->v);
}

static void vblk_reset(void *self)
{
	struct vblk *d = self;
	struct vreq *q;

	for (q = TAILQ_FIRST(&d->flight); q; q = TAILQ_NEXT(q, link)) {
		d->disowned += q->state == VREQ_FLIGHT;
		q->state = VREQ_DISOWNED;
	}
	d->n_again = d->at_again = 0;
	d->stalled = 0;
}

static int vblk_save(void *self, uint32_t instance, struct buf *b)
{
	struct vblk *d = self;
	struct vblk_state s = {.flight = d->n_again - d->at_again, .bytes = d->bytes};
	uint32_t i = 0;
	struct vreq *q;
	int rc;

	for (q = TAILQ_FIRST(&d->flight); q; q = TAILQ_NEXT(q, link))
		s.flight += q->state == VREQ_FLIGHT;
	rc = state_save(b, &vblk_table, instance, &s);
	for (q = TAILQ_FIRST(&d->flight); !rc && q; q = TAILQ_NEXT(q, link))
		if (q->state == VREQ_FLIGHT)
			rc = state_save(b, &req_table, instance << 16 | i++, &q->p);
	for (unsigned k = d->at_again; !rc && k < d->n_again; k++)
		rc = state_save(b, &req_table, instance << 16 | i++, &d->again[k]);
	return rc;
}

static void set_bytes(struct vblk *d, uint64_t bytes)
{
	d->bytes = bytes;
	d->cfg.capacity = le64_of(bytes / SECTOR);
}

/* An image that is larger than the guest's disk serves it all the same; the rest is for later. */
static int load_bytes(struct vblk *d, uint64_t bytes, struct err *err)
{
	uint64_t has = d->blk.ops->capacity(d->blk.self);

	if (bytes % SECTOR || bytes > has)
		return err_set(err, -EBADMSG,
			       "the disk has %llu bytes, the image here %llu",
			       (unsigned long long)bytes, (unsigned long long)has);
	if (bytes)
		set_bytes(d, bytes);
	return 0;
}

static int vblk_load(void *self, uint32_t instance, struct reader *r, struct err *err)
{
	struct vblk *d = self;
	struct vblk_state s = {0};
	int rc = state_load(r, &vblk_table, instance, &s, err);

	rc = rc ? rc : load_bytes(d, s.bytes, err);
	if (rc)
		return rc;
	if (s.flight > REQS)
		return err_set(err, -EBADMSG,
			       "%u requests in flight, at most %d are possible", s.flight,
			       REQS);
	for (uint32_t i = 0; i < s.flight; i++) {
		struct parsed p = {0};

		rc = state_load(r, &req_table, instance << 16 | i, &p, err);
		if (rc)
			return rc;
		if (!parsed_ok(d, &p))
			return err_set(err, -EBADMSG, "request %u does not fit the disk",
				       i);
		d->again[i] = p;
	}
	d->n_again = s.flight;
	return 0;
}

static void vblk_free(struct vblk *d)
{
	d->blk.ops->close(d->blk.self);
	/* What a backend still kept for itself is not going to be done. */
	for (unsigned i = 0; i < REQS; i++)
		blk_data_put(d->req[i].r.data);
	free(d);
}

static void vblk_destroy(void *self)
{
	vblk_reset(self);
	vblk_free(self);
}

static const struct virtio_ops vblk_ops = {
	.name = "virtio-blk",
	.id = 2,
	.class_code = 0x018000, /* other mass storage */
	.queues = 1,
	.queue_size = QUEUE_SIZE,
	.kick = vblk_kick,
	.reset = vblk_reset,
	.save = vblk_save,
	.load = vblk_load,
	.destroy = vblk_destroy,
};

static void fill_cfg(struct vblk *d)
{
	d->cfg = (struct cfg_wire){
		.capacity = le64_of(d->bytes / SECTOR),
		.size_max = le32_of(SEG_BYTES),
		.seg_max = le32_of(SEG_MAX),
		.blk_size = le32_of(SECTOR),
		.num_queues = le16_of(1),
		.max_discard_sectors = le32_of(DISCARD_SECTORS),
		.max_discard_seg = le32_of(1),
		.discard_sector_alignment = le32_of(1),
		.max_zeroes_sectors = le32_of(ZEROES_SECTORS),
		.max_zeroes_seg = le32_of(1),
		.zeroes_may_unmap = 1,
	};
}

void vblk_resize(struct vblk *d, uint64_t bytes)
{
	if (bytes == d->bytes)
		return;
	set_bytes(d, bytes);
	vpci_config_changed(d->v);
}

uint64_t vblk_bytes(const struct vblk *d)
{
	return d->bytes;
}

int vblk_create(struct vm *vm, struct blk blk, const char *serial, int read_only,
		struct vblk **dev_out, struct err *err)
{
	uint64_t features =
		1ull << F_SIZE_MAX | 1ull << F_SEG_MAX | 1ull << F_BLK_SIZE |
		1ull << F_FLUSH |
		(read_only ? 1ull << F_RO : 1ull << F_DISCARD | 1ull << F_WRITE_ZEROES);
	struct vblk *d = calloc(1, sizeof(*d));
	int rc;

	*dev_out = NULL;
	if (!d) {
		blk.ops->close(blk.self);
		return err_set(err, -ENOMEM, "virtio-blk: out of memory");
	}
	d->blk = blk;
	d->read_only = read_only;
	d->bytes = blk.ops->capacity(blk.self);
	/* Not a string: zero-padded, without an end if it is as long as that (5.2.6.1). */
	memcpy(d->id, serial, strnlen(serial, ID_LEN));
	fill_cfg(d);
	TAILQ_INIT(&d->flight);
	TAILQ_INIT(&d->unused);
	for (unsigned i = 0; i < REQS; i++) {
		d->req[i].d = d;
		TAILQ_INSERT_TAIL(&d->unused, &d->req[i], link);
	}
	rc = vpci_create(vm, &vblk_ops, d, features, &d->cfg, sizeof(d->cfg), &d->v, err);
	if (rc) {
		vblk_free(d);
		return rc;
	}
	*dev_out = d;
	return 0;
}
