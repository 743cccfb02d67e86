/* SPDX-License-Identifier: Apache-2.0
 * vmrun_impl - the inside of a vmrun, shared by vmrun.c (events) and vmrun_act.c (deeds).
 */
#ifndef CTL_VMRUN_IMPL_H
#define CTL_VMRUN_IMPL_H

#include "ctl/config.h"
#include "ctl/link.h"
#include "ctl/pair.h"

#include <jansson.h>

struct console;
struct event;
struct host;
struct link_connect;
struct vmproc;
struct vmproc_ops;

/* What can be pending: each outstanding deed answers once, and few are outstanding. */
enum { VMRUN_QUEUE_MAX = 16, VMRUN_RETRY_MS = 10, VMRUN_RETRY_LIMIT_MS = 3000 };

/* A further path of the link that is being connected. */
struct vmrun_path {
	struct vmrun *v;
	unsigned index;
	struct link_connect *connect; /* NULL: none is under way */
};

struct vmrun {
	struct host *h; /* borrowed */
	unsigned index;
	const struct config_vm *cfg; /* borrowed */
	struct pair pair;
	struct event *deadline;
	struct console *con;
	int stepping;
	struct pair_event queue[VMRUN_QUEUE_MAX];
	unsigned queued;
	int wanted_before; /* the record on disk says that the VM should be on, or there is none
			      and the config does */

	struct vmproc *proc;
	uint64_t instance;   /* of proc */
	struct event *retry; /* waits for disks and taps of the process before */
	uint64_t retry_until_ns;
	const char *
		first_op; /* "boot" or "standby", sent when it is ready; NULL: was sent */
	uint64_t first_term;
	int guest_ended; /* proc has told that its guest is off or crashed */
	uint64_t activate_us;
	char said[PAIR_LOG_MAX]; /* the machine's last line, for people who wait */
	json_t *stats;
	uint64_t stats_asked, stats_got;

	struct link_connect *connect; /* under way */
	int kept_fd;		      /* connected, not yet given; -1: none */
	unsigned kept_path;	      /* of a connected one */
	unsigned try_path;	      /* the next link begins with this one */
	struct vmrun_path path[CONFIG_LINKS_MAX];
};

extern const struct vmproc_ops vmrun_proc_ops;

/* Start the process that the last VM_BOOT or VM_STANDBY asked for; for the retry timer. */
void vmrun_try_start(struct vmrun *v);
/* vmrun_paths.c: connect path @i, for a new link or as a @further one; as link_connect(). */
int vmrun_link_connect(struct vmrun *v, unsigned i, int further, uint64_t term,
		       link_connected_fn *fn, void *arg, struct link_connect **c_out,
		       struct err *err);
void vmrun_want_path(struct vmrun *v, json_t *msg);    /* rhea-vm asks for one */
void vmrun_path_changed(struct vmrun *v, json_t *msg); /* or tells of one */
void vmrun_paths_cancel(struct vmrun *v);
/* Do it. May call vmrun_event(), which queues. */
void vmrun_do(struct vmrun *v, const struct pair_action *a);

#endif
