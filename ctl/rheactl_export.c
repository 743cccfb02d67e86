/* SPDX-License-Identifier: Apache-2.0
 * rheactl_export - image export and image changed: for backup programs.
 */
#include "ctl/rheactl.h"
#include "ctl/rheactl_image.h"

#include "ctl/image_export.h"
#include "hv/base/err.h"
#include "hv/base/hex.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int fail(const struct err *err)
{
	(void)fprintf(stderr, "rheactl: %s\n", err->msg);
	return RC_FAILED;
}

static const char *id_of(const struct image_export *x, unsigned i, char *out)
{
	struct vhd_info info;
	struct err err = {0};

	out[0] = 0;
	if (x->v && i < x->chain.n && !vhd_probe(x->chain.part[i].io, &info, &err))
		hex_put(out, info.uuid, VHD_UUID_LEN);
	return out;
}

/* The sums of what changed. */
struct changes {
	struct rc *rc;
	uint64_t data, zeroes;
};

static int show_change(void *arg, uint64_t at, uint64_t len, int zero)
{
	struct changes *c = arg;
	const char *form = c->rc->json ? "{\"offset\":%" PRIu64 ",\"length\":%" PRIu64
					 ",\"zero\":%s}\n"
				       : "%15" PRIu64 " %15" PRIu64 " %s\n";
	const char *kind =
		c->rc->json ? (zero ? "true" : "false") : (zero ? "zeroes" : "data");

	*(zero ? &c->zeroes : &c->data) += len;
	return printf(form, at, len, kind) < 0 ? -EIO : 0;
}

int rheactl_image_changed(const struct image_want *w, int raw)
{
	static struct image_export x; /* large */
	struct changes c = {.rc = w->rc};
	char new_id[2 * VHD_UUID_LEN + 1], old_id[2 * VHD_UUID_LEN + 1];
	struct err err = {0};
	json_t *o;
	int rc;

	if (!w->since)
		return rc_usage("image changed IMAGE --since OLDER");
	rc = image_export_open(&x, w->path, raw, w->since, &err);
	rc = rc ? rc : image_export_changed(&x, show_change, &c, &err);
	if (!rc && w->rc->json) {
		o = json_pack("{s:I,s:I,s:I,s:s,s:s}", "size", (json_int_t)x.bytes,
			      "data_bytes", (json_int_t)c.data, "zero_bytes",
			      (json_int_t)c.zeroes, "id", id_of(&x, 0, new_id),
			      "since_id", id_of(&x, x.since, old_id));
		rc_print_json(o, 1);
		json_decref(o);
	}
	image_export_close(&x);
	return rc ? fail(&err) : RC_OK;
}

/* An absolute path for the socket: beside the image if none is said. */
static int where_of(const struct image_want *w, char *out, size_t room)
{
	const char *said = w->listen ? w->listen : w->path;
	char cwd[PATH_MAX] = "";
	int path = !w->listen || strchr(said, '/'), n;

	if (path && said[0] != '/' && !getcwd(cwd, sizeof(cwd)))
		return -errno;
	n = snprintf(out, room, "%s%s%s%s", cwd, cwd[0] ? "/" : "", said,
		     w->listen ? "" : ".nbd");
	return n < 0 || (size_t)n >= room ? -ENAMETOOLONG : 0;
}

struct told {
	struct rc *rc;
	const struct image_export *x;
};

static void show_ready(void *arg, const struct image_uri *uri)
{
	const struct told *t = arg;
	int since = t->x->v && t->x->since < t->x->chain.n;
	char id[2 * VHD_UUID_LEN + 1];
	json_t *o;

	if (t->rc->json) {
		o = json_pack("{s:s+,s:s,s:I}", "uri", uri->before, uri->after, "id",
			      id_of(t->x, 0, id), "size", (json_int_t)t->x->bytes);
		if (o && since)
			json_object_update_new(
				o, json_pack("{s:s++,s:s}", "changed_uri", uri->before,
					     "changed", uri->after, "since_id",
					     id_of(t->x, t->x->since, id)));
		rc_print_json(o, 1);
		json_decref(o);
	} else {
		printf("%s%s\n", uri->before, uri->after);
		if (since)
			printf("%schanged%s\n", uri->before, uri->after);
	}
	(void)fflush(stdout); /* who does not listen is served nevertheless */
}

static void show_served(struct rc *rc, const struct image_served *s)
{
	json_t *o;

	if (!rc->json) {
		printf("%" PRIu64 " connections read %" PRIu64 " bytes in %" PRIu64
		       " requests\n",
		       s->clients, s->bytes, s->reads);
		return;
	}
	o = json_pack("{s:I,s:I,s:I}", "connections", (json_int_t)s->clients, "reads",
		      (json_int_t)s->reads, "read_bytes", (json_int_t)s->bytes);
	rc_print_json(o, 1);
	json_decref(o);
}

int rheactl_image_export(const struct image_want *w, int raw)
{
	static struct image_export x; /* large */
	char where[PATH_MAX];
	struct image_nbd how = {.where = where,
				.tls_certificates = w->tls_certificates,
				.tls_psk = w->tls_psk,
				.once = w->once};
	struct told told = {.rc = w->rc, .x = &x};
	struct image_served served;
	struct err err = {0};
	int rc = where_of(w, where, sizeof(where));

	if (rc)
		(void)err_sys(&err, rc, "the socket's path"); /* told below */
	rc = rc ? rc : image_export_open(&x, w->path, raw, w->since, &err);
	rc = rc ? rc : image_export_serve(&x, &how, show_ready, &told, &served, &err);
	image_export_close(&x);
	if (rc)
		return fail(&err);
	show_served(w->rc, &served);
	return RC_OK;
}
