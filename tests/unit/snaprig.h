/* SPDX-License-Identifier: Apache-2.0
 * snaprig - a VM's two disks, each in a folder of its own, and what is done with their snapshots.
 */
#ifndef TESTS_UNIT_SNAPRIG_H
#define TESTS_UNIT_SNAPRIG_H

#include "ctl/image_chain.h"
#include "ctl/image_ops.h"
#include "ctl/snapfile.h"
#include "tests/unit/vhdrig.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

enum { SIZE = 6 * RIG_BLOCK, DISKS = 2 };

static struct config_vm vm;
static struct rig_want was[DISKS], is[DISKS]; /* at the snapshot; now */

static inline const char *disk_name(unsigned i)
{
	return i ? "b/two.vhd" : "one.vhd";
}

static inline struct vhd_image *open_chain(unsigned i, unsigned flags,
					   struct image_chain *c)
{
	struct vhd_image *v = NULL;
	struct err err = {0};

	CU_ASSERT_EQUAL(image_chain_open(vm.disks[i].path, flags, c, &err), 0);
	CU_ASSERT_EQUAL(image_chain_use(c, flags & IMAGE_WRITE ? VHD_WRITE : 0, &v, &err),
			0);
	CU_ASSERT_STRING_EQUAL(err.msg, "");
	CU_ASSERT_PTR_NOT_NULL_FATAL(v);
	return v;
}

static inline void write_disks(uint8_t fill)
{
	for (unsigned i = 0; i < DISKS; i++) {
		struct image_chain c;
		struct vhd_image *v = open_chain(i, IMAGE_WRITE, &c);

		rig_write(vhd_img(v), &is[i], fill % 4 * RIG_BLOCK + 512, RIG_BLOCK,
			  fill);
		CU_ASSERT_EQUAL(img_sync(vhd_img(v)), 0);
		vhd_close(v);
		image_chain_close(&c);
	}
}

/* Calls @fn for each file of both folders; how many there are. */
static inline unsigned snap_each_file(void (*fn)(const char *path))
{
	char path[512];
	const struct dirent *e;
	unsigned n = 0;

	for (unsigned i = 0; i < 2; i++) {
		DIR *d = opendir(rig_path(i ? "b" : "."));

		CU_ASSERT_PTR_NOT_NULL_FATAL(d);
		while ((e = readdir(d))) {
			if (e->d_type != DT_REG)
				continue;
			n++;
			(void)snprintf(path, sizeof(path), "%s/%s%s", rig_dir,
				       i ? "b/" : "", e->d_name); /* fits */
			if (fn)
				fn(path);
		}
		closedir(d);
	}
	return n;
}

static inline void snap_remove(const char *path)
{
	CU_ASSERT_EQUAL(unlink(path), 0);
}

static inline void fresh_disks(void)
{
	(void)mkdir(rig_path("b"), 0700);  /* it may be there */
	(void)snap_each_file(snap_remove); /* all are gone */
	vm = (struct config_vm){.name = "web", .n_disks = DISKS};
	for (unsigned i = 0; i < DISKS; i++) {
		(void)snprintf(vm.disks[i].path, sizeof(vm.disks[i].path), "%s",
			       rig_path(disk_name(i))); /* fits */
		vm.disks[i].format = CONFIG_FORMAT_VHD;
		if (!is[i].bytes) {
			was[i] = rig_want_new(SIZE);
			is[i] = rig_want_new(SIZE);
		}
		rig_create(disk_name(i), i ? VHD_FIXED : VHD_DYNAMIC, SIZE,
			   i ? 0 : RIG_BLOCK, NULL);
		memset(is[i].bytes, 0, SIZE);
	}
	write_disks(1);
}

static inline int holds(unsigned i, const struct rig_want *w)
{
	struct image_chain c;
	struct vhd_image *v = open_chain(i, 0, &c);
	uint64_t at = rig_differs(vhd_img(v), w);

	vhd_close(v);
	image_chain_close(&c);
	return at == UINT64_MAX;
}

