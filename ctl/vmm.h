/* SPDX-License-Identifier: Apache-2.0
 * vmm - the inside of rhea-vm: a machine, its participants, and the engine of its role.
 *
 * Theory of operation. rhea-vm is born by rhead with one socket, gets every descriptor in
 * its first message (setup), gives up its privileges and then only does what rhead says:
 *
 *   setup -> boot                -> primary, alone -> link -> protected -> ...
 *   setup -> standby -> link ... -> activate -> primary, alone -> ...
 *
 * The machine is built alike for both roles, so that a standby only has to load state and
 * let the vCPUs go. The way back does not exist: a fenced primary exits, and rhead starts
 * a new process.
 *
 * Threads: the control loop (main thread: rhead's messages, everything in vmm*.c unless
 * said otherwise), the I/O loop (devices), the engines' own, one short-lived thread for
 * each TLS handshake.
 */
#ifndef CTL_VMM_H
#define CTL_VMM_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/blk.h"
#include "hv/img.h"
#include "hv/vhd.h"
#include "hv/vm.h"
#include "remus/primary.h"
#include "replication/pathsel.h"
#include "replication/path.h"
#include "replication/transport.h"

struct diskrep;
struct diskrep_standby;
struct event;
struct shield;
struct loop;
struct mach_part;
struct mach_standby;
struct mem_part;
struct mem_standby;
struct netbuf;
struct netbuf_standby;
struct plugkeeper;
struct standby;
struct serial;
struct session;
struct snapmem;
struct vblk;
struct vconsole;
struct vmm_drill;
struct vmm_leaving;
struct vmm_snap;
struct vmm_streams;
struct vnet;

enum {
	VMM_NETS_MAX = 8,
	VMM_DISKS_MAX = 8,
	VMM_NAME_MAX = 64,
	VMM_HANDSHAKES_MAX = 12,
	VMM_TESTS_MAX = 2
};

/* One path of the link, as in the config of both hosts. */
struct vmm_path {
	char *transport, *args;
	unsigned streams;		/* of tcp, as this host would like */
	const struct tp_module *module; /* both NULL for tcp */
	struct tp_dev *dev;
	char why[256]; /* it cannot be used: why not; "": it can */
	/* What rhead was told last; the session's watching thread's. */
	enum pathsel_state told;
	char told_why[PATHSEL_WHY_MAX];
};

/* The setup message, checked. Strings and descriptors are owned. */
struct vmm_setup {
	char *vm, *host, *peer, *pair, *cpu, *cmdline, *log;
	uint8_t psk[TP_PSK_LEN];
	uint64_t ram;
	unsigned vcpus;
	unsigned interval_us, min_interval_us, latency_target_us, overhead_cap, verify_s,
		encoders, inflight, suspect_us;
	uint64_t cache, netbuf, diskbuf, resync_rate, journal;
	unsigned uid, gid;
	struct vmm_path path[PATHSEL_MAX];
	unsigned n_paths;
	char *module_dir;
	uint64_t path_buffer;
	unsigned nets, disks;
	uint8_t mac[VMM_NETS_MAX][6];
	char *serial[VMM_DISKS_MAX];
	int read_only[VMM_DISKS_MAX];
	int kvm_fd, kernel_fd, initrd_fd, console_fd;
	int activity_fd, journal_fd; /* -1: none */
	int saved_fd;		     /* the saved guest to go on from; -1: none */
	int disk_fd[VMM_DISKS_MAX], net_fd[VMM_NETS_MAX];
	/* Of a VHD image: its parents, from [1] on; disk_fd is [0]. */
	int vhd[VMM_DISKS_MAX], chain_fd[VMM_DISKS_MAX][VHD_CHAIN_MAX];
	unsigned chain[VMM_DISKS_MAX]; /* files */
	/* Nets that vhost-net serves: the ifb that holds their frames (0: none), and two descriptors. */
	int plug[VMM_NETS_MAX], vhost_fd[VMM_NETS_MAX], sniff_fd[VMM_NETS_MAX];
	unsigned plugs;
};

/* Check @msg and take @nfds descriptors of @fds (all of them, also on failure: the process ends
 * then, and with it what *s_out holds). */
int vmm_setup_parse(json_t *msg, const int *fds, int nfds, struct vmm_setup *s_out,
		    struct err *err);
/* The same for a process that only measures: no machine, no descriptors. */
int vmm_setup_parse_tester(json_t *msg, struct vmm_setup *s_out, struct err *err);

