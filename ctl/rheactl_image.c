/* SPDX-License-Identifier: Apache-2.0
 * rheactl_image - image create, info, check and so on: disk images that no VM uses.
 *
 * Needs no rhead: the files' own locks say whether a VM uses them.
 */
#include "ctl/rheactl_image.h"

#include "ctl/image_chain.h"
#include "ctl/image_ops.h"
#include "ctl/rheactl.h"
#include "hv/base/err.h"
#include "hv/base/hex.h"
#include "hv/base/size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char how[] = "image create|info|check|repair|convert|resize|snapshot|clone|"
			  "coalesce|revert|export|changed IMAGE [IMAGE2] [OPTIONS]";

static int fail(const struct err *err)
{
	(void)fprintf(stderr, "rheactl: %s\n", err->msg);
	return RC_FAILED;
}

/* "10G" in bytes; 0: no size. */
static uint64_t size_of(const char *text)
{
	uint64_t bytes;

	return text && !size_parse(text, &bytes) ? bytes : 0;
}

static int ends_in(const char *path, const char *suffix)
{
	size_t n = strlen(path), k = strlen(suffix);

	return n > k && !strcmp(path + n - k, suffix);
}

/* By its name, or by @said. -1: neither tells. */
static int format_of(const char *path, const char *said)
{
	static const struct {
		const char *name, *suffix;
		enum image_format format;
	} known[] = {
		{"raw", ".raw", IMAGE_RAW},	  {"raw", ".img", IMAGE_RAW},
		{"vhd", ".vhd", IMAGE_VHD},	  {"vhd", ".vpc", IMAGE_VHD},
		{"qcow2", ".qcow2", IMAGE_QCOW2}, {"vmdk", ".vmdk", IMAGE_VMDK},
	};

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (said ? !strcmp(said, known[i].name) : ends_in(path, known[i].suffix))
			return (int)known[i].format;
	return -1;
}

static int new_of(const struct image_want *w, const char *path, struct image_new *n)
{
	int format = format_of(path, w->to);

	if (format < 0)
		return rc_usage("%s: of which format? --to raw, vhd, qcow2 or vmdk",
				path);
	*n = (struct image_new){.format = (enum image_format)format,
				.type = w->parent ? VHD_DIFF : VHD_DYNAMIC,
				.size = size_of(w->size),
				.block_size = w->block,
				.parent = w->parent};
	if (w->type && !strcmp(w->type, "fixed"))
		n->type = VHD_FIXED;
	else if (w->type && strcmp(w->type, "dynamic") != 0)
		return rc_usage("--type fixed or dynamic");
	if (w->type && w->parent)
		return rc_usage("a child of another image has no --type");
	if (w->size && !n->size)
		return rc_usage("\"%s\" is no size; write it like 512M or 10G", w->size);
	return RC_OK;
}

static int do_create(const struct image_want *w)
{
	struct err err = {0};
	struct image_new n = {0};
	int rc = new_of(w, w->path, &n);

	if (rc)
		return rc;
	if (!n.size && !n.parent)
		return rc_usage("image create IMAGE --size SIZE, or --parent IMAGE");
	if (n.format != IMAGE_RAW && n.format != IMAGE_VHD)
		return rc_usage("image create makes raw and VHD images");
	return image_create(w->path, &n, &err) ? fail(&err) : RC_OK;
}

static int do_clone(const struct image_want *w)
{
	struct image_new n = {.format = IMAGE_VHD,
			      .type = VHD_DIFF,
			      .size = size_of(w->size),
			      .parent = w->path};
	struct err err = {0};

	return image_create(w->other, &n, &err) ? fail(&err) : RC_OK;
}

static const char *type_name(enum vhd_type t)
{
	return t == VHD_FIXED ? "fixed" : t == VHD_DYNAMIC ? "dynamic" : "differencing";
}

static json_t *describe(const struct image_file *f, const struct vhd_info *i)
{
	char uuid[2 * VHD_UUID_LEN + 1];
	json_t *o;

	hex_put(uuid, i->uuid, VHD_UUID_LEN);
	o = json_pack("{s:s,s:s,s:s,s:I,s:I,s:s,s:s,s:b,s:b}", "path", f->path, "format",
		      "vhd", "type", type_name(i->type), "size", (json_int_t)i->capacity,
		      "used", (json_int_t)f->st.st_blocks * 512, "creator", i->creator,
		      "id", uuid, "merging", i->merging, "footer_damaged",
		      i->footer_mended);
	if (o && i->type != VHD_FIXED)
		json_object_update_new(o, json_pack("{s:I,s:I,s:I}", "block_size",
						    (json_int_t)i->block_size, "blocks",
						    (json_int_t)i->entries, "allocated",
						    (json_int_t)i->allocated));
	return o;
}

