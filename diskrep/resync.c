/* SPDX-License-Identifier: Apache-2.0
 * resync - what is to be looked at; and the primary's claim, as records.
 */
#include "diskrep/resync.h"

#include "diskrep/dr.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int dr_plan(const struct dr_claim *p, const struct dr_claim *s, const char **why_out)
{
	const struct dr_claim *writer = p->role == ACT_WRITER ? p : s;
	const struct dr_claim *follower = p->role == ACT_WRITER ? s : p;

	if (p->role == ACT_NONE)
		*why_out = "it is not known what this host's images are at";
	else if (s->role == ACT_NONE)
		*why_out = "it is not known what the standby's images are at";
	else if (memcmp(p->at.base, s->at.base, DR_BASE_LEN) != 0)
		*why_out = "the standby's images are of another base";
	else if (writer->role != ACT_WRITER || follower->role != ACT_FOLLOWER)
		*why_out = "both hosts claim the same part in their common base";
	else if (writer->at.epoch > follower->at.epoch)
		*why_out =
			"the standby's images are older than what was known to be safe";
	else
		*why_out = NULL;
	return !*why_out;
}

int dr_claim_put(struct rec_sink *sink, const struct dr_claim *c, uint32_t flags)
{
	struct dr_wire_claim w = {
		.epoch = le64_of(c->at.epoch),
		.role = le32_of(c->role),
		.flags = le32_of(flags),
	};

	memcpy(w.base, c->at.base, DR_BASE_LEN);
	return rec_put(sink, DR_REC_CLAIM, REC_EPOCH_SYNC, &w, sizeof(w));
}

static int put_bits(struct rec_sink *sink, uint32_t disk, const struct dr_bits *marks)
{
	struct dr_wire_run *run = calloc(DR_RUNS_MAX, sizeof(*run));
	uint64_t at = 0, count;
	uint32_t n = 0;
	int rc = run ? 0 : -ENOMEM;

	while (!rc) {
		uint64_t first;

		count = dr_bits_run(marks, at, &first);
		at = first + count;
		if (count)
			run[n++] = (struct dr_wire_run){.first = le64_of(first),
							.count = le64_of(count)};
		if (n && (!count || n == DR_RUNS_MAX)) {
			struct dr_wire_bits w = {.disk = le32_of(disk),
						 .count = le32_of(n)};
			struct iovec iov[2] = {
				{.iov_base = &w, .iov_len = sizeof(w)},
				{.iov_base = run, .iov_len = n * sizeof(*run)},
			};

			rc = sink->put(sink, DR_REC_BITS, REC_EPOCH_SYNC, iov, 2);
			n = 0;
		}
		if (!count)
			break;
	}
	free(run);
	return rc;
}

/* The marks as they are now. Later ones are sent without being asked for. */
static int put_marks(struct diskrep *dr, uint32_t disk, struct rec_sink *sink)
{
	struct dr_bits marks;
	int rc;

	pthread_mutex_lock(&dr->lock);
	rc = dr_bits_init(&marks, dr->disk[disk].img.chunks);
	if (!rc)
		act_marks(&dr->activity.act, disk, &marks);
	pthread_mutex_unlock(&dr->lock);
	if (rc)
		return rc;
	rc = put_bits(sink, disk, &marks);
	dr_bits_fini(&marks);
	return rc;
}

int dr_greet(void *self, struct rec_sink *sink, struct err *err)
{
	struct diskrep *dr = self;
	struct dr_claim claim;
	int rc;

	pthread_mutex_lock(&dr->lock);
	claim = dr->activity.act.claim;
	dr->resync.greeted = claim;
	dr->resync.partial = 0;
	pthread_mutex_unlock(&dr->lock);
	rc = dr_sizes_put(dr, sink);
	rc = rc ? rc : dr_claim_put(sink, &claim, 0);
	for (uint32_t i = 0; !rc && claim.role != ACT_NONE && i < dr->disks; i++)
		rc = put_marks(dr, i, sink);
	return rc ? err_sys(err, rc, "telling what the disks' images are at") : 0;
}

int dr_claim_parse(struct reader *r, struct dr_claim *c, uint32_t *flags_out,
		   struct err *err)
{
	static const uint8_t none[DR_BASE_LEN];
	const uint8_t *base = rd_take(r, DR_BASE_LEN);
	uint64_t epoch = rd_u64(r);
	uint32_t role = rd_u32(r);
	int based;

	*flags_out = rd_u32(r);
	if (r->failed || rd_left(r) || role > ACT_FOLLOWER)
		return err_set(err, -EBADMSG, "disk claim: the record is not valid");
	based = memcmp(base, none, DR_BASE_LEN) != 0;
	if (based != (role != ACT_NONE))
		return err_set(err, -EBADMSG, "disk claim: a base without a role");
	c->role = (enum act_role)role;
	c->at.epoch = epoch;
	memcpy(c->at.base, base, DR_BASE_LEN);
	return 0;
}

int dr_claim_record(struct diskrep *dr, struct reader *r, struct err *err)
{
	struct dr_resync *rs = &dr->resync;
	struct dr_claim theirs = {0};
	uint32_t flags;
	int rc = dr_claim_parse(r, &theirs, &flags, err), may;

	if (rc)
		return rc;
	if (dr->mode != DR_OFF || rs->told || (flags & ~(uint32_t)DR_CLAIM_PARTIAL))
		return err_set(err, -EBADMSG, "a disk claim that is not due");
	may = dr_plan(&rs->greeted, &theirs, &rs->why);
	if (flags && !may)
		return err_set(err, -EBADMSG,
			       "the standby wants a part of its disks compared, but %s",
			       rs->why);
	rs->told = 1;
	rs->partial = !!flags;
	if (!rs->partial)
		log_info("disks: full comparison: %s",
			 rs->why ? rs->why : "the standby asks for it");
	return 0;
}

int dr_base_send(struct diskrep *dr, struct rec_sink *sink, struct err *err)
{
	uint8_t base[DR_BASE_LEN];
	int rc = 0;

	if (getrandom(base, sizeof(base), 0) != (ssize_t)sizeof(base))
		rc = -EIO;
	base[0] |= 1; /* all zeroes would mean none */
	if (!rc)
		rc = rec_put(sink, DR_REC_BASE, REC_EPOCH_SYNC, base, sizeof(base));
	if (rc)
		return err_sys(err, rc, "telling the standby what its disks become");
	pthread_mutex_lock(&dr->lock);
	act_base(&dr->activity.act, base);
	pthread_mutex_unlock(&dr->lock);
	return 0;
}
