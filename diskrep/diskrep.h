/* SPDX-License-Identifier: Apache-2.0
 * diskrep - disks replicated in step with the checkpoints.
 *
 * Theory of operation. On the primary a filter sits between virtio-blk and the image. A write goes
 * to the local image and, the same bytes, to the list of the epoch in which it was submitted.
 * The standby stages the list and applies it to its own image, in order, after the common ack.
 * First sync: the standby tells a digest of each chunk of its image, the primary sends the chunks
 * that differ while the guest runs, and again those written meanwhile (dr.h says why none is
 * lost). Hosts that were in step before look only at what either has written since (resync.h, ACTIVITY.md). A flush of the guest is a flush of the local image; its effects leave only with the
 * epoch's output (standby.h says what is durable when). An old primary that comes back as a
 * standby has written things that never were committed: they are among what it has marked, and undone
 * by the same comparison that brings what is missing. Whenever it is not certain what an image is at,
 * all of it is compared.
 *
 * On the standby, what was acked goes into a journal (journal.h) before it goes into the images. So
 * after a power cut at any moment they come back as the end of one epoch, the one that the
 * standby had told to be durable or a later one, and may be started from, and meet the other host's at
 * that epoch. What is acked and what is durable are two things: an ack speaks of the standby's memory,
 * and does not wait for its disks.
 */
#ifndef DISKREP_DISKREP_H
#define DISKREP_DISKREP_H

#include <stddef.h>
#include <stdint.h>

#include "hv/blk.h"
#include "hv/img.h"
#include "remus/participant.h"

struct diskrep;
struct diskrep_standby;
struct dr_io;
struct err;
struct journal_found;
struct loop;

enum { DR_CHUNK = 64 << 10, DR_DISKS_MAX = 8 };

struct diskrep_stats {
	uint64_t epoch_bytes;  /* written in the running epoch */
	uint64_t queued_bytes; /* kept for epochs not yet committed */
	uint64_t sent_bytes, sync_left_bytes, chunks_sent, chunks_same;
};

/* The sync of the disks that goes on, or the last one; and the activity log. */
struct diskrep_sync_stats {
	const char *state; /* "none", "comparing", "sending", "done" */
	int partial;	   /* only marked chunks are compared */
	const char *why;   /* not partial: why; "" if nothing is known of it */
	uint64_t look_bytes, looked_bytes; /* to be compared, and compared so far */
	uint64_t sent_bytes;		   /* of chunks, as they went over the wire */
	uint64_t left_bytes;  /* to be compared or sent, as far as is known */
	uint64_t rate, eta_s; /* bytes looked at a second; UINT64_MAX: not known */
	uint64_t limit;	      /* diskrep_set_rate() */
	int log;	      /* 1: there is a log, 0: none, else -errno: it failed */
	uint64_t marked_chunks, active_extents, log_writes, waited_writes;
};

/* @limit_bytes: kept in memory for uncommitted epochs; half of it asks for an early epoch, all of
 * it makes writes wait. @loop: the I/O thread (borrowed), not running yet. */
int diskrep_create(size_t limit_bytes, struct loop *loop, struct epoch_trigger trigger,
		   struct diskrep **dr_out, struct err *err);
/* After the VM is gone (which closes the disks) and the loop has ended; before loop_destroy. NULL
 * is fine. */
void diskrep_destroy(struct diskrep *dr);
/* Put it before @inner (takes it, also when it fails): *outer_out is what the device gets. @fd:
 * the same image, for reading while syncing (borrowed). Before the VM starts. */
int diskrep_add(struct diskrep *dr, struct blk inner, int fd, struct blk *outer_out,
		struct err *err);
/* The same for an image that is no plain file. */
int diskrep_add_img(struct diskrep *dr, struct blk inner, struct img img,
		    struct blk *outer_out, struct err *err);
/* By what image @disk is known from another one that is put in its place; not 0. Before diskrep_activity(). */
void diskrep_identity(struct diskrep *dr, unsigned disk, uint64_t identity);
/* Keep an activity log in @fd (borrowed for as long as @dr lives; -1: none, marks are kept in memory only). After all
 * disks were added. @on_failed (NULL: nobody) is told once, on any thread, that the file cannot be used any more: @spoiled
 * says whether it will be found so. A file that cannot be used is no error. */
int diskrep_activity(struct diskrep *dr, int fd,
		     void (*on_failed)(void *arg, int rc, int spoiled), void *arg,
		     struct err *err);
