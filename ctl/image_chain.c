/* SPDX-License-Identifier: Apache-2.0
 * image_chain - finds, opens and locks the files of a VHD chain.
 */
#include "ctl/image_chain.h"

#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

int image_open(const char *path, int write, struct err *err)
{
	struct stat st, now;
	int fd, rc = 0;

	do {
		fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			return err_sys(err, -errno, "%s", path);
		if (flock(fd, (write ? LOCK_EX : LOCK_SH) | LOCK_NB))
			rc = errno == EWOULDBLOCK
				     ? err_set(err, -EBUSY,
					       "%s is in use by a VM or another program",
					       path)
				     : err_sys(err, -errno, "%s: lock", path);
		else if (fstat(fd, &st) || stat(path, &now))
			rc = err_sys(err, -errno, "%s", path);
		else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
			rc = err_set(err, -EINVAL,
				     "%s is neither a file nor a block device", path);
		/* A queue or terminal must not hold us up; of a file, the ring would not wait. */
		else if (fcntl(fd, F_SETFL, 0) < 0)
			rc = err_sys(err, -errno, "%s", path);
		else if (st.st_ino == now.st_ino && st.st_dev == now.st_dev)
			return fd;
		/* Else another file was put in its place between the two. */
		(void)close(fd); /* nothing was written through it */
	} while (!rc);
	return rc;
}

int image_looks_like_vhd(int fd)
{
	static const char cookie[8] = "conectix";
	char b[sizeof(cookie)];
	struct img io = img_of_fd(fd);
	uint64_t size, at[3], n = 1;
	int rc = img_size(io, &size);

	if (rc || size < VHD_SECTOR)
		return rc;
	at[0] = 0;
	at[n++] = size - VHD_SECTOR;
	at[n++] = size - VHD_SECTOR + 1; /* the short footer of the oldest makers */
	for (unsigned i = 0; i < n; i++) {
		rc = img_read(io, b, sizeof(b), at[i]);
		if (rc || !memcmp(b, cookie, sizeof(b)))
			return rc ? rc : 1;
	}
	return 0;
}

static int add(struct image_chain *c, const char *path, int write, struct err *err)
{
	struct image_file *f = &c->file[c->n];
	int fd;

	if (c->n == VHD_CHAIN_MAX)
		return err_set(err, -ELOOP, "%s: a chain has at most %d images",
			       c->file[0].path, VHD_CHAIN_MAX);
	if (strlen(path) >= sizeof(f->path))
		return err_set(err, -ENAMETOOLONG, "%s", path);
	fd = image_open(path, write, err);
	if (fd < 0)
		return fd;
	f->fd = fd;
	memcpy(f->path, path, strlen(path) + 1);
	c->n++;
	if (fstat(fd, &f->st))
		return err_sys(err, -errno, "%s", path);
	if (!S_ISREG(f->st.st_mode))
		return err_set(err, -EINVAL, "%s: a VHD image is a file", path);
	for (unsigned i = 0; i + 1 < c->n; i++)
		if (c->file[i].st.st_ino == f->st.st_ino &&
		    c->file[i].st.st_dev == f->st.st_dev)
			return err_set(err, -ELOOP, "%s is its own parent", path);
	c->part[c->n - 1] =
		(struct vhd_part){img_of_fd(fd), fd, (int64_t)f->st.st_mtim.tv_sec};
	return 0;
}

static void drop_last(struct image_chain *c)
{
	(void)close(c->file[--c->n].fd); /* nothing was written through it */
}

/* @path as the child in @dir means it. */
static int place(const char *dir, const char *path, char *out, size_t room)
{
	int n;

	while (path[0] == '.' && path[1] == '/' && path[2] != '/')
		path += 2;
	n = path[0] == '/' ? snprintf(out, room, "%s", path)
			   : snprintf(out, room, "%s/%s", dir, path);

	return n < 0 || (size_t)n >= room ? -ENAMETOOLONG : 0;
}

/* Is there, at @path, the image that the child was made from? 1, 0 (with the reason in @err), or -errno for
 * what must not be passed over. */
static int try_parent(struct image_chain *c, const struct vhd_info *child, int write,
		      const char *path, struct err *err)
{
	unsigned n = c->n;
	struct vhd_info info;
	int rc;

	if (access(path, F_OK))
		return 0;
	rc = add(c, path, write, err);
	if (!rc)
		rc = vhd_probe(c->part[n].io, &info, err);
	if (rc) {
		while (c->n > n)
			drop_last(c);
		return rc == -EBUSY || rc == -ELOOP ? rc : 0;
	}
	if (!memcmp(info.uuid, child->parent_uuid, VHD_UUID_LEN))
		return 1;
	/* The end of a merge that was broken off: it bears the child's own name. */
	if (child->merging && !memcmp(info.uuid, child->uuid, VHD_UUID_LEN))
		return 1;
	drop_last(c);
	(void)err_set(err, -ESTALE, "%s is another image", path); /* 0 is returned */
	return 0;
}

static int find_parent(struct image_chain *c, const struct vhd_info *child, int write,
		       struct err *err)
{
	char self[VHD_PATH_MAX], try[VHD_PATH_MAX + 1];
	struct err why = {0};
	const char *dir, *slash;
	int r = 0;

	memcpy(self, c->file[c->n - 1].path, sizeof(self));
	dir = dirname(self);
	for (unsigned i = 0; !r && i < child->parent_paths; i++)
		if (!place(dir, child->parent_path[i], try, sizeof(try)))
			r = try_parent(c, child, write, try, &why);
	/* Moved together with its child: under its name, beside it. */
	for (unsigned i = 0; !r && i < child->parent_paths; i++) {
		slash = strrchr(child->parent_path[i], '/');
		if (slash && slash[1] && !place(dir, slash + 1, try, sizeof(try)))
			r = try_parent(c, child, write, try, &why);
	}
	if (!r && child->parent_name[0] && !strchr(child->parent_name, '/') &&
	    !place(dir, child->parent_name, try, sizeof(try)))
		r = try_parent(c, child, write, try, &why);
	if (r > 0)
		return 0;
	if (r < 0) {
		*err = why;
		return r;
	}
	return err_set(err, -ENOENT, "%s: its parent %s is missing%s%s",
		       c->file[c->n - 1].path,
		       child->parent_name[0] ? child->parent_name : "(no name)",
		       why.code ? ": " : "", why.code ? why.msg : "");
}

int image_chain_open(const char *path, unsigned flags, struct image_chain *c,
		     struct err *err)
{
	static const struct image_chain none;
	struct vhd_info info;
	int rc;

	*c = none;
	rc = add(c, path, !!(flags & IMAGE_WRITE), err);
	while (!rc) {
		rc = vhd_probe(c->part[c->n - 1].io, &info, err);
		if (rc)
			return err_ctx(err, "%s", c->file[c->n - 1].path);
		if (info.type != VHD_DIFF || flags & IMAGE_ALONE)
			return 0;
		rc = find_parent(c, &info, c->n == 1 && flags & IMAGE_WRITE_PARENT, err);
	}
	return rc;
}

int image_chain_use(const struct image_chain *c, unsigned flags, struct vhd_image **v_out,
		    struct err *err)
{
	int rc = vhd_open(c->part, c->n, flags, v_out, err);

	return rc ? err_ctx(err, "%s", c->file[0].path) : 0;
}

void image_chain_close(struct image_chain *c)
{
	while (c->n)
		drop_last(c);
}
