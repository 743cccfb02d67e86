/* SPDX-License-Identifier: Apache-2.0
 * dr - the inside of a diskrep, the primary's side (internal).
 *
 * Theory of operation. A write-like request (write, discard, zeroes) is ADMITTED once, on the I/O
 * thread: it goes on the list of requests in flight and, while there is a committed standby to
 * be, on the list of the running epoch; then it is given to the image. So an epoch's list is
 * what was submitted in it, in that order, and a request in flight at a checkpoint is part of it.
 *
 * Requests that overlap one in flight wait until that is done. The image may complete requests in
 * any order, the standby applies them in order of submission: without this, the two could
 * differ where requests overlap. Whatever waits, waits in one queue and is admitted in order.
 *
 * Before that, the activity log is asked (activity.h): a write to an extent that is not active waits in the COLD list
 * until the log on disk names it. Cold requests do not overlap one another, and whatever overlaps one waits in
 * the queue behind it, so the order of overlapping requests is kept; all others go on. Where a request belongs is
 * decided when it is admitted: one that is still cold at a checkpoint is not part of it, like one in
 * the queue, and is issued again by the device after a failover.
 *
 * Modes: OFF, no standby; only the activity log's marks are kept. SYNC, from sync_begin: the chunks that are
 * written are also marked dirty. ON, from the first capture: epochs' lists are recorded. Back to OFF by
 * unlinked. A standby that returns is compared where either host has marks (resync.h), which also undoes what a
 * returning old primary wrote after its last commit; or, in any doubt, as a whole.
 *
 * Why the sync loses no write. A request marks its chunks when it is done, and whoever reads a
 * chunk, to compare or to send it, clears its mark before. So a write that is done before the
 * first capture is
 *   - read as a whole, if the read began after the write was done; or
 *   - marked after the read began (which may have seen old, torn or new data), and sent again; or
 *   - done before the marks began, and then before any read; or, of a chunk that nobody reads because the
 *     standby did not tell its digest, found in the activity log's marks, which are set before a write
 *     is given to the image, and marked dirty for that reason (sync.c, mark_unasked).
 * And one that is still in flight at the first capture is part of checkpoint 0 by itself.
 * A hole counts as a read of zeroes, so it is looked for after the mark was cleared too.
 * Checkpoint 0 must be the image as it is at the first capture, not as it is when it is sent: so
 * the capture itself reads the chunks that are still marked, while the guest stands still. The
 * requests in flight then are appended to it with their own data, which makes up for what was
 * read while they changed it. To keep that pause short, pre-copy makes writers wait once
 * too many chunks are marked, fewer from round to round.
 *
 * Failures. While there is a standby, most errors are held below this filter (hv/shield.h). A write that
 * fails locally and is reported to the guest is on the list all the same; what it left here follows it (redo.c). If the
 * list itself cannot grow, the epoch's capture fails, and with it the link, never the guest.
 *
 * Locks. @lock guards everything that two threads touch, and is held for moments only. Waiting
 * requests, the pool and admission belong to the I/O thread under the loop's guard; capture runs
 * with that guard held.
 */
#ifndef DISKREP_DR_H
#define DISKREP_DR_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "diskrep/activity_run.h"
#include "diskrep/bits.h"
#include "diskrep/diskrep.h"
#include "diskrep/image.h"
#include "diskrep/notes.h"
#include "diskrep/resize.h"
#include "diskrep/verify.h"

struct diskrep_standby;
struct event;
struct rec_sink;

enum dr_mode { DR_OFF, DR_SYNC, DR_ON };
enum dr_op {
	DR_WRITE,
	DR_DISCARD,
	DR_ZEROES,
	DR_CHUNK_DATA,
	DR_CHUNK_ZEROES,
	DR_RESIZE, /* to @len bytes, from the end of the epoch on */
};

struct dr_entry {
	enum dr_op op;
	uint32_t disk;
	uint64_t offset; /* bytes */
	uint64_t len;
	struct blk_data *data; /* a reference, or NULL */
};

/* What one epoch wrote. */
struct dr_list {
	struct dr_list *next;
	uint64_t epoch;
	struct dr_entry *e;
	size_t n, cap;
	uint64_t cost; /* bytes kept for it */
	int lost;      /* an entry is missing: must not be committed */
	unsigned checks;
	struct dr_check check[VERIFY_BATCH]; /* of the disks at its end */
	struct dr_note *notes;		     /* owned */
	uint32_t grow_disk;		     /* for which the standby is to make room */
	uint64_t grow_bytes;		     /* so much; 0: for none */
};

/* A request given to the image in the place of the device's own. */
struct dr_req {
	struct blk_req r; /* first */
	struct blk_req *outer;
	struct dr_disk *disk;
	struct dr_req *next, *prev; /* in flight, in order; @next also in the pool */
};

