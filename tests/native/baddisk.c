/* SPDX-License-Identifier: Apache-2.0
 * baddisk - a file system whose files fail as they are told.
 */
#define FUSE_USE_VERSION  312
#define _FILE_OFFSET_BITS 64
#include "tests/native/baddisk.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, UP_MS = 10000 };

/* Of the process that serves. */
static int real_dir;
static struct baddisk_knobs *knobs;

static enum bad_kind kind_of(const char *path)
{
	const char *dot = strrchr(path, '.');

	if (dot && !strcmp(dot, ".journal"))
		return BAD_JOURNAL;
	if (dot && !strcmp(dot, ".activity"))
		return BAD_ACTIVITY;
	return BAD_IMAGE;
}

/* It takes its time, then it fails or not. */
static int harm(enum bad_kind k, atomic_int *with)
{
	unsigned ms = atomic_load(&knobs->kind[k].delay_ms);
	struct timespec ts = {.tv_sec = ms / 1000,
			      .tv_nsec = (long)(ms % 1000) * 1000000};
	int rc;

	if (ms)
		(void)nanosleep(&ts, NULL); /* a shorter one is fine */
	rc = atomic_load(with);
	if (rc)
		atomic_fetch_add(&knobs->kind[k].failed, 1);
	return -rc;
}

static int result(long r)
{
	return r < 0 ? -errno : (int)r;
}

static int do_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	if (!strcmp(path, "/"))
		return result(fstat(real_dir, st));
	return result(fstatat(real_dir, path + 1, st, AT_SYMLINK_NOFOLLOW));
}

static int open_as(const char *path, int flags, mode_t mode, struct fuse_file_info *fi)
{
	int fd = openat(real_dir, path + 1, flags | O_CLOEXEC, mode);

	if (fd < 0)
		return -errno;
	fi->fh = (uint64_t)fd;
	fi->direct_io = 1;
	return 0;
}

static int do_open(const char *path, struct fuse_file_info *fi)
{
	return open_as(path, fi->flags & O_ACCMODE, 0, fi);
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	return open_as(path, (fi->flags & O_ACCMODE) | O_CREAT, mode, fi);
}

static int do_release(const char *path, struct fuse_file_info *fi)
{
	return result(close((int)fi->fh));
}

static int do_read(const char *path, char *buf, size_t len, off_t at,
		   struct fuse_file_info *fi)
{
	enum bad_kind k = kind_of(path);
	int rc = harm(k, &knobs->kind[k].read);

	return rc ? rc : result(pread((int)fi->fh, buf, len, at));
}

static int do_write(const char *path, const char *buf, size_t len, off_t at,
		    struct fuse_file_info *fi)
{
	enum bad_kind k = kind_of(path);
	int rc = harm(k, &knobs->kind[k].write);
	size_t kept = len;

	atomic_fetch_add(&knobs->kind[k].writes, 1);
	if (rc)
		return rc;
	if (atomic_load(&knobs->kind[k].lose))
		kept = 0;
	else if (atomic_load(&knobs->kind[k].tear) && len > SECTOR)
		kept = SECTOR;
	if (kept < len)
		atomic_fetch_add(&knobs->kind[k].lost, 1);
	if (kept && pwrite((int)fi->fh, buf, kept, at) != (ssize_t)kept)
		return -EIO;
	return (int)len;
}

static int do_fsync(const char *path, int data, struct fuse_file_info *fi)
{
	enum bad_kind k = kind_of(path);
	int rc = harm(k, &knobs->kind[k].sync);

	atomic_fetch_add(&knobs->kind[k].syncs, 1);
	return rc ? rc : result(fdatasync((int)fi->fh));
}

/* Erasing is a write; room in advance is not. */
static int do_fallocate(const char *path, int mode, off_t at, off_t len,
			struct fuse_file_info *fi)
{
	enum bad_kind k = kind_of(path);
	int rc = mode & FALLOC_FL_PUNCH_HOLE ? harm(k, &knobs->kind[k].write) : 0;

	return rc ? rc : result(fallocate((int)fi->fh, mode, at, len));
}

