/* SPDX-License-Identifier: Apache-2.0
 * snapfile_revert - a VM that is off goes back to a snapshot: each image becomes a new empty child of it.
 *
 * Order: the children; then what this host claims of its disks is forgotten (journal and activity log), because
 * that speaks of what is now given up; then the description says REVERTING; then the renames. A power cut
 * before REVERTING leaves the images as they were, and costs a full comparison; after it recover goes on.
 */
#include "ctl/snapfile.h"

#include "ctl/image_chain.h"
#include "ctl/image_ops.h"
#include "hv/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int make_child(const struct snap *s, unsigned i, struct err *err)
{
	struct image_new n = {.format = IMAGE_VHD, .type = VHD_DIFF};
	char file[PATH_MAX], child[PATH_MAX];
	int rc = snap_path(&s->disk[i], s->name, ".vhd", file);

	rc = rc ? rc : snap_path(&s->disk[i], s->name, ".revert", child);
	if (rc)
		return err_sys(err, rc, "%s", s->name);
	/* Of a time when this was broken off. */
	if (unlink(child) && errno != ENOENT)
		return err_sys(err, -errno, "%s", child);
	n.parent = file;
	return image_create(child, &n, err);
}

static int take_places(const struct snap *s, struct err *err)
{
	char child[PATH_MAX];
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++) {
		rc = snap_path(&s->disk[i], s->name, ".revert", child);
		if (rc)
			return err_sys(err, rc, "%s", s->name);
		if (rename(child, s->disk[i].image) && errno != ENOENT)
			rc = err_sys(err, -errno, "%s", s->disk[i].image);
		rc = rc ? rc : image_sync_dir(child, err);
	}
	return rc;
}

int snap_revert_finish(struct snap *s, struct err *err)
{
	int rc = take_places(s, err);

	if (rc)
		return rc;
	s->state = SNAP_COMPLETE;
	return snap_store(s, err);
}

static int forget(const char *path, struct err *err)
{
	if (unlink(path) && errno != ENOENT)
		return err_sys(err, -errno, "%s", path);
	return image_sync_dir(path, err);
}

/* Nobody else has it, and it keeps its locks until its image has another file. */
static int lock_images(const struct snap *s, int *fd, struct err *err)
{
	for (unsigned i = 0; i < s->n; i++) {
		fd[i] = image_open(s->disk[i].image, 1, err);
		if (fd[i] < 0)
			return fd[i];
	}
	return 0;
}

int snap_revert(struct snap *s, const char *journal, const char *activity,
		struct err *err)
{
	int fd[CONFIG_DISKS_MAX], rc;

	memset(fd, -1, sizeof(fd));
	if (s->state == SNAP_REVERTING)
		return snap_revert_finish(s, err);
	if (!snap_is_complete(s))
		return err_set(err, -EINVAL, "snapshot %s is not complete on this host",
			       s->name);
	rc = lock_images(s, fd, err);
	for (unsigned i = 0; !rc && i < s->n; i++)
		rc = make_child(s, i, err);
	rc = rc ? rc : forget(journal, err);
	rc = rc ? rc : forget(activity, err);
	if (!rc) {
		s->state = SNAP_REVERTING;
		rc = snap_store(s, err);
		rc = rc ? rc : snap_revert_finish(s, err);
	}
	for (unsigned i = 0; i < s->n; i++)
		if (fd[i] >= 0)
			(void)close(fd[i]); /* nothing was written through it */
	return rc;
}
