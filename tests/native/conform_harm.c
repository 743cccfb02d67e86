/* SPDX-License-Identifier: Apache-2.0
 * conform_harm - what a transport must make of harm that is done under the fault layer.
 *
 * Side 0 has the layer. Records go over the link where it counts that nothing half is believed.
 */
#include "hv/base/err.h"
#include "replication/record.h"
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <errno.h>
#include <string.h>

enum { HEAD = sizeof(struct rec_wire), LONGEST = 70000, DELAY_US = 100000, TURNS = 5 };

static const size_t rec_len[] = {0, 1, 100, 4096, LONGEST};
enum { RECORDS = sizeof(rec_len) / sizeof(rec_len[0]) };

static struct tp *layer(const struct conform *c, struct tp *tp, const struct tp_fault *f)
{
	struct err err = {0};

	if (!c->side && tp_fault_wrap(tp, f, &tp, &err))
		conform_die(err.msg);
	return tp;
}

static size_t start_of(size_t i)
{
	size_t at = 0;

	for (size_t k = 0; k < i; k++)
		at += HEAD + rec_len[k];
	return at;
}

/* How many of the records end at @at or before it. */
static size_t whole_before(size_t at)
{
	size_t n = 0;

	while (n < RECORDS && start_of(n + 1) <= at)
		n++;
	return n;
}

static int send_records(struct tp *tp)
{
	static uint8_t page[LONGEST];
	struct rec_stream s;
	struct iovec v;
	int rc = 0;

	rec_stream_init(&s, tp, 1);
	for (size_t i = 0; i < RECORDS && !rc; i++) {
		v = (struct iovec){.iov_base = page, .iov_len = rec_len[i]};
		rc = rec_send(&s, 0x0100, i, &v, 1);
	}
	rc = rc ? rc : rec_flush(&s);
	rec_stream_fini(&s);
	return rc;
}

/* @want whole records, and then the error @rc. */
static void expect_records(struct conform *c, struct tp *tp, size_t want, int rc)
{
	struct err err = {0};
	struct rec_stream s;
	struct rec r;
	size_t n = 0;
	int got;

	rec_stream_init(&s, tp, 1);
	while (!(got = rec_recv(&s, &r, &err)) && n < RECORDS) {
		CONFORM(c, r.epoch == n && r.len == rec_len[n]);
		n++;
	}
	CONFORM(c, n == want);
	CONFORM(c, got == rc);
	rec_stream_fini(&s);
}

static void one_cut(struct conform *c, size_t at)
{
	const struct tp_fault f = {.cut_after = at};
	struct tp *tp = layer(c, conform_link(c), &f);
	char b;

	if (c->side == 0) {
		CONFORM_RC(c, send_records(tp), -ECONNRESET);
		CONFORM_RC(c, tp_recv(tp, &b, 1), -ECONNRESET);
	} else {
		expect_records(c, tp, whole_before(at), -ECONNRESET);
	}
	conform_meet(c);
	tp_close(tp);
}

/* At the beginning of each record, within its header, behind it, within what it carries, and before
 * its last byte. */
static void cut_at_and_in_every_record(struct conform *c)
{
	for (size_t i = 0, last = 0; i < RECORDS; i++) {
		const size_t at[] = {0,
				     1,
				     HEAD / 2,
				     HEAD - 1,
				     HEAD,
				     HEAD + rec_len[i] / 2,
				     HEAD + rec_len[i] - 1};

		for (size_t k = 0; k < sizeof(at) / sizeof(at[0]); k++) {
			if (start_of(i) + at[k] <= last)
				continue;
			last = start_of(i) + at[k];
			one_cut(c, last);
		}
	}
	one_cut(c, start_of(RECORDS));
}

