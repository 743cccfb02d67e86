/* SPDX-License-Identifier: Apache-2.0
 * virtq - the device's side of a split virtqueue (Virtual I/O Device 1.2, 2.7).
 */
#include "hv/virtq.h"

#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "hv/gm.h"
#include "hv/msix.h"
#include "hv/state.h"

#include <errno.h>
#include <string.h>

struct vring_desc_wire {
	struct le64 addr;
	struct le32 len;
	struct le16 flags;
	struct le16 next;
};
WIRE_SIZE(struct vring_desc_wire, 16);

struct vring_used_wire {
	struct le32 id;
	struct le32 len;
};
WIRE_SIZE(struct vring_used_wire, 8);

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ENTRIES = 4 };

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static const struct state_field virtq_fields[] = {
	STATE_INT(1, 1, struct virtq, size),
	STATE_INT(2, 1, struct virtq, vector),
	STATE_INT(3, 1, struct virtq, ready),
	STATE_INT(4, 1, struct virtq, event_idx),
	STATE_INT(5, 1, struct virtq, broken),
	STATE_INT(6, 1, struct virtq, desc),
	STATE_INT(7, 1, struct virtq, avail),
	STATE_INT(8, 1, struct virtq, used),
	STATE_INT(9, 1, struct virtq, avail_next),
	STATE_INT(10, 1, struct virtq, used_next),
	STATE_INT(11, 1, struct virtq, used_told),
	STATE_END,
};
static const struct state_table virtq_table = {"virtq", 1, virtq_fields};

static uint64_t desc_bytes(const struct virtq *q)
{
	return (uint64_t)q->size * sizeof(struct vring_desc_wire);
}

/* Both rings end with the event index field of the other side. */
static uint64_t avail_bytes(const struct virtq *q)
{
	return RING_ENTRIES + 2ull * q->size + 2;
}

static uint64_t used_bytes(const struct virtq *q)
{
	return RING_ENTRIES + sizeof(struct vring_used_wire) * (uint64_t)q->size + 2;
}

/* 16-bit fields of the rings are the ones that both sides look at while the other writes; they
 * are aligned (virtq_enable checks), and one load or store each. */
static uint16_t load16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

static void store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELAXED);
}

void virtq_init(struct virtq *q, struct gm *gm, uint16_t size_max)
{
	*q = (struct virtq){.gm = gm, .size_max = size_max};
	virtq_reset(q);
}

void virtq_reset(struct virtq *q)
{
	*q = (struct virtq){.gm = q->gm,
			    .size_max = q->size_max,
			    .size = q->size_max,
			    .vector = MSIX_NO_VECTOR};
}

int virtq_enable(struct virtq *q)
{
	if (!q->size || q->size > q->size_max || (q->size & (q->size - 1)))
		return -EINVAL;
	if (q->desc % 16 || q->avail % 2 || q->used % 4)
		return -EINVAL;
	q->desc_p = gm_at(q->gm, q->desc, desc_bytes(q));
	q->avail_p = gm_at(q->gm, q->avail, avail_bytes(q));
	q->used_p = gm_at(q->gm, q->used, used_bytes(q));
	if (!q->desc_p || !q->avail_p || !q->used_p)
		return -EINVAL;
	q->ready = 1;
	return 0;
}

static int queue_broken(struct virtq *q)
{
	q->broken = 1;
	return -EPROTO;
}

/* Copy a descriptor out of guest memory: from here on only the copy counts. */
static struct desc desc_read(const uint8_t *table, unsigned i)
{
	struct vring_desc_wire w;

	memcpy(&w, table + i * sizeof(w), sizeof(w));
	/* The compiler may not go back to the guest's bytes for a second look. */
	__asm__ volatile("" ::: "memory");
	return (struct desc){
		.addr = le64_get(w.addr),
		.len = le32_get(w.len),
		.flags = le16_get(w.flags),
		.next = le16_get(w.next),
	};
}