static void show(json_t *o, unsigned depth)
{
	printf("%*s%s: VHD, %s, %lld bytes (%lld on disk), by \"%s\"%s%s\n",
	       (int)depth * 2, "", rc_str(o, "path"), rc_str(o, "type"),
	       json_integer_value(json_object_get(o, "size")),
	       json_integer_value(json_object_get(o, "used")), rc_str(o, "creator"),
	       json_is_true(json_object_get(o, "merging")) ? ", a merge was broken off"
							   : "",
	       json_is_true(json_object_get(o, "footer_damaged"))
		       ? ", a footer is damaged"
		       : "");
}

/* The chain as far as it is there; what is missing makes it a failure. */
static int do_info(const struct image_want *w)
{
	static struct image_chain chain;
	static struct vhd_info info;
	json_t *list = json_array(), *o;
	struct vhd_image *v = NULL;
	struct err err = {0};
	int rc = image_chain_open(w->path, 0, &chain, &err);

	for (unsigned i = 0; i < chain.n; i++) {
		struct err own = {0};

		o = vhd_probe(chain.part[i].io, &info, &own)
			    ? NULL
			    : describe(&chain.file[i], &info);
		if (o && !w->rc->json)
			show(o, i);
		json_array_append_new(list, o);
	}
	rc = rc ? rc : image_chain_use(&chain, 0, &v, &err);
	vhd_close(v);
	image_chain_close(&chain);
	if (w->rc->json) {
		o = json_pack("{s:o,s:b,s:s}", "chain", list, "whole", !rc, "why",
			      err.msg);
		rc_print_json(o, 0);
		json_decref(o);
	} else {
		json_decref(list);
	}
	return rc ? fail(&err) : RC_OK;
}

static void print_report(struct rc *rc, const struct vhd_report *r)
{
	json_t *o = json_pack(
		"{s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "clean", vhd_report_clean(r),
		"bad_front_footer", (json_int_t)r->bad_front, "bad_end_footer",
		(json_int_t)r->bad_end, "blocks_beyond_end", (json_int_t)r->beyond,
		"blocks_overlapping", (json_int_t)r->overlaps, "blocks",
		(json_int_t)r->allocated, "free_bytes", (json_int_t)r->holes,
		"tail_bytes", (json_int_t)r->tail);

	if (rc->json)
		rc_print_json(o, 0);
	else
		printf("%llu blocks; %llu bytes inside and %llu behind them are free\n",
		       (unsigned long long)r->allocated, (unsigned long long)r->holes,
		       (unsigned long long)r->tail);
	json_decref(o);
	if (r->bad_front || r->bad_end)
		(void)fprintf(stderr, "the footer at the %s is damaged\n",
			      r->bad_front ? "front" : "end");
	if (r->beyond)
		(void)fprintf(stderr, "%llu blocks reach beyond the end of the file\n",
			      (unsigned long long)r->beyond);
	if (r->overlaps)
		(void)fprintf(stderr, "%llu blocks overlap\n",
			      (unsigned long long)r->overlaps);
}

static int do_check(const struct image_want *w)
{
	struct vhd_report r = {0};
	struct err err = {0};

	if (image_check(w->path, &r, &err))
		return fail(&err);
	print_report(w->rc, &r);
	return vhd_report_clean(&r) ? RC_OK : RC_FAILED;
}

static int do_repair(const struct image_want *w)
{
	struct vhd_report r = {0};
	struct err err = {0};

	if (image_repair(w->path, w->parent, &r, &err))
		return fail(&err);
	/* What was found; it is mended now. */
	print_report(w->rc, &r);
	return RC_OK;
}

static void on_progress(void *arg, uint64_t done, uint64_t all)
{
	static uint64_t told = UINT64_MAX;
	uint64_t now = all ? done * 100 / all : 100;

	if (!isatty(STDERR_FILENO) || now == told)
		return;
	told = now;
	(void)fprintf(stderr, "\r%3llu %%%s", (unsigned long long)now,
		      done >= all ? "\n" : "");
}

static int do_convert(const struct image_want *w)
{
	int from = format_of(w->path, w->from), rc;
	struct err err = {0};
	struct image_new n = {0};

	if (from < 0)
		return rc_usage("%s: of which format? --from raw, vhd, qcow2 or vmdk",
				w->path);
	rc = new_of(w, w->other, &n);
	if (rc)
		return rc;
	return image_convert(w->path, (enum image_format)from, w->other, n.format, &n,
			     on_progress, NULL, &err)
		       ? fail(&err)
		       : RC_OK;
}

