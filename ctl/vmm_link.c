/* SPDX-License-Identifier: Apache-2.0
 * vmm_link - from a connected socket to an attached engine, or to a further path of its link, without
 * making rhead wait.
 *
 * Whoever reaches the standby's port may let a handshake hang. So several go on side by side, and
 * the first peer that proves that it has the key gets the engine; those that began before that
 * are closed when they end, because what rhead knew when it gave them out is over. A further path
 * leads to nothing new: it only joins the session that the engine has, and that by its number.
 */
#include "ctl/vmm.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "remus/standby.h"
#include "replication/path.h"
#include "replication/session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HANDSHAKE_MS = 3000, POST_RETRY_MS = 10 };

struct handshake {
	struct vmm *m;
	int fd, primary_side, further;
	unsigned path; /* of the primary; the standby is told by it */
	uint64_t term;
	unsigned generation; /* of the process's links when it began */
	struct path_terms got;
	struct tp *tp;
	struct err err;
};

/* Tell rhead that a link came to nothing. Only in the states that end by an attach, which is this
 * thread's: any other is told by the engine's threads, whose words this one must not follow. */
static void tell_no_link(struct vmm *m, const char *why)
{
	const char *role, *state;
	uint64_t term;

	log_warn("link: %s", why);
	vmm_role(m, &role, &state, &term);
	if (strcmp(state, primary_state_name(PRI_ALONE)) != 0 &&
	    strcmp(state, standby_state_name(SB_EMPTY)) != 0)
		return;
	vmm_tell(m, json_pack("{s:s,s:s,s:s,s:I,s:s,s:b}", "ev", "state", "role", role,
			      "state", state, "term", (json_int_t)term, "why", why, "bye",
			      0));
}

/* What the engine gets: the path itself if it is the only one, else a session that begins with
 * it; under the layer that drills harm. Takes h->tp. */
static int make_link(struct vmm *m, struct handshake *h)
{
	struct tp_fault none = {0};
	struct tp *tp = h->tp;
	int rc;

	h->tp = NULL;
	if (h->got.purpose == PATH_FIRST) {
		rc = vmm_session_begin(m, !h->primary_side, h->got.session, h->got.index,
				       tp, &tp, &h->err);
		if (rc)
			return rc;
	}
	return tp_fault_wrap(tp, &none, &h->tp, &h->err);
}

/* Takes h->tp. */
static int attach_engine(struct vmm *m, struct handshake *h)
{
	struct primary *p = atomic_load(&m->primary);
	int rc;

	pthread_mutex_lock(&m->link_lock);
	m->fault = h->tp;
	m->linked_ns = clock_mono_ns();
	tp_fault_set(h->tp, &m->fault_set);
	pthread_mutex_unlock(&m->link_lock);
	if (h->primary_side && p) {
		rc = primary_attach(p, h->tp, h->term, &h->err);
	} else if (!h->primary_side && m->standby) {
		rc = standby_attach(m->standby, h->tp, h->term, &h->err);
	} else {
		tp_close(h->tp);
		rc = err_set(&h->err, -EPERM, "this process has no role for the link");
	}
	if (rc)
		vmm_link_gone(m);
	else
		m->links++;
	return rc;
}

static void link_done(struct vmm *m, struct handshake *h)
{
	if (!h->err.code && h->generation != m->links) {
		tp_close(h->tp);
		log_info("link: another one was quicker; this one was closed");
	} else if (h->err.code || make_link(m, h) || attach_engine(m, h)) {
		tell_no_link(m, h->err.msg);
	}
}

static void path_done(struct vmm *m, struct handshake *h)
{
	struct session *s = vmm_session_hold(m);

	if (!h->err.code && s && session_is(s, h->got.session)) {
		session_add(s, h->got.index, h->tp);
	} else {
		if (!h->err.code)
			tp_close(h->tp);
		if (!h->primary_side)
			log_debug("a further path came to nothing: %s",
				  h->err.code ? h->err.msg : "its link is over");
		else if (s)
			session_failed(s, h->path,
				       h->err.code ? h->err.msg : "the link is over");
	}
	session_put(s);
}

/* Control thread. */
static void handshake_done(void *arg)
{
	struct handshake *h = arg;

	h->m->handshakes--;
	if (h->further)
		path_done(h->m, h);
	else
		link_done(h->m, h);
	free(h);
}

static void ask_path(struct handshake *h, const struct path_key *key)
{
	struct vmm *m = h->m;
	struct session *s = NULL;
	int rc = vmm_path_terms(m, h->path, h->term, &h->got, &h->err);

	h->got.purpose = m->set.n_paths > 1 ? PATH_FIRST : PATH_ALONE;
	if (!rc && h->further) {
		h->got.purpose = PATH_JOIN;
		s = vmm_session_hold(m);
		if (s)
			session_id(s, h->got.session);
		else
			rc = err_set(&h->err, -EPERM,
				     "there is no link for a further path");
		session_put(s);
	} else if (!rc && h->got.purpose == PATH_FIRST) {
		rc = vmm_session_id(h->got.session, &h->err);
	}
	if (rc) {
		(void)close(h->fd); /* nothing was written through it */
		return;
	}
	(void)path_connect(h->fd, key, &h->got, &h->tp, &h->err); /* told by h->err */
}

