/* SPDX-License-Identifier: Apache-2.0
 * test_heartbeat - the datagram, and two hosts over loopback sockets.
 */
#include "ctl/heartbeat.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "tests/unit/hbrig.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MS = 1000000 };

static const uint8_t key[CONFIG_KEY_LEN] = {1, 2, 3};

static void test_round_trip(void)
{
	struct config *a = hb_config("a", "11111111", 5);
	struct hb_msg m = hb_message(a, 9), got;
	uint8_t out[HB_DATAGRAM_MAX], twice[HB_DATAGRAM_MAX];
	int n;

	m.echo_boot_id = 5;
	m.echo_mono_ns = 6;
	m.echo_delay_ns = 7;
	m.path = 1;
	n = hb_encode(&m, key, out, sizeof(out));
	CU_ASSERT_EQUAL(n, 168 + 2 * 24 + 32);
	CU_ASSERT_EQUAL(memcmp(out, "RHHB\1\0", 6), 0);
	CU_ASSERT_EQUAL(hb_decode(out, (size_t)n, key, &got), HB_OK);
	CU_ASSERT_EQUAL(hb_encode(&got, key, twice, sizeof(twice)),
			n); /* says the same */
	CU_ASSERT_EQUAL(memcmp(out, twice, (size_t)n), 0);
	CU_ASSERT_EQUAL(got.echo_delay_ns, 7);
	CU_ASSERT_EQUAL(got.vms[0].epoch, 1234567);
	m.n_vms = CONFIG_VMS_MAX; /* the largest still fits */
	n = hb_encode(&m, key, out, sizeof(out));
	CU_ASSERT(n > 0 && n <= HB_DATAGRAM_MAX);
	CU_ASSERT_EQUAL(hb_decode(out, (size_t)n, key, &got), HB_OK);
	CU_ASSERT_EQUAL(hb_encode(&m, key, out, 100), -E2BIG);
	m.n_vms = CONFIG_VMS_MAX + 1;
	CU_ASSERT_EQUAL(hb_encode(&m, key, out, sizeof(out)), -E2BIG);
	config_free(a);
}

static void test_refused(void)
{
	struct config *a = hb_config("a", "11111111", 5);
	struct hb_msg m = hb_message(a, 9), got;
	uint8_t out[HB_DATAGRAM_MAX], bad[HB_DATAGRAM_MAX + 1] = {0},
							    other[CONFIG_KEY_LEN] = {9};
	size_t n = (size_t)hb_encode(&m, key, out, sizeof(out));

	CU_ASSERT_EQUAL(hb_decode(out, n, other, &got), HB_KEY);
	for (size_t len = 0; len < n; len++)
		CU_ASSERT_EQUAL(hb_decode(out, len, key, &got), HB_SHORT);
	CU_ASSERT_EQUAL(hb_decode(bad, sizeof(bad), key, &got), HB_SHORT);
	for (size_t bit = 0; bit < 8 * n; bit++) {
		memcpy(bad, out, n);
		bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
		CU_ASSERT_NOT_EQUAL(hb_decode(bad, n, key, &got), HB_OK);
	}
	memcpy(bad, out, n);
	bad[4] = 2; /* version: said as such, whatever the rest is */
	CU_ASSERT_EQUAL(hb_decode(bad, n, key, &got), HB_VERSION_OTHER);
	bad[0] = 'X';
	CU_ASSERT_EQUAL(hb_decode(bad, n, key, &got), HB_NOT_OURS);
	m.vms[1].state = PAIR_NSTATES; /* authentic nonsense */
	n = (size_t)hb_encode(&m, key, out, sizeof(out));
	CU_ASSERT_EQUAL(hb_decode(out, n, key, &got), HB_MALFORMED);
	m.vms[1].state = PAIR_OFF;
	m.seq = 0;
	n = (size_t)hb_encode(&m, key, out, sizeof(out));
	CU_ASSERT_EQUAL(hb_decode(out, n, key, &got), HB_MALFORMED);
	for (int v = 0; v < HB_NVERDICTS; v++)
		CU_ASSERT(strlen(hb_verdict_text((enum hb_verdict)v)) > 3);
	config_free(a);
}

