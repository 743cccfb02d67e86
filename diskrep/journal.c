/* SPDX-License-Identifier: Apache-2.0
 * journal - appended to, flushed, retired; the ring and its states.
 */
#include "diskrep/journal.h"

#include "diskrep/epoch.h"
#include "diskrep/journal_priv.h"
#include "hv/base/err.h"
#include "hv/base/xxh.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char *const state_names[] = {
	[JOURNAL_BLANK] = "blank", [JOURNAL_SYNCING] = "syncing",
	[JOURNAL_LIVE] = "live",   [JOURNAL_UNSAFE] = "unsafe",
	[JOURNAL_OWNED] = "owned",
};
_Static_assert(sizeof(state_names) / sizeof(state_names[0]) == JOURNAL_STATES,
	       "a name for each state");

const char *journal_state_name(enum journal_state s)
{
	return (unsigned)s < JOURNAL_STATES ? state_names[s] : "?";
}

uint64_t journal_sum(uint64_t seed, const struct jw_record *r, const void *p)
{
	uint64_t head = XXH3_64bits_withSeed(r, offsetof(struct jw_record, sum), seed);

	return XXH3_64bits_withSeed(p, le32_get(r->len), head);
}

uint64_t journal_digest(uint64_t before, uint64_t sum)
{
	return XXH3_64bits_withSeed(&sum, sizeof(sum), before);
}

uint64_t journal_padded(uint64_t payload)
{
	return sizeof(struct jw_record) +
	       (payload + JW_RECORD_ALIGN - 1) / JW_RECORD_ALIGN * JW_RECORD_ALIGN;
}

/* The part of [pos, pos + len) that lies in one piece, and where. */
static size_t piece(const struct journal *j, uint64_t pos, size_t len, uint64_t *at)
{
	uint64_t in = pos % j->ring;

	*at = JW_HEAD + in;
	return len < j->ring - in ? len : (size_t)(j->ring - in);
}

/* All of [pos, pos + len), from @from, or to @to if that is NULL. */
static int ring_move(struct journal *j, uint64_t pos, uint8_t *to, const uint8_t *from,
		     size_t len)
{
	size_t n;
	int rc = 0;

	for (size_t done = 0; !rc && done < len; done += n) {
		uint64_t at;

		n = piece(j, pos + done, len - done, &at);
		rc = from ? j->io.ops->write(j->io.self, DR_IO_JOURNAL, from + done, n,
					     at)
			  : j->io.ops->read(j->io.self, DR_IO_JOURNAL, to + done, n, at);
	}
	return rc;
}

int journal_ring_read(struct journal *j, uint64_t pos, void *p, size_t len)
{
	return ring_move(j, pos, p, NULL, len);
}

int journal_ring_write(struct journal *j, uint64_t pos, const void *p, size_t len)
{
	return ring_move(j, pos, NULL, p, len);
}

/* Nothing that was written before is found any more. The appender, or nobody else has @j yet. */
static int empty(struct journal *j, uint64_t epoch)
{
	struct le64 seed;

	if (getrandom(j->id, sizeof(j->id), 0) != (ssize_t)sizeof(j->id))
		return -EIO;
	memcpy(&seed, j->id, sizeof(seed));
	j->seed = le64_get(seed);
	pthread_mutex_lock(&j->lock);
	j->tail = j->head = j->durable = j->written = 0;
	j->seq = j->tail_seq = 0;
	pthread_mutex_unlock(&j->lock);
	j->fill = 0;
	j->epoch = epoch;
	return 0;
}

int journal_renew(struct journal *j, enum journal_state s, uint64_t epoch)
{
	int rc = empty(j, epoch);

	rc = rc ? rc : journal_super_write(j, s, 0, 0, epoch, j->witness);
	if (rc)
		return rc;
	j->state = s;
	j->tail_epoch = epoch;
	j->link++;
	memcpy(j->capacity, j->disks.capacity, sizeof(j->capacity));
	return 0;
}

void journal_sizes(struct journal *j, const uint64_t capacity[DR_DISKS_MAX])
{
	pthread_mutex_lock(&j->super);
	memcpy(j->disks.capacity, capacity, sizeof(j->disks.capacity));
	memcpy(j->capacity, capacity, sizeof(j->capacity));
	pthread_mutex_unlock(&j->super);
}

