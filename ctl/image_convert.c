/* SPDX-License-Identifier: Apache-2.0
 * image_convert - from one image format to another.
 *
 * Raw and VHD are read and written by our own code. Others are read and written by qemu-img, run as a program
 * on a sparse raw file beside the target. It is always told the format, never left to find one out, and
 * an image that refers to other files is refused: it could name any file of this host.
 */
#include "ctl/image_ops.h"

#include "ctl/image_chain.h"
#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *const qemu_name[] = {
	[IMAGE_RAW] = "raw",
	[IMAGE_VHD] = "vpc",
	[IMAGE_QCOW2] = "qcow2",
	[IMAGE_VMDK] = "vmdk",
};

/* An image that is read or written by our own code. */
struct side {
	struct image_chain chain; /* of a VHD */
	int fd;			  /* of a raw image; -1: none */
	struct vhd_image *v;
	struct img img;
	uint64_t bytes;
};

static int open_side(struct side *s, const char *path, enum image_format format,
		     int write, struct err *err)
{
	int rc;

	s->fd = -1;
	s->chain.n = 0;
	s->v = NULL;
	if (format == IMAGE_RAW) {
		s->fd = image_open(path, write, err);
		rc = s->fd < 0 ? s->fd : 0;
		s->img = img_of_fd(s->fd);
	} else {
		rc = image_chain_open(path, write ? IMAGE_WRITE : 0, &s->chain, err);
		rc = rc ? rc
			: image_chain_use(&s->chain, write ? VHD_WRITE : 0, &s->v, err);
		if (!rc)
			s->img = vhd_img(s->v);
	}
	rc = rc ? rc : img_size(s->img, &s->bytes);
	return rc && !err->code ? err_sys(err, rc, "%s", path) : rc;
}

static void close_side(struct side *s)
{
	vhd_close(s->v);
	image_chain_close(&s->chain);
	if (s->fd >= 0)
		(void)close(s->fd); /* what was written was made durable before */
}

