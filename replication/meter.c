/* SPDX-License-Identifier: Apache-2.0
 * meter - the client's and the server's side of a measurement.
 */
#include "replication/meter.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	ECHOES = 400, /* of each size, at most */
	ECHOES_MIN = 8,
	ECHO_MS = 400, /* for each size; enough for the least number whatever it takes */
	WARM_UP = 4,   /* echoes that do not count: the first ones wake everybody */
	LOOK_MS = 5,   /* between two questions whether to go on */
	SLICE_MAX_MS = 250,
	TURNS = 8, /* slices that there are at least, by bytes */
	GROWTH = 8,
};
#define MS_NS 1000000ull

struct meter {
	struct tp *tp;
	const struct meter_params *prm;
	struct meter_result *out;
	struct err *err;
	uint64_t seq, looked_ns;
	int stop, slower; /* as asked for; slower: not yet obeyed */
	uint8_t chunk[METER_CHUNK];
};

int meter_check(const struct meter_wire *h, int server)
{
	uint32_t len = le32_get(h->len);
	unsigned type = le16_get(h->type);
	int asks = type == METER_ECHO || type == METER_BULK || type == METER_MARK ||
		   type == METER_END;

	if (!type || type >= METER_NTYPES || le16_get(h->zero) || asks != server)
		return -EBADMSG;
	if (type == METER_ECHO)
		return len > METER_PAGE ? -EBADMSG : 0;
	if (type == METER_BULK)
		return len < 1 || len > METER_CHUNK ? -EBADMSG : 0;
	return len ? -EBADMSG : 0;
}

