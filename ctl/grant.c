/* SPDX-License-Identifier: Apache-2.0
 * grant - the record of a VM that survives power cuts.
 *
 * On disk: struct grant_wire. The checksum covers all before it. Version 3 is the same without
 * GRANT_SAVED, version 2 also without GRANT_BEHIND, version 1 also without GRANT_INCOMPLETE; they are read, and written no more.
 */
#include "ctl/grant.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "ctl/config.h"

enum {
	GRANT_VERSION = 4,
	GRANT_ALONE = 1,
	GRANT_BYE = 2,
	GRANT_WANTED = 4,
	GRANT_OVERRIDE = 8,
	GRANT_INCOMPLETE = 16,
	GRANT_BEHIND = 32,
	GRANT_SAVED = 64,
};
/* By version: the flags that it knows. */
static const uint32_t grant_flags[GRANT_VERSION + 1] = {
	[1] = 15, [2] = 31, [3] = 63, [4] = 127};
static const char grant_magic[8] = "RHEAGRNT";
#define GRANT_SUFFIX ".grant"
#define GRANT_TMP    ".grant.new"

struct grant_wire {
	char magic[8];
	struct le32 version;
	struct le32 len; /* of all of this */
	struct le64 term;
	struct le64 epoch;
	struct le64 wall_ns;
	struct le32 flags;
	struct le32 zero;
	char vm[CONFIG_NAME_MAX];
	char owner[CONFIG_NAME_MAX];
	struct le64 sum; /* XXH3-64 of the bytes before */
};
WIRE_SIZE(struct grant_wire, 120);
_Static_assert(offsetof(struct grant_wire, term) == 16, "term is at 16");
_Static_assert(offsetof(struct grant_wire, vm) == 48, "vm is at 48");
_Static_assert(offsetof(struct grant_wire, sum) == 112, "sum is at 112");
_Static_assert(sizeof(((struct grant *)0)->owner) == CONFIG_NAME_MAX,
	       "one length of names");

static int path_of(char *out, size_t room, const char *dir, const char *vm,
		   const char *suffix, struct err *err)
{
	int n = snprintf(out, room, "%s/%s%s", dir, vm, suffix);

	if (n < 0 || (size_t)n >= room || !vm[0] || strchr(vm, '/') ||
	    strlen(vm) >= CONFIG_NAME_MAX)
		return err_set(err, -ENAMETOOLONG,
			       "record of VM \"%s\": bad name or too long a path", vm);
	return 0;
}

static int write_all(int fd, const void *p, size_t len)
{
	const char *c = p;
	ssize_t n;

	while (len) {
		n = write(fd, c, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		c += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Without it a rename may be lost by a power cut although the file's blocks are there. */
static int sync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd))
		rc = -errno;
	close(fd);
	return rc;
}

static int has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), s = strlen(suffix);

	return n > s && !strcmp(name + n - s, suffix);
}

static int remove_leftovers(const char *dir, struct err *err)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int rc = 0;

	if (!d)
		return err_sys(err, -errno, "state directory %s", dir);
	while (!rc && (e = readdir(d)))
		if (has_suffix(e->d_name, GRANT_TMP) && unlinkat(dirfd(d), e->d_name, 0))
			rc = err_sys(err, -errno, "%s/%s: cannot remove", dir, e->d_name);
	closedir(d);
	return rc;
}

int grant_dir_prepare(const char *dir, struct err *err)
{
	char parent[PATH_MAX];
	char *slash;
	int rc;

	if (mkdir(dir, 0700)) {
		if (errno != EEXIST)
			return err_sys(err, -errno,
				       "state directory %s: cannot create it", dir);
		return remove_leftovers(dir, err);
	}
	if (snprintf(parent, sizeof(parent), "%s", dir) >= (int)sizeof(parent))
		return err_set(err, -ENAMETOOLONG, "state directory: path too long");
	slash = strrchr(parent, '/');
	if (slash)
		slash[slash == parent] = '\0';
	rc = sync_dir(slash ? parent : ".");
	return rc ? err_sys(err, rc, "%s: cannot sync the directory above", dir) : 0;
}

static void to_wire(struct grant_wire *w, const char *vm, const struct grant *g)
{
	const struct pair_record *r = &g->record;

	memset(w, 0, sizeof(*w));
	memcpy(w->magic, grant_magic, sizeof(w->magic));
	w->version = le32_of(GRANT_VERSION);
	w->len = le32_of(sizeof(*w));
	w->term = le64_of(r->term);
	w->epoch = le64_of(r->epoch);
	w->wall_ns = le64_of(g->wall_ns ? g->wall_ns : clock_real_ns());
	w->flags = le32_of((r->alone ? GRANT_ALONE : 0) | (r->bye ? GRANT_BYE : 0) |
			   (r->wanted ? GRANT_WANTED : 0) |
			   (r->override ? GRANT_OVERRIDE : 0) |
			   (r->incomplete ? GRANT_INCOMPLETE : 0) |
			   (r->behind ? GRANT_BEHIND : 0) | (r->saved ? GRANT_SAVED : 0));
	memcpy(w->vm, vm, strlen(vm)); /* path_of() has checked the length */
	memcpy(w->owner, g->owner, strnlen(g->owner, sizeof(w->owner) - 1));
	w->sum = le64_of(XXH3_64bits(w, offsetof(struct grant_wire, sum)));
}

