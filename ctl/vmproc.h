/* SPDX-License-Identifier: Apache-2.0
 * vmproc - one rhea-vm process: started, spoken to (vmproto.h), watched, ended.
 *
 * Theory of operation. The process dies with rhead (parent death signal, and the socket's
 * end), so a dead rhead never leaves a VM without somebody who keeps its authority. Its
 * end is seen through a pidfd at once; what it said before is delivered first. It is
 * pinged, and when it has not answered for the hung threshold that is told once, as is its
 * return: a stopped process is not a dead one. Work that rightly takes longer (building the
 * machine, booting, taking over) gets VMPROC_BUSY_MS instead.
 *
 * All calls and callbacks on the loop's thread, which must be the one that lives as long as
 * rhead: the kernel ties the parent death signal to the thread that forks.
 */
#ifndef CTL_VMPROC_H
#define CTL_VMPROC_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct loop;
struct vmproc;

enum { VMPROC_BUSY_MS = 10000, VMPROC_FDS_MAX = 200 };

struct vmproc_ops {
	/* A message of rhea-vm (borrowed). Pongs come here too. */
	void (*event)(void *arg, json_t *ev);
	/* No answer for @ms now (0: it closed its socket, so it is about to end); and: it
	 * answers again. */
	void (*hung)(void *arg, unsigned ms);
	void (*revived)(void *arg);
	/* It has ended, with @status as of waitpid(2). The last callback; the vmproc is to be
	 * destroyed from it or later. */
	void (*exited)(void *arg, int status);
};

/* What to start. All borrowed; the descriptors stay the caller's to close. */
struct vmproc_start {
	const char *program; /* path of rhea-vm */
	const char *vm;
	json_t *setup; /* the setup message; its "fds" is filled in here */
	unsigned fds;
	struct {
		const char *name;
		int fd;
	} fd[VMPROC_FDS_MAX];
	unsigned ping_ms, hung_ms;
};

/* Fork, exec, send the setup. Returns owned. */
int vmproc_spawn(struct loop *loop, const struct vmproc_start *st,
		 const struct vmproc_ops *ops, void *arg, struct vmproc **p_out,
		 struct err *err);
/* SIGKILL if it still lives, and wait for it (the kernel ends it at once). No callback any more.
 * NULL is fine. */
void vmproc_destroy(struct vmproc *p);

pid_t vmproc_pid(const struct vmproc *p);
/* Send @msg (taken), with @fd (borrowed) or -1. 0 or -errno; -EAGAIN: it does not read. */
int vmproc_send(struct vmproc *p, json_t *msg, int fd);
/* What now begins may take up to VMPROC_BUSY_MS: boot, activate. Ends with its next pong. */
void vmproc_busy(struct vmproc *p);
/* Somebody else has @term: tell it to end, and kill it after @kill_ms, or now if it hangs. */
void vmproc_fence(struct vmproc *p, uint64_t term, unsigned kill_ms);
/* A signal, for drills and for --force. 0 or -errno. */
int vmproc_signal(struct vmproc *p, int sig);
int vmproc_is_hung(const struct vmproc *p);
/* The last pong (borrowed until the next event), or NULL. */
json_t *vmproc_pong(const struct vmproc *p);

#endif
