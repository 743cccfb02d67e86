/* SPDX-License-Identifier: Apache-2.0
 * pathsel - which of several paths a link uses, and when it tries which again. Pure.
 *
 * Theory of operation. Paths are in order of preference. All of them are kept connected; one is in
 * use, the others are ready to take over at once:
 *
 *     DOWN ──connect──► CONNECTING ──► READY ──use──► IN_USE
 *       ▲                   │            │              │
 *       └──── failed ◄──────┴────────────┴──────────────┘   (or replaced by a better one)
 *
 * A path that fails is replaced by the best one that is ready, of those that were heard within fresh_ns
 * if there are any: what shares a cable with the path that failed is dead too, but not yet known to be. A
 * better one is gone back to when it has been ready, and so alive, for heal_ns. Each failure of a path that
 * was in use, or that was to come into use, doubles that time, up to hold_max_ns, so that a cable with a loose contact does not take the link along; a path
 * that served for hold_max_ns begins anew.
 *
 * Time comes in as an argument, decisions go out as a struct: no clock, no threads.
 */
#ifndef REPLICATION_PATHSEL_H
#define REPLICATION_PATHSEL_H

#include <stdint.h>

enum { PATHSEL_MAX = 8, PATHSEL_WHY_MAX = 160 };

enum pathsel_state {
	PATHSEL_DOWN,
	PATHSEL_CONNECTING,
	PATHSEL_READY,
	PATHSEL_IN_USE,
	PATHSEL_NSTATE,
};
const char *pathsel_state_name(enum pathsel_state s);

struct pathsel_params {
	uint64_t retry_min_ns, retry_max_ns; /* between attempts to connect; doubles */
	uint64_t heal_ns, hold_max_ns;
	uint64_t fresh_ns; /* who was heard so lately is taken for alive */
};

struct pathsel_path {
	enum pathsel_state state;
	uint64_t since;	   /* when it came into this state */
	uint64_t heard;	   /* READY: when it last was */
	uint64_t retry_at; /* DOWN: not sooner */
	uint64_t retry_wait;
	unsigned failures; /* while in use, without hold_max_ns of good service since */
	unsigned failed;   /* while in use, in all */
	char why[PATHSEL_WHY_MAX]; /* of the last failure; "": none */
};

struct pathsel {
	struct pathsel_params prm;
	unsigned n;
	struct pathsel_path path[PATHSEL_MAX];
	int in_use;	    /* -1: none */
	int taking;	    /* is about to take over; -1: none */
	unsigned failovers; /* the path in use failed and another one took over */
	int lost;	    /* the path in use failed and none has taken over yet */
};

enum pathsel_act { PATHSEL_NOTHING, PATHSEL_CONNECT, PATHSEL_USE };
struct pathsel_do {
	enum pathsel_act act;
	unsigned path;
	uint64_t
		at; /* NOTHING: look again at this time; UINT64_MAX: after the next event */
};

void pathsel_init(struct pathsel *p, unsigned n, const struct pathsel_params *prm,
		  uint64_t now);
/* What to do now. The same until an event below says that it was done or that something happened. */
struct pathsel_do pathsel_decide(const struct pathsel *p, uint64_t now);

void pathsel_connecting(struct pathsel *p, unsigned i, uint64_t now);
void pathsel_ready(struct pathsel *p, unsigned i, uint64_t now);
/* Its peer was heard on it at @when. */
void pathsel_heard(struct pathsel *p, unsigned i, uint64_t when);
/* READY @i is about to take over: until pathsel_used() nothing but CONNECT is decided. One that is in use
 * is left for it, and to be connected anew at once. */
void pathsel_taking(struct pathsel *p, unsigned i, uint64_t now);
/* In any state; @why is for people. */
void pathsel_failed(struct pathsel *p, unsigned i, uint64_t now, const char *why);
/* The link goes over @i. The one before it, if it did not fail, is to be connected anew. */
void pathsel_used(struct pathsel *p, unsigned i, uint64_t now);
/* How long @i must have been ready before it is gone back to. */
uint64_t pathsel_heal_ns(const struct pathsel *p, unsigned i);

#endif
