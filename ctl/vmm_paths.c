/* SPDX-License-Identifier: Apache-2.0
 * vmm_paths - the paths of a link inside rhea-vm: their modules, their session, what rhead is told.
 *
 * rhea-vm can open no connection. So the session's wish for a path goes to rhead as an event, and
 * the connected socket comes back as an order, on either host (vmm_link.c).
 */
#include "ctl/vmm.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "replication/module.h"
#include "replication/modules.h"
#include "replication/session.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum {
	HEAL_MS = 5000, /* alive for so long before it is gone back to */
	HOLD_MAX_MS = 300000,
	RETRY_MIN_MS = 100,
	RETRY_MAX_MS = 5000,
	SILENCE_MIN_MS = 20,
	SILENCE_PART = 3,	 /* of the time after which the peer is suspected */
	SILENCE_ALONE_MS = 1000, /* when nobody ever suspects: for tests */
};
#define MS_NS	   1000000ull
#define LOCKED_MAX (UINT64_C(1) << 30) /* bytes */

/* A path whose module is missing is a path that is down: the others carry the VM. */
static void path_is_off(struct vmm_path *p, unsigned i, const struct err *err)
{
	p->module = NULL;
	(void)snprintf(p->why, sizeof(p->why), "%.*s", (int)sizeof(p->why) - 1, err->msg);
	log_err("path %u (%s): %s", i, p->transport, p->why);
}

/* Memory that a device reads and writes by itself is locked: rings of a few links, never the guest's. */
static void allow_locking(void)
{
	static const struct rlimit most = {.rlim_cur = LOCKED_MAX,
					   .rlim_max = LOCKED_MAX};

	if (setrlimit(RLIMIT_MEMLOCK, &most))
		log_warn("no more memory may be locked (%s): rdma may not start",
			 strerror(errno));
}

void vmm_paths_load(struct vmm *m)
{
	for (unsigned i = 0; i < m->set.n_paths; i++) {
		struct vmm_path *p = &m->set.path[i];
		struct err err = {0};

		if (!strcmp(p->transport, "tcp"))
			continue;
		allow_locking();
		if (tp_module_load(m->set.module_dir, p->transport, &p->module, &err))
			path_is_off(p, i, &err);
	}
}

void vmm_paths_open(struct vmm *m, int as_user)
{
	for (unsigned i = 0; i < m->set.n_paths; i++) {
		struct vmm_path *p = &m->set.path[i];
		struct err err = {0};

		if (!p->module || p->module->as_user != as_user)
			continue;
		if (p->module->open(p->args, &p->dev, &err)) {
			(void)err_ctx(&err, "%s", p->transport); /* told below */
			path_is_off(p, i, &err);
		}
	}
}

int vmm_path_terms(struct vmm *m, unsigned i, uint64_t term, struct path_terms *t,
		   struct err *err)
{
	const struct vmm_path *p;

	if (i >= m->set.n_paths)
		return err_set(err, -EINVAL, "path %u is not in the config", i);
	p = &m->set.path[i];
	if (p->why[0])
		return err_set(err, -ENODEV, "%s", p->why);
	*t = (struct path_terms){.index = i,
				 .paths = m->set.n_paths,
				 .term = term,
				 .vm = m->set.vm,
				 .transport = p->transport,
				 .streams = p->streams,
				 .module = p->module,
				 .dev = p->dev};
	return 0;
}

static void want_path(void *arg, unsigned i)
{
	struct vmm *m = arg;

	vmm_tell(m, json_pack("{s:s,s:i}", "ev", "want-path", "path", (int)i));
}

/* A path that is down is tried again and again: that is news once, and when the reason changes. */
static int is_news(struct vmm_path *p, enum pathsel_state st, const char *why)
{
	if (st == PATHSEL_CONNECTING || (st == p->told && !strcmp(why, p->told_why)))
		return 0;
	p->told = st;
	(void)snprintf(p->told_why, sizeof(p->told_why), "%s", why); /* cutting is fine */
	return 1;
}

static void path_changed(void *arg, unsigned i, enum pathsel_state st, const char *why)
{
	struct vmm *m = arg;
	const char *name = pathsel_state_name(st), *what = m->set.path[i].transport;
	int failed = st == PATHSEL_DOWN && why[0];

	if (!is_news(&m->set.path[i], st, why))
		return;
	log_at(failed ? LOG_LVL_WARN : LOG_LVL_INFO, "path %u (%s) is %s%s%s", i, what,
	       name, failed ? ": " : "", failed ? why : "");
	vmm_tell(m,
		 json_pack("{s:s,s:i,s:s,s:s,s:s}", "ev", "path", "path", (int)i,
			   "transport", what, "state", name, "why", failed ? why : ""));
}

