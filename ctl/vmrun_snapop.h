/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snapop - a snapshot that is being made: what the two files that make it share. All on the loop's thread.
 */
#ifndef CTL_VMRUN_SNAPOP_H
#define CTL_VMRUN_SNAPOP_H

#include "ctl/filework.h"
#include "ctl/host.h"
#include "ctl/snapfile.h"
#include "ctl/vmrun_snap.h"
#include "hv/base/err.h"

#include <event2/util.h>

enum stage {
	ST_PREPARE,
	ST_ASK,	 /* the peer */
	ST_MAKE, /* rhea-vm has it */
	ST_SURE,
	ST_PEER,
	ST_ABANDON,
};

enum memory { MEM_NONE, MEM_WAITED_FOR, MEM_SAVED, MEM_FAILED };
enum peer { PEER_NONE, PEER_ASKED, PEER_READY, PEER_COMPLETE, PEER_FAILED };

struct snapop {
	struct filework_job job; /* first */
	struct vmrun *v;
	int mine; /* asked for here, not by the peer */
	enum stage stage;
	struct snap s;
	int fd[CONFIG_DISKS_MAX], memory_fd;
	enum memory memory;
	enum peer peer;
	char why[512], peer_why[256], memory_why[256];
	struct event *limit;
	struct host_watch watch;
	snap_told_fn *told;
	void *arg;
	/* The job at hand. */
	int working, rc;
	struct err err;
	int gone; /* rhea-vm has ended */
	int last_wait;
	int sure; /* its moment is committed */
};

/* vmrun_snap.c. Work on files, on filework's thread; @done comes on the loop's. */
void snapop_give(struct snapop *o, void (*run)(struct filework_job *j),
		 void (*done)(struct filework_job *j));
void snapop_tell_peer(struct snapop *o, const char *what, int ok, const char *why);
/* In @ms milliseconds snapop_limit() is called, unless it is set anew. */
void snapop_set_limit(struct snapop *o, unsigned ms);
void snapop_limit(evutil_socket_t fd, short what, void *o);
void snapop_make(struct snapop *o); /* all is prepared: rhea-vm makes it */
/* It will not be made; @why is kept if it is the first reason. No job is under way. Frees it, now or soon. */
void snapop_abandon(struct snapop *o, const char *why);
void snapop_end(struct snapop *o); /* tells who asked, and frees it */
void snapop_changed(void *o,
		    struct vmrun *v); /* the pair's state may have; may free it */

/* vmrun_snapbegin.c: begin one, asked for by the peer. */
void snapop_peer_prepare(struct vmrun *v, json_t *note);

/* What a message says: borrowed, "" if it does not. */
static inline const char *snapop_text(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static inline uint64_t snapop_id(json_t *o)
{
	return (uint64_t)json_integer_value(json_object_get(o, "id"));
}

#endif
