/* SPDX-License-Identifier: Apache-2.0
 * vmrun_activity - the file of a VM's activity log on this host (diskrep/ACTIVITY.md).
 *
 * A file that cannot be opened or written any more must not be believed later, so it is unlinked;
 * the VM runs without.
 */
#include "ctl/vmrun_start.h"

#include "ctl/config.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "hv/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

int vmrun_activity_path(const struct host *h, const struct config_vm *vm, char *path)
{
	int n = snprintf(path, PATH_MAX, "%s/%s.activity", h->opts.state_dir, vm->name);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static void forget(const char *path, const char *vm)
{
	if (!unlink(path) || errno == ENOENT)
		return;
	log_err("%s: %s cannot be removed (%s): remove it by hand before the next standby "
		"returns",
		vm, path, strerror(errno));
}

int vmrun_activity_open(struct host *h, const struct config_vm *vm)
{
	char path[PATH_MAX];
	int fd, rc = vmrun_activity_path(h, vm, path);

	if (rc)
		return rc;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	/* As with disks: the process before may still have it. */
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB)) {
		(void)close(fd); /* nothing was written through it */
		return -EAGAIN;
	}
	if (fd >= 0)
		return fd;
	rc = -errno;
	log_err("%s: %s: %s: the VM runs without its activity log", vm->name, path,
		strerror(-rc));
	forget(path, vm->name);
	return rc;
}

void vmrun_activity_failed(struct host *h, const struct config_vm *vm, uint64_t term,
			   uint64_t epoch, const char *why)
{
	char path[PATH_MAX];

	events_add(
		h->events, vm->name, term, epoch,
		"the disks' activity log cannot be written (%s): the next return of this "
		"host after a crash is a full comparison",
		why);
	if (!vmrun_activity_path(h, vm, path))
		forget(path, vm->name);
}
