/* SPDX-License-Identifier: Apache-2.0
 * image_files - files, folders and paths of disk images.
 */
#include "ctl/image_chain.h"
#include "ctl/image_ops.h"

#include "hv/base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

int image_new_file(const char *path, struct err *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, -errno, "%s", path);
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		(void)err_sys(err, -errno, "%s: lock", path); /* returned below */
		(void)close(fd); /* nothing was written through it */
		return err->code;
	}
	return fd;
}

int image_sync_dir(const char *path, struct err *err)
{
	char dir[PATH_MAX];
	int fd, n = snprintf(dir, sizeof(dir), "%s", path), rc = 0;

	if (n < 0 || (size_t)n >= sizeof(dir))
		return err_set(err, -ENAMETOOLONG, "%s", path);
	fd = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		rc = err_sys(err, -errno, "the folder of %s", path);
	if (fd >= 0)
		(void)close(fd); /* nothing was written through it */
	return rc;
}

int image_relative(const char *from, const char *to, char *out, size_t room)
{
	char copy[PATH_MAX], dir[PATH_MAX];
	size_t same = 0, n = 0, i;
	int r = snprintf(copy, sizeof(copy), "%s", from);

	if (r < 0 || (size_t)r >= sizeof(copy))
		return -ENAMETOOLONG;
	if (!realpath(dirname(copy), dir))
		return -errno;
	/* The folders that both have in common, whole names only. */
	for (i = 0; dir[i] && dir[i] == to[i]; i++)
		if (dir[i] == '/')
			same = i;
	if (!dir[i] && to[i] == '/')
		same = i;
	for (i = same; dir[i]; i++)
		if (dir[i] == '/' && dir[i + 1]) {
			if (n + 3 >= room)
				return -ENAMETOOLONG;
			(void)snprintf(out + n, room - n, "../"); /* fits */
			n += 3;
		}
	r = snprintf(out + n, room - n, "%s", to + same + 1);
	return r < 0 || (size_t)r >= room - n ? -ENAMETOOLONG : 0;
}

static int is_child(const char *path, const uint8_t *uuid)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW), r = 0;
	struct vhd_info *info = malloc(sizeof(*info));
	struct err err = {0};

	/* What cannot be read is no child that anybody could use. */
	if (fd >= 0 && info && !vhd_probe(img_of_fd(fd), info, &err))
		r = info->type == VHD_DIFF &&
		    !memcmp(info->parent_uuid, uuid, VHD_UUID_LEN);
	free(info);
	if (fd >= 0)
		(void)close(fd); /* nothing was written through it */
	return r;
}

int image_has_child(const char *path, const uint8_t *uuid, const char *but, char *name)
{
	char copy[PATH_MAX], file[PATH_MAX], own[PATH_MAX] = "";
	const struct dirent *e;
	int found = 0, n;
	DIR *d;

	(void)snprintf(copy, sizeof(copy), "%s",
		       path); /* was opened: it is short enough */
	dirname(copy);
	d = opendir(copy);
	if (but && !realpath(but, own))
		own[0] = 0;
	while (d && !found && (e = readdir(d))) {
		n = snprintf(name, VHD_PATH_MAX, "%s/%s", copy, e->d_name);
		if (e->d_type == DT_DIR || n < 0 || n >= VHD_PATH_MAX ||
		    !realpath(name, file) || !strcmp(file, own))
			continue;
		found = is_child(name, uuid);
	}
	if (d)
		(void)closedir(d); /* it was only read */
	return found;
}
