/* SPDX-License-Identifier: Apache-2.0
 * vmrun_act - actions out: each action of the pair machine as a deed.
 */
#include "ctl/vmrun_impl.h"

#include "ctl/arbiter.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/link.h"
#include "ctl/storer.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_start.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void do_log(struct vmrun *v, const struct pair_action *a)
{
	memcpy(v->said, a->u.log.text, sizeof(v->said));
	log_at((enum log_level)a->u.log.level, "%s: %s", v->cfg->name, a->u.log.text);
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch, "%s",
		   a->u.log.text);
}

static void ask_arbiter(struct vmrun *v, struct arb_request *rq)
{
	struct arb_answer none = {.id = rq->id, .result = ARB_UNREACHABLE};
	int rc;

	memcpy(rq->vm, v->cfg->name, sizeof(rq->vm));
	rc = arbiter_submit(v->h->arbiter, rq);
	if (!rc)
		return;
	/* Each question gets its answer, also when it could not be asked. */
	log_ratelimited(LOG_LVL_WARN, 1000, "%s: the arbiter could not be asked: %s",
			v->cfg->name, strerror(-rc));
	vmrun_arbiter(v, &none);
}

static const char *owner(const struct vmrun *v, int mine)
{
	return mine ? config_self(v->h->cfg)->name : config_peer(v->h->cfg)->name;
}

static void do_read(struct vmrun *v, const struct pair_action *a)
{
	struct arb_request rq = {.is_read = 1, .id = a->u.claim.id};

	ask_arbiter(v, &rq);
}

static void do_claim(struct vmrun *v, const struct pair_action *a)
{
	struct arb_request rq = {.id = a->u.claim.id, .force = a->u.claim.force};

	rq.expect.term = a->u.claim.from;
	memcpy(rq.expect.owner, owner(v, a->u.claim.from_mine), sizeof(rq.expect.owner));
	rq.desired.term = a->u.claim.to;
	memcpy(rq.desired.owner, owner(v, 1), sizeof(rq.desired.owner));
	ask_arbiter(v, &rq);
}

static void do_store(struct vmrun *v, const struct pair_action *a)
{
	struct store_request rq = {.index = v->index, .id = a->u.store.id};

	memcpy(rq.vm, v->cfg->name, sizeof(rq.vm));
	rq.grant.record = a->u.store.record;
	rq.grant.wall_ns = clock_real_ns();
	memcpy(rq.grant.owner, owner(v, a->u.store.record.mine), sizeof(rq.grant.owner));
	if (storer_submit(v->h->storer, &rq))
		vmrun_stored(v, rq.id, 0, "out of memory");
}

/* The kernel goes on with the requests that a killed process had in flight after it was
 * reaped; until they are done its disks are locked, and nothing may be read from them. */
static int try_later(struct vmrun *v, int rc)
{
	static const struct timeval pause = {.tv_usec = VMRUN_RETRY_MS * 1000};

	return (rc == -EAGAIN || rc == -EBUSY) && clock_mono_ns() < v->retry_until_ns &&
	       !event_add(v->retry, &pause);
}

/* What may be well again without anybody's doing here: a standby is started again and again. */
static int is_disk_fault(int rc)
{
	return rc == -EIO || rc == -ENOSPC || rc == -EDQUOT || rc == -EROFS ||
	       rc == -ENXIO || rc == -ENOTCONN || rc == -ESTALE;
}

void vmrun_try_start(struct vmrun *v)
{
	struct err err = {0};
	int rc = v->snap_held ? err_set(&err, -EBUSY, "its disks are being reverted")
			      : vmrun_start(v->h, v->cfg, v->first_resumes, v->con,
					    &vmrun_proc_ops, v, &v->proc, &err);

	if (!rc || try_later(v, rc))
		return;
	log_err("%s: rhea-vm cannot be started: %s", v->cfg->name, err.msg);
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "rhea-vm cannot be started: %s", err.msg);
	v->first_op = NULL;
	if (is_disk_fault(rc))
		vmrun_disk(v, 1);
	vmrun_simple(v, PAIR_EV_VM_EXITED);
}

static void start_vm(struct vmrun *v, const struct pair_action *a, const char *first_op)
{
	v->instance = a->u.vm.instance;
	v->guest_ended = 0;
	v->doing[0] = 0;
	v->first_op = first_op;
	v->first_term = a->u.vm.term;
	vmproc_destroy(v->proc); /* one of an instance that nobody waits for any more */
	v->proc = NULL;
	v->retry_until_ns = clock_mono_ns() + VMRUN_RETRY_LIMIT_MS * 1000000ull;
	vmrun_try_start(v);
}

/* A guest that is not gone on from any more: the record says so, or a later term does. */
static void drop_saved(struct vmrun *v)
{
	struct err err = {0};

	if (!v->pair.rec.saved && vmrun_saved_drop(v->h, v->cfg, &err))
		log_warn("%s: %s", v->cfg->name, err.msg);
}

static void do_boot(struct vmrun *v, const struct pair_action *a)
{
	v->first_resumes = a->u.vm.resume;
	drop_saved(v);
	start_vm(v, a, "boot");
}

static void do_standby(struct vmrun *v, const struct pair_action *a)
{
	v->first_resumes = 0;
	drop_saved(v);
	start_vm(v, a, "standby");
}

/* An order that rhea-vm does not take leaves it in a state that nobody knows: it is ended,
 * which is told like any other end. -EPIPE: it has ended already. */
