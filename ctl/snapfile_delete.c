/* SPDX-License-Identifier: Apache-2.0
 * snapfile_delete - a snapshot's files go: what of them is needed goes up into their children before.
 *
 * Theory of operation. The description says DELETING before anything changes. The file of a disk is somewhere in the chain of its
 * image; the one above it, its child, takes over what it lacks (hv/vhd.h, vhd_pull) in whoever uses the chain. A child that is
 * the image itself is just written. Any other is a snapshot too, and its own child knows when it was changed last:
 * it gets that time again, which is in the description, afterwards, or, if the power fails in between,
 * before the chain is opened. Only when no image names the file any more it is removed; the description is last.
 * It may be broken off at any point and be given again.
 */
#include "ctl/snapfile.h"

#include "ctl/image_ops.h"
#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The file that @path's header names as its parent, which must be there: resolved, into @out. */
static int parent_of(const char *path, const struct vhd_info *info, char *out,
		     struct err *err)
{
	char copy[PATH_MAX], try[2 * PATH_MAX];
	struct vhd_info *parent = calloc(1, sizeof(*parent));
	const char *dir;
	int found = 0;

	(void)snprintf(copy, sizeof(copy), "%s", path); /* resolved: it fits */
	dir = dirname(copy);
	for (unsigned i = 0; parent && !found && i < info->parent_paths; i++) {
		const char *p = info->parent_path[i];
		struct err more = {0};

		(void)snprintf(try, sizeof(try), "%s%s%s", p[0] == '/' ? "" : dir,
			       p[0] == '/' ? "" : "/", p); /* fits */
		found = realpath(try, out) && !snap_probe(out, parent, &more) &&
			!memcmp(parent->uuid, info->parent_uuid, VHD_UUID_LEN);
	}
	free(parent);
	return found ? 0 : err_set(err, -ENOENT, "%s: its parent is missing", path);
}

/* The file of @image's chain whose parent is @uuid: into @child; "": there is none. */
static int child_in_chain(const char *image, const uint8_t *uuid, char *child,
			  struct err *err)
{
	struct vhd_info *info = calloc(1, sizeof(*info));
	char at[PATH_MAX], next[PATH_MAX];
	int rc = 0;

	child[0] = 0;
	if (!info)
		return err_set(err, -ENOMEM, "out of memory");
	(void)snprintf(at, sizeof(at), "%s", image); /* fits */
	for (unsigned i = 0; !rc && !child[0] && i < VHD_CHAIN_MAX; i++) {
		rc = snap_probe(at, info, err);
		if (rc || info->type != VHD_DIFF)
			break;
		if (!memcmp(info->parent_uuid, uuid, VHD_UUID_LEN)) {
			(void)snprintf(child, PATH_MAX, "%s", at); /* fits */
			break;
		}
		rc = parent_of(at, info, next, err);
		memcpy(at, next, sizeof(at));
	}
	free(info);
	return rc;
}

/* @l: who is to be the child's parent. */
static int find_grandparent(const char *file, const struct vhd_info *info,
			    const char *child, struct snap_leave *l, struct err *err)
{
	struct vhd_info *grand;
	struct stat st;
	int rc;

	l->has_parent = info->type == VHD_DIFF;
	if (!l->has_parent)
		return 0;
	rc = parent_of(file, info, l->parent, err);
	if (rc)
		return rc;
	grand = calloc(1, sizeof(*grand));
	if (!grand)
		return err_set(err, -ENOMEM, "out of memory");
	rc = snap_probe(l->parent, grand, err);
	memcpy(l->parent_uuid, grand->uuid, VHD_UUID_LEN);
	free(grand);
	if (rc)
		return rc;
	rc = image_relative(child, l->parent, l->relative, sizeof(l->relative));
	if (rc)
		return err_sys(err, rc, "%s", l->parent);
	if (stat(l->parent, &st))
		return err_sys(err, -errno, "%s", l->parent);
	l->parent_time = (int64_t)st.st_mtim.tv_sec;
	return 0;
}

static int no_other_child(const char *file, const uint8_t *uuid, const char *child,
			  struct err *err)
{
	char name[VHD_PATH_MAX];

	return image_has_child(file, uuid, child[0] ? child : NULL, name)
		       ? err_set(err, -EBUSY,
				 "%s is the parent of %s, which would be lost", file,
				 name)
		       : 0;
}

