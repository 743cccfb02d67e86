/* SPDX-License-Identifier: Apache-2.0
 * powercut - a power cut for whoever changes names of files: what was not made durable is lost, or any part of it.
 *
 * Theory of operation. The program's own open, rename, link, unlink, futimens and fsync do what they should, and note what
 * would be lost: a name that was given or taken, until the folder is made durable; a new file's content and a file's
 * time, until the file is. A rename gives one name and takes the other, both or neither. Every file that has been there
 * keeps a name in a folder aside, the pool. At the cut the names that are durable, and those of the changes that are said not to
 * be lost, are made from that. What is written into a file that has been durable before is never lost here.
 *
 * For a process that is forked for it, with one thread. fsync itself does nothing: it is slow, and no power fails.
 */
#ifndef TESTS_UNIT_POWERCUT_H
#define TESTS_UNIT_POWERCUT_H

#include "tests/unit/snaprig.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { CUT_DIED = 77, CUT_FILES = 64, CUT_CHANGES = 32, CUT_PATH = 128 };

/* When the process dies; 0: never. */
struct cut_plan {
	int step; /* before the call of this number */
	int sync; /* before this fsync, */
	unsigned
		kept; /* of what is not durable then, only these changes being kept: a bit for each */
};

/* What the process says of its end; shared with who forked it. */
struct cut_end {
	unsigned pending; /* changes that might have been lost */
	int finished;	  /* it came to its end first */
};

enum cut_kind { CUT_NAME, CUT_CONTENT, CUT_TIME };

struct cut_change {
	enum cut_kind kind;
	int file;	     /* in the pool */
	char gets[CUT_PATH]; /* CUT_NAME: the name that @file has from now on; "": none */
	char loses[CUT_PATH];  /* CUT_NAME: the name that is gone; "": none */
	struct timespec mtime; /* CUT_TIME: before it */
};

static struct {
	int on, step, syncs;
	struct cut_plan plan;
	struct cut_end *end;
	ino_t file[CUT_FILES]; /* the pool */
	int n_files;
	struct {
		char path[CUT_PATH];
		int file;
	} name[CUT_FILES]; /* durable; "": free */
	struct cut_change change[CUT_CHANGES];
	unsigned n_changes;
} cut;

/* Our own faults end the test: there is nobody to tell in the child. */
static inline void cut_must(int ok)
{
	if (!ok)
		abort();
}

static inline const char *cut_pool(int file)
{
	static char path[CUT_PATH];

	(void)snprintf(path, sizeof(path), "%s/pool/%d", rig_dir, file); /* fits */
	return path;
}

static inline void cut_step(void)
{
	if (cut.on && ++cut.step == cut.plan.step)
		_exit(CUT_DIED);
}

static inline int cut_file_of(const struct stat *st)
{
	for (int i = 0; i < cut.n_files; i++)
		if (cut.file[i] == st->st_ino)
			return i;
	return -1;
}

/* The file of this name, which gets one in the pool. */
static inline int cut_file(const char *path)
{
	struct stat st;
	int i;

	cut_must(!lstat(path, &st));
	i = cut_file_of(&st);
	if (i >= 0)
		return i;
	cut_must(cut.n_files < CUT_FILES);
	i = cut.n_files++;
	cut.file[i] = st.st_ino;
	cut_must(!syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, cut_pool(i), 0));
	return i;
}

static inline void cut_set_name(const char *path, int file)
{
	int i = 0;

	while (i < CUT_FILES && strcmp(cut.name[i].path, path) != 0)
		i++;
	for (int j = 0; i == CUT_FILES && j < CUT_FILES; j++)
		if (!cut.name[j].path[0])
			i = j;
	cut_must(i < CUT_FILES);
	(void)snprintf(cut.name[i].path, CUT_PATH, "%s", file < 0 ? "" : path); /* fits */
	cut.name[i].file = file;
}

static inline void cut_settle(const struct cut_change *c)
{
	if (c->kind != CUT_NAME)
		return;
	if (c->loses[0])
		cut_set_name(c->loses, -1);
	if (c->gets[0])
		cut_set_name(c->gets, c->file);
}

static inline struct cut_change *cut_note(enum cut_kind kind, int file)
{
	struct cut_change *c = &cut.change[cut.n_changes++];

	cut_must(cut.n_changes <= CUT_CHANGES);
	*c = (struct cut_change){.kind = kind, .file = file};
	return c;
}

static inline void cut_note_name(int file, const char *gets, const char *loses)
{
	struct cut_change *c = cut_note(CUT_NAME, file);

	(void)snprintf(c->gets, CUT_PATH, "%s", gets); /* these fit */
	(void)snprintf(c->loses, CUT_PATH, "%s", loses);
}

static inline int cut_is_in(const struct cut_change *c, const struct stat *dir)
{
	char path[CUT_PATH];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s",
		       c->gets[0] ? c->gets : c->loses); /* fits */
	*strrchr(path, '/') = '\0';
	cut_must(!stat(path, &st));
	return st.st_ino == dir->st_ino;
}

