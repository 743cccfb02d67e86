/* SPDX-License-Identifier: Apache-2.0
 * snapfile - snapshots of a VM: where their files are, which there are, and whether one is all there.
 */
#include "ctl/snapfile.h"

#include "ctl/image_ops.h"
#include "hv/base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const state_name[SNAP_NSTATES] = {
	[SNAP_PREPARED] = "prepared", [SNAP_SWITCHING] = "switching",
	[SNAP_CUT] = "cut",	      [SNAP_COMPLETE] = "complete",
	[SNAP_DELETING] = "deleting", [SNAP_REVERTING] = "reverting",
};

const char *snap_state_name(enum snap_state s)
{
	return (unsigned)s < SNAP_NSTATES ? state_name[s] : "?";
}

int snap_name_ok(const char *name)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				 "0123456789._-";
	size_t n = strlen(name);

	return n && n < SNAP_NAME_MAX && strspn(name, ok) == n && name[0] != '.' &&
	       name[0] != '_' && name[0] != '-';
}

int snap_path(const struct snap_disk *d, const char *name, const char *suffix, char *out)
{
	size_t n = strlen(d->image);
	int len;

	if (n > 4 && !strcmp(d->image + n - 4, ".vhd"))
		n -= 4;
	len = snprintf(out, PATH_MAX, "%.*s@%s%s", (int)n, d->image, name, suffix);
	return len < 0 || len >= PATH_MAX ? -ENAMETOOLONG : 0;
}

int snap_disks(const struct config_vm *vm, struct snap *s, struct err *err)
{
	s->n = 0;
	for (unsigned i = 0; i < vm->n_disks; i++) {
		const struct config_disk *c = &vm->disks[i];

		if (c->read_only)
			continue;
		if (c->format != CONFIG_FORMAT_VHD)
			return err_set(
				err, -EINVAL,
				"disk %u (%s) is raw, and snapshots are of VHD images: "
				"rheactl image convert makes one of it",
				i, c->path);
		s->disk[s->n].disk = i;
		if (!realpath(c->path, s->disk[s->n].image))
			return err_sys(err, -errno, "%s", c->path);
		s->n++;
	}
	return s->n ? 0
		    : err_set(err, -EINVAL, "%s has no disk that it writes", vm->name);
}

static struct snap *snap_new(struct err *err)
{
	struct snap *s = calloc(1, sizeof(*s));

	if (!s)
		(void)err_set(err, -ENOMEM, "out of memory"); /* NULL is returned */
	return s;
}

int snap_load(const struct config_vm *vm, const char *name, struct snap *s,
	      struct err *err)
{
	struct snap *at = snap_new(err);
	char path[PATH_MAX];
	int rc;

	if (!at)
		return -ENOMEM;
	rc = snap_disks(vm, at, err);
	if (!rc && snap_path(&at->disk[0], name, ".json", path))
		rc = err_sys(err, -ENAMETOOLONG, "%s", name);
	free(at);
	return rc ? rc : snap_read(path, s, err);
}

