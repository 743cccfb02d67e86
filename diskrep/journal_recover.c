/* SPDX-License-Identifier: Apache-2.0
 * journal_recover - reads the ring as it was left, finds the last whole epoch, and replays.
 *
 * All of it is hostile input: it may be torn, older, of another life, or invented.
 */
#include "diskrep/journal_priv.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where one reads, and what the next record must be. */
struct cursor {
	struct journal *j;
	uint64_t tail, pos, seq, epoch;
	uint32_t entries;
	uint64_t digest;
	uint64_t capacity[DR_DISKS_MAX]; /* of the disks, here; the images have no less */
	uint8_t *room;			 /* DR_WRITE_MAX bytes */
	struct journal_witness
		*witness; /* of the tail; those that what is read writes fall away */
};

/* The record at the cursor, checked. */
struct found_record {
	enum jw_type type;
	uint32_t disk;
	uint64_t offset, len, sum, next; /* @next: the position behind it */
	struct jw_commit commit;
};

enum { WHOLE = 1, TORN = 0 };

static int plausible(const struct jw_record *r, uint64_t pos)
{
	uint32_t type = le32_get(r->type);

	return le32_get(r->magic) == JW_RECORD_MAGIC && le64_get(r->pos) == pos &&
	       type >= JW_WRITE && type <= JW_RESIZE && le32_get(r->len) <= DR_WRITE_MAX;
}

/* Header and payload at @pos, whatever its number; WHOLE, TORN or -errno. */
static int read_record(struct journal *j, uint64_t pos, struct jw_record *r,
		       uint8_t *room)
{
	int rc = journal_ring_read(j, pos, r, sizeof(*r));

	if (rc || !plausible(r, pos))
		return rc;
	rc = journal_ring_read(j, pos + sizeof(*r), room, le32_get(r->len));
	if (rc)
		return rc;
	return le64_get(r->sum) == journal_sum(j->seed, r, room) ? WHOLE : TORN;
}

/* Does what a good sum covers make sense? If not, it was not written by us. */
static int understand(const struct cursor *c, const struct jw_record *r,
		      struct found_record *f)
{
	const struct journal_disks *d = &c->j->disks;
	uint32_t len = le32_get(r->len);
	uint64_t cap;

	*f = (struct found_record){
		.type = (enum jw_type)le32_get(r->type),
		.disk = le32_get(r->disk),
		.offset = le64_get(r->offset),
		.len = le64_get(r->range),
		.sum = le64_get(r->sum),
		.next = c->pos + journal_padded(len),
	};
	if (f->type == JW_COMMIT) {
		if (len != sizeof(f->commit))
			return -EBADMSG;
		memcpy(&f->commit, c->room, sizeof(f->commit));
		if (le32_get(f->commit.flags) & JW_LAST)
			f->next = (f->next + JW_BLOCK - 1) / JW_BLOCK * JW_BLOCK;
		return WHOLE;
	}
	if (f->disk >= d->n)
		return -EBADMSG;
	cap = c->capacity[f->disk];
	if (f->type == JW_RESIZE)
		return !len && f->len > cap && f->len <= d->capacity[f->disk] &&
				       f->len % JW_SUPER_LEN == 0
			       ? WHOLE
			       : -EBADMSG;
	if (f->offset > cap || f->len > cap - f->offset ||
	    (f->type == JW_WRITE ? f->len != len : len != 0))
		return -EBADMSG;
	return WHOLE;
}

/* WHOLE, TORN, or -errno: -EBADMSG means damage. */
static int next_record(struct cursor *c, struct found_record *f)
{
	struct jw_record r;
	int rc;

	/* A ring holds no more than itself. */
	if (c->pos - c->tail > c->j->ring - sizeof(r))
		return TORN;
	rc = read_record(c->j, c->pos, &r, c->room);
	if (rc != WHOLE)
		return rc;
	if (le64_get(r.seq) != c->seq)
		return TORN;
	rc = understand(c, &r, f);
	if (rc == WHOLE && f->next - c->tail > c->j->ring)
		return -EBADMSG;
	return rc;
}

/* A commit must close exactly the entries before it, and follow the epoch before. */
static int closes(const struct cursor *c, const struct jw_commit *m, const uint8_t *base)
{
	return !memcmp(m->base, base, DR_BASE_LEN) &&
	       le64_get(m->epoch) == c->epoch + 1 && le32_get(m->entries) == c->entries &&
	       le64_get(m->digest) == c->digest;
}

static void advance(struct cursor *c, const struct found_record *f)
{
	c->pos = f->next;
	c->seq++;
	if (f->type == JW_COMMIT) {
		c->epoch++;
		c->entries = 0;
		c->digest = 0;
	} else {
		c->entries++;
		c->digest = journal_digest(c->digest, f->sum);
	}
	if (f->type == JW_RESIZE)
		c->capacity[f->disk] = f->len;
}