/* The primary's word is taken if it is about this VM and term, and about the transport that the
 * config has here, too. */
static int admit(void *arg, struct path_terms *offer, struct err *err)
{
	struct handshake *h = arg;
	struct path_terms ours;
	struct session *s = NULL;
	int rc = vmm_path_terms(h->m, offer->index, h->term, &ours, err), joins;

	if (rc)
		return rc;
	if (strcmp(offer->vm, ours.vm) != 0 || offer->paths != ours.paths ||
	    strcmp(offer->transport, ours.transport) != 0 ||
	    (!h->further && offer->term != h->term) || offer->purpose == PATH_TEST ||
	    (offer->purpose == PATH_JOIN) != h->further ||
	    (offer->purpose == PATH_ALONE) != (ours.paths == 1))
		return err_set(
			err, -EPERM,
			"path %u to VM %s by %s is not what this host expects: are the "
			"configs the same?",
			offer->index, offer->vm, offer->transport);
	if (h->further) {
		s = vmm_session_hold(h->m);
		joins = s && session_is(s, offer->session);
		session_put(s);
		if (!joins)
			return err_set(err, -ESTALE,
				       "the link that this path is for is over");
	}
	offer->module = ours.module;
	offer->dev = ours.dev;
	offer->streams = ours.streams;
	return 0;
}

/* A connection that carries little, as one that only stands ready does, tries again at an even pace: else
 * it would be silent for as long again after a wire that was out for a moment. */
void vmm_never_slower(int fd)
{
	int one = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, &one, sizeof(one)))
		log_ratelimited(LOG_LVL_INFO, 60000,
				"a path may be slow to come back after an outage (%s)",
				strerror(errno));
}

static int more_streams(void *arg, unsigned n, int *fds, struct err *err)
{
	struct handshake *h = arg;

	return vmm_streams_more(h->m, h->path, n, fds, err);
}

static void *handshake_main(void *arg)
{
	static const struct timespec pause = {.tv_nsec = POST_RETRY_MS * 1000000};
	struct handshake *h = arg;
	struct vmm_setup *s = &h->m->set;
	const struct path_key key = {.pair = s->pair,
				     .psk = s->psk,
				     .timeout_ms = HANDSHAKE_MS,
				     .more = h->m->streams ? more_streams : NULL,
				     .more_arg = h,
				     .hall = vmm_streams_hall(h->m)};

	vmm_never_slower(h->fd);
	if (h->primary_side)
		ask_path(h, &key);
	else
		(void)path_accept(h->fd, &key, admit, h, &h->got, &h->tp,
				  &h->err); /* told by h->err */
	/* rhead waits for how it went: without memory to say so, try again. */
	while (loop_post(h->m->ctl, handshake_done, h)) {
		log_ratelimited(LOG_LVL_ERR, 1000, "link: out of memory");
		(void)nanosleep(&pause, NULL); /* a shorter pause is fine */
	}
	return NULL;
}

static int handshake_start(struct vmm *m, const struct vmm_link_order *o, int further)
{
	struct handshake *h;
	pthread_t t;

	if (m->handshakes == VMM_HANDSHAKES_MAX)
		return -EBUSY;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	*h = (struct handshake){.m = m,
				.fd = o->fd,
				.primary_side = o->primary_side,
				.further = further,
				.path = o->path,
				.term = o->term,
				.generation = m->links};
	if (pthread_create(&t, NULL, handshake_main, h)) {
		free(h);
		return -EAGAIN;
	}
	pthread_detach(t);
	m->handshakes++;
	return 0;
}

int vmm_link(struct vmm *m, const struct vmm_link_order *o)
{
	int rc = handshake_start(m, o, 0);

	if (!rc)
		return 0;
	(void)close(o->fd); /* nothing was written through it */
	tell_no_link(m,
		     rc == -EBUSY ? "too many are being set up already" : strerror(-rc));
	return rc;
}

int vmm_link_path(struct vmm *m, const struct vmm_link_order *o)
{
	int rc = handshake_start(m, o, 1);

	if (!rc)
		return 0;
	(void)close(o->fd); /* nothing was written through it */
	if (o->primary_side)
		vmm_path_failed(m, o->path, strerror(-rc));
	return rc;
}

void vmm_link_gone(struct vmm *m)
{
	pthread_mutex_lock(&m->link_lock);
	m->fault = NULL;
	pthread_mutex_unlock(&m->link_lock);
}

void vmm_fault(struct vmm *m, const struct tp_fault *f)
{
	pthread_mutex_lock(&m->link_lock);
	m->fault_set = *f;
	if (m->fault)
		tp_fault_set(m->fault, f);
	pthread_mutex_unlock(&m->link_lock);
}