static void session_params(struct vmm *m, int server, struct session_params *prm)
{
	uint64_t suspect = m->set.suspect_us * 1000ull, silence = suspect / SILENCE_PART;

	if (!suspect)
		silence = SILENCE_ALONE_MS * MS_NS;
	if (silence < SILENCE_MIN_MS * MS_NS)
		silence = SILENCE_MIN_MS * MS_NS;
	*prm = (struct session_params){
		.server = server,
		.paths = m->set.n_paths,
		.replay = m->set.path_buffer,
		.silence_ns = silence,
		/* The peer suspects us after that: what it does then must find no link here. */
		.giveup_ns = suspect ? suspect : SILENCE_PART * silence,
		.sel = {.retry_min_ns = RETRY_MIN_MS * MS_NS,
			.retry_max_ns = RETRY_MAX_MS * MS_NS,
			.heal_ns = HEAL_MS * MS_NS,
			.hold_max_ns = HOLD_MAX_MS * MS_NS},
		.connect = want_path,
		.changed = path_changed,
		.arg = m,
	};
}

int vmm_session_id(uint8_t id[PATH_SESSION_LEN], struct err *err)
{
	return RAND_bytes(id, PATH_SESSION_LEN) == 1
		       ? 0
		       : err_set(err, -EIO, "OpenSSL gave no random number");
}

/* The one before has ended, or the engine would not be asked to take another link. */
static void keep_session(struct vmm *m, struct session *s)
{
	struct session *old;

	pthread_mutex_lock(&m->link_lock);
	old = m->session;
	m->session = s;
	pthread_mutex_unlock(&m->link_lock);
	session_put(old);
}

int vmm_session_begin(struct vmm *m, int server, const uint8_t id[PATH_SESSION_LEN],
		      unsigned first, struct tp *path, struct tp **tp_out,
		      struct err *err)
{
	struct session_params prm;
	struct session *s;
	int rc;

	session_params(m, server, &prm);
	memcpy(prm.id, id, PATH_SESSION_LEN);
	prm.first = first;
	rc = session_create(&prm, &s, tp_out, err);
	if (rc) {
		tp_close(path); /* taken */
		return rc;
	}
	session_add(s, first, path);
	keep_session(m, s);
	return 0;
}

struct session *vmm_session_hold(struct vmm *m)
{
	struct session *s;

	pthread_mutex_lock(&m->link_lock);
	s = m->session;
	if (s)
		session_hold(s);
	pthread_mutex_unlock(&m->link_lock);
	return s;
}

void vmm_path_failed(struct vmm *m, unsigned i, const char *why)
{
	struct session *s = vmm_session_hold(m);

	if (s)
		session_failed(s, i, why);
	session_put(s);
}

/* How long until a better path may be gone back to, or one that is down be tried again. */
static json_int_t wait_ms(const struct pathsel *sel, unsigned i, uint64_t now)
{
	const struct pathsel_path *x = &sel->path[i];
	uint64_t at = 0;

	if (x->state == PATHSEL_READY && (int)i < sel->in_use)
		at = x->since + pathsel_heal_ns(sel, i);
	else if (x->state == PATHSEL_DOWN)
		at = x->retry_at;
	return at > now ? (json_int_t)((at - now) / MS_NS) : 0;
}

static json_t *path_json(struct vmm *m, const struct pathsel *sel, unsigned i, int linked)
{
	const struct pathsel_path *x = &sel->path[i];
	const struct vmm_path *p = &m->set.path[i];
	uint64_t now = clock_mono_ns();

	return json_pack("{s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:b,s:s}", "transport",
			 p->transport, "state",
			 pathsel_state_name(linked ? x->state : PATHSEL_DOWN), "in_use",
			 linked && x->state == PATHSEL_IN_USE, "since_ms",
			 linked ? (json_int_t)((now - x->since) / MS_NS) : 0,
			 "failed_in_use", (json_int_t)x->failed, "heal_ms",
			 (json_int_t)(pathsel_heal_ns(sel, i) / MS_NS), "wait_ms",
			 linked ? wait_ms(sel, i, now) : 0, "drill",
			 vmm_drill_path(m) == (int)i, "why", p->why[0] ? p->why : x->why);
}

json_t *vmm_paths_json(struct vmm *m)
{
	struct session *s = vmm_session_hold(m);
	json_t *o = json_array();
	struct pathsel sel = {.in_use = -1};
	int linked;

	pthread_mutex_lock(&m->link_lock);
	linked = m->fault != NULL;
	pthread_mutex_unlock(&m->link_lock);
	if (s)
		session_paths(s, &sel);
	else if (linked) /* the only path is the link */
		sel.path[0] = (struct pathsel_path){.state = PATHSEL_IN_USE,
						    .since = m->linked_ns};
	for (unsigned i = 0; i < m->set.n_paths; i++)
		json_array_append_new(o, path_json(m, &sel, i, linked));
	session_put(s);
	return json_pack("{s:o,s:i}", "list", o, "failovers", (int)sel.failovers);
}
