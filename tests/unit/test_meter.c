/* SPDX-License-Identifier: Apache-2.0
 * test_meter - measurements over transports in one process, and peers that say what they should not.
 */
#include "replication/meter.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdatomic.h>

static enum meter_go on_and_on(void *arg, char why[METER_WHY_MAX])
{
	return METER_GO;
}

static const struct meter_params quick = {
	.ms = 20, .bytes = 4 << 20, .slice_ms = 2, .rests = 1, .go_on = on_and_on};

/* Each header that is right, and right only for one side. */
static void test_check(void)
{
	static const struct {
		unsigned type;
		uint32_t least, most; /* of the content */
		int asks;
	} t[] = {{METER_ECHO, 0, METER_PAGE, 1},  {METER_ECHOED, 0, 0, 0},
		 {METER_BULK, 1, METER_CHUNK, 1}, {METER_MARK, 0, 0, 1},
		 {METER_MARKED, 0, 0, 0},	  {METER_END, 0, 0, 1},
		 {METER_ENDED, 0, 0, 0}};
	struct meter_wire h;

	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		h = (struct meter_wire){.type = le16_of((uint16_t)t[i].type),
					.len = le32_of(t[i].least)};
		CU_ASSERT_EQUAL(meter_check(&h, t[i].asks), 0);
		CU_ASSERT_EQUAL(meter_check(&h, !t[i].asks), -EBADMSG);
		h.len = le32_of(t[i].most);
		CU_ASSERT_EQUAL(meter_check(&h, t[i].asks), 0);
		h.len = le32_of(t[i].most + 1);
		CU_ASSERT_EQUAL(meter_check(&h, t[i].asks), -EBADMSG);
		h.len = le32_of(UINT32_MAX);
		CU_ASSERT_EQUAL(meter_check(&h, t[i].asks), -EBADMSG);
		h.len = le32_of(t[i].least);
		h.zero = le16_of(1);
		CU_ASSERT_EQUAL(meter_check(&h, t[i].asks), -EBADMSG);
	}
	h = (struct meter_wire){.type = le16_of(METER_BULK)};
	CU_ASSERT_EQUAL(meter_check(&h, 1), -EBADMSG); /* without content */
	for (unsigned type = 0; type <= UINT16_MAX;
	     type += type < METER_NTYPES ? METER_NTYPES : 1) {
		h = (struct meter_wire){.type = le16_of((uint16_t)type)};
		CU_ASSERT_EQUAL(meter_check(&h, 0), -EBADMSG);
		CU_ASSERT_EQUAL(meter_check(&h, 1), -EBADMSG);
	}
}

static void test_slices(void)
{
	const uint64_t max = 8 << 20, ms = 1000000;

	/* 1 MB in 10 ms; 20 ms are wanted. */
	CU_ASSERT_EQUAL(meter_next_slice(1000000, 10 * ms, 20 * ms, max), 2000000);
	CU_ASSERT_EQUAL(meter_next_slice(1000000, 40 * ms, 20 * ms, max), 500000);
	/* Not more than eight times as many at once, nor above the bound, nor below the least. */
	CU_ASSERT_EQUAL(meter_next_slice(100000, 1, 20 * ms, max), 800000);
	CU_ASSERT_EQUAL(meter_next_slice(100000, 0, 20 * ms, max), 800000);
	CU_ASSERT_EQUAL(meter_next_slice(4 << 20, ms, 20 * ms, max), max);
	CU_ASSERT_EQUAL(meter_next_slice(100000, 1000 * ms, 20 * ms, max),
			METER_SLICE_MIN);
	CU_ASSERT_EQUAL(meter_next_slice(0, 0, 20 * ms, max), METER_SLICE_MIN);
	CU_ASSERT_EQUAL(meter_next_slice(UINT64_MAX, 1, UINT64_MAX, max), max);
}

static void test_quantiles(void)
{
	uint64_t ns[200];
	struct meter_trip t = meter_quantiles(ns, 0);

	CU_ASSERT(t.n == 0 && t.p50_ns == 0 && t.p99_ns == 0);
	for (unsigned i = 0; i < 200; i++)
		ns[i] = (i * 7 + 3) % 200; /* 0 to 199 in disorder */
	t = meter_quantiles(ns, 200);
	CU_ASSERT(t.n == 200 && t.p50_ns == 99 && t.p99_ns == 197);
	ns[0] = 5;
	t = meter_quantiles(ns, 1);
	CU_ASSERT(t.p50_ns == 5 && t.p99_ns == 5);
}

