/* SPDX-License-Identifier: Apache-2.0
 * vhd_push - a new leaf for a chain that is in use: what was the leaf is only read from then on.
 *
 * The caller sees to it that nothing is written meanwhile (vhd_blk_hold(), or he is the only one who
 * writes), and that the files' names say the same on the disk before anything is written to the child.
 * Reads go on: each has found its file before, and none is closed here.
 */
#include "hv/vhd_impl.h"

#include "hv/base/err.h"

#include <errno.h>
#include <string.h>

static int check_child(const struct vhd_image *v, const struct vhd *child,
		       struct err *err)
{
	if (v->n == VHD_CHAIN_MAX)
		return err_set(err, -ELOOP, "a chain has at most %d images",
			       VHD_CHAIN_MAX);
	if (!v->write)
		return err_set(err, -EROFS, "the image is only read");
	if (child->type != VHD_DIFF ||
	    memcmp(child->header.parent_uuid, v->file[0]->footer.uuid, VHD_UUID_LEN) != 0)
		return err_set(err, -ESTALE, "the new file is no child of the image");
	if (child->capacity != v->capacity)
		return err_set(err, -ESTALE, "the new file has another size");
	if (child->allocated)
		return err_set(err, -ESTALE, "the new file is not empty");
	return 0;
}

int vhd_child_open(struct vhd_image *v, const struct vhd_part *part,
		   struct vhd **child_out, struct err *err)
{
	struct vhd *f;
	int rc = vhd_file_open(part->io, part->fd, part->mtime, NULL, &f, err);

	*child_out = NULL;
	if (rc)
		return rc;
	pthread_mutex_lock(&v->lock);
	rc = check_child(v, f, err);
	pthread_mutex_unlock(&v->lock);
	rc = rc ? rc : vhd_file_writable(f, err);
	if (rc)
		vhd_file_free(f);
	else
		*child_out = f;
	return rc;
}

void vhd_child_close(struct vhd *child)
{
	vhd_file_free(child);
}

int vhd_push(struct vhd_image *v, struct vhd *child, struct err *err)
{
	struct vhd *top;
	int rc;

	pthread_mutex_lock(&v->lock);
	while (v->committing || v->growing)
		pthread_cond_wait(&v->cond, &v->lock);
	top = v->file[0];
	rc = check_child(v, child, err);
	if (!rc && v->failed)
		rc = err_sys(err, v->failed, "a flush failed before");
	/* Nobody makes it durable later: a commit is the leaf's. */
	if (!rc && (top->any_bat_dirty || top->dirty || top->givens))
		rc = err_set(err, -EBUSY, "the image was written after it was flushed");
	if (!rc) {
		memmove(v->file + 1, v->file, v->n * sizeof(struct vhd *));
		v->file[0] = child;
		v->n++;
	}
	pthread_mutex_unlock(&v->lock);
	return rc;
}

int vhd_leaf_fd(struct vhd_image *v)
{
	int fd;

	pthread_mutex_lock(&v->lock);
	fd = v->file[0]->fd;
	pthread_mutex_unlock(&v->lock);
	return fd;
}
