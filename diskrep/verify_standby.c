/* SPDX-License-Identifier: Apache-2.0
 * verify_standby - compares our chunks with the primary's digests, epoch by epoch.
 */
#include "diskrep/standby.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int drs_verify_record(struct diskrep_standby *s, uint64_t epoch, struct reader *r,
		      struct err *err)
{
	struct drs_verify *v = &s->resync.verify;
	struct dr_check c = {.disk = rd_u32(r)};
	uint32_t zero = rd_u32(r);

	c.chunk = rd_u64(r);
	if (rd_bytes(r, &c.digest, sizeof(c.digest)) || rd_left(r) || zero ||
	    c.disk >= s->n || c.chunk >= s->img[c.disk].chunks)
		return err_set(err, -EBADMSG, "disk record: a digest is not valid");
	if (!v->staged) {
		v->staged = calloc(VERIFY_STAGED, sizeof(*v->staged));
		v->bad = calloc(VERIFY_STAGED, sizeof(*v->bad));
	}
	if (!v->staged || !v->bad)
		return err_set(err, -ENOMEM, "no memory to verify disks");
	if (v->n == VERIFY_STAGED)
		return err_set(err, -ENOBUFS, "too many chunks are to be verified");
	v->staged[v->n++] = (struct drs_check){.epoch = epoch, .c = c};
	return 0;
}

static int differs(struct diskrep_standby *s, const struct dr_check *c, uint8_t *buf)
{
	const struct dr_image *img = &s->img[c->disk];
	uint32_t len = dr_chunk_len(img, c->chunk);
	int zero = dr_chunk_load(img, c->chunk, buf);
	struct dr_digest ours;

	if (zero < 0)
		return 1; /* what cannot be read is not what it should be */
	ours = zero ? dr_digest_zero(len) : dr_digest_of(buf, len);
	return memcmp(&ours, &c->digest, sizeof(ours)) != 0;
}

void drs_verify_applied(struct diskrep_standby *s, uint64_t epoch)
{
	struct drs_verify *v = &s->resync.verify;
	uint8_t *buf = v->n ? aligned_alloc(4096, DR_CHUNK) : NULL;
	unsigned left = 0;

	for (unsigned i = 0; i < v->n; i++) {
		const struct drs_check *c = &v->staged[i];

		if (c->epoch > epoch) {
			v->staged[left++] = *c;
			continue;
		}
		/* Without memory it is taken for damage, which is looked at once more. */
		if (buf && !differs(s, &c->c, buf))
			continue;
		log_warn("disk %u: the 64 KiB at %llu differ from the primary's",
			 c->c.disk, (unsigned long long)(c->c.chunk * DR_CHUNK));
		if (v->bads < VERIFY_STAGED)
			v->bad[v->bads++] = c->c;
	}
	v->n = left;
	free(buf);
}

int drs_verify_report(void *self, struct rec_sink *sink)
{
	struct diskrep_standby *s = self;
	struct drs_verify *v = &s->resync.verify;
	struct le64 chunk[VERIFY_BATCH];
	int rc = 0;

	for (unsigned i = 0; !rc && i < v->bads;) {
		uint32_t disk = v->bad[i].disk, n = 0;
		struct dr_wire_differs w;
		struct iovec iov[2] = {
			{.iov_base = &w, .iov_len = sizeof(w)},
			{.iov_base = chunk},
		};

		for (; n < VERIFY_BATCH && i < v->bads && v->bad[i].disk == disk; i++)
			chunk[n++] = le64_of(v->bad[i].chunk);
		w = (struct dr_wire_differs){.disk = le32_of(disk), .count = le32_of(n)};
		iov[1].iov_len = n * sizeof(chunk[0]);
		rc = sink->put(sink, DR_REC_DIFFERS, REC_EPOCH_SYNC, iov, 2);
	}
	v->bads = 0;
	return rc;
}

void drs_verify_reset(struct diskrep_standby *s)
{
	s->resync.verify.n = s->resync.verify.bads = 0;
}

void drs_verify_fini(struct diskrep_standby *s)
{
	free(s->resync.verify.staged);
	free(s->resync.verify.bad);
	s->resync.verify = (struct drs_verify){0};
}
