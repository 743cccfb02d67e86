/* SPDX-License-Identifier: Apache-2.0
 * stream - the control records: how a link begins, what makes a checkpoint whole, how it ends.
 *
 * Theory of operation. P is the primary, S the standby; every record carries the term.
 *
 *   P -> S  HELLO                       who speaks, about which VM, with which participants
 *   P -> S  records with which its participants greet, SYNC
 *   S -> P  HELLO, records of its participants' hello, SYNC   "begin"
 *   P -> S  records of epoch REC_EPOCH_SYNC, SYNC after each round
 *   P -> S  records of epoch 0, ARMED, END(0);  records of epoch 1, END(1); ...
 *   S -> P  ACK(0), ACK(1), ...
 *   P -> S  END(n), BYE(n)              the guest ended; n is the last
 *   S -> P  ACK(n), BYE(n)
 *   P -> S  SAVE(n)                     n is acked, and the guest stands still: save it as it is at n
 *   S -> P  SAVED(n)                    that is on stable storage, or failed
 *   P -> S  BYE(n)                      all is saved, here as well: there is nothing to take over; or
 *           records of epoch n + 1      it was no good, the guest goes on
 *   S -> P  FENCED                      this term is over; nothing is acked any more
 *
 * ARMED(0) comes before END(0) and only once checkpoint 0 is captured: from then on output is
 * held, so that a standby which acked END(0) may be granted. Both sides send their HELLO before
 * they judge the other's, so that each can tell its own user what does not fit.
 */
#ifndef REMUS_STREAM_H
#define REMUS_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/wire.h"

struct err;

enum {
	CTL_HELLO = 0x0001,
	CTL_SYNC = 0x0002,
	CTL_END = 0x0003,
	CTL_ACK = 0x0004,   /* no payload */
	CTL_ARMED = 0x0005, /* no payload */
	CTL_FENCED = 0x0006,
	CTL_BYE = 0x0007,  /* no payload */
	CTL_SAVE = 0x0008, /* no payload */
	CTL_SAVED = 0x0009,
};

enum { STREAM_VERSION = 6, STREAM_PARTS_MAX = 8, STREAM_VM_MAX = 63 };
enum stream_role { STREAM_PRIMARY = 1, STREAM_STANDBY = 2 };

struct hello_wire {
	struct le16 version;
	struct le16 role;
	struct le16 parts;
	struct le16 zero;
	uint8_t kind[STREAM_PARTS_MAX]; /* of the participants, in order; the rest is 0 */
	char vm[STREAM_VM_MAX + 1];	/* padded with zero bytes, at least one */
};
WIRE_SIZE(struct hello_wire, 80);

/* From the primary: the greeting ends, then after each round of pre-copy. From the standby once: it is
 * ready for the first round. */
struct sync_wire {
	struct le32 round;
	struct le32 zero;
	struct le64 left; /* bytes that changed during the round */
};
WIRE_SIZE(struct sync_wire, 16);

struct fenced_wire {
	struct le64 term; /* the one that holds now */
};
WIRE_SIZE(struct fenced_wire, 8);

struct saved_wire {
	struct le32 failed; /* 0: it is saved */
	struct le32 zero;
};
WIRE_SIZE(struct saved_wire, 8);

/* What END promises to be there, for one kind of records. An END is one of these for each
 * participant, in order. */
struct end_wire {
	struct le16 kind;
	struct le16 zero;
	struct le32 records;
	struct le64 bytes; /* of their payloads */
	struct le64 sum;   /* XXH3-64 chained over types and payloads in order */
};
WIRE_SIZE(struct end_wire, 24);

/* The records of the two participants that live beside the engine. */
enum {
	MEM_HELLO = 0x0101, /* each side once, before any page: how large its memory is */
	MEM_PAGES = 0x0102, /* a batch of page items (pagecodec.h) */
	MEM_DIGESTS = 0x0103, /* struct digest_wire: pages as of the checkpoint before */
	MACH_STATE = 0x0201,  /* a piece of the machine's state (vm_save), in order */
};

/* XXH3-64 of a page. */
struct digest_wire {
	struct le64 page, digest;
};
WIRE_SIZE(struct digest_wire, 16);

struct mem_hello_wire {
	struct le64 pages;
};
WIRE_SIZE(struct mem_hello_wire, 8);

/* Fill @h in. @vm is at most STREAM_VM_MAX bytes, @n at most STREAM_PARTS_MAX. */
void hello_make(struct hello_wire *h, enum stream_role role, const char *vm,
		const uint8_t *kind, unsigned n);
/* Does the peer's HELLO (@len hostile bytes) fit to ours? 0 or -EPROTO with @err saying what
 * differs. */
int hello_check(const struct hello_wire *ours, const void *p, size_t len,
		struct err *err);

/* The records of one epoch, counted alike by who sends and who receives. */
struct tally {
	unsigned n;
	struct tally_kind {
		uint8_t kind;
		uint32_t records;
		uint64_t bytes, sum;
	} k[STREAM_PARTS_MAX];
};

void tally_init(struct tally *t, const uint8_t *kind, unsigned n);
void tally_reset(struct tally *t); /* for the next epoch */
/* Count one record. 0, or -EPROTO when no participant has its kind. */
int tally_add(struct tally *t, uint16_t type, const struct iovec *iov, int n);
uint64_t tally_bytes(const struct tally *t, unsigned i); /* of the i-th participant */
/* END's payload into @out; returns its length in bytes. */
size_t tally_end(const struct tally *t, struct end_wire out[STREAM_PARTS_MAX]);
/* Is what was counted what END (@len hostile bytes) promises? 0 or -EPROTO with @err. */
int tally_check(const struct tally *t, const void *p, size_t len, struct err *err);

#endif
