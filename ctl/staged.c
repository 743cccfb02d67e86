/* SPDX-License-Identifier: Apache-2.0
 * staged - a file that is replaced in two steps.
 */
#include "ctl/staged.h"

#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The directory's descriptor into @s, its names too. */
static int open_dir(struct staged *s, const char *path)
{
	char copy[PATH_MAX];
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	int n;

	if (strlen(path) >= sizeof(s->path) || strlen(name) >= sizeof(s->name) ||
	    !name[0])
		return -ENAMETOOLONG;
	memcpy(s->path, path, strlen(path) + 1);
	memcpy(s->name, name, strlen(name) + 1);
	n = snprintf(s->temp, sizeof(s->temp), "%s.new", name);
	if (n >= (int)sizeof(s->temp))
		return -ENAMETOOLONG;
	memcpy(copy, path, strlen(path) + 1);
	if (mkdir(dirname(copy), 0700) && errno != EEXIST)
		return -errno;
	memcpy(copy, path, strlen(path) + 1); /* dirname() may have cut it */
	s->dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return s->dir < 0 ? -errno : 0;
}

/* The lock counts only if the name still leads to the file that was locked: another writer may
 * have renamed it in between. */
static int open_temp(struct staged *s)
{
	struct stat mine, named;

	s->fd = openat(s->dir, s->temp, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->fd < 0)
		return -errno;
	if (flock(s->fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (fstat(s->fd, &mine) || fstatat(s->dir, s->temp, &named, AT_SYMLINK_NOFOLLOW))
		return -errno;
	if (mine.st_ino != named.st_ino || !S_ISREG(mine.st_mode))
		return -EBUSY;
	return 0;
}

/* On disk before anybody is told that it is there. */
static int fill(struct staged *s, const char *p, size_t len)
{
	struct stat st;
	ssize_t n;

	if (fchmod(s->fd, 0600) || ftruncate(s->fd, 0))
		return -errno;
	while (len) {
		n = write(s->fd, p, len);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	if (fsync(s->fd))
		return -errno;
	s->had_old = !fstatat(s->dir, s->name, &st, AT_SYMLINK_NOFOLLOW);
	return s->had_old || errno == ENOENT ? 0 : -errno;
}

static void let_go(struct staged *s)
{
	/* All that matters was synced. */
	if (s->fd >= 0)
		(void)close(s->fd);
	if (s->dir >= 0)
		(void)close(s->dir);
	*s = (struct staged){.dir = -1, .fd = -1};
}

int staged_write(struct staged *s, const char *path, const void *p, size_t len,
		 struct err *err)
{
	int rc, locked = 0;

	*s = (struct staged){.dir = -1, .fd = -1};
	rc = open_dir(s, path);
	if (!rc) {
		rc = open_temp(s);
		locked = !rc;
	}
	if (!rc)
		rc = fill(s, p, len);
	if (!rc) {
		s->state = STAGED_WRITTEN;
		return 0;
	}
	if (locked)
		(void)unlinkat(s->dir, s->temp, 0); /* the error is told already */
	let_go(s);
	if (rc == -EBUSY)
		return err_set(err, rc, "%s.new: another rheactl pair is at work", path);
	return err_sys(err, rc, "write %s.new%s", path,
		       rc == -EACCES ? " (are you root?)" : "");
}

int staged_commit(struct staged *s, struct err *err)
{
	struct err ignored;
	int rc;

	if (renameat2(s->dir, s->temp, s->dir, s->name,
		      s->had_old ? RENAME_EXCHANGE : RENAME_NOREPLACE))
		return err_sys(err, -errno, "rename %s.new", s->path);
	s->state = STAGED_COMMITTED;
	/* Our proof and the peer's commit come after it: a crash then finds the new name. */
	if (!fsync(s->dir))
		return 0;
	rc = err_sys(err, -errno, "sync the directory of %s", s->path);
	(void)staged_undo(s, &ignored); /* the first error is the one to tell */
	return rc;
}

int staged_undo(struct staged *s, struct err *err)
{
	const char *gone = s->temp;
	int rc = 0;

	if (s->state == STAGED_NONE)
		return 0;
	if (s->state == STAGED_COMMITTED && !s->had_old)
		gone = s->name;
	else if (s->state == STAGED_COMMITTED &&
		 renameat2(s->dir, s->temp, s->dir, s->name, RENAME_EXCHANGE))
		rc = -errno;
	if (!rc && (unlinkat(s->dir, gone, 0) || fsync(s->dir)))
		rc = -errno;
	if (rc)
		(void)err_sys(err, rc, "bring the old %s back",
			      s->path); /* rc is returned */
	let_go(s);
	return rc;
}

void staged_finish(struct staged *s)
{
	struct err ignored;

	if (s->state == STAGED_WRITTEN)
		(void)staged_undo(s, &ignored); /* what stays is overwritten next time */
	if (s->state == STAGED_NONE)
		return;
	if (s->had_old)
		(void)unlinkat(s->dir, s->temp, 0); /* likewise */
	let_go(s);
}
