/* SPDX-License-Identifier: Apache-2.0
 * snapfile_ops - the steps of a snapshot on the file system, each durable before the next.
 */
#include "ctl/snapfile.h"

#include "ctl/image_ops.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PROBE_TRIES = 5 };

/* An image says who it is, and how large, also while it is written: but for a moment in which it grows. */
int snap_probe(const char *path, struct vhd_info *info, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = -EAGAIN;

	if (fd < 0)
		return err_sys(err, -errno, "%s", path);
	for (unsigned i = 0; rc && i < PROBE_TRIES; i++) {
		*err = (struct err){0};
		rc = vhd_probe(img_of_fd(fd), info, err);
	}
	(void)close(fd); /* it was only read */
	return rc ? err_ctx(err, "%s", path) : 0;
}

static int is_image(const char *path, const uint8_t *uuid)
{
	struct vhd_info *info = calloc(1, sizeof(*info));
	struct err err = {0};
	int ok = info && !snap_probe(path, info, &err) &&
		 !memcmp(info->uuid, uuid, VHD_UUID_LEN);

	free(info);
	return ok;
}

int snap_same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(a, &x) && !stat(b, &y) && x.st_ino == y.st_ino &&
	       x.st_dev == y.st_dev;
}

static int paths(const struct snap *s, unsigned i, char *file, char *fresh,
		 struct err *err)
{
	int rc = snap_path(&s->disk[i], s->name, ".vhd", file);

	rc = rc ? rc : snap_path(&s->disk[i], s->name, ".fresh", fresh);
	return rc ? err_sys(err, rc, "%s", s->disk[i].image) : 0;
}

static int must_be_new(const struct snap *s, struct err *err)
{
	char file[PATH_MAX], fresh[PATH_MAX], json[PATH_MAX];
	int rc = snap_path(&s->disk[0], s->name, ".json", json);

	rc = rc ? err_sys(err, rc, "%s", s->name) : 0;
	if (!rc && !access(json, F_OK))
		rc = err_set(err, -EEXIST, "there is a snapshot %s already", s->name);
	for (unsigned i = 0; !rc && i < s->n; i++) {
		rc = paths(s, i, file, fresh, err);
		if (!rc && (!access(file, F_OK) || !access(fresh, F_OK)))
			rc = err_set(err, -EEXIST, "%s is in the way", file);
	}
	return rc;
}

/* An empty child of image @i; its parent will have the snapshot's name and @time. */
static int make_child(struct snap *s, unsigned i, int *fd_out, struct err *err)
{
	struct snap_disk *d = &s->disk[i];
	char file[PATH_MAX], fresh[PATH_MAX];
	struct vhd_create c = {.type = VHD_DIFF,
			       .size = d->size,
			       .now = time(NULL),
			       .parent_uuid = d->uuid,
			       .parent_mtime = d->time,
			       .parent_path = file};
	int rc = paths(s, i, file, fresh, err), fd;

	if (rc)
		return rc;
	c.parent_relative = strrchr(file, '/') + 1;
	fd = image_new_file(fresh, err);
	if (fd < 0)
		return fd;
	rc = vhd_create(img_of_fd(fd), &c, err);
	rc = rc ? rc : image_sync_dir(fresh, err);
	if (rc)
		(void)close(fd); /* it is removed */
	else
		*fd_out = fd;
	return rc ? err_ctx(err, "%s", fresh) : 0;
}

static int identify(struct snap *s, struct err *err)
{
	struct vhd_info *info = calloc(1, sizeof(*info));
	int rc = 0;

	if (!info)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; !rc && i < s->n; i++) {
		struct snap_disk *d = &s->disk[i];

		rc = snap_probe(d->image, info, err);
		memcpy(d->uuid, info->uuid, VHD_UUID_LEN);
		d->size = info->capacity;
		d->time = time(NULL);
	}
	free(info);
	return rc;
}

int snap_prepare(const struct config_vm *vm, struct snap *s, int *fd, struct err *err)
{
	struct err more = {0};
	unsigned made = 0;
	int rc = snap_name_ok(s->name)
			 ? snap_disks(vm, s, err)
			 : err_set(err, -EINVAL,
				   "a snapshot's name is of 1 to %d letters, digits, "
				   "\".\", \"_\" and \"-\"",
				   SNAP_NAME_MAX - 1);

	rc = rc ? rc : must_be_new(s, err);
	rc = rc ? rc : identify(s, err);
	if (!rc && s->with_memory && snap_path(&s->disk[0], s->name, ".mem", s->memory))
		rc = err_set(err, -ENAMETOOLONG, "%s", s->disk[0].image);
	s->state = SNAP_PREPARED;
	s->epoch = UINT64_MAX;
	if (rc)
		return rc;
	/* First: so that what is left of a child is known to be of no use. */
	rc = snap_store(s, err);
	for (; !rc && made < s->n; made += !rc)
		rc = make_child(s, made, &fd[made], err);
	if (!rc)
		return 0;
	while (made)
		(void)close(fd[--made]); /* nothing that is kept was written through it */
	if (snap_abandon(s, &more))
		log_warn("%s", more.msg);
	return rc;
}

static int remove_file(const char *path, struct err *err)
{
	return unlink(path) && errno != ENOENT ? err_sys(err, -errno, "%s", path) : 0;
}