int journal_mark(struct journal *j, enum journal_state s, const uint8_t *base)
{
	uint64_t pos, seq;
	int rc;

	pthread_mutex_lock(&j->super);
	if (base)
		memcpy(j->base, base, sizeof(j->base));
	/* What is in the ring counts no more, and what an append that failed has left neither. */
	if (s == JOURNAL_SYNCING) {
		j->written = j->head;
		j->fill = 0;
	}
	pthread_mutex_lock(&j->lock);
	pos = j->tail = j->head;
	seq = j->tail_seq = j->seq;
	pthread_mutex_unlock(&j->lock);
	/* No retiring from here on, also when this fails: what it would say is not true any more. */
	j->link++;
	memset(j->witness, 0, sizeof(j->witness));
	j->dismissed = 0;
	rc = journal_super_write(j, s, pos, seq, UINT64_MAX, NULL);
	if (!rc) {
		pthread_mutex_lock(&j->lock);
		j->state = s;
		pthread_mutex_unlock(&j->lock);
	}
	pthread_mutex_unlock(&j->super);
	return rc;
}

int journal_dismiss(struct journal *j)
{
	uint64_t tail, seq, epoch;
	enum journal_state s;
	int rc;

	pthread_mutex_lock(&j->super);
	j->dismissed = 1;
	pthread_mutex_lock(&j->lock);
	s = j->state;
	tail = j->tail;
	seq = j->tail_seq;
	epoch = j->tail_epoch;
	pthread_mutex_unlock(&j->lock);
	rc = s == JOURNAL_LIVE ? journal_super_write(j, s, tail, seq, epoch, NULL) : 0;
	pthread_mutex_unlock(&j->super);
	return rc;
}

int journal_resume(struct journal *j, uint64_t epoch,
		   const uint64_t capacity[DR_DISKS_MAX])
{
	struct journal_spot spot;
	int rc;

	pthread_mutex_lock(&j->super);
	j->link++;
	/* Epochs that it does not hold may have changed them, and one that it holds in part. */
	memcpy(j->disks.capacity, capacity, sizeof(j->disks.capacity));
	memcpy(j->capacity, capacity, sizeof(j->capacity));
	rc = empty(j, epoch);
	journal_look(j, &spot);
	rc = rc ? rc : journal_super_write(j, JOURNAL_LIVE, 0, 0, epoch, spot.witness);
	if (!rc) {
		pthread_mutex_lock(&j->lock);
		j->state = JOURNAL_LIVE;
		j->tail_epoch = epoch;
		pthread_mutex_unlock(&j->lock);
	}
	pthread_mutex_unlock(&j->super);
	return rc;
}

int journal_retire(struct journal *j, const struct journal_spot *spot)
{
	int rc = 0;

	pthread_mutex_lock(&j->super);
	if (spot->link != j->link)
		goto out;
	/* As they are where replay begins: what is behind it says itself how they change. */
	memcpy(j->disks.capacity, spot->capacity, sizeof(j->disks.capacity));
	rc = journal_super_write(j, JOURNAL_LIVE, spot->pos, spot->seq, spot->epoch,
				 j->dismissed ? NULL : spot->witness);
	if (rc)
		goto out;
	pthread_mutex_lock(&j->lock);
	j->state = JOURNAL_LIVE;
	j->tail = spot->pos;
	j->tail_seq = spot->seq;
	j->tail_epoch = spot->epoch;
	pthread_mutex_unlock(&j->lock);
out:
	pthread_mutex_unlock(&j->super);
	return rc;
}

uint64_t journal_need(const struct drs_epoch *e)
{
	uint64_t need = journal_padded(sizeof(struct jw_commit)) + JW_BLOCK;

	for (const struct drs_entry *n = e->first; n; n = n->next)
		need += journal_padded(n->erase || n->resize ? 0 : n->len);
	return need;
}

uint64_t journal_room(struct journal *j)
{
	uint64_t used;

	pthread_mutex_lock(&j->lock);
	used = j->head - j->tail;
	pthread_mutex_unlock(&j->lock);
	return j->ring - used;
}

uint64_t journal_size(const struct journal *j)
{
	return j->ring;
}

enum journal_state journal_state(struct journal *j)
{
	enum journal_state s;

	pthread_mutex_lock(&j->lock);
	s = j->state;
	pthread_mutex_unlock(&j->lock);
	return s;
}