static int chain_add(const struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
	unsigned n = c->n_out + c->n_in;
	void *p;

	if (n == VIRTQ_SEGS_MAX || !d->len)
		return -EPROTO;
	if (!(d->flags & DESC_WRITE) && c->n_in)
		return -EPROTO;
	p = gm_at(q->gm, d->addr, d->len);
	if (!p)
		return -EPROTO;
	c->seg[n] = (struct iovec){.iov_base = p, .iov_len = d->len};
	c->gpa[n] = d->addr;
	if (d->flags & DESC_WRITE) {
		c->n_in++;
		c->in_len += d->len;
	} else {
		c->n_out++;
		c->out_len += d->len;
	}
	return 0;
}

/* Walk one table of @n descriptors from @i on. chain_add() refuses the segment after the last
 * possible one, so a loop ends. *ind_out is set to a descriptor of an indirect table, which
 * must be the last; NULL: not allowed here. */
static int walk(const struct virtq *q, const uint8_t *table, unsigned n, unsigned i,
		struct virtq_chain *c, struct desc *ind_out)
{
	struct desc d;
	int rc;

	for (;;) {
		if (i >= n)
			return -EPROTO;
		d = desc_read(table, i);
		if (d.flags & DESC_INDIRECT) {
			if (!ind_out || (d.flags & (DESC_NEXT | DESC_WRITE)))
				return -EPROTO;
			*ind_out = d;
			return 0;
		}
		rc = chain_add(q, c, &d);
		if (rc || !(d.flags & DESC_NEXT))
			return rc;
		i = d.next;
	}
}

static int parse_indirect(const struct virtq *q, const struct desc *ind,
			  struct virtq_chain *c)
{
	unsigned n = ind->len / sizeof(struct vring_desc_wire);
	const uint8_t *table;

	if (!n || ind->len % sizeof(struct vring_desc_wire))
		return -EPROTO;
	table = gm_at(q->gm, ind->addr, ind->len);
	if (!table)
		return -EPROTO;
	return walk(q, table, n, 0, c, NULL);
}

int virtq_parse(struct virtq *q, uint16_t head, struct virtq_chain *c)
{
	struct desc ind = {0};
	int rc;

	if (!q->ready || q->broken)
		return -EPROTO;
	c->head = head;
	c->n_out = c->n_in = 0;
	c->out_len = c->in_len = 0;
	rc = walk(q, q->desc_p, q->size, head, c, &ind);
	if (rc == 0 && ind.flags)
		rc = parse_indirect(q, &ind, c);
	return rc ? queue_broken(q) : 0;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	uint16_t idx, head;
	int rc;

	if (q->broken)
		return -EPROTO;
	if (!q->ready)
		return 0;
	idx = load16(q->avail_p + RING_IDX);
	if (idx == q->avail_next)
		return 0;
	if ((uint16_t)(idx - q->avail_next) > q->size)
		return queue_broken(q);
	/* The entry and its descriptors are read after the index that announced them. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	head = load16(q->avail_p + RING_ENTRIES + 2 * (q->avail_next & (q->size - 1)));
	rc = virtq_parse(q, head, c);
	if (rc)
		return rc;
	q->avail_next++;
	return 1;
}

void virtq_unpop(struct virtq *q)
{
	q->avail_next--;
}

int virtq_wait(struct virtq *q)
{
	uint64_t off = RING_ENTRIES + sizeof(struct vring_used_wire) * (uint64_t)q->size;

	if (!q->ready || q->broken)
		return 0;
	if (q->event_idx) {
		store16(q->used_p + off, q->avail_next);
		gm_mark(q->gm, q->used + off, 2);
	}
	/* Our wish to be kicked is visible before we look at the index for the last time; else a
	 * driver that adds a chain in between would see the old wish, and nobody would look. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load16(q->avail_p + RING_IDX) != q->avail_next;
}

void virtq_fill(struct virtq *q, unsigned i, uint16_t head, uint32_t written)
{
	struct vring_used_wire w = {.id = le32_of(head), .len = le32_of(written)};
	uint64_t off = RING_ENTRIES + sizeof(w) * ((q->used_next + i) & (q->size - 1u));

	if (!q->ready || q->broken)
		return;
	memcpy(q->used_p + off, &w, sizeof(w));
	gm_mark(q->gm, q->used + off, sizeof(w));
}

void virtq_show(struct virtq *q, unsigned n)
{
	if (!q->ready || q->broken)
		return;
	q->used_next = (uint16_t)(q->used_next + n);
	/* Buffers and used entries are visible before the index that announces them. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	store16(q->used_p + RING_IDX, q->used_next);
	/* After the store: a pre-copy round may harvest at any time, and would else send the page
	 * without it. The harvest of a checkpoint waits for the device lock. */
	gm_mark(q->gm, q->used + RING_IDX, 2);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	virtq_fill(q, 0, head, written);
	virtq_show(q, 1);
}