struct vmm {
	int ctl_fd;
	struct loop *ctl; /* main thread */
	int exit_status;
	struct vmm_setup set;

	/* machine */
	struct loop *io;
	pthread_t io_thread;
	int io_running;
	struct vm *vm;
	struct vnet *net[VMM_NETS_MAX];
	struct img disk[VMM_DISKS_MAX]; /* for who may wait */
	struct vblk *blk[VMM_DISKS_MAX];
	struct vhd_image *vhd[VMM_DISKS_MAX]; /* NULL: it is raw */
	struct blk vhd_blk[VMM_DISKS_MAX];    /* the same, for the device */
	struct shield *shield[VMM_DISKS_MAX]; /* part of the device's backend */
	struct serial *serial;
	struct vconsole *console;

	/* participants, as primary and as standby */
	struct mach_part *mach;
	struct mem_part *mem;
	struct netbuf *netbuf;
	struct plugkeeper *keeper; /* NULL: no net is plugged */
	struct diskrep *diskrep;
	struct mach_standby *s_mach;
	struct mem_standby *s_mem;
	struct netbuf_standby *s_net;
	struct diskrep_standby *s_disk;
	uint64_t verify_seq; /* of the comparison that goes on */
	struct vmm_snap *snap;
	struct vmm_leaving *leaving; /* orders that were not begun */
	uint64_t resize_seq;	     /* of the disk that grows */

	_Atomic(struct primary *) primary; /* triggers come from other threads */
	struct standby *standby;
	int started; /* the guest's vCPUs run */

	/* a guest that is saved (vmm_save.c) */
	struct vmm_snapmem *snapmem;
	int uffd; /* -1: a guest that runs cannot be saved */
	atomic_int
		saving; /* it stands still until that is done: the I/O loop does, too */
	struct snapmem *
		copy; /* the standby's; receive thread, and control thread between two links */

	/* link */
	pthread_mutex_t link_lock;
	struct tp *fault; /* the layer of the present link; NULL when there is none */
	struct tp_fault fault_set;
	struct vmm_streams *streams; /* NULL: there is only one to a path */
	struct session
		*session; /* the latest, if there are several paths; under link_lock */
	struct vmm_drill *drill; /* NULL: no path is being harmed */
	uint64_t linked_ns;
	unsigned handshakes; /* under way */
	unsigned links;	     /* attached so far */

	/* link tests */
	int tester;	    /* this process has no machine and only measures */
	unsigned tests;	    /* under way, being set up included */
	atomic_int testing; /* one measures */
	struct event *test_idle;

	/* liveness of the I/O loop: asked and answered */
	atomic_uint io_asked, io_answered;
	uint64_t io_asked_ns;
};

/* vmm.c: what is built lasts as long as the process. */
int vmm_build(struct vmm *m, struct err *err); /* the machine, from m->set */
/* Before everything else, while this process is alone with itself and has all rights: the keeper of the
 * plugged nets, if there are any. */
int vmm_start_keeper(struct vmm *m, struct err *err);
/* Start the I/O thread. After the sandbox: privileges are given up thread by thread. */
int vmm_run_io(struct vmm *m, struct err *err);

/* vmm_disks.c */
int vmm_build_disks(struct vmm *m, struct err *err);
int vmm_sync_disks(struct vmm *m); /* 0, or the last failure; each is logged */
int vmm_boot(struct vmm *m, uint64_t term, struct err *err);
/* The engine of the running guest; output is held until primary_alone() or a commit. */
int vmm_build_primary(struct vmm *m, struct err *err);
/* The guest's vCPUs run since now; @since: when that was asked for, CLOCK_MONOTONIC ns. */
void vmm_started(struct vmm *m, uint64_t term, uint64_t since);
int vmm_be_standby(struct vmm *m, uint64_t term, struct err *err);
int vmm_activate(struct vmm *m, uint64_t term, struct err *err);
/* The role and state in the words of vmproto.h. */
void vmm_role(struct vmm *m, const char **role_out, const char **state_out,
	      uint64_t *term_out);

/* vmm_link.c: what rhead says with a connected socket. */
struct vmm_link_order {
	int fd; /* taken */
	int primary_side;
	unsigned path; /* of the primary's: which one rhead connected */
	uint64_t term;
};
/* A link. Tells rhead by itself how it went. At most VMM_HANDSHAKES_MAX go on at a time (-EBUSY
 * else); the first that succeeds is attached. */
