/* SPDX-License-Identifier: Apache-2.0
 * test_mem_takeover - guest memory through both engines, the guest writing all the while: what the
 * standby has after a takeover is the last acked epoch.
 */
#include "tests/unit/mem_rig.h"

#include "remus/primary.h"
#include "remus/standby.h"
#include "replication/record.h"
#include "replication/transport.h"

#include <errno.h>
#include <pthread.h>

struct guest {
	struct gm *gm;
	pthread_mutex_t device; /* what vm_pause takes */
	pthread_t thread;
	int stop;
	pthread_mutex_t lock;
	pthread_cond_t news;
	uint64_t committed;
	uint8_t *then[16]; /* memory at each capture, by epoch modulo 16 */
};

static void *guest_main(void *arg)
{
	struct guest *g = arg;
	int stop = 0;

	while (!stop) {
		pthread_mutex_lock(&g->device);
		scribble(g->gm, 3);
		stop = g->stop;
		pthread_mutex_unlock(&g->device);
	}
	return NULL;
}

static int g_pause(void *self)
{
	struct guest *g = self;

	return pthread_mutex_lock(&g->device);
}

static void g_resume(void *self)
{
	struct guest *g = self;

	pthread_mutex_unlock(&g->device);
}

static int g_capture(void *self, uint64_t epoch, struct err *err)
{
	struct guest *g = self;

	memcpy(g->then[epoch % 16], gm_base(g->gm), RAM);
	return 0;
}

static void g_committed(void *self, uint64_t epoch)
{
	struct guest *g = self;

	pthread_mutex_lock(&g->lock);
	g->committed = epoch + 1;
	pthread_cond_broadcast(&g->news);
	pthread_mutex_unlock(&g->lock);
}

static const struct part_ops g_ops = {
	.name = "guest",
	.kind = REC_KIND_MACHINE,
	.setup = part_no_setup,
	.greet = part_no_greet,
	.sync_begin = part_no_sync_begin,
	.sync_round = part_no_sync_round,
	.ahead = part_no_ahead,
	.pause = g_pause,
	.capture = g_capture,
	.resume = g_resume,
	.send = part_no_send,
	.committed = g_committed,
	.peer_record = part_no_peer_record,
	.unlinked = part_no_event,
	.alone = part_no_event,
	.teardown = part_no_teardown,
};

static int gs_record(void *self, uint16_t type, uint64_t epoch, const void *p, size_t len,
		     struct err *err)
{
	return err_set(err, -EPROTO, "nothing expected");
}

static const struct standby_part_ops gs_ops = {
	.name = "guest",
	.kind = REC_KIND_MACHINE,
	.hello = spart_no_hello,
	.room = spart_no_room,
	.record = gs_record,
	.check = spart_no_check,
	.report = spart_no_report,
	.apply = spart_no_apply,
	.drop = part_no_event,
	.activate = spart_no_activate,
	.teardown = part_no_teardown,
};

static void guest_start(struct guest *g, struct gm *gm)
{
	memset(g, 0, sizeof(*g));
	g->gm = gm;
	pthread_mutex_init(&g->device, NULL);
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->news, NULL);
	for (int i = 0; i < 16; i++)
		CU_ASSERT_PTR_NOT_NULL_FATAL(g->then[i] = malloc(RAM));
	CU_ASSERT_EQUAL_FATAL(pthread_create(&g->thread, NULL, guest_main, g), 0);
}

static void guest_stop(struct guest *g)
{
	pthread_mutex_lock(&g->device);
	g->stop = 1;
	pthread_mutex_unlock(&g->device);
	pthread_join(g->thread, NULL);
	for (int i = 0; i < 16; i++)
		free(g->then[i]);
	pthread_mutex_destroy(&g->device);
	pthread_mutex_destroy(&g->lock);
	pthread_cond_destroy(&g->news);
}

/* Pre-copy from a guest that writes, epochs, a link lost at some moment, takeover: the standby's
 * memory is that of the last acked epoch. */
static void takeover(uint64_t epochs)
{
	struct primary_config pc = {.vm = "g", .interval_us = 300, .max_inflight = 3};
	struct standby_config sc = {.vm = "g"};
	struct standby_stats ss;
	struct standby *s;
	struct primary *p;
	struct tp *end[2];
	struct guest g;
	struct both t;

	both_init(&t, RAM / 2, 2 * RAM);
	guest_start(&g, t.a);
	CU_ASSERT_EQUAL_FATAL(
		primary_create(&pc, (struct part[]){{&g_ops, &g}, t.p}, 2, &p, &t.err),
		0);
	CU_ASSERT_EQUAL_FATAL(standby_create(&sc,
					     (struct standby_part[]){{&gs_ops, &g}, t.s},
					     2, &s, &t.err),
			      0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(1 << 20, end, &t.err), 0);
	CU_ASSERT_EQUAL_FATAL(standby_attach(s, end[1], 1, &t.err), 0);
	CU_ASSERT_EQUAL_FATAL(primary_attach(p, end[0], 1, &t.err), 0);
	pthread_mutex_lock(&g.lock);
	while (g.committed < epochs)
		pthread_cond_wait(&g.news, &g.lock);
	pthread_mutex_unlock(&g.lock);
	primary_detach(p, "test");
	standby_detach(s, "test");
	CU_ASSERT_EQUAL(standby_activate(s, 2, &t.err), 0);
	standby_stats(s, &ss);
	primary_destroy(p);
	standby_destroy(s);
	CU_ASSERT_TRUE(ss.acked + 1 >= g.committed);
	CU_ASSERT_EQUAL(memcmp(g.then[ss.acked % 16], gm_base(t.b), RAM), 0);
	guest_stop(&g);
	both_fini(&t);
}

static void takeovers(void)
{
	for (int i = 0; i < 10; i++)
		takeover(1 + rnd() % 20);
}

static void takeovers_several_encoders(void)
{
	encoders = 3;
	takeovers();
	encoders = 1;
}

static const struct unit_test tests[] = {
	{"takeover while the guest writes", takeovers},
	{"the same, several encoders", takeovers_several_encoders},
};

int main(void)
{
	return UNIT_MAIN("mem_takeover", tests);
}
