/* SPDX-License-Identifier: Apache-2.0
 * virtio_regs - the common configuration registers of a virtio 1.x device and its status machine.
 */
#include "hv/virtio_regs.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/msix.h"
#include "hv/state.h"

#include <errno.h>
#include <string.h>

enum reg {
	R_DEVICE_SELECT = 0,
	R_DEVICE_FEATURES = 4,
	R_DRIVER_SELECT = 8,
	R_DRIVER_FEATURES = 12,
	R_CONFIG_VECTOR = 16,
	R_QUEUES = 18,
	R_STATUS = 20,
	R_GENERATION = 21,
	R_QUEUE_SELECT = 22,
	R_QUEUE_SIZE = 24,
	R_QUEUE_VECTOR = 26,
	R_QUEUE_ENABLE = 28,
	R_QUEUE_NOTIFY = 30,
	R_QUEUE_DESC = 32,
	R_QUEUE_AVAIL = 40,
	R_QUEUE_USED = 48,
};

/* The driver's way through the status bits: each wants those of @before. */
static const struct step {
	uint8_t bit, before;
	const char *name;
} steps[] = {
	{VIRTIO_ACKNOWLEDGE, 0, "acknowledge"},
	{VIRTIO_DRIVER, VIRTIO_ACKNOWLEDGE, "driver"},
	{VIRTIO_FEATURES_OK, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, "features-ok"},
	{VIRTIO_DRIVER_OK, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK,
	 "driver-ok"},
};
enum { STEPS = sizeof(steps) / sizeof(steps[0]) };
enum {
	DRIVER_BITS =
		VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK
};
_Static_assert(STEPS == __builtin_popcount(DRIVER_BITS),
	       "each bit of the driver is one step");

static const struct state_field regs_fields[] = {
	STATE_INT(1, 1, struct virtio_regs, status),
	STATE_INT(2, 1, struct virtio_regs, generation),
	STATE_INT(3, 1, struct virtio_regs, config_vector),
	STATE_INT(4, 1, struct virtio_regs, queue_select),
	STATE_INT(5, 1, struct virtio_regs, device_select),
	STATE_INT(6, 1, struct virtio_regs, driver_select),
	STATE_INT(7, 1, struct virtio_regs, driver_features),
	STATE_END,
};
static const struct state_table regs_table = {"virtio", 1, regs_fields};

void virtio_regs_reset(struct virtio_regs *r)
{
	r->status = r->generation = 0;
	r->config_vector = MSIX_NO_VECTOR;
	r->queue_select = 0;
	r->device_select = r->driver_select = 0;
	r->driver_features = 0;
	for (unsigned i = 0; i < r->queues; i++)
		virtq_reset(&r->queue[i]);
}

int virtio_regs_running(const struct virtio_regs *r)
{
	return (r->status & VIRTIO_DRIVER_OK) &&
	       !(r->status & (VIRTIO_NEEDS_RESET | VIRTIO_FAILED));
}

static int features_ok(const struct virtio_regs *r)
{
	return !(r->driver_features & ~r->offered) &&
	       (r->driver_features & 1ull << VIRTIO_F_VERSION_1);
}

/* The one place where the driver's bits are set. */
static void status_step(struct virtio_regs *r, const struct step *s)
{
	if ((r->status & s->before) != s->before ||
	    (s->bit == VIRTIO_FEATURES_OK && !features_ok(r))) {
		log_ratelimited(LOG_LVL_WARN, 1000, "virtio: %s refused at status %#x",
				s->name, r->status);
		return;
	}
	r->status |= s->bit;
	if (s->bit == VIRTIO_DRIVER_OK)
		r->ops->started(r->self);
}

static void status_write(struct virtio_regs *r, uint8_t v)
{
	if (v == 0) {
		virtio_regs_reset(r);
		r->ops->reset(r->self);
		return;
	}
	if (v & VIRTIO_FAILED)
		r->status |= VIRTIO_FAILED;
	for (unsigned i = 0; i < STEPS; i++)
		if ((v & steps[i].bit) && !(r->status & steps[i].bit))
			status_step(r, &steps[i]);
}

static struct virtq *selected(const struct virtio_regs *r)
{
	return r->queue_select < r->queues ? &r->queue[r->queue_select] : NULL;
}

static uint64_t queue_get(const struct virtio_regs *r, unsigned reg)
{
	const struct virtq *q = selected(r);

	if (!q)
		return reg == R_QUEUE_VECTOR ? MSIX_NO_VECTOR : 0;
	switch (reg) {
	case R_QUEUE_SIZE:
		return q->size;
	case R_QUEUE_VECTOR:
		return q->vector;
	case R_QUEUE_ENABLE:
		return q->ready;
	case R_QUEUE_NOTIFY:
		return r->queue_select;
	case R_QUEUE_DESC:
		return q->desc;
	case R_QUEUE_AVAIL:
		return q->avail;
	default:
		return q->used;
	}
}