struct server {
	struct tp *tp;
	struct err err;
	int rc;
	pthread_t thread;
};

static void *serve(void *arg)
{
	struct server *s = arg;

	s->rc = meter_serve(s->tp, &s->err);
	return NULL;
}

static void server_start(struct server *s, struct tp *tp, void *(*fn)(void *))
{
	*s = (struct server){.tp = tp};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&s->thread, NULL, fn, s), 0);
}

static void run_over(void (*make)(struct tp *ends_out[2]), const char *unit)
{
	struct meter_result r;
	struct err err = {0};
	struct server s;
	struct tp *e[2];

	make(e);
	server_start(&s, e[1], serve);
	CU_ASSERT_EQUAL(meter_run(e[0], &quick, &r, &err), 0);
	CU_ASSERT_EQUAL(pthread_join(s.thread, NULL), 0);
	CU_ASSERT_EQUAL(s.rc, 0);
	CU_ASSERT(r.small.n >= 8 && r.small.p50_ns && r.small.p99_ns >= r.small.p50_ns);
	CU_ASSERT(r.page.n >= 8 && r.page.p50_ns && r.page.p99_ns >= r.page.p50_ns);
	CU_ASSERT(r.slices && r.bytes && r.ns && r.sent >= r.bytes);
	/* A slice may begin below the bound; it is an eighth of it at most. */
	CU_ASSERT(r.sent <= quick.bytes + quick.bytes / 8 + METER_SLICE_MIN);
	CU_ASSERT_STRING_EQUAL(r.stopped, "");
	CU_ASSERT(unit ? r.loss.unit && !strcmp(r.loss.unit, unit) && r.loss.sent
		       : !r.loss.unit);
	tp_close(e[0]);
	tp_close(e[1]);
}

static void test_run(void)
{
	run_over(link_loop_inner, NULL);
	run_over(link_seal_inner, NULL);
	run_over(link_tcp_inner, "segments");
}

static enum meter_go no_more(void *arg, char why[METER_WHY_MAX])
{
	unsigned *looks = arg;

	if (++*looks < 3)
		return METER_GO;
	(void)snprintf(why, METER_WHY_MAX, "enough");
	return METER_STOP;
}

/* It ends early but in good order, and says why. */
static void test_stopped(void)
{
	unsigned looks = 0;
	struct meter_params prm = {.ms = 60000,
				   .bytes = UINT64_C(1) << 40,
				   .slice_ms = 20,
				   .go_on = no_more,
				   .arg = &looks};
	struct meter_result r;
	struct err err = {0};
	struct server s;
	struct tp *e[2];

	link_loop_inner(e);
	server_start(&s, e[1], serve);
	CU_ASSERT_EQUAL(meter_run(e[0], &prm, &r, &err), 0);
	CU_ASSERT_EQUAL(pthread_join(s.thread, NULL), 0);
	CU_ASSERT_EQUAL(s.rc, 0);
	CU_ASSERT_EQUAL(looks, 3);
	CU_ASSERT_STRING_EQUAL(r.stopped, "enough");
	tp_close(e[0]);
	tp_close(e[1]);
}

static enum meter_go slower(void *arg, char why[METER_WHY_MAX])
{
	unsigned *looks = arg;

	++*looks;
	return METER_SLOWER;
}

/* Whoever asks it all the time to be slower gets nothing sent, but an answer. */
static void test_slower(void)
{
	unsigned looks = 0;
	struct meter_params prm = {.ms = 50,
				   .bytes = UINT64_C(1) << 40,
				   .slice_ms = 20,
				   .go_on = slower,
				   .arg = &looks};
	struct meter_result r;
	struct err err = {0};
	struct server s;
	struct tp *e[2];

	link_loop_inner(e);
	server_start(&s, e[1], serve);
	CU_ASSERT_EQUAL(meter_run(e[0], &prm, &r, &err), 0);
	CU_ASSERT_EQUAL(pthread_join(s.thread, NULL), 0);
	CU_ASSERT_EQUAL(s.rc, 0);
	CU_ASSERT(looks >= 2 && r.small.n >= 8 && r.page.n >= 8);
	CU_ASSERT(r.sent == 0 && r.slices == 0);
	CU_ASSERT_STRING_EQUAL(r.stopped, "");
	tp_close(e[0]);
	tp_close(e[1]);
}