/* Start the activity log's thread. After the sandbox. */
int diskrep_run(struct diskrep *dr, struct err *err);
/* This process is @s as well (borrowed for as long as @dr lives): what it was brought to, and what this host knew before. */
void diskrep_meet(struct diskrep *dr, struct diskrep_standby *s);
/* A cold start: recovery has brought the images to what it @found, and flushed them. Before diskrep_start(). */
void diskrep_recovered(struct diskrep *dr, const struct journal_found *found);
/* The guest starts here, now. Before it can write. */
void diskrep_start(struct diskrep *dr);
/* A sync takes so many bytes a second at most, but for what is written meanwhile; 0: as many as it can. Any thread. */
void diskrep_set_rate(struct diskrep *dr, uint64_t bytes);
/* The guest may go on here from the images of @s (borrowed for as long as @dr lives): its flushes
 * then also hear of write-back errors that were told to @s. Before @s is activated. */
void diskrep_inherit(struct diskrep *dr, struct diskrep_standby *s);
struct part diskrep_part(struct diskrep *dr);
void diskrep_stats(struct diskrep *dr, struct diskrep_stats *out); /* any thread */

/* What a comparison of both hosts' images has found. */
enum { DISKREP_FIRST = 16 };
struct diskrep_place {
	uint32_t disk;
	uint64_t offset; /* bytes */
};
struct diskrep_verified {
	uint64_t total, chunks; /* to be compared, and compared */
	uint64_t busy; /* written all the time: replicated again and again instead */
	uint64_t differ, repaired;
	struct diskrep_place first[DISKREP_FIRST]; /* of those that differ */
	char why[96];				   /* it ended early: why; else "" */
};
/* Compare them all while the guest runs; with @repair the standby gets what differs. @on_end is called on a thread of
 * ours. 0; -EBUSY; -ENOTCONN: no standby is in step. Control thread. */
int diskrep_verify(struct diskrep *dr, int repair,
		   void (*on_end)(void *arg, const struct diskrep_verified *r), void *arg,
		   struct err *err);
/* How far it is, or was. Any thread. */
void diskrep_verify_now(struct diskrep *dr, struct diskrep_verified *out,
			int *running_out);

/* What became of a disk that was to be larger. */
struct diskrep_resized {
	uint32_t disk;
	uint64_t bytes;
	int standby;   /* the standby has it, too */
	char why[160]; /* the disk is as it was, and why; "": it has @bytes */
};
/* Let @disk have @bytes (whole sectors; 0: what its image has), while the guest runs (resize.h). @on_end is called on a thread of
 * ours, or before this returns if there is nothing to do. 0; -EINVAL: it would be smaller; -EFBIG; -EBUSY. Control thread. */
int diskrep_resize(struct diskrep *dr, uint32_t disk, uint64_t bytes,
		   void (*on_end)(void *arg, const struct diskrep_resized *r), void *arg,
		   struct err *err);
/* @fn is called when a disk has a new size, which its image has already, under the device lock. Before the VM starts. */
void diskrep_on_resize(struct diskrep *dr, uint32_t disk,
		       void (*fn)(void *arg, uint64_t bytes), void *arg);
uint64_t diskrep_capacity(struct diskrep *dr, uint32_t disk); /* bytes; any thread */
/* The guest that goes on here has a disk of @bytes, of an image that may be larger. Before diskrep_start(). */
void diskrep_set_capacity(struct diskrep *dr, uint32_t disk, uint64_t bytes);

void diskrep_sync_stats(struct diskrep *dr,
			struct diskrep_sync_stats *out); /* any thread */

/* Words that travel with the epochs (notes.h), and cuts: one moment of all disks, at the end of an epoch, on both hosts. */
enum { DR_NOTE_MAX = 32 << 10 };
struct diskrep_notes {
	void (*peer)(void *arg, const void *p,
		     size_t len); /* the standby says; receiver thread */
	/* Now: what was submitted before belongs to @epoch, all else comes after it. UINT64_MAX: no standby is in
	 * step. In the pause of a checkpoint or on the I/O thread, inside the loop's guard: nothing that waits. */
	void (*cut)(void *arg, uint64_t epoch);
	void (*committed)(
		void *arg); /* the cut is on the standby, too; receiver thread */
	void (*lost)(
		void *arg); /* the standby is gone, and may or may not have the cut; epoch thread */
	void *arg;
};
/* Before the first link. */
void diskrep_on_notes(struct diskrep *dr, const struct diskrep_notes *to);
/* To the standby's owner, when the running epoch is in its images (copied). -ENOTCONN: no standby is in step; -EAGAIN: too
 * many wait. Any thread. */
int diskrep_note(struct diskrep *dr, const void *p, size_t len);
/* Cut at the end of the running epoch, or at once; the note goes to the standby with it. -EBUSY: there is one already;
 * -EAGAIN: what was taken over is not on the disks yet. Any thread. */
