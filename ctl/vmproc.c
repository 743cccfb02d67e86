/* SPDX-License-Identifier: Apache-2.0
 * vmproc - talk to one rhea-vm process, watch it, end it.
 */
#include "ctl/vmproc.h"

#include "ctl/vmproc_spawn.h"
#include "ctl/vmproto.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct vmproc {
	const struct vmproc_ops *ops;
	void *arg;
	pid_t pid;
	int pidfd, sock;
	struct event *on_exit, *on_msg, *on_ping, *on_fence;
	unsigned ping_ms, hung_ms;
	int64_t seq;
	uint64_t asked_ns;  /* since when a question is open; 0: none is */
	uint64_t ticked_ns; /* when this loop last looked */
	uint64_t busy_until_ns;
	int hung, ready;
	json_t *pong;
};

static void tick_start(struct event *ev, unsigned ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	if (event_add(ev, &tv))
		log_err("rhea-vm: a timer could not be set: out of memory");
}

static void alive(struct vmproc *p)
{
	p->asked_ns = 0;
	p->busy_until_ns = 0;
	if (p->hung) {
		p->hung = 0;
		p->ops->revived(p->arg);
	}
}

static void take_event(struct vmproc *p, json_t *msg)
{
	const char *ev = json_string_value(json_object_get(msg, "ev"));

	if (ev && !strcmp(ev, "ready")) {
		p->ready = 1;
		alive(p);
	} else if (ev && !strcmp(ev, "pong")) {
		json_decref(p->pong);
		p->pong = json_incref(msg);
		alive(p);
	}
	p->ops->event(p->arg, msg);
}

/* One message; -EAGAIN when there is none. */
static int receive(struct vmproc *p)
{
	int fds[1], nfds = 1, rc;
	json_t *msg;

	rc = vmproto_recv(p->sock, &msg, fds, &nfds);
	while (nfds > 0)
		(void)close(fds[--nfds]); /* rhea-vm has none to give */
	if (rc == -EBADMSG)
		log_ratelimited(LOG_LVL_ERR, 1000, "rhea-vm %d sent what is no message",
				(int)p->pid);
	if (!rc)
		take_event(p, msg);
	json_decref(msg);
	return rc;
}

static void on_msg(evutil_socket_t fd, short what, void *arg)
{
	struct vmproc *p = arg;
	int rc = receive(p);

	if (!rc || rc == -EAGAIN || rc == -EBADMSG)
		return;
	if (event_del(p->on_msg))
		log_err("rhea-vm: an event could not be removed");
	/* A dying process closes its files well before it can be reaped: the time that freeing
	 * its memory takes is time that the peer can use. */
	if (!p->hung) {
		p->hung = 1;
		p->ops->hung(p->arg, 0);
	}
}

static void on_exit_ready(evutil_socket_t fd, short what, void *arg)
{
	struct vmproc *p = arg;
	int status = 0, rc;

	do
		rc = receive(p);
	while (!rc || rc == -EBADMSG);
	while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
		;
	p->pid = -1;
	p->ops->exited(p->arg, status);
}

static void send_ping(struct vmproc *p)
{
	json_t *msg = json_pack("{s:s,s:I}", "op", "ping", "seq", (json_int_t)++p->seq);
	int rc = vmproc_send(p, msg, -1);

	if (rc && rc != -EAGAIN && rc != -EPIPE)
		log_ratelimited(LOG_LVL_WARN, 1000, "rhea-vm %d: ping: %s", (int)p->pid,
				strerror(-rc));
}

/* It hangs if a question stays open for too long, not if this loop itself was late: then what
 * it answered meanwhile is still to be read, and the question counts from now. */
static void on_ping(evutil_socket_t fd, short what, void *arg)
{
	struct vmproc *p = arg;
	uint64_t now = clock_mono_ns(), tick = p->ping_ms * 1000000ull;

	tick_start(p->on_ping, p->ping_ms);
	if (p->asked_ns && now - p->ticked_ns > 2 * tick)
		p->asked_ns = now;
	p->ticked_ns = now;
	if (p->ready) {
		send_ping(p);
		if (!p->asked_ns)
			p->asked_ns = now;
	}
	if (p->hung || now < p->busy_until_ns || !p->asked_ns ||
	    now - p->asked_ns < p->hung_ms * 1000000ull)
		return;
	p->hung = 1;
	p->ops->hung(p->arg, (unsigned)((now - p->asked_ns) / 1000000u));
}

