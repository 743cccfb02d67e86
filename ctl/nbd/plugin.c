/* SPDX-License-Identifier: Apache-2.0
 * plugin - one disk image for nbdkit, read only: all of it, and what changed since an older snapshot.
 *
 * Theory of operation. `rheactl image export` has found, checked and locked the files; nbdkit inherits
 * them and knows them by number only, so it needs no rights and opens nothing. There are up to two exports of the
 * same bytes, which differ in what they say of them ("base:allocation"):
 *   ""        data; or a hole that reads as zeroes.
 *   "changed" a hole that does not say that it is zeroes: unchanged since the older snapshot. All else changed:
 *             data, or zeroes.
 * This is how NBD says "nothing of mine is here"; who copies onto a backing file (qemu-img convert
 * -B) takes just the rest.
 *
 * nbdkit calls on many threads at once; what is served does not change.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "ctl/nbd/report.h"
#include "hv/base/err.h"
#include "hv/vhd.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum {
	/* Runs told in one answer: a client asks on from where they end. */
	RUNS_MAX = 4096,
	PREFERRED =
		64
		<< 10, /* a client's requests: a part of what most disks are written in */
};

/* An export; its address is its clients' handle. */
struct view {
	unsigned since; /* for vhd_extent() */
};

static struct {
	struct vhd_part part[VHD_CHAIN_MAX];
	unsigned n;
	int raw, report;     /* the pipe to rheactl; -1: none */
	struct vhd_image *v; /* NULL: raw */
	struct img img;
	uint64_t bytes;
	struct view all, changed;
	int has_changed;
	_Atomic uint64_t clients, reads, read_bytes;
} disk = {.report = -1, .all.since = UINT32_MAX};

/* Lines come in the order of what they tell. */
static pthread_mutex_t report_lock = PTHREAD_MUTEX_INITIALIZER;

/* "7,8,9": the image's descriptors, the leaf first. */
static int take_files(const char *list)
{
	const char *p = list;
	struct stat st;
	int fd, len;

	for (disk.n = 0; disk.n < VHD_CHAIN_MAX; p += len + 1) {
		if (sscanf(p, "%d%n", &fd, &len) != 1 || (p[len] && p[len] != ','))
			break;
		if (fstat(fd, &st)) {
			nbdkit_error("files=%s: %d: %m", list, fd);
			return -1;
		}
		disk.part[disk.n++] =
			(struct vhd_part){img_of_fd(fd), -1, (int64_t)st.st_mtim.tv_sec};
		if (!p[len])
			return 0;
	}
	nbdkit_error("files=%s: no list of at most %d descriptors", list, VHD_CHAIN_MAX);
	return -1;
}

static int plugin_config(const char *key, const char *value)
{
	if (!strcmp(key, "files"))
		return take_files(value);
	if (!strcmp(key, "raw"))
		return disk.raw = nbdkit_parse_bool(value);
	if (!strcmp(key, "report"))
		return nbdkit_parse_int(key, value, &disk.report);
	if (!strcmp(key, "since")) {
		disk.has_changed = 1;
		return nbdkit_parse_unsigned(key, value, &disk.changed.since);
	}
	nbdkit_error("unknown parameter \"%s\"", key);
	return -1;
}

static int plugin_config_complete(void)
{
	if (disk.n && (!disk.raw || disk.n == 1) &&
	    (!disk.has_changed || disk.changed.since < disk.n))
		return 0;
	nbdkit_error(
		"files=, raw= and since= do not fit; start it with rheactl image export");
	return -1;
}

static void report_served(void)
{
	pthread_mutex_lock(&report_lock);
	if (disk.report >= 0)
		/* Whoever does not listen any more does not miss it. */
		(void)dprintf(disk.report, NBD_SERVED, disk.clients, disk.reads,
			      disk.read_bytes);
	pthread_mutex_unlock(&report_lock);
}

/* It may be the last word: nbdkit does not end before its clients go, and then is ended. */
static void plugin_close(void *handle)
{
	report_served();
}

static int plugin_get_ready(void)
{
	struct err err = {0};

	disk.img = disk.part[0].io;
	if (!disk.raw) {
		if (vhd_open(disk.part, disk.n, 0, &disk.v, &err)) {
			nbdkit_error("%s", err.msg);
			return -1;
		}
		disk.img = vhd_img(disk.v);
	}
	if (img_size(disk.img, &disk.bytes)) {
		nbdkit_error("the image's size: %m");
		return -1;
	}
	return 0;
}

/* Here, because who becomes another user is no longer told of its parent's death. If it died before, nobody
 * reads the pipe. */
static int plugin_after_fork(void)
{
	if (disk.report < 0)
		return 0;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || dprintf(disk.report, NBD_READY) < 0) {
		nbdkit_error("report=%d: %m", disk.report);
		return -1;
	}
	return 0;
}

