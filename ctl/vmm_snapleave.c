/* SPDX-License-Identifier: Apache-2.0
 * vmm_snapleave - files of deleted snapshots leave the disks' chains, while the guest runs.
 *
 * rhead says which, for each disk, and gives the file above it if that is not the leaf; a thread of its own does one disk
 * after the other, so fast as it may (hv/vhd_pull.c). The same on a primary and on a standby.
 */
#include "ctl/vmm.h"

#include "hv/base/clock.h"
#include "hv/base/hex.h"
#include "hv/base/log.h"
#include "hv/vhd_make.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct leave {
	int needed, fd, has_parent;
	uint8_t uuid[VHD_UUID_LEN], parent_uuid[VHD_UUID_LEN];
	char *parent, *relative;
	int64_t parent_time;
};

struct vmm_leaving {
	struct vmm *m;
	uint64_t id, rate;
	struct leave disk[VMM_DISKS_MAX];
	char why[256]; /* an order makes no sense */
	uint64_t next_ns;
	int64_t told; /* per cent */
};

static void leaving_free(struct vmm_leaving *g)
{
	for (unsigned i = 0; i < VMM_DISKS_MAX; i++) {
		struct leave *l = &g->disk[i];

		if (l->needed && l->fd >= 0)
			close(l->fd);
		free(l->parent);
		free(l->relative);
	}
	free(g);
}

