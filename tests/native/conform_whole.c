/* SPDX-License-Identifier: Apache-2.0
 * conform_whole - the promises of a transport on a sound link.
 *
 * In every case side 0 does what its name says. Each closes its end itself.
 */
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <errno.h>
#include <string.h>

static void one_way(struct conform *c, struct tp *tp)
{
	/* Some of it may have gone to agree on what the link is. */
	uint64_t sent = tp->bytes_sent, received = tp->bytes_received;

	for (int from = 0; from < 2; from++) {
		if (c->side == from)
			CONFORM_RC(c, conform_send(tp, 1, CONFORM_TOTAL), 0);
		else
			CONFORM_RC(c, conform_recv(tp, 1, CONFORM_TOTAL), 0);
	}
	CONFORM(c, tp->bytes_sent - sent == CONFORM_TOTAL);
	CONFORM(c, tp->bytes_received - received == CONFORM_TOTAL);
	conform_meet(c);
	tp_close(tp);
}

static void both_ways(struct conform *c, struct tp *tp)
{
	struct conform_worker out, in;

	conform_start(&out, conform_send, tp, (unsigned)c->side, 4 * CONFORM_TOTAL);
	conform_start(&in, conform_recv, tp, (unsigned)!c->side, 4 * CONFORM_TOTAL);
	CONFORM_RC(c, conform_join(&out), 0);
	CONFORM_RC(c, conform_join(&in), 0);
	conform_meet(c);
	tp_close(tp);
}

/* A question and its answer, of a checkpoint's size and a word. */
static void turns(struct conform *c, struct tp *tp)
{
	for (unsigned i = 0; i < 500; i++) {
		if (c->side == 0) {
			CONFORM_RC(c, conform_send(tp, i, 4096), 0);
			CONFORM_RC(c, conform_recv(tp, i, 48), 0);
		} else {
			CONFORM_RC(c, conform_recv(tp, i, 4096), 0);
			CONFORM_RC(c, conform_send(tp, i, 48), 0);
		}
	}
	conform_meet(c);
	tp_close(tp);
}

/* Nobody reads: the sender is held, and gives up after its time-out. So buffers are bounded. */
static void backpressure(struct conform *c, struct tp *tp)
{
	if (c->side == 0) {
		tp->send_timeout_ms = 100;
		CONFORM_RC(c, conform_flood(c, tp), -ETIMEDOUT);
		CONFORM(c, tp->bytes_sent < c->flood);
		CONFORM_RC(c, conform_text(tp, "more"), -ETIMEDOUT);
		CONFORM_RC(c, tp_flush(tp), -ETIMEDOUT);
	}
	conform_meet(c);
	tp_close(tp);
}

/* All of it comes through in the end, however late it is read. Who sends also listens: a session's
 * confirmations are heard that way. */
static void slow_reader(struct conform *c, struct tp *tp)
{
	struct conform_worker out, in;

	if (c->side == 0) {
		conform_start(&out, conform_send, tp, 7, c->flood);
		conform_start(&in, conform_recv, tp, 8, 48);
		conform_meet(c);
		CONFORM_RC(c, conform_join(&out), 0);
		CONFORM_RC(c, conform_join(&in), 0);
	} else {
		conform_meet(c); /* the other's buffers fill before the first byte */
		CONFORM_RC(c, conform_recv(tp, 7, c->flood), 0);
		CONFORM_RC(c, conform_send(tp, 8, 48), 0);
	}
	conform_meet(c);
	tp_close(tp);
}

static void shutdown_unblocks(struct conform *c, struct tp *tp)
{
	struct conform_worker in, out;
	char b;

	if (c->side == 0) {
		conform_start(&in, conform_recv, tp, 0, 10);
		conform_start(&out, conform_send, tp, 0, c->flood);
		tp_shutdown(tp);
		CONFORM_RC(c, conform_join(&in), -ESHUTDOWN);
		CONFORM_RC(c, conform_join(&out), -ESHUTDOWN);
		tp_shutdown(tp); /* twice is fine */
		CONFORM_RC(c, conform_text(tp, "x"), -ESHUTDOWN);
		CONFORM_RC(c, tp_recv(tp, &b, 1), -ESHUTDOWN);
	}
	conform_meet(c);
	tp_close(tp);
}