static void order(struct vmrun *v, json_t *msg, int fd)
{
	int rc = v->proc ? vmproc_send(v->proc, msg, fd) : -EPIPE;

	if (!v->proc)
		json_decref(msg);
	if (!rc || rc == -EPIPE)
		return;
	log_err("%s: rhea-vm %d does not take orders (%s): it is ended", v->cfg->name,
		(int)vmproc_pid(v->proc), strerror(-rc));
	rc = vmproc_signal(v->proc, SIGKILL);
	if (rc)
		log_err("%s: kill: %s", v->cfg->name, strerror(-rc));
}

static int is_current(const struct vmrun *v, const struct pair_action *a)
{
	return v->proc && v->instance == a->u.vm.instance;
}

static void do_alone(struct vmrun *v, const struct pair_action *a)
{
	if (is_current(v, a))
		order(v,
		      json_pack("{s:s,s:I}", "op", "alone", "term",
				(json_int_t)a->u.vm.term),
		      -1);
}

static void do_activate(struct vmrun *v, const struct pair_action *a)
{
	if (!is_current(v, a))
		return;
	vmproc_busy(v->proc);
	order(v,
	      json_pack("{s:s,s:I}", "op", "activate", "term", (json_int_t)a->u.vm.term),
	      -1);
}

static void do_fence(struct vmrun *v, const struct pair_action *a)
{
	if (is_current(v, a)) {
		vmproc_fence(v->proc, a->u.vm.term, PAIR_FENCE_KILL_MS);
	} else if (evtimer_pending(v->retry, NULL) && !event_del(v->retry)) {
		v->first_op = NULL;
		vmrun_simple(v, PAIR_EV_VM_EXITED); /* it was never born */
	}
}

static void do_powerdown(struct vmrun *v, const struct pair_action *a)
{
	if (is_current(v, a))
		order(v, json_pack("{s:s}", "op", "powerdown"), -1);
}

static void do_suspend(struct vmrun *v, const struct pair_action *a)
{
	if (is_current(v, a))
		vmrun_suspend(v);
}

static void do_suspended(struct vmrun *v, const struct pair_action *a)
{
	if (is_current(v, a))
		order(v, json_pack("{s:s}", "op", "suspended"), -1);
}

static void do_disk_errors(struct vmrun *v, const struct pair_action *a)
{
	if (is_current(v, a))
		order(v, json_pack("{s:s}", "op", "disk-errors"), -1);
}

static void do_unlink(struct vmrun *v, const struct pair_action *a)
{
	link_connect_cancel(v->connect);
	v->connect = NULL;
	vmrun_paths_cancel(v);
	if (v->proc)
		order(v, json_pack("{s:s,s:s}", "op", "unlink", "why", a->u.unlink.why),
		      -1);
}

static void on_connected(void *arg, int fd, const char *why)
{
	struct vmrun *v = arg;

	v->connect = NULL;
	if (fd < 0) {
		log_ratelimited(LOG_LVL_INFO, 2000, "%s: link to the peer: %s",
				v->cfg->name, why);
		vmrun_simple(v, PAIR_EV_CONNECT_FAILED);
		return;
	}
	if (v->kept_fd >= 0)
		(void)close(v->kept_fd); /* nothing was written through it */
	v->kept_fd = fd;
	vmrun_simple(v, PAIR_EV_CONNECTED);
}

static void do_connect(struct vmrun *v, const struct pair_action *a)
{
	struct err err = {0};

	link_connect_cancel(v->connect);
	v->connect = NULL;
	/* Each attempt begins with another path, until a link comes of one. */
	v->kept_path = v->try_path;
	v->try_path = (v->try_path + 1) % v->h->cfg->n_paths;
	if (!vmrun_link_connect(v, v->kept_path, 0, a->u.link.term, on_connected, v,
				&v->connect, &err))
		return;
	log_ratelimited(LOG_LVL_INFO, 2000, "%s: %s", v->cfg->name, err.msg);
	vmrun_simple(v, PAIR_EV_CONNECT_FAILED);
}

static void do_link_close(struct vmrun *v, const struct pair_action *a)
{
	if (v->kept_fd >= 0)
		(void)close(v->kept_fd); /* nothing that matters was written through it */
	v->kept_fd = -1;
}

static void do_link_give(struct vmrun *v, const struct pair_action *a)
{
	if (v->kept_fd >= 0)
		order(v,
		      json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "op", "link", "side",
				a->u.link.primary ? "primary" : "standby", "term",
				(json_int_t)a->u.link.term, "path", (int)v->kept_path,
				"fds", "link"),
		      v->kept_fd);
	do_link_close(v, a); /* rhea-vm has a copy of its own */
}

static void (*const deed[PAIR_NACT])(struct vmrun *, const struct pair_action *) = {
	[PAIR_DO_LOG] = do_log,
	[PAIR_DO_READ] = do_read,
	[PAIR_DO_CLAIM] = do_claim,
	[PAIR_DO_STORE] = do_store,
	[PAIR_DO_VM_BOOT] = do_boot,
	[PAIR_DO_VM_STANDBY] = do_standby,
	[PAIR_DO_VM_ALONE] = do_alone,
	[PAIR_DO_VM_ACTIVATE] = do_activate,
	[PAIR_DO_VM_FENCE] = do_fence,
	[PAIR_DO_VM_POWERDOWN] = do_powerdown,
	[PAIR_DO_VM_SUSPEND] = do_suspend,
	[PAIR_DO_VM_SUSPENDED] = do_suspended,
	[PAIR_DO_VM_DISK_ERRORS] = do_disk_errors,
	[PAIR_DO_UNLINK] = do_unlink,
	[PAIR_DO_CONNECT] = do_connect,
	[PAIR_DO_LINK_GIVE] = do_link_give,
	[PAIR_DO_LINK_CLOSE] = do_link_close,
};

void vmrun_do(struct vmrun *v, const struct pair_action *a)
{
	deed[a->kind](v, a);
}