static int do_resize(const struct image_want *w)
{
	int format = format_of(w->path, w->from);
	uint64_t size = size_of(w->size);
	struct err err = {0};

	if (!size)
		return rc_usage("image resize IMAGE --size SIZE [--shrink]");
	if (format != IMAGE_RAW && format != IMAGE_VHD)
		return rc_usage("%s: of which format? --from raw or vhd", w->path);
	return image_resize(w->path, (enum image_format)format, size, w->shrink, &err)
		       ? fail(&err)
		       : RC_OK;
}

static int do_snapshot(const struct image_want *w)
{
	struct err err = {0};

	return image_snapshot(w->path, w->other, &err) ? fail(&err) : RC_OK;
}

static int do_coalesce(const struct image_want *w)
{
	struct err err = {0};

	return image_coalesce(w->path, on_progress, NULL, &err) ? fail(&err) : RC_OK;
}

static int do_revert(const struct image_want *w)
{
	struct err err = {0};

	return image_revert(w->path, w->other, &err) ? fail(&err) : RC_OK;
}

/* Of raw and VHD images. */
static int by_format(const struct image_want *w,
		     int (*fn)(const struct image_want *w, int raw))
{
	int format = format_of(w->path, w->from);

	return format != IMAGE_RAW && format != IMAGE_VHD
		       ? rc_usage("%s: of which format? --from raw or vhd", w->path)
		       : fn(w, format == IMAGE_RAW);
}

static int do_export(const struct image_want *w)
{
	return by_format(w, rheactl_image_export);
}

static int do_changed(const struct image_want *w)
{
	return by_format(w, rheactl_image_changed);
}

static const struct {
	const char *name;
	int (*fn)(const struct image_want *w);
	int least, most; /* images named */
} deeds[] = {
	{"create", do_create, 1, 1},	 {"info", do_info, 1, 1},
	{"check", do_check, 1, 1},	 {"repair", do_repair, 1, 1},
	{"convert", do_convert, 2, 2},	 {"resize", do_resize, 1, 1},
	{"snapshot", do_snapshot, 2, 2}, {"clone", do_clone, 2, 2},
	{"coalesce", do_coalesce, 1, 1}, {"revert", do_revert, 1, 2},
	{"export", do_export, 1, 1},	 {"changed", do_changed, 1, 1},
};

static int take_option(struct image_want *w, int c)
{
	switch (c) {
	case 'S':
		w->size = optarg;
		return RC_OK;
	case 't':
		w->type = optarg;
		return RC_OK;
	case 'p':
		w->parent = optarg;
		return RC_OK;
	case 'f':
		w->from = optarg;
		return RC_OK;
	case 'o':
		w->to = optarg;
		return RC_OK;
	case 'i':
		w->since = optarg;
		return RC_OK;
	case 'l':
		w->listen = optarg;
		return RC_OK;
	case 'c':
		w->tls_certificates = optarg;
		return RC_OK;
	case 'q':
		w->tls_psk = optarg;
		return RC_OK;
	case '1':
		w->once = 1;
		return RC_OK;
	case 'k':
		w->shrink = 1;
		return RC_OK;
	case 'b':
		w->block = size_of(optarg) < UINT32_MAX ? (uint32_t)size_of(optarg)
							: UINT32_MAX;
		return w->block ? RC_OK : RC_USAGE;
	default:
		return rc_option(w->rc, c);
	}
}

int rheactl_image(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {
		RC_OPTIONS,
		{"size", required_argument, NULL, 'S'},
		{"type", required_argument, NULL, 't'},
		{"parent", required_argument, NULL, 'p'},
		{"from", required_argument, NULL, 'f'},
		{"to", required_argument, NULL, 'o'},
		{"block-size", required_argument, NULL, 'b'},
		{"shrink", no_argument, NULL, 'k'},
		{"since", required_argument, NULL, 'i'},
		{"listen", required_argument, NULL, 'l'},
		{"tls-certificates", required_argument, NULL, 'c'},
		{"tls-psk", required_argument, NULL, 'q'},
		{"once", no_argument, NULL, '1'},
		{NULL, 0, NULL, 0}};
	struct image_want w = {.rc = rc};
	int c, images;

	while ((c = getopt_long(argc, argv, "jw::s:h", longs, NULL)) != -1)
		if (take_option(&w, c))
			return rc_usage("%s", how);
	images = argc - optind - 1;
	for (unsigned i = 0; images > 0 && i < sizeof(deeds) / sizeof(deeds[0]); i++) {
		if (strcmp(argv[optind], deeds[i].name) != 0)
			continue;
		if (images < deeds[i].least || images > deeds[i].most)
			break;
		w.path = argv[optind + 1];
		w.other = images > 1 ? argv[optind + 2] : NULL;
		return deeds[i].fn(&w);
	}
	return rc_usage("%s", how);
}
