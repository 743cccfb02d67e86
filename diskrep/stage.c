/* SPDX-License-Identifier: Apache-2.0
 * stage - records from the primary: checked against the images, then kept until their epoch is
 * acked. All of it is hostile input.
 */
#include "diskrep/standby.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "remus/participant.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

/* One record, understood: a range of a disk, and its bytes or zeroes. */
struct change {
	const uint64_t *capacity; /* of the disks, where this belongs */
	struct dr_image img;
	uint32_t disk;
	int resize; /* to @len */
	uint64_t offset, len;
	const void *bytes;	 /* NULL: zeroes */
	struct drs_epoch *epoch; /* that it is of; NULL: pre-copy */
	int lasting;		 /* @bytes are in the epoch's room */
	size_t packed;		 /* bytes of a block that lies there, too */
};

static int damaged(struct err *err, const char *what)
{
	(void)err_set(err, -EBADMSG, "disk record: %s",
		      what); /* returns what it is given */
	return -EBADMSG;
}

/* Sets c->img, or -EBADMSG. */
static int image_of(struct diskrep_standby *s, uint32_t disk, struct change *c,
		    struct err *err)
{
	if (disk >= s->n)
		return damaged(err, "no such disk");
	c->disk = disk;
	c->img = dr_image_of(s->img[disk].io,
			     c->capacity ? c->capacity[disk] : s->img[disk].capacity);
	return 0;
}

/* c->bytes, an LZ4 block of @packed bytes, become the c->len bytes that it stands for. */
static int unpack(struct diskrep_standby *s, struct change *c, uint32_t packed,
		  struct err *err)
{
	const char *block = c->bytes;
	char *to = c->epoch ? dr_room_take(&s->pool, &c->epoch->room, c->len)
			    : (char *)s->room;

	if (!to)
		return err_set(err, -ENOMEM, "no memory for a disk write");
	c->bytes = to;
	c->packed = c->lasting ? packed : 0;
	c->lasting = !!c->epoch;
	if (LZ4_decompress_safe(block, to, (int)packed, (int)c->len) != (int)c->len)
		return damaged(err, "it cannot be decompressed");
	return 0;
}

static int parse_write(struct diskrep_standby *s, struct reader *r, struct change *c,
		       struct err *err)
{
	uint32_t disk = rd_u32(r), flags = rd_u32(r), packed;

	c->offset = rd_u64(r);
	c->len = rd_u32(r);
	packed = rd_u32(r);
	if (r->failed || (flags && flags != DR_WRITE_LZ4) || !c->len ||
	    c->len > DR_WRITE_MAX || (flags ? packed >= c->len : packed) ||
	    rd_left(r) != (flags ? packed : c->len))
		return damaged(err, "a write's length is wrong");
	c->bytes = rd_take(r, rd_left(r));
	if (flags && unpack(s, c, packed, err))
		return -EBADMSG;
	return image_of(s, disk, c, err);
}

static int parse_erase(struct diskrep_standby *s, struct reader *r, struct change *c,
		       struct err *err)
{
	uint32_t disk = rd_u32(r), flags = rd_u32(r);

	c->offset = rd_u64(r);
	c->len = rd_u64(r);
	c->bytes = NULL;
	if (r->failed || rd_left(r) || !c->len ||
	    (flags != DR_ERASE_DISCARD && flags != DR_ERASE_ZEROES))
		return damaged(err, "an erase is not valid");
	return image_of(s, disk, c, err);
}

static int parse_zero_chunks(struct change *c, uint64_t first, uint32_t count,
			     uint32_t len, struct err *err)
{
	uint64_t end;

	if (len || !count || first >= c->img.chunks || count > c->img.chunks - first)
		return damaged(err, "chunks of zeroes outside of the disk");
	end = first + count - 1;
	c->offset = first * DR_CHUNK;
	c->len = end * DR_CHUNK + dr_chunk_len(&c->img, end) - c->offset;
	c->bytes = NULL;
	return 0;
}

static int parse_chunk(struct diskrep_standby *s, struct reader *r, struct change *c,
		       struct err *err)
{
	uint32_t disk = rd_u32(r), flags = rd_u32(r), count, len;
	uint64_t first = rd_u64(r);

	count = rd_u32(r);
	len = rd_u32(r);
	if (r->failed || rd_left(r) != len)
		return damaged(err, "a chunk's length is wrong");
	if (image_of(s, disk, c, err))
		return -EBADMSG;
	if (flags == DR_CHUNK_ZERO)
		return parse_zero_chunks(c, first, count, len, err);
	if ((flags && flags != DR_CHUNK_LZ4) || count != 1 || first >= c->img.chunks)
		return damaged(err, "a chunk outside of the disk");
	c->offset = first * DR_CHUNK;
	c->len = dr_chunk_len(&c->img, first);
	c->bytes = rd_take(r, len);
	if (len > c->len || (!flags && len != c->len))
		return damaged(err, "a chunk's length is wrong");
	return flags ? unpack(s, c, len, err) : 0;
}