static int uuid_of(json_t *o, const char *key, uint8_t *out)
{
	const char *s = json_string_value(json_object_get(o, key));

	if (!s || strlen(s) != 2 * (size_t)VHD_UUID_LEN)
		return -EINVAL;
	for (unsigned i = 0; i < VHD_UUID_LEN; i++) {
		int hi = hex_digit(s[2 * i]), lo = hex_digit(s[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		out[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

static char *copy_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? strdup(s) : NULL;
}

static int read_order(struct vmm_leaving *g, json_t *msg, int fd)
{
	json_int_t disk = json_integer_value(json_object_get(msg, "disk"));
	json_t *parent = json_object_get(msg, "parent");
	struct leave *l;

	if (disk < 0 || disk >= VMM_DISKS_MAX || !g->m->vhd[disk] || g->disk[disk].needed)
		return -EINVAL;
	l = &g->disk[disk];
	*l = (struct leave){.fd = -1, .has_parent = json_is_object(parent)};
	if (uuid_of(msg, "uuid", l->uuid))
		return -EINVAL;
	if (l->has_parent) {
		l->parent = copy_of(parent, "path");
		l->relative = copy_of(parent, "relative");
		l->parent_time = json_integer_value(json_object_get(parent, "time"));
		if (!l->parent || !l->relative || uuid_of(parent, "uuid", l->parent_uuid))
			return -EINVAL;
	}
	l->fd = fd < 0 ? -1 : dup(fd);
	l->needed = 1;
	return fd >= 0 && l->fd < 0 ? -errno : 0;
}

void vmm_snap_leave(struct vmm *m, json_t *msg, int fd)
{
	struct vmm_leaving *g = m->leaving;
	uint64_t id = (uint64_t)json_integer_value(json_object_get(msg, "id"));
	int rc;

	if (g && g->id != id) {
		leaving_free(g);
		m->leaving = g = NULL;
	}
	if (!g) {
		g = m->leaving = calloc(1, sizeof(*g));
		if (!g)
			return; /* the order to begin finds nothing */
		g->m = m;
		g->id = id;
	}
	g->rate = (uint64_t)json_integer_value(json_object_get(msg, "rate"));
	rc = read_order(g, msg, fd);
	if (rc)
		(void)snprintf(g->why, sizeof(g->why), "an order makes no sense: %s",
			       strerror(-rc)); /* fits */
}

/* So many bytes a second. */
static int pace(void *arg, uint64_t bytes, uint64_t done, uint64_t all)
{
	struct vmm_leaving *g = arg;
	uint64_t now = clock_mono_ns();
	struct timespec t;

	if (!g->rate)
		return 0;
	if (g->next_ns < now)
		g->next_ns = now;
	g->next_ns += bytes * 1000000000 / g->rate;
	t = (struct timespec){.tv_sec = (time_t)(g->next_ns / 1000000000),
			      .tv_nsec = (long)(g->next_ns % 1000000000)};
	/* Broken off early by nothing: no signal has a handler here. */
	(void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	return 0;
}

static struct vhd_create new_parent(const struct leave *l)
{
	return (struct vhd_create){.parent_uuid = l->parent_uuid,
				   .parent_mtime = l->parent_time,
				   .parent_path = l->parent,
				   .parent_relative = l->relative};
}

static int pull(struct vmm_leaving *g, struct vhd_image *v, const struct leave *l,
		struct err *err)
{
	struct vhd_create c = new_parent(l);
	int rc = vhd_pull(v, pace, g, err);

	return rc ? rc : vhd_reparent(v, l->has_parent ? &c : NULL, err);
}

static int under_leaf(struct vmm_leaving *g, struct vhd_image *v, const struct leave *l,
		      struct err *err)
{
	int fd = -1, rc = pull(g, v, l, err);

	rc = rc ? rc : vhd_drop(v, &fd, err);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The chain from the child of file @level on, to be written. */
static int open_apart(struct vhd_image *v, unsigned level, int child,
		      struct vhd_image **out, struct err *err)
{
	struct vhd_part part[VHD_CHAIN_MAX];
	int fd[VHD_CHAIN_MAX];
	unsigned n = vhd_files(v, fd), k = 0;
	struct stat st;

	fd[level - 1] = child;
	for (unsigned i = level - 1; i < n; i++) {
		if (fstat(fd[i], &st))
			return err_sys(err, -errno, "file %u of the chain", i);
		part[k++] = (struct vhd_part){img_of_fd(fd[i]), fd[i], st.st_mtim.tv_sec};
	}
	return vhd_open(part, k, VHD_WRITE | VHD_ANY_PARENT, out, err);
}

/* The child is a snapshot itself. Nobody else may know it while it is written: who made a child of it now would
 * take note of a time that it does not keep. */
static int below(struct vmm_leaving *g, struct vhd_image *v, unsigned level,
		 struct leave *l, struct err *err)
{
	int fd[VHD_CHAIN_MAX], old[2] = {-1, -1}, child = l->fd, rc;
	struct vhd_image *apart = NULL;

	if (child < 0 || level >= vhd_files(v, fd))
		return err_set(err, -EINVAL, "the file above it was not given");
	if (flock(fd[level - 1], LOCK_EX | LOCK_NB))
		return err_set(err, -EBUSY, "the snapshot above it is in use");
	rc = open_apart(v, level, child, &apart, err);
	rc = rc ? rc : pull(g, apart, l, err);
	if (rc) {
		vhd_close(apart);
		if (flock(fd[level - 1], LOCK_SH | LOCK_NB))
			log_warn("a snapshot stays locked: %s", strerror(errno));
		return rc;
	}
	l->fd = -1; /* the chain's */
	rc = vhd_replace(v, level - 1, apart, old, err);
	for (unsigned i = 0; i < 2; i++)
		if (old[i] >= 0)
			close(old[i]);
	if (!rc && flock(child, LOCK_SH | LOCK_NB))
		log_warn("a snapshot is not locked: %s", strerror(errno));
	return rc;
}

static int leave_one(struct vmm_leaving *g, unsigned disk, struct err *err)
{
	struct leave *l = &g->disk[disk];
	struct vhd_image *v = g->m->vhd[disk];
	int fd, level = vhd_find(v, l->uuid, &fd);

	/* Done before. */
	if (level < 0)
		return 0;
	if (!level)
		return err_set(err, -EINVAL, "it is what the guest writes");
	if (flock(fd, LOCK_EX | LOCK_NB))
		return err_set(err, -EBUSY, "it is in use by another program");
	return level == 1 ? under_leaf(g, v, l, err)
			  : below(g, v, (unsigned)level, l, err);
}

static void *leave_main(void *arg)
{
	struct vmm_leaving *g = arg;
	struct err err = {0};
	int rc = 0;

	for (unsigned i = 0; !rc && i < VMM_DISKS_MAX; i++)
		if (g->disk[i].needed) {
			rc = leave_one(g, i, &err);
			if (rc)
				(void)err_ctx(&err, "disk %u", i); /* rc is told */
		}
	vmm_tell(g->m, json_pack("{s:s,s:I,s:b,s:s}", "ev", "snap-left", "id",
				 (json_int_t)g->id, "ok", !rc, "why", err.msg));
	leaving_free(g);
	return NULL;
}

void vmm_snap_leave_all(struct vmm *m, uint64_t id)
{
	struct vmm_leaving *g = m->leaving;
	const char *why = "out of memory";
	pthread_t t;

	m->leaving = NULL;
	if (g && g->id != id)
		why = "an older one was in the way";
	else if (g && g->why[0])
		why = g->why;
	else if (g && !pthread_create(&t, NULL, leave_main, g)) {
		(void)pthread_detach(t); /* just made: cannot fail */
		return;
	}
	vmm_tell(m, json_pack("{s:s,s:I,s:b,s:s}", "ev", "snap-left", "id",
			      (json_int_t)id, "ok", 0, "why", why));
	if (g)
		leaving_free(g);
}
