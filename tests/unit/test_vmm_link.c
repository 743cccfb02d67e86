/* SPDX-License-Identifier: Apache-2.0
 * test_vmm_link - handshakes of a rhea-vm side by side: strangers hang, the peer gets the engine.
 *
 * The sockets, the TLS and the fault layer are the real ones; the engines are the few functions below.
 */
#include "ctl/vmm.h"
#include "hv/base/loop.h"
#include "remus/standby.h"
#include "replication/path.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>

static struct {
	struct tp *tp;
	uint64_t term;
	unsigned attached, told;
} engine;

const char *primary_state_name(enum primary_state s)
{
	return s == PRI_ALONE ? "alone" : "syncing";
}

const char *standby_state_name(enum standby_state s)
{
	return s == SB_EMPTY ? "empty" : "syncing";
}

/* Like the engine: one link at a time. */
int standby_attach(struct standby *s, struct tp *tp, uint64_t term, struct err *err)
{
	if (engine.tp) {
		tp_close(tp);
		return err_set(err, -EBUSY, "there is a link");
	}
	engine.tp = tp;
	engine.term = term;
	engine.attached++;
	return 0;
}

int primary_attach(struct primary *p, struct tp *tp, uint64_t term, struct err *err)
{
	tp_close(tp);
	return err_set(err, -EBUSY, "no primary here");
}

void vmm_role(struct vmm *m, const char **role_out, const char **state_out,
	      uint64_t *term_out)
{
	*role_out = "standby";
	*state_out = engine.tp ? "syncing" : "empty";
	*term_out = engine.term;
}

void vmm_tell(struct vmm *m, json_t *msg)
{
	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(msg, "state")), "empty");
	CU_ASSERT(json_string_length(json_object_get(msg, "why")) > 0);
	engine.told++;
	json_decref(msg);
}

/* No path is drilled here. */
int vmm_drill_path(const struct vmm *m)
{
	return -1;
}

void vmm_drill_end(struct vmm *m)
{
}

/* What the primary's end says that the connection is for. */
static enum path_purpose said = PATH_ALONE;

/* The primary's end: TLS, and that it is the only path to this VM. */
static void *say_path(void *arg)
{
	struct link_side *s = arg;
	const struct path_key key = {
		.pair = s->identity, .psk = s->psk, .timeout_ms = s->timeout_ms};
	const struct path_terms t = {.purpose = said,
				     .paths = said == PATH_TEST ? 2 : 1,
				     .term = s->term,
				     .vm = "v",
				     .transport = "tcp"};

	s->rc = path_connect(s->fd, &key, &t, &s->tp, &s->err);
	return NULL;
}

static struct vmm *new_vmm(void)
{
	static struct vmm m;
	static char pair[] = "test pair", vm[] = "v", tcp[] = "tcp", dummy;
	struct err err = {0};

	m = (struct vmm){.link_lock = PTHREAD_MUTEX_INITIALIZER};
	m.set.pair = pair;
	m.set.vm = vm;
	m.set.path[0].transport = tcp;
	m.set.n_paths = 1;
	memcpy(m.set.psk, link_psk, sizeof(m.set.psk));
	m.standby = (struct standby *)&dummy;
	memset(&engine, 0, sizeof(engine));
	CU_ASSERT_EQUAL_FATAL(loop_create(&m.ctl, &err), 0);
	return &m;
}

static void end_vmm(struct vmm *m)
{
	CU_ASSERT_EQUAL(m->handshakes, 0);
	tp_close(engine.tp);
	loop_destroy(m->ctl);
}

static void turn(struct vmm *m)
{
	CU_ASSERT_FATAL(event_base_loop(loop_base(m->ctl), EVLOOP_ONCE) >= 0);
}

static int give(struct vmm *m, int fd, uint64_t term)
{
	const struct vmm_link_order o = {.fd = fd, .term = term};

	return vmm_link(m, &o);
}

/* Somebody connected and says nothing. Returns the far end. */
static int stranger(struct vmm *m, int expect)
{
	int fd[2];

	link_sockets(fd);
	CU_ASSERT_EQUAL_FATAL(give(m, fd[1], 7), expect);
	return fd[0];
}

/* The peer's end, its handshake under way on a thread. */
static void peer(struct vmm *m, struct link_side *side, uint64_t term, const uint8_t *psk)
{
	int fd[2];

	link_sockets(fd);
	*side = (struct link_side){.fd = fd[0],
				   .identity = "test pair",
				   .psk = psk,
				   .timeout_ms = 20000,
				   .term = term};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&side->thread, NULL, say_path, side), 0);
	CU_ASSERT_EQUAL_FATAL(give(m, fd[1], term), 0);
}

/* It has found its other end closed; or, if it is @attached, hears what the engine says. */
static void peer_end(struct link_side *side, int attached)
{
	char byte = 'x';
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};

	CU_ASSERT_EQUAL(pthread_join(side->thread, NULL), 0);
	if (attached)
		CU_ASSERT(!tp_send(engine.tp, &iov, 1) && !tp_flush(engine.tp));
	if (side->tp)
		CU_ASSERT_EQUAL(tp_recv(side->tp, &byte, 1) == 0, attached);
	CU_ASSERT(side->tp || !attached);
	tp_close(side->tp);
}

