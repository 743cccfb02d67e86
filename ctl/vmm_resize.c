/* SPDX-License-Identifier: Apache-2.0
 * vmm_resize - lets a disk of the running guest grow, for rhead; and says how large all of them are.
 */
#include "ctl/vmm.h"

#include "diskrep/diskrep.h"
#include "hv/base/loop.h"
#include "hv/devices.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The device lock is held. */
static void on_resize(void *arg, uint64_t bytes)
{
	vblk_resize(arg, bytes);
}

void vmm_watch_size(struct vmm *m, unsigned disk, struct vblk *dev)
{
	m->blk[disk] = dev;
	diskrep_on_resize(m->diskrep, disk, on_resize, dev);
}

void vmm_disks_as_loaded(struct vmm *m)
{
	for (unsigned i = 0; i < m->set.disks; i++)
		diskrep_set_capacity(m->diskrep, i, vblk_bytes(m->blk[i]));
}

void vmm_disks_as_images(struct vmm *m)
{
	loop_enter(m->io);
	for (unsigned i = 0; i < m->set.disks; i++)
		vblk_resize(m->blk[i], diskrep_capacity(m->diskrep, i));
	loop_leave(m->io);
}

static void tell(struct vmm *m, uint64_t seq, const struct diskrep_resized *r)
{
	vmm_tell(m,
		 json_pack("{s:s,s:I,s:{s:i,s:I,s:b,s:s}}", "ev", "resized", "seq",
			   (json_int_t)seq, "result", "disk", (int)r->disk, "bytes",
			   (json_int_t)r->bytes, "standby", r->standby, "why", r->why));
}

static void on_end(void *arg, const struct diskrep_resized *r)
{
	struct vmm *m = arg;

	tell(m, m->resize_seq, r);
}

void vmm_disk_resize(struct vmm *m, uint64_t seq, unsigned disk, uint64_t bytes)
{
	struct diskrep_resized none = {.disk = disk, .bytes = bytes};
	uint64_t before = m->resize_seq;
	struct err err = {0};
	int rc = 0;

	if (!m->started)
		rc = err_set(&err, -EPERM, "the guest does not run here");
	else if (disk < m->set.disks && m->set.read_only[disk])
		rc = err_set(&err, -EROFS, "the disk is read-only");
	m->resize_seq = seq;
	rc = rc ? rc : diskrep_resize(m->diskrep, disk, bytes, on_end, m, &err);
	if (!rc)
		return;
	/* The number of one that goes on must not change. */
	m->resize_seq = before;
	(void)snprintf(none.why, sizeof(none.why), "%.*s", (int)sizeof(none.why) - 1,
		       err.msg); /* cutting is fine */
	tell(m, seq, &none);
}

static json_t *of_disk(struct vmm *m, unsigned i)
{
	const struct vmm_setup *s = &m->set;
	uint64_t image = 0;
	struct stat st = {.st_size = 0};

	/* What cannot be asked is told as 0. */
	if (img_size(m->disk[i], &image))
		image = 0;
	if (fstat(s->disk_fd[i], &st))
		memset(&st, 0, sizeof(st));
	return json_pack("{s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:i}", "serial", s->serial[i],
			 "format", s->vhd[i] ? "vhd" : "raw", "read_only",
			 s->read_only[i], "bytes",
			 (json_int_t)diskrep_capacity(m->diskrep, i), "image_bytes",
			 (json_int_t)image, "file_bytes", (json_int_t)st.st_size,
			 "used_bytes", (json_int_t)st.st_blocks * 512, "files",
			 s->vhd[i] ? (int)s->chain[i] : 1);
}

json_t *vmm_disks_json(struct vmm *m)
{
	json_t *list = json_array();

	/* A list that stays short for want of memory is no harm. */
	for (unsigned i = 0; i < m->set.disks; i++)
		json_array_append_new(list, of_disk(m, i));
	return list;
}