struct dr_generation journal_generation(struct journal *j)
{
	struct dr_generation g = {.epoch = 0};

	pthread_mutex_lock(&j->super);
	pthread_mutex_lock(&j->lock);
	if (j->state == JOURNAL_LIVE) {
		memcpy(g.base, j->base, sizeof(g.base));
		g.epoch = j->tail_epoch;
	}
	pthread_mutex_unlock(&j->lock);
	pthread_mutex_unlock(&j->super);
	return g;
}

/* Bytes into the ring, in whole buffers. NULL: zeroes. */
static int put(struct journal *j, const void *p, size_t len)
{
	const uint8_t *from = p;
	int rc = 0;

	while (!rc && len) {
		size_t n = JOURNAL_BUF - j->fill < len ? JOURNAL_BUF - j->fill : len;

		if (from)
			memcpy(j->buf + j->fill, from, n);
		else
			memset(j->buf + j->fill, 0, n);
		from = from ? from + n : NULL;
		j->fill += n;
		len -= n;
		if (j->fill < JOURNAL_BUF)
			break;
		rc = journal_ring_write(j, j->written, j->buf, j->fill);
		j->written += j->fill;
		j->fill = 0;
	}
	return rc;
}

static int put_record(struct journal *j, struct jw_record *r, const void *p,
		      uint64_t *digest)
{
	uint32_t len = le32_get(r->len);
	int rc;

	r->magic = le32_of(JW_RECORD_MAGIC);
	r->seq = le64_of(j->seq++);
	r->pos = le64_of(j->written + j->fill);
	r->durable = le64_of(j->durable); /* only this thread changes it */
	r->sum = le64_of(journal_sum(j->seed, r, p));
	*digest = journal_digest(*digest, le64_get(r->sum));
	rc = put(j, r, sizeof(*r));
	if (!rc)
		rc = put(j, p, len);
	return rc ? rc : put(j, NULL, journal_padded(len) - sizeof(*r) - len);
}

int journal_epoch(struct journal *j, const struct drs_epoch *e, int last)
{
	struct jw_commit c = {.epoch = le64_of(e->epoch),
			      .flags = le32_of(last ? JW_LAST : 0)};
	struct jw_record r;
	uint64_t digest = 0;
	uint32_t count = 0;
	int rc = 0;

	for (const struct drs_entry *n = e->first; !rc && n; n = n->next) {
		r = (struct jw_record){
			.type = le32_of(n->resize  ? JW_RESIZE
					: n->erase ? JW_ERASE
						   : JW_WRITE),
			.disk = le32_of(n->disk),
			.len = le32_of(n->erase || n->resize ? 0 : (uint32_t)n->len),
			.offset = le64_of(n->offset),
			.range = le64_of(n->len),
		};
		rc = put_record(j, &r, n->bytes, &digest);
		journal_witness_entry(j, n);
		count++;
		if (n->resize)
			j->capacity[n->disk] = n->len;
	}
	if (rc)
		return rc;
	memcpy(c.base, j->base, sizeof(c.base));
	c.entries = le32_of(count);
	c.digest = le64_of(digest);
	r = (struct jw_record){.type = le32_of(JW_COMMIT), .len = le32_of(sizeof(c))};
	j->epoch = e->epoch;
	return put_record(j, &r, &c, &digest);
}

int journal_commit(struct journal *j, struct journal_spot *spot)
{
	size_t pad = (JW_BLOCK - j->fill % JW_BLOCK) % JW_BLOCK;
	int rc = put(j, NULL, pad);

	if (!rc && j->fill)
		rc = journal_ring_write(j, j->written, j->buf, j->fill);
	/* Before any of these epochs may be seen in an image. */
	if (!rc)
		rc = j->io.ops->sync(j->io.self, DR_IO_JOURNAL);
	if (rc)
		return rc;
	j->written += j->fill;
	j->fill = 0;
	pthread_mutex_lock(&j->lock);
	j->head = j->durable = j->written;
	pthread_mutex_unlock(&j->lock);
	*spot = (struct journal_spot){
		.pos = j->written, .seq = j->seq, .epoch = j->epoch, .link = j->link};
	memcpy(spot->capacity, j->capacity, sizeof(spot->capacity));
	memcpy(spot->witness, j->witness, sizeof(spot->witness));
	return 0;
}

