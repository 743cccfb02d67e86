/* SPDX-License-Identifier: Apache-2.0
 * digests - the standby tells what its images hold; the primary's side of that.
 *
 * All of it comes before sync_begin, on the receiver thread: the standby says it is ready for
 * the sync only after its hello. Once complete, the digests belong to the sender thread.
 */
#include "diskrep/dr.h"
#include "diskrep/resync.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct told {
	uint32_t disk, disks, count, flags;
	uint64_t capacity, first;
};

void dr_digests_forget(struct diskrep *dr)
{
	for (uint32_t i = 0; i < dr->disks; i++) {
		free(dr->disk[i].digests);
		dr->disk[i].digests = NULL;
		dr->disk[i].digests_known = 0;
		dr_bits_fini(&dr->disk[i].told);
	}
	dr->peer_told = 0;
	dr->resync.told = 0;
}

/* The disk that the record speaks of. 0 or -errno with @err. */
static int disk_of(struct diskrep *dr, const struct told *t, struct dr_disk **d_out,
		   struct err *err)
{
	struct dr_disk *d;

	if (t->disks != dr->disks)
		return err_set(err, -EINVAL, "the standby has %u disks, this host %u",
			       t->disks, dr->disks);
	if (t->disk >= dr->disks)
		return err_set(err, -EBADMSG, "digests of disk %u of %u", t->disk,
			       dr->disks);
	d = &dr->disk[t->disk];
	if (t->capacity != d->img.capacity)
		return err_set(
			err, -EINVAL,
			"disk %u has %llu bytes on the standby and %llu here: make the "
			"images equally large",
			t->disk, (unsigned long long)t->capacity,
			(unsigned long long)d->img.capacity);
	if (dr->resync.partial ? t->first < d->digests_known || t->first > d->img.chunks
			       : t->first != d->digests_known)
		return err_set(err, -EBADMSG, "digests of disk %u are out of order",
			       t->disk);
	if (t->count > d->img.chunks - t->first || (t->flags & ~(uint32_t)DR_DIGEST_ZERO))
		return err_set(err, -EBADMSG, "digests of disk %u are out of order",
			       t->disk);
	*d_out = d;
	return 0;
}

/* @p: @t->count digests, or NULL for chunks of zeroes. */
static int store(struct dr_disk *d, const struct told *t, const void *p, struct err *err)
{
	struct dr_digest zero = dr_digest_zero(DR_CHUNK);

	/* The size is that of our own image, whatever the peer says. */
	if (!d->digests && !dr_bits_init(&d->told, d->img.chunks))
		d->digests = calloc(d->img.chunks + 1, sizeof(*d->digests));
	if (!d->digests)
		return err_set(err, -ENOMEM, "no memory for the digests of disk %u",
			       d->index);
	if (p && t->count)
		memcpy(d->digests + t->first, p, (size_t)t->count * DR_DIGEST_LEN);
	for (uint64_t c = t->first; !p && c < t->first + t->count; c++)
		d->digests[c] = dr_chunk_len(&d->img, c) == DR_CHUNK
					? zero
					: dr_digest_zero(dr_chunk_len(&d->img, c));
	if (t->count)
		dr_bits_add(&d->told, t->first, t->count);
	d->digests_known = t->first + t->count;
	return 0;
}

int dr_standby_zero(const struct dr_disk *d, uint64_t c)
{
	struct dr_digest zero = dr_digest_zero(dr_chunk_len(&d->img, c));

	return !memcmp(&d->digests[c], &zero, sizeof(zero));
}

static int all_told(const struct diskrep *dr)
{
	for (uint32_t i = 0; i < dr->disks; i++)
		if (dr->disk[i].digests_known != dr->disk[i].img.chunks)
			return 0;
	return 1;
}

/* Under lock. */
static int take_digests(struct diskrep *dr, struct reader *r, struct err *err)
{
	struct dr_disk *d = NULL;
	struct told t;
	int zero, rc;

	t.disk = rd_u32(r);
	t.disks = rd_u32(r);
	t.capacity = rd_u64(r);
	t.first = rd_u64(r);
	t.count = rd_u32(r);
	t.flags = rd_u32(r);
	zero = t.flags == DR_DIGEST_ZERO;
	if (r->failed || rd_left(r) != (zero ? 0 : (uint64_t)t.count * DR_DIGEST_LEN))
		return err_set(err, -EBADMSG, "digests: the record's length is wrong");
	if (dr->mode != DR_OFF || dr->peer_told)
		return err_set(err, -EBADMSG, "digests after the sync began");
	if (!dr->disks && !t.disks) {
		dr->peer_told = 1;
		return 0;
	}
	rc = disk_of(dr, &t, &d, err);
	if (d)
		rc = store(d, &t, zero ? NULL : rd_take(r, rd_left(r)), err);
	if (!rc)
		dr->peer_told = all_told(dr);
	return rc;
}

int dr_peer_record(void *self, uint16_t type, const void *p, size_t len, struct err *err)
{
	struct diskrep *dr = self;
	struct reader r = reader_of(p, len);
	int rc;

	if (type != DR_REC_DIGESTS && type != DR_REC_CLAIM && type != DR_REC_DIFFERS &&
	    type != DR_REC_GROWN)
		return err_set(err, -EBADMSG, "disk record of unknown type %#x", type);
	pthread_mutex_lock(&dr->lock);
	rc = type == DR_REC_CLAIM     ? dr_claim_record(dr, &r, err)
	     : type == DR_REC_DIFFERS ? dr_verify_record(dr, &r, err)
	     : type == DR_REC_GROWN   ? dr_grown_record(dr, &r, err)
				      : take_digests(dr, &r, err);
	pthread_mutex_unlock(&dr->lock);
	return rc;
}
