/* SPDX-License-Identifier: Apache-2.0
 * vmrun_disks - what rhea-vm is asked about the disks of both hosts, and what it answers.
 */
#include "ctl/vmrun_impl.h"

#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"

#include <errno.h>

uint64_t vmrun_verify_ask(struct vmrun *v, int repair)
{
	json_t *msg;

	if (!v->proc)
		return 0;
	msg = json_pack("{s:s,s:I,s:b}", "op", "verify", "seq",
			(json_int_t)v->verify_asked + 1, "repair", repair);
	return vmproc_send(v->proc, msg, -1) ? 0 : ++v->verify_asked;
}

json_t *vmrun_verified(const struct vmrun *v, uint64_t *seq_out)
{
	*seq_out = v->verify_got;
	return v->verified;
}

const char *vmrun_disks_busy(const struct vmrun *v)
{
	if (v->snap || v->snapdel)
		return "a snapshot of it is being made or deleted";
	/* Of a process that is gone nothing goes on. */
	if (v->resize_asked != v->resize_got && v->resize_instance == v->instance)
		return "a disk of it is being resized";
	return NULL;
}

uint64_t vmrun_resize_ask(struct vmrun *v, unsigned disk, uint64_t bytes)
{
	json_t *msg;

	if (!v->proc)
		return 0;
	msg = json_pack("{s:s,s:I,s:i,s:I}", "op", "disk-resize", "seq",
			(json_int_t)v->resize_asked + 1, "disk", (int)disk, "bytes",
			(json_int_t)bytes);
	v->resize_instance = v->instance;
	return vmproc_send(v->proc, msg, -1) ? 0 : ++v->resize_asked;
}

json_t *vmrun_resized(const struct vmrun *v, uint64_t *seq_out)
{
	*seq_out = v->resize_got;
	return v->resized;
}

int vmrun_resync_rate(struct vmrun *v, uint64_t bytes)
{
	json_t *msg =
		json_pack("{s:s,s:I}", "op", "resync-rate", "bytes", (json_int_t)bytes);

	if (v->proc)
		return vmproc_send(v->proc, msg, -1);
	json_decref(msg);
	return -ESRCH;
}

static json_int_t number(json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

void vmrun_disk(struct vmrun *v, int bad)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_DISK, .instance = v->instance};

	ev.u.disk.bad = bad;
	vmrun_event(v, &ev);
}

void vmrun_take_disk(struct vmrun *v, json_t *msg)
{
	const char *why = json_string_value(json_object_get(msg, "why"));
	int bad = json_is_true(json_object_get(msg, "bad"));

	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch, "%s",
		   why ? why : "a disk of this host fails");
	vmrun_disk(v, bad);
}

void vmrun_take_verified(struct vmrun *v, json_t *msg)
{
	json_t *r = json_object_get(msg, "result");
	const char *why = json_string_value(json_object_get(r, "why"));

	json_decref(v->verified);
	v->verified = json_incref(r);
	v->verify_got = (uint64_t)number(msg, "seq");
	if (number(r, "total"))
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "disks verified: %lld of %lld chunks compared, %lld differ, "
			   "%lld repaired%s%s",
			   (long long)number(r, "chunks"), (long long)number(r, "total"),
			   (long long)number(r, "differ"),
			   (long long)number(r, "repaired"), why && why[0] ? "; " : "",
			   why ? why : "");
	host_changed(v->h, v);
}

void vmrun_take_resized(struct vmrun *v, json_t *msg)
{
	json_t *r = json_object_get(msg, "result");
	const char *why = json_string_value(json_object_get(r, "why"));

	json_decref(v->resized);
	v->resized = json_incref(r);
	v->resize_got = (uint64_t)number(msg, "seq");
	if (why && why[0])
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "disk %lld was not resized: %s", (long long)number(r, "disk"),
			   why);
	else
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "disk %lld has %lld bytes now, %s",
			   (long long)number(r, "disk"), (long long)number(r, "bytes"),
			   json_is_true(json_object_get(r, "standby"))
				   ? "on both hosts"
				   : "without a standby that has it");
	host_changed(v->h, v);
}
