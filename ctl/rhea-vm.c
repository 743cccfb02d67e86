/* SPDX-License-Identifier: Apache-2.0
 * rhea-vm - one protected virtual machine in one process; started and told by rhead
 * (vmproto.h).
 */
#include "ctl/plugkeeper.h"
#include "ctl/snapmem.h"
#include "ctl/vmm.h"
#include "ctl/vmproto.h"
#include "diskrep/diskrep.h"
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
	int tester; /* also without a machine */
};

static uint64_t number(json_t *msg, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(msg, key));
}

static int op_boot(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	if (m->set.saved_fd >= 0)
		return vmm_resume_saved(m, number(msg, "term"), err);
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

/* One more connection for a path with several streams: asked for, or of the peer's. */
static int op_stream(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	const char *side = json_string_value(json_object_get(msg, "side"));
	const char *why = json_string_value(json_object_get(msg, "why"));

	fd = fd < 0 ? -1 : dup(fd);
	if (side && !strcmp(side, "standby") && fd >= 0)
		vmm_streams_come(m, fd);
	else
		vmm_streams_answer(m, number(msg, "number"), fd, why ? why : "");
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
	/* What was to be saved with the standby that is lost is not: it goes on. */
	vmm_suspend_end(m);
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

static int op_suspend(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	fd = fd < 0 ? -1 : dup(fd);
	if (fd < 0)
		return err_set(err, -EINVAL, "suspend: a descriptor is needed");
	vmm_suspend(m, fd);
	return 0;
}

static int op_suspended(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_suspended(m);
	return 0;
}

static int op_save_here(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	const char *why = json_string_value(json_object_get(msg, "why"));

	vmm_save_here(m, fd < 0 ? -1 : dup(fd), why ? why : "no file");
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

	if (m->tester) {
		vmm_tell(m, json_pack("{s:s,s:I}", "ev", "pong", "seq",
				      (json_int_t)number(msg, "seq")));
		return 0;
	}
	/* While a guest that stands still is saved, its devices do as well. */
	if (atomic_load(&m->saving)) {
		m->io_asked_ns = clock_mono_ns();
	} else if (atomic_load(&m->io_asked) == atomic_load(&m->io_answered)) {
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

static int op_disk_errors(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_shield_all(m, 0);
	return 0;
}

static int op_stats(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_tell(m, json_pack("{s:s,s:I,s:o}", "ev", "stats", "seq",
			      (json_int_t)number(msg, "seq"), "stats", vmm_stats(m)));
	return 0;
}

static int op_resync_rate(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	diskrep_set_rate(m->diskrep, number(msg, "bytes"));
	return 0;
}

static int op_verify(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_verify(m, number(msg, "seq"), json_is_true(json_object_get(msg, "repair")));
	return 0;
}

static int op_disk_resize(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_disk_resize(m, number(msg, "seq"), (unsigned)number(msg, "disk"),
			number(msg, "bytes"));
	return 0;
}

static struct tp_fault fault_of(json_t *msg)
{
	return (struct tp_fault){
		.delay_us = (unsigned)number(msg, "delay_us"),
		.cut_after = number(msg, "cut_after"),
		.flip_after = number(msg, "flip_after"),
		.stall_after = number(msg, "stall_after"),
	};
}

static int op_fault(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	struct tp_fault f = fault_of(msg);

	vmm_fault(m, &f);
	return 0;
}

static int op_path_drill(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	struct tp_fault f = fault_of(msg);
	int rc = vmm_drill_begin(m, (unsigned)number(msg, "path"), &f,
				 (unsigned)number(msg, "for_ms"));

	/* No harm was done, and none is worth this process's end: the drill finds out by itself. */
	if (rc)
		log_warn("a drill was not begun: %s", strerror(-rc));
	return 0;
}

static int op_test(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	const char *side = json_string_value(json_object_get(msg, "side"));
	struct vmm_test_order o;

	if (!side || fd < 0)
		return err_set(err, -EINVAL, "test: a side and a descriptor are needed");
	fd = dup(fd);
	if (fd < 0)
		return err_sys(err, -errno, "test");
	o = (struct vmm_test_order){.fd = fd,
				    .client = !strcmp(side, "client"),
				    .path = (unsigned)number(msg, "path"),
				    .ms = (unsigned)number(msg, "ms"),
				    .id = number(msg, "id")};
	vmm_test(m, &o);
	return 0;
}

static int op_snap_child(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	fd = fd < 0 ? -1 : dup(fd);
	if (fd < 0)
		return err_set(err, -EINVAL, "snap-child: no descriptor");
	vmm_snap_child(m, number(msg, "id"), (unsigned)number(msg, "disk"), fd);
	return 0;
}

static int op_snap(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_snap_begin(m, number(msg, "id"));
	return 0;
}

static int op_snap_memory(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	fd = fd < 0 ? -1 : dup(fd);
	if (fd < 0)
		return err_set(err, -EINVAL, "snap-memory: no descriptor");
	vmm_snapmem_file(m, number(msg, "id"), fd);
	return 0;
}

static int op_snap_drop(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_snap_drop(m);
	return 0;
}

static int op_snap_switched(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_snap_switched(m, number(msg, "id"), json_is_true(json_object_get(msg, "ok")));
	return 0;
}

static int op_snap_leave(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_snap_leave(m, msg, fd);
	return 0;
}

static int op_snap_leave_all(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_snap_leave_all(m, number(msg, "id"));
	return 0;
}

static int op_peer_note(struct vmm *m, json_t *msg, int fd, struct err *err)
{
	vmm_peer_note(m, json_object_get(msg, "note"));
	return 0;
}

static const struct op ops[] = {
	{"boot", op_boot, 0},
	{"standby", op_standby, 0},
	{"link", op_link, 0},
	{"unlink", op_unlink, 0},
	{"alone", op_alone, 0},
	{"activate", op_activate, 0},
	{"fence", op_fence, 0},
	{"powerdown", op_powerdown, 0},
	{"suspend", op_suspend, 0},
	{"suspended", op_suspended, 0},
	{"save-here", op_save_here, 0},
	{"ping", op_ping, 1},
	{"stats", op_stats, 0},
	{"fault", op_fault, 0},
	{"path", op_path, 0},
	{"path-drill", op_path_drill, 0},
	{"test", op_test, 1},
	{"stream", op_stream, 0},
	{"resync-rate", op_resync_rate, 0},
	{"verify", op_verify, 0},
	{"snap-child", op_snap_child, 0},
	{"snap-memory", op_snap_memory, 0},
	{"snap", op_snap, 0},
	{"snap-drop", op_snap_drop, 0},
	{"snap-switched", op_snap_switched, 0},
	{"snap-leave", op_snap_leave, 0},
	{"snap-leave-all", op_snap_leave_all, 0},
	{"peer-note", op_peer_note, 0},
	{"disk-resize", op_disk_resize, 0},
	{"disk-errors", op_disk_errors, 0},
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

static void begin_log(const struct vmm_setup *s)
{
	static const char *const level[] = {"err", "warn", "info", "debug"};
	enum log_level lvl = LOG_LVL_INFO;

	for (unsigned i = 0; i < 4; i++)
		if (!strcmp(s->log, level[i]))
			lvl = (enum log_level)i;
	log_init("rhea-vm", s->vm, lvl);
}

/* A process without a machine, shut in like the others. */
static int setup_tester(struct vmm *m, json_t *msg, struct err *err)
{
	int rc = vmm_setup_parse_tester(msg, &m->set, err);

	if (rc)
		return rc;
	begin_log(&m->set);
	m->tester = 1;
	rc = vmm_sandbox(m, err);
	if (rc)
		return rc;
	vmm_tell(m, json_pack("{s:s}", "ev", "ready"));
	vmm_test_idle(m);
	return 0;
}

static int setup(struct vmm *m, json_t *msg, const int *fds, int nfds, struct err *err)
{
	int rc;

	rc = vmm_setup_parse(msg, fds, nfds, &m->set, err);
	if (rc)
		return rc;
	begin_log(&m->set);
	rc = vmm_start_keeper(m, err);
	rc = rc ? rc : watch_keeper(m, err);
	rc = rc ? rc : vmm_crash_init(err);
	rc = rc ? rc : vmm_build(m, err);
	if (!rc)
		snapmem_init(m);
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

	if (name && !strcmp(name, "setup") && !m->vm && !m->tester) {
		(void)setup(m, msg, fds, nfds, err); /* told by err */
		return;
	}
	if (name && !strcmp(name, "setup-tester") && !m->vm && !m->tester)
		(void)setup_tester(m, msg, err); /* likewise */
	else if (!m->vm && !m->tester)
		(void)err_set(err, -EPROTO,
			      "the first message must be setup"); /* acted on below */
	else if (op && m->tester && !op->tester)
		(void)err_set(err, -EPERM, "%s: this process has no machine", name);
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
		(void)vmm_sync_disks(&m); /* it has logged what it could not do */
	_exit(m.exit_status);
}
