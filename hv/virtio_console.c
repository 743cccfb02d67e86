/* SPDX-License-Identifier: Apache-2.0
 * virtio_console - a console with one port (Virtual I/O Device 1.2, 5.3).
 *
 * Input waits in a small buffer, which is part of the state, until the guest posts room for it:
 * what vconsole_input() took is not lost by a failover.
 */
#include "hv/devices.h"

#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "hv/state.h"
#include "hv/virtio_pci.h"
#include "hv/virtq.h"
#include "hv/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { Q_IN = 0, Q_OUT = 1, QUEUES = 2, QUEUE_SIZE = 64 };
enum { INPUT_MAX = 512, BUDGET = 64 };

/* Columns, rows and ports mean nothing without their features, which are not offered. */
struct cfg_wire {
	struct le16 cols, rows;
	struct le32 ports, emergency;
};
WIRE_SIZE(struct cfg_wire, 12);

struct vconsole {
	struct vpci *v;
	struct con_out out;
	struct cfg_wire cfg;
	uint32_t in_len;
	uint8_t in[INPUT_MAX];
	struct virtq_chain chain;
	uint8_t bytes[4096];
};

static const struct state_field con_fields[] = {
	STATE_INT(1, 1, struct vconsole, in_len),
	STATE_BYTES(2, 1, struct vconsole, in),
	STATE_END,
};
static const struct state_table con_table = {"virtio-console", 1, con_fields};

static void give_input(struct vconsole *d)
{
	struct virtq *q = vpci_queue(d->v, Q_IN);

	while (d->in_len) {
		size_t n;
		int rc = virtq_pop(q, &d->chain);

		if (rc == 0 && !virtq_wait(q))
			break;
		if (rc == 0)
			continue;
		if (rc < 0) {
			vpci_broken(d->v);
			return;
		}
		n = virtq_write(q, &d->chain, 0, d->in, d->in_len);
		virtq_push(q, d->chain.head, (uint32_t)n);
		d->in_len -= (uint32_t)n;
		memmove(d->in, d->in + n, d->in_len);
	}
	vpci_notify(d->v, Q_IN);
}

/* The bytes of one chain, through a copy: the guest may change them while they are looked at. */
static void put_out(struct vconsole *d)
{
	size_t off = 0, n;

	while ((n = virtq_read(&d->chain, off, d->bytes, sizeof(d->bytes)))) {
		d->out.bytes(d->out.self, d->bytes, n);
		off += n;
	}
}

static void take_output(struct vconsole *d)
{
	struct virtq *q = vpci_queue(d->v, Q_OUT);

	for (unsigned n = 0; n < BUDGET; n++) {
		int rc = virtq_pop(q, &d->chain);

		if (rc < 0) {
			vpci_broken(d->v);
			return;
		}
		if (rc == 0 && !virtq_wait(q))
			goto out;
		if (rc == 0)
			continue;
		put_out(d);
		virtq_push(q, d->chain.head, 0);
	}
	vpci_kick(d->v, Q_OUT);
out:
	vpci_notify(d->v, Q_OUT);
}

static void con_kick(void *self, unsigned queue)
{
	if (queue == Q_IN)
		give_input(self);
	else
		take_output(self);
}

size_t vconsole_input(struct vconsole *d, const void *p, size_t len)
{
	size_t n = sizeof(d->in) - d->in_len;

	n = n < len ? n : len;
	memcpy(d->in + d->in_len, p, n);
	d->in_len += (uint32_t)n;
	/* By way of the loop, where it is known whether the queue may be touched. */
	vpci_kick(d->v, Q_IN);
	return n;
}

/* Input waits for the next driver, as in a terminal's own buffer. */
static void con_reset(void *self)
{
}

static int con_save(void *self, uint32_t instance, struct buf *b)
{
	return state_save(b, &con_table, instance, self);
}

static int con_load(void *self, uint32_t instance, struct reader *r, struct err *err)
{
	struct vconsole *d = self;
	int rc = state_load(r, &con_table, instance, d, err);

	if (!rc && d->in_len > sizeof(d->in)) {
		d->in_len = 0;
		rc = err_set(err, -EBADMSG, "more input than the buffer holds");
	}
	return rc;
}

static void con_destroy(void *self)
{
	free(self);
}

static const struct virtio_ops con_ops = {
	.name = "virtio-console",
	.id = 3,
	.class_code = 0x078000, /* other communication */
	.queues = QUEUES,
	.queue_size = QUEUE_SIZE,
	.kick = con_kick,
	.reset = con_reset,
	.save = con_save,
	.load = con_load,
	.destroy = con_destroy,
};

int vconsole_create(struct vm *vm, const struct con_out *out, struct vconsole **dev_out,
		    struct err *err)
{
	struct vconsole *d = calloc(1, sizeof(*d));
	int rc;

	*dev_out = NULL;
	if (!d)
		return err_set(err, -ENOMEM, "virtio-console: out of memory");
	d->out = *out;
	rc = vpci_create(vm, &con_ops, d, 0, &d->cfg, sizeof(d->cfg), &d->v, err);
	if (rc) {
		free(d);
		return rc;
	}
	*dev_out = d;
	return 0;
}
