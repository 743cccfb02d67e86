/* SPDX-License-Identifier: Apache-2.0
 * rhea-vm - one protected virtual machine in one process; started and told by rhead
 * (vmproto.h).
 */
#include "ctl/plugkeeper.h"
#include "ctl/vmm.h"
#include "ctl/vmproto.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "remus/standby.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* How a message is handled. @fd: the one descriptor that came along (taken), or -1. */
struct op {
	const char *name;
	int (*run)(struct vmm *m, json_t *msg, int fd, struct err *err);
};

static uint64_t number(json_t *msg, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(msg, key));
}

static int op_boot(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	return vmm_boot(m, number(msg, "term"), err);
}

static int op_standby(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	log_set_term(number(msg, "term"));
	return vmm_be_standby(m, number(msg, "term"), err);
}

static int take_link(struct vmm *m, json_t *msg, int fd, int further, struct err *err)
{
	const char *side = json_string_value(json_object_get(msg, "side"));
	struct vmm_link_order o;

	if (!side || fd < 0)
		return err_set(err, -EINVAL, "link: a side and a descriptor are needed");
	fd = dup(fd);
	if (fd < 0)
		return err_sys(err, -errno, "link");
	o = (struct vmm_link_order){.fd = fd,
				    .primary_side = !strcmp(side, "primary"),
				    .path = (unsigned)number(msg, "path"),
				    .term = number(msg, "term")};
	/* A failure is told by itself. */
	(void)(further ? vmm_link_path(m, &o) : vmm_link(m, &o));
	return 0;
}

static int op_link(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	return take_link(m, msg, fd, 0, err);
}

static int op_path(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	const char *why = json_string_value(json_object_get(msg, "why"));

	if (!why)
		return take_link(m, msg, fd, 1, err);
	vmm_path_failed(m, (unsigned)number(msg, "path"), why);
	return 0;
}

static int op_unlink(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	const char *why = json_string_value(json_object_get(msg, "why"));
	struct primary *p = atomic_load(&m->primary);

	if (p)
		primary_detach(p, why ? why : "told to");
	else if (m->standby)
		standby_detach(m->standby, why ? why : "told to");
	return 0;
}

static int op_alone(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	struct primary *p = atomic_load(&m->primary);

	if (!p)
		return err_set(err, -EPERM, "alone: this process is not a primary");
	log_set_term(number(msg, "term"));
	return primary_alone(p, number(msg, "term"), err);
}

static int op_activate(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	return vmm_activate(m, number(msg, "term"), err);
}

static int op_fence(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	struct primary *p = atomic_load(&m->primary);

	log_info("fenced: term %llu is somebody else's",
		 (unsigned long long)number(msg, "term"));
	if (p)
		primary_fence(p, number(msg, "term"));
	vmm_end(m, VMEXIT_FENCED);
	return 0;
}

static int op_powerdown(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vm_power_button(m->vm);
	return 0;
}

/* How long the I/O loop may take to answer: it shares the machine with the guest and, unlike this
 * thread, has no priority over it. */
#define IO_HUNG_NS 2000000000ull

static void io_alive(void *arg)
{
	struct vmm *m = arg;

	atomic_store(&m->io_answered, atomic_load(&m->io_asked));
}

static int op_ping(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	const char *role, *state;
	struct primary *p = atomic_load(&m->primary);
	struct standby_stats ss = {0};
	struct primary_stats *ps;
	uint64_t term, epoch = 0, acked = 0;

	if (atomic_load(&m->io_asked) == atomic_load(&m->io_answered)) {
		m->io_asked_ns = clock_mono_ns();
		atomic_fetch_add(&m->io_asked, 1);
		if (loop_post(m->io, io_alive, m))
			return err_set(err, -ENOMEM, "ping: out of memory");
	} else if (clock_mono_ns() - m->io_asked_ns > IO_HUNG_NS) {
		return 0; /* devices stand still: as good as no process */
	}
	vmm_role(m, &role, &state, &term);
	if (p) {
		ps = malloc(sizeof(*ps));
		if (!ps)
			return err_set(err, -ENOMEM, "ping: out of memory");
		primary_stats(p, ps);
		epoch = ps->epoch;
		acked = ps->acked;
		free(ps);
	} else if (m->standby) {
		standby_stats(m->standby, &ss);
		epoch = ss.acked == UINT64_MAX ? 0 : ss.acked + 1;
		acked = ss.acked;
	}
	vmm_tell(m, json_pack("{s:s,s:I,s:s,s:s,s:I,s:I,s:I}", "ev", "pong", "seq",
			      (json_int_t)number(msg, "seq"), "role", role, "state",
			      state, "term", (json_int_t)term, "epoch", (json_int_t)epoch,
			      "acked", (json_int_t)acked));
	return 0;
}

static int op_stats(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_tell(m, json_pack("{s:s,s:I,s:o}", "ev", "stats", "seq",
			      (json_int_t)number(msg, "seq"), "stats", vmm_stats(m)));
	return 0;
}

static int op_fault(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	struct tp_fault f = {
		.delay_us = (unsigned)number(msg, "delay_us"),
		.cut_after = number(msg, "cut_after"),
		.flip_after = number(msg, "flip_after"),
		.stall_after = number(msg, "stall_after"),
	};

	if (json_object_get(msg, "path"))
		vmm_path_fault(m, (unsigned)number(msg, "path"), &f);
	else
		vmm_fault(m, &f);
	return 0;
}

static const struct op ops[] = {
	{"boot", op_boot},     {"standby", op_standby},	    {"link", op_link},
	{"unlink", op_unlink}, {"alone", op_alone},	    {"activate", op_activate},
	{"fence", op_fence},   {"powerdown", op_powerdown}, {"ping", op_ping},
	{"stats", op_stats},   {"fault", op_fault},	    {"path", op_path},
};

