/* SPDX-License-Identifier: Apache-2.0
 * events - the history of what happened on this host: bounded, on disk, and told to
 * followers.
 *
 * Theory of operation. The newest EVENTS_KEEP events live in memory, and every read is
 * served from there. A thread of its own copies them to an sqlite3 file and removes what
 * is too old, so a slow disk never makes the caller miss a heartbeat. The history is for
 * people: what must survive a crash (the grant) is not kept here.
 */
#ifndef CTL_EVENTS_H
#define CTL_EVENTS_H

#include <jansson.h>
#include <stdint.h>

struct err;
struct events;

enum { EVENTS_KEEP = 2048, EVENTS_TEXT_MAX = 400, EVENTS_VM_MAX = 64 };

struct event_rec {
	uint64_t id;		/* grows by one with each event, over restarts too */
	uint64_t wall_ns;	/* since 1970 */
	uint64_t term, epoch;	/* UINT64_MAX: does not apply */
	char vm[EVENTS_VM_MAX]; /* "": the host itself */
	char text[EVENTS_TEXT_MAX];
};

/* Open or make the history in file @path and read back its newest events. A file that is
 * no history is an error and left alone. Returns owned. Starts the writer thread. */
int events_open(const char *path, struct events **e_out, struct err *err);
/* Writes out what is pending. NULL is fine. */
void events_close(struct events *e);

/* Remember one event, now; texts are copied and cut to fit, @vm may be NULL. One thread
 * calls this and the functions below. */
void events_add(struct events *e, const char *vm, uint64_t term, uint64_t epoch,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The oldest event kept with an id above @after, or NULL. Good until the next
 * events_add(). */
const struct event_rec *events_next(const struct events *e, uint64_t after);
uint64_t events_last_id(const struct events *e); /* 0: none yet */
/* Called at the end of each events_add(), on its thread. NULL takes it away. */
void events_on_add(struct events *e, void (*fn)(void *arg, const struct event_rec *r),
		   void *arg);

/* {"id","time" (ISO 8601, UTC),"wall_ns","vm","term","epoch","text"}; members that do not
 * apply are null. Returns owned, or NULL: out of memory. */
json_t *event_json(const struct event_rec *r);

#endif
