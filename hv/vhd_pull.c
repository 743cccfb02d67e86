/* SPDX-License-Identifier: Apache-2.0
 * vhd_pull - a file leaves the chain while the chain is in use: what it has goes up into its child, which then is its
 * parent's child.
 *
 * Theory of operation. A range at a time is pulled. While it is, nobody else begins to write there, and whoever had
 * begun has ended: so what the guest wrote is never overwritten by what is older. Reads go on. In the
 * leaf nothing changes by it that anybody could read.
 *
 * Order on the disk: 1. the data, made durable by a commit as a guest's write is; 2. a new header behind everything,
 * which names the new parent; 3. the front footer, one sector, which makes it count; 4. whoever called removes
 * the file. A cut before 3 leaves the old chain, one after it the new one, both whole.
 */
#include "hv/vhd_impl.h"
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PULL_STEP = 256 << 10 };

static int is_zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

static void take_range(struct vhd_image *v, uint64_t off, uint64_t len)
{
	pthread_mutex_lock(&v->lock);
	while (v->committing)
		pthread_cond_wait(&v->cond, &v->lock);
	v->committing = 1;
	v->pull_off = off;
	v->pull_len = len;
	vhd_wait_for_strays(v);
	v->committing = 0;
	pthread_cond_broadcast(&v->cond);
	pthread_mutex_unlock(&v->lock);
}

static void free_range(struct vhd_image *v)
{
	pthread_mutex_lock(&v->lock);
	v->pull_len = 0;
	pthread_cond_broadcast(&v->cond);
	pthread_mutex_unlock(&v->lock);
}

static int has_block(struct vhd_image *v, uint64_t off)
{
	const struct vhd *f = v->file[0];
	int has;

	pthread_mutex_lock(&v->lock);
	has = f->bat[off / f->header.block_size] != VHD_UNUSED;
	pthread_mutex_unlock(&v->lock);
	return has;
}

/* [off, off + len), of which the leaf has nothing and the parent all, read into @buf. */
static int put(struct vhd_image *v, const uint8_t *buf, uint64_t off, uint64_t len,
	       int last)
{
	/* Without a parent, what is not there reads as zeroes by itself. */
	if (last && is_zero(buf, len) && !has_block(v, off))
		return 0;
	return vhd_write_sparse(v, buf, len, off, 1);
}

static int pull_range(struct vhd_image *v, uint64_t off, uint64_t len, uint8_t *buf)
{
	uint64_t end = off + len;
	int rc = 0, last = v->n == 2;
	struct vhd_seg seg;
	unsigned parity;

	take_range(v, off, len);
	for (; !rc && off < end; off += seg.len) {
		rc = vhd_map_wait(v, 0, off, end - off, &seg, &parity);
		if (rc)
			break;
		if (seg.level == 1)
			rc = img_read(seg.file->io, buf, seg.len, seg.at);
		vhd_io_end(v, &seg, parity);
		if (!rc && seg.level == 1)
			rc = put(v, buf, off, seg.len, last);
		else if (!rc && seg.level < 0 && last && has_block(v, off)) {
			/* Programs that look at no bitmaps of dynamic images shall see the same. */
			memset(buf, 0, seg.len);
			rc = vhd_write_sparse(v, buf, seg.len, off, 1);
		}
	}
	free_range(v);
	return rc;
}

int vhd_pull(struct vhd_image *v,
	     int (*pace)(void *arg, uint64_t bytes, uint64_t done, uint64_t all),
	     void *arg, struct err *err)
{
	uint64_t off = 0, len = 0, block;
	uint8_t *buf;
	int rc = 0;

	if (!v->write || v->n < 2 || v->file[0]->type != VHD_DIFF)
		return err_set(err, -EINVAL, "the image has no parent to be freed of");
	buf = malloc(PULL_STEP);
	if (!buf)
		return err_set(err, -ENOMEM, "out of memory");
	block = v->file[0]->header.block_size;
	for (; !rc && off < v->capacity; off += len) {
		/* Within one block of the leaf. */
		len = block - off % block < PULL_STEP ? block - off % block : PULL_STEP;
		len = len < v->capacity - off ? len : v->capacity - off;
		rc = pull_range(v, off, len, buf);
		if (rc)
			(void)err_sys(err, rc, "copying at %llu",
				      (unsigned long long)off); /* rc is returned */
		else if (pace)
			rc = pace(arg, len, off + len, v->capacity);
	}
	free(buf);
	if (!rc) {
		rc = vhd_commit(v);
		rc = rc ? err_sys(err, rc, "flushing what was copied") : 0;
	}
	return rc;
}

