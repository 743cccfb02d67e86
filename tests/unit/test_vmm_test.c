/* SPDX-License-Identifier: Apache-2.0
 * test_vmm_test - link tests of a rhea-vm: with its peer, with peers that are older, busy or mean something
 * else, and how a process that only measures ends.
 *
 * Sockets, TLS and measuring are the real ones; rhead is the two functions below.
 */
#include "ctl/vmm.h"
#include "ctl/vmproto.h"
#include "hv/base/loop.h"
#include "replication/meter.h"
#include "replication/path.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>

static struct {
	json_t *told;
	int ended, status;
} rhead;

void vmm_tell(struct vmm *m, json_t *msg)
{
	json_decref(rhead.told);
	rhead.told = msg;
}

void vmm_end(struct vmm *m, int status)
{
	rhead.ended++;
	rhead.status = status;
	loop_stop(m->ctl);
}

static struct vmm *new_vmm(void)
{
	static struct vmm m;
	static char pair[] = "test pair", vm[] = "v", tcp[] = "tcp", host[] = "here",
		    far[] = "there";
	struct err err = {0};

	m = (struct vmm){.link_lock = PTHREAD_MUTEX_INITIALIZER, .tester = 1};
	m.set.pair = pair;
	m.set.vm = vm;
	m.set.host = host;
	m.set.peer = far;
	m.set.path[0].transport = m.set.path[1].transport = tcp;
	m.set.n_paths = 2;
	memcpy(m.set.psk, link_psk, sizeof(m.set.psk));
	memset(&rhead, 0, sizeof(rhead));
	CU_ASSERT_EQUAL_FATAL(loop_create(&m.ctl, &err), 0);
	return &m;
}

static void turn_until(struct vmm *m, unsigned tests)
{
	while (m->tests > tests)
		CU_ASSERT_FATAL(event_base_loop(loop_base(m->ctl), EVLOOP_ONCE) >= 0);
}

static void end_vmm(struct vmm *m)
{
	turn_until(m, 0);
	CU_ASSERT_EQUAL(atomic_load(&m->testing), 0);
	if (m->test_idle)
		event_free(m->test_idle);
	loop_destroy(m->ctl);
	json_decref(rhead.told);
	rhead.told = NULL;
}

static const char *why(void)
{
	const char *s = json_string_value(json_object_get(rhead.told, "why"));

	return s ? s : "";
}

/* A client's test over a new connection; its far end. */
static int ask(struct vmm *m, unsigned path, uint64_t id)
{
	struct vmm_test_order o = {.client = 1, .path = path, .ms = 20, .id = id};
	int fd[2];

	link_sockets(fd);
	o.fd = fd[0];
	vmm_test(m, &o);
	return fd[1];
}

static int let(struct vmm *m)
{
	struct vmm_test_order o = {0};
	int fd[2];

	link_sockets(fd);
	o.fd = fd[1];
	vmm_test(m, &o);
	return fd[0];
}

/* The other host's end, on a thread. */
struct far {
	int fd, rc;
	enum path_purpose purpose;
	struct err err;
	pthread_t thread;
};

static int admit_all(void *arg, struct path_terms *offer, struct err *err)
{
	return 0;
}

static const struct path_key key = {
	.pair = "test pair", .psk = link_psk, .timeout_ms = 20000};

static void *far_server(void *arg)
{
	struct far *f = arg;
	struct path_terms t;
	struct tp *tp = NULL;

	f->rc = path_accept(f->fd, &key, admit_all, NULL, &t, &tp, &f->err);
	CU_ASSERT_EQUAL(t.purpose, PATH_TEST);
	if (!f->rc)
		f->rc = meter_serve(tp, &f->err);
	tp_close(tp);
	return NULL;
}

static enum meter_go on_and_on(void *arg, char why[METER_WHY_MAX])
{
	return METER_GO;
}

static void *far_client(void *arg)
{
	static const struct meter_params prm = {
		.ms = 20, .bytes = 1 << 20, .slice_ms = 2, .go_on = on_and_on};
	struct far *f = arg;
	const struct path_terms t = {.purpose = f->purpose,
				     .index = 1,
				     .paths = 2,
				     .vm = "another",
				     .transport = "tcp"};
	struct meter_result r;
	struct tp *tp = NULL;

	f->rc = path_connect(f->fd, &key, &t, &tp, &f->err);
	if (!f->rc)
		f->rc = meter_run(tp, &prm, &r, &f->err);
	tp_close(tp);
	return NULL;
}

static void far_start(struct far *f, int fd, void *(*fn)(void *))
{
	f->fd = fd;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&f->thread, NULL, fn, f), 0);
}

static void test_client(void)
{
	struct vmm *m = new_vmm();
	struct far f = {0};

	far_start(&f, ask(m, 1, 77), far_server);
	turn_until(m, 0);
	CU_ASSERT_EQUAL(pthread_join(f.thread, NULL), 0);
	CU_ASSERT_EQUAL(f.rc, 0);
	CU_ASSERT_STRING_EQUAL(why(), "");
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(rhead.told, "id")), 77);
	CU_ASSERT(json_integer_value(json_object_get(rhead.told, "bytes")) > 0);
	CU_ASSERT(json_is_null(json_object_get(rhead.told, "load")));
	CU_ASSERT(json_is_false(json_object_get(rhead.told, "beside_vm")));
	end_vmm(m);
}

