/* SPDX-License-Identifier: Apache-2.0
 * host - the world of one rhead: what it owns, and where its parts find each other.
 *
 * Theory of operation. Everything is on one loop and one thread. Answers that come from
 * other threads (arbiter, heartbeats, grants on disk) are posted to it. Each VM of the
 * config has a vmrun (vmrun.h) that drives its pair machine; the host brings events to them
 * and watchers (commands that wait, drills) are told after each change.
 */
#ifndef CTL_HOST_H
#define CTL_HOST_H

#include <stdint.h>

#include "ctl/arbiter.h"
#include "ctl/config.h"
#include "ctl/heartbeat.h"

struct arbiter;
struct ctlsock;
struct drill;
struct drill_path;
struct err;
struct event;
struct events;
struct filework;
struct follower;
struct heartbeat;
struct host;
struct link_listener;
struct linktest;
struct loop;
struct storer;
struct vmrun;

enum { HOST_ARB_PROBE_MS = 3000, HOST_LEAVE_MS = 200 };

struct host_opts {
	const char *run_dir, *state_dir, *vm_program; /* borrowed */
	const char *module_dir;			      /* of transports; borrowed */
	const char *log;			      /* level for rhea-vm: "info" */
};

/* Somebody who waits for a change. May remove itself, and no other, from its callback. */
struct host_watch {
	struct host_watch *next;
	void (*fn)(void *arg, struct vmrun *v);
	void *arg;
};

/* How the arbiter was when it was last asked. */
struct host_arbiter {
	enum arb_result result;
	uint64_t asked_ns, answered_ns; /* CLOCK_MONOTONIC; 0: never */
	char why[ARB_WHY_MAX];
};

struct host {
	const struct config *cfg; /* borrowed */
	struct host_opts opts;
	struct loop *loop; /* borrowed */
	struct events *events;
	struct storer *storer;
	struct filework *files;
	struct heartbeat *hb;
	struct arbiter *arbiter;
	struct link_listener
		*listener[CONFIG_LINKS_MAX]; /* of each path; NULL: another one's does */
	struct ctlsock *ctl;
	struct event *probe, *leave;
	struct drill *drill; /* at most one runs, of either kind; NULL: none */
	struct drill_path *drill_path;
	struct linktest *linktest;
	struct host_arbiter arb;
	struct host_watch *watch;
	struct follower *followers; /* of the events; cmd_events.c */
	uint64_t started_ns;	    /* CLOCK_MONOTONIC */
	int peer_up;
	int64_t peer_wall_delta_ns;
	unsigned n_vms;
	struct vmrun *vm[CONFIG_VMS_MAX];
};

/* Make everything and begin: after it, events flow as soon as the loop runs. @cfg and @loop
 * are borrowed until host_destroy(). */
int host_create(const struct config *cfg, struct loop *loop, const struct host_opts *opts,
		struct host **h_out, struct err *err);
/* End all rhea-vm processes, let the peer know, and stop the loop a moment later: it takes
 * over what was protected, without having to wait for our silence. */
void host_leave(struct host *h);
/* Ends all rhea-vm processes that are left. NULL is fine. */
void host_destroy(struct host *h);

struct vmrun *host_find(struct host *h, const char *vm); /* NULL: no such VM */
/* 1: the arbiter answered lately; 0: it did not. "manual" always answers. */
int host_arbiter_ok(const struct host *h);

void host_watch_add(struct host *h, struct host_watch *w);
void host_watch_remove(struct host *h,
		       struct host_watch *w);	    /* fine if it is not there */
void host_changed(struct host *h, struct vmrun *v); /* tell the watchers */

#endif