int virtq_wants_irq(struct virtq *q)
{
	uint16_t told = q->used_told, now = q->used_next, event;

	if (!q->ready || q->broken)
		return 0;
	/* The index is visible before we read whether the driver waits for it: it writes its wish,
	 * then looks at the index, so one of us sees the other. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	q->used_told = now;
	if (!q->event_idx)
		return now != told &&
		       !(load16(q->avail_p + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	event = load16(q->avail_p + RING_ENTRIES + 2 * q->size);
	/* 2.7.10: whether @event is among the indices told .. now - 1, modulo 2^16. */
	return (uint16_t)(now - event - 1) < (uint16_t)(now - told);
}

/* Walk @n segments for @len bytes from byte @off on. @gm: to them, and marked; NULL: from them. */
static size_t copy(const struct iovec *seg, const uint64_t *gpa, unsigned n, size_t off,
		   uint8_t *p, size_t len, struct gm *gm)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t part = seg[i].iov_len;

		if (off >= part) {
			off -= part;
			continue;
		}
		part = part - off < len - done ? part - off : len - done;
		if (gm) {
			memcpy((uint8_t *)seg[i].iov_base + off, p + done, part);
			gm_mark(gm, gpa[i] + off, part);
		} else {
			memcpy(p + done, (const uint8_t *)seg[i].iov_base + off, part);
		}
		done += part;
		off = 0;
	}
	return done;
}

size_t virtq_read(const struct virtq_chain *c, size_t off, void *dst, size_t len)
{
	size_t n = copy(c->seg, c->gpa, c->n_out, off, dst, len, NULL);

	/* What was copied is what is judged: no second look at the guest's bytes. */
	__asm__ volatile("" ::: "memory");
	return n;
}

size_t virtq_write(struct virtq *q, const struct virtq_chain *c, size_t off,
		   const void *src, size_t len)
{
	return copy(c->seg + c->n_out, c->gpa + c->n_out, c->n_in, off, (uint8_t *)src,
		    len, q->gm);
}

void virtq_taken_over(struct virtq *q, uint16_t avail_next)
{
	q->avail_next = avail_next;
	q->used_next = load16(q->used_p + RING_IDX);
	q->used_told = q->used_next;
}

int virtq_save(const struct virtq *q, uint32_t instance, struct buf *b)
{
	return state_save(b, &virtq_table, instance, q);
}

int virtq_load(struct virtq *q, uint32_t instance, struct reader *r, struct err *err)
{
	struct virtq in;
	int rc, ready;

	virtq_init(&in, q->gm, q->size_max);
	rc = state_load(r, &virtq_table, instance, &in, err);
	if (rc)
		return rc;
	if (in.ready > 1 || in.event_idx > 1 || in.broken > 1)
		return err_set(err, -EBADMSG, "virtq %u: a flag is neither 0 nor 1",
			       instance);
	ready = in.ready;
	in.ready = 0;
	if (ready && virtq_enable(&in))
		return err_set(err, -EBADMSG,
			       "virtq %u: ready with bad size or addresses", instance);
	*q = in;
	return 0;
}