void drs_epoch_free(struct diskrep_standby *s, struct drs_epoch *e)
{
	dr_room_give(&s->pool, &e->room);
	dr_notes_free(e->notes);
	drs_discharge(&s->applier, e->cost);
	free(e);
}

static int charge(struct diskrep_standby *s, size_t bytes, struct err *err)
{
	int rc = drs_charge(&s->applier, bytes, s->stage_max);

	if (rc == -ENOBUFS)
		err_set(err, rc,
			"disk writes that are not committed exceed the buffer of %zu bytes",
			s->stage_max);
	else if (rc)
		err_set(err, rc,
			"disks: what was acknowledged before could not be written");
	return rc;
}

/* The epoch that the record belongs to: the last one until its barrier, or the next. */
static struct drs_epoch *epoch_of(struct diskrep_standby *s, uint64_t epoch,
				  struct err *err)
{
	struct drs_epoch *e = s->last;

	if (e && e->epoch == epoch && !e->whole)
		return e;
	if (epoch != s->next || (e && !e->whole)) {
		err_set(err, -EBADMSG, "disk record of epoch %llu, which is out of order",
			(unsigned long long)epoch);
		return NULL;
	}
	if (charge(s, sizeof(*e), err))
		return NULL;
	e = calloc(1, sizeof(*e));
	if (!e) {
		drs_discharge(&s->applier, sizeof(*e));
		err_set(err, -ENOMEM, "no memory for the disk writes of an epoch");
		return NULL;
	}
	e->epoch = epoch;
	for (unsigned i = 0; i < s->n; i++)
		e->capacity[i] = s->last ? s->last->after[i] : s->img[i].capacity;
	memcpy(e->after, e->capacity, sizeof(e->after));
	e->tail = &e->first;
	e->cost = sizeof(*e);
	*s->tail = e;
	s->tail = &e->next;
	s->last = e;
	s->next++;
	return e;
}

static int stage(struct diskrep_standby *s, struct drs_epoch *e, const struct change *c,
		 struct err *err)
{
	static const uint8_t nothing;
	uint64_t len = c->bytes ? c->len : 0;
	uint8_t *copy = NULL;
	struct drs_entry *n;
	size_t cost = sizeof(*n) + len + c->packed;
	int rc = charge(s, cost, err);

	if (rc)
		return rc;
	e->cost += cost;
	n = dr_room_take(&s->pool, &e->room, sizeof(*n));
	if (len && !c->lasting)
		copy = dr_room_take(&s->pool, &e->room, len);
	if (!n || (len && !c->lasting && !copy))
		return err_set(err, -ENOMEM, "no memory for a disk write");
	*n = (struct drs_entry){
		.disk = c->disk,
		.erase = !c->bytes && !c->resize,
		.resize = c->resize,
		.offset = c->offset,
		.len = c->len,
		.bytes = c->lasting ? c->bytes
			 : copy	    ? memcpy(copy, c->bytes, len)
				    : &nothing,
	};
	*e->tail = n;
	e->tail = &n->next;
	return 0;
}

static int barrier(struct drs_epoch *e, struct reader *r, struct err *err)
{
	uint32_t count = rd_u32(r), zero = rd_u32(r);
	uint64_t bytes = rd_u64(r);

	if (r->failed || rd_left(r) || zero)
		return damaged(err, "a barrier's length is wrong");
	if (count != e->records || bytes != e->bytes)
		return err_set(err, -EBADMSG,
			       "disk writes of epoch %llu: %u records came, %u were sent",
			       (unsigned long long)e->epoch, e->records, count);
	e->whole = 1;
	return 0;
}

/* The image has room for it, or the primary was never told so. */
static int parse_resize(struct diskrep_standby *s, struct reader *r, struct change *c,
			struct err *err)
{
	uint32_t disk = rd_u32(r), zero = rd_u32(r);
	uint64_t has = 0;

	c->len = rd_u64(r);
	c->resize = 1;
	if (r->failed || rd_left(r) || zero)
		return damaged(err, "a new size is not valid");
	if (image_of(s, disk, c, err))
		return -EBADMSG;
	if (img_size(c->img.io, &has) || c->len % DRS_SECTOR ||
	    c->len <= c->img.capacity || c->len > has)
		return damaged(err,
			       "a new size that is none, or that there is no room for");
	return 0;
}

/* Of the epoch: which disk is to get room, once it is acked. */
static int parse_grow(struct diskrep_standby *s, struct drs_epoch *e, struct reader *r,
		      struct err *err)
{
	uint32_t disk = rd_u32(r), zero = rd_u32(r);
	uint64_t bytes = rd_u64(r);

