/* SPDX-License-Identifier: Apache-2.0
 * session - one stream that does not break while one of several paths works.
 *
 * Theory of operation. The bytes of each direction are numbered. What was sent is kept until the
 * other end's session says that it has it. All paths are kept connected; one is in use, on
 * the others small frames go to and fro, so that their death is noticed. When the path in use
 * fails, or nothing is heard on it for silence_ns, the client (who is the primary) goes to the
 * next one: RESUME says how far it has received, RESUMED how far the server has, and both send
 * again from there. So every byte arrives once and in order, whatever path it took. Changes are
 * counted: a RESUME that was on its way for so long that another one overtook it is no more than the end
 * of its own path.
 *
 *     P: stops reading the old path ── RESUME(received) ──► S: stops reading the old path
 *     P: sends again from S's word  ◄── RESUMED(received) ── S: sends again from P's word
 *
 * Confirmations are read like everything else, so a sender comes further than the bytes that are kept
 * only while its own end is receiving, too.
 *
 * Nothing waits anywhere in here: a byte is read from its path when the engine asks for it, so a
 * process that stood still finds old words where it found them without a session, in the path's
 * own buffers, and judges them as before (remus/watch). A session whose paths were all gone for
 * giveup_ns, by the clock and not by its own turns, fails like a link, and cannot be joined any
 * more. That all paths are reset in one moment proves nothing about the peer's process: a
 * wire can do that, too. Who knows better says so: the peer itself by GONE, its rhead by heartbeats
 * (ctl/pair.h).
 *
 * The session's number is random and made anew for each link; a path joins only if it was
 * opened for that number (path.h). The format is in STREAM.md, "Sessions".
 *
 * Threads: as transport.h for the tp; session_add() and the rest from any thread. Each session has
 * a thread that watches, one that sends signs of life, and one for each path that is not in use.
 */
#ifndef REPLICATION_SESSION_H
#define REPLICATION_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/wire.h"
#include "replication/pathsel.h"
#include "replication/path.h"

struct err;
struct session;
struct tp;
struct tp_fault;

enum {
	SES_FRAME_MAX = 256 << 10, /* bytes of content */
	SES_REPLAY_MIN = 1 << 20,
	SES_REPLAY_DEFAULT = 32 << 20,
};

enum ses_type {
	SES_DATA = 1,
	SES_ALIVE = 2, /* on the path in use */
	SES_PING = 3,  /* on another one, from the client */
	SES_PONG = 4,
	SES_RESUME = 5, /* from the client: go on over this path */
	SES_RESUMED = 6,
	SES_END = 7,  /* the stream ends here, in good order */
	SES_GONE = 8, /* it was given up */
	SES_NTYPES,
};

struct ses_wire {
	struct le32 len; /* of the content; 0 but for DATA */
	struct le16 type;
	struct le16 zero;
	struct le64
		pos; /* DATA: number of its first byte; RESUME, RESUMED: of the change; else 0 */
	struct le64 received; /* the sender has all bytes before this one */
};
WIRE_SIZE(struct ses_wire, 24);

struct session_params {
	int server;
	unsigned paths;
	unsigned first; /* is about to be added: not to be connected */
	uint8_t id[PATH_SESSION_LEN];
	size_t replay; /* bytes kept for sending again; then the sender waits */
	uint64_t silence_ns, giveup_ns;
	struct pathsel_params sel;
	/* Client: please open path @i and answer with session_add() or session_failed(). On the
	 * watching thread, perhaps before session_create() has returned. */
	void (*connect)(void *arg, unsigned i);
	/* A path changed its state; for the log and for people. Any thread, no lock held. */
	void (*changed)(void *arg, unsigned i, enum pathsel_state s, const char *why);
	void *arg;
};

/* A session without a path as yet, and its transport. Returns two references: *tp_out goes with
 * tp_close(), *s_out with session_put(). 0 or -errno with @err. */
int session_create(const struct session_params *prm, struct session **s_out,
		   struct tp **tp_out, struct err *err);
void session_hold(struct session *s); /* one more session_put() is due */
void session_put(struct session *s);  /* NULL is fine */
void session_id(struct session *s, uint8_t id_out[PATH_SESSION_LEN]);
/* 1: it has this number and goes on. */
int session_is(struct session *s, const uint8_t id[PATH_SESSION_LEN]);

/* Path @i was opened for this session; takes @tp. It is closed at once when it comes too late: the
 * session is over, or there is another connection of that path. */
void session_add(struct session *s, unsigned i, struct tp *tp);
/* It could not be opened. */
void session_failed(struct session *s, unsigned i, const char *why);

/* As of now. */
void session_paths(struct session *s, struct pathsel *out);
/* Harm path @i from now on, also when it is connected again. All zero: no more. */
void session_fault(struct session *s, unsigned i, const struct tp_fault *f);

#endif