/* All disks hold @w. */
static inline int all_hold(const struct rig_want *w)
{
	return holds(0, &w[0]) && holds(1, &w[1]);
}

static inline int make(const char *name)
{
	struct snap *s = calloc(1, sizeof(*s));
	int fd[CONFIG_DISKS_MAX], rc;
	struct err err = {0};

	(void)snprintf(s->vm, sizeof(s->vm), "web"); /* these fit */
	(void)snprintf(s->name, sizeof(s->name), "%s", name);
	(void)snprintf(s->host, sizeof(s->host), "a");
	s->id = 7;
	rc = snap_prepare(&vm, s, fd, &err);
	for (unsigned i = 0; !rc && i < s->n; i++)
		close(fd[i]);
	s->epoch = 5;
	rc = rc ? rc : snap_switch(s, &err);
	rc = rc ? rc : snap_confirm(s, &err);
	free(s);
	return rc;
}

static inline int pull_up(const struct snap *s, unsigned i, const struct snap_leave *l,
			  struct err *err)
{
	const struct vhd_create parent = {.parent_uuid = l->parent_uuid,
					  .parent_mtime = l->parent_time,
					  .parent_path = l->parent,
					  .parent_relative = l->relative};
	struct image_chain c;
	struct vhd_image *v = NULL;
	int fd, rc = image_chain_open(s->disk[i].child, IMAGE_WRITE, &c, err);

	rc = rc ? rc : vhd_open(c.part, c.n, VHD_WRITE | VHD_ANY_PARENT, &v, err);
	if (!rc && vhd_find(v, l->uuid, &fd) == 1) {
		rc = vhd_pull(v, NULL, NULL, err);
		rc = rc ? rc : vhd_reparent(v, l->has_parent ? &parent : NULL, err);
	}
	vhd_close(v);
	image_chain_close(&c);
	return rc;
}

static inline int delete (const char *name)
{
	struct snap_leave l[CONFIG_DISKS_MAX];
	struct snap *s = calloc(1, sizeof(*s));
	struct err err = {0};
	int rc = snap_load(&vm, name, s, &err);

	rc = rc ? rc : snap_delete_begin(s, l, &err);
	for (unsigned i = 0; !rc && i < s->n; i++) {
		if (l[i].needed)
			rc = pull_up(s, i, &l[i], &err);
		if (l[i].fd >= 0)
			close(l[i].fd);
	}
	rc = rc ? rc : snap_delete_end(s, &err);
	free(s);
	return rc;
}

static inline int revert(const char *name)
{
	struct snap *s = calloc(1, sizeof(*s));
	struct err err = {0};
	int rc = snap_load(&vm, name, s, &err);

	rc = rc ? rc : snap_revert(s, rig_path("journal"), rig_path("activity"), &err);
	free(s);
	return rc;
}

static inline int exists(const char *name)
{
	return !access(rig_path(name), F_OK);
}

static inline int same_inode(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(rig_path(a), &x) && !stat(rig_path(b), &y) && x.st_ino == y.st_ino;
}

static inline void recover(void)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(snap_recover(&vm, &err), 0);
	CU_ASSERT_STRING_EQUAL(err.msg, "");
}

static inline enum snap_state state_of(const char *name)
{
	struct snap *s = calloc(1, sizeof(*s));
	struct err err = {0};
	enum snap_state state = snap_load(&vm, name, s, &err) ? SNAP_NSTATES : s->state;

	if (state == SNAP_COMPLETE)
		CU_ASSERT_TRUE(snap_is_complete(s));
	free(s);
	return state;
}

static inline void free_disks(void)
{
	for (unsigned i = 0; i < DISKS; i++) {
		free(was[i].bytes);
		free(is[i].bytes);
	}
}

#endif