/* Strangers that hang do not keep the peer out, and their end changes nothing for it. */
static void test_strangers(void)
{
	struct vmm *m = new_vmm();
	int fd[VMM_HANDSHAKES_MAX - 1];
	struct link_side side;
	unsigned told;

	for (unsigned i = 0; i < VMM_HANDSHAKES_MAX - 1; i++)
		fd[i] = stranger(m, 0);
	peer(m, &side, 9, link_psk);
	while (!engine.attached)
		turn(m);
	CU_ASSERT_EQUAL(engine.term, 9);
	told = engine.told;
	for (unsigned i = 0; i < VMM_HANDSHAKES_MAX - 1; i++)
		CU_ASSERT_EQUAL(close(fd[i]), 0);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL(engine.attached, 1);
	CU_ASSERT_EQUAL(engine.told, told); /* the engine's own word stands */
	CU_ASSERT_PTR_EQUAL(m->fault, engine.tp);
	peer_end(&side, 1);
	end_vmm(m);
}

/* No more of them than there is room for; each is told, because rhead waits for it. */
static void test_bounded(void)
{
	struct vmm *m = new_vmm();
	int fd[VMM_HANDSHAKES_MAX + 1];
	char byte;

	for (unsigned i = 0; i < VMM_HANDSHAKES_MAX; i++)
		fd[i] = stranger(m, 0);
	fd[VMM_HANDSHAKES_MAX] = stranger(m, -EBUSY);
	CU_ASSERT_EQUAL(engine.told, 1);
	CU_ASSERT_EQUAL(recv(fd[VMM_HANDSHAKES_MAX], &byte, 1, 0), 0); /* closed */
	for (unsigned i = 0; i <= VMM_HANDSHAKES_MAX; i++)
		CU_ASSERT_EQUAL(close(fd[i]), 0);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL(engine.told, VMM_HANDSHAKES_MAX + 1);
	CU_ASSERT_EQUAL(engine.attached, 0);
	end_vmm(m);
}

/* Two that both have the key: the first one done gets the engine, the other is closed. */
static void test_one_wins(void)
{
	struct vmm *m = new_vmm();
	struct link_side side[2];

	peer(m, &side[0], 1, link_psk);
	peer(m, &side[1], 2, link_psk);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL(engine.attached, 1);
	CU_ASSERT_EQUAL(engine.told, 0);
	CU_ASSERT_PTR_EQUAL(m->fault, engine.tp);
	peer_end(&side[0], engine.term == 1);
	peer_end(&side[1], engine.term == 2);
	end_vmm(m);
}

/* Begun before another one was attached, and done after that one was lost: what was on disk when
 * it was given may not be any more. One that is given now is fine. */
static void test_old_one(void)
{
	struct vmm *m = new_vmm();
	struct link_side side, late = {.identity = "test pair",
				       .psk = link_psk,
				       .timeout_ms = 20000,
				       .term = 7};

	late.fd = stranger(m, 0);
	peer(m, &side, 1, link_psk);
	while (!engine.attached)
		turn(m);
	peer_end(&side, 1);
	tp_close(engine.tp);
	engine.tp = NULL;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&late.thread, NULL, say_path, &late), 0);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL_FATAL(engine.attached, 1);
	peer_end(&late, 0);
	peer(m, &side, 2, link_psk);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL(engine.attached, 2);
	peer_end(&side, 1);
	end_vmm(m);
}

/* A connection to measure with leads to no engine, whatever the preface said. */
static void test_no_test(void)
{
	struct vmm *m = new_vmm();
	struct link_side side;

	said = PATH_TEST;
	m->set.path[1] = m->set.path[0];
	m->set.n_paths = 2;
	peer(m, &side, 1, link_psk);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL(engine.attached, 0);
	CU_ASSERT_EQUAL(engine.told, 1);
	peer_end(&side, 0);
	CU_ASSERT_EQUAL(side.rc, -ECONNREFUSED);
	said = PATH_ALONE;
	end_vmm(m);
}

static void test_wrong_key(void)
{
	static const uint8_t other[TP_PSK_LEN] = "another key";
	struct vmm *m = new_vmm();
	struct link_side side;

	peer(m, &side, 1, other);
	while (m->handshakes)
		turn(m);
	CU_ASSERT_EQUAL(engine.attached, 0);
	CU_ASSERT_EQUAL(engine.told, 1);
	CU_ASSERT_PTR_NULL(m->fault);
	peer_end(&side, 0);
	end_vmm(m);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"strangers that hang", test_strangers},
		{"no more than there is room for", test_bounded},
		{"the first one wins", test_one_wins},
		{"begun before another one", test_old_one},
		{"a test is no link", test_no_test},
		{"wrong key", test_wrong_key},
	};
	return UNIT_MAIN("vmm_link", tests);
}