static void plugin_unload(void)
{
	/* Those that go when nbdkit has been told to end are not closed one by one. */
	report_served();
	vhd_close(disk.v);
	disk.v = NULL;
}

static int plugin_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
	if (nbdkit_add_export(exports, "", "all of the image"))
		return -1;
	return disk.has_changed
		       ? nbdkit_add_export(exports, NBD_CHANGED,
					   "holes: unchanged since the older one")
		       : 0;
}

static void *plugin_open(int readonly)
{
	const char *name = nbdkit_export_name();

	if (!name)
		return NULL;
	if (name[0] && (!disk.has_changed || strcmp(name, NBD_CHANGED) != 0)) {
		nbdkit_error("there is no export \"%s\"", name);
		return NULL;
	}
	disk.clients++;
	return name[0] ? &disk.changed : &disk.all;
}

static int64_t plugin_get_size(void *handle)
{
	return (int64_t)disk.bytes;
}

static int plugin_yes(void *handle)
{
	return 1;
}

static int plugin_block_size(void *handle, uint32_t *least, uint32_t *preferred,
			     uint32_t *most)
{
	*least = 1;
	*preferred = PREFERRED;
	*most = UINT32_MAX;
	return 0;
}

/* What does not begin and end with a sector is read with its neighbours. */
static int read_around(void *buf, uint32_t count, uint64_t offset)
{
	uint64_t from = offset / VHD_SECTOR * VHD_SECTOR;
	uint64_t to = (offset + count + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
	uint8_t *all = malloc(to - from);
	int rc = all ? img_read(disk.img, all, to - from, from) : -ENOMEM;

	if (!rc)
		memcpy(buf, all + (offset - from), count);
	free(all);
	return rc;
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset,
			uint32_t flags)
{
	int whole = disk.raw || (count % VHD_SECTOR == 0 && offset % VHD_SECTOR == 0);
	int rc = whole ? img_read(disk.img, buf, count, offset)
		       : read_around(buf, count, offset);

	if (rc) {
		nbdkit_error("reading %u bytes at %llu: %s", count,
			     (unsigned long long)offset, strerror(-rc));
		nbdkit_set_error(-rc);
		return -1;
	}
	disk.reads++;
	disk.read_bytes += count;
	return 0;
}

static int raw_extent(uint64_t at, uint64_t len, enum vhd_extent_kind *kind, uint64_t *n)
{
	uint64_t data = img_data(disk.img, at);
	uint64_t end = data == at ? img_hole(disk.img, at) : data;

	*kind = data == at ? VHD_DATA : VHD_ZERO;
	*n = end - at < len ? end - at : len;
	return 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
			  struct nbdkit_extents *extents)
{
	static const uint32_t type[] = {
		[VHD_UNCHANGED] = NBDKIT_EXTENT_HOLE,
		[VHD_ZERO] = NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO,
		[VHD_DATA] = 0,
	};
	const struct view *view = handle;
	const uint64_t grain = disk.raw ? 1 : VHD_SECTOR, end = offset + count;
	enum vhd_extent_kind kind;
	uint64_t n;
	int rc = 0;

	offset -= offset % grain;
	for (unsigned i = 0; !rc && i < RUNS_MAX && offset < end; i++, offset += n) {
		uint64_t len = (end - offset + grain - 1) / grain * grain;

		rc = disk.raw ? raw_extent(offset, len, &kind, &n)
			      : vhd_extent(disk.v, view->since, offset, len, &kind, &n);
		if (!rc && nbdkit_add_extent(extents, offset, n, type[kind]))
			return -1;
	}
	if (!rc)
		return 0;
	nbdkit_error("what there is at %llu: %s", (unsigned long long)offset,
		     strerror(-rc));
	nbdkit_set_error(-rc);
	return -1;
}

static struct nbdkit_plugin plugin = {
	.name = "rhea",
	.longname = "Rhea disk images",
	.version = RHEA_VERSION,
	.description =
		"a raw or VHD image, and what changed in it; for rheactl image export",
	.unload = plugin_unload,
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.config_help =
		"files=FD[,FD...]  the image and its parents (required)\n"
		"raw=BOOL          it is a raw image\n"
		"since=NUMBER      of the older snapshot in the list\n"
		"report=FD         where to tell that it serves, and what it served",
	.get_ready = plugin_get_ready,
	.after_fork = plugin_after_fork,
	.list_exports = plugin_list_exports,
	.open = plugin_open,
	.close = plugin_close,
	.get_size = plugin_get_size,
	.can_multi_conn = plugin_yes,
	.can_extents = plugin_yes,
	.block_size = plugin_block_size,
	.pread = plugin_pread,
	.extents = plugin_extents,
};

/* What nbdkit looks for; its header only defines it. */
struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
