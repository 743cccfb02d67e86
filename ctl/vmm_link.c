/* SPDX-License-Identifier: Apache-2.0
 * vmm_link - from a connected socket to an attached engine, without making rhead wait.
 */
#include "ctl/vmm.h"

#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "remus/standby.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { HANDSHAKE_MS = 3000 };

struct handshake {
	struct vmm *m;
	int fd, primary_side;
	uint64_t term;
	struct tp *tp;
	struct err err;
};

/* Tell rhead, as the engine would, that there is no link. */
static void tell_no_link(struct handshake *h)
{
	const char *role, *state;
	uint64_t term;

	log_warn("link: %s", h->err.msg);
	vmm_role(h->m, &role, &state, &term);
	vmm_tell(h->m, json_pack("{s:s,s:s,s:s,s:I,s:s,s:b}", "ev", "state", "role", role,
				 "state", state, "term", (json_int_t)term, "why",
				 h->err.msg, "bye", 0));
}

/* Control thread. */
static void attach(void *arg)
{
	struct handshake *h = arg;
	struct vmm *m = h->m;
	struct primary *p = atomic_load(&m->primary);
	int rc = h->err.code;

	m->handshaking = 0;
	if (!rc) {
		pthread_mutex_lock(&m->link_lock);
		m->fault = h->tp;
		tp_fault_set(h->tp, &m->fault_set);
		pthread_mutex_unlock(&m->link_lock);
		if (h->primary_side && p)
			rc = primary_attach(p, h->tp, h->term, &h->err);
		else if (!h->primary_side && m->standby)
			rc = standby_attach(m->standby, h->tp, h->term, &h->err);
		else {
			tp_close(h->tp);
			rc = err_set(&h->err, -EPERM,
				     "this process has no role for the link");
		}
	}
	if (rc) {
		vmm_link_gone(m);
		tell_no_link(h);
	}
	free(h);
}

static void *handshake_main(void *arg)
{
	struct handshake *h = arg;
	struct vmm_setup *s = &h->m->set;
	struct tp_fault none = {0};
	struct tp *tcp;

	if (!tp_tcp_open(h->fd, !h->primary_side, s->pair, s->psk, HANDSHAKE_MS, &tcp,
			 &h->err))
		(void)tp_fault_wrap(tcp, &none, &h->tp, &h->err); /* told by h->err */
	if (loop_post(h->m->ctl, attach, h))
		log_err("link: out of memory");
	return NULL;
}

int vmm_link(struct vmm *m, int fd, int primary_side, uint64_t term)
{
	struct handshake *h;
	pthread_t t;

	if (m->handshaking) {
		close(fd);
		return -EBUSY;
	}
	h = calloc(1, sizeof(*h));
	if (!h) {
		close(fd);
		return -ENOMEM;
	}
	*h = (struct handshake){
		.m = m, .fd = fd, .primary_side = primary_side, .term = term};
	if (pthread_create(&t, NULL, handshake_main, h)) {
		close(fd);
		free(h);
		return -EAGAIN;
	}
	pthread_detach(t);
	m->handshaking = 1;
	return 0;
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