static void test_server(void)
{
	struct vmm *m = new_vmm();
	struct far f = {.purpose = PATH_TEST};

	far_start(&f, let(m), far_client);
	turn_until(m, 0);
	CU_ASSERT_EQUAL(pthread_join(f.thread, NULL), 0);
	CU_ASSERT_EQUAL(f.rc, 0);
	CU_ASSERT_PTR_NULL(rhead.told); /* the peer's rhead hears it from its own */
	end_vmm(m);
}

/* A rhead that does not know such a preface closes the connection. One line says what to do. */
static void test_older_peer(void)
{
	struct vmm *m = new_vmm();

	CU_ASSERT_EQUAL(close(ask(m, 0, 1)), 0);
	turn_until(m, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(why(), "host there hung up"));
	CU_ASSERT_PTR_NULL(strchr(why(), '\n'));
	end_vmm(m);
}

/* What says that it is a link is not measured with, and gets no engine from here either. */
static void test_no_link(void)
{
	static const enum path_purpose wrong[] = {PATH_ALONE, PATH_FIRST, PATH_JOIN};
	struct vmm *m = new_vmm();

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct far f = {.purpose = wrong[i]};

		far_start(&f, let(m), far_client);
		turn_until(m, 0);
		CU_ASSERT_EQUAL(pthread_join(f.thread, NULL), 0);
		CU_ASSERT_EQUAL(f.rc, -ECONNREFUSED);
	}
	end_vmm(m);
}

/* One measures at a time, else both would measure each other. */
static void test_busy(void)
{
	struct vmm *m = new_vmm();
	struct far f = {.purpose = PATH_TEST};
	int fd;

	atomic_store(&m->testing, 1);
	far_start(&f, let(m), far_client);
	turn_until(m, 0);
	CU_ASSERT_EQUAL(pthread_join(f.thread, NULL), 0);
	CU_ASSERT_EQUAL(f.rc, -ECONNREFUSED);
	CU_ASSERT_PTR_NOT_NULL(strstr(f.err.msg, "another link test runs on host here"));
	fd = ask(m, 0, 2);
	turn_until(m, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(why(), "another link test runs"));
	CU_ASSERT_EQUAL(close(fd), 0);
	atomic_store(&m->testing, 0);
	end_vmm(m);
}

/* Strangers that hang take no more than there is room for. */
static void test_bounded(void)
{
	struct vmm *m = new_vmm();
	int fd[VMM_TESTS_MAX + 1];

	for (unsigned i = 0; i < VMM_TESTS_MAX; i++)
		fd[i] = let(m);
	fd[VMM_TESTS_MAX] = ask(m, 0, 3);
	CU_ASSERT_EQUAL(m->tests, VMM_TESTS_MAX);
	CU_ASSERT_PTR_NOT_NULL(strstr(why(), "too many"));
	for (unsigned i = 0; i <= VMM_TESTS_MAX; i++)
		CU_ASSERT_EQUAL(close(fd[i]), 0);
	end_vmm(m);
}

static void test_no_such_path(void)
{
	struct vmm *m = new_vmm();
	int fd;

	(void)snprintf(m->set.path[1].why, sizeof(m->set.path[1].why), "no card");
	fd = ask(m, 1, 4);
	turn_until(m, 0);
	CU_ASSERT_STRING_EQUAL(why(), "no card");
	CU_ASSERT_EQUAL(close(fd), 0);
	fd = ask(m, 2, 5);
	turn_until(m, 0);
	CU_ASSERT_STRING_EQUAL(why(), "path 2 is not in the config");
	CU_ASSERT_EQUAL(close(fd), 0);
	m->set.path[1].why[0] = 0;
	end_vmm(m);
}

/* Who only measures ends when nobody wants that any more, and not before. */
static void test_idle(void)
{
	struct vmm *m = new_vmm();
	int fd;

	vmm_test_idle(m);
	CU_ASSERT_PTR_NOT_NULL_FATAL(m->test_idle);
	CU_ASSERT(evtimer_pending(m->test_idle, NULL));
	fd = let(m);
	CU_ASSERT(!evtimer_pending(m->test_idle, NULL));
	CU_ASSERT_EQUAL(close(fd), 0);
	turn_until(m, 0);
	CU_ASSERT(evtimer_pending(m->test_idle, NULL));
	event_active(m->test_idle, EV_TIMEOUT, 0);
	CU_ASSERT_EQUAL(event_base_loop(loop_base(m->ctl), EVLOOP_ONCE), 0);
	CU_ASSERT_EQUAL(rhead.ended, 1);
	CU_ASSERT_EQUAL(rhead.status, VMEXIT_OFF);
	end_vmm(m);
	m = new_vmm();
	m->tester = 0;
	vmm_test_idle(m);
	CU_ASSERT_PTR_NULL(m->test_idle); /* a VM's process does not end for that */
	end_vmm(m);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"measures", test_client},
		{"lets the peer measure", test_server},
		{"an older peer", test_older_peer},
		{"a link is no test", test_no_link},
		{"one at a time", test_busy},
		{"no more than there is room for", test_bounded},
		{"paths that there are not", test_no_such_path},
		{"ends when idle", test_idle},
	};
	return UNIT_MAIN("vmm_test", tests);
}