static int open_child(struct snap_disk *d, struct snap_leave *l, struct err *err)
{
	struct stat st;

	l->fd = -1;
	if (!strcmp(d->child, d->image))
		return 0;
	l->fd = open(d->child, O_RDWR | O_CLOEXEC);
	if (l->fd < 0 || fstat(l->fd, &st))
		return err_sys(err, -errno, "%s", d->child);
	/* A time that was noted before it was first written counts. */
	if (!d->child_time)
		d->child_time = (int64_t)st.st_mtim.tv_sec;
	return 0;
}

static int look_at(struct snap *s, unsigned i, struct snap_leave *l, struct err *err)
{
	struct vhd_info *info = calloc(1, sizeof(*info));
	struct snap_disk *d = &s->disk[i];
	char file[PATH_MAX], child[PATH_MAX];
	int rc = info ? snap_path(d, s->name, ".vhd", file) : -ENOMEM;

	*l = (struct snap_leave){.fd = -1};
	if (rc)
		(void)err_sys(err, rc, "%s", s->name); /* returned below */
	/* Never switched: no more than a second name of the image. */
	if (rc || access(file, F_OK) || snap_same_file(file, d->image)) {
		free(info);
		return rc;
	}
	rc = snap_probe(file, info, err);
	if (!rc && memcmp(info->uuid, d->uuid, VHD_UUID_LEN) != 0)
		rc = err_set(err, -ESTALE, "%s is another image than it was", file);
	rc = rc ? rc : child_in_chain(d->image, d->uuid, child, err);
	rc = rc ? rc : no_other_child(file, d->uuid, child, err);
	/* Done before, and broken off then: the one that has its time to get is still the one of then. */
	if (!rc && child[0]) {
		if (strcmp(d->child, child) != 0)
			d->child_time = 0;
		memcpy(d->child, child, sizeof(d->child));
		l->needed = 1;
		memcpy(l->uuid, d->uuid, VHD_UUID_LEN);
		rc = find_grandparent(file, info, d->child, l, err);
		rc = rc ? rc : open_child(d, l, err);
	}
	free(info);
	return rc;
}

int snap_delete_begin(struct snap *s, struct snap_leave *l, struct err *err)
{
	unsigned i = 0;
	int rc = 0;

	if (s->state == SNAP_SWITCHING)
		return err_set(
			err, -EBUSY,
			"snapshot %s was broken off; it is finished when the VM is "
			"started next",
			s->name);
	for (; !rc && i < s->n; i++)
		rc = look_at(s, i, &l[i], err);
	if (!rc) {
		s->state = SNAP_DELETING;
		rc = snap_store(s, err);
	}
	while (rc && i--)
		if (l[i].fd >= 0)
			(void)close(l[i].fd); /* nothing was written through it */
	return rc;
}

static int has_let_go(const struct snap_disk *d, const char *file, struct err *err)
{
	struct vhd_info *info = calloc(1, sizeof(*info));
	int rc;

	if (!info)
		return err_set(err, -ENOMEM, "out of memory");
	rc = snap_probe(d->child, info, err);
	if (!rc && info->type == VHD_DIFF &&
	    !memcmp(info->parent_uuid, d->uuid, VHD_UUID_LEN))
		rc = err_set(err, -EBUSY, "%s still needs %s", d->child, file);
	free(info);
	return rc;
}

/* Nothing names it any more, says its child. */
static int is_free(const struct snap_disk *d, const char *file, struct err *err)
{
	int rc = d->child[0] ? has_let_go(d, file, err) : 0;

	return rc ? rc : no_other_child(file, d->uuid, d->child, err);
}

static int remove_one(const struct snap *s, unsigned i, struct err *err)
{
	const struct snap_disk *d = &s->disk[i];
	char file[PATH_MAX];
	int rc = snap_path(d, s->name, ".vhd", file);

	if (rc)
		return err_sys(err, rc, "%s", s->name);
	/* A second name, and children that never were used: snap_abandon's. */
	if (snap_same_file(file, d->image))
		return 0;
	if (!access(file, F_OK)) {
		rc = is_free(d, file, err);
		if (rc)
			return rc;
	}
	if (d->child_time)
		rc = snap_set_time(d->child, d->child_time, err);
	if (!rc && unlink(file) && errno != ENOENT)
		rc = err_sys(err, -errno, "%s", file);
	return rc;
}

int snap_delete_end(struct snap *s, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++)
		rc = remove_one(s, i, err);
	/* What is left is children that never were used, memory, and, once all that is durably gone, the description. */
	return rc ? rc : snap_abandon(s, err);
}

int snap_mend_times(const struct snap *s, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++)
		if (s->disk[i].child_time && !access(s->disk[i].child, F_OK))
			rc = snap_set_time(s->disk[i].child, s->disk[i].child_time, err);
	return rc;
}
