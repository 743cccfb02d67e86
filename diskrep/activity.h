/* SPDX-License-Identifier: Apache-2.0
 * activity - which chunks may differ from the other host's, and what of that must be on disk before
 * the guest may write.
 *
 * Theory of operation. In memory the marks are exact: a chunk is marked when a write to it is given
 * to the image, and forgotten when that write's epoch is durable on the standby. To know which marks
 * belong to such epochs there are two sets: @cur gets the marks, and once all that @old has is
 * durable (its last epoch is @turn), @old is forgotten and @cur takes its place. So a mark
 * lives for one turn too long at most.
 *
 * On disk (ACTIVITY.md) the marks are those of the bitmap and all chunks of active extents. A write
 * is permitted if all its extents are active there, or all its chunks are marked there; else it
 * waits, and what it wants is written with whatever else is due: one fdatasync for all that
 * gathered meanwhile. Extents are retired, least recently used first, before the table is full, by writing
 * their words of the bitmap. What a write made of this host's disk is not sure before a flush: so
 * there is @loose, what was written since the last one, and a word on disk has that, too.
 *
 * A guest that writes in a row waits once for ACT_AHEAD extents: while half of the slots are free, those that
 * follow come along with one whose neighbour before it is in use. (Scattered writes would have eight times as much
 * marked, and compared after a crash, for nothing.)
 *
 * When the slots are nearly all in use, as by writes all over a large disk, retiring one that is written again at
 * once would cost two waits for each. Then an extent is LENT instead: all its chunks are marked in the bitmap, which
 * permits the same and costs no slot; of a sector of the bitmap that has many of those, all are. It is given back
 * when nothing was written there for a while.
 *
 * A request over more than ACT_WIDE extents (a discard of a whole disk) would take all slots: it is marked in
 * the bitmap instead.
 *
 * Everything here is memory and decisions: act_collect() says what to write next, act_written() that
 * it is on stable storage. Not locked: diskrep calls all of it under its lock, but for the
 * writing itself.
 */
#ifndef DISKREP_ACTIVITY_H
#define DISKREP_ACTIVITY_H

#include "diskrep/activity_file.h"

enum {
	ACT_WIDE = 16,
	ACT_RESERVE = 8, /* of so many slots one is kept free, or extents are lent */
	ACT_AHEAD = 8,
	ACT_LENT_ALL = 32,  /* so many extents of a sector lent: the others are, too */
	ACT_BATCH = 512,    /* words in one batch */
	ACT_IDLE_TURNS = 8, /* act_tidy()s without a write: an extent is retired */
};

struct act_slot {
	uint32_t id;
	uint8_t state;	     /* enum in activity.c */
	uint16_t prev, next; /* by use, or free */
	unsigned used;	     /* the turn of act_tidy() */
};

struct act_disk {
	struct dr_bits cur, old, loose, loose_old;
	struct dr_bits there; /* the bitmap on stable storage, at least */
	struct dr_bits want;  /* extents that writes wait for; a bit an extent */
	struct dr_bits wide;  /* chunks to be marked in the bitmap */
	/* Extents: to be lent; that are, or will be with this batch; written since the last look. */
	struct dr_bits lend, lent, lent_used;
	int flushing;	/* one that counts is under way */
	uint16_t *slot; /* of an extent, plus 1; 0: none */
};

struct act_word {
	unsigned disk;
	uint64_t w, v;
};

/* What is written together: one act_collect() fills it, one act_written() ends it. */
struct act_batch {
	/* Sectors of bitmaps that the head is the first to speak of: [fresh, fresh_end). Before it. */
	uint64_t fresh[DR_DISKS_MAX], fresh_end[DR_DISKS_MAX];
	int write_head, head_first; /* and synced, before words are */
	struct act_head head;
	unsigned n;
	struct act_word word[ACT_BATCH];
	unsigned sectors;
	struct act_sector {
		unsigned disk;
		uint64_t sector;
		uint64_t words[ACT_WORDS];
	} sector[ACT_BATCH];
};