struct dr_disk {
	struct diskrep *dr;
	uint32_t index;
	struct blk inner;
	struct dr_image img;
	uint64_t identity;	   /* 0: not known */
	uint64_t *dirty;	   /* a bit a chunk; NULL unless syncing */
	struct dr_digest *digests; /* the standby's; NULL unless it told */
	uint64_t digests_known;	   /* chunks up to here were told, or left out */
	struct dr_bits told;	   /* those that were told */
	void (*on_resize)(void *arg, uint64_t bytes); /* the guest's device; NULL: none */
	void *on_resize_arg;
};

/* The thread that compares images, compare.c. */
struct dr_compare {
	pthread_t thread;
	int running; /* @thread has to be joined; touched by the sender, and after its end by the
		      * engine's thread */
	pthread_cond_t ended;
	uint64_t look, looked, began_ns; /* chunks; of this or the last time */
	int alive_ms;			 /* how long the standby may hear nothing */
	int done, stop, rc;		 /* under lock */
	uint32_t disk;			 /* the one that @rc is about */
};

/* How this link's sync begins. */
struct dr_resync {
	struct dr_claim greeted; /* what this host said */
	int told, partial; /* the standby's claim came; only marked chunks are compared */
	const char *why;   /* not partial: why; NULL: the standby's wish */
	uint64_t unasked;  /* chunks that were marked after the greeting */
};

/* So many bytes a second, while nobody waits for them. */
struct dr_pace {
	uint64_t rate; /* 0: as fast as it goes; under lock */
	uint64_t next_ns;
};

enum { DR_REDO_MAX = 16 };

/* Chunks that a write which failed here has left as nobody knows; redo.c. Under lock. */
struct dr_redo {
	unsigned n;
	int too_many;
	struct dr_redo_chunk {
		uint32_t disk;
		uint64_t chunk;
	} chunk[DR_REDO_MAX];
};

enum { DR_LAGS = 256 };

/* What the standby says of its disks, and when what it says was committed. */
struct dr_durable {
	struct diskrep_durable told;
	uint64_t committed;	   /* last epoch; UINT64_MAX: none */
	uint64_t when_ns[DR_LAGS]; /* of commits, by epoch */
};

struct diskrep {
	pthread_mutex_t lock;
	struct loop *loop;
	struct event *wake;
	int wake_fd;
	struct epoch_trigger trigger;
	uint64_t limit;

	enum dr_mode mode;
	struct dr_disk disk[DR_DISKS_MAX];
	uint32_t disks;
	struct dr_req *first, *last, *pool;
	struct blk_req *waiting, **waiting_tail; /* @backend_priv: the dr_disk */
	struct blk_req *cold; /* likewise: in order, and no two overlap; activity_run.h */
	int pumping;
	int stalled; /* the head of the queue was told to wait; under lock */

	struct diskrep_standby *heir_of; /* NULL: this process was no standby */
	int settled; /* 0: requests may go to the images; -EAGAIN: not yet; else never */
	struct dr_req *flushes; /* carried out, and not answered before that has ended */

	struct dr_list *open, *sealed, **sealed_tail, *spare;
	uint64_t queued; /* cost of open and sealed */

	struct dr_activity activity;
	struct diskrep_standby *was_standby; /* NULL: this process was none */
	struct dr_claim recovered;	     /* by the journal, before a cold start */
	struct dr_resync resync;
	struct dr_pace pace;
	struct dr_verify verify;
	struct dr_resize resize;
	struct dr_redo redo;
	struct dr_compare compare;
	int peer_told;	 /* the standby's digests are complete */
	unsigned rounds; /* of pre-copy that are done */
	uint64_t dirty_chunks;
	uint64_t sent_bytes, chunks_sent, chunks_same;
	uint64_t sync_sent; /* bytes, in this sync */

	struct dr_durable durable; /* under lock */
	struct dr_notes notes;

	/* The sender's. */
	uint8_t *room;	   /* DR_WRITE_MAX bytes to compress into */
	uint8_t *together; /* DR_JOINED_MAX bytes: several writes in one piece */
	unsigned misses;   /* writes in a row that could not be compressed */
	unsigned skipped;  /* of them not asked since the last time */
};

/* What an entry with @len bytes of data counts for. */
enum { DR_ENTRY_COST = 64 };

/* filter.c: I/O thread. */
struct dr_entry dr_entry_of(const struct dr_req *q); /* borrows the data */
extern const struct blk_ops dr_filter_ops;
void dr_pump(struct diskrep *dr); /* admit what waits, as far as it may */
/* Under lock: does the I/O thread have to look again, now that something changed? If so, call
 * dr_wake() without the lock. */
int dr_unstall(struct diskrep *dr);
void dr_wake(struct diskrep *dr);
/* A request in the place of @outer, not on any list; NULL: no memory. */
struct dr_req *dr_req_new(struct dr_disk *d, struct blk_req *outer,
			  void (*done)(struct blk_req *r, int status));