static off_t do_lseek(const char *path, off_t at, int whence, struct fuse_file_info *fi)
{
	off_t r = lseek((int)fi->fh, at, whence);

	return r < 0 ? -errno : r;
}

static int do_truncate(const char *path, off_t len, struct fuse_file_info *fi)
{
	int fd = openat(real_dir, path + 1, O_WRONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = result(ftruncate(fd, len));
	(void)close(fd); /* that it could be cut is what counts */
	return rc;
}

static int do_unlink(const char *path)
{
	return result(unlinkat(real_dir, path + 1, 0));
}

static void *do_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
	cfg->attr_timeout = cfg->entry_timeout = cfg->negative_timeout = 0;
	return NULL;
}

static const struct fuse_operations ops = {
	.init = do_init,
	.getattr = do_getattr,
	.open = do_open,
	.create = do_create,
	.release = do_release,
	.read = do_read,
	.write = do_write,
	.fsync = do_fsync,
	.fallocate = do_fallocate,
	.lseek = do_lseek,
	.truncate = do_truncate,
	.unlink = do_unlink,
};

/* Ends with the process that wanted it, and takes the mount along. */
static int serve(const char *at)
{
	char *argv[] = {"baddisk", "-o", "allow_other,fsname=baddisk", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	struct fuse_loop_config *how = fuse_loop_cfg_create();
	struct fuse *f = fuse_new(&args, &ops, sizeof(ops), NULL);
	int rc = -1;

	if (f && how && !fuse_mount(f, at)) {
		if (!fuse_set_signal_handlers(fuse_get_session(f)))
			rc = fuse_loop_mt(f, how);
		(void)umount2(at, MNT_DETACH); /* who ended it may have done so */
	}
	if (f)
		fuse_destroy(f);
	if (how)
		fuse_loop_cfg_destroy(how);
	return rc;
}

static int make_folder(const char *path)
{
	return mkdir(path, 0755) && errno != EEXIST ? -1 : 0;
}

static int is_mounted(const char *at)
{
	struct stat in, above;
	char parent[300];

	(void)snprintf(parent, sizeof(parent), "%s/..", at); /* fits */
	return !stat(at, &in) && !stat(parent, &above) && in.st_dev != above.st_dev;
}

static struct baddisk *all[2];

static void all_down(void)
{
	for (unsigned i = 0; i < 2; i++)
		if (all[i])
			baddisk_down(all[i]);
}

/* The process that serves; its mount is there when this returns. */
static int start(struct baddisk *b, const char *real)
{
	struct timespec ts = {.tv_nsec = 1000000};

	b->pid = fork();
	if (b->pid < 0)
		return -1;
	if (!b->pid) {
		(void)prctl(PR_SET_PDEATHSIG,
			    SIGTERM); /* best effort: it is ended by hand too */
		real_dir = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		knobs = b->knobs;
		_exit(real_dir < 0 || serve(b->at) ? 1 : 0);
	}
	for (int ms = 0; ms < UP_MS; ms++) {
		if (is_mounted(b->at))
			return 0;
		if (waitpid(b->pid, NULL, WNOHANG) == b->pid)
			break;
		(void)nanosleep(&ts, NULL); /* a shorter one is fine */
	}
	return -1;
}

int baddisk_up(struct baddisk *b, const char *real, const char *at)
{
	static int registered;

	memset(b, 0, sizeof(*b));
	(void)snprintf(b->at, sizeof(b->at), "%s", at); /* fits */
	b->knobs = mmap(NULL, sizeof(*b->knobs), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->knobs == MAP_FAILED || make_folder(real) || make_folder(at) ||
	    (!registered && atexit(all_down)) || start(b, real)) {
		(void)fprintf(stderr, "baddisk: %s cannot be mounted: %s\n", at,
			      strerror(errno));
		return -1;
	}
	registered = 1;
	all[all[0] ? 1 : 0] = b;
	return 0;
}

void baddisk_down(struct baddisk *b)
{
	if (b->pid <= 0)
		return;
	(void)umount2(b->at, MNT_DETACH); /* what cannot be is told by the next test */
	(void)kill(b->pid, SIGTERM);
	(void)waitpid(b->pid, NULL, 0); /* a child of ours */
	b->pid = 0;
}
