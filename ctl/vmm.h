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
#include "hv/vm.h"
#include "remus/primary.h"
#include "replication/pathsel.h"
#include "replication/path.h"
#include "replication/transport.h"

struct blk;
struct diskrep;
struct diskrep_standby;
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
struct vconsole;
struct vnet;

enum { VMM_NETS_MAX = 8, VMM_DISKS_MAX = 8, VMM_NAME_MAX = 64, VMM_HANDSHAKES_MAX = 12 };

/* One path of the link, as in the config of both hosts. */
struct vmm_path {
	char *transport, *args;
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
	uint64_t cache, netbuf, diskbuf;
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
	int disk_fd[VMM_DISKS_MAX], net_fd[VMM_NETS_MAX];
	/* Nets that vhost-net serves: the ifb that holds their frames (0: none), and two descriptors. */
	int plug[VMM_NETS_MAX], vhost_fd[VMM_NETS_MAX], sniff_fd[VMM_NETS_MAX];
	unsigned plugs;
};

/* Check @msg and take @nfds descriptors of @fds (all of them, also on failure: the process ends
 * then, and with it what *s_out holds). */
int vmm_setup_parse(json_t *msg, const int *fds, int nfds, struct vmm_setup *s_out,
		    struct err *err);

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

	_Atomic(struct primary *) primary; /* triggers come from other threads */
	struct standby *standby;
	int started; /* the guest's vCPUs run */

	/* link */
	pthread_mutex_t link_lock;
	struct tp *fault; /* the layer of the present link; NULL when there is none */
	struct tp_fault fault_set;
	struct session
		*session; /* the latest, if there are several paths; under link_lock */
	uint64_t linked_ns;
	unsigned handshakes; /* under way */
	unsigned links;	     /* attached so far */

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
void vmm_sync_disks(struct vmm *m); /* a failure is logged */
int vmm_boot(struct vmm *m, uint64_t term, struct err *err);
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
void vmm_path_fault(struct vmm *m, unsigned i, const struct tp_fault *f);
json_t *vmm_paths_json(struct vmm *m); /* returns owned */

/* vmm_stats.c: returns an owned object. */
json_t *vmm_stats(struct vmm *m);

/* vmm_sandbox.c: open transports' modules, then give up privileges and all system calls that are not
 * needed. */
int vmm_sandbox(struct vmm *m, struct err *err);

/* vmm_crash.c: for tests. Before the sandbox. 0 also when no test asks for it. */
int vmm_crash_init(struct err *err);

/* vmm_events.c: tell rhead; takes @msg. Any thread. */
void vmm_tell(struct vmm *m, json_t *msg);
void vmm_on_primary_state(void *arg, enum primary_state s, uint64_t term,
			  const char *why);
void vmm_on_guest(void *arg, enum vm_event ev, const char *text);
void vmm_end(struct vmm *m,
	     int status); /* leave the control loop with this exit status */

#endif
