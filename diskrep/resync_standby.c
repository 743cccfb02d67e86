/* SPDX-License-Identifier: Apache-2.0
 * resync_standby - what the standby makes of the primary's greeting.
 */
#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"

#include <errno.h>
#include <string.h>

void drs_resync_reset(struct diskrep_standby *s)
{
	struct drs_resync *rs = &s->resync;

	for (unsigned i = 0; i < DR_DISKS_MAX; i++)
		dr_bits_fini(&rs->look[i]);
	rs->have_look = rs->told = 0;
}

static int take_claim(struct diskrep_standby *s, struct reader *r, struct err *err)
{
	struct drs_resync *rs = &s->resync;
	struct dr_claim theirs;
	uint32_t flags;
	int rc = dr_claim_parse(r, &theirs, &flags, err);

	if (rc)
		return rc;
	if (flags)
		return err_set(err, -EBADMSG, "a disk claim that is not due");
	/* A new link: the last one may have ended in the middle of this. */
	drs_resync_reset(s);
	rs->theirs = theirs;
	rs->told = 1;
	for (unsigned i = 0; !rc && i < s->n; i++)
		rc = dr_bits_init(&rs->look[i], s->img[i].chunks);
	if (rc) {
		drs_resync_reset(s);
		return err_set(err, -ENOMEM, "no memory for what is to be compared");
	}
	rs->have_look = 1;
	return 0;
}

static int take_bits(struct diskrep_standby *s, struct reader *r, struct err *err)
{
	struct drs_resync *rs = &s->resync;
	uint32_t disk = rd_u32(r), count = rd_u32(r);
	uint64_t end = 0;

	if (r->failed || !rs->have_look || rs->theirs.role == ACT_NONE || disk >= s->n ||
	    !count || count > DR_RUNS_MAX ||
	    rd_left(r) != count * sizeof(struct dr_wire_run))
		return err_set(err, -EBADMSG, "marked chunks: the record is not valid");
	while (count--) {
		uint64_t first = rd_u64(r), n = rd_u64(r), chunks = s->img[disk].chunks;

		if (first < end || first >= chunks || !n || n > chunks - first)
			return err_set(err, -EBADMSG, "marked chunks outside of disk %u",
				       disk);
		dr_bits_add(&rs->look[disk], first, n);
		end = first + n;
	}
	return 0;
}

static int take_base(struct diskrep_standby *s, struct reader *r, struct err *err)
{
	static const uint8_t none[DR_BASE_LEN];
	const uint8_t *base = rd_take(r, DR_BASE_LEN);

	int rc;

	if (!base || rd_left(r) || !memcmp(base, none, DR_BASE_LEN) || s->based ||
	    s->next)
		return err_set(err, -EBADMSG, "disk record: a base is not valid");
	rc = drs_sync_begins(s, base, err);
	if (!rc)
		memcpy(s->resync.base, base, DR_BASE_LEN);
	return rc;
}

int drs_resync_record(struct diskrep_standby *s, uint16_t type, struct reader *r,
		      struct err *err)
{
	switch (type) {
	case DR_REC_SIZES:
		return drs_sizes_record(s, r, err);
	case DR_REC_CLAIM:
		return take_claim(s, r, err);
	case DR_REC_BITS:
		return take_bits(s, r, err);
	case DR_REC_BASE:
		return take_base(s, r, err);
	default:
		return 1;
	}
}

/* What this host's images are at; what it has marked itself is joined to what is to be looked at. The
 * journal's word counts only if no guest has written here since, which only an activity log can tell. */
static struct dr_claim own_claim(struct diskrep_standby *s)
{
	struct drs_resync *rs = &s->resync;
	struct diskrep *dr = rs->own;
	struct dr_claim c = rs->at;

	if (c.role != ACT_NONE || !dr || !dr->activity.ready)
		return c;
	pthread_mutex_lock(&dr->lock);
	c = dr->activity.act.claim;
	if (dr_may_recall(dr))
		c = rs->found;
	for (unsigned i = 0; rs->have_look && c.role != ACT_NONE && i < s->n; i++)
		act_marks(&dr->activity.act, i, &rs->look[i]);
	pthread_mutex_unlock(&dr->lock);
	return c;
}

int drs_resync_hello(struct diskrep_standby *s, struct rec_sink *sink)
{
	struct drs_resync *rs = &s->resync;
	struct dr_claim ours = own_claim(s);
	const char *why = "the primary did not greet";
	int partial = rs->told && dr_plan(&rs->theirs, &ours, &why);
	int rc;

	memset(rs->base, 0, sizeof(rs->base));
	rs->told = 0;
	drs_verify_reset(s);
	if (!partial)
		log_info("disks: full comparison: %s", why);
	rc = dr_claim_put(sink, &ours, partial ? DR_CLAIM_PARTIAL : 0);
	return rc ? rc : partial;
}

void drs_resync_applied(struct diskrep_standby *s, uint64_t epoch)
{
	static const uint8_t none[DR_BASE_LEN];
	struct drs_resync *rs = &s->resync;

	drs_verify_applied(s, epoch);
	rs->found = (struct dr_claim){0};
	if (!memcmp(rs->base, none, DR_BASE_LEN)) {
		rs->at = (struct dr_claim){0};
		return;
	}
	rs->at.role = ACT_FOLLOWER;
	rs->at.at.epoch = epoch;
	memcpy(rs->at.at.base, rs->base, DR_BASE_LEN);
	if (!epoch && rs->own)
		dr_activity_close(rs->own);
}