/* inherit.c: I/O thread. */
void dr_flush(struct dr_disk *d, struct blk_req *outer);
void dr_flushes_answer(struct diskrep *dr); /* those that may be answered now */
void dr_flushes_end(struct dr_disk *d);	    /* with an error: the disk is closed */
int dr_settled(struct diskrep *dr);	    /* dr->settled, as it is now */
void dr_disinherit(struct diskrep *dr);

/* list.c: under lock unless said otherwise. */
struct dr_list *dr_list_get(struct diskrep *dr, uint64_t epoch); /* NULL: out of memory */
/* Append; takes a reference of its own on @data. Without memory, the list is marked lost. */
void dr_list_add(struct diskrep *dr, struct dr_list *l, const struct dr_entry *e);
void dr_list_seal(struct diskrep *dr, struct dr_list *l);
struct dr_list *dr_list_find(struct diskrep *dr, uint64_t epoch); /* sealed; NULL: none */
/* Take all sealed lists up to @epoch off; then, without lock, let go of what they refer to;
 * then, under lock again, keep them for reuse. */
struct dr_list *dr_list_take(struct diskrep *dr, uint64_t epoch);
void dr_list_release(struct dr_list *lists); /* no lock */
void dr_list_recycle(struct diskrep *dr, struct dr_list *lists);
void dr_list_free(struct dr_list *lists);

/* sync.c */
/* These bytes changed. */
void dr_mark(struct dr_disk *d, uint64_t offset,
	     uint64_t len); /* under lock; mode is SYNC */
/* Must a request wait until the sender has caught up? Under lock. */
int dr_sync_behind(const struct diskrep *dr);
int dr_sync_begin(void *self, struct rec_sink *sink, struct err *err);
int dr_sync_round(void *self, struct rec_sink *sink, uint64_t *left_out, struct err *err);
/* The chunks that are still marked, appended to @l. The guest stands still; no lock. */
int dr_sync_rest(struct diskrep *dr, struct dr_list *l, struct err *err);
/* Chunk @c as it is now, appended to @l. The guest stands still; no lock. */
int dr_keep_chunk(struct dr_disk *d, uint64_t c, struct dr_list *l);
void dr_marks_forget(struct diskrep *dr); /* under lock */
/* Clear a chunk's mark. Was it set? No lock. */
int dr_unmark(struct dr_disk *d, uint64_t c);

/* redo.c: a write that is on the running epoch's list, or an older one's, has failed. Under lock; I/O thread. */
void dr_redo_note(struct dr_disk *d, const struct blk_req *r);
/* Those chunks, appended to @l. 0 or -errno. The guest stands still; no lock. */
int dr_redo_capture(struct diskrep *dr, struct dr_list *l);

/* pace.c: wait until @bytes may go, at most until the comparison is to stop. No lock. */
void dr_pace(struct diskrep *dr, uint64_t bytes);

/* compare.c: no lock. Begin once the mode is SYNC and the digests are complete. */
int dr_compare_begin(struct diskrep *dr, struct err *err);
/* Until all chunks that differ are marked. 0, or an error of the sink or of reading. */
int dr_compare_wait(struct diskrep *dr, struct rec_sink *sink, struct err *err);
void dr_compare_end(struct diskrep *dr); /* sooner, if it still runs */

/* digests.c: the standby's hello comes in. */
int dr_peer_record(void *self, uint16_t type, const void *p, size_t len, struct err *err);

void dr_digests_forget(struct diskrep *dr); /* under lock; also the standby's claim */
/* The chunk is zeroes there, as the hello told. Valid while @digests are. */
int dr_standby_zero(const struct dr_disk *d, uint64_t c);

/* durable.c */
void dr_durable_reset(struct diskrep *dr); /* under lock: a new peer */
void dr_durable_committed(struct diskrep *dr, uint64_t epoch); /* no lock */
int dr_durable_record(struct diskrep *dr, const void *p, size_t len, struct err *err);

/* send.c: an epoch's records, and single chunks for the sync. */
struct dr_sent {
	uint32_t count;	  /* records, as the barrier counts them */
	uint64_t bytes;	  /* of their payloads */
	uint64_t counted; /* of them in the statistics */
};
/* Writes that follow each other on the disk go together, up to so much. */
enum { DR_JOINED_MAX = 256 << 10 };
int dr_send_list(struct diskrep *dr, const struct dr_list *l, struct rec_sink *sink,
		 struct err *err);
/* @data NULL: @chunks chunks of zeroes. @room: DR_CHUNK bytes to compress into. */
int dr_send_chunk(struct diskrep *dr, const struct dr_disk *d, uint64_t epoch,
		  uint64_t first, uint32_t chunks, const void *data, uint8_t *room,
		  struct rec_sink *sink, struct dr_sent *sent);

#endif