static uint32_t half(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static uint64_t reg_get(const struct virtio_regs *r, unsigned reg)
{
	switch (reg) {
	case R_DEVICE_SELECT:
		return r->device_select;
	case R_DEVICE_FEATURES:
		return half(r->offered, r->device_select);
	case R_DRIVER_SELECT:
		return r->driver_select;
	case R_DRIVER_FEATURES:
		return half(r->driver_features, r->driver_select);
	case R_CONFIG_VECTOR:
		return r->config_vector;
	case R_QUEUES:
		return r->queues;
	case R_STATUS:
		return r->status;
	case R_GENERATION:
		return r->generation;
	case R_QUEUE_SELECT:
		return r->queue_select;
	default:
		return queue_get(r, reg);
	}
}

static void queue_enable(struct virtio_regs *r, struct virtq *q)
{
	if (!(r->status & VIRTIO_FEATURES_OK))
		return;
	q->event_idx = !!(r->driver_features & 1ull << VIRTIO_F_EVENT_IDX);
	if (virtq_enable(q)) {
		log_ratelimited(LOG_LVL_WARN, 1000,
				"virtio: queue %u has a bad size or address",
				r->queue_select);
		r->status |= VIRTIO_NEEDS_RESET;
		return;
	}
	r->ops->enabled(r->self, r->queue_select);
}

static uint16_t vector_of(const struct virtio_regs *r, uint64_t v)
{
	return v < r->vectors ? (uint16_t)v : MSIX_NO_VECTOR;
}

static void queue_set(struct virtio_regs *r, unsigned reg, uint64_t v)
{
	struct virtq *q = selected(r);

	if (q && reg == R_QUEUE_VECTOR)
		q->vector = vector_of(r, v);
	/* A queue in use keeps its place until a reset. */
	if (!q || q->ready)
		return;
	switch (reg) {
	case R_QUEUE_SIZE:
		q->size = (uint16_t)v;
		break;
	case R_QUEUE_ENABLE:
		if (v == 1)
			queue_enable(r, q);
		break;
	case R_QUEUE_DESC:
		q->desc = v;
		break;
	case R_QUEUE_AVAIL:
		q->avail = v;
		break;
	case R_QUEUE_USED:
		q->used = v;
		break;
	}
}

static void features_set(struct virtio_regs *r, uint64_t v)
{
	unsigned shift = 32 * (r->driver_select & 1);

	if (r->driver_select > 1 || (r->status & VIRTIO_FEATURES_OK))
		return;
	r->driver_features =
		(r->driver_features & ~(0xFFFFFFFFull << shift)) | v << shift;
}

static void reg_set(struct virtio_regs *r, unsigned reg, uint64_t v)
{
	switch (reg) {
	case R_DEVICE_SELECT:
		r->device_select = (uint32_t)v;
		break;
	case R_DRIVER_SELECT:
		r->driver_select = (uint32_t)v;
		break;
	case R_DRIVER_FEATURES:
		features_set(r, v);
		break;
	case R_CONFIG_VECTOR:
		r->config_vector = vector_of(r, v);
		break;
	case R_STATUS:
		status_write(r, (uint8_t)v);
		break;
	case R_QUEUE_SELECT:
		r->queue_select = (uint16_t)v;
		break;
	default:
		queue_set(r, reg, v);
		break;
	}
}

static unsigned reg_len(unsigned reg)
{
	if (reg < R_CONFIG_VECTOR)
		return 4;
	if (reg == R_STATUS || reg == R_GENERATION)
		return 1;
	return reg < R_QUEUE_DESC ? 2 : 8;
}

/* Which register an access means: its start and the byte in it; -1: none. */
static int reg_at(uint64_t off, unsigned len, unsigned *byte_out)
{
	unsigned reg = off < VIRTIO_COMMON_SIZE ? (unsigned)off : VIRTIO_COMMON_SIZE;

	*byte_out = 0;
	if (reg >= VIRTIO_COMMON_SIZE)
		return -1;
	if (reg >= R_QUEUE_DESC && len == 4 && reg % 4 == 0) {
		*byte_out = reg & 4;
		return (int)(reg & ~4u);
	}
	return reg % len == 0 && len == reg_len(reg) ? (int)reg : -1;
}

void virtio_regs_read(const struct virtio_regs *r, uint64_t off, void *data, unsigned len)
{
	uint8_t *p = data;
	unsigned byte;
	int reg = reg_at(off, len, &byte);
	uint64_t v = reg < 0 ? 0 : reg_get(r, (unsigned)reg) >> (8 * byte);

	for (unsigned i = 0; i < len; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

void virtio_regs_write(struct virtio_regs *r, uint64_t off, const void *data,
		       unsigned len)
{
	const uint8_t *p = data;
	uint64_t v = 0, keep = 0;
	unsigned byte;
	int reg = reg_at(off, len, &byte);

	if (reg < 0)
		return;
	for (unsigned i = 0; i < len; i++)
		v |= (uint64_t)p[i] << (8 * i);
	/* Half of an address: the other half stays. */
	if (reg >= R_QUEUE_DESC && len == 4)
		keep = reg_get(r, (unsigned)reg) & ~(0xFFFFFFFFull << (8 * byte));
	reg_set(r, (unsigned)reg, keep | v << (8 * byte));
}

int virtio_regs_save(const struct virtio_regs *r, uint32_t instance, struct buf *b)
{
	return state_save(b, &regs_table, instance, r);
}

int virtio_regs_load(struct virtio_regs *r, uint32_t instance, struct reader *in,
		     struct err *err)
{
	struct virtio_regs n = *r;
	int rc = state_load(in, &regs_table, instance, &n, err);

	if (rc)
		return rc;
	for (unsigned i = 0; i < STEPS; i++)
		if ((n.status & steps[i].bit) &&
		    (n.status & steps[i].before) != steps[i].before)
			return err_set(err, -EBADMSG, "virtio %u: status %#x cannot be",
				       instance, n.status);
	if ((n.status & VIRTIO_FEATURES_OK) && !features_ok(&n))
		return err_set(err, -EBADMSG,
			       "virtio %u: features %#llx are not offered here", instance,
			       (unsigned long long)n.driver_features);
	n.config_vector = vector_of(&n, n.config_vector);
	*r = n;
	return 0;
}
