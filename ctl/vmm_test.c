/* SPDX-License-Identifier: Apache-2.0
 * vmm_test - measures a path inside rhea-vm, beside its checkpoints or in a process of its own.
 *
 * A test is a connection of its own, set up like any path: with the same modules, keys and sealing, by the
 * process that carries checkpoints there. It leads to no engine. One runs at a time; while a VM is protected it
 * sends little, rests as long as it sends, sends less when the VM's commits suffer, and ends when that does not help.
 *
 * Control thread, but for the test's own thread and what it calls.
 */
#include "ctl/vmm.h"

#include "ctl/commitguard.h"
#include "ctl/vmproto.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "remus/parts.h"
#include "remus/standby.h"
#include "replication/meter.h"
#include "replication/pagecodec.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HANDSHAKE_MS = 3000,
	POST_RETRY_MS = 10,
	CLAIM_RETRY_MS = 10,
	CLAIM_WAIT_MS = 1000,
	MARGIN_MS = 10000, /* for handshakes and round trips */
	SERVE_MS = 60000,
	IDLE_S = 5,
	SLICE_MS = 20,
	GENTLE_MIB = 64, /* a second */
	FULL_MIB = 1600,
	PAGES_MIN = 100, /* fewer say nothing of how pages are encoded now */
};
#define MS_NS 1000000ull

struct vmm_test {
	struct vmm *m;
	struct vmm_test_order o;
	struct event *limit;
	pthread_t thread;
	struct path_terms got;
	struct err err;
	struct meter_result r;
	int claimed;
	pthread_mutex_t lock;
	struct tp *tp; /* under lock, as is the next */
	int late;
	/* How the VM fares; the test's thread. */
	struct commitguard guard;
	struct primary_stats ps;
	struct pc_stats pages; /* at the beginning */
	int has_load;
};

static void sample(struct vmm_test *t, struct commit_sample *s)
{
	struct primary *p = atomic_load(&t->m->primary);

	*s = (struct commit_sample){.acked = UINT64_MAX};
	if (!p)
		return;
	primary_stats(p, &t->ps);
	*s = (struct commit_sample){.protected = t->ps.state == PRI_PROTECTED,
				    .commits = t->ps.commit.count,
				    .commit_ns = t->ps.commit.sum,
				    .captured = t->ps.epoch,
				    .acked = t->ps.acked};
}

static enum meter_go go_on(void *arg, char why[METER_WHY_MAX])
{
	static const enum meter_go go[] = {[COMMITGUARD_STOP] = METER_STOP,
					   [COMMITGUARD_SLOWER] = METER_SLOWER,
					   [COMMITGUARD_GO] = METER_GO};
	struct vmm_test *t = arg;
	struct commit_sample s;

	sample(t, &s);
	return go[commitguard_look(&t->guard, &s, clock_mono_ns(), why, METER_WHY_MAX)];
}

/* Nobody waits here: what a VM may not lose, it has not got. */
static int nobody_waits(const struct vmm_test *t)
{
	return t->m->tester;
}

static void note_load(struct vmm_test *t)
{
	struct commit_sample s;

	sample(t, &s);
	commitguard_begin(&t->guard, &s, t->m->set.interval_us, t->m->set.suspect_us,
			  clock_mono_ns());
	t->has_load = s.protected && t->m->mem;
	if (t->has_load)
		mem_part_stats(t->m->mem, &t->pages);
}

static void measure(struct vmm_test *t, struct tp *tp)
{
	struct meter_params prm = {
		.ms = t->o.ms,
		.bytes = (uint64_t)(nobody_waits(t) ? FULL_MIB : GENTLE_MIB) * t->o.ms *
			 1048,
		.slice_ms = SLICE_MS,
		.rests = !nobody_waits(t),
		.go_on = go_on,
		.arg = t};

	if (!t->o.client) {
		(void)meter_serve(tp, &t->err); /* told by t->err */
		return;
	}
	note_load(t);
	(void)meter_run(tp, &prm, &t->r, &t->err); /* likewise */
}

/* A test that is about to end is waited for: its client, which knows that already, may be here with the next
 * path. The test's thread. */
static int claim(struct vmm_test *t, struct err *err)
{
	static const struct timespec pause = {.tv_nsec = CLAIM_RETRY_MS * MS_NS};

	for (int i = 0; i < CLAIM_WAIT_MS / CLAIM_RETRY_MS; i++) {
		t->claimed = !atomic_exchange(&t->m->testing, 1);
		if (t->claimed)
			return 0;
		(void)nanosleep(&pause, NULL); /* a shorter pause is fine */
	}
	return err_set(err, -EBUSY, "another link test runs on host %s: wait for it",
		       t->m->set.host);
}