/* To the end of the last whole epoch: *end_out. 0 or -errno. */
static int find_end(struct cursor *c, const uint8_t *base, struct cursor *end)
{
	struct found_record f;
	int rc;

	*end = *c;
	while ((rc = next_record(c, &f)) == WHOLE) {
		if (f.type == JW_WRITE || f.type == JW_ERASE)
			journal_witness_drop(c->witness, f.disk, f.offset, f.len);
		if (f.type == JW_COMMIT && !closes(c, &f.commit, base))
			return -EBADMSG;
		advance(c, &f);
		if (f.type == JW_COMMIT)
			*end = *c;
	}
	return rc;
}

/* Is there a batch behind @end that was written when @end was flushed? Then what ends there was
 * not torn but lost. */
static int lost_behind(struct cursor *c, uint64_t end)
{
	uint64_t pos = (end + JW_BLOCK - 1) / JW_BLOCK * JW_BLOCK;
	struct jw_record r;
	int rc = 0;

	for (; !rc && pos - c->tail < c->j->ring; pos += JW_BLOCK) {
		rc = read_record(c->j, pos, &r, c->room);
		if (rc == WHOLE)
			rc = le64_get(r.durable) > end;
	}
	return rc;
}

static int replay_to(struct cursor *c, const struct cursor *end, struct journal_found *f)
{
	struct dr_io io = c->j->io;
	struct found_record r;
	int rc = 0;

	while (!rc && c->pos < end->pos) {
		/* Found whole a moment ago. */
		if (next_record(c, &r) != WHOLE)
			return -EIO;
		if (r.type == JW_WRITE)
			rc = io.ops->write(io.self, r.disk, c->room, r.len, r.offset);
		else if (r.type == JW_ERASE)
			rc = io.ops->erase(io.self, r.disk, r.offset, r.len);
		advance(c, &r);
		f->bytes += r.type == JW_RESIZE ? 0 : r.len;
		f->epochs += r.type == JW_COMMIT;
	}
	/* Before the superblock says that replay is done with. */
	for (unsigned i = 0; !rc && i < c->j->disks.n; i++)
		rc = io.ops->sync(io.self, i);
	return rc;
}

static int damaged(struct journal_found *f, const char *what)
{
	f->state = JOURNAL_UNSAFE;
	f->whole = 0;
	f->gen = (struct dr_generation){.epoch = 0};
	(void)snprintf(f->why, sizeof(f->why), "%s", what); /* truncation is fine */
	return 0;
}

static int replay_with(struct cursor *c, const struct jw_super *w,
		       struct journal_found *f, struct err *err)
{
	struct cursor start = *c, end;
	int rc = find_end(c, w->base, &end);

	if (!rc)
		rc = end.pos < le64_get(w->durable) ? 1 : lost_behind(c, end.pos);
	if (rc == 1)
		return damaged(
			f,
			"a part of the journal that the disk had confirmed is gone: the disk lost a "
			"write");
	if (rc == -EBADMSG)
		return damaged(f, "the journal holds what was never written to it");
	if (rc == -EIO)
		return damaged(f, "the journal cannot be read");
	if (!rc && journal_witness_denied(c->j, c->witness) >= 0)
		return damaged(
			f,
			"another image is in a disk's place, or it lost what it had confirmed: the "
			"journal is not for it");
	if (!rc)
		rc = replay_to(&start, &end, f);
	if (rc)
		return err_sys(err, rc, "replaying the journal onto the images");
	f->state = JOURNAL_LIVE;
	f->whole = 1;
	memcpy(f->gen.base, w->base, sizeof(f->gen.base));
	f->gen.epoch = end.epoch;
	memcpy(f->capacity, end.capacity, sizeof(f->capacity));
	return 0;
}

int journal_replay(struct journal *j, const struct jw_super *w, struct journal_found *f,
		   struct err *err)
{
	struct cursor c = {
		.j = j,
		.tail = le64_get(w->tail),
		.pos = le64_get(w->tail),
		.seq = le64_get(w->tail_seq),
		.epoch = le64_get(w->epoch),
		.witness = j->witness,
	};
	struct le64 seed;
	int rc;

	for (unsigned i = 0; i < j->disks.n; i++)
		c.capacity[i] = le64_get(w->capacity[i]);
	journal_witness_read(w, j->witness);
	memcpy(j->id, w->id, sizeof(j->id));
	memcpy(&seed, j->id, sizeof(seed));
	j->seed = le64_get(seed);
	j->ring = le64_get(w->ring);
	c.room = malloc(DR_WRITE_MAX);
	if (!c.room)
		return err_set(err, -ENOMEM, "journal: out of memory");
	rc = replay_with(&c, w, f, err);
	free(c.room);
	return rc;
}