int snap_abandon(const struct snap *s, struct err *err)
{
	char file[PATH_MAX], fresh[PATH_MAX], json[PATH_MAX];
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++) {
		rc = paths(s, i, file, fresh, err);
		rc = rc ? rc : remove_file(fresh, err);
		/* A second name of the image, no more. */
		if (!rc && snap_same_file(file, s->disk[i].image))
			rc = remove_file(file, err);
		/* The memory is beside the first. */
		if (!rc && !i && s->memory[0])
			rc = remove_file(s->memory, err);
		rc = rc ? rc : image_sync_dir(file, err);
	}
	if (rc)
		return rc;
	/* Last, and all else is gone for good: what is left over with no description would be in the way for ever. */
	rc = snap_path(&s->disk[0], s->name, ".json", json);
	rc = rc ? err_sys(err, rc, "%s", s->name) : remove_file(json, err);
	return rc ? rc : image_sync_dir(json, err);
}

int snap_set_time(const char *path, int64_t time, struct err *err)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = time}};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;

	if (fd < 0 || futimens(fd, t) || fsync(fd))
		rc = err_sys(err, -errno, "%s", path);
	if (fd >= 0)
		(void)close(fd); /* fsync told all errors */
	return rc;
}

static int is_switched(const struct snap *s, unsigned i, const char *file,
		       const char *fresh)
{
	return access(fresh, F_OK) && is_image(file, s->disk[i].uuid) &&
	       !snap_same_file(file, s->disk[i].image);
}

/* The image gets its second name. Done already: nothing. */
static int name_old(const struct snap *s, unsigned i, struct err *err)
{
	const struct snap_disk *d = &s->disk[i];
	char file[PATH_MAX], fresh[PATH_MAX];
	int rc = paths(s, i, file, fresh, err);

	if (rc || is_switched(s, i, file, fresh))
		return rc;
	if (access(fresh, F_OK))
		return err_sys(err, -errno, "%s", fresh);
	if (!is_image(d->image, d->uuid))
		return err_set(err, -ESTALE, "%s is another image than it was", d->image);
	rc = snap_set_time(d->image, d->time, err);
	if (!rc && link(d->image, file) &&
	    (errno != EEXIST || !snap_same_file(d->image, file)))
		rc = err_sys(err, -errno, "%s", file);
	/* It must not lose its only name when the other one is taken from it. */
	return rc ? rc : image_sync_dir(file, err);
}

static int name_new(const struct snap *s, unsigned i, struct err *err)
{
	char file[PATH_MAX], fresh[PATH_MAX];
	int rc = paths(s, i, file, fresh, err);

	if (rc || is_switched(s, i, file, fresh))
		return rc;
	if (rename(fresh, s->disk[i].image))
		return err_sys(err, -errno, "%s", s->disk[i].image);
	return image_sync_dir(fresh, err);
}

static int name_all(const struct snap *s, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++)
		rc = name_old(s, i, err);
	for (unsigned i = 0; !rc && i < s->n; i++)
		rc = name_new(s, i, err);
	return rc;
}

/* The children were not written: the images take their names back. First of all, nobody is to go on with it. */
static int take_back(struct snap *s, struct err *err)
{
	char file[PATH_MAX], fresh[PATH_MAX];
	int rc;

	s->state = SNAP_PREPARED;
	rc = snap_store(s, err);

	for (unsigned i = 0; !rc && i < s->n; i++) {
		rc = paths(s, i, file, fresh, err);
		if (rc || access(file, F_OK) || snap_same_file(file, s->disk[i].image))
			continue;
		if (rename(file, s->disk[i].image))
			rc = err_sys(err, -errno, "%s", s->disk[i].image);
	}
	/* Which makes all of it durable before the description goes. */
	return rc ? rc : snap_abandon(s, err);
}

int snap_switch(struct snap *s, struct err *err)
{
	struct err more = {0};
	int rc;

	s->state = SNAP_SWITCHING;
	rc = snap_store(s, err);
	rc = rc ? rc : name_all(s, err);
	if (!rc) {
		s->state = SNAP_CUT;
		rc = snap_store(s, err);
	}
	if (!rc || !take_back(s, &more))
		return rc;
	log_err("snapshot %s: %s, and then %s", s->name, err->msg, more.msg);
	return -EUCLEAN;
}

int snap_confirm(struct snap *s, struct err *err)
{
	s->state = SNAP_COMPLETE;
	return snap_store(s, err);
}

int snap_recover(const struct config_vm *vm, struct err *err)
{
	struct snap **list;
	struct snap *none = calloc(1, sizeof(*none));
	unsigned n;
	int rc, any;

	/* A VM that cannot have any is no failure. */
	any = none && !snap_disks(vm, none, err);
	free(none);
	*err = (struct err){0};
	if (!any)
		return 0;
	rc = snap_list(vm, &list, &n, err);
	if (rc)
		return rc;
	for (unsigned i = 0; !rc && i < n; i++) {
		if (list[i]->state == SNAP_DELETING)
			rc = snap_mend_times(list[i], err);
		else if (list[i]->state == SNAP_REVERTING)
			rc = snap_revert_finish(list[i], err);
		if (rc || list[i]->state != SNAP_SWITCHING)
			continue;
		rc = name_all(list[i], err);
		list[i]->state = SNAP_CUT;
		rc = rc ? rc : snap_store(list[i], err);
		if (!rc)
			log_info("%s: snapshot %s was finished after it was broken off",
				 vm->name, list[i]->name);
	}
	snap_list_free(list, n);
	return rc;
}
