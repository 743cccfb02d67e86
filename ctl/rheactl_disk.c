/* SPDX-License-Identifier: Apache-2.0
 * rheactl_disk - what people ask of a running VM's disks: list, resize, verify, resync-rate.
 */
#include "ctl/rheactl.h"
#include "ctl/table.h"
#include "hv/base/size.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long long number(json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void show(json_t *r)
{
	json_t *first = json_object_get(r, "first"), *p;
	size_t i;

	printf("%lld of %lld chunks of 64 KiB compared", number(r, "chunks"),
	       number(r, "total"));
	if (number(r, "busy"))
		printf(", %lld were written all the time", number(r, "busy"));
	printf("\n%lld differ, %lld repaired\n", number(r, "differ"),
	       number(r, "repaired"));
	json_array_foreach(first, i, p) printf("  disk %lld, offset %lld\n",
					       number(p, "disk"), number(p, "offset"));
	if (number(r, "differ") > (long long)json_array_size(first))
		printf("  ...\n");
	if (rc_str(r, "why")[0])
		printf("ended early: %s\n", rc_str(r, "why"));
}

static int verify(struct rc *rc, const char *vm, int repair)
{
	int status, ok;
	json_t *o, *r;

	o = rc_ask(rc,
		   json_pack("{s:s,s:s,s:b}", "cmd", "disk-verify", "vm", vm, "repair",
			     repair),
		   &status);
	if (!o)
		return status;
	r = json_object_get(o, "verified");
	if (rc->json)
		rc_print_json(r, 0);
	else
		show(r);
	ok = number(r, "differ") == number(r, "repaired") && !rc_str(r, "why")[0];
	json_decref(o);
	return ok ? RC_OK : RC_FAILED;
}

/* -1: it is no amount of bytes. */
static long long bytes_of(const char *text)
{
	uint64_t bytes;

	return size_parse(text, &bytes) || bytes > INT64_MAX ? -1 : (long long)bytes;
}

static int resize(struct rc *rc, const char *vm, const char *disk, const char *size)
{
	long long bytes = size ? bytes_of(size) : 0;
	char now[32];
	int status, ok;
	json_t *o, *r;

	if (bytes < 0 || (size && !bytes))
		return rc_usage(
			"a size is that of all of the disk, as 20G; without one it gets what "
			"its image or device has");
	o = rc_ask(rc,
		   json_pack("{s:s,s:s,s:s,s:I}", "cmd", "disk-resize", "vm", vm, "disk",
			     disk, "bytes", (json_int_t)bytes),
		   &status);
	if (!o)
		return status;
	r = json_object_get(o, "resized");
	ok = !rc_str(r, "why")[0];
	if (rc->json)
		rc_print_json(r, 0);
	else if (ok)
		printf("disk %lld of %s has %s now%s\n", number(r, "disk"), vm,
		       fmt_bytes(json_object_get(r, "bytes"), now, sizeof(now)),
		       json_is_true(json_object_get(r, "standby"))
			       ? ", on both hosts"
			       : "; a standby gets it when it is brought up");
	else
		fprintf(stderr, "rheactl: disk %lld of %s: %s\n", number(r, "disk"), vm,
			rc_str(r, "why"));
	json_decref(o);
	return ok ? RC_OK : RC_FAILED;
}

static void disk_row(struct table *t, size_t i, json_t *d)
{
	static const char *const sizes[] = {"bytes", "image_bytes", "file_bytes",
					    "used_bytes"};
	char text[32];

	table_row(t);
	table_add(t, "%zu", i);
	table_add(t, "%s", rc_str(d, "serial"));
	table_add(t, "%s%s", rc_str(d, "format"),
		  json_is_true(json_object_get(d, "read_only")) ? ", read-only" : "");
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
		table_add(t, "%s",
			  fmt_bytes(json_object_get(d, sizes[k]), text, sizeof(text)));
	table_add(t, "%lld", number(d, "files"));
	table_add(t, "%s", rc_str(d, "path"));
}

static void show_list(json_t *disks)
{
	static const struct {
		const char *text;
		int right;
	} head[] = {{"DISK", 1}, {"SERIAL", 0}, {"FORMAT", 0},
		    {"SIZE", 1}, {"IMAGE", 1},	{"LENGTH", 1},
		    {"USED", 1}, {"FILES", 1},	{"PATH", 0}};
	static struct table t;
	json_t *d;
	size_t i;

	for (i = 0; i < sizeof(head) / sizeof(head[0]); i++)
		table_head(&t, head[i].text, head[i].right);
	json_array_foreach(disks, i, d) disk_row(&t, i, d);
	table_print(&t);
}

static int list(struct rc *rc, const char *vm)
{
	json_t *st, *v, *disks = NULL;
	int status, known = 0;
	size_t i;

	st = rc_ask(rc, json_pack("{s:s}", "cmd", "status"), &status);
	if (!st)
		return status;
	json_array_foreach(json_object_get(st, "vms"), i, v)
	{
		if (strcmp(rc_str(v, "name"), vm) != 0)
			continue;
		known = 1;
		disks = json_object_get(v, "disks");
	}
	if (!json_is_array(disks)) {
		fprintf(stderr,
			known ? "rheactl: %s: no rhea-vm runs on this host now; rheactl image "
				"info tells of the files\n"
			      : "rheactl: no VM \"%s\"; \"rheactl status\" lists them\n",
			vm);
		status = RC_FAILED;
	} else if (rc->json) {
		rc_print_json(disks, 0);
	} else {
		show_list(disks);
	}
	json_decref(st);
	return status;
}

static int set_rate(struct rc *rc, const char *vm, const char *rate)
{
	long long bytes = bytes_of(rate);
	int status;

	if (bytes < 0)
		return rc_usage("a rate is bytes a second, as 200M, or 0 for no limit");
	json_decref(rc_ask(rc,
			   json_pack("{s:s,s:s,s:I}", "cmd", "resync-rate", "vm", vm,
				     "bytes", (json_int_t)bytes),
			   &status));
	return status;
}

int rheactl_disk(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {
		RC_OPTIONS, {"repair", no_argument, NULL, 'r'}, {NULL, 0, NULL, 0}};
	static const char how[] =
		"disk list VM, disk resize VM DISK [SIZE], disk verify VM [--repair], or disk resync-rate VM BYTES";
	int c, repair = 0;

	while ((c = getopt_long(argc, argv, "jw::s:hr", longs, NULL)) != -1)
		if (c == 'r')
			repair = 1;
		else if (rc_option(rc, c))
			return rc_usage("%s", how);
	if (argc - optind == 2 && !strcmp(argv[optind], "verify"))
		return verify(rc, argv[optind + 1], repair);
	if (argc - optind == 2 && !strcmp(argv[optind], "list") && !repair)
		return list(rc, argv[optind + 1]);
	if ((argc - optind == 3 || argc - optind == 4) &&
	    !strcmp(argv[optind], "resize") && !repair)
		return resize(rc, argv[optind + 1], argv[optind + 2], argv[optind + 3]);
	if (argc - optind == 3 && !strcmp(argv[optind], "resync-rate") && !repair)
		return set_rate(rc, argv[optind + 1], argv[optind + 2]);
	return rc_usage("%s", how);
}
