/* SPDX-License-Identifier: Apache-2.0
 * journal_super - the journal's two superblocks: read, judged, written in turn.
 */
#include "diskrep/journal_priv.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t super_sum(const struct jw_super *w)
{
	return XXH3_64bits(w, offsetof(struct jw_super, sum));
}

static int all_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < len; i++)
		if (b[i])
			return 0;
	return 1;
}

int journal_super_check(const struct jw_super *w)
{
	uint64_t ring = le64_get(w->ring);

	if (all_zero(w, sizeof(*w)))
		return 0;
	/* One sector is written whole or not at all: what is neither good nor blank was damaged
	 * later, and the other one, which is older, must not be believed instead. */
	if (memcmp(w->magic, JW_SUPER_MAGIC, sizeof(w->magic)) != 0 ||
	    le64_get(w->sum) != super_sum(w))
		return -EBADMSG;
	if (!le32_get(w->version) || le32_get(w->version) > JW_VERSION ||
	    le32_get(w->len) != sizeof(*w) || le32_get(w->state) >= JOURNAL_STATES ||
	    le32_get(w->disks) > DR_DISKS_MAX || !memchr(w->vm, '\0', sizeof(w->vm)) ||
	    ring < JW_BLOCK || ring % JW_BLOCK || ring > INT64_MAX - JW_HEAD ||
	    le64_get(w->sequence) > INT64_MAX || le64_get(w->tail) % JW_BLOCK ||
	    le64_get(w->tail) > INT64_MAX || le64_get(w->durable) > INT64_MAX ||
	    !all_zero(w->zero, sizeof(w->zero)))
		return -EBADMSG;
	return 1;
}

int journal_super_read(struct dr_io io, struct jw_super *w)
{
	struct jw_super two[JW_SUPERS];
	int good[JW_SUPERS], rc, best = 0;

	for (unsigned i = 0; i < JW_SUPERS; i++) {
		rc = io.ops->read(io.self, DR_IO_JOURNAL, &two[i], sizeof(two[i]),
				  (uint64_t)i * JW_BLOCK);
		if (rc)
			return rc;
		good[i] = journal_super_check(&two[i]);
		if (good[i] == 1 &&
		    (!best || le64_get(two[i].sequence) > le64_get(w->sequence))) {
			*w = two[i];
			best = 1;
		}
	}
	if (!best)
		*w = (struct jw_super){.magic = ""};
	return good[0] < 0 || good[1] < 0 ? -EBADMSG : best;
}

int journal_super_write(struct journal *j, enum journal_state s, uint64_t tail,
			uint64_t tail_seq, uint64_t epoch,
			const struct journal_witness *witness)
{
	struct jw_super w = {
		.magic = JW_SUPER_MAGIC,
		.version = le32_of(JW_VERSION),
		.len = le32_of(sizeof(w)),
		.sequence = le64_of(j->sequence + 1),
		.ring = le64_of(j->ring),
		.tail = le64_of(tail),
		.tail_seq = le64_of(tail_seq),
		.epoch = le64_of(epoch),
		.state = le32_of(s),
		.disks = le32_of(j->disks.n),
	};
	uint64_t at = (j->sequence + 1) % JW_SUPERS * JW_BLOCK;
	int rc;

	pthread_mutex_lock(&j->lock);
	w.durable = le64_of(j->durable);
	pthread_mutex_unlock(&j->lock);
	memcpy(w.id, j->id, sizeof(w.id));
	memcpy(w.vm, j->vm, sizeof(w.vm));
	memcpy(w.base, j->base, sizeof(w.base));
	for (unsigned i = 0; i < j->disks.n; i++)
		w.capacity[i] = le64_of(j->disks.capacity[i]);
	journal_witness_write(&w, witness);
	w.sum = le64_of(super_sum(&w));
	rc = j->io.ops->write(j->io.self, DR_IO_JOURNAL, &w, sizeof(w), at);
	/* Whatever the caller does next may only be seen by a recovery that sees this. */
	if (!rc)
		rc = j->io.ops->sync(j->io.self, DR_IO_JOURNAL);
	if (!rc)
		j->sequence++;
	return rc;
}

static void describe(const struct jw_super *w, struct journal_found *f)
{
	static const int whole[] = {
		[JOURNAL_BLANK] = -1, [JOURNAL_SYNCING] = 0, [JOURNAL_LIVE] = 1,
		[JOURNAL_UNSAFE] = 0, [JOURNAL_OWNED] = 1,
	};
	_Static_assert(sizeof(whole) / sizeof(whole[0]) == JOURNAL_STATES,
		       "each state is judged");

	f->state = (enum journal_state)le32_get(w->state);
	f->whole = whole[f->state];
	if (f->state == JOURNAL_LIVE) {
		memcpy(f->gen.base, w->base, sizeof(f->gen.base));
		f->gen.epoch = le64_get(w->epoch);
	}
}

static int fd_read(void *self, unsigned file, void *p, size_t len, uint64_t offset)
{
	struct dr_files f = {.journal = *(int *)self};
	struct dr_io io = dr_files_io(&f);

	return io.ops->read(io.self, file, p, len, offset);
}

int journal_peek(int fd, const char *vm, struct journal_found *f, struct err *err)
{
	static const struct dr_io_ops ops = {.read = fd_read};
	struct jw_super w;
	int rc = journal_super_read((struct dr_io){.ops = &ops, .self = &fd}, &w);

	*f = (struct journal_found){.whole = -1};
	if (rc == 1 && strcmp(w.vm, vm) != 0)
		return err_set(err, -EINVAL, "the journal is that of VM \"%s\"", w.vm);
	if (rc == 1)
		describe(&w, f);
	if (rc == -EBADMSG) {
		f->whole = 0;
		(void)snprintf(f->why, sizeof(f->why),
			       "the journal's superblock is damaged"); /* fits */
		return 0;
	}
	return rc < 0 ? err_sys(err, rc, "reading the journal") : 0;
}