uint64_t meter_next_slice(uint64_t bytes, uint64_t ns, uint64_t want_ns, uint64_t max)
{
	double next = ns ? (double)bytes * (double)want_ns / (double)ns
			 : (double)bytes * GROWTH;

	if (next > (double)bytes * GROWTH)
		next = (double)bytes * GROWTH;
	if (next > (double)max)
		next = (double)max;
	return next < METER_SLICE_MIN ? METER_SLICE_MIN : (uint64_t)next;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

struct meter_trip meter_quantiles(uint64_t *ns, unsigned n)
{
	struct meter_trip t = {.n = n};

	if (!n)
		return t;
	qsort(ns, n, sizeof(*ns), by_size);
	t.p50_ns = ns[(n - 1) / 2];
	t.p99_ns = ns[(n - 1) * 99 / 100];
	return t;
}

static int say(struct tp *tp, enum meter_type type, uint64_t seq, uint64_t bytes,
	       const void *content, size_t len)
{
	struct meter_wire h = {.len = le32_of((uint32_t)len),
			       .type = le16_of((uint16_t)type),
			       .seq = le64_of(seq),
			       .bytes = le64_of(bytes)};
	struct iovec v[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
			     {.iov_base = (void *)content, .iov_len = len}};

	return tp_send(tp, v, len ? 2 : 1);
}

/* The answer to what was said last, and no other. */
static int hear(struct meter *m, enum meter_type type, uint64_t bytes)
{
	struct meter_wire h;
	int rc = tp_flush(m->tp);

	rc = rc ? rc : tp_recv(m->tp, &h, sizeof(h));
	if (rc)
		return err_sys(m->err, rc, "the connection broke while it was measured");
	if (meter_check(&h, 0) || le16_get(h.type) != type || le64_get(h.seq) != m->seq ||
	    le64_get(h.bytes) != bytes)
		return err_set(m->err, -EBADMSG,
			       "the peer answered something else than it was asked");
	return 0;
}

static int ask(struct meter *m, enum meter_type type, const void *content, size_t len)
{
	int rc = say(m->tp, type, ++m->seq, 0, content, len);

	return rc ? err_sys(m->err, rc, "the connection broke while it was measured") : 0;
}

static int must_stop(struct meter *m)
{
	uint64_t now = clock_mono_ns();
	enum meter_go go;

	if (m->stop || now - m->looked_ns < LOOK_MS * MS_NS)
		return m->stop;
	m->looked_ns = now;
	go = m->prm->go_on(m->prm->arg, m->out->stopped);
	m->stop = go == METER_STOP;
	m->slower |= go == METER_SLOWER;
	return m->stop;
}

static int measure_trips(struct meter *m, size_t len, struct meter_trip *out)
{
	uint64_t ns[ECHOES], end = clock_mono_ns() + ECHO_MS * MS_NS, began;
	unsigned n = 0, turn = 0;
	int rc = 0;

	while (!rc && n < ECHOES && !must_stop(m)) {
		began = clock_mono_ns();
		if (n >= ECHOES_MIN && began > end)
			break;
		rc = ask(m, METER_ECHO, m->chunk, len);
		rc = rc ? rc : hear(m, METER_ECHOED, 0);
		if (!rc && turn++ >= WARM_UP)
			ns[n++] = clock_mono_ns() - began;
	}
	*out = meter_quantiles(ns, n);
	return rc;
}

/* So many bytes, or fewer if it has to stop. */
static int send_slice(struct meter *m, uint64_t bytes, uint64_t *sent_out)
{
	uint64_t sent = 0;
	size_t n;
	int rc = 0;

	while (!rc && sent < bytes && !must_stop(m) && !m->slower) {
		n = bytes - sent < METER_CHUNK ? (size_t)(bytes - sent) : METER_CHUNK;
		rc = say(m->tp, METER_BULK, 0, 0, m->chunk, n);
		sent += n;
	}
	if (rc)
		return err_sys(m->err, rc, "the connection broke while it was measured");
	m->out->sent += sent;
	*sent_out = sent;
	rc = ask(m, METER_MARK, NULL, 0);
	return rc ? rc : hear(m, METER_MARKED, m->out->sent);
}

/* The wire is for others, but never so long that TCP forgets what it knows of it. */
static void rest(struct meter *m, uint64_t ns)
{
	struct timespec ts;

	if (m->slower)
		ns = METER_PAUSE_MS * MS_NS;
	else if (!m->prm->rests)
		return;
	else if (ns > SLICE_MAX_MS * MS_NS)
		ns = SLICE_MAX_MS * MS_NS;
	m->slower = 0;
	ts = (struct timespec){.tv_sec = 0, .tv_nsec = (long)ns};
	(void)nanosleep(&ts, NULL); /* a shorter rest is fine */
}

static uint64_t slice_ns(const struct meter *m)
{
	uint64_t ns = m->prm->slice_ms * MS_NS, trips = 2 * m->out->small.p50_ns;

	ns = trips > ns ? trips : ns;
	return ns > SLICE_MAX_MS * MS_NS ? SLICE_MAX_MS * MS_NS : ns;
}

static void spend(uint64_t *left_ns, uint64_t ns)
{
	*left_ns -= ns < *left_ns ? ns : *left_ns;
}

static int measure_bandwidth(struct meter *m)
{
	uint64_t want = slice_ns(m), left_ns = m->prm->ms * MS_NS, next = METER_SLICE_MIN;
	uint64_t max = m->prm->bytes / TURNS, trip = m->out->small.p50_ns;
	uint64_t began, took, sent = 0, largest = 0;
	struct meter_result *r = m->out;
	int rc;

	while (left_ns && r->sent < m->prm->bytes && !must_stop(m)) {
		if (m->slower) {
			want /= 2;
			next /= 2;
			rest(m, 0);
			/* It ends even if it is never let. */
			spend(&left_ns, METER_PAUSE_MS * MS_NS);
		}
		next = next < METER_SLICE_MIN ? METER_SLICE_MIN : next;
		largest = next > largest ? next : largest;
		began = clock_mono_ns();
		rc = send_slice(m, next, &sent);
		if (rc)
			return rc;
		took = clock_mono_ns() - began;
		spend(&left_ns, took);
		if (!sent)
			continue;
		took = took > 2 * trip ? took - trip : took / 2 + 1;
		r->bytes += sent;
		r->ns += took;
		r->slices++;
		next = meter_next_slice(sent, took, want, max);
		/* Small slices are for finding out how large they may be. */
		if (next > 2 * largest && !m->stop && left_ns > 2 * want)
			r->bytes = r->ns = r->slices = 0;
		if (!m->slower)
			rest(m, took);
	}
	return 0;
}

int meter_run(struct tp *tp, const struct meter_params *prm, struct meter_result *out,
	      struct err *err)
{
	struct meter *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return err_set(err, -ENOMEM, "no memory for a measurement");
	memset(out, 0, sizeof(*out));
	*m = (struct meter){.tp = tp, .prm = prm, .out = out, .err = err};
	rc = measure_trips(m, METER_SMALL, &out->small);
	rc = rc ? rc : measure_trips(m, METER_PAGE, &out->page);
	rc = rc ? rc : measure_bandwidth(m);
	if (!rc)
		tp_loss(tp, &out->loss);
	rc = rc ? rc : ask(m, METER_END, NULL, 0);
	rc = rc ? rc : hear(m, METER_ENDED, 0);
	free(m);
	return rc;
}

/* Answer @h, whose content was read. */
static int answer(struct tp *tp, const struct meter_wire *h, uint64_t bulk)
{
	uint64_t seq = le64_get(h->seq);
	int rc;

	switch (le16_get(h->type)) {
	case METER_ECHO:
		rc = say(tp, METER_ECHOED, seq, 0, NULL, 0);
		break;
	case METER_MARK:
		rc = say(tp, METER_MARKED, seq, bulk, NULL, 0);
		break;
	case METER_END:
		rc = say(tp, METER_ENDED, seq, 0, NULL, 0);
		break;
	default:
		return 0;
	}
	return rc ? rc : tp_flush(tp);
}

int meter_serve(struct tp *tp, struct err *err)
{
	const uint64_t most = (uint64_t)METER_SERVE_MAX_MIB << 20;
	uint8_t content[METER_CHUNK];
	struct meter_wire h = {0};
	uint64_t bulk = 0;
	int rc;

	do {
		rc = tp_recv(tp, &h, sizeof(h));
		if (!rc && meter_check(&h, 1))
			return err_set(err, -EBADMSG,
				       "the peer said what is no part of a link test");
		if (!rc && le32_get(h.len))
			rc = tp_recv(tp, content, le32_get(h.len));
		if (!rc && le16_get(h.type) == METER_BULK)
			bulk += le32_get(h.len);
		if (bulk > most)
			return err_set(err, -EDQUOT, "a link test of more than %d MiB",
				       METER_SERVE_MAX_MIB);
		rc = rc ? rc : answer(tp, &h, bulk);
	} while (!rc && le16_get(h.type) != METER_END);
	return rc ? err_sys(err, rc, "the connection broke while it was measured") : 0;
}
