/* SPDX-License-Identifier: Apache-2.0
 * vmm_link - from a connected socket to an attached engine, without making rhead wait.
 *
 * Whoever reaches the standby's port may let a handshake hang. So several go on side by side, and
 * the first peer that proves that it has the key gets the engine; those that began before that
 * are closed when they end, because what rhead knew when it gave them out is over.
 */
#include "ctl/vmm.h"

#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "remus/standby.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HANDSHAKE_MS = 3000, POST_RETRY_MS = 10 };

struct handshake {
	struct vmm *m;
	int fd, primary_side;
	uint64_t term;
	unsigned generation; /* of the process's links when it began */
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

/* Takes h->tp. */
static int attach_engine(struct vmm *m, struct handshake *h)
{
	struct primary *p = atomic_load(&m->primary);
	int rc;

	pthread_mutex_lock(&m->link_lock);
	m->fault = h->tp;
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

/* Control thread. */
static void handshake_done(void *arg)
{
	struct handshake *h = arg;
	struct vmm *m = h->m;

	m->handshakes--;
	if (!h->err.code && h->generation != m->links) {
		tp_close(h->tp);
		log_info("link: another one was quicker; this one was closed");
	} else if (h->err.code || attach_engine(m, h)) {
		tell_no_link(m, h->err.msg);
	}
	free(h);
}

static void *handshake_main(void *arg)
{
	static const struct timespec pause = {.tv_nsec = POST_RETRY_MS * 1000000};
	struct handshake *h = arg;
	struct vmm_setup *s = &h->m->set;
	struct tp_fault none = {0};
	struct tp *tcp;

	if (!tp_tcp_open(h->fd, !h->primary_side, s->pair, s->psk, HANDSHAKE_MS, &tcp,
			 &h->err))
		(void)tp_fault_wrap(tcp, &none, &h->tp, &h->err); /* told by h->err */
	/* rhead waits for how it went: without memory to say so, try again. */
	while (loop_post(h->m->ctl, handshake_done, h)) {
		log_ratelimited(LOG_LVL_ERR, 1000, "link: out of memory");
		(void)nanosleep(&pause, NULL); /* a shorter pause is fine */
	}
	return NULL;
}

static int handshake_start(struct vmm *m, int fd, int primary_side, uint64_t term)
{
	struct handshake *h;
	pthread_t t;

	if (m->handshakes == VMM_HANDSHAKES_MAX)
		return -EBUSY;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	*h = (struct handshake){.m = m,
				.fd = fd,
				.primary_side = primary_side,
				.term = term,
				.generation = m->links};
	if (pthread_create(&t, NULL, handshake_main, h)) {
		free(h);
		return -EAGAIN;
	}
	pthread_detach(t);
	m->handshakes++;
	return 0;
}

int vmm_link(struct vmm *m, int fd, int primary_side, uint64_t term)
{
	int rc = handshake_start(m, fd, primary_side, term);

	if (!rc)
		return 0;
	(void)close(fd); /* nothing was written through it */
	tell_no_link(m,
		     rc == -EBUSY ? "too many are being set up already" : strerror(-rc));
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
