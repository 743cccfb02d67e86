/* SPDX-License-Identifier: Apache-2.0
 * vhdrig - VHD images in a folder of their own, beside a plain copy of what they should hold.
 */
#ifndef TESTS_UNIT_VHDRIG_H
#define TESTS_UNIT_VHDRIG_H

#include "hv/base/err.h"
#include "hv/vhd.h"
#include "hv/vhd_make.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RIG_BLOCK = 64 << 10 };

static char rig_dir[] = "/tmp/rhea-vhd-XXXXXX";
static uint64_t rig_seed = 1;

static inline uint32_t rig_random(void)
{
	rig_seed = rig_seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(rig_seed >> 33);
}

static inline void rig_make_dir(void)
{
	if (!mkdtemp(rig_dir))
		abort();
}

static inline int rig_unlink(const char *path, const struct stat *st, int type,
			     struct FTW *f)
{
	return remove(path);
}

static inline void rig_remove_dir(void)
{
	if (nftw(rig_dir, rig_unlink, 8, FTW_DEPTH | FTW_PHYS))
		abort();
}

/* A path in the folder; four of them may be in use at one time. */
static inline const char *rig_path(const char *name)
{
	static char path[4][128];
	static unsigned i;

	i = (i + 1) % 4;
	(void)snprintf(path[i], sizeof(path[i]), "%s/%s", rig_dir, name); /* fits */
	return path[i];
}

static inline int rig_file(const char *name, int flags)
{
	int fd = open(rig_path(name), flags | O_CLOEXEC, 0600);

	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

static inline int64_t rig_mtime(int fd)
{
	struct stat st;

	CU_ASSERT_EQUAL_FATAL(fstat(fd, &st), 0);
	return st.st_mtime;
}

/* Run a program in silence; its exit status. */
static inline int rig_run(const char *const argv[])
{
	int status = -1, null;
	pid_t pid = fork();

	CU_ASSERT_FATAL(pid >= 0);
	if (!pid) {
		null = open("/dev/null", O_RDWR);
		if (null < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
			_exit(126);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	CU_ASSERT_EQUAL_FATAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Does qemu see the same bytes in @vhd as in @raw? */
static inline int rig_qemu_same(const char *vhd, const char *raw)
{
	const char *const argv[] = {"qemu-img", "compare",     "-f",	      "vpc", "-F",
				    "raw",	rig_path(vhd), rig_path(raw), NULL};

	return rig_run(argv) == 0;
}

/* A new image; @parent: a file of the folder, or NULL. */
static inline void rig_create(const char *name, enum vhd_type type, uint64_t size,
			      uint32_t block, const char *parent)
{
	struct vhd_create c = {.type = type, .size = size, .block_size = block, .now = 1};
	int fd = rig_file(name, O_RDWR | O_CREAT | O_TRUNC), pfd = -1;
	struct vhd_info info;
	struct err err = {0};

	if (parent) {
		pfd = rig_file(parent, O_RDONLY);
		CU_ASSERT_EQUAL_FATAL(vhd_probe(img_of_fd(pfd), &info, &err), 0);
		c.parent_uuid = info.uuid;
		c.parent_mtime = rig_mtime(pfd);
		c.parent_path = rig_path(parent);
		c.parent_relative = parent;
		close(pfd);
	}
	CU_ASSERT_EQUAL(vhd_create(img_of_fd(fd), &c, &err), 0);
	CU_ASSERT_STRING_EQUAL(err.msg, "");
	close(fd);
}

/* An open chain with its descriptors. */
struct rig_chain {
	struct vhd_part part[VHD_CHAIN_MAX];
	unsigned n;
	struct vhd_image *v;
	struct img img;
	struct err err;
};

/* The files of @names (the leaf first, NULL at the end). Returns vhd_open()'s. */
static inline int rig_open(struct rig_chain *c, const char *const names[], unsigned flags)
{
	int rc;

	*c = (struct rig_chain){0};
	for (; names[c->n]; c->n++) {
		int fd = rig_file(names[c->n],
				  !c->n && flags & VHD_WRITE ? O_RDWR : O_RDONLY);

		c->part[c->n] = (struct vhd_part){img_of_fd(fd), fd, rig_mtime(fd)};
	}
	rc = vhd_open(c->part, c->n, flags, &c->v, &c->err);
	if (!rc)
		c->img = vhd_img(c->v);
	return rc;
}

static inline int rig_open1(struct rig_chain *c, const char *name, unsigned flags)
{
	return rig_open(c, (const char *const[]){name, NULL}, flags);
}

static inline void rig_close(struct rig_chain *c)
{
	vhd_close(c->v);
	c->v = NULL;
	while (c->n)
		close(c->part[--c->n].fd);
}

/* What the disk should hold. */
struct rig_want {
	uint64_t size;
	uint8_t *bytes;
};

static inline struct rig_want rig_want_new(uint64_t size)
{
	struct rig_want w = {size, calloc(1, size)};

	CU_ASSERT_PTR_NOT_NULL_FATAL(w.bytes);
	return w;
}

static inline void rig_write(struct img img, struct rig_want *w, uint64_t off,
			     uint64_t len, uint8_t fill)
{
	memset(w->bytes + off, fill, len);
	for (uint64_t s = 0; s < len; s += 512) {
		uint64_t at = off + s;

		memcpy(w->bytes + at, &at, sizeof(at));
		w->bytes[at + 8] = fill;
	}
	CU_ASSERT_EQUAL(img_write(img, w->bytes + off, len, off), 0);
}

static inline void rig_erase(struct img img, struct rig_want *w, uint64_t off,
			     uint64_t len)
{
	memset(w->bytes + off, 0, len);
	CU_ASSERT_EQUAL(img_erase(img, off, len), 0);
}

/* The first byte that differs; UINT64_MAX: none. */
static inline uint64_t rig_differs(struct img img, const struct rig_want *w)
{
	uint8_t *got = malloc(w->size);
	uint64_t at = UINT64_MAX;

	CU_ASSERT_PTR_NOT_NULL_FATAL(got);
	CU_ASSERT_EQUAL(img_read(img, got, w->size, 0), 0);
	if (memcmp(got, w->bytes, w->size) != 0)
		for (at = 0; got[at] == w->bytes[at]; at++)
			;
	free(got);
	return at;
}

static inline void rig_save_raw(const struct rig_want *w, const char *name)
{
	int fd = rig_file(name, O_RDWR | O_CREAT | O_TRUNC);

	CU_ASSERT_EQUAL(img_write(img_of_fd(fd), w->bytes, w->size, 0), 0);
	close(fd);
}

/* Is the file as it should be, by its own check? */
static inline int rig_clean(const char *name)
{
	int fd = rig_file(name, O_RDONLY), rc;
	struct vhd_report r;
	struct err err = {0};

	rc = vhd_check(img_of_fd(fd), &r, &err);
	close(fd);
	return !rc && vhd_report_clean(&r);
}

#endif