/* ---- Two hosts over loopback. ---- */

struct side {
	struct config *cfg;
	struct loop *loop;
	pthread_t thread;
	struct heartbeat *hb;
	pthread_mutex_t lock;
	pthread_cond_t news;
	unsigned peers, losses, paths_up, paths_down;
	struct hb_peer last;
};

static void on_peer(void *arg, const struct hb_peer *peer)
{
	struct side *s = arg;

	pthread_mutex_lock(&s->lock);
	s->peers++;
	s->last = *peer;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
}

static void on_lost(void *arg)
{
	struct side *s = arg;

	pthread_mutex_lock(&s->lock);
	s->losses++;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
}

static void on_path(void *arg, unsigned path, int up)
{
	struct side *s = arg;

	pthread_mutex_lock(&s->lock);
	if (up)
		s->paths_up |= 1u << path;
	else
		s->paths_down |= 1u << path;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
}

static void *loop_thread(void *arg)
{
	(void)loop_run(((struct side *)arg)
			       ->loop); /* a failure shows as a time-out of the test */
	return NULL;
}

/* @ports: to bind to, NULL: any free ones. */
static void side_open(struct side *s, const char *host, const char *pair_key,
		      unsigned missed, const uint16_t *ports)
{
	struct hb_events ev = {
		.peer = on_peer, .lost = on_lost, .path = on_path, .arg = s};
	struct err err = {0};

	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->news, NULL);
	s->cfg = hb_config(host, pair_key, missed);
	for (unsigned i = 0; ports && i < 2; i++)
		((struct sockaddr_in *)&s->cfg->hosts[s->cfg->self].heartbeat[i].ss)
			->sin_port = htons(ports[i]);
	CU_ASSERT_FATAL(loop_create(&s->loop, &err) == 0);
	CU_ASSERT_FATAL(hb_create(s->cfg, s->loop, &ev, &s->hb, &err) == 0);
	CU_ASSERT_FATAL(pthread_create(&s->thread, NULL, loop_thread, s) == 0);
}

static void side_init(struct side *s, const char *host, const char *pair_key,
		      unsigned missed)
{
	side_open(s, host, pair_key, missed, NULL);
}

static void side_fini(struct side *s)
{
	loop_stop(s->loop);
	pthread_join(s->thread, NULL);
	hb_destroy(s->hb);
	loop_destroy(s->loop);
	config_free(s->cfg);
	pthread_cond_destroy(&s->news);
	pthread_mutex_destroy(&s->lock);
}

static void aim(struct side *from, struct side *to)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	for (unsigned i = 0; i < 2; i++) {
		sa.sin_port = htons(hb_port(to->hb, i));
		CU_ASSERT(sa.sin_port != 0);
		CU_ASSERT_EQUAL(
			hb_set_remote(from->hb, i, (struct sockaddr *)&sa, sizeof(sa)),
			0);
	}
}

static void begin(struct side *a, struct side *b)
{
	struct err err;

	aim(a, b);
	aim(b, a);
	CU_ASSERT_EQUAL(hb_start(a->hb, &err), 0);
	CU_ASSERT_EQUAL(hb_start(b->hb, &err), 0);
}

/* Wait for the condition; an endless wait is the failure. */
#define AWAIT(s, cond)                                             \
	do {                                                       \
		pthread_mutex_lock(&(s)->lock);                    \
		while (!(cond))                                    \
			pthread_cond_wait(&(s)->news, &(s)->lock); \
		pthread_mutex_unlock(&(s)->lock);                  \
	} while (0)

