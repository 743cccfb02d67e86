/* SPDX-License-Identifier: Apache-2.0
 * test_arbiter - the arbiters through their workers; etcd is a real one on loopback.
 */
#include "ctl/arbiter.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- A real etcd. ---- */

static struct {
	char dir[64], url[64];
	pid_t pid;
	unsigned port, dead_port;
} etcd;

static unsigned free_port(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len))
		abort();
	close(fd);
	return ntohs(sa.sin_port);
}

static void run_etcd(unsigned peer_port)
{
	char peer[64], cluster[96], log[96], data[96];
	int fd;

	(void)snprintf(peer, sizeof(peer), "http://127.0.0.1:%u", peer_port);
	(void)snprintf(cluster, sizeof(cluster), "default=%s", peer);
	(void)snprintf(data, sizeof(data), "%s/data", etcd.dir);
	(void)snprintf(log, sizeof(log), "%s/log", etcd.dir);
	fd = open(log, O_WRONLY | O_CREAT, 0600);
	/* Whatever becomes of the test, no etcd is left behind. */
	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 ||
	    prctl(PR_SET_PDEATHSIG, SIGKILL))
		_exit(1);
	execlp("etcd", "etcd", "--data-dir", data, "--listen-client-urls", etcd.url,
	       "--advertise-client-urls", etcd.url, "--listen-peer-urls", peer,
	       "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, NULL);
	_exit(1);
}

static struct config *config(const char *arbiter)
{
	char text[1024];
	struct config *cfg = NULL;
	struct err err = {0};
	int n = snprintf(
		text, sizeof(text),
		"pair = { name = \"p\"; key = "
		"\"1111111111111111111111111111111111111111111111111111111111111111\"; };\n"
		"hosts = ( { name = \"a\"; replication = \"127.0.0.1:1\"; heartbeat = "
		"(\"127.0.0.1:2\"); },\n"
		" { name = \"b\"; replication = \"127.0.0.1:3\"; heartbeat = (\"127.0.0.1:4\"); } );\n"
		"arbiter = { %s };\n"
		"vms = ( { name = \"v\"; memory = \"64M\"; kernel = \"/k\"; } );\n",
		arbiter);

	if (config_parse(text, (size_t)n, "test", "a", CONFIG_NO_FILES, &cfg, &err))
		printf("%s\n", err.msg);
	if (!cfg)
		abort();
	return cfg;
}

static struct config *etcd_config(const char *before, unsigned timeout_ms)
{
	char arbiter[256];

	(void)snprintf(arbiter, sizeof(arbiter),
		       "kind = \"etcd\"; timeout_ms = %u; endpoints = ( %s\"%s\" );",
		       timeout_ms, before, etcd.url);
	return config(arbiter);
}

/* ---- One caller: a loop with an arbiter, asked from the test's thread. ---- */

struct caller {
	struct config *cfg;
	struct loop *loop;
	struct arbiter *arb;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t news;
	struct arb_answer last[64];
	unsigned n;
};

static void on_answer(void *arg, const struct arb_answer *ans)
{
	struct caller *c = arg;

	pthread_mutex_lock(&c->lock);
	if (c->n < 64)
		c->last[c->n++] = *ans;
	pthread_cond_broadcast(&c->news);
	pthread_mutex_unlock(&c->lock);
}

static void *loop_thread(void *arg)
{
	(void)loop_run(
		((struct caller *)arg)->loop); /* a failure shows as a missing answer */
	return NULL;
}

static void caller_init(struct caller *c, struct config *cfg)
{
	struct err err = {0};

	memset(c, 0, sizeof(*c));
	c->cfg = cfg;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->news, NULL);
	CU_ASSERT_FATAL(loop_create(&c->loop, &err) == 0);
	CU_ASSERT_FATAL(arbiter_create(cfg, c->loop, on_answer, c, &c->arb, &err) == 0);
	CU_ASSERT_FATAL(pthread_create(&c->thread, NULL, loop_thread, c) == 0);
}