/* What an fsync of the file or folder makes durable can be lost no more. */
static inline void cut_synced(const struct stat *st)
{
	unsigned n = 0;

	for (unsigned i = 0; i < cut.n_changes; i++) {
		struct cut_change *c = &cut.change[i];
		int done = c->kind == CUT_NAME ? S_ISDIR(st->st_mode) && cut_is_in(c, st)
					       : cut_file_of(st) == c->file;

		if (done)
			cut_settle(c);
		else
			cut.change[n++] = *c;
	}
	cut.n_changes = n;
}

static inline void cut_remove(const char *path)
{
	cut_must(!syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

static inline void cut_power(void)
{
	cut.on = 0;
	cut.end->pending = cut.n_changes;
	for (unsigned i = 0; i < cut.n_changes; i++) {
		const struct cut_change *c = &cut.change[i];

		if (cut.plan.kept >> i & 1)
			cut_settle(c);
		else if (c->kind == CUT_CONTENT)
			cut_must(!truncate(cut_pool(c->file), 0));
		else if (c->kind == CUT_TIME)
			cut_must(!syscall(
				SYS_utimensat, AT_FDCWD, cut_pool(c->file),
				(struct timespec[]){{.tv_nsec = UTIME_OMIT}, c->mtime},
				0));
	}
	(void)snap_each_file(cut_remove); /* all are gone */
	for (int i = 0; i < CUT_FILES; i++)
		if (cut.name[i].path[0])
			cut_must(!syscall(SYS_linkat, AT_FDCWD,
					  cut_pool(cut.name[i].file), AT_FDCWD,
					  cut.name[i].path, 0));
	_exit(CUT_DIED);
}

int open(const char *path, int flags, ...)
{
	int fd, is_new;
	mode_t mode;
	va_list ap;

	va_start(ap, flags);
	mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (!cut.on || !(flags & O_CREAT))
		return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	cut_step();
	is_new = access(path, F_OK);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	if (fd >= 0 && is_new)
		cut_note_name(cut_file(path), path, "");
	if (fd >= 0 && (is_new || flags & O_TRUNC))
		(void)cut_note(CUT_CONTENT, cut_file(path));
	return fd;
}

/* The end of a name that no rename can take away; NULL: none. */
static const char *cut_refused;

static inline int cut_refuses(const char *path)
{
	size_t n = strlen(path), m = cut_refused ? strlen(cut_refused) : 0;

	return m && n >= m && !strcmp(path + n - m, cut_refused);
}

int rename(const char *from, const char *to)
{
	int file = cut.on && !access(from, F_OK) ? cut_file(from) : -1;
	int rc;

	cut_step();
	if (cut_refuses(from)) {
		errno = EIO;
		return -1;
	}
	rc = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
	if (!rc && cut.on)
		cut_note_name(file, to, from);
	return rc;
}

int link(const char *from, const char *to)
{
	int rc;

	cut_step();
	rc = (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
	if (!rc && cut.on)
		cut_note_name(cut_file(to), to, "");
	return rc;
}

int unlink(const char *path)
{
	int rc;

	cut_step();
	rc = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
	if (!rc && cut.on)
		cut_note_name(-1, "", path);
	return rc;
}

int futimens(int fd, const struct timespec t[2])
{
	struct stat st;

	cut_step();
	if (cut.on && !fstat(fd, &st) && cut_file_of(&st) >= 0)
		cut_note(CUT_TIME, cut_file_of(&st))->mtime = st.st_mtim;
	return (int)syscall(SYS_utimensat, fd, NULL, t, 0);
}

int fsync(int fd)
{
	struct stat st;

	cut_step();
	if (!cut.on)
		return 0;
	if (++cut.syncs == cut.plan.sync)
		cut_power();
	cut_must(!fstat(fd, &st));
	cut_synced(&st);
	return 0;
}

int fdatasync(int fd)
{
	return fsync(fd);
}

static inline void cut_know(const char *path)
{
	cut_set_name(path, cut_file(path));
}

static inline void cut_fork(const struct cut_plan *plan, int (*deed)(void))
{
	for (int i = 0; i < CUT_FILES; i++)
		(void)syscall(SYS_unlinkat, AT_FDCWD, cut_pool(i), 0); /* there or not */
	(void)snap_each_file(cut_know); /* that many are durable */
	cut.plan = *plan;
	cut.on = 1;
	if (deed())
		_exit(1);
	cut.end->finished = 1;
	cut.end->pending = cut.n_changes;
	_exit(0);
}

/* @deed, in a process that dies as planned. 1: it did; 0: it came to its end first, and succeeded. */
static inline int cut_run(const struct cut_plan *plan, int (*deed)(void))
{
	int status;
	pid_t pid;

	if (!cut.end) {
		cut.end = mmap(NULL, sizeof(*cut.end), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		CU_ASSERT_FATAL(cut.end != MAP_FAILED);
		CU_ASSERT_EQUAL_FATAL(mkdir(rig_path("pool"), 0700), 0);
	}
	*cut.end = (struct cut_end){0};
	pid = fork();
	CU_ASSERT_FATAL(pid >= 0);
	if (!pid)
		cut_fork(plan, deed);
	CU_ASSERT_EQUAL_FATAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT_TRUE_FATAL(WIFEXITED(status));
	CU_ASSERT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CUT_DIED);
	return WEXITSTATUS(status) == CUT_DIED;
}

#endif