static void test_up_change_lost(void)
{
	struct pair_view v = {
		.state = PAIR_PROTECTED, .health = PAIR_VM_OK, .term = 8, .epoch = 1};
	struct hb_stats st;
	struct hb_peer now;
	struct side a, b;

	side_init(&a, "a", "11111111", 50);
	side_init(&b, "b", "11111111", 50);
	CU_ASSERT_EQUAL(hb_peer_last(a.hb, &now), -ENODATA);
	begin(&a, &b);
	AWAIT(&a, a.peers >= 1 && a.paths_up == 3);
	AWAIT(&b, b.peers >= 1 && b.paths_up == 3);
	hb_set_vm(a.hb, 1, &v);
	AWAIT(&b, b.last.vms[1].term == 8);
	CU_ASSERT_EQUAL(b.last.vms[1].state, PAIR_PROTECTED);
	CU_ASSERT_EQUAL(b.last.n_vms, 2);
	hb_stats(a.hb, &st);
	CU_ASSERT(st.peer_up);
	CU_ASSERT_EQUAL(st.n_paths, 2);
	CU_ASSERT(st.paths[0].sent > 0 && st.paths[0].received > 0);
	CU_ASSERT(st.paths[0].rtt_ns > 0);
	CU_ASSERT_EQUAL(st.paths[0].send_errors, 0);
	CU_ASSERT_EQUAL(hb_peer_last(a.hb, &now), 0);
	side_fini(&b);
	AWAIT(&a, a.losses == 1 && a.paths_down == 3);
	hb_stats(a.hb, &st);
	CU_ASSERT_EQUAL(st.peer_up, 0);
	CU_ASSERT_EQUAL(st.losses, 1);
	side_fini(&a);
}

static unsigned losses_of(struct side *s)
{
	unsigned n;

	pthread_mutex_lock(&s->lock);
	n = (unsigned)s->losses;
	pthread_mutex_unlock(&s->lock);
	return n;
}

struct busy {
	pthread_mutex_t lock;
	pthread_cond_t news;
	int stuck, go_on;
};

