/* SPDX-License-Identifier: Apache-2.0
 * netrig - a netbuf whose two taps and one console remember what came out, in one order.
 */
#ifndef TESTS_UNIT_NETRIG_H
#define TESTS_UNIT_NETRIG_H

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "netbuf/nb.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT = 1 << 20, FRAME = 64 };

/* A tap that remembers. All ports of a test share one log, so that order shows. */
struct wire {
	pthread_mutex_t lock;
	uint32_t *seq; /* what came out */
	size_t n, cap;
	int full; /* so many writes fail with -EAGAIN; -1: all */
	unsigned waits, resumes;
	struct loop *stop_on_resume;
};

static struct wire wire = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline int wire_write(void *self, const struct iovec *iov, int n)
{
	uint32_t v;

	pthread_mutex_lock(&wire.lock);
	if (wire.full) {
		wire.full -= wire.full > 0;
		pthread_mutex_unlock(&wire.lock);
		return -EAGAIN;
	}
	if (wire.n == wire.cap) {
		wire.cap = wire.cap ? 2 * wire.cap : 1024;
		wire.seq = reallocarray(wire.seq, wire.cap, sizeof(*wire.seq));
	}
	memcpy(&v, (uint8_t *)iov[0].iov_base + NB_VNET_HDR + 20, sizeof(v));
	wire.seq[wire.n++] = v;
	pthread_mutex_unlock(&wire.lock);
	return 0;
}

static inline void wire_wait(void *self, int ms)
{
	wire.waits++;
}

static inline void wire_resume(void *self)
{
	wire.resumes++;
	if (wire.stop_on_resume)
		loop_stop(wire.stop_on_resume);
}

static const struct nb_port_ops wire_ops = {
	.write = wire_write, .wait = wire_wait, .resume = wire_resume};

/* Console bytes in the same log: each byte is a number from 1000 on. */
static inline int con_write(void *self, const struct iovec *iov, int n)
{
	const uint8_t *p = iov[0].iov_base;

	for (size_t i = 0; i < iov[0].iov_len; i++) {
		uint8_t frame[FRAME] = {0};
		uint32_t v = 1000u + p[i];

		memcpy(frame + NB_VNET_HDR + 20, &v, sizeof(v));
		CU_ASSERT_EQUAL(wire_write(NULL, &(struct iovec){frame, FRAME}, 1), 0);
	}
	return 0;
}

static const struct nb_port_ops con_ops = {
	.write = con_write, .wait = wire_wait, .resume = wire_resume};

struct rig {
	struct loop *loop;
	struct netbuf *nb;
	struct part part;
	struct nb_port *net[2], *con;
	unsigned asked;
	char why[64];
};

static inline void ask(void *arg, const char *why)
{
	struct rig *r = arg;

	r->asked++;
	(void)snprintf(r->why, sizeof(r->why), "%s", why);
}

static inline void setup(struct rig *r, size_t limit, int hold)
{
	struct err err = {0};

	*r = (struct rig){0};
	free(wire.seq);
	wire = (struct wire){.lock = PTHREAD_MUTEX_INITIALIZER};
	CU_ASSERT_EQUAL_FATAL(loop_create(&r->loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(netbuf_create(limit, r->loop, hold,
					    (struct epoch_trigger){ask, r}, &r->nb, &err),
			      0);
	r->part = netbuf_part(r->nb);
	CU_ASSERT_EQUAL(nb_add_port(r->nb, &wire_ops, NULL, 1, &r->net[0]), 0);
	CU_ASSERT_EQUAL(nb_add_port(r->nb, &wire_ops, NULL, 1, &r->net[1]), 0);
	CU_ASSERT_EQUAL(nb_add_port(r->nb, &con_ops, NULL, 0, &r->con), 0);
}

static inline void finish(struct rig *r)
{
	netbuf_destroy(r->nb);
	loop_destroy(r->loop);
	free(wire.seq);
	wire.seq = NULL;
}

/* While passing, wire_write() sees the pieces: so whole there. */
static inline int say(struct nb_port *p, uint32_t v)
{
	uint8_t frame[FRAME] = {0};

	memcpy(frame + NB_VNET_HDR + 20, &v, sizeof(v));
	return nb_guest_frame(p, &(struct iovec){frame, FRAME}, 1);
}

static inline void say_byte(struct rig *r, uint8_t b)
{
	nb_bytes(r->con, &b, 1);
}

static inline void capture(struct rig *r, uint64_t epoch)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(r->part.ops->capture(r->part.self, epoch, &err), 0);
}

static inline void committed(struct rig *r, uint64_t epoch)
{
	r->part.ops->committed(r->part.self, epoch);
}

#endif