void snap_list_free(struct snap **list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

static int by_age(const void *a, const void *b)
{
	const struct snap *x = *(struct snap *const *)a, *y = *(struct snap *const *)b;

	return (x->created_ms > y->created_ms) - (x->created_ms < y->created_ms);
}

/* Is this "STEM@NAME.json"? Then NAME goes to @name. */
static int is_description(const char *file, const char *stem, char *name)
{
	size_t s = strlen(stem), n = strlen(file);

	if (n < s + 6 || n - s - 5 >= SNAP_NAME_MAX || strncmp(file, stem, s) != 0 ||
	    strcmp(file + n - 5, ".json") != 0)
		return 0;
	(void)snprintf(name, SNAP_NAME_MAX, "%.*s", (int)(n - s - 5),
		       file + s); /* fits */
	return snap_name_ok(name);
}

static int add_to_list(const char *path, struct snap **list, unsigned *n, struct err *err)
{
	struct snap *s = snap_new(err);
	struct err bad = {0};

	if (!s)
		return -ENOMEM;
	/* One that cannot be read is not this one's affair; it cannot be used either. */
	if (*n == SNAP_LIST_MAX || snap_read(path, s, &bad))
		free(s);
	else
		list[(*n)++] = s;
	return 0;
}

static int gather(const char *prefix, struct snap **list, unsigned *n, struct err *err)
{
	char dir[PATH_MAX], path[2 * PATH_MAX], name[SNAP_NAME_MAX];
	const char *stem = strrchr(prefix, '/') + 1;
	const struct dirent *e;
	DIR *d;
	int rc = 0;

	(void)snprintf(dir, sizeof(dir), "%.*s", (int)(stem - prefix), prefix); /* fits */
	d = opendir(dir);
	if (!d)
		return err_sys(err, -errno, "%s", dir);
	while (!rc && (e = readdir(d))) {
		if (!is_description(e->d_name, stem, name))
			continue;
		(void)snprintf(path, sizeof(path), "%s%s", dir, e->d_name); /* fits */
		rc = add_to_list(path, list, n, err);
	}
	(void)closedir(d); /* it was only read */
	return rc;
}

int snap_list(const struct config_vm *vm, struct snap ***list_out, unsigned *n_out,
	      struct err *err)
{
	struct snap **list = calloc(SNAP_LIST_MAX, sizeof(struct snap *));
	struct snap *at = snap_new(err);
	char prefix[PATH_MAX];
	unsigned n = 0;
	int rc = list && at ? snap_disks(vm, at, err) : -ENOMEM;

	*list_out = NULL;
	*n_out = 0;
	if (!rc && snap_path(&at->disk[0], "", "", prefix))
		rc = err_sys(err, -ENAMETOOLONG, "%s", at->disk[0].image);
	rc = rc ? rc : gather(prefix, list, &n, err);
	free(at);
	if (rc) {
		snap_list_free(list, n);
		return rc;
	}
	qsort(list, n, sizeof(struct snap *), by_age);
	*list_out = list;
	*n_out = n;
	return 0;
}

static int has_file(const struct snap *s, const struct snap_disk *d)
{
	struct vhd_info *info = calloc(1, sizeof(*info));
	struct err err = {0};
	char path[PATH_MAX];
	int fd = -1, ok = 0;

	/* With two names, it is no more than the image itself. */
	if (info && !snap_path(d, s->name, ".vhd", path) &&
	    !snap_same_file(path, d->image))
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && !vhd_probe(img_of_fd(fd), info, &err))
		ok = !memcmp(info->uuid, d->uuid, VHD_UUID_LEN);
	if (fd >= 0)
		(void)close(fd); /* it was only read */
	free(info);
	return ok;
}

int snap_is_complete(const struct snap *s)
{
	int ok = s->state == SNAP_COMPLETE;

	for (unsigned i = 0; ok && i < s->n; i++)
		ok = has_file(s, &s->disk[i]);
	return ok;
}

/* Bytes that its files take, and the size of its disks. */
static uint64_t bytes_of(const struct snap *s, uint64_t *size)
{
	uint64_t bytes = 0;
	char path[PATH_MAX];
	struct stat st;

	*size = 0;
	for (unsigned i = 0; i < s->n; i++) {
		*size += s->disk[i].size;
		if (!snap_path(&s->disk[i], s->name, ".vhd", path) && !stat(path, &st))
			bytes += (uint64_t)st.st_blocks * 512;
	}
	if (s->memory[0] && !stat(s->memory, &st))
		bytes += (uint64_t)st.st_blocks * 512;
	return bytes;
}

json_t *snap_json(const struct snap *s)
{
	uint64_t size, bytes = bytes_of(s, &size);

	return json_pack("{s:s,s:I,s:I,s:I,s:o,s:I,s:I,s:i,s:b,s:s,s:b}", "name", s->name,
			 "id", (json_int_t)s->id, "created_ms", (json_int_t)s->created_ms,
			 "term", (json_int_t)s->term, "epoch",
			 s->epoch == UINT64_MAX ? json_null()
						: json_integer((json_int_t)s->epoch),
			 "size", (json_int_t)size, "bytes", (json_int_t)bytes, "disks",
			 (int)s->n, "memory", s->memory[0] != 0, "state",
			 snap_state_name(s->state), "complete", snap_is_complete(s));
}
