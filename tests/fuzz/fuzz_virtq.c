/* SPDX-License-Identifier: Apache-2.0
 * fuzz_virtq - a guest that fills its rings with whatever it likes (libFuzzer).
 *
 * The input is a queue's registers, a row of small writes into guest memory, and what the device
 * does in between. What must hold: no access outside of memory, no endless walk, and every
 * segment handed out lies in memory as a whole.
 */
#include "hv/virtq.h"

#include "hv/gm.h"

#include <stdlib.h>
#include <string.h>

enum { RAM = 64 << 10, STEPS_MAX = 512, POPS_MAX = 1024 };
enum op { OP_POP, OP_PUSH, OP_WAIT, OP_IRQ, OP_PARSE, OP_UNPOP, OPS };

struct gm {
	uint8_t ram[RAM];
};

/* The real ones need a memfd and a VM; these have the same contract. */
void *gm_at(const struct gm *gm, uint64_t gpa, uint64_t len)
{
	return gpa <= RAM && len <= RAM - gpa ? (uint8_t *)gm->ram + gpa : NULL;
}

void gm_mark(struct gm *gm, uint64_t gpa, uint64_t len)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input's bytes, zeroes after its end. */
struct input {
	const uint8_t *p;
	size_t left;
};

static uint64_t take(struct input *in, unsigned len)
{
	uint64_t v = 0;
	unsigned n = in->left < len ? (unsigned)in->left : len;

	memcpy(&v, in->p, n);
	in->p += n;
	in->left -= n;
	return v;
}

static void check(const struct gm *gm, const struct virtq_chain *c)
{
	uint64_t out = 0, in = 0;

	if (!(c->n_out + c->n_in) || c->n_out + c->n_in > VIRTQ_SEGS_MAX)
		abort();
	for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
		if (gm_at(gm, c->gpa[i], c->seg[i].iov_len) != c->seg[i].iov_base)
			abort();
		*(i < c->n_out ? &out : &in) += c->seg[i].iov_len;
	}
	if (out != c->out_len || in != c->in_len)
		abort();
}

static void use(struct virtq *q, const struct virtq_chain *c, unsigned off)
{
	uint8_t bytes[300];
	size_t n;

	check(q->gm, c);
	n = virtq_read(c, off, bytes, sizeof(bytes));
	if (n > sizeof(bytes) || (off + n > c->out_len && n))
		abort();
	memset(bytes + n, 0, sizeof(bytes) - n);
	n = virtq_write(q, c, off, bytes, sizeof(bytes));
	if (n > sizeof(bytes) || (off + n > c->in_len && n))
		abort();
}

static void act(struct virtq *q, struct virtq_chain *c, enum op op, uint16_t arg)
{
	int rc;

	switch (op) {
	case OP_POP:
		for (unsigned n = 0; n < POPS_MAX && virtq_pop(q, c) == 1; n++) {
			use(q, c, arg);
			virtq_push(q, c->head, arg);
		}
		break;
	case OP_PUSH:
		virtq_fill(q, 0, arg, arg);
		virtq_fill(q, 1, arg, arg);
		virtq_show(q, 2);
		break;
	case OP_WAIT:
		rc = virtq_wait(q);
		if (rc && rc != 1)
			abort();
		break;
	case OP_IRQ:
		rc = virtq_wants_irq(q);
		if (rc && rc != 1)
			abort();
		break;
	case OP_PARSE:
		if (virtq_parse(q, arg, c) == 0)
			use(q, c, arg);
		break;
	case OP_UNPOP:
	default:
		if (virtq_pop(q, c) == 1) {
			virtq_unpop(q);
			if (virtq_pop(q, c) != 1)
				abort();
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct virtq_chain *c = malloc(sizeof(*c));
	struct gm *gm = calloc(1, sizeof(*gm));
	struct virtq q;

	if (!gm || !c)
		abort();
	virtq_init(&q, gm, VIRTQ_SIZE_MAX);
	q.size = (uint16_t)take(&in, 2);
	q.desc = take(&in, 3);
	q.avail = take(&in, 3);
	q.used = take(&in, 3);
	q.event_idx = take(&in, 1) & 1;
	if (virtq_enable(&q) == 0)
		for (unsigned i = 0; i < STEPS_MAX && in.left; i++) {
			uint8_t what = (uint8_t)take(&in, 1);
			uint64_t at = take(&in, 2);

			if (what < OPS) {
				act(&q, c, what, (uint16_t)at);
			} else {
				uint64_t v = take(&in, 8);

				/* 1, 2, 4 or 8 bytes of the guest's. */
				memcpy(gm->ram + (at > RAM - 8 ? RAM - 8 : at), &v,
				       (size_t)1 << (what & 3));
			}
		}
	free(c);
	free(gm);
	return 0;
}
