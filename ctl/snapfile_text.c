/* SPDX-License-Identifier: Apache-2.0
 * snapfile_text - the description of a snapshot as a file: how it is written, and what of it is believed.
 *
 * A description is JSON, at most DESCRIPTION_MAX bytes, and has each of the keys that are written here, of its type. It is
 * beside its first disk and has that one's name: what names files to be renamed or removed elsewhere is none.
 */
#include "ctl/snapfile.h"

#include "ctl/image_ops.h"
#include "hv/base/err.h"
#include "hv/base/hex.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A byte of a path takes up to 6 in JSON; the rest of a disk, and what is no disk's, take less than a path. */
enum {
	DESCRIPTION_MAX = 1 << 20,
	DISK_TEXT_MAX = 6 * (2 * PATH_MAX) + PATH_MAX,
	REST_TEXT_MAX = 6 * PATH_MAX + PATH_MAX,
};
static_assert(CONFIG_DISKS_MAX * DISK_TEXT_MAX + REST_TEXT_MAX < DESCRIPTION_MAX,
	      "what is written can be read");

static json_t *disks_json(const struct snap *s)
{
	json_t *all = json_array();
	char uuid[2 * VHD_UUID_LEN + 1];

	for (unsigned i = 0; i < s->n; i++) {
		hex_put(uuid, s->disk[i].uuid, VHD_UUID_LEN);
		if (json_array_append_new(
			    all,
			    json_pack("{s:i,s:s,s:s,s:I,s:I,s:s,s:I}", "disk",
				      (int)s->disk[i].disk, "image", s->disk[i].image,
				      "uuid", uuid, "size", (json_int_t)s->disk[i].size,
				      "time", (json_int_t)s->disk[i].time, "child",
				      s->disk[i].child, "child_time",
				      (json_int_t)s->disk[i].child_time))) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}

static json_t *to_json(const struct snap *s)
{
	return json_pack("{s:i,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s,s:o}", "version", 1,
			 "vm", s->vm, "name", s->name, "host", s->host, "id",
			 (json_int_t)s->id, "created_ms", (json_int_t)s->created_ms,
			 "term", (json_int_t)s->term, "epoch", (json_int_t)s->epoch,
			 "state", snap_state_name(s->state), "memory", s->memory, "disks",
			 disks_json(s));
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t len = strlen(text);
	int rc = fd < 0 ? -errno : 0;

	if (!rc)
		rc = img_write(img_of_fd(fd), text, len, 0);
	if (!rc && fsync(fd))
		rc = -errno;
	if (fd >= 0 && close(fd) && !rc)
		rc = -errno;
	return rc;
}

/* The text is on the disk before the name points to it, and the name before this returns. */
int snap_store(const struct snap *s, struct err *err)
{
	char path[PATH_MAX], fresh[PATH_MAX];
	json_t *o = to_json(s);
	char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
	int rc = text ? snap_path(&s->disk[0], s->name, ".json", path) : -ENOMEM;

	rc = rc ? rc : snap_path(&s->disk[0], s->name, ".json~", fresh);
	rc = rc ? rc : write_text(fresh, text);
	if (!rc && rename(fresh, path))
		rc = -errno;
	free(text);
	json_decref(o);
	if (rc)
		return err_sys(err, rc, "writing what snapshot %s is", s->name);
	return image_sync_dir(path, err);
}

/* One that is cut off would be another one's: it is refused. */
static int text_into(json_t *o, const char *key, char *out, size_t room)
{
	const char *s = json_string_value(json_object_get(o, key));
	int n = s ? snprintf(out, room, "%s", s) : -1;

	return n < 0 || (size_t)n >= room ? -EBADMSG : 0;
}

static int path_into(json_t *o, const char *key, int may_lack, char *out)
{
	if (text_into(o, key, out, PATH_MAX))
		return -EBADMSG;
	return out[0] == '/' || (may_lack && !out[0]) ? 0 : -EBADMSG;
}

static int number_into(json_t *o, const char *key, json_int_t *out)
{
	const json_t *n = json_object_get(o, key);

	*out = json_integer_value(n);
	return json_is_integer(n) ? 0 : -EBADMSG;
}

static int uuid_into(json_t *o, uint8_t *out)
{
	const char *s = json_string_value(json_object_get(o, "uuid"));

	if (!s || strlen(s) != 2 * (size_t)VHD_UUID_LEN)
		return -EBADMSG;
	for (unsigned i = 0; i < VHD_UUID_LEN; i++) {
		int hi = hex_digit(s[2 * i]), lo = hex_digit(s[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EBADMSG;
		out[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

static int disk_from(json_t *o, struct snap_disk *d)
{
	json_int_t disk, size, time, child_time;

	if (number_into(o, "disk", &disk) || number_into(o, "size", &size) ||
	    number_into(o, "time", &time) || number_into(o, "child_time", &child_time) ||
	    path_into(o, "image", 0, d->image) || path_into(o, "child", 1, d->child) ||
	    uuid_into(o, d->uuid))
		return -EBADMSG;
	d->disk = (unsigned)disk;
	d->size = (uint64_t)size;
	d->time = time;
	d->child_time = child_time;
	/* A time is of a child. */
	return disk < 0 || disk >= CONFIG_DISKS_MAX || size < 0 ||
			       (child_time && !d->child[0])
		       ? -EBADMSG
		       : 0;
}

static int is_twice(const struct snap *s, unsigned i)
{
	for (unsigned j = 0; j < i; j++)
		if (s->disk[j].disk == s->disk[i].disk ||
		    !strcmp(s->disk[j].image, s->disk[i].image))
			return 1;
	return 0;
}

static int disks_from(json_t *all, struct snap *s)
{
	size_t n = json_array_size(all);
	int rc = n && n <= CONFIG_DISKS_MAX ? 0 : -EBADMSG;

	for (s->n = 0; !rc && s->n < n; s->n++) {
		rc = disk_from(json_array_get(all, s->n), &s->disk[s->n]);
		rc = rc || is_twice(s, s->n) ? -EBADMSG : 0;
	}
	return rc;
}

static int state_from(json_t *o, enum snap_state *out)
{
	const char *state = json_string_value(json_object_get(o, "state"));

	for (unsigned i = 0; state && i < SNAP_NSTATES; i++)
		if (!strcmp(state, snap_state_name((enum snap_state)i))) {
			*out = (enum snap_state)i;
			return 0;
		}
	return -EBADMSG;
}

static int from_json(json_t *o, struct snap *s)
{
	json_int_t version, id, created, term, epoch;

	if (number_into(o, "version", &version) || version != 1 ||
	    number_into(o, "id", &id) || number_into(o, "created_ms", &created) ||
	    number_into(o, "term", &term) || number_into(o, "epoch", &epoch))
		return -EBADMSG;
	s->id = (uint64_t)id;
	s->created_ms = created;
	s->term = (uint64_t)term;
	s->epoch = (uint64_t)epoch;
	if (text_into(o, "vm", s->vm, sizeof(s->vm)) ||
	    text_into(o, "name", s->name, sizeof(s->name)) ||
	    text_into(o, "host", s->host, sizeof(s->host)) ||
	    path_into(o, "memory", 1, s->memory) || state_from(o, &s->state))
		return -EBADMSG;
	return disks_from(json_object_get(o, "disks"), s);
}

/* Is its first disk's file of @suffix @path? */
static int is_its_own(const struct snap *s, const char *suffix, const char *path)
{
	char own[PATH_MAX];

	return !snap_path(&s->disk[0], s->name, suffix, own) && !strcmp(own, path);
}

/* Names of files are made of it, which are removed, and put in others' places. */
static int check(const struct snap *s, const char *path)
{
	return snap_name_ok(s->name) && is_its_own(s, ".json", path) &&
			       (!s->memory[0] || is_its_own(s, ".mem", s->memory))
		       ? 0
		       : -EBADMSG;
}

/* The whole file, owned. A size that it has no more when it is read makes it none. */
static char *read_text(int fd, size_t *len_out)
{
	struct stat st;
	char *text;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > DESCRIPTION_MAX)
		return NULL;
	*len_out = (size_t)st.st_size;
	text = malloc(*len_out + 1);
	if (text && img_read(img_of_fd(fd), text, *len_out, 0)) {
		free(text);
		text = NULL;
	}
	return text;
}

int snap_read(const char *path, struct snap *s, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), rc;
	json_t *o = NULL;
	json_error_t at;
	size_t len = 0;
	char *text;

	if (fd < 0)
		return err_sys(err, -errno, "%s", path);
	text = read_text(fd, &len);
	(void)close(fd); /* it was only read */
	if (text)
		o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);
	free(text);
	memset(s, 0, sizeof(*s));
	rc = o ? from_json(o, s) : -EBADMSG;
	rc = rc ? rc : check(s, path);
	json_decref(o);
	if (!rc)
		return 0;
	memset(s, 0, sizeof(*s));
	return err_set(err, rc, "%s describes no snapshot", path);
}