/* Another VM's rhea-vm may serve, and a process without any: what must be alike is the path. */
static int admit(void *arg, struct path_terms *offer, struct err *err)
{
	struct vmm_test *t = arg;
	struct path_terms ours;
	int rc = vmm_path_terms(t->m, offer->index, 0, &ours, err);

	if (rc)
		return rc;
	if (offer->purpose != PATH_TEST || offer->paths != ours.paths ||
	    strcmp(offer->transport, ours.transport) != 0)
		return err_set(
			err, -EPERM,
			"path %u by %s is not what this host has: are the configs the same?",
			offer->index, offer->transport);
	offer->module = ours.module;
	offer->dev = ours.dev;
	return claim(t, err);
}

/* Takes t->o.fd. */
static int ask_path(struct vmm_test *t, const struct path_key *key, struct tp **tp_out)
{
	int rc = vmm_path_terms(t->m, t->o.path, 0, &t->got, &t->err);

	rc = rc ? rc : claim(t, &t->err);
	if (rc) {
		(void)close(t->o.fd); /* nothing was written through it */
		return rc;
	}
	t->got.purpose = PATH_TEST;
	rc = path_connect(t->o.fd, key, &t->got, tp_out, &t->err);
	if (rc == -ECONNRESET || rc == -EPIPE)
		(void)err_ctx(
			&t->err,
			"host %s hung up: it runs a release without link tests, or is busy "
			"with too many",
			t->m->set.peer); /* rc is returned */
	return rc;
}

/* From now on the limit can end it; or has already. */
static void hold_tp(struct vmm_test *t, struct tp *tp)
{
	pthread_mutex_lock(&t->lock);
	t->tp = tp;
	if (t->late && tp)
		tp_shutdown(tp);
	pthread_mutex_unlock(&t->lock);
}

static void test_done(void *arg);

static void *test_main(void *arg)
{
	static const struct timespec pause = {.tv_nsec = POST_RETRY_MS * MS_NS};
	struct vmm_test *t = arg;
	const struct path_key key = {
		.pair = t->m->set.pair, .psk = t->m->set.psk, .timeout_ms = HANDSHAKE_MS};
	struct tp *tp = NULL;
	int rc;

	if (t->o.client)
		rc = ask_path(t, &key, &tp);
	else
		rc = path_accept(t->o.fd, &key, admit, t, &t->got, &tp, &t->err);
	if (!rc) {
		hold_tp(t, tp);
		measure(t, tp);
		hold_tp(t, NULL);
		tp_close(tp);
	}
	/* rhead waits for how it went: without memory to say so, try again. */
	while (loop_post(t->m->ctl, test_done, t)) {
		log_ratelimited(LOG_LVL_ERR, 1000, "link test: out of memory");
		(void)nanosleep(&pause, NULL); /* a shorter pause is fine */
	}
	return NULL;
}

static json_t *trip_json(const struct meter_trip *t)
{
	return json_pack("{s:i,s:f,s:f}", "count", (int)t->n, "p50_us",
			 (double)t->p50_ns / 1e3, "p99_us", (double)t->p99_ns / 1e3);
}

/* What the VM sends of a page now; of all pages so far if it has hardly sent any meanwhile. */
static double bytes_a_page(const struct vmm_test *t)
{
	uint64_t pages, bytes;
	struct pc_stats now;

	mem_part_stats(t->m->mem, &now);
	pages = now.pages - t->pages.pages;
	bytes = now.bytes_out - t->pages.bytes_out;
	if (pages >= PAGES_MIN)
		return (double)bytes / (double)pages;
	return now.pages ? (double)now.bytes_out / (double)now.pages : 0;
}

static json_t *load_json(struct vmm_test *t)
{
	struct commit_sample s;

	if (!t->has_load)
		return json_null();
	sample(t, &s); /* fills in t->ps */
	return json_pack("{s:f,s:I,s:I,s:I,s:I}", "bytes_per_page", bytes_a_page(t),
			 "dirty_p50", (json_int_t)hist_quantile(&t->ps.dirty_pages, 0.50),
			 "dirty_p99", (json_int_t)hist_quantile(&t->ps.dirty_pages, 0.99),
			 "commit_us", (json_int_t)(t->guard.usual_ns / 1000),
			 "commit_tested_us",
			 (json_int_t)(commitguard_mean(&t->guard) / 1000));
}