static void caller_fini(struct caller *c)
{
	loop_stop(c->loop);
	pthread_join(c->thread, NULL);
	arbiter_destroy(c->arb);
	loop_destroy(c->loop);
	config_free(c->cfg);
	pthread_cond_destroy(&c->news);
	pthread_mutex_destroy(&c->lock);
}

static struct arb_request cas(const char *vm, uint64_t from, const char *from_owner,
			      uint64_t to, const char *owner)
{
	struct arb_request rq = {.expect.term = from, .desired.term = to, .id = to * 10};

	(void)snprintf(rq.vm, sizeof(rq.vm), "%s", vm);
	(void)snprintf(rq.expect.owner, sizeof(rq.expect.owner), "%s", from_owner);
	(void)snprintf(rq.desired.owner, sizeof(rq.desired.owner), "%s", owner);
	return rq;
}

static void submit(struct caller *c, struct arb_request rq)
{
	CU_ASSERT_EQUAL(arbiter_submit(c->arb, &rq), 0);
}

static void await(struct caller *c, unsigned n)
{
	pthread_mutex_lock(&c->lock);
	while (c->n < n)
		pthread_cond_wait(&c->news, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

static struct arb_answer ask(struct caller *c, struct arb_request rq)
{
	pthread_mutex_lock(&c->lock);
	c->n = 0;
	pthread_mutex_unlock(&c->lock);
	submit(c, rq);
	await(c, 1);
	CU_ASSERT_EQUAL(c->last[0].id, rq.id);
	CU_ASSERT_STRING_EQUAL(c->last[0].vm, rq.vm);
	return c->last[0];
}

static struct arb_answer read_key(struct caller *c, const char *vm)
{
	struct arb_request rq = {.is_read = 1, .id = 5};

	(void)snprintf(rq.vm, sizeof(rq.vm), "%s", vm);
	return ask(c, rq);
}

static void expect(const struct arb_answer *a, enum arb_result r, uint64_t term,
		   const char *owner)
{
	if (a->result != r)
		printf("\n%s: %s\n", arb_result_name(a->result), a->why);
	CU_ASSERT_EQUAL(a->result, r);
	CU_ASSERT_EQUAL(a->value.term, term);
	CU_ASSERT_STRING_EQUAL(a->value.owner, owner);
}

static void start_etcd(void)
{
	struct caller c;
	struct arb_answer a;
	unsigned peer;

	(void)snprintf(etcd.dir, sizeof(etcd.dir), "/tmp/test_arbiter.XXXXXX");
	CU_ASSERT_FATAL(mkdtemp(etcd.dir) != NULL);
	etcd.port = free_port();
	etcd.dead_port = free_port();
	peer = free_port();
	(void)snprintf(etcd.url, sizeof(etcd.url), "http://127.0.0.1:%u", etcd.port);
	etcd.pid = fork();
	CU_ASSERT_FATAL(etcd.pid >= 0);
	if (!etcd.pid)
		run_etcd(peer);
	caller_init(&c, etcd_config("", 500));
	do /* until it answers; its end would be the failure */
		a = read_key(&c, "none");
	while (a.result == ARB_UNREACHABLE && !waitpid(etcd.pid, NULL, WNOHANG));
	if (a.result != ARB_VALUE) { /* without it the others would wait for ever */
		printf("\netcd did not start, see %s/log\n", etcd.dir);
		exit(1);
	}
	expect(&a, ARB_VALUE, 0, "");
	caller_fini(&c);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static void stop_etcd(void)
{
	CU_ASSERT_EQUAL(kill(etcd.pid, SIGKILL), 0);
	CU_ASSERT_EQUAL(waitpid(etcd.pid, NULL, 0), etcd.pid);
	CU_ASSERT_EQUAL(nftw(etcd.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- The promises. ---- */

static void test_steps(void)
{
	struct arb_answer a;
	struct caller c;

	caller_init(&c, etcd_config("", 2000));
	a = ask(&c, cas("steps", 0, "", 1, "a"));
	expect(&a, ARB_GRANTED, 1, "a");
	a = read_key(&c, "steps");
	expect(&a, ARB_VALUE, 1, "a");
	a = ask(&c, cas("steps", 0, "", 1, "b"));
	expect(&a, ARB_REFUSED, 1, "a");
	a = ask(&c, cas("steps", 1, "b", 2, "b")); /* right term, wrong owner */
	expect(&a, ARB_REFUSED, 1, "a");
	a = ask(&c, cas("steps", 1, "a", 2, "b"));
	expect(&a, ARB_GRANTED, 2, "b");
	a = ask(&c, cas("steps", 1, "a", 2, "a"));
	expect(&a, ARB_REFUSED, 2, "b");
	a = ask(&c, cas("steps", 1, "a", 2, "b")); /* our own success, asked again */
	expect(&a, ARB_GRANTED, 2, "b");
	a = read_key(&c, "other"); /* each VM has its own key */
	expect(&a, ARB_VALUE, 0, "");
	caller_fini(&c);
}

/* The same step by another process of the same host is not taken for one's own success. */
static void test_other_life(void)
{
	struct arb_answer a;
	struct caller c, d;

	caller_init(&c, etcd_config("", 2000));
	caller_init(&d, etcd_config("", 2000));
	a = ask(&c, cas("life", 0, "", 1, "a"));
	expect(&a, ARB_GRANTED, 1, "a");
	a = ask(&d, cas("life", 0, "", 1, "a"));
	expect(&a, ARB_REFUSED, 1, "a");
	caller_fini(&c);
	caller_fini(&d);
}

static void test_force(void)
{
	struct arb_request rq;
	struct arb_answer a;
	struct caller c;

	caller_init(&c, etcd_config("", 2000));
	a = ask(&c, cas("force", 0, "", 1, "a"));
	expect(&a, ARB_GRANTED, 1, "a");
	rq = cas("force", 0, "", 1001, "b");
	rq.force = 1;
	a = ask(&c, rq);
	expect(&a, ARB_GRANTED, 1001, "b");
	rq = cas("force", 0, "", 900, "a"); /* only upwards */
	rq.force = 1;
	a = ask(&c, rq);
	expect(&a, ARB_REFUSED, 1001, "b");
	caller_fini(&c);
}

/* Eight callers race for each term from all their workers: exactly one wins each. */
static void test_race(void)
{
	enum { CALLERS = 8, TERMS = 20 };
	static const char *const names[CALLERS] = {"a", "b", "c", "d",
						   "e", "f", "g", "h"};
	static struct caller c[CALLERS];
	const char *owner = "";

	for (unsigned i = 0; i < CALLERS; i++)
		caller_init(&c[i], etcd_config("", 5000));
	for (uint64_t t = 0; t < TERMS; t++) {
		unsigned won = 0, refused = 0;
		const char *winner = NULL;

		for (unsigned i = 0; i < CALLERS; i++) {
			c[i].n = 0;
			for (unsigned k = 0; k < 2;
			     k++) /* and each caller against itself */
				submit(&c[i], cas("race", t, owner, t + 1, names[i]));
		}
		for (unsigned i = 0; i < CALLERS; i++) {
			await(&c[i], 2);
			won += c[i].last[0].result == ARB_GRANTED ||
			       c[i].last[1].result == ARB_GRANTED;
			refused += c[i].last[0].result == ARB_REFUSED &&
				   c[i].last[1].result == ARB_REFUSED;
			if (c[i].last[0].result == ARB_GRANTED ||
			    c[i].last[1].result == ARB_GRANTED)
				winner = names[i];
		}
		CU_ASSERT_EQUAL(won, 1);
		CU_ASSERT_EQUAL(refused, CALLERS - 1);
		CU_ASSERT(winner != NULL);
		owner = winner ? winner : "";
	}
	for (unsigned i = 0; i < CALLERS; i++)
		caller_fini(&c[i]);
}

/* A dead endpoint first in the list, and one that is no etcd at all. */
static void test_dead_endpoint(void)
{
	struct arb_answer a;
	struct caller c;
	char dead[64];

	(void)snprintf(dead, sizeof(dead), "\"http://127.0.0.1:%u\", ", etcd.dead_port);
	caller_init(&c, etcd_config(dead, 2000));
	a = ask(&c, cas("dead", 0, "", 1, "a"));
	expect(&a, ARB_GRANTED, 1, "a");
	caller_fini(&c);
}

/* Stopped, it cannot answer; going on, it may do what it was asked for: the same question then
 * finds that out, and nobody else got the term meanwhile. */
static void test_stopped(void)
{
	struct arb_answer a;
	struct caller c;
	siginfo_t si;

	caller_init(&c, etcd_config("", 200));
	a = ask(&c, cas("stopped", 0, "", 1, "a"));
	expect(&a, ARB_GRANTED, 1, "a");
	CU_ASSERT_EQUAL(kill(etcd.pid, SIGSTOP), 0);
	/* Until the last of its threads stands: one that still runs could answer. */
	CU_ASSERT_EQUAL(waitid(P_PID, (id_t)etcd.pid, &si, WSTOPPED), 0);
	a = ask(&c, cas("stopped", 1, "a", 2, "b"));
	expect(&a, ARB_UNREACHABLE, 0, "");
	CU_ASSERT_PTR_NOT_NULL(strstr(a.why, etcd.url));
	CU_ASSERT_EQUAL(kill(etcd.pid, SIGCONT), 0);
	do
		a = ask(&c, cas("stopped", 1, "a", 2, "b"));
	while (a.result == ARB_UNREACHABLE);
	expect(&a, ARB_GRANTED, 2, "b");
	caller_fini(&c);
}

/* ---- A server that does the transaction and loses the answer. ---- */

struct liar {
	int listener;
	unsigned port;
	pthread_t thread;
	int forwarded; /* transactions that reached etcd and were not answered */
};

static int dial(unsigned port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		abort();
	return fd;
}

static size_t read_request(int fd, char *buf, size_t room)
{
	size_t n = 0, want = room - 1;
	char *body, *len;
	ssize_t got;

	while (n < want && (got = read(fd, buf + n, room - 1 - n)) > 0) {
		n += (size_t)got;
		buf[n] = '\0';
		body = strstr(buf, "\r\n\r\n");
		len = strstr(buf, "Content-Length: ");
		if (body && len)
			want = (size_t)(body + 4 - buf) + strtoul(len + 16, NULL, 10);
	}
	return n;
}

/* One request a connection: passed on; the answer to a transaction is read and thrown away. */
static void *liar_main(void *arg)
{
	struct liar *l = arg;
	char buf[8192], ans[8192];
	int in, out;

	while ((in = accept(l->listener, NULL, NULL)) >= 0) {
		size_t n = read_request(in, buf, sizeof(buf));
		ssize_t got;

		if (n) {
			out = dial(etcd.port);
			if (write(out, buf, n) != (ssize_t)n)
				abort();
			got = read(out, ans, sizeof(ans));
			if (strstr(buf, "/kv/txn"))
				__atomic_add_fetch(&l->forwarded, 1, __ATOMIC_SEQ_CST);
			else if (got > 0 && write(in, ans, (size_t)got) != got)
				abort();
			close(out);
		}
		close(in);
	}
	return NULL;
}

static void test_lost_answer(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	struct liar l = {.listener = socket(AF_INET, SOCK_STREAM, 0)};
	struct arb_answer a;
	struct caller c, other;
	char arbiter[128];

	CU_ASSERT_FATAL(l.listener >= 0 &&
			!bind(l.listener, (struct sockaddr *)&sa, sizeof(sa)) &&
			!listen(l.listener, 8) &&
			!getsockname(l.listener, (struct sockaddr *)&sa, &len));
	CU_ASSERT_FATAL(pthread_create(&l.thread, NULL, liar_main, &l) == 0);
	(void)snprintf(
		arbiter, sizeof(arbiter),
		"kind = \"etcd\"; timeout_ms = 2000; endpoints = ( \"http://127.0.0.1:%u\" );",
		ntohs(sa.sin_port));
	caller_init(&c, config(arbiter));
	/* The answer is lost, reading back shows our own value. */
	a = ask(&c, cas("lost", 0, "", 1, "a"));
	expect(&a, ARB_GRANTED, 1, "a");
	CU_ASSERT(__atomic_load_n(&l.forwarded, __ATOMIC_SEQ_CST) >= 1);
	/* Somebody else was faster: that is what is read back. */
	caller_init(&other, etcd_config("", 2000));
	a = ask(&other, cas("lost", 1, "a", 2, "b"));
	expect(&a, ARB_GRANTED, 2, "b");
	a = ask(&c, cas("lost", 1, "a", 2, "a"));
	expect(&a, ARB_REFUSED, 2, "b");
	caller_fini(&other);
	caller_fini(&c);
	CU_ASSERT_EQUAL(shutdown(l.listener, SHUT_RDWR), 0);
	pthread_join(l.thread, NULL);
	close(l.listener);
}

static void test_manual(void)
{
	struct config *cfg = config("kind = \"manual\";");
	struct arb_answer a;
	struct caller c;

	caller_init(&c, cfg);
	CU_ASSERT_STRING_EQUAL(arbiter_name(c.arb), "manual");
	a = read_key(&c, "v");
	expect(&a, ARB_UNREACHABLE, 0, "");
	a = ask(&c, cas("v", 0, "", 1, "a"));
	expect(&a, ARB_UNREACHABLE, 0, "");
	CU_ASSERT_PTR_NOT_NULL(strstr(a.why, "rheactl failover --override v"));
	caller_fini(&c);
}

/* Going away with questions open: nothing is delivered afterwards, nothing is leaked. */
static void test_destroy_early(void)
{
	struct err err = {0};
	struct caller c = {.cfg = etcd_config("", 300)};

	CU_ASSERT_FATAL(loop_create(&c.loop, &err) == 0);
	CU_ASSERT_FATAL(arbiter_create(c.cfg, c.loop, on_answer, &c, &c.arb, &err) == 0);
	for (unsigned i = 0; i < 50; i++)
		submit(&c, cas("early", 0, "", 1, "a"));
	arbiter_destroy(c.arb);
	CU_ASSERT_EQUAL(c.n, 0);
	arbiter_destroy(NULL);
	loop_destroy(c.loop);
	config_free(c.cfg);
}

static void test_full_queue(void)
{
	struct err err = {0};
	struct caller c = {.cfg = etcd_config("", 200)};
	struct arb_request rq = cas("full", 0, "", 1, "a");
	int rc = 0;

	CU_ASSERT_EQUAL(kill(etcd.pid, SIGSTOP), 0);
	CU_ASSERT_FATAL(loop_create(&c.loop, &err) == 0);
	CU_ASSERT_FATAL(arbiter_create(c.cfg, c.loop, on_answer, &c, &c.arb, &err) == 0);
	for (unsigned i = 0; i < ARB_QUEUE_MAX + ARB_WORKERS + 1 && !rc; i++)
		rc = arbiter_submit(c.arb, &rq);
	CU_ASSERT_EQUAL(rc, -EAGAIN);
	CU_ASSERT_EQUAL(kill(etcd.pid, SIGCONT), 0);
	arbiter_destroy(c.arb);
	loop_destroy(c.loop);
	config_free(c.cfg);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"start a real etcd", start_etcd},
		{"step by step", test_steps},
		{"another life of ours", test_other_life},
		{"an override is told", test_force},
		{"races", test_race},
		{"a dead endpoint", test_dead_endpoint},
		{"a stopped etcd", test_stopped},
		{"a lost answer", test_lost_answer},
		{"manual", test_manual},
		{"gone early", test_destroy_early},
		{"a full queue", test_full_queue},
		{"stop it", stop_etcd},
	};
	return UNIT_MAIN("arbiter", tests);
}
