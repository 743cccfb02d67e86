/* SPDX-License-Identifier: Apache-2.0
 * conform_wire - what the wire under a link may do without anybody above seeing it, and silence.
 */
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <errno.h>

enum { WIRE_BYTES = 512 << 10, WIRE_TURNS = 10, GIVE_UP_MS = 2000 };

static size_t stretch(const struct conform *c)
{
	return c->wire_bytes ? c->wire_bytes : WIRE_BYTES;
}

static void there_and_back(struct conform *c, struct tp *tp)
{
	for (int from = 0; from < 2; from++) {
		if (c->side == from)
			CONFORM_RC(c, conform_send(tp, CONFORM_WIRE_SEED, stretch(c)), 0);
		else
			CONFORM_RC(c, conform_recv(tp, CONFORM_WIRE_SEED, stretch(c)), 0);
	}
	conform_meet(c);
	tp_close(tp);
}

static void both_at_once(struct conform *c, struct tp *tp)
{
	struct conform_worker out, in;

	conform_start(&out, conform_send, tp, (unsigned)c->side, stretch(c));
	conform_start(&in, conform_recv, tp, (unsigned)!c->side, stretch(c));
	CONFORM_RC(c, conform_join(&out), 0);
	CONFORM_RC(c, conform_join(&in), 0);
	conform_meet(c);
	tp_close(tp);
}

static void checkpoints(struct conform *c, struct tp *tp)
{
	for (unsigned i = 0; i < WIRE_TURNS; i++) {
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

/* The last words are heard over any wire, too. */
static void good_bye(struct conform *c, struct tp *tp)
{
	char b;
	int rc;

	if (c->side == 0) {
		CONFORM_RC(c, conform_send(tp, 3, 100000), 0);
	} else {
		CONFORM_RC(c, conform_recv(tp, 3, 100000), 0);
		rc = tp_recv(tp, &b, 1);
		CONFORM(c, rc == -EPIPE || (c->end_by_receiver && rc == -ECONNRESET));
	}
	tp_close(tp);
	conform_meet(c);
}

const struct conform_case conform_wire[] = {
	{"there and back", there_and_back, NULL, 0},
	{"both at once", both_at_once, NULL, 0},
	{"checkpoints", checkpoints, NULL, 0},
	{"good-bye", good_bye, NULL, 0},
	{0},
};

/* Bits are flipped: no wrong byte is ever believed. */
static void flips(struct conform *c, struct tp *tp)
{
	struct conform_worker out, in;

	conform_start(&out, conform_send, tp, (unsigned)c->side, stretch(c));
	conform_start(&in, conform_recv, tp, (unsigned)!c->side, stretch(c));
	(void)conform_join(&out); /* may hear of the end that the other has made */
	CONFORM(c, conform_join(&in) == 0 ||
			   (c->flips_cut && (in.rc == -EBADMSG || in.rc == -ECONNRESET)));
	if (in.rc)
		tp_shutdown(tp);
	conform_meet(c);
	c->sound_again(c);
	conform_meet(c);
	tp_close(tp);
	checkpoints(c, conform_link(c));
}

const struct conform_case conform_flips[] = {
	{"flips", flips, NULL, 0},
	{0},
};

/* As with a host that has lost its power: no FIN, no RESET, and the port stays up. Who sends gives up
 * by itself; who only waits can leave; and the next link is as good as new. */
static void silence(struct conform *c, struct tp *tp)
{
	struct conform_worker in;
	uint64_t before;
	char b;
	int rc;

	tp->send_timeout_ms = GIVE_UP_MS;
	CONFORM_RC(c, conform_text(tp, "x"), 0);
	CONFORM_RC(c, tp_recv(tp, &b, 1), 0);
	before = tp->bytes_received;
	conform_meet(c);
	c->silence(c, 1);
	conform_meet(c);
	if (c->side == 0) {
		rc = conform_flood(c, tp);
		CONFORM(c, rc == -ETIMEDOUT || rc == -ECONNRESET);
		rc = conform_text(tp, "more");
		CONFORM(c, rc == -ETIMEDOUT || rc == -ECONNRESET);
		conform_meet(c);
	} else {
		conform_start(&in, conform_recv, tp, 0, 10);
		conform_meet(c);
		tp_shutdown(tp);
		rc = conform_join(&in);
		CONFORM(c, rc == -ESHUTDOWN || rc == -ETIMEDOUT || rc == -ECONNRESET);
		CONFORM(c, tp->bytes_received == before);
	}
	c->silence(c, 0);
	conform_meet(c);
	tp_close(tp);
	checkpoints(c, conform_link(c));
}

const struct conform_case conform_silent[] = {
	{"silence", silence, NULL, 0},
	{0},
};