static void cut_while_it_runs(struct conform *c)
{
	const struct tp_fault none = {0}, now = {.cut_after = 1};
	struct tp *tp = layer(c, conform_link(c), &none);
	struct conform_worker in;
	char b[8];

	if (c->side == 0) {
		CONFORM_RC(c, conform_text(tp, "before"), 0);
		conform_start(&in, conform_recv, tp, 0, 1);
		conform_meet(c);
		tp_fault_set(tp, &now);
		CONFORM_RC(c, conform_join(&in), -ECONNRESET);
		CONFORM_RC(c, conform_text(tp, "after"), -ECONNRESET);
	} else {
		CONFORM(c, tp_recv(tp, b, 6) == 0 && !memcmp(b, "before", 6));
		conform_meet(c);
		CONFORM_RC(c, tp_recv(tp, b, 1), -ECONNRESET);
	}
	conform_meet(c);
	tp_close(tp);
}

/* Who finds it leaves, perhaps before the other has sent all. */
static void one_flip(struct conform *c, size_t at)
{
	const struct tp_fault f = {.flip_after = at};
	struct tp *tp = layer(c, conform_link(c), &f);
	int rc;

	if (c->side == 0) {
		rc = send_records(tp);
		CONFORM(c, rc == 0 || rc == -ECONNRESET);
	} else {
		expect_records(c, tp, whole_before(at), -EBADMSG);
		tp_shutdown(tp);
	}
	conform_meet(c);
	tp_close(tp);
}

static void flip_in_every_record(struct conform *c)
{
	for (size_t i = 0; i < RECORDS; i++) {
		one_flip(c, start_of(i) + 1);
		one_flip(c, start_of(i) + HEAD - 1);
		if (rec_len[i])
			one_flip(c, start_of(i) + HEAD + rec_len[i] / 2);
	}
}

/* A peer that is gone without a word: nobody is told, so nobody knows, but both can leave. */
static void half_open(struct conform *c)
{
	const struct tp_fault f = {.stall_after = 6};
	struct tp *tp = layer(c, conform_link(c), &f);
	uint64_t before = tp->bytes_received;
	struct conform_worker in;

	if (c->side == 0) {
		CONFORM_RC(c, conform_send(tp, 3, CONFORM_TOTAL), 0);
		conform_start(&in, conform_recv, tp, 0, 7);
		conform_meet(c);
		conform_meet(c); /* the other has left, and it is not heard here */
		tp_shutdown(tp);
		CONFORM_RC(c, conform_join(&in), -ESHUTDOWN);
		CONFORM(c, tp->bytes_received == before);
	} else {
		conform_start(&in, conform_recv, tp, 3, 100);
		CONFORM_RC(c, conform_text(tp, "unheard"), 0);
		conform_meet(c);
		tp_shutdown(tp);
		CONFORM_RC(c, conform_join(&in), -ESHUTDOWN);
		CONFORM(c, tp->bytes_received <= before + 6);
		conform_meet(c);
	}
	conform_meet(c);
	tp_close(tp);
}

static void delay(struct conform *c)
{
	const struct tp_fault slow = {.delay_us = DELAY_US},
			      never = {.delay_us = 3600u * 1000000};
	struct tp *tp = layer(c, conform_link(c), &slow);
	struct conform_worker out;
	char b[8];

	for (int i = 0; i < TURNS; i++) {
		if (c->side)
			CONFORM(c, tp_recv(tp, b, 5) == 0 && !memcmp(b, "there", 5));
		CONFORM_RC(c, conform_text(tp, c->side ? "back" : "there"), 0);
		if (!c->side)
			CONFORM(c, tp_recv(tp, b, 4) == 0 && !memcmp(b, "back", 4));
	}
	conform_meet(c); /* the end may reach who has not come back from its last flush */
	if (c->side == 0) {
		tp_fault_set(tp, &never);
		conform_start(&out, conform_send, tp, 1, 10);
		tp_shutdown(tp);
		CONFORM_RC(c, conform_join(&out), -ESHUTDOWN);
	}
	conform_meet(c);
	tp_close(tp);
}

const struct conform_case conform_harm[] = {
	{"cut at and in every record", NULL, cut_at_and_in_every_record, 0},
	{"cut while it runs", NULL, cut_while_it_runs, 0},
	{"a bit flipped in every record", NULL, flip_in_every_record, 0},
	{"half open", NULL, half_open, 0},
	{"delay", NULL, delay, 0},
	{0},
};