static void send_header(struct tp *tp, const struct meter_wire *h)
{
	struct iovec v = {.iov_base = (void *)h, .iov_len = sizeof(*h)};

	CU_ASSERT(!tp_send(tp, &v, 1) && !tp_flush(tp));
}

/* A server is asked for what there is not: one clear line, and no answer. */
static void test_hostile_client(void)
{
	static const struct meter_wire bad[] = {
		{.type = {{0}}},
		{.type = {{METER_NTYPES}}},
		{.type = {{METER_ECHOED}}},
		{.type = {{METER_ECHO}}, .len = {{1, 0x10}}}, /* 4097 */
		{.type = {{METER_BULK}}},
		{.type = {{METER_BULK}}, .len = {{0xff, 0xff, 0xff, 0xff}}},
		{.type = {{METER_MARK}}, .len = {{1}}},
		{.type = {{METER_END}}, .zero = {{1}}},
	};
	struct server s;
	struct tp *e[2];

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		link_loop_inner(e);
		server_start(&s, e[1], serve);
		send_header(e[0], &bad[i]);
		CU_ASSERT_EQUAL(pthread_join(s.thread, NULL), 0);
		CU_ASSERT_EQUAL(s.rc, -EBADMSG);
		CU_ASSERT(s.err.msg[0]);
		tp_close(e[0]);
		tp_close(e[1]);
	}
}

/* What a false server makes of its answers. */
static struct {
	enum { TYPE, SEQ, BYTES, LENGTH, HANGS_UP } lie;
	enum meter_type at;
} falsehood;

static void *serve_falsely(void *arg)
{
	static const enum meter_type answer[METER_NTYPES] = {[METER_ECHO] = METER_ECHOED,
							     [METER_MARK] = METER_MARKED,
							     [METER_END] = METER_ENDED};
	struct server *s = arg;
	uint8_t content[METER_CHUNK];
	struct meter_wire h, a;
	uint64_t bulk = 0;

	while (!tp_recv(s->tp, &h, sizeof(h)) &&
	       (!le32_get(h.len) || !tp_recv(s->tp, content, le32_get(h.len)))) {
		enum meter_type type = (enum meter_type)le16_get(h.type);
		struct iovec v = {.iov_base = &a, .iov_len = sizeof(a)};

		bulk += type == METER_BULK ? le32_get(h.len) : 0;
		if (type == METER_BULK)
			continue;
		a = (struct meter_wire){.type = le16_of((uint16_t)answer[type]),
					.seq = h.seq,
					.bytes = le64_of(type == METER_MARK ? bulk : 0)};
		if (type == falsehood.at && falsehood.lie == HANGS_UP) {
			tp_shutdown(s->tp);
			break;
		}
		if (type == falsehood.at && falsehood.lie == TYPE)
			a.type = le16_of(METER_BULK);
		if (type == falsehood.at && falsehood.lie == SEQ)
			a.seq = le64_of(le64_get(h.seq) + 1);
		if (type == falsehood.at && falsehood.lie == BYTES)
			a.bytes = le64_of(bulk + 1);
		if (type == falsehood.at && falsehood.lie == LENGTH)
			a.len = le32_of(1);
		if (tp_send(s->tp, &v, 1) || tp_flush(s->tp))
			break;
	}
	return NULL;
}

static void test_hostile_server(void)
{
	static const enum meter_type at[] = {METER_ECHO, METER_MARK, METER_END};
	struct meter_result r;
	struct server s;
	struct tp *e[2];

	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		for (int lie = TYPE; lie <= HANGS_UP; lie++) {
			struct err err = {0};
			int rc;

			falsehood.at = at[i];
			falsehood.lie = lie;
			link_loop_inner(e);
			server_start(&s, e[1], serve_falsely);
			rc = meter_run(e[0], &quick, &r, &err);
			CU_ASSERT(lie == HANGS_UP ? rc < 0 : rc == -EBADMSG);
			CU_ASSERT(err.msg[0]);
			tp_shutdown(e[0]);
			CU_ASSERT_EQUAL(pthread_join(s.thread, NULL), 0);
			tp_close(e[0]);
			tp_close(e[1]);
		}
}

static const struct unit_test tests[] = {
	{"headers", test_check},
	{"slices", test_slices},
	{"quantiles", test_quantiles},
	{"a measurement", test_run},
	{"stopped early", test_stopped},
	{"slower", test_slower},
	{"hostile client", test_hostile_client},
	{"hostile server", test_hostile_server},
};

int main(void)
{
	return UNIT_MAIN("meter", tests);
}
