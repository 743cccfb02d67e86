/* SPDX-License-Identifier: Apache-2.0
 * bench_vhd - the throughput of a guest's disk on VHD images, beside the same on a raw one in the same run.
 *
 * Natively on /dev/kvm, unprotected: the ring-3 guest keeps requests under way. A filled image has all its
 * blocks; an empty one takes room as the guest writes; of a child, what is not written yet is its parent's, which
 * is filled.
 *
 *   bench_vhd GUEST.elf OUT.json [SECONDS a turn] [TURNS] [PATTERN of loads]
 *
 * The files are in the folder of OUT.json.
 */
#include "tests/bench/kit.h"

#include "diskrep/diskrep.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/blk.h"
#include "hv/vhd.h"
#include "hv/vhd_make.h"
#include "hv/vm.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
enum { IMAGE_MIB = 128, RAM_MIB = 64, WARM_US = 300000, FILES_MAX = 2 };

/* An image, opened: a file and, of a child, its parent. */
struct image {
	int fd[FILES_MAX];
	unsigned n;
	struct vhd_image *vhd; /* NULL: raw */
};

enum kind { RAW, FILLED, EMPTY, CHILD, KINDS };

static int new_file(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		kit_die(dir, NULL);
	return fd;
}

static int64_t mtime_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		kit_die("fstat", NULL);
	return st.st_mtim.tv_sec;
}

static void open_vhd(struct image *im)
{
	struct vhd_part part[FILES_MAX];
	struct err e = {0};

	for (unsigned i = 0; i < im->n; i++)
		part[i] = (struct vhd_part){img_of_fd(im->fd[i]), im->fd[i],
					    mtime_of(im->fd[i])};
	if (vhd_open(part, im->n, VHD_WRITE, &im->vhd, &e))
		kit_die("opening the VHD image", &e);
}

static void make_vhd(struct image *im, const char *dir)
{
	struct vhd_create c = {
		.type = VHD_DYNAMIC, .size = IMAGE_MIB * MIB, .now = time(NULL)};
	struct err e = {0};

	*im = (struct image){.fd = {new_file(dir)}, .n = 1};
	if (vhd_create(img_of_fd(im->fd[0]), &c, &e))
		kit_die("making a VHD image", &e);
	open_vhd(im);
}

static void fill(struct img io)
{
	static uint8_t buf[DR_CHUNK];

	memset(buf, 0xa5, sizeof(buf));
	for (uint64_t at = 0; at < IMAGE_MIB * MIB; at += sizeof(buf))
		if (img_write(io, buf, sizeof(buf), at))
			kit_die("filling an image", NULL);
	if (img_sync(io))
		kit_die("filling an image", NULL);
}

static void make_child(struct image *im, const char *dir)
{
	struct vhd_create c = {
		.type = VHD_DIFF, .size = IMAGE_MIB * MIB, .now = time(NULL)};
	struct image parent;
	struct vhd_info info;
	struct err e = {0};

	make_vhd(&parent, dir);
	fill(vhd_img(parent.vhd));
	vhd_info(parent.vhd, &info);
	vhd_close(parent.vhd);
	c.parent_uuid = info.uuid;
	c.parent_mtime = mtime_of(parent.fd[0]);
	c.parent_path = c.parent_relative = "parent.vhd";
	*im = (struct image){.fd = {new_file(dir), parent.fd[0]}, .n = 2};
	if (vhd_create(img_of_fd(im->fd[0]), &c, &e))
		kit_die("making a child", &e);
	open_vhd(im);
}

static void image_up(struct image *im, enum kind kind, const char *dir)
{
	if (kind == RAW) {
		*im = (struct image){.fd = {new_file(dir)}, .n = 1};
		fill(img_of_fd(im->fd[0]));
	} else if (kind == CHILD) {
		make_child(im, dir);
	} else {
		make_vhd(im, dir);
		if (kind == FILLED)
			fill(vhd_img(im->vhd));
	}
}

static void image_down(struct image *im)
{
	vhd_close(im->vhd);
	for (unsigned i = 0; i < im->n; i++)
		(void)close(im->fd[i]); /* it has no name, and goes */
}

static struct blk backend(void *arg, struct loop *loop)
{
	struct image *im = arg;
	struct blk b;
	struct err e = {0};

	if (vhd_blk_open(im->vhd, loop, &b, &e))
		kit_die("the VHD image", &e);
	return b;
}

/* MiB a second. */
static double speed(const struct kit *k, enum kind kind, const char *dir,
		    const char *cmdline, unsigned bytes)
{
	struct kit_disk disk = {.activity_fd = -1};
	struct image im;
	struct err e = {0};
	struct kit_vm v;
	uint64_t n, t;

	image_up(&im, kind, dir);
	disk.fd = im.fd[0];
	disk.open = im.vhd ? backend : NULL;
	disk.arg = &im;
	kit_vm_up(k, &v, RAM_MIB * MIB, 0, -1, cmdline, &disk);
	if (vm_start(v.vm, &e))
		kit_die("start", &e);
	kit_sleep_us(WARM_US);
	n = kit_progress(&v);
	t = clock_mono_ns();
	kit_sleep_us(k->seconds * 1000000);
	n = kit_progress(&v) - n;
	t = clock_mono_ns() - t;
	kit_vm_down(&v);
	image_down(&im);
	return (double)n * bytes * 1e9 / (double)t / (double)MIB;
}

static const struct load {
	const char *name, *cmdline;
	unsigned bytes;
} loads[] = {
	{"random reads, 4 KiB", "bytes=4096 depth=16 random=1", 4096},
	{"random writes, 4 KiB", "bytes=4096 depth=16 random=1 write=1", 4096},
	{"sequential writes, 64 KiB", "bytes=65536 depth=16 write=1", 65536},
	{"random writes, 4 KiB, flush each 64",
	 "bytes=4096 depth=16 random=1 write=1 flush=64", 4096},
};

/* All kinds take turns. Only an image that changes nothing but data is to be as fast as a raw one. */
static void bench(struct kit *k, const struct load *l, const char *dir)
{
	static const char *const names[KINDS] = {"raw", "VHD, filled", "VHD, empty",
						 "VHD, a child"};
	double mib_s[KINDS][KIT_TURNS_MAX];
	char cmdline[128], figure[100];

	(void)snprintf(cmdline, sizeof(cmdline), "mode=load disk=1 console=0 %s",
		       l->cmdline); /* fits */
	for (unsigned t = 0; t < k->turns; t++)
		for (unsigned i = 0; i < KINDS; i++)
			mib_s[i][t] = speed(k, (enum kind)i, dir, cmdline, l->bytes);
	for (unsigned i = FILLED; i < KINDS; i++) {
		(void)snprintf(figure, sizeof(figure), "%s: %s", names[i],
			       l->name); /* fits */
		kit_row(k, figure, "MiB/s", spread_of(mib_s[i], k->turns),
			spread_of(mib_s[RAW], k->turns),
			i == FILLED ? RATIO_AT_LEAST : NO_TARGET, 0.9);
	}
}

int main(int argc, char **argv)
{
	struct kit k;
	char *copy, *dir;

	kit_begin(&k, argc, argv);
	copy = strdup(argv[2]);
	dir = copy ? dirname(copy) : NULL;
	if (!dir)
		kit_die("memory", NULL);
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		if (argc < 6 || !fnmatch(argv[5], loads[i].name, 0))
			bench(&k, &loads[i], dir);
	free(copy);
	return kit_end(&k, argv[2]);
}