/* A raw image may end within a sector; the disk does not. */
static uint64_t in_sectors(uint64_t bytes)
{
	return (bytes + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
}

static int copy(const char *from, enum image_format from_format, const char *to,
		enum image_format to_format, const struct image_new *n,
		image_progress *progress, void *arg, struct err *err)
{
	static struct side a, b; /* large; one thread, one command */
	struct image_new create = *n;
	int rc = open_side(&a, from, from_format, 0, err);

	b.fd = -1;
	b.chain.n = 0;
	b.v = NULL;
	if (!rc) {
		create.format = to_format;
		create.size = in_sectors(a.bytes);
		rc = image_create(to, &create, err);
	}
	if (!rc) {
		rc = open_side(&b, to, to_format, 1, err);
		rc = rc ? rc
			: img_copy(a.img, b.img, a.bytes - a.bytes % VHD_SECTOR, progress,
				   arg, err);
		if (rc && unlink(to))
			/* The first error is told. */
			errno = 0;
	}
	close_side(&b);
	close_side(&a);
	return rc;
}

/* Run it; its output goes to @out_fd, or with ours if that is -1. */
static int run(const char *const argv[], int out_fd, struct err *err)
{
	posix_spawn_file_actions_t fa;
	int r, status = 0;
	pid_t pid;

	posix_spawn_file_actions_init(&fa); /* with glibc: cannot fail */
	r = out_fd >= 0 ? posix_spawn_file_actions_adddup2(&fa, out_fd, STDOUT_FILENO)
			: 0;
	if (!r)
		r = posix_spawnp(&pid, argv[0], &fa, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (r)
		return err_sys(err, -r, "%s (Debian's qemu-utils has it)", argv[0]);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, -errno, "%s", argv[0]);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(err, -EIO, "%s %s failed", argv[0], argv[1]);
	return 0;
}

/* What qemu-img says of an image; owned. */
static json_t *describe(const char *path, const char *format, struct err *err)
{
	const char *const argv[] = {
		"qemu-img", "info", "--output=json", "-f", format, "--", path, NULL};
	json_t *o = NULL;
	FILE *f = tmpfile();

	if (!f) {
		(void)err_sys(err, -errno, "a temporary file"); /* NULL tells it */
		return NULL;
	}
	if (!run(argv, fileno(f), err)) {
		rewind(f);
		o = json_loadf(f, 0, NULL);
		if (!o)
			(void)err_set(err, -EBADMSG, "%s: qemu-img's description", path);
	}
	(void)fclose(f); /* it was only for reading back */
	return o;
}

static json_t *at(json_t *o, const char *a, const char *b, const char *c)
{
	return json_object_get(json_object_get(json_object_get(o, a), b), c);
}

/* Does it refer to another file than itself? */
static int refers(json_t *o, const char *path)
{
	json_t *extents = at(o, "format-specific", "data", "extents"), *e;
	size_t i;

	if (json_object_get(o, "backing-filename") ||
	    at(o, "format-specific", "data", "data-file"))
		return 1;
	json_array_foreach(extents, i, e)
	{
		const char *name = json_string_value(json_object_get(e, "filename"));

		if (name && strcmp(name, path) != 0)
			return 1;
	}
	return 0;
}

static int check_foreign(const char *path, enum image_format format, struct err *err)
{
	json_t *o = describe(path, qemu_name[format], err);
	int rc =
		!o ? err->code
		: refers(o, path)
			? err_set(err, -EINVAL,
				  "%s refers to other files: make one image of them first",
				  path)
			: 0;

	json_decref(o);
	return rc;
}

static int foreign_convert(const char *from, enum image_format from_format,
			   const char *to, enum image_format to_format, struct err *err)
{
	const char *const argv[] = {"qemu-img",
				    "convert",
				    "-q",
				    "-f",
				    qemu_name[from_format],
				    "-O",
				    qemu_name[to_format],
				    "--",
				    from,
				    to,
				    NULL};
	int fd, rc = run(argv, -1, err);

	if (rc)
		return rc;
	fd = open(to, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		rc = err_sys(err, -errno, "%s", to);
	if (fd >= 0)
		(void)close(fd); /* fsync told all errors */
	return rc ? rc : image_sync_dir(to, err);
}

static int is_foreign(enum image_format f)
{
	return f != IMAGE_RAW && f != IMAGE_VHD;
}

int image_convert(const char *from, enum image_format from_format, const char *to,
		  enum image_format to_format, const struct image_new *n,
		  image_progress *progress, void *arg, struct err *err)
{
	const struct image_new raw = {.format = IMAGE_RAW};
	char tmp[PATH_MAX];
	int len = snprintf(tmp, sizeof(tmp), "%s.raw-%d", to, (int)getpid()), lock,
	    rc = 0;

	if (len < 0 || (size_t)len >= sizeof(tmp))
		return err_set(err, -ENAMETOOLONG, "%s", to);
	if (!is_foreign(from_format) && !is_foreign(to_format))
		return copy(from, from_format, to, to_format, n, progress, arg, err);
	if (!access(to, F_OK))
		return err_set(err, -EEXIST, "%s is there already", to);
	lock = image_open(from, 0, err);
	if (lock < 0)
		return lock;
	if (is_foreign(from_format)) {
		rc = check_foreign(from, from_format, err);
		rc = rc ? rc : foreign_convert(from, from_format, tmp, IMAGE_RAW, err);
	} else {
		rc = copy(from, from_format, tmp, IMAGE_RAW, &raw, progress, arg, err);
	}
	if (!rc && is_foreign(to_format))
		rc = foreign_convert(tmp, IMAGE_RAW, to, to_format, err);
	else if (!rc)
		rc = copy(tmp, IMAGE_RAW, to, to_format, n, progress, arg, err);
	if (unlink(tmp) && errno != ENOENT && !rc)
		rc = err_sys(err, -errno, "%s", tmp);
	(void)close(lock); /* nothing was written through it */
	return rc;
}
