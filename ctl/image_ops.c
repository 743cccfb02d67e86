/* SPDX-License-Identifier: Apache-2.0
 * image_ops - images made, checked, mended and resized.
 */
#include "ctl/image_ops.h"

#include "ctl/image_chain.h"
#include "hv/base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int refuse_parent(const char *path, const uint8_t *uuid, struct err *err)
{
	char name[VHD_PATH_MAX];

	return image_has_child(path, uuid, path, name)
		       ? err_set(err, -EBUSY,
				 "%s is the parent of %s, which would be lost", path,
				 name)
		       : 0;
}

/* @c for a child at @path of the open image @parent; its strings are in @absolute and @relative. */
static int name_parent(const char *path, struct image_chain *parent,
		       struct vhd_info *info, struct vhd_create *c, char *absolute,
		       char *relative, struct err *err)
{
	int rc = vhd_probe(parent->part[0].io, info, err);

	if (rc)
		return err_ctx(err, "%s", parent->file[0].path);
	if (!realpath(parent->file[0].path, absolute))
		return err_sys(err, -errno, "%s", parent->file[0].path);
	rc = image_relative(path, absolute, relative, VHD_PATH_MAX);
	if (rc)
		return err_sys(err, rc, "%s, as seen from %s", absolute, path);
	c->parent_uuid = info->uuid;
	c->parent_mtime = (int64_t)parent->file[0].st.st_mtim.tv_sec;
	c->parent_path = absolute;
	c->parent_relative = relative;
	if (!c->size)
		c->size = info->capacity;
	return 0;
}

static int create_vhd(int fd, const char *path, const struct image_new *n,
		      struct err *err)
{
	struct vhd_create c = {.type = n->type,
			       .size = n->size,
			       .block_size = n->block_size,
			       .now = time(NULL)};
	char absolute[PATH_MAX], relative[VHD_PATH_MAX];
	struct image_chain chain = {0};
	struct vhd_image *v = NULL;
	struct vhd_info info;
	int rc = 0;

	if (n->type == VHD_DIFF) {
		/* All of the chain is there and whole, or the child would be of no use. */
		rc = image_chain_open(n->parent, 0, &chain, err);
		rc = rc ? rc : image_chain_use(&chain, 0, &v, err);
		vhd_close(v);
		rc = rc ? rc
			: name_parent(path, &chain, &info, &c, absolute, relative, err);
	}
	rc = rc ? rc : vhd_create(img_of_fd(fd), &c, err);
	image_chain_close(&chain);
	return rc;
}

int image_create(const char *path, const struct image_new *n, struct err *err)
{
	int fd = image_new_file(path, err), rc;

	if (fd < 0)
		return fd;
	if (n->format == IMAGE_VHD)
		rc = create_vhd(fd, path, n, err);
	else if (!n->size || n->size % VHD_SECTOR)
		rc = err_set(err, -EINVAL, "%s: a size in whole sectors is needed", path);
	else
		rc = img_resize(img_of_fd(fd), n->size) || fsync(fd)
			     ? err_sys(err, -errno, "%s", path)
			     : 0;
	if (close(fd) && !rc)
		rc = err_sys(err, -errno, "%s", path);
	rc = rc ? rc : image_sync_dir(path, err);
	if (rc && unlink(path))
		/* The first error is told; a file without a footer is no image. */
		return rc;
	return rc;
}

int image_check(const char *path, struct vhd_report *out, struct err *err)
{
	struct image_chain chain;
	struct vhd_image *v = NULL;
	int rc = image_chain_open(path, IMAGE_ALONE, &chain, err);

	rc = rc && !chain.n ? rc : vhd_check(chain.part[0].io, out, err);
	image_chain_close(&chain);
	if (rc)
		return err_ctx(err, "%s", path);
	if (!vhd_report_clean(out) || out->merging)
		return 0;
	/* By itself it is whole; and with its parents? */
	rc = image_chain_open(path, 0, &chain, err);
	rc = rc ? rc : image_chain_use(&chain, 0, &v, err);
	vhd_close(v);
	image_chain_close(&chain);
	return rc;
}

static int adopt(struct image_chain *chain, const char *parent, struct err *err)
{
	const char *path = chain->file[0].path;
	char absolute[PATH_MAX], relative[VHD_PATH_MAX];
	struct image_chain p;
	struct vhd_create c = {.size = VHD_SECTOR};
	struct vhd_info info;
	int rc = image_chain_open(parent, 0, &p, err);

	rc = rc ? rc : name_parent(path, &p, &info, &c, absolute, relative, err);
	rc = rc ? rc : vhd_set_parent(chain->part[0].io, &c, err);
	image_chain_close(&p);
	return rc;
}

int image_repair(const char *path, const char *parent, struct vhd_report *out,
		 struct err *err)
{
	struct image_chain chain;
	int fd, rc = image_chain_open(path, IMAGE_WRITE | IMAGE_ALONE, &chain, err);

	/* It need not be readable as it is. */
	if (rc && chain.n)
		*err = (struct err){0};
	fd = chain.n ? chain.file[0].fd : -1;
	if (fd >= 0) {
		rc = vhd_repair(img_of_fd(fd), out, err);
		rc = rc || !parent ? rc : adopt(&chain, parent, err);
	}
	image_chain_close(&chain);
	return rc ? err_ctx(err, "%s", path) : 0;
}

static int resize_raw(const char *path, uint64_t size, int shrink, struct err *err)
{
	int fd = image_open(path, 1, err), rc;
	uint64_t now;

	if (fd < 0)
		return fd;
	rc = img_size(img_of_fd(fd), &now);
	if (rc)
		rc = err_sys(err, rc, "%s", path);
	else if (image_looks_like_vhd(fd))
		rc = err_set(err, -EINVAL, "%s looks like a VHD image, not a raw one",
			     path);
	else if (size < now && !shrink)
		rc = err_set(
			err, -EINVAL,
			"%llu bytes are less than the %llu that it has; say --shrink "
			"if that is meant",
			(unsigned long long)size, (unsigned long long)now);
	else if (size < now && img_data(img_of_fd(fd), size) < now)
		rc = err_set(err, -ENOTEMPTY, "what would be cut off is not a hole");
	else if (img_resize(img_of_fd(fd), size) || fsync(fd))
		rc = err_sys(err, -errno, "%s", path);
	(void)close(fd); /* fsync told all errors */
	return rc;
}

int image_resize(const char *path, enum image_format format, uint64_t size, int shrink,
		 struct err *err)
{
	struct image_chain chain;
	struct vhd_info info;
	int rc;

	if (format == IMAGE_RAW)
		return resize_raw(path, size, shrink, err);
	rc = image_chain_open(path, IMAGE_WRITE, &chain, err);
	rc = rc ? rc : vhd_probe(chain.part[0].io, &info, err);
	rc = rc ? rc : refuse_parent(path, info.uuid, err);
	rc = rc ? rc : vhd_resize(chain.part, chain.n, size, shrink, err);
	image_chain_close(&chain);
	return rc ? err_ctx(err, "%s", path) : 0;
}
