/* SPDX-License-Identifier: Apache-2.0
 * image_snap - chains of images: frozen, branched, thrown back, merged.
 */
#include "ctl/image_ops.h"

#include "ctl/image_chain.h"
#include "hv/base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A new empty child of @parent takes the name @path, in one step. */
static int replace_by_child(const char *path, const char *parent, struct err *err)
{
	struct image_new n = {.format = IMAGE_VHD, .type = VHD_DIFF, .parent = parent};
	char fresh[PATH_MAX];
	int len = snprintf(fresh, sizeof(fresh), "%s.new", path), rc;

	if (len < 0 || (size_t)len >= sizeof(fresh))
		return err_set(err, -ENAMETOOLONG, "%s", path);
	/* Of a time when this was broken off; nobody else makes such names. */
	if (unlink(fresh) && errno != ENOENT)
		return err_sys(err, -errno, "%s", fresh);
	rc = image_create(fresh, &n, err);
	if (!rc && rename(fresh, path))
		rc = err_sys(err, -errno, "%s", path);
	return rc ? rc : image_sync_dir(path, err);
}

/* The leaf is whole and nobody else writes it: mended and closed. */
static int settle(struct image_chain *chain, struct err *err)
{
	struct vhd_image *v;
	int rc = image_chain_use(chain, VHD_WRITE, &v, err);

	if (!rc)
		vhd_close(v);
	return rc;
}

static int same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(a, &x) && !stat(b, &y) && x.st_ino == y.st_ino &&
	       x.st_dev == y.st_dev;
}

/* The old file has both names until the new one takes the first of them. */
int image_snapshot(const char *path, const char *snap, struct err *err)
{
	struct image_chain chain;
	int rc = image_chain_open(path, IMAGE_WRITE, &chain, err);

	rc = rc ? rc : settle(&chain, err);
	if (!rc && link(path, snap) && (errno != EEXIST || !same_file(path, snap)))
		rc = err_sys(err, -errno, "%s", snap);
	rc = rc ? rc : image_sync_dir(snap, err);
	/* From here on it is read: by the child that is made. */
	image_chain_close(&chain);
	return rc ? rc : replace_by_child(path, snap, err);
}

static int in_chain(const struct image_chain *chain, const char *to)
{
	struct stat st;

	for (unsigned i = 1; !stat(to, &st) && i < chain->n; i++)
		if (chain->file[i].st.st_ino == st.st_ino &&
		    chain->file[i].st.st_dev == st.st_dev)
			return 1;
	return 0;
}

int image_revert(const char *path, const char *to, struct err *err)
{
	struct image_chain chain;
	struct vhd_info info;
	char name[VHD_PATH_MAX];
	int rc = image_chain_open(path, IMAGE_WRITE, &chain, err);

	rc = rc ? rc : vhd_probe(chain.part[0].io, &info, err);
	if (!rc && chain.n < 2)
		rc = err_set(err, -EINVAL, "%s has no parent to go back to", path);
	if (!rc && to && !in_chain(&chain, to))
		rc = err_set(err, -EINVAL, "%s is not below %s", to, path);
	if (!rc && image_has_child(path, info.uuid, path, name))
		rc = err_set(err, -EBUSY, "%s is the parent of %s, which would be lost",
			     path, name);
	/* The lock on the old file is kept until the new one has its name. */
	rc = rc ? rc : replace_by_child(path, to ? to : chain.file[1].path, err);
	image_chain_close(&chain);
	return rc;
}

/* Merged into the folder of its child, it has another way to its own parent. */
static int follow(struct image_chain *chain, struct err *err)
{
	char absolute[PATH_MAX], relative[VHD_PATH_MAX];
	struct vhd_create c = {0};
	struct vhd_info info;
	int rc;

	if (chain->n < 3)
		return 0;
	rc = vhd_probe(chain->part[2].io, &info, err);
	if (rc)
		return rc;
	if (!realpath(chain->file[2].path, absolute))
		return err_sys(err, -errno, "%s", chain->file[2].path);
	rc = image_relative(chain->file[0].path, absolute, relative, sizeof(relative));
	if (rc)
		return err_sys(err, rc, "%s", absolute);
	c.parent_uuid = info.uuid;
	c.parent_mtime = chain->part[2].mtime;
	c.parent_path = absolute;
	c.parent_relative = relative;
	return vhd_set_parent(chain->part[1].io, &c, err);
}

/* The merged parent becomes the child in all that others know it by: identity, time of its last change,
 * name. So children of the child stay whole. */
static int succeed(struct image_chain *chain, const uint8_t *uuid,
		   const struct vhd_mark *mark, struct err *err)
{
	const struct image_file *child = &chain->file[0], *parent = &chain->file[1];
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT},
				{.tv_sec = mark->seconds, .tv_nsec = mark->nanos}};
	int rc = follow(chain, err);

	rc = rc ? rc : vhd_take_over(chain->part[1].io, uuid, err);
	if (rc)
		return rc;
	if (futimens(parent->fd, t) || fsync(parent->fd))
		return err_sys(err, -errno, "%s", parent->path);
	if (rename(parent->path, child->path))
		return err_sys(err, -errno, "%s becomes %s", parent->path, child->path);
	rc = image_sync_dir(child->path, err);
	return rc ? rc : image_sync_dir(parent->path, err);
}

int image_coalesce(const char *path, image_progress *progress, void *arg, struct err *err)
{
	struct vhd_info child, parent;
	struct image_chain chain;
	struct vhd_mark mark = {0};
	char name[VHD_PATH_MAX];
	int rc = image_chain_open(path, IMAGE_WRITE | IMAGE_WRITE_PARENT, &chain, err);

	if (!rc && chain.n < 2)
		rc = err_set(err, -EINVAL, "%s has no parent to be merged into", path);
	rc = rc ? rc : vhd_probe(chain.part[0].io, &child, err);
	rc = rc ? rc : vhd_probe(chain.part[1].io, &parent, err);
	if (!rc && image_has_child(chain.file[1].path, parent.uuid, path, name) &&
	    memcmp(parent.uuid, child.uuid, VHD_UUID_LEN) != 0)
		rc = err_set(err, -EBUSY,
			     "%s is the parent of %s, too, which would be lost",
			     chain.file[1].path, name);
	if (!rc && !child.merging)
		rc = settle(&chain, err);
	if (!rc) {
		mark.seconds = chain.file[0].st.st_mtim.tv_sec;
		mark.nanos = (uint32_t)chain.file[0].st.st_mtim.tv_nsec;
		rc = vhd_set_mark(chain.part[0].io, &mark, err);
	}
	rc = rc ? rc : vhd_merge(chain.part, chain.n, progress, arg, err);
	rc = rc ? rc : succeed(&chain, child.uuid, &mark, err);
	image_chain_close(&chain);
	return rc ? err_ctx(err, "%s", path) : 0;
}
