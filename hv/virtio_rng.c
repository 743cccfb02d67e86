/* SPDX-License-Identifier: Apache-2.0
 * virtio_rng - random bytes from the host's kernel (Virtual I/O Device 1.2, 5.4).
 */
#include "hv/devices.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/virtio_pci.h"
#include "hv/virtq.h"
#include "hv/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

enum { QUEUE_SIZE = 16, BUDGET = 16 };

struct vrng {
	struct vpci *v;
	struct virtq_chain chain;
	/* At most this many bytes a request, and a size that getrandom() never interrupts. */
	uint8_t bytes[256];
};

static int serve(struct vrng *d, struct virtq *q)
{
	size_t want =
		d->chain.in_len < sizeof(d->bytes) ? d->chain.in_len : sizeof(d->bytes);
	ssize_t n;

	if (d->chain.n_out || !want)
		return -EPROTO;
	n = getrandom(d->bytes, want, GRND_NONBLOCK);
	if (n < 0) {
		/* A host that has no entropy yet: the guest gets nothing, and asks again. */
		log_ratelimited(LOG_LVL_WARN, 10000,
				"rng: the host has no random bytes yet");
		n = 0;
	}
	(void)virtq_write(q, &d->chain, 0, d->bytes,
			  (size_t)n); /* it has room for want bytes */
	virtq_push(q, d->chain.head, (uint32_t)n);
	return 0;
}

static void rng_kick(void *self, unsigned queue)
{
	struct vrng *d = self;
	struct virtq *q = vpci_queue(d->v, queue);

	for (unsigned n = 0; n < BUDGET; n++) {
		int rc = virtq_pop(q, &d->chain);

		if (rc == 0 && !virtq_wait(q))
			goto out;
		if (rc == 0)
			continue;
		if (rc < 0 || serve(d, q)) {
			vpci_broken(d->v);
			return;
		}
	}
	vpci_kick(d->v, queue);
out:
	vpci_notify(d->v, queue);
}

static void rng_reset(void *self)
{
}

/* All that counts is in the ring. */
static int rng_save(void *self, uint32_t instance, struct buf *b)
{
	return 0;
}

static int rng_load(void *self, uint32_t instance, struct reader *r, struct err *err)
{
	return 0;
}

static void rng_destroy(void *self)
{
	free(self);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = 4,
	.class_code = 0xFF0000, /* no class fits */
	.queues = 1,
	.queue_size = QUEUE_SIZE,
	.kick = rng_kick,
	.reset = rng_reset,
	.save = rng_save,
	.load = rng_load,
	.destroy = rng_destroy,
};

int vrng_create(struct vm *vm, struct err *err)
{
	struct vrng *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return err_set(err, -ENOMEM, "virtio-rng: out of memory");
	rc = vpci_create(vm, &rng_ops, d, 0, NULL, 0, &d->v, err);
	if (rc)
		free(d);
	return rc;
}
