/* SPDX-License-Identifier: Apache-2.0
 * fuzz_snapfile - any bytes as a snapshot's description: what is taken can be written and is the same then, and what
 * is done to it touches no file but the snapshot's.
 *
 * "/D/" in the input stands for the folder that the images are in.
 */
#include "ctl/snapfile.h"
#include "hv/base/err.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { ROOM = 1 << 20 };

static char dir[] = "/dev/shm/fuzz_snapfile.XXXXXX", text[2][ROOM];
static char image[64], description[64], sentinel[64];
static struct snap a, b;
static struct config_vm vm;

static void must(int ok)
{
	if (!ok)
		abort();
}

static void put(const char *path, const char *p, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0 && write(fd, p, len) == (ssize_t)len && !close(fd));
}

static size_t get(const char *path, char *p)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, p, ROOM);

	must(n >= 0 && n < ROOM && !close(fd));
	return (size_t)n;
}

static void remove_all(void)
{
	(void)unlink(description); /* it need not be there */
	must(!unlink(image) && !unlink(sentinel) && !rmdir(dir));
}

static void make_all(void)
{
	must(mkdtemp(dir) != NULL);
	(void)snprintf(image, sizeof(image), "%s/web.vhd", dir); /* these fit */
	(void)snprintf(description, sizeof(description), "%s/web@s.json", dir);
	(void)snprintf(sentinel, sizeof(sentinel), "%s/keep.vhd", dir);
	put(image, "image", 5);
	put(sentinel, "kept", 4);
	vm = (struct config_vm){.name = "web", .n_disks = 1};
	vm.disks[0].format = CONFIG_FORMAT_VHD;
	(void)snprintf(vm.disks[0].path, sizeof(vm.disks[0].path), "%s", image);
	must(!atexit(remove_all));
}

/* The input with our folder in it: how long it is. */
static size_t with_folder(const uint8_t *data, size_t len, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + sizeof(dir) < ROOM;) {
		if (len - i >= 3 && !memcmp(data + i, "/D/", 3)) {
			memcpy(out + n, dir, sizeof(dir) - 1);
			n += sizeof(dir) - 1;
			i += 2;
		} else {
			out[n++] = (char)data[i++];
		}
	}
	return n;
}

static int ends(const char *s, size_t room)
{
	return memchr(s, '\0', room) != NULL;
}

static void check(const struct snap *s)
{
	must(!strcmp(s->name, "s") && ends(s->vm, sizeof(s->vm)) &&
	     ends(s->host, sizeof(s->host)) && ends(s->memory, sizeof(s->memory)));
	must((unsigned)s->state < SNAP_NSTATES && s->n && s->n <= CONFIG_DISKS_MAX);
	must(!strcmp(s->disk[0].image, image));
	must(!s->memory[0] || !strncmp(s->memory, dir, sizeof(dir) - 1));
	for (unsigned i = 0; i < s->n; i++) {
		const struct snap_disk *d = &s->disk[i];

		must(d->disk < CONFIG_DISKS_MAX && d->image[0] == '/' &&
		     ends(d->image, PATH_MAX) && ends(d->child, PATH_MAX));
		must(d->child[0] ? d->child[0] == '/' : !d->child_time);
		for (unsigned j = 0; j < i; j++)
			must(s->disk[j].disk != d->disk);
	}
}

static int same_disk(const struct snap_disk *x, const struct snap_disk *y)
{
	return x->disk == y->disk && !strcmp(x->image, y->image) &&
	       !memcmp(x->uuid, y->uuid, sizeof(x->uuid)) && x->size == y->size &&
	       x->time == y->time && !strcmp(x->child, y->child) &&
	       x->child_time == y->child_time;
}

static int same(const struct snap *x, const struct snap *y)
{
	for (unsigned i = 0; i < x->n && i < y->n; i++)
		if (!same_disk(&x->disk[i], &y->disk[i]))
			return 0;
	return x->n == y->n && !strcmp(x->vm, y->vm) && !strcmp(x->name, y->name) &&
	       !strcmp(x->host, y->host) && x->id == y->id &&
	       x->created_ms == y->created_ms && x->term == y->term &&
	       x->epoch == y->epoch && x->state == y->state &&
	       !strcmp(x->memory, y->memory) && x->with_memory == y->with_memory;
}

/* Written and read twice it is the same, and so is the text. */
static void goes_round(void)
{
	struct err err = {0};
	size_t n;

	must(!snap_store(&a, &err));
	n = get(description, text[0]);
	must(!snap_load(&vm, "s", &b, &err) && same(&a, &b));
	must(!snap_store(&b, &err) && get(description, text[1]) == n);
	must(!memcmp(text[0], text[1], n));
}

static void is_listed(unsigned n)
{
	struct snap **list;
	struct err err = {0};
	unsigned got;

	must(!snap_list(&vm, &list, &got, &err) && got == n);
	if (n)
		must(same(list[0], &a));
	snap_list_free(list, got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct err err = {0};
	json_t *shown;
	int rc;

	if (!image[0])
		make_all();
	put(description, text[0], with_folder(data, len, text[0]));
	rc = snap_load(&vm, "s", &a, &err);
	must(rc <= 0 && rc == err.code);
	is_listed(!rc);
	if (!rc) {
		check(&a);
		goes_round();
		shown = snap_json(&a);
		must(shown != NULL);
		json_decref(shown);
	}
	/* It may be refused: there are no such images. */
	err = (struct err){0};
	rc = snap_recover(&vm, &err);
	must(rc <= 0 && rc == err.code);
	/* Nor is each folder there: then it stays. */
	if (a.n && !access(description, F_OK))
		must(!snap_abandon(&a, &err) == (access(description, F_OK) != 0));
	must(get(image, text[0]) == 5 && get(sentinel, text[0]) == 4);
	return 0;
}