/* Order: the new bytes are on disk before the name points at them (fsync before rename), and the
 * name is on disk before we report success (fsync of the directory). A crash in between leaves the
 * old record, or the new one, and perhaps a temporary file. */
static int replace(const char *dir, const char *tmp, const char *path,
		   const struct grant_wire *w)
{
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600),
	    rc;

	if (fd < 0)
		return -errno;
	rc = write_all(fd, w, sizeof(*w));
	if (!rc && fsync(fd))
		rc = -errno;
	if (close(fd) && !rc)
		rc = -errno;
	if (!rc && rename(tmp, path))
		rc = -errno;
	if (rc)
		(void)unlink(tmp); /* grant_dir_prepare() removes it else */
	return rc ? rc : sync_dir(dir);
}

int grant_store(const char *dir, const char *vm, const struct grant *g, struct err *err)
{
	char path[PATH_MAX], tmp[PATH_MAX];
	struct grant_wire w;
	int rc = path_of(path, sizeof(path), dir, vm, GRANT_SUFFIX, err);

	if (!rc)
		rc = path_of(tmp, sizeof(tmp), dir, vm, GRANT_TMP, err);
	if (rc)
		return rc;
	to_wire(&w, vm, g);
	rc = replace(dir, tmp, path, &w);
	return rc ? err_sys(err, rc, "%s: cannot store term %llu durably", path,
			    (unsigned long long)g->record.term)
		  : 0;
}

static const char *damage(const struct grant_wire *w, size_t len, const char *vm)
{
	uint32_t version;

	if (len != sizeof(*w))
		return "has the wrong size";
	if (memcmp(w->magic, grant_magic, sizeof(w->magic)) != 0)
		return "is no record of Rhea's";
	if (le64_get(w->sum) != XXH3_64bits(w, offsetof(struct grant_wire, sum)))
		return "is damaged (checksum)";
	version = le32_get(w->version);
	if (!version || version > GRANT_VERSION)
		return "is of another version of Rhea";
	if (le32_get(w->len) != sizeof(*w) ||
	    le32_get(w->flags) & ~grant_flags[version] ||
	    !memchr(w->vm, '\0', sizeof(w->vm)) ||
	    !memchr(w->owner, '\0', sizeof(w->owner)))
		return "holds impossible values";
	return strcmp(w->vm, vm) != 0 ? "belongs to another VM" : NULL;
}

static void from_wire(const struct grant_wire *w, const char *host, struct grant *out)
{
	uint32_t flags = le32_get(w->flags);

	memset(out, 0, sizeof(*out));
	memcpy(out->owner, w->owner, sizeof(out->owner));
	out->wall_ns = le64_get(w->wall_ns);
	out->record = (struct pair_record){
		.term = le64_get(w->term),
		.epoch = le64_get(w->epoch),
		.mine = !strcmp(w->owner, host),
		.alone = !!(flags & GRANT_ALONE),
		.bye = !!(flags & GRANT_BYE),
		.wanted = !!(flags & GRANT_WANTED),
		.override = !!(flags & GRANT_OVERRIDE),
		.incomplete = !!(flags & GRANT_INCOMPLETE),
		.behind = !!(flags & GRANT_BEHIND),
		.saved = !!(flags & GRANT_SAVED),
	};
}

static ssize_t read_some(const char *path, void *p, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n, len = 0;

	if (fd < 0)
		return -errno;
	do {
		n = read(fd, (char *)p + len, room - (size_t)len);
		if (n > 0)
			len += n;
	} while ((n > 0 && (size_t)len < room) || (n < 0 && errno == EINTR));
	if (n < 0)
		len = -errno;
	close(fd);
	return len;
}

int grant_load(const char *dir, const char *vm, const char *host, struct grant *out,
	       struct err *err)
{
	struct {
		struct grant_wire w;
		char more; /* a longer file is noticed */
	} in;
	char path[PATH_MAX];
	const char *what;
	ssize_t n;
	int rc = path_of(path, sizeof(path), dir, vm, GRANT_SUFFIX, err);

	if (rc)
		return rc;
	n = read_some(path, &in, sizeof(in));
	if (n == -ENOENT)
		return -ENOENT;
	if (n < 0)
		return err_sys(err, (int)n, "%s: cannot read the record", path);
	what = damage(&in.w, (size_t)n, vm);
	if (what)
		return err_set(
			err, -EBADMSG,
			"%s %s; if the other host has run this VM since, move the file away and "
			"start again, else decide with: rheactl failover --override",
			path, what);
	from_wire(&in.w, host, out);
	return 0;
}
