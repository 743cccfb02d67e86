/* SPDX-License-Identifier: Apache-2.0
 * vhd_open - files become a chain: each is held against what its child says of it.
 */
#include "hv/vhd_impl.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int is_merging(const struct vhd *f)
{
	return be64_get(f->footer.mark) == VHD_MARK_MERGING;
}

static int check_parent(const struct vhd *child, const struct vhd *parent, unsigned flags,
			struct err *err)
{
	/* While it is merged, the parent changes, and in the end takes the child's name. */
	if (is_merging(child) && flags & VHD_MERGING)
		return !memcmp(parent->footer.uuid, child->header.parent_uuid,
			       VHD_UUID_LEN) ||
				       !memcmp(parent->footer.uuid, child->footer.uuid,
					       VHD_UUID_LEN)
			       ? 0
			       : err_set(err, -ESTALE, "the parent is another image");
	if (memcmp(parent->footer.uuid, child->header.parent_uuid, VHD_UUID_LEN) != 0)
		return err_set(err, -ESTALE,
			       "the parent is another image than the one that it was "
			       "made from");
	if (vhd_time(parent->mtime) != child->header.parent_time &&
	    !(flags & VHD_ANY_PARENT))
		return err_set(
			err, -ESTALE,
			"the parent was changed after this image was made from it");
	return 0;
}

/* Each file with its parent; the last one needs none. */
static int check_chain(struct vhd_image *v, unsigned flags, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < v->n; i++) {
		int diff = v->file[i]->type == VHD_DIFF, last = i + 1 == v->n;

		/* Under one that is being merged, a chain is not what it was. */
		if (is_merging(v->file[i]) && (i || !(flags & VHD_MERGING)))
			return err_set(
				err, -EBUSY,
				"file %u of the chain is being merged into its parent: "
				"finish it with rheactl image coalesce",
				i);
		if (diff && last)
			return err_set(err, -ENOENT, "its parent is missing");
		if (!diff && !last)
			return err_set(
				err, -EINVAL,
				"file %u of the chain has no parent, but one is given",
				i);
		for (unsigned k = 0; k < i; k++)
			if (!memcmp(v->file[k]->footer.uuid, v->file[i]->footer.uuid,
				    VHD_UUID_LEN) &&
			    !(flags & VHD_MERGING))
				return err_set(
					err, -ELOOP,
					"files %u and %u of the chain are the same "
					"image",
					k, i);
		if (diff)
			rc = check_parent(v->file[i], v->file[i + 1], flags, err);
	}
	return rc;
}

int vhd_open(const struct vhd_part *part, unsigned n, unsigned flags,
	     struct vhd_image **out, struct err *err)
{
	struct vhd_image *v = calloc(1, sizeof(*v));
	int rc = 0;

	*out = NULL;
	if (!v)
		return err_set(err, -ENOMEM, "VHD: out of memory");
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->cond, NULL);
	if (!n || n > VHD_CHAIN_MAX)
		rc = err_set(err, -EINVAL, "VHD: a chain of %u files is not in 1 to %d",
			     n, VHD_CHAIN_MAX);
	for (; !rc && v->n < n; v->n += !rc) {
		const struct vhd_part *p = &part[v->n];

		rc = vhd_file_open(p->io, p->fd, p->mtime, NULL, &v->file[v->n], err);
		if (rc)
			(void)err_ctx(err, "VHD, file %u of the chain", v->n);
	}
	rc = rc ? rc : check_chain(v, flags, err);
	if (!rc && flags & VHD_WRITE) {
		rc = vhd_file_writable(v->file[0], err);
		v->write = !rc;
	}
	if (rc) {
		vhd_close(v);
		return rc;
	}
	v->capacity = v->file[0]->capacity;
	*out = v;
	return 0;
}

void vhd_close(struct vhd_image *v)
{
	if (!v)
		return;
	/* Who wants to hear of errors has flushed before. */
	(void)vhd_commit(v);
	for (unsigned i = 0; i < v->n; i++)
		vhd_file_free(v->file[i]);
	pthread_cond_destroy(&v->cond);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

uint64_t vhd_capacity(const struct vhd_image *v)
{
	return v->capacity;
}

/* Locators in the order in which they should be tried. */
static void read_locators(const struct vhd *f, struct vhd_info *out)
{
	static const uint32_t order[] = {VHD_LOC_W2RU, VHD_LOC_MACX, VHD_LOC_W2KU};
	uint8_t bytes[2 * VHD_PATH_MAX];

	for (unsigned k = 0; k < sizeof(order) / sizeof(order[0]); k++)
		for (unsigned i = 0; i < VHD_LOCATORS; i++) {
			const struct vhd_locator *l = &f->header.locator[i];
			char *path = out->parent_path[out->parent_paths];

			if (l->code != order[k] || !l->len || l->len > sizeof(bytes) ||
			    !vhd_file_has(f, l->offset, l->len) ||
			    img_read(f->io, bytes, l->len, l->offset) ||
			    vhd_locator_path(l->code, bytes, l->len, path, VHD_PATH_MAX))
				continue;
			out->parent_paths++;
		}
}

static void fill_info(const struct vhd *f, struct vhd_info *out)
{
	*out = (struct vhd_info){
		.type = f->type,
		.capacity = f->capacity,
		.file_bytes = f->file_bytes,
		.block_size = f->header.block_size,
		.entries = f->header.entries,
		.allocated = f->allocated,
		.parent_time = f->header.parent_time,
		.merging = is_merging(f),
		.footer_mended = f->front_bad || f->end_bad,
	};
	memcpy(out->creator, f->footer.creator, sizeof(f->footer.creator));
	memcpy(out->uuid, f->footer.uuid, VHD_UUID_LEN);
	if (f->type != VHD_DIFF)
		return;
	memcpy(out->parent_uuid, f->header.parent_uuid, VHD_UUID_LEN);
	/* Without it the locators still say where it is. */
	if (vhd_name_get(&f->header_wire, out->parent_name, sizeof(out->parent_name)))
		out->parent_name[0] = 0;
	read_locators(f, out);
}

int vhd_probe(struct img io, struct vhd_info *out, struct err *err)
{
	struct vhd *f;
	int rc = vhd_file_open(io, -1, 0, NULL, &f, err);

	if (rc)
		return rc;
	fill_info(f, out);
	vhd_file_free(f);
	return 0;
}

void vhd_info(struct vhd_image *v, struct vhd_info *out)
{
	pthread_mutex_lock(&v->lock);
	fill_info(v->file[0], out);
	pthread_mutex_unlock(&v->lock);
}