/* The same disks as when it was written? Images may have grown since. */
static int same_disks(const struct jw_super *w, const struct journal_disks *d)
{
	int same = le32_get(w->disks) == d->n;

	for (unsigned i = 0; same && i < d->n; i++)
		same = le64_get(w->capacity[i]) <= d->capacity[i];
	return same;
}

static int judge(struct journal *j, const struct jw_super *w, struct journal_found *f,
		 struct err *err)
{
	f->state = (enum journal_state)le32_get(w->state);
	f->whole = f->state == JOURNAL_OWNED ? 1 : f->state == JOURNAL_BLANK ? -1 : 0;
	if (f->state != JOURNAL_LIVE)
		return 0;
	if (!same_disks(w, &j->disks)) {
		f->state = JOURNAL_UNSAFE;
		(void)snprintf(f->why, sizeof(f->why), /* fits */
			       "the journal is for other disks or larger ones");
		return 0;
	}
	return journal_replay(j, w, f, err);
}

/* The journal as found becomes an empty one of the size that is wanted. */
static int recover(struct journal *j, uint64_t ring, struct journal_found *f,
		   struct err *err)
{
	struct jw_super w;
	int rc = journal_super_read(j->io, &w), bad = rc == -EBADMSG;

	*f = (struct journal_found){.state = JOURNAL_BLANK, .whole = -1};
	if (bad) {
		*f = (struct journal_found){.state = JOURNAL_UNSAFE,
					    .why = "the journal's superblock is damaged"};
		j->sequence = le64_get(w.sequence);
		rc = 0;
	} else if (rc == 1 && strcmp(w.vm, j->vm) != 0) {
		return err_set(
			err, -EINVAL,
			"the journal is that of VM \"%s\": give this one another, or "
			"remove it if that VM is no more",
			w.vm);
	} else if (rc == 1) {
		j->sequence = le64_get(w.sequence);
		rc = judge(j, &w, f, err);
	} else if (rc < 0) {
		err_sys(err, rc, "reading the journal");
	}
	if (rc)
		return rc;
	j->ring = ring;
	memcpy(j->base, f->gen.base, sizeof(j->base));
	if (f->state == JOURNAL_LIVE)
		memcpy(j->disks.capacity, f->capacity, sizeof(j->disks.capacity));
	if (f->state != JOURNAL_LIVE)
		memset(j->witness, 0, sizeof(j->witness));
	rc = journal_renew(j, f->state,
			   f->state == JOURNAL_LIVE ? f->gen.epoch : UINT64_MAX);
	/* In both places: the damaged one goes, and a good one that is older does not come up again. */
	if (!rc && bad)
		rc = journal_super_write(j, f->state, 0, 0, UINT64_MAX, NULL);
	return rc ? err_sys(err, rc, "writing the journal") : 0;
}

static struct journal *make(struct dr_io io, const struct journal_disks *d)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	j->buf = aligned_alloc(JW_BLOCK, JOURNAL_BUF);
	if (!j->buf) {
		free(j);
		return NULL;
	}
	pthread_mutex_init(&j->super, NULL);
	pthread_mutex_init(&j->lock, NULL);
	j->io = io;
	j->disks = *d;
	memcpy(j->vm, d->vm, strlen(d->vm));
	j->disks.vm = j->vm;
	return j;
}

int journal_open(struct dr_io io, const struct journal_disks *d, uint64_t bytes,
		 struct journal **j_out, struct journal_found *found, struct err *err)
{
	struct journal *j;
	int rc;

	*j_out = NULL;
	*found = (struct journal_found){.whole = -1};
	if (bytes < JOURNAL_BYTES_MIN || strlen(d->vm) >= sizeof(j->vm))
		return err_set(err, -EINVAL, "journal: it has less than %d bytes",
			       JOURNAL_BYTES_MIN);
	j = make(io, d);
	if (!j)
		return err_set(err, -ENOMEM, "journal: out of memory");
	rc = recover(j, (bytes - JW_HEAD) / JW_BLOCK * JW_BLOCK, found, err);
	if (rc)
		journal_close(j);
	else
		*j_out = j;
	return rc;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	pthread_mutex_destroy(&j->super);
	pthread_mutex_destroy(&j->lock);
	free(j->buf);
	free(j);
}
