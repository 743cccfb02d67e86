/* SPDX-License-Identifier: Apache-2.0
 * vmm_save - the guest into a file on both hosts, and out of it again.
 *
 * Theory of operation. Suspending goes in this order, and each step is there for what a death after the one
 * before would leave:
 *
 *   primary                                          standby
 *   hold: a last checkpoint, committed, released     has it, in memory
 *   own file, disks                      SAVE ->     own file, disks
 *                                    <- SAVED
 *   "saved" to rhead: on record there
 *   "suspended" from rhead                BYE ->     tells rhead: on record there
 *   ends
 *
 * Before "on record" the guest goes on here, or on the standby from its commit, and files are nothing.
 * After it, it is off; only who knows nothing of that may still take over, and then the record's
 * term is over. Resuming: the whole file is loaded and checked, then it is durably marked as used, then the
 * vCPUs run.
 *
 * Threads: orders come on the control thread; what waits has a thread of its own. The standby's save begins
 * on the receive thread.
 */
#include "ctl/vmm.h"

#include "ctl/snapmem.h"
#include "ctl/vmproto.h"
#include "diskrep/diskrep.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "netbuf/netbuf.h"
#include "remus/crashpoint.h"
#include "remus/saved.h"
#include "remus/standby.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HOLD_MS = 20000,    /* for the last checkpoint */
	SAVED_MS = 3600000, /* for the standby's file, which is as large as ours */
	FORGET_MS = 3000,   /* for the standby's answer to BYE */
};

/* One suspension, on its thread's stack. */
struct suspend {
	struct vmm *m;
	struct snapmem *mem;
	int fd;
	pthread_mutex_t lock;
	pthread_cond_t news;
	int written, rc; /* the own file: it is, and how it went */
	char why[ERR_MSG_MAX];
};

static void on_written(void *arg, struct snapmem *mem, int rc, const char *why)
{
	struct suspend *s = arg;

	pthread_mutex_lock(&s->lock);
	s->written = 1;
	s->rc = rc;
	(void)snprintf(s->why, sizeof(s->why), "%s", why); /* truncation is fine */
	pthread_cond_signal(&s->news);
	pthread_mutex_unlock(&s->lock);
}

/* Epoch thread: the guest stands at its last checkpoint. */
static int take(void *arg, uint64_t epoch)
{
	struct suspend *s = arg;
	const char *role, *state;
	uint64_t term;

	/* Before the I/O loop can be missed. */
	atomic_store(&s->m->saving, 1);
	vmm_role(s->m, &role, &state, &term);
	return snapmem_take(s->mem, term, epoch);
}