	if (r->failed || rd_left(r) || zero || disk >= s->n || e->grow_bytes ||
	    bytes % DRS_SECTOR || bytes <= e->after[disk] || bytes > ACT_CAPACITY_MAX)
		return damaged(err, "room for a disk that is not valid");
	e->grow_disk = disk;
	e->grow_bytes = bytes;
	return 0;
}

static int parse(struct diskrep_standby *s, uint16_t type, struct reader *r,
		 struct change *c, struct err *err)
{
	int rc;

	switch (type) {
	case DR_REC_WRITE:
		rc = parse_write(s, r, c, err);
		break;
	case DR_REC_ERASE:
		rc = parse_erase(s, r, c, err);
		break;
	case DR_REC_CHUNK:
		rc = parse_chunk(s, r, c, err);
		break;
	case DR_REC_RESIZE:
		return parse_resize(s, r, c, err);
	default:
		return err_set(err, -EBADMSG, "disk record of unknown type %#x", type);
	}
	if (!rc && !dr_image_has(&c->img, c->offset, c->len))
		return damaged(err, "outside of the disk");
	return rc;
}

/* Pre-copy: straight into the image, which is nobody's before checkpoint 0. */
static int precopy(struct diskrep_standby *s, uint16_t type, struct reader *r,
		   struct err *err)
{
	static const uint8_t none[DR_BASE_LEN];
	struct change c = {0};
	int rc = drs_resync_record(s, type, r, err);

	/* A greeting comes before the hello that ends the last link. */
	if (rc <= 0)
		return rc;
	if (s->next)
		return damaged(err, "pre-copy after the first checkpoint began");
	if (type == DR_REC_ALIVE)
		return rd_left(r) ? damaged(err, "a sign of life has no content") : 0;
	if (type != DR_REC_CHUNK)
		return damaged(err, "not a chunk, in pre-copy");
	rc = parse_chunk(s, r, &c, err);
	rc = rc ? rc : drs_sync_begins(s, none, err);
	if (rc)
		return rc;
	rc = c.bytes ? s->io.ops->write(s->io.self, c.disk, c.bytes, c.len, c.offset)
		     : s->io.ops->erase(s->io.self, c.disk, c.offset, c.len);
	drs_flusher_kick(&s->flusher, 0);
	return rc ? err_sys(err, rc, "disk %u: writing the image", c.disk) : 0;
}

/* Only of an epoch that has begun: the first record of each is looked at before anything is kept for it. */
void *drs_room(void *self, uint16_t type, uint64_t epoch, size_t len)
{
	struct diskrep_standby *s = self;
	struct drs_epoch *e = s->last;
	void *to = NULL;

	if (type == DR_REC_WRITE && e && e->epoch == epoch && !e->whole &&
	    len <= sizeof(struct dr_wire_write) + DR_WRITE_MAX)
		to = dr_room_take(&s->pool, &e->room, len);
	s->roomed = to;
	return to;
}

static int change(struct diskrep_standby *s, struct drs_epoch *e, uint16_t type,
		  struct reader *r, int lasting, struct err *err)
{
	struct change c = {.capacity = e->capacity, .epoch = e, .lasting = lasting};
	int rc = parse(s, type, r, &c, err);

	if (!rc && c.resize && e->after[c.disk] != e->capacity[c.disk])
		rc = damaged(err, "a disk has two new sizes in one epoch");
	rc = rc ? rc : stage(s, e, &c, err);
	if (!rc && c.resize)
		e->after[c.disk] = c.len;
	return rc;
}

int drs_record(void *self, uint16_t type, uint64_t epoch, const void *p, size_t len,
	       struct err *err)
{
	struct diskrep_standby *s = self;
	struct reader r = reader_of(p, len);
	int lasting = p == s->roomed && len;
	struct drs_epoch *e;
	int rc;

	s->roomed = NULL;
	if (epoch == REC_EPOCH_SYNC)
		return precopy(s, type, &r, err);
	e = epoch_of(s, epoch, err);
	if (!e)
		return err && err->code ? err->code : -EBADMSG;
	switch (type) {
	case DR_REC_BARRIER:
		return barrier(e, &r, err);
	case DR_REC_VERIFY:
		rc = drs_verify_record(s, epoch, &r, err);
		break;
	case DR_REC_GROW:
		rc = parse_grow(s, e, &r, err);
		break;
	case DR_REC_NOTE:
		rc = drs_notes_record(s, e, &r, err);
		break;
	default:
		rc = change(s, e, type, &r, lasting, err);
	}
	if (!rc) {
		e->records++;
		e->bytes += len;
	}
	return rc;
}
