/* SPDX-License-Identifier: Apache-2.0
 * vmm_faults - disks that fail: what the guest sees of it, and what rhead is told (diskrep/FAULTS.md).
 */
#include "ctl/vmm.h"

#include "ctl/vmproto.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/blk.h"
#include "hv/shield.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is told on the control thread: the I/O thread may not wait for rhead. */
struct word {
	struct vmm *m;
	int bad;
	char why[192];
};

void vmm_tell_disk(struct vmm *m, int bad, const char *why)
{
	if (bad)
		log_err("%s", why);
	else
		log_info("%s", why);
	vmm_tell(m, json_pack("{s:s,s:b,s:s}", "ev", "disk", "bad", bad, "why", why));
}

static void say(void *arg)
{
	struct word *w = arg;

	vmm_tell_disk(w->m, w->bad, w->why);
	free(w);
}

static const char *op_name(enum blk_op op)
{
	static const char *const name[] = {
		[BLK_READ] = "a read",	  [BLK_WRITE] = "a write",
		[BLK_FLUSH] = "a flush",  [BLK_DISCARD] = "a discard",
		[BLK_ZEROES] = "zeroing",
	};

	return name[op];
}

static void describe(const struct shield_fault *f, unsigned disk, char *out, size_t room)
{
	static const char *const then[] = {
		[SHIELD_ANSWERED] = "the guest was told",
		[SHIELD_HELD] = "it waits for the other host to take over",
		[SHIELD_FULL] = "it waits for room",
		[SHIELD_MENDED] = "",
	};

	if (f->what == SHIELD_MENDED)
		(void)snprintf(out, room, "disk %u of this host works again", disk);
	else /* both fit */
		(void)snprintf(out, room,
			       "disk %u of this host: %s at %llu failed (%s): %s", disk,
			       op_name(f->op), (unsigned long long)f->offset,
			       strerror(-f->rc), then[f->what]);
}

/* Of which disk, as shield_news wants it. */
struct disk_ref {
	struct vmm *m;
	unsigned disk;
};

/* I/O thread. */
static void on_fault(void *arg, const struct shield_fault *f)
{
	const struct disk_ref *d = arg;
	struct word *w = malloc(sizeof(*w));

	if (w) {
		w->m = d->m;
		w->bad = f->what != SHIELD_MENDED;
		describe(f, d->disk, w->why, sizeof(w->why));
	}
	if (!w || loop_post(d->m->ctl, say, w)) {
		log_err("disk %u fails, and there is no memory to say how", d->disk);
		free(w);
	}
}

int vmm_shield_disk(struct vmm *m, unsigned i, struct blk *blk, struct err *err)
{
	/* The process's, of which there is one. */
	static struct disk_ref ref[VMM_DISKS_MAX];
	struct shield_news news = {.fn = on_fault, .arg = &ref[i]};
	int rc;

	ref[i] = (struct disk_ref){.m = m, .disk = i};
	rc = shield_create(*blk, m->io, news, &m->shield[i], blk, err);
	if (!rc)
		m->disk[i] = shield_img(m->shield[i], m->disk[i]);
	return rc;
}

void vmm_shield_all(struct vmm *m, int all)
{
	for (unsigned i = 0; i < m->set.disks; i++)
		shield_all(m->shield[i], all);
}

static void end_lost(void *arg)
{
	vmm_end(arg, VMEXIT_DISK);
}

void vmm_disk_lost(struct vmm *m, const char *why)
{
	vmm_tell_disk(m, 1, why);
	if (loop_post(m->ctl, end_lost, m))
		_exit(VMEXIT_DISK); /* out of memory: the same, without the order */
}

static json_t *fault_json(unsigned disk, const struct shield_stats *st)
{
	char last[192];

	describe(&st->last, disk, last, sizeof(last));
	return json_pack("{s:i,s:I,s:I,s:i,s:s}", "disk", (int)disk, "errors",
			 (json_int_t)st->errors, "answered", (json_int_t)st->answered,
			 "waiting", (int)st->waiting, "last", last);
}

json_t *vmm_faults_json(struct vmm *m)
{
	json_t *list = json_array();
	struct shield_stats st;

	/* A failed append leaves the list short: nothing is decided by it. */
	for (unsigned i = 0; i < m->set.disks && m->shield[i]; i++) {
		shield_stats(m->shield[i], &st);
		if (st.errors)
			json_array_append_new(list, fault_json(i, &st));
	}
	return list;
}