/* Nobody grows the file or flushes it meanwhile; no lock. */
static int put_parent(struct vhd *f, const struct vhd_create *c, struct err *err)
{
	struct vhd_header_wire w = f->header_wire;
	struct vhd_footer_wire foot = f->footer;
	uint64_t at = f->end, header_at = f->end;
	struct vhd_header h;
	int rc = vhd_write_header(f->io, c, &w, &at, err);

	rc = rc ? rc : vhd_header_parse(&w, &h, err);
	if (rc)
		return rc;
	foot.data_offset = be64_of(header_at);
	if (!c)
		foot.type = be32_of(VHD_DYNAMIC);
	vhd_footer_seal(&foot);
	rc = img_write(f->io, &foot, sizeof(foot), at);
	rc = rc ? rc : img_sync(f->io);
	/* From here on it counts. */
	rc = rc ? rc : img_write(f->io, &foot, sizeof(foot), 0);
	rc = rc ? rc : img_sync(f->io);
	if (rc)
		return err_sys(err, rc, "writing the new parent");
	f->header_wire = w;
	f->header = h;
	f->footer = foot;
	f->header_at = header_at;
	f->end = at;
	f->file_bytes = at + sizeof(foot);
	f->type = c ? VHD_DIFF : VHD_DYNAMIC;
	return 0;
}

int vhd_reparent(struct vhd_image *v, const struct vhd_create *c, struct err *err)
{
	int rc;

	pthread_mutex_lock(&v->lock);
	while (v->committing || v->growing)
		pthread_cond_wait(&v->cond, &v->lock);
	v->committing = v->growing = 1;
	pthread_mutex_unlock(&v->lock);
	rc = v->failed ? err_sys(err, v->failed, "a flush failed before")
		       : put_parent(v->file[0], c, err);
	pthread_mutex_lock(&v->lock);
	/* Nobody knows which of the two footers the disk has. */
	if (rc && !v->failed)
		v->failed = rc;
	v->committing = v->growing = 0;
	pthread_cond_broadcast(&v->cond);
	pthread_mutex_unlock(&v->lock);
	return rc;
}

/* Lock held: @n files from @level on leave the chain, and all I/O that may know them has ended. */
static void take_out(struct vhd_image *v, unsigned level, unsigned n, struct vhd **out)
{
	memcpy(out, v->file + level, n * sizeof(struct vhd *));
	memmove(v->file + level, v->file + level + n,
		(v->n - level - n) * sizeof(struct vhd *));
	v->n -= n;
	vhd_wait_for_strays(v);
}

static void begin(struct vhd_image *v)
{
	pthread_mutex_lock(&v->lock);
	while (v->committing || v->growing)
		pthread_cond_wait(&v->cond, &v->lock);
	v->committing = 1;
}

static void end(struct vhd_image *v)
{
	v->committing = 0;
	pthread_cond_broadcast(&v->cond);
	pthread_mutex_unlock(&v->lock);
}

int vhd_drop(struct vhd_image *v, int *fd_out, struct err *err)
{
	struct vhd *old = NULL;
	int rc = 0;

	begin(v);
	if (v->n < 2)
		rc = err_set(err, -EINVAL, "the image has no parent");
	else
		take_out(v, 1, 1, &old);
	end(v);
	if (old)
		*fd_out = old->fd;
	vhd_file_free(old);
	return rc;
}

int vhd_replace(struct vhd_image *v, unsigned level, struct vhd_image *c, int fd_out[2],
		struct err *err)
{
	struct vhd *old[2] = {NULL, NULL};
	int rc = 0;

	begin(v);
	if (!level || level + 1 >= v->n ||
	    memcmp(v->file[level]->footer.uuid, c->file[0]->footer.uuid, VHD_UUID_LEN) !=
		    0) {
		rc = err_set(err, -EINVAL, "the chain has changed meanwhile");
	} else {
		old[0] = v->file[level];
		v->file[level] = c->file[0];
		c->file[0] = NULL;
		c->write = 0; /* nothing of it is left to be flushed */
		take_out(v, level + 1, 1, &old[1]);
	}
	end(v);
	for (unsigned i = 0; i < 2; i++) {
		if (old[i])
			fd_out[i] = old[i]->fd;
		vhd_file_free(old[i]);
	}
	vhd_close(c);
	return rc;
}

int vhd_find(struct vhd_image *v, const uint8_t *uuid, int *fd_out)
{
	int at = -ENOENT;

	pthread_mutex_lock(&v->lock);
	for (unsigned i = 0; at < 0 && i < v->n; i++)
		if (!memcmp(v->file[i]->footer.uuid, uuid, VHD_UUID_LEN)) {
			at = (int)i;
			*fd_out = v->file[i]->fd;
		}
	pthread_mutex_unlock(&v->lock);
	return at;
}

unsigned vhd_files(struct vhd_image *v, int *fd)
{
	unsigned n;

	pthread_mutex_lock(&v->lock);
	for (n = 0; n < v->n; n++)
		fd[n] = v->file[n]->fd;
	pthread_mutex_unlock(&v->lock);
	return n;
}
