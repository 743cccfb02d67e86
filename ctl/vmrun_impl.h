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
struct err;
struct event;
struct grant;
struct host;
struct link_connect;
struct snapdel;
struct snaplist;
struct snapop;
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

/* One connection on its way for a path with several streams. */
struct vmrun_stream {
	struct vmrun *v;
	uint64_t number; /* of rhea-vm's question */
	struct link_connect *connect;
};

enum { VMRUN_STREAMS_MAX = 16 };

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
	int first_resumes; /* it boots from the saved guest */
	int guest_ended;   /* proc has told that its guest is off or crashed */
	char doing
		[64]; /* what takes proc so long that no ping is answered; "": nothing */
	uint64_t activate_us;
	char save_why[PAIR_LOG_MAX]; /* of the last suspend that failed */
	char said[PAIR_LOG_MAX];     /* the machine's last line, for people who wait */
	json_t *stats;
	uint64_t stats_asked, stats_got;
	json_t *verified; /* what the last comparison of disks found; NULL: none */
	uint64_t verify_asked, verify_got;
	struct snapop *snap;	   /* being made; NULL: none */
	int snap_held;		   /* no rhea-vm may be started */
	struct snapdel *snapdel;   /* being deleted */
	struct snaplist *snaplist; /* the peer's is waited for */
	json_t *resized; /* what has become of the last disk that was to grow; NULL: none was */
	uint64_t resize_asked, resize_got;
	uint64_t resize_instance; /* that was asked */

	struct link_connect *connect; /* under way */
	int kept_fd;		      /* connected, not yet given; -1: none */
	unsigned kept_path;	      /* of a connected one */
	unsigned try_path;	      /* the next link begins with this one */
	struct vmrun_path path[CONFIG_LINKS_MAX];
	char path_state[CONFIG_LINKS_MAX][16]; /* as rhea-vm last told; "": nothing */
	struct vmrun_stream stream[VMRUN_STREAMS_MAX];
};

extern const struct vmproc_ops vmrun_proc_ops;

/* Start the process that the last VM_BOOT or VM_STANDBY asked for; for the retry timer. */
void vmrun_try_start(struct vmrun *v);
/* vmrun_paths.c: connect path @i, for a new link or as a @further one; as link_connect(). */
int vmrun_link_connect(struct vmrun *v, unsigned i, int further, uint64_t term,
		       link_connected_fn *fn, void *arg, struct link_connect **c_out,
		       struct err *err);
void vmrun_want_path(struct vmrun *v, json_t *msg); /* rhea-vm asks for one */
void vmrun_want_streams(struct vmrun *v,
			json_t *msg); /* or for more connections for one */
void vmrun_path_changed(struct vmrun *v, json_t *msg); /* or tells of one */
void vmrun_paths_cancel(struct vmrun *v);
/* vmrun_disks.c: rhea-vm has compared disks; one of this host's fails, or is well again. */
void vmrun_take_verified(struct vmrun *v, json_t *msg);
void vmrun_take_resized(struct vmrun *v, json_t *msg); /* or a disk has grown, or not */
void vmrun_take_disk(struct vmrun *v, json_t *msg);
void vmrun_disk(struct vmrun *v, int bad);
/* vmrun_image.c: correct what the record says of the images by what the journal says; durable when it
 * returns 0. *found: there is a record. */
int vmrun_judge_image(struct vmrun *v, struct grant *g, int *found, struct err *err);
/* vmrun_save.c: the file of the saved guest; what rhea-vm says of it. */
void vmrun_suspend(struct vmrun *v);
void vmrun_want_saved(struct vmrun *v); /* the standby's rhea-vm asks for a file */
void vmrun_saved(struct vmrun *v, json_t *msg);
/* Do it. May call vmrun_event(), which queues. */
void vmrun_do(struct vmrun *v, const struct pair_action *a);

#endif