struct act {
	unsigned disks;
	struct act_disk disk[DR_DISKS_MAX];
	struct act_slot slot[ACT_SLOTS + 2]; /* the last two head the lists */
	unsigned slots, free;

	uint64_t capacity
		[DR_DISKS_MAX]; /* of the disks, and so of the claim; sets may be larger */
	struct dr_claim claim;	/* of this process's images, now */
	struct dr_claim sworn;	/* the same on disk, or as it should be there */
	int unsure;		/* the claim may not be sworn yet */
	int open;
	struct dr_claim told; /* what the head on stable storage says */
	int told_open;
	uint64_t told_capacity[DR_DISKS_MAX];
	struct dr_generation
		next; /* what the claim becomes once checkpoint 0 is durable */
	int have_next;
	uint64_t turn; /* the last epoch that may be in @old */
	unsigned tidy; /* turns so far */
	int tidying;   /* this batch also clears words and retires idle extents */
	int off;       /* no file: every write is permitted */
};

/* For images of these sizes, with @slots active extents at most (ACT_SLOTS; a test takes fewer). Off until
 * act_load(). 0 or -ENOMEM. */
int act_init(struct act *a, const uint64_t *capacity, unsigned disks, unsigned slots);
void act_fini(struct act *a); /* idempotent; also of zeroes */
/* The disk has @capacity bytes from now on; more of them than before read as zeroes, and so does the other host's image
 * there once it has them. Writes to what is new wait for a head that speaks of it. 0 or -ENOMEM. */
int act_resize(struct act *a, unsigned disk, uint64_t capacity);
/* Begin with what the file holds (@bitmap: of each disk, borrowed): at most @slots extents. */
void act_load(struct act *a, const struct act_head *h, const struct dr_bits *bitmap);
/* From now on without a file. */
void act_off(struct act *a);

/* May this be written now? If so it is marked, as a write of the epoch that runs. If not, what it
 * wants goes with the next batch. */
int act_admit(struct act *a, unsigned disk, uint64_t first, uint64_t count);
/* As a write of the epoch that runs, which was permitted before and is in flight. */
void act_mark(struct act *a, unsigned disk, uint64_t first, uint64_t count);
/* The image begins to flush. 1: its end is to be told by act_flushed(), and until then what is in
 * flight now by act_loose(): a flush does not cover that. 0: another one is under way already. */
int act_flush_begins(struct act *a, unsigned disk);
void act_loose(struct act *a, unsigned disk, uint64_t first, uint64_t count);
void act_flushed(struct act *a, unsigned disk, int ok);

/* A link with a new base: it holds once its checkpoint 0, which is captured now, is durable. */
void act_base(struct act *a, const uint8_t base[DR_BASE_LEN]);
void act_first_epoch(struct act *a);
void act_unlinked(struct act *a); /* that base came to nothing, or holds */
/* All epochs up to @epoch are durable on the standby; @running is the one that writes go to. */
void act_durable(struct act *a, uint64_t epoch, uint64_t running);
/* The guest starts here, from images that are at @claim; without marks. @claim->role ACT_NONE: nobody knows. */
void act_restart(struct act *a, const struct dr_claim *claim);
/* What act_restart() said is on stable storage: it may be sworn. */
void act_swear(struct act *a);
/* A guest may write here from now on. */
void act_open(struct act *a);
/* No guest writes here: this host is a standby in step, its journal says what its images are at. */
void act_close(struct act *a);
/* Once in a while: clear what need not be marked on disk. */
void act_tidy(struct act *a);

/* All that is marked, joined to @to. */
void act_marks(const struct act *a, unsigned disk, struct dr_bits *to);
uint64_t act_count(const struct act *a);  /* of marked chunks, at most */
unsigned act_active(const struct act *a); /* extents */

/* What to write now; 0: nothing. */
int act_collect(struct act *a, struct act_batch *b);
void act_written(struct act *a, const struct act_batch *b);
/* Write a batch in the right order. 0 or -errno. No lock. */
int act_batch_write(struct act_file *f, const struct act_batch *b);

#endif
