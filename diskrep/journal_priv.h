/* SPDX-License-Identifier: Apache-2.0
 * journal_priv - what the files of the journal share.
 */
#ifndef DISKREP_JOURNAL_PRIV_H
#define DISKREP_JOURNAL_PRIV_H

#include <pthread.h>

#include "diskrep/journal.h"
#include "diskrep/journal_wire.h"
#include "diskrep/wire.h"

struct drs_entry;

enum {
	JOURNAL_BUF = 256 << 10, /* a multiple of JW_BLOCK */
};

struct journal {
	struct dr_io io;
	struct journal_disks disks;
	char vm[JW_VM_LEN];

	/* The superblock; written under @super, which is held while the disk works. */
	pthread_mutex_t super;
	uint64_t sequence;
	uint8_t id[JW_ID_LEN];
	uint64_t seed; /* of the records' sums, from @id */
	uint64_t ring;
	uint8_t base[DR_BASE_LEN];
	uint32_t link; /* counts marks */

	pthread_mutex_t lock; /* of what several threads look at */
	enum journal_state state;
	uint64_t tail, head, durable; /* positions */
	uint64_t tail_seq, tail_epoch;

	/* The appender's. */
	uint64_t capacity
		[DR_DISKS_MAX]; /* at the end of the last epoch that was appended */
	uint64_t seq;		/* of the next record */
	uint64_t epoch;		/* the last one appended */
	struct journal_witness witness[JOURNAL_WITNESSES]; /* as of it */
	unsigned next_witness;
	int dismissed;	  /* under @super: none counts; until the next mark */
	uint64_t written; /* position up to which @buf was written */
	uint8_t *buf;	  /* JOURNAL_BUF bytes */
	size_t fill;
};

/* The sum of a record whose payload is @p. */
uint64_t journal_sum(uint64_t seed, const struct jw_record *r, const void *p);
/* What a commit says of the entries before it: to be applied to each record's sum in turn. */
uint64_t journal_digest(uint64_t before, uint64_t sum);
uint64_t journal_padded(uint64_t payload); /* a record with so much of it, bytes */

/* Read from or write to the ring; @pos is a position, and the range may wrap. */
int journal_ring_read(struct journal *j, uint64_t pos, void *p, size_t len);
int journal_ring_write(struct journal *j, uint64_t pos, const void *p, size_t len);

/* Draw a new id, so that no record of before is taken for one of after, and write a superblock of an
 * empty ring. Under no lock: nobody else has @j yet. */
int journal_renew(struct journal *j, enum journal_state s, uint64_t epoch);

/* journal_super.c. 1: @w is good; 0: nothing was ever written there; -EBADMSG. */
int journal_super_check(const struct jw_super *w);
/* The newest good superblock into *w, zeroes if there is none; 1, 0 if both are blank, -EBADMSG: one is
 * damaged, and *w proves nothing, or -errno. */
int journal_super_read(struct dr_io io, struct jw_super *w);
/* Write the next one and flush it. Under @super or before anybody else has @j. */
int journal_super_write(struct journal *j, enum journal_state s, uint64_t tail,
			uint64_t tail_seq, uint64_t epoch,
			const struct journal_witness *witness);

/* journal_witness.c. Of superblocks: from one, and into one (NULL: none). */
void journal_witness_read(const struct jw_super *w, struct journal_witness *out);
void journal_witness_write(struct jw_super *w, const struct journal_witness *in);
/* Those in this range are none any more. */
void journal_witness_drop(struct journal_witness *w, uint32_t disk, uint64_t offset,
			  uint64_t len);
/* An entry is appended. */
void journal_witness_entry(struct journal *j, const struct drs_entry *n);
/* Does an image deny one of them? Its disk, or -1. */
int journal_witness_denied(struct journal *j, const struct journal_witness *w);

/* journal_recover.c: replay what *w leads to. Fills @f; 0, or -errno of the images. */
int journal_replay(struct journal *j, const struct jw_super *w, struct journal_found *f,
		   struct err *err);

#endif