static void fail(struct vmm *m, struct err *err)
{
	log_err("%s", err->msg);
	vmm_tell(m, json_pack("{s:s,s:s}", "ev", "error", "why", err->msg));
	vmm_end(m, VMEXIT_ERROR);
}

static void on_keeper_end(evutil_socket_t fd, short what, void *arg)
{
	struct vmm *m = arg;
	struct err err = {0};

	err_set(&err, -EPIPE,
		"the plug's keeper has ended: nothing of this guest's output can be released");
	fail(m, &err);
}

static int watch_keeper(struct vmm *m, struct err *err)
{
	struct event *ev;

	if (!m->keeper)
		return 0;
	ev = event_new(loop_base(m->ctl), plugkeeper_pidfd(m->keeper), EV_READ,
		       on_keeper_end, m);
	return !ev || event_add(ev, NULL) ? err_set(err, -ENOMEM, "plug: out of memory")
					  : 0;
}

static int setup(struct vmm *m, json_t *msg, const int *fds, int nfds, struct err *err)
{
	static const char *const level[] = {"err", "warn", "info", "debug"};
	enum log_level lvl = LOG_LVL_INFO;
	int rc;

	rc = vmm_setup_parse(msg, fds, nfds, &m->set, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < 4; i++)
		if (!strcmp(m->set.log, level[i]))
			lvl = (enum log_level)i;
	log_init("rhea-vm", m->set.vm, lvl);
	rc = vmm_start_keeper(m, err);
	rc = rc ? rc : watch_keeper(m, err);
	rc = rc ? rc : vmm_crash_init(err);
	rc = rc ? rc : vmm_build(m, err);
	rc = rc ? rc : vmm_sandbox(m, err);
	rc = rc ? rc : vmm_run_io(m, err);
	if (!rc)
		vmm_tell(m, json_pack("{s:s}", "ev", "ready"));
	return rc;
}

static const struct op *find_op(const char *name)
{
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (!strcmp(ops[i].name, name))
			return &ops[i];
	return NULL;
}

static void dispatch(struct vmm *m, json_t *msg, const int *fds, int nfds,
		     struct err *err)
{
	const char *name = json_string_value(json_object_get(msg, "op"));
	const struct op *op = name ? find_op(name) : NULL;

	if (name && !strcmp(name, "setup") && !m->vm) {
		(void)setup(m, msg, fds, nfds, err); /* told by err */
		return;
	}
	if (!m->vm)
		(void)err_set(err, -EPROTO,
			      "the first message must be setup"); /* acted on below */
	else if (op)
		(void)op->run(m, msg, nfds > 0 ? fds[0] : -1, err); /* told by err */
	else if (name)
		log_warn("rhead said \"%s\", which is not known here", name);
	for (int i = 0; i < nfds; i++)
		close(fds[i]);
}

static void on_message(evutil_socket_t sock, short what, void *arg)
{
	struct vmm *m = arg;
	struct err err = {0};
	int fds[VMPROTO_FDS_MAX], nfds = VMPROTO_FDS_MAX, rc;
	json_t *msg;

	rc = vmproto_recv(sock, &msg, fds, &nfds);
	if (rc == -EAGAIN)
		return;
	if (rc) {
		log_err("rhead is gone (%s): ending", strerror(-rc));
		_exit(VMEXIT_ORPHAN); /* at once: held output must not leave, the guest
					 must not go on */
	}
	dispatch(m, msg, fds, nfds, &err);
	json_decref(msg);
	if (err.code)
		fail(m, &err);
}

/* Pings are answered even when guests want all of the machine. Other threads do not inherit that,
 * but they do inherit the slack: epochs are counted in tenths of a millisecond. */
static void be_prompt(void)
{
	struct sched_param sp = {.sched_priority = 1};

	(void)prctl(PR_SET_TIMERSLACK, 1000ul); /* ns; cannot fail for this thread */
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &sp))
		log_warn("no real-time priority (%s): a busy host may look hung",
			 strerror(errno));
}

int main(int argc, char **argv)
{
	static struct vmm m = {.ctl_fd = VMPROTO_FD,
			       .link_lock = PTHREAD_MUTEX_INITIALIZER};
	struct err err = {0};
	struct event *ev;
	int type = 0;
	socklen_t len = sizeof(type);

	log_init("rhea-vm", argc > 1 ? argv[1] : NULL, LOG_LVL_INFO);
	if (getsockopt(VMPROTO_FD, SOL_SOCKET, SO_TYPE, &type, &len) ||
	    type != SOCK_SEQPACKET) {
		(void)fprintf(
			stderr,
			"rhea-vm is started by rhead, not by hand: see rheactl(8)\n");
		return VMEXIT_ERROR;
	}
	be_prompt();
	(void)signal(SIGPIPE, SIG_IGN); /* cannot fail for a valid signal */
	if (fcntl(VMPROTO_FD, F_SETFD, FD_CLOEXEC) || loop_create(&m.ctl, &err)) {
		log_err("%s", err.msg);
		return VMEXIT_ERROR;
	}
	ev = event_new(loop_base(m.ctl), VMPROTO_FD, EV_READ | EV_PERSIST, on_message,
		       &m);
	if (!ev || event_add(ev, NULL) || loop_run(m.ctl))
		return VMEXIT_ERROR;
	/* What was not released is dropped with the process, at once and whatever its threads do. Only
	 * a guest that ended in good order is owed something: its disks on stable storage. */
	if (m.exit_status == VMEXIT_OFF)
		vmm_sync_disks(&m);
	_exit(m.exit_status);
}
