/* SPDX-License-Identifier: Apache-2.0
 * journal - keeps a standby's images at the end of an epoch through a power cut.
 *
 * Theory of operation. All disks of a VM share one journal: a ring in one preallocated file
 * (JOURNAL.md has its format). What an epoch changes is appended and flushed, several epochs with
 * one flush (a *batch*); only then is any of it written to the images. When the images have been
 * flushed up to some epoch, the superblock says that replay begins behind it, and once that is
 * durable too, the room before it is used again. So at each moment
 *
 *     image on disk = state at the superblock's epoch + any part of the epochs in the ring
 *
 * and replaying the ring's whole epochs in order ends at the last one that was flushed, or at one
 * after it whose batch happens to be complete. Replay changes nothing in the ring until the images
 * are flushed, so it can be cut short and begun again.
 *
 * States, in the superblock, each durable before what it allows:
 *
 *   BLANK --sync begins--> SYNCING --images flushed--> LIVE <--> (replay)
 *     any --activated, images flushed; or cold start--> OWNED
 *     any --the journal cannot be written--> UNSAFE --it can again, images flushed--> LIVE
 *
 * Only LIVE is replayed. SYNCING, before the first byte of a sync: the images are overwritten and
 * nobody's. OWNED, before a guest's flush is answered or a guest is booted here: its writes
 * do not go through the journal, and an old replay would undo them. UNSAFE, before an epoch is
 * written that the journal has not got.
 *
 * What the disk did. A batch that was being written is torn: normal, replay ends before it. But each
 * record and superblock says up to where all was flushed when it was written; if replay ends before
 * such a place, something that the disk had confirmed is gone (a lost write, bad sectors), the
 * images may hold parts of what is missing, and they are told to be nobody's.
 *
 * Threads: journal_epoch() and journal_commit() by one, the others by any.
 */
#ifndef DISKREP_JOURNAL_H
#define DISKREP_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"
#include "diskrep/generation.h"
#include "diskrep/io.h"

struct drs_epoch;
struct err;
struct journal;

enum journal_state {
	JOURNAL_BLANK, /* nothing is known */
	JOURNAL_SYNCING,
	JOURNAL_LIVE,
	JOURNAL_UNSAFE,
	JOURNAL_OWNED,
	JOURNAL_STATES
};
const char *journal_state_name(enum journal_state s);

/* What the journal is for. */
struct journal_disks {
	const char *vm; /* borrowed */
	unsigned n;
	uint64_t capacity[DR_DISKS_MAX]; /* bytes; to journal_open(): of the images */
};

/* What recovery found, and what the images are now. */
struct journal_found {
	enum journal_state state;
	int whole; /* 1: the images can be started from; 0: they must not; -1: not known here */
	struct dr_generation gen; /* that they are at; zero: none */
	uint64_t capacity
		[DR_DISKS_MAX]; /* of the disks there, bytes: of their images the first part */
	uint64_t epochs, bytes; /* replayed */
	char why[160];		/* for people, one line */
};

enum {
	JOURNAL_BYTES_MIN = 32 << 10,
};

/* Read the journal in @bytes of io's journal file, replay what is in it onto the images, flush
 * them, and have an empty journal of the same state. Blocks on the disks. *found_out is filled
 * also for damage, which is no error: the images are then nobody's. -EINVAL: it is another
 * VM's; else -errno of writing an image or the journal. Returns owned; borrows @io's self. */
int journal_open(struct dr_io io, const struct journal_disks *d, uint64_t bytes,
		 struct journal **j_out, struct journal_found *found_out,
		 struct err *err);
void journal_close(struct journal *j); /* writes nothing; NULL is fine */

/* Only look: what the superblocks say. @fd: the file (borrowed). @found_out as above, but nothing is
 * replayed: LIVE means that the images will be whole, at that epoch or a later one. */
int journal_peek(int fd, const char *vm, struct journal_found *found_out,
		 struct err *err);

/* The images are in this state from now on, and what is in the ring counts no more. Durable when it
 * returns 0. @base, for SYNCING: of the link (DR_BASE_LEN bytes). Not for LIVE. Nothing is being
 * appended meanwhile. */
int journal_mark(struct journal *j, enum journal_state s, const uint8_t *base);

/* A sector of an image that proves that it is the image which the journal was kept for, as of some place in it. */
struct journal_witness {
	int there;
	uint32_t disk;
	uint64_t offset; /* bytes */
	uint64_t sum;
};

enum { JOURNAL_SECTOR = 512, JOURNAL_WITNESSES = 8 };

/* The disks have these sizes from the next journal_mark() on. Nothing is being appended meanwhile. */
void journal_sizes(struct journal *j, const uint64_t capacity[DR_DISKS_MAX]);

/* A place between two epochs, and the disks' sizes there. */
struct journal_spot {
	struct journal_witness witness[JOURNAL_WITNESSES];
	uint64_t pos, seq, epoch;
	uint64_t capacity[DR_DISKS_MAX];
	uint32_t
		link; /* 0: none. Spots of before the last journal_mark() count no more */
};

/* Ring bytes that an epoch takes, at most; and how many are free, and there are at all. */
uint64_t journal_need(const struct drs_epoch *e);
uint64_t journal_room(struct journal *j);
uint64_t journal_size(const struct journal *j);

/* Append @e (which has room); @last: of its batch. */
int journal_epoch(struct journal *j, const struct drs_epoch *e, int last);
/* Flush the batch. Then all of it is durable, and *spot_out is behind it. After a failure of this or
 * of journal_epoch() nothing more may be appended. */
int journal_commit(struct journal *j, struct journal_spot *spot_out);

/* Look for witnesses in the images, which are at the end of what was appended and do not change meanwhile; into *spot too.
 * The appender's thread. */
void journal_look(struct journal *j, struct journal_spot *spot);

/* The guest is about to write to the images beside it: no witness counts any more, now or in later superblocks. Durable
 * when it returns 0. No epoch is appended meanwhile. */
int journal_dismiss(struct journal *j);

/* The images were flushed with all before @spot in them: LIVE, and replay begins there. Durable when
 * it returns 0; then the room before it is free. An old spot is ignored. */
int journal_retire(struct journal *j, const struct journal_spot *spot);

/* The images were flushed and are at the end of @epoch of this link, where the disks have these sizes, without the
 * journal; nothing is being appended. From here on it counts again: LIVE, and empty. Durable when it returns 0; after a
 * failure journal_mark() has to say UNSAFE, durably, before the images change: what was written may still come to be
 * on the disk. The appender's thread. */
int journal_resume(struct journal *j, uint64_t epoch,
		   const uint64_t capacity[DR_DISKS_MAX]);

enum journal_state journal_state(struct journal *j);
struct dr_generation journal_generation(struct journal *j); /* at the tail, if LIVE */

#endif
