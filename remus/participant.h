/* SPDX-License-Identifier: Apache-2.0
 * participant - how memory, machine state, output buffer and disks take part in a checkpoint.
 *
 * Theory of operation. The engine knows nothing of what it carries. On the primary it calls,
 * for each participant in the order of the array:
 *
 *   setup                                  once, when the engine is made
 *   greet                                  what the standby should know before its hello
 *   sync_begin  sync_round...              guest runs; pre-copy towards an empty standby
 *   ahead(i)                               guest runs; what need not wait for the pause
 *   pause  capture(i)  resume              guest stands still from pause to resume
 *   send(i)                                beside the guest: the records of checkpoint i
 *   committed(i)                           ACK(i) came; in order, each i once
 *   unlinked                               the peer is gone; nothing more will be committed
 *   alone                                  authority won: nobody else may run this VM
 *   teardown                               once; also when setup failed
 *
 * resume runs in reverse order, and also for a participant whose own pause failed. The machine
 * participant is first in the array: its pause stops the vCPUs and takes the device lock, its
 * resume lets them go last. send(i) may run while capture(i+1) does; a participant keeps what
 * it captured for each epoch apart. capture may return a positive count: pages that it took,
 * for the statistics.
 *
 * A record or check that fails with -EIO says that this host's own storage or memory failed: it is
 * no standby any more, whatever it acknowledged before. All other failures only mean "not
 * committed".
 *
 * On the standby, for each participant, in the same order as on the primary (HELLO compares):
 *
 *   record...                              what the primary greets with
 *   hello                                  what the primary should know before it syncs
 *   room  record...                        stage, verify; touch neither RAM nor image for an
 *                                          epoch (REC_EPOCH_SYNC records may go straight in)
 *   check(i)                               END(i) came: is all of it here? no effect outside
 *   report                                 before ACK(i) goes: records of its own to the primary
 *   apply(i)                               after ACK(i) was sent: only forward from here
 *   drop                                   forget what belongs to epochs not acked
 *   activate                               after drop and the last apply: ready to run; in
 *                                          reverse order, so the machine comes last
 *   teardown                               once
 */
#ifndef REMUS_PARTICIPANT_H
#define REMUS_PARTICIPANT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;

#define REC_EPOCH_SYNC UINT64_MAX /* epoch number of pre-copy records */

/* Where a participant puts its records. Only valid during the call that got it. */
struct rec_sink {
	int (*put)(struct rec_sink *s, uint16_t type, uint64_t epoch,
		   const struct iovec *iov, int n);
	uint64_t
		saved; /* the participant adds by how much it compressed what it put; memory, whose
			 * pages are counted, does not */
};
static inline int rec_put(struct rec_sink *s, uint16_t type, uint64_t epoch,
			  const void *p, size_t len)
{
	struct iovec v = {.iov_base = (void *)p, .iov_len = len};

	return s->put(s, type, epoch, &v, 1);
}

/* The primary's side. No member is NULL: use the part_* stubs. All return 0 or a negative
 * errno, and a failure from pause to send means "not committed": the engine gives up the link,
 * never the guest. */
struct part_ops {
	const char *name;
	uint8_t kind; /* enum rec_kind: the peer's records of this kind come to peer_record */
	int (*setup)(void *self, struct err *err);
	/* Sender thread. A link was made: records of REC_EPOCH_SYNC, which the standby gets before its
	 * own hello. */
	int (*greet)(void *self, struct rec_sink *s, struct err *err);
	/* Sender thread. A new, empty peer: forget what the last one had. */
	int (*sync_begin)(void *self, struct rec_sink *s, struct err *err);
	/* Sender thread, guest running. Send what changed; *left_out = bytes changed meanwhile. */
	int (*sync_round)(void *self, struct rec_sink *s, uint64_t *left_out,
			  struct err *err);
	/* Epoch thread, guest running, just before the pause. */
	int (*ahead)(void *self, uint64_t epoch, struct err *err);
	/* Epoch thread. */
	int (*pause)(void *self);
	int (*capture)(void *self, uint64_t epoch, struct err *err);
	void (*resume)(void *self);
	/* Sender thread. */
	int (*send)(void *self, uint64_t epoch, struct rec_sink *s, struct err *err);
	/* Receiver thread. */
	void (*committed)(void *self, uint64_t epoch);
	int (*peer_record)(void *self, uint16_t type, const void *p, size_t len,
			   struct err *err);
	/* Epoch thread, after sender and receiver have ended. */
	void (*unlinked)(void *self);
	void (*alone)(void *self);
	void (*teardown)(void *self);
};

struct part {
	const struct part_ops *ops;
	void *self;
};

/* The standby's side: all on the standby's receive thread except drop, activate and teardown. */
struct standby_part_ops {
	const char *name;
	uint8_t kind;
	int (*hello)(void *self, struct rec_sink *s, struct err *err);
	/* Where the payload of this record, whose header is true and no more, may be put, so that
	 * record() need not copy it; NULL: nowhere. A record may follow or the link's end. */
	void *(*room)(void *self, uint16_t type, uint64_t epoch, size_t len);
	int (*record)(void *self, uint16_t type, uint64_t epoch, const void *p,
		      size_t len, struct err *err);
	int (*check)(void *self, uint64_t epoch, struct err *err);
	/* Nothing that takes long. A failure is the link's, the ack stays decided. */
	int (*report)(void *self, struct rec_sink *s);
	int (*apply)(void *self, uint64_t epoch, struct err *err);
	void (*drop)(void *self);
	int (*activate)(void *self, struct err *err);
	void (*teardown)(void *self);
};

struct standby_part {
	const struct standby_part_ops *ops;
	void *self;
};

/* Stubs for what a participant has no use for. */
int part_no_setup(void *self, struct err *err);
int part_no_greet(void *self, struct rec_sink *s, struct err *err);
int part_no_sync_begin(void *self, struct rec_sink *s, struct err *err);
int part_no_sync_round(void *self, struct rec_sink *s, uint64_t *left_out,
		       struct err *err);
int part_no_ahead(void *self, uint64_t epoch, struct err *err);
int part_no_pause(void *self);
void part_no_resume(void *self);
int part_no_send(void *self, uint64_t epoch, struct rec_sink *s, struct err *err);
void part_no_committed(void *self, uint64_t epoch);
int part_no_peer_record(void *self, uint16_t type, const void *p, size_t len,
			struct err *err);
void part_no_event(void *self); /* unlinked, alone, drop */
void part_no_teardown(void *self);
int spart_no_hello(void *self, struct rec_sink *s, struct err *err);
void *spart_no_room(void *self, uint16_t type, uint64_t epoch, size_t len);
int spart_no_check(void *self, uint64_t epoch, struct err *err);
int spart_no_report(void *self, struct rec_sink *s);
int spart_no_apply(void *self, uint64_t epoch, struct err *err);
int spart_no_activate(void *self, struct err *err);

/* Anybody on the primary may ask for the running epoch to end early (output waits, a buffer
 * fills). Any thread; cheap when already asked. Set by the engine before setup. */
struct epoch_trigger {
	void (*request)(void *arg, const char *why);
	void *arg;
};

#endif