static int write_file(struct suspend *s, struct err *err)
{
	int fd = s->fd, rc;

	s->fd = -1;
	rc = snapmem_start(s->mem, fd);
	if (rc)
		return err_sys(err, rc, "saving the guest");
	pthread_mutex_lock(&s->lock);
	while (!s->written)
		pthread_cond_wait(&s->news, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return s->rc ? err_set(err, s->rc, "%s", s->why) : 0;
}

/* The guest is held. Disks first: what it was told to be on them is of the instant that is saved. */
static int save_held(struct suspend *s, struct primary *p, struct err *err)
{
	int rc = vmm_sync_disks(s->m);

	if (rc)
		return err_sys(err, rc, "flushing the disks");
	crash_at(CRASH_HELD, snapmem_epoch(s->mem));
	rc = write_file(s, err);
	if (rc)
		return rc;
	rc = primary_hold_wait(p, SAVED_MS);
	if (rc < 0)
		return err_sys(err, rc, "the standby did not save it");
	crash_at(CRASH_SAVED, snapmem_epoch(s->mem));
	return 0;
}

static void tell_saved(struct vmm *m, const struct err *err)
{
	if (err->code)
		log_warn("the guest could not be saved: %s", err->msg);
	vmm_tell(m, json_pack("{s:s,s:b,s:s}", "ev", "saved", "ok", !err->code, "why",
			      err->msg));
}

static void suspend_run(struct suspend *s, struct err *err)
{
	struct primary *p = atomic_load(&s->m->primary);
	struct snapmem_done done = {.fn = on_written, .arg = s};
	int rc = p ? snapmem_create(s->m, SNAPMEM_HELD, done, &s->mem, err)
		   : err_set(err, -EPERM, "this process is not a primary");

	rc = rc ? rc : primary_hold(p, take, s, HOLD_MS, err);
	if (!rc) {
		rc = save_held(s, p, err);
		if (rc)
			primary_hold_end(p);
	}
	if (rc)
		atomic_store(&s->m->saving, 0);
	snapmem_free(s->mem);
}

static void *suspend_main(void *arg)
{
	struct suspend *s = arg;
	struct err err = {0};

	suspend_run(s, &err);
	tell_saved(s->m, &err);
	if (s->fd >= 0)
		(void)close(s->fd); /* nothing was written through it */
	pthread_cond_destroy(&s->news);
	pthread_mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

static int start_detached(void *(*fn)(void *), void *arg)
{
	pthread_t t;
	int rc = -pthread_create(&t, NULL, fn, arg);

	if (!rc)
		pthread_detach(t);
	return rc;
}

void vmm_suspend(struct vmm *m, int fd)
{
	struct suspend *s = calloc(1, sizeof(*s));
	struct err err = {0};
	int rc = -ENOMEM;

	if (s) {
		*s = (struct suspend){.m = m, .fd = fd};
		pthread_mutex_init(&s->lock, NULL); /* default attributes: cannot fail */
		pthread_cond_init(&s->news, NULL);
		rc = start_detached(suspend_main, s);
	}
	if (!rc)
		return;
	err_sys(&err, rc, "saving the guest");
	tell_saved(m, &err);
	(void)close(fd); /* nothing was written through it */
	free(s);
}

static void *forget_main(void *arg)
{
	struct vmm *m = arg;

	crash_at(CRASH_ON_RECORD, 0);
	/* One that cannot be told keeps its commit, and learns from rhead that the VM is off. */
	if (primary_hold_done(atomic_load(&m->primary), FORGET_MS))
		log_warn("the standby could not be told that the guest is saved");
	crash_at(CRASH_FORGOTTEN, 0);
	vmm_tell_guest(m, "suspended", "");
	vmm_end(m, VMEXIT_OFF);
	return NULL;
}

void vmm_suspended(struct vmm *m)
{
	if (!atomic_load(&m->saving) || !atomic_load(&m->primary)) {
		log_warn("rhead says that the guest is saved, which it is not");
		return;
	}
	if (start_detached(forget_main, m))
		vmm_end(m, VMEXIT_OFF); /* out of memory: rhead knows what that means */
}

void vmm_suspend_end(struct vmm *m)
{
	if (!atomic_exchange(&m->saving, 0))
		return;
	log_info("the guest goes on, it is not saved");
	primary_hold_end(atomic_load(&m->primary));
}

/* The copy's thread: disks, then the word. */
static void on_copied(void *arg, struct snapmem *mem, int rc, const char *why)
{
	struct vmm *m = arg;

	if (!rc)
		rc = diskrep_standby_sync(m->s_disk);
	if (rc)
		log_warn("the guest could not be saved here: %s",
			 why[0] ? why : strerror(-rc));
	else
		crash_at(CRASH_COPY_SAVED, snapmem_epoch(mem));
	standby_saved(m->standby, snapmem_epoch(mem), rc);
}

int vmm_on_save(void *arg, uint64_t epoch)
{
	struct snapmem_done done = {.fn = on_copied, .arg = arg};
	struct vmm *m = arg;
	struct err err = {0};
	const char *role, *state;
	uint64_t term;
	int rc;

	snapmem_free(m->copy); /* one that was called off */
	rc = snapmem_create(m, SNAPMEM_STANDBY, done, &m->copy, &err);
	if (rc) {
		log_warn("%s", err.msg);
		return rc;
	}
	vmm_role(m, &role, &state, &term);
	rc = snapmem_take(m->copy, term, epoch);
	if (!rc)
		vmm_tell(m, json_pack("{s:s}", "ev", "want-saved"));
	return rc;
}

void vmm_save_here(struct vmm *m, int fd, const char *why)
{
	int rc = -EIO;

	if (!m->standby || !m->copy || m->started) {
		if (fd >= 0)
			(void)close(fd); /* nothing was written through it */
		return;
	}
	if (fd < 0)
		log_warn("the guest cannot be saved here: %s", why);
	else
		rc = snapmem_start(m->copy, fd);
	if (rc)
		standby_saved(m->standby, snapmem_epoch(m->copy), rc);
}

/* In the order of vmm_activate(), which does the same with a commit. */
static int go_on(struct vmm *m, uint64_t term, struct err *err)
{
	int rc;

	vmm_disks_as_loaded(m);
	diskrep_start(m->diskrep);
	rc = vmm_build_primary(m, err);
	rc = rc ? rc : primary_alone(atomic_load(&m->primary), term, err);
	crash_at(CRASH_LOADED, 0);
	/* From here on it has run, as far as anybody will ever know. */
	rc = rc ? rc : saved_use(m->set.saved_fd, err);
	if (!rc)
		crash_at(CRASH_USED, 0);
	return rc ? rc : vm_start(m->vm, err);
}

int vmm_resume_saved(struct vmm *m, uint64_t term, struct err *err)
{
	uint64_t since = clock_mono_ns();
	struct vmm_slow *slow;
	int rc, used = 0;

	if (m->started || m->standby)
		return err_set(err, -EBUSY, "resume: this process has a role already");
	log_set_term(term);
	rc = vmm_recover_disks(m, err);
	slow = rc ? NULL : vmm_slow_begin(m, "loading the saved guest's memory");
	rc = rc ? rc : snapmem_load(m, m->set.saved_fd, &used, err);
	vmm_slow_end(slow);
	if (!rc && used) {
		log_warn(
			"the guest has run since it was saved, and its hosts lost power: it "
			"boots");
		vmm_disks_as_images(m);
		return vmm_boot(m, term, err);
	}
	rc = rc ? rc : go_on(m, term, err);
	if (rc)
		return err_ctx(err, "resume");
	vmm_started(m, term, since);
	/* Its room is not needed any more. The head stays: it says that the guest has run. */
	if (ftruncate(m->set.saved_fd, SAVED_HEAD_BYTES))
		log_warn("the saved guest's file stays as large as it is: %s",
			 strerror(errno));
	rc = netbuf_announce(m->netbuf, m->s_net, err);
	if (rc) {
		log_warn("the guest runs, but its addresses were not announced: %s",
			 err->msg);
		*err = (struct err){0};
	}
	return 0;
}
