/* SPDX-License-Identifier: Apache-2.0
 * vmm_verify - compares the disks of both hosts, for rhead.
 */
#include "ctl/vmm.h"

#include "diskrep/diskrep.h"

#include <stdio.h>

static void tell(struct vmm *m, uint64_t seq, const struct diskrep_verified *r)
{
	json_t *first = json_array();

	/* A list that stays short for want of memory is no harm: the count is said, too. */
	for (uint64_t i = 0; i < r->differ && i < DISKREP_FIRST; i++)
		json_array_append_new(first, json_pack("{s:i,s:I}", "disk",
						       (int)r->first[i].disk, "offset",
						       (json_int_t)r->first[i].offset));
	vmm_tell(m, json_pack("{s:s,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:s,s:o}}", "ev",
			      "verified", "seq", (json_int_t)seq, "result", "total",
			      (json_int_t)r->total, "chunks", (json_int_t)r->chunks,
			      "busy", (json_int_t)r->busy, "differ",
			      (json_int_t)r->differ, "repaired", (json_int_t)r->repaired,
			      "why", r->why, "first", first));
}

static void on_end(void *arg, const struct diskrep_verified *r)
{
	struct vmm *m = arg;

	tell(m, m->verify_seq, r);
}

void vmm_verify(struct vmm *m, uint64_t seq, int repair)
{
	struct diskrep_verified none = {0}, now;
	struct err err = {0};
	int running;

	/* Its number must not change while one goes on. */
	diskrep_verify_now(m->diskrep, &now, &running);
	if (!running)
		m->verify_seq = seq;
	if (!diskrep_verify(m->diskrep, repair, on_end, m, &err))
		return;
	(void)snprintf(none.why, sizeof(none.why), "%.*s", (int)sizeof(none.why) - 1,
		       err.msg); /* cutting is fine */
	tell(m, seq, &none);
}