int vmm_link(struct vmm *m, const struct vmm_link_order *o);
/* A further path of the link that there is. */
int vmm_link_path(struct vmm *m, const struct vmm_link_order *o);
void vmm_never_slower(int fd);	   /* for each connection of a path, before it is used */
void vmm_link_gone(struct vmm *m); /* the engine gave up the transport; any thread */
void vmm_fault(struct vmm *m, const struct tp_fault *f);

/* vmm_paths.c. Before the sandbox: load the modules, and open those that want it before (0) or after
 * (1) the change of user; a failure makes that path unusable. */
void vmm_paths_load(struct vmm *m);
void vmm_paths_open(struct vmm *m, int as_user);
/* What path @i is, as both hosts must see it; purpose and session are the caller's. 0, -EINVAL or
 * -ENODEV. Any thread. */
int vmm_path_terms(struct vmm *m, unsigned i, uint64_t term, struct path_terms *t,
		   struct err *err);
int vmm_session_id(uint8_t id[PATH_SESSION_LEN], struct err *err); /* a new one */
/* A session that begins with path @first; takes @path. Returns its transport, owned. */
int vmm_session_begin(struct vmm *m, int server, const uint8_t id[PATH_SESSION_LEN],
		      unsigned first, struct tp *path, struct tp **tp_out,
		      struct err *err);
/* The latest one, to be put by session_put(), or NULL. Any thread. */
struct session *vmm_session_hold(struct vmm *m);
void vmm_path_failed(struct vmm *m, unsigned i,
		     const char *why); /* rhead could not connect it */
json_t *vmm_paths_json(struct vmm *m); /* returns owned */

/* vmm_drill.c: harm path @path of the present link for @for_ms, then tell rhead how long the guest had to
 * wait. One at a time: another one ends it. 0, -EINVAL or -ENOMEM. */
int vmm_drill_begin(struct vmm *m, unsigned path, const struct tp_fault *f,
		    unsigned for_ms);
int vmm_drill_path(const struct vmm *m); /* the one that is being harmed, or -1 */
void vmm_drill_end(struct vmm *m);	 /* now, and without a word; idempotent */

/* vmm_test.c: measure a path, or let the peer. */
struct vmm_test_order {
	int fd; /* taken */
	int client;
	/* The client's: which path rhead connected, for how long to send, and a number for the answer. */
	unsigned path, ms;
	uint64_t id;
};
void vmm_test(struct vmm *m,
	      const struct vmm_test_order *o); /* tells rhead how it went */
void vmm_test_idle(struct vmm *m);	       /* a process that only measures is ready */

/* vmm_streams.c. Once, before a link. */
int vmm_streams_create(struct vmm *m, struct err *err);
struct path_hall *vmm_streams_hall(struct vmm *m); /* borrowed; NULL: none */
/* The primary's handshake: @n more connections for path @path, from rhead. 0 or -errno. Its own thread. */
int vmm_streams_more(struct vmm *m, unsigned path, unsigned n, int *fds, struct err *err);
/* What rhead answers to question @number: a connection (taken), or -1 and why not. */
void vmm_streams_answer(struct vmm *m, uint64_t number, int fd, const char *why);
/* The standby's: a connection that says it is a stream; taken. */
void vmm_streams_come(struct vmm *m, int fd);

/* vmm_snapmem.c: the guest's memory beside a snapshot's disks. */
int vmm_snapmem_create(struct vmm *m, struct err *err);
/* rhead's file for it (taken), for snapshot @id. Control thread. */
void vmm_snapmem_file(struct vmm *m, uint64_t id, int fd);
/* Was one given for @id? Any thread. */
int vmm_snapmem_wanted(struct vmm *m, uint64_t id);
/* The moment, the guest standing still: primary. @still: it does. */
void vmm_snapmem_cut(struct vmm *m, uint64_t id, uint64_t epoch, int still);
/* Receive thread: the standby's moment. */
void vmm_snapmem_applied(struct vmm *m, uint64_t id, uint64_t epoch);
void vmm_snapmem_drop(struct vmm *m, uint64_t id); /* it was not taken, and will not be */
/* What is being saved would be wrong from now on. Any thread. */
void vmm_snapmem_cancel(struct vmm *m);

/* vmm_save.c. Save the guest into @fd (taken) together with the standby, and keep it stopped; rhead is told how
 * it went. */
void vmm_suspend(struct vmm *m, int fd);
/* That is on record: the standby may forget it, the process ends. */
void vmm_suspended(struct vmm *m);
/* The guest shall go on after all. */
void vmm_suspend_end(struct vmm *m);
/* The standby's: the primary asks for a save (struct standby_config); rhead has a file (taken; -1: none,
 * and @why). */