static json_t *loss_json(const struct tp_loss *l)
{
	return l->unit ? json_pack("{s:s,s:I,s:I}", "unit", l->unit, "sent",
				   (json_int_t)l->sent, "resent", (json_int_t)l->resent)
		       : json_null();
}

static int is_in_use(const struct vmm_test *t)
{
	json_t *o = vmm_paths_json(t->m), *list = json_object_get(o, "list");
	int yes =
		json_is_true(json_object_get(json_array_get(list, t->o.path), "in_use"));

	json_decref(o);
	return yes;
}

static void tell_result(struct vmm_test *t)
{
	const struct meter_result *r = &t->r;
	const char *why = t->late && t->err.code ? "it took too long" : t->err.msg;

	if (t->err.code) {
		vmm_tell(t->m, json_pack("{s:s,s:I,s:s}", "ev", "test", "id",
					 (json_int_t)t->o.id, "why", why));
		return;
	}
	vmm_tell(t->m, json_pack("{s:s,s:I,s:o,s:o,s:I,s:I,s:I,s:i,s:b,s:b,s:s,s:o,s:o}",
				 "ev", "test", "id", (json_int_t)t->o.id, "small",
				 trip_json(&r->small), "page", trip_json(&r->page),
				 "bytes", (json_int_t)r->bytes, "ns", (json_int_t)r->ns,
				 "sent", (json_int_t)r->sent, "slices", (int)r->slices,
				 "in_use", is_in_use(t), "beside_vm", !nobody_waits(t),
				 "stopped", r->stopped, "loss", loss_json(&r->loss),
				 "load", load_json(t)));
}

static void on_idle(evutil_socket_t fd, short what, void *arg)
{
	vmm_end(arg, VMEXIT_OFF);
}

/* A process that only measures ends when nobody has wanted that for a while. */
void vmm_test_idle(struct vmm *m)
{
	static const struct timeval idle = {.tv_sec = IDLE_S};

	if (!m->tester || m->tests)
		return;
	if (!m->test_idle)
		m->test_idle = evtimer_new(loop_base(m->ctl), on_idle, m);
	if (!m->test_idle || event_add(m->test_idle, &idle))
		vmm_end(m, VMEXIT_ERROR); /* out of memory */
}

static void test_free(struct vmm_test *t)
{
	if (t->limit)
		event_free(t->limit);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static void test_done(void *arg)
{
	struct vmm_test *t = arg;
	struct vmm *m = t->m;

	(void)pthread_join(t->thread, NULL); /* at once: this was its last word */
	if (t->claimed)
		atomic_store(&m->testing, 0);
	if (t->o.client)
		tell_result(t);
	else if (t->err.code)
		log_info("link test: %s", t->err.msg);
	m->tests--;
	test_free(t);
	vmm_test_idle(m);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct vmm_test *t = arg;

	pthread_mutex_lock(&t->lock);
	t->late = 1;
	if (t->tp)
		tp_shutdown(t->tp);
	pthread_mutex_unlock(&t->lock);
}

static int test_start(struct vmm *m, const struct vmm_test_order *o)
{
	unsigned ms = o->client ? 2 * o->ms + MARGIN_MS : SERVE_MS;
	const struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	struct vmm_test *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->m = m;
	t->o = *o;
	pthread_mutex_init(&t->lock, NULL); /* cannot fail on Linux */
	t->limit = evtimer_new(loop_base(m->ctl), on_limit, t);
	if (!t->limit || event_add(t->limit, &limit) ||
	    pthread_create(&t->thread, NULL, test_main, t)) {
		test_free(t);
		return -ENOMEM;
	}
	m->tests++;
	if (m->test_idle)
		(void)event_del(m->test_idle); /* not pending is fine */
	return 0;
}

void vmm_test(struct vmm *m, const struct vmm_test_order *o)
{
	int rc = m->tests < VMM_TESTS_MAX ? test_start(m, o) : -EBUSY;

	if (!rc)
		return;
	(void)close(o->fd); /* nothing was written through it */
	if (o->client)
		vmm_tell(m,
			 json_pack("{s:s,s:I,s:s}", "ev", "test", "id", (json_int_t)o->id,
				   "why",
				   rc == -EBUSY ? "too many link tests are being set up"
						: "out of memory"));
}