/* Work that keeps a rhead's loop for as long as the test likes. */
static void be_busy(void *arg)
{
	struct busy *w = arg;

	pthread_mutex_lock(&w->lock);
	w->stuck = 1;
	pthread_cond_broadcast(&w->news);
	while (!w->go_on)
		pthread_cond_wait(&w->news, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

static uint64_t received_on_0(struct side *s)
{
	struct hb_stats st;

	hb_stats(s->hb, &st);
	return st.paths[0].received;
}

/* Rule 10: a host whose loop is busy for longer than its peer waits is neither silent nor deaf. */
static void test_busy_loop(void)
{
	enum { MISSED = 50, ENOUGH = 2 * MISSED };
	const struct timespec tick = {.tv_nsec = MS};
	struct busy w = {.lock = PTHREAD_MUTEX_INITIALIZER,
			 .news = PTHREAD_COND_INITIALIZER};
	struct hb_stats st;
	struct side a, b;
	uint64_t goal;

	side_init(&a, "a", "11111111", MISSED);
	side_init(&b, "b", "11111111", MISSED);
	begin(&a, &b);
	AWAIT(&a, a.peers >= 1);
	AWAIT(&b, b.peers >= 1);
	CU_ASSERT_EQUAL(loop_post(a.loop, be_busy, &w), 0);
	pthread_mutex_lock(&w.lock);
	while (!w.stuck)
		pthread_cond_wait(&w.news, &w.lock);
	pthread_mutex_unlock(&w.lock);
	/* So many regular heartbeats take twice the time that makes a suspicion. */
	goal = received_on_0(&b) + ENOUGH;
	while (received_on_0(&b) < goal && losses_of(&b) == 0)
		(void)nanosleep(&tick, NULL); /* only so as not to spin */
	CU_ASSERT_EQUAL(losses_of(&b), 0);
	hb_stats(a.hb, &st);
	CU_ASSERT_TRUE(st.peer_up);
	CU_ASSERT_EQUAL(st.losses, 0);
	pthread_mutex_lock(&w.lock);
	w.go_on = 1;
	pthread_cond_broadcast(&w.news);
	pthread_mutex_unlock(&w.lock);
	side_fini(&b);
	side_fini(&a);
}

/* A peer that restarts is another life, told although it was not silent for long. */
static void test_restart(void)
{
	struct side a, b;
	uint16_t ports[2];
	uint64_t first;
	struct err err;

	side_init(&a, "a", "11111111", 100);
	side_init(&b, "b", "11111111", 100);
	begin(&a, &b);
	AWAIT(&a, a.peers >= 1);
	first = a.last.boot_id;
	for (unsigned i = 0; i < 2; i++)
		ports[i] = hb_port(b.hb, i);
	side_fini(&b);
	side_open(&b, "b", "11111111", 100, ports);
	aim(&b, &a);
	CU_ASSERT_EQUAL(hb_start(b.hb, &err), 0);
	AWAIT(&a, a.last.boot_id != first);
	AWAIT(&b, b.peers >= 1);
	CU_ASSERT_EQUAL(a.losses, 0);
	side_fini(&a);
	side_fini(&b);
}

struct lines {
	pthread_mutex_t lock;
	pthread_cond_t news;
	char text[256];
	unsigned n;
};

static void on_line(void *arg, enum log_level lvl, const char *line)
{
	struct lines *l = arg;

	if (lvl != LOG_LVL_WARN || !strstr(line, "refused"))
		return;
	pthread_mutex_lock(&l->lock);
	if (!l->n++)
		(void)snprintf(l->text, sizeof(l->text), "%s", line);
	pthread_cond_broadcast(&l->news);
	pthread_mutex_unlock(&l->lock);
}

/* One line that says which it is, no peer, and no second line soon. */
static void refused(const char *other_key, unsigned other_missed, const char *what)
{
	struct lines l = {.lock = PTHREAD_MUTEX_INITIALIZER,
			  .news = PTHREAD_COND_INITIALIZER};
	struct hb_stats st;
	struct side a, b;

	log_set_sink(on_line, &l);
	side_init(&a, "a", "11111111", 5);
	side_init(&b, "b", other_key, other_missed);
	begin(&a, &b);
	AWAIT(&l, l.n >= 2); /* one of each side */
	do
		hb_stats(a.hb, &st);
	while (st.paths[0].refused < 5);
	CU_ASSERT_PTR_NOT_NULL(strstr(l.text, what));
	CU_ASSERT_PTR_NOT_NULL(strstr(st.refused_why, what));
	CU_ASSERT_EQUAL(l.n, 2);
	CU_ASSERT_EQUAL(a.peers + b.peers, 0);
	log_set_sink(NULL, NULL);
	side_fini(&a);
	side_fini(&b);
}

static void test_other_key(void)
{
	refused("22222222", 5, "the peer has another key");
}

static void test_other_config(void)
{
	refused("11111111", 6, "the peer has another config");
}

static void test_port_taken(void)
{
	struct hb_events ev = {.peer = on_peer, .lost = on_lost, .path = on_path};
	struct heartbeat *second = NULL;
	struct err err = {0};
	struct side a;

	side_init(&a, "a", "11111111", 5);
	((struct sockaddr_in *)&a.cfg->hosts[0].heartbeat[1].ss)->sin_port =
		htons(hb_port(a.hb, 0));
	CU_ASSERT_EQUAL(hb_create(a.cfg, a.loop, &ev, &second, &err), -EADDRINUSE);
	CU_ASSERT_PTR_NULL(second);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "heartbeat path 1: cannot listen on"));
	side_fini(&a);
	hb_destroy(NULL);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"datagram round trip", test_round_trip},
		{"what is refused", test_refused},
		{"up, change, lost", test_up_change_lost},
		{"a busy loop", test_busy_loop},
		{"restart", test_restart},
		{"another key", test_other_key},
		{"another config", test_other_config},
		{"port taken", test_port_taken},
	};
	return UNIT_MAIN("heartbeat", tests);
}