int vmm_on_save(void *arg, uint64_t epoch);
void vmm_save_here(struct vmm *m, int fd, const char *why);
/* vmm_boot() from the saved guest in m->set.saved_fd. */
int vmm_resume_saved(struct vmm *m, uint64_t term, struct err *err);

/* vmm_verify.c: compare the disks; rhead is told the result under @seq. */
void vmm_verify(struct vmm *m, uint64_t seq, int repair);
/* vmm_resize.c: let a disk grow; likewise. @bytes 0: to what its image has. */
void vmm_disk_resize(struct vmm *m, uint64_t seq, unsigned disk, uint64_t bytes);
void vmm_watch_size(struct vmm *m, unsigned disk, struct vblk *dev);
/* The guest that was loaded goes on with its disks, of images that may be larger; one that boots has all of
 * the images. Before it runs. */
void vmm_disks_as_loaded(struct vmm *m);
void vmm_disks_as_images(struct vmm *m);
json_t *vmm_disks_json(struct vmm *m); /* of all disks, for the stats; returns owned */

/* vmm_snap.c: snapshots, and words to the peer's rhead. */
int vmm_snap_create(struct vmm *m, struct err *err);
void vmm_snap_standby(struct vmm *m); /* the standby's participant is there */
void vmm_snap_child(struct vmm *m, uint64_t id, unsigned disk, int fd); /* takes @fd */
void vmm_snap_begin(struct vmm *m, uint64_t id);
void vmm_snap_drop(struct vmm *m);
void vmm_snap_switched(struct vmm *m, uint64_t id, int ok);
void vmm_peer_note(struct vmm *m, json_t *note);
/* vmm_snapleave.c: a disk's order (@fd borrowed, -1: none), and the one to begin, which rhead is told the end of. */
void vmm_snap_leave(struct vmm *m, json_t *msg, int fd);
void vmm_snap_leave_all(struct vmm *m, uint64_t id);

/* vmm_stats.c: returns an owned object. */
json_t *vmm_stats(struct vmm *m);

/* vmm_faults.c: between image @i (taken) and who uses it. */
int vmm_shield_disk(struct vmm *m, unsigned i, struct blk *blk, struct err *err);
/* Can somebody else carry out what fails here? Then the guest does not see it. Any thread. */
void vmm_shield_all(struct vmm *m, int all);
/* Tell rhead that a disk of this host fails, or is well again. Any thread. */
void vmm_tell_disk(struct vmm *m, int bad, const char *why);
/* A standby whose disk has failed is of no use: end the process. Any thread. */
void vmm_disk_lost(struct vmm *m, const char *why);
json_t *vmm_faults_json(struct vmm *m); /* for the stats; returns owned */

/* vmm_disks.c. Before anybody reads the images: for a cold start, bring them to what the journal
 * holds (-EUCLEAN: they must not be started from); for a standby, the same, and make it. */
int vmm_recover_disks(struct vmm *m, struct err *err);
int vmm_standby_disks(struct vmm *m, struct err *err);
json_t *vmm_durable_json(struct vmm *m); /* for the stats; returns owned */

/* vmm_slow.c: until vmm_slow_end() rhead hears once a second that the calling thread does @what (static text), and does
 * not take it for hung. NULL, with a warning: it does not hear it. The control thread, before the guest runs. */
struct vmm_slow;
struct vmm_slow *vmm_slow_begin(struct vmm *m, const char *what);
void vmm_slow_end(struct vmm_slow *s); /* NULL is fine */

/* vmm_sandbox.c: open transports' modules, then give up privileges and all system calls that are not
 * needed. */
int vmm_sandbox(struct vmm *m, struct err *err);

/* vmm_crash.c: for tests. Before the sandbox. 0 also when no test asks for it. */
int vmm_crash_init(struct err *err);

/* vmm_events.c: tell rhead; takes @msg. Any thread. */
void vmm_tell(struct vmm *m, json_t *msg);
void vmm_on_primary_state(void *arg, enum primary_state s, uint64_t term,
			  const char *why);
void vmm_tell_guest(struct vmm *m, const char *what,
		    const char *why); /* the guest's end, in the words of vmproto.h */
void vmm_on_activity_failed(void *arg, int rc, int spoiled);
void vmm_on_guest(void *arg, enum vm_event ev, const char *text);
void vmm_end(struct vmm *m,
	     int status); /* leave the control loop with this exit status */

#endif
