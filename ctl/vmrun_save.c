/* SPDX-License-Identifier: Apache-2.0
 * vmrun_save - the file of a VM's saved guest on this host (remus/SAVED.md).
 *
 * It is believed only if the VM's record says that its guest is saved; the record says so only after
 * rhea-vm has said that the file is whole. So what an attempt leaves that came to nothing is overwritten by
 * the next.
 */
#include "ctl/vmrun_impl.h"

#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_start.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/saved.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

enum { COPY_BYTES = 64 << 20 };

static int path_of(const struct host *h, const struct config_vm *vm, char path[PATH_MAX])
{
	int n = snprintf(path, PATH_MAX, "%s/%s.saved", h->opts.state_dir, vm->name);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* The name is there before the record speaks of it. */
static int sync_dir(const struct host *h)
{
	int fd = open(h->opts.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	(void)close(fd); /* nothing was written through it */
	return rc;
}

int vmrun_saved_make(const struct host *h, const struct config_vm *vm, struct err *err)
{
	char path[PATH_MAX] = "";
	int rc = path_of(h, vm, path), fd = -1;

	if (!rc) {
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
			  0600);
		rc = fd < 0 ? -errno : sync_dir(h);
	}
	if (rc && fd >= 0)
		(void)close(fd); /* nothing was written through it */
	return rc ? err_sys(err, rc, "saved guest %s", path) : fd;
}

int vmrun_saved_open(const struct host *h, const struct config_vm *vm, struct err *err)
{
	char path[PATH_MAX] = "";
	int rc = path_of(h, vm, path), fd = -1;

	if (!rc) {
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		rc = fd < 0 ? -errno : 0;
	}
	return rc ? err_sys(err, rc, "saved guest %s", path) : fd;
}

/* All of @from to @to; 0 or -errno. */
static int copy_all(int from, int to)
{
	ssize_t n;

	do
		n = sendfile(to, from, NULL, COPY_BYTES);
	while (n > 0 || (n < 0 && errno == EINTR));
	return n ? -errno : fdatasync(to) ? -errno : 0;
}

int vmrun_saved_take(const struct host *h, const struct config_vm *vm, const char *from,
		     struct err *err)
{
	const struct saved_sink none = {0};
	struct saved_info info;
	int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), out, rc;

	if (in < 0)
		return err_sys(err, -errno, "%s", from);
	out = vmrun_saved_make(h, vm, err);
	rc = out < 0 ? out : copy_all(in, out);
	if (rc && out >= 0)
		err_sys(err, rc, "a copy of %s", from);
	/* What is damaged is found now, and not when the disks were taken back. */
	rc = rc ? rc : saved_read(out, &none, &info, err);
	if (!rc && (info.used || strcmp(info.vm, vm->name) != 0))
		rc = err_set(err, -EINVAL, "%s is of another guest", from);
	(void)close(in); /* it was only read */
	if (out >= 0)
		(void)close(out); /* fdatasync has told all errors */
	return rc;
}

void vmrun_reverted(struct vmrun *v, int saved)
{
	struct pair_event ev = {.kind = PAIR_EV_REVERTED};

	ev.u.saved.ok = saved;
	vmrun_event(v, &ev);
}

int vmrun_saved_drop(const struct host *h, const struct config_vm *vm, struct err *err)
{
	char path[PATH_MAX];
	int rc = path_of(h, vm, path);

	if (!rc && unlink(path) && errno != ENOENT)
		rc = -errno;
	return rc ? err_sys(err, rc, "the saved guest of %s cannot be removed", vm->name)
		  : 0;
}

int vmrun_saved_check(const struct vmrun *v, struct err *err)
{
	struct saved_info info;
	int fd = vmrun_saved_open(v->h, v->cfg, err), rc;

	if (fd < 0)
		return fd;
	rc = saved_head(fd, &info, err);
	if (!rc && strcmp(info.vm, v->cfg->name) != 0)
		rc = err_set(err, -EINVAL, "the saved guest is %s", info.vm);
	else if (!rc && info.ram != v->cfg->memory)
		rc = err_set(
			err, -EINVAL,
			"the saved guest has %llu MiB of memory, the config gives it "
			"%llu MiB",
			(unsigned long long)info.ram >> 20,
			(unsigned long long)v->cfg->memory >> 20);
	(void)close(fd); /* nothing was written through it */
	return rc;
}

const char *vmrun_save_why(const struct vmrun *v)
{
	return v->save_why;
}

static void told(struct vmrun *v, int ok, const char *why)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_SAVED, .instance = v->instance};

	ev.u.saved.ok = ok;
	(void)snprintf(v->save_why, sizeof(v->save_why), "%s", why); /* cutting is fine */
	if (!ok)
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "the guest could not be saved: %s", why);
	vmrun_event(v, &ev);
}

/* Give rhea-vm a new file with these words, or tell it why there is none. */
static int give_file(struct vmrun *v, const char *op, struct err *err)
{
	int fd = v->pair.rec.saved
			 ? err_set(err, -EEXIST, "a saved guest is there already")
			 : vmrun_saved_make(v->h, v->cfg, err),
	    rc;

	if (fd < 0)
		return fd;
	rc = vmproc_send(v->proc, json_pack("{s:s,s:[s]}", "op", op, "fds", "saved"), fd);
	(void)close(fd); /* rhea-vm has a copy of its own */
	return rc ? err_sys(err, rc, "rhea-vm could not be told") : 0;
}

void vmrun_suspend(struct vmrun *v)
{
	struct err err = {0};

	v->save_why[0] = '\0';
	if (give_file(v, "suspend", &err))
		told(v, 0, err.msg);
}

void vmrun_saved(struct vmrun *v, json_t *msg)
{
	const char *why = json_string_value(json_object_get(msg, "why"));

	told(v, json_is_true(json_object_get(msg, "ok")), why ? why : "");
}

void vmrun_want_saved(struct vmrun *v)
{
	struct err err = {0};
	int rc;

	if (!give_file(v, "save-here", &err))
		return;
	log_warn("%s: %s", v->cfg->name, err.msg);
	rc = vmproc_send(v->proc,
			 json_pack("{s:s,s:s}", "op", "save-here", "why", err.msg), -1);
	if (rc && rc != -EPIPE) /* -EPIPE: it has ended, which is told */
		log_err("%s: rhea-vm cannot be told that it cannot save: %s",
			v->cfg->name, strerror(-rc));
}