int diskrep_cut(struct diskrep *dr, const void *p, size_t len);
/* The same at once, the guest standing still and the device lock held. -EAGAIN also: a standby is in step, so that it is
 * diskrep_cut()'s. */
int diskrep_cut_still(struct diskrep *dr);
/* The standby's, on the applier's thread; @cut may wait: later epochs wait with it. The images are flushed. Not 0: they must
 * not be written any more, and this host is no standby. */
struct diskrep_standby_notes {
	void (*peer)(void *arg, const void *p, size_t len);
	int (*cut)(void *arg, uint64_t epoch, const void *p, size_t len);
	/* The epoch of a cut was applied by all participants, and the next one was not begun: receive thread. NULL:
	 * nobody asks. */
	void (*applied)(void *arg, uint64_t epoch, const void *p, size_t len);
	void *arg;
};
/* Before the first link. */
void diskrep_standby_on_notes(struct diskrep_standby *s,
			      const struct diskrep_standby_notes *to);
/* To the primary's owner, before the next ack (copied). -EAGAIN: too many wait. Any thread. */
int diskrep_standby_note(struct diskrep_standby *s, const void *p, size_t len);

/* What is safe on the standby beyond its memory. */
enum { DISKREP_NO_JOURNAL = -1, DISKREP_NOT_TOLD = -2 };
struct diskrep_durable {
	int state;	/* enum journal_state, or one of the above */
	uint64_t epoch; /* on its disks after a power cut, or later; UINT64_MAX: none */
	uint64_t used_bytes, size_bytes; /* of the journal */
	uint64_t lag_epochs, lag_ms; /* behind what is committed; on the primary only */
};
/* As the standby said last. Any thread. */
void diskrep_peer_durable(struct diskrep *dr, struct diskrep_durable *out);

/* The journal of a VM on this host. */
struct diskrep_journal {
	const char *vm; /* borrowed */
	int fd;		/* borrowed; -1: there is none */
	uint64_t bytes;
};
/* If this process ended now, the images */
enum diskrep_image {
	DISKREP_LOST, /* likewise, and nothing more is acked: only a standby made anew may have better luck */
	DISKREP_TORN,  /* must not be started from */
	DISKREP_WHOLE, /* are or will be recovered to the end of an epoch */
	DISKREP_ALL,   /* the same, and it is the last one that was acked */
};
/* Any thread, no lock held. */
struct diskrep_news {
	void (*fn)(void *arg, enum diskrep_image image, const char *why);
	void *arg;
};

/* @fds: the images, in the primary's order (borrowed). They are recovered first, which blocks on
 * the disks. @stage_bytes: the primary's limit_bytes. Twice that and 64 MiB may be staged here:
 * checkpoint 0 and requests in flight come on top of what the primary's limit counts. Beyond it
 * acks wait for the disks, or the link is given up if that does not help. */
int diskrep_standby_create(const int *fds, unsigned n, size_t stage_bytes,
			   const struct diskrep_journal *journal,
			   struct diskrep_standby **s_out, struct err *err);
int diskrep_standby_create_img(const struct img *imgs, unsigned n, size_t stage_bytes,
			       const struct diskrep_journal *journal,
			       struct diskrep_standby **s_out, struct err *err);
/* The same over files of the caller's (for tests; borrowed). */
int diskrep_standby_create_on(const int *fds, unsigned n, size_t stage_bytes,
			      const struct diskrep_journal *journal,
			      const struct dr_io *io, struct diskrep_standby **s_out,
			      struct err *err);
/* Before the first link. */
void diskrep_standby_on_news(struct diskrep_standby *s, struct diskrep_news news);
/* What recovery found when it was created. */
struct journal_found diskrep_standby_found(const struct diskrep_standby *s);
void diskrep_standby_durable(struct diskrep_standby *s,
			     struct diskrep_durable *out); /* any thread */
/* For a cold start, before anybody reads the images: replay what the journal holds, and let it
 * hold nothing any more. -EUCLEAN: the images are nobody's, and @err says why. */
int diskrep_recover(const int *fds, unsigned n, const struct diskrep_journal *journal,
		    struct journal_found *found_out, struct err *err);
int diskrep_recover_img(const struct img *imgs, unsigned n,
			const struct diskrep_journal *journal,
			struct journal_found *found_out, struct err *err);
void diskrep_standby_destroy(struct diskrep_standby *s);
struct standby_part diskrep_standby_part(struct diskrep_standby *s);
/* Put all that was applied on stable storage, now. Blocks on the disks. 0, or -errno: it is not
 * known what the images hold. Any thread. */
int diskrep_standby_sync(struct diskrep_standby *s);

#endif
