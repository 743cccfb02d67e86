/* SPDX-License-Identifier: Apache-2.0
 * cmd_disk - commands about the disks of both hosts: verify, resize, and the rate of a sync.
 */
#include "ctl/cmd.h"

#include "ctl/ctlsock.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"

#include <stdlib.h>
#include <string.h>

/* A request that waits for what rhea-vm answers in the end. */
struct answer {
	struct host *h;
	struct ctl_conn *c;
	struct vmrun *v;
	struct host_watch watch;
	const char *name; /* of the answer's member */
	json_t *(*got)(const struct vmrun *v, uint64_t *seq_out);
	uint64_t want;
	const struct vmproc *proc; /* that was asked; compared only */
};

static void answer_free(struct answer *w)
{
	host_watch_remove(w->h, &w->watch);
	free(w);
}

static void on_gone(void *arg)
{
	answer_free(arg);
}

static void on_change(void *arg, struct vmrun *v)
{
	struct answer *w = arg;
	uint64_t seq;
	json_t *r = w->got(w->v, &seq);

	if (seq >= w->want) {
		ctl_end(w->c, json_pack("{s:O}", w->name, r));
		answer_free(w);
	} else if (vmrun_proc(w->v) != w->proc) {
		ctl_error(w->c, "%s: rhea-vm has ended meanwhile",
			  vmrun_config(w->v)->name);
		answer_free(w);
	}
}

/* The VM that the request names, if its guest runs here; else the request was ended with an error. */
static struct vmrun *running(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = cmd_vm(h, c, req);

	if (!v || (vmrun_proc(v) && pair_state_is_primary(vmrun_pair(v)->state)))
		return v;
	ctl_error(c, "%s does not run on host %s; ask the host where it runs",
		  vmrun_config(v)->name, config_self(h->cfg)->name);
	return NULL;
}

/* @how: what to wait for; @how->want: as vmrun_*_ask() have said. */
static void await_answer(const struct answer *how)
{
	struct answer *w = how->want ? malloc(sizeof(*w)) : NULL;

	if (!w) {
		ctl_error(how->c, "%s: %s", vmrun_config(how->v)->name,
			  how->want ? "rhead is out of memory"
				    : "rhea-vm does not listen");
		return;
	}
	*w = *how;
	w->proc = vmrun_proc(how->v);
	w->watch = (struct host_watch){.fn = on_change, .arg = w};
	host_watch_add(w->h, &w->watch);
	ctl_async(w->c, on_gone, w);
}

void cmd_disk_verify(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = running(h, c, req);
	struct answer w = {
		.h = h, .c = c, .v = v, .name = "verified", .got = vmrun_verified};

	if (!v)
		return;
	w.want = vmrun_verify_ask(v, json_is_true(json_object_get(req, "repair")));
	await_answer(&w);
}

/* A disk by its number or its serial; -1: there is none. */
static int find_disk(const struct config_vm *vm, const char *name)
{
	char *end;
	unsigned long n = strtoul(name, &end, 10);

	for (unsigned i = 0; i < vm->n_disks; i++)
		if (!strcmp(vm->disks[i].serial, name))
			return (int)i;
	return *name && !*end && n < vm->n_disks ? (int)n : -1;
}

void cmd_disk_resize(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = running(h, c, req);
	const char *name = json_string_value(json_object_get(req, "disk"));
	json_int_t bytes = cmd_int(req, "bytes", 0, INT64_MAX, -1);
	struct answer w = {
		.h = h, .c = c, .v = v, .name = "resized", .got = vmrun_resized};
	int disk;

	if (!v)
		return;
	disk = name ? find_disk(vmrun_config(v), name) : -1;
	if (disk < 0 || bytes < 0) {
		ctl_error(c,
			  disk < 0 ? "%s has no such disk; give its number, from 0, or "
				     "its serial"
				   : "%s: the size must be in bytes, not negative",
			  vmrun_config(v)->name);
		return;
	}
	if (vmrun_disks_busy(v)) {
		ctl_error(c, "%s: %s", vmrun_config(v)->name, vmrun_disks_busy(v));
		return;
	}
	w.want = vmrun_resize_ask(v, (unsigned)disk, (uint64_t)bytes);
	await_answer(&w);
}

void cmd_resync_rate(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = cmd_vm(h, c, req);
	json_int_t bytes = cmd_int(req, "bytes", 0, INT64_C(1) << 40, -1);

	if (!v)
		return;
	if (bytes < 0 || (bytes && bytes < 1 << 20))
		ctl_error(c, "the rate must be 0, for no limit, or 1 MiB/s to 1 TiB/s");
	else if (vmrun_resync_rate(v, (uint64_t)bytes))
		ctl_error(c, "%s: no rhea-vm runs on this host now",
			  vmrun_config(v)->name);
	else
		ctl_end(c, json_pack("{s:b}", "ok", 1));
}