static void closes_in_good_order(struct conform *c, struct tp *tp)
{
	char b[8];

	if (c->side == 0) {
		CONFORM_RC(c, conform_text(tp, "goodbye"), 0);
		tp_close(tp);
		conform_meet(c);
		return;
	}
	CONFORM(c, tp_recv(tp, b, 7) == 0 && !memcmp(b, "goodbye", 7));
	CONFORM_RC(c, tp_recv(tp, b, 1), -EPIPE);
	CONFORM_RC(c, tp_recv(tp, b, 1), -EPIPE);
	CONFORM_RC(c, conform_flood(c, tp), -ECONNRESET);
	CONFORM_RC(c, conform_text(tp, "x"), -ECONNRESET);
	conform_meet(c);
	tp_close(tp);
}

/* What was flushed arrives, however soon the close comes after it. A session that has much unconfirmed
 * does not wait to say good-bye. */
static void closes_behind_much(struct conform *c, struct tp *tp)
{
	char b;
	int rc;

	if (c->side == 0) {
		CONFORM_RC(c, conform_send(tp, 3, CONFORM_TOTAL / 2), 0);
	} else {
		CONFORM_RC(c, conform_recv(tp, 3, CONFORM_TOTAL / 2), 0);
		rc = tp_recv(tp, &b, 1);
		CONFORM(c, rc == -EPIPE || (c->end_by_receiver && rc == -ECONNRESET));
	}
	tp_close(tp);
	conform_meet(c);
}

/* Who answers the last question closes at once: neither the question's flush nor the answer suffers. */
static void closes_behind_an_answer(struct conform *c)
{
	struct tp *tp;
	char b;

	for (unsigned i = 0; i < 20; i++) {
		tp = conform_link(c);
		if (c->side == 0) {
			CONFORM_RC(c, conform_send(tp, i, 48), 0);
			CONFORM_RC(c, conform_recv(tp, i, 48), 0);
			CONFORM_RC(c, tp_recv(tp, &b, 1), -EPIPE);
		} else {
			CONFORM_RC(c, conform_recv(tp, i, 48), 0);
			CONFORM_RC(c, conform_send(tp, i, 48), 0);
		}
		tp_close(tp);
		conform_meet(c);
	}
}

static void closes_within_a_recv(struct conform *c, struct tp *tp)
{
	char b[8];

	if (c->side == 0) {
		CONFORM_RC(c, conform_text(tp, "half"), 0);
	} else {
		CONFORM_RC(c, tp_recv(tp, b, 8), -ECONNRESET);
		CONFORM_RC(c, tp_recv(tp, b, 1), -ECONNRESET);
	}
	tp_close(tp);
	conform_meet(c);
}

static void dies(struct conform *c, struct tp *tp)
{
	char b[8];

	if (c->side == 0) {
		CONFORM_RC(c, conform_text(tp, "fenced"), 0);
		tp_shutdown(tp);
	} else {
		CONFORM_RC(c, conform_flood(c, tp), -ECONNRESET);
		CONFORM(c, tp_recv(tp, b, 6) == 0 && !memcmp(b, "fenced", 6));
		CONFORM_RC(c, tp_recv(tp, b, 1), -ECONNRESET);
	}
	conform_meet(c);
	tp_close(tp);
}

static void dies_under_load(struct conform *c, struct tp *tp)
{
	struct conform_worker out, in;

	if (c->side == 0) {
		CONFORM_RC(c, conform_recv(tp, 1, CONFORM_TOTAL), 0);
		tp_shutdown(tp);
	} else {
		conform_start(&out, conform_send, tp, 1, CONFORM_TOTAL + c->flood);
		conform_start(&in, conform_recv, tp, 2, 1000);
		CONFORM_RC(c, conform_join(&out), -ECONNRESET);
		CONFORM_RC(c, conform_join(&in), -ECONNRESET);
	}
	conform_meet(c);
	tp_close(tp);
}

const struct conform_case conform_whole[] = {
	{"one way", one_way, NULL, 0},
	{"both ways", both_ways, NULL, 0},
	{"turns", turns, NULL, 0},
	{"backpressure", backpressure, NULL, 0},
	{"slow reader", slow_reader, NULL, 0},
	{"shutdown unblocks", shutdown_unblocks, NULL, 0},
	{"closes in good order", closes_in_good_order, NULL, 0},
	{"closes behind much", closes_behind_much, NULL, 0},
	{"closes behind an answer", NULL, closes_behind_an_answer, 0},
	{"closes within a recv", closes_within_a_recv, NULL, 0},
	{"dies", dies, NULL, 1},
	{"dies under load", dies_under_load, NULL, 0},
	{0},
};