static void on_fence(evutil_socket_t fd, short what, void *arg)
{
	struct vmproc *p = arg;
	int rc = vmproc_signal(p, SIGKILL);

	log_warn("rhea-vm %d is fenced and %s: killed%s%s", (int)p->pid,
		 p->hung ? "hangs" : "did not end by itself", rc ? ": " : "",
		 rc ? strerror(-rc) : "");
}

static int make_events(struct vmproc *p, struct loop *loop)
{
	struct event_base *b = loop_base(loop);

	p->on_exit = event_new(b, p->pidfd, EV_READ, on_exit_ready, p);
	p->on_msg = event_new(b, p->sock, EV_READ | EV_PERSIST, on_msg, p);
	p->on_ping = evtimer_new(b, on_ping, p);
	p->on_fence = evtimer_new(b, on_fence, p);
	if (!p->on_exit || !p->on_msg || !p->on_ping || !p->on_fence)
		return -ENOMEM;
	if (event_add(p->on_exit, NULL) || event_add(p->on_msg, NULL))
		return -ENOMEM;
	tick_start(p->on_ping, p->ping_ms);
	return 0;
}

int vmproc_spawn(struct loop *loop, const struct vmproc_start *st,
		 const struct vmproc_ops *ops, void *arg, struct vmproc **p_out,
		 struct err *err)
{
	struct vmproc *p = calloc(1, sizeof(*p));
	int rc;

	*p_out = NULL;
	if (!p)
		return err_set(err, -ENOMEM, "start %s: out of memory", st->program);
	*p = (struct vmproc){.ops = ops,
			     .arg = arg,
			     .pid = -1,
			     .pidfd = -1,
			     .sock = -1,
			     .ping_ms = st->ping_ms,
			     .hung_ms = st->hung_ms,
			     .asked_ns = clock_mono_ns(),
			     .ticked_ns = clock_mono_ns()};
	vmproc_busy(p);
	rc = vmproc_fork(st->program, st->vm, &p->pid, &p->sock, err);
	if (rc)
		goto out;
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	rc = p->pidfd < 0 ? -errno : make_events(p, loop);
	if (rc) {
		(void)err_sys(err, rc, "watch rhea-vm"); /* rc is returned */
		goto out;
	}
	rc = vmproc_send_setup(p->sock, st, err);
out:
	if (rc)
		vmproc_destroy(p);
	else
		*p_out = p;
	return rc;
}

static void drop_event(struct event *ev)
{
	if (ev)
		event_free(ev);
}

void vmproc_destroy(struct vmproc *p)
{
	if (!p)
		return;
	drop_event(p->on_exit);
	drop_event(p->on_msg);
	drop_event(p->on_ping);
	drop_event(p->on_fence);
	if (p->pid > 0 && !kill(p->pid, SIGKILL))
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			;
	if (p->pidfd >= 0)
		(void)close(p->pidfd); /* nothing was written through it */
	if (p->sock >= 0)
		(void)close(p->sock); /* nobody reads there any more */
	json_decref(p->pong);
	free(p);
}

pid_t vmproc_pid(const struct vmproc *p)
{
	return p->pid;
}

int vmproc_send(struct vmproc *p, json_t *msg, int fd)
{
	int rc = msg ? vmproto_send(p->sock, msg, &fd, fd >= 0) : -ENOMEM;

	json_decref(msg);
	return rc;
}

void vmproc_busy(struct vmproc *p)
{
	p->busy_until_ns = clock_mono_ns() + VMPROC_BUSY_MS * 1000000ull;
}

void vmproc_fence(struct vmproc *p, uint64_t term, unsigned kill_ms)
{
	int rc = vmproc_send(
		p, json_pack("{s:s,s:I}", "op", "fence", "term", (json_int_t)term), -1);

	if (rc || p->hung)
		kill_ms = 0;
	if (!evtimer_pending(p->on_fence, NULL))
		tick_start(p->on_fence, kill_ms);
}

int vmproc_signal(struct vmproc *p, int sig)
{
	if (p->pid <= 0)
		return -ESRCH;
	return kill(p->pid, sig) ? -errno : 0;
}

int vmproc_is_hung(const struct vmproc *p)
{
	return p->hung;
}

json_t *vmproc_pong(const struct vmproc *p)
{
	return p->pong;
}
