/* SPDX-License-Identifier: Apache-2.0
 * image_export - opens what is to be exported, and tells what changed in it.
 */
#include "ctl/image_export.h"

#include "hv/base/err.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The number of the file @since in the chain, not the leaf's. */
static int find_since(struct image_export *x, const char *since, struct err *err)
{
	const char *leaf = x->chain.file[0].path;
	struct stat st;

	if (stat(since, &st))
		return err_sys(err, -errno, "%s", since);
	for (unsigned i = 1; i < x->chain.n; i++)
		if (x->chain.file[i].st.st_ino == st.st_ino &&
		    x->chain.file[i].st.st_dev == st.st_dev) {
			x->since = i;
			return 0;
		}
	return err_set(err, -EINVAL,
		       "%s is none of the parents of %s: make a full backup", since,
		       leaf);
}

static int open_raw(struct image_export *x, const char *path, const char *since,
		    struct err *err)
{
	int rc;

	if (since)
		return err_set(err, -EINVAL, "%s: a raw image has no parents", path);
	x->fd = image_open(path, 0, err);
	if (x->fd < 0)
		return x->fd;
	rc = image_looks_like_vhd(x->fd);
	if (rc)
		return rc < 0 ? err_sys(err, rc, "%s", path)
			      : err_set(err, -EINVAL,
					"%s looks like a VHD image, not a raw one", path);
	rc = img_size(img_of_fd(x->fd), &x->bytes);
	return rc ? err_sys(err, rc, "%s", path) : 0;
}

int image_export_open(struct image_export *x, const char *path, int raw,
		      const char *since, struct err *err)
{
	int rc;

	x->chain.n = 0;
	x->v = NULL;
	x->fd = -1;
	x->since = 0;
	if (raw)
		return open_raw(x, path, since, err);
	rc = image_chain_open(path, 0, &x->chain, err);
	rc = rc ? rc : image_chain_use(&x->chain, 0, &x->v, err);
	if (rc)
		return rc;
	x->bytes = vhd_capacity(x->v);
	x->since = x->chain.n;
	return since ? find_since(x, since, err) : 0;
}

void image_export_close(struct image_export *x)
{
	vhd_close(x->v);
	x->v = NULL;
	image_chain_close(&x->chain);
	if (x->fd >= 0)
		(void)close(x->fd); /* nothing was written through it */
	x->fd = -1;
}

int image_export_changed(struct image_export *x,
			 int (*run)(void *arg, uint64_t at, uint64_t len, int zero),
			 void *arg, struct err *err)
{
	enum vhd_extent_kind kind, last = VHD_UNCHANGED;
	uint64_t at = 0, from = 0, n;
	int rc = 0;

	/* Runs of one kind that follow each other in different blocks are one. */
	for (; !rc && at < x->bytes; at += n) {
		rc = vhd_extent(x->v, x->since, at, x->bytes - at, &kind, &n);
		if (rc)
			return err_sys(err, rc, "%s: at %llu", x->chain.file[0].path,
				       (unsigned long long)at);
		if (kind == last)
			continue;
		if (last != VHD_UNCHANGED)
			rc = run(arg, from, at - from, last == VHD_ZERO);
		last = kind;
		from = at;
	}
	if (!rc && last != VHD_UNCHANGED)
		rc = run(arg, from, at - from, last == VHD_ZERO);
	return rc ? err_sys(err, rc, "telling what changed") : 0;
}
