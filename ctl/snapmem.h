/* SPDX-License-Identifier: Apache-2.0
 * snapmem - memory and machine of a VM at one checkpoint into a file, while the VM goes on; and a VM from
 * such a file.
 *
 * Theory of operation. It has two moments. snapmem_take() is the instant: the machine's state is copied, and
 * from then on each page of memory is copied before it is overwritten (remus/memsave.h). snapmem_start() gives
 * the file and lets a thread of its own write everything out. On the primary the instant is within the pause of a
 * checkpoint; on the standby between the apply of that checkpoint and the next, on the receive thread. So
 * the files of both hosts hold the same memory and the same machine, and disks that switch in
 * the same pause and at the same apply are of the same instant.
 *
 * Where the kernel has no userfaultfd for us, a running guest stands still until it is written:
 * snapmem_can_run() says so.
 */
#ifndef CTL_SNAPMEM_H
#define CTL_SNAPMEM_H

#include <stdint.h>

#include "remus/saved.h"

struct err;
struct snapmem;
struct vmm;

enum snapmem_where {
	SNAPMEM_RUNNING, /* the primary; the guest runs on after the pause */
	SNAPMEM_HELD,	 /* the primary; it stands until the end */
	SNAPMEM_STANDBY,
};

struct snapmem_done {
	/* On the save's thread: the file is whole and durable (0), or worth nothing (-errno, @why).
	 * May call all but snapmem_free(). */
	void (*fn)(void *arg, struct snapmem *s, int rc, const char *why);
	void *arg;
	uint64_t id; /* the owner's, for snapmem_id() */
};

/* Everything that takes memory or time is made here. Any thread. Returns owned. */
int snapmem_create(struct vmm *m, enum snapmem_where where, struct snapmem_done done,
		   struct snapmem **s_out, struct err *err);
/* The instant, after checkpoint @epoch (UINT64_MAX: alone) of @term. 0, or -errno: nothing is taken. */
int snapmem_take(struct snapmem *s, uint64_t term, uint64_t epoch);
/* Write it to the empty file @fd (taken, also on failure). After take. Any thread. 0, or -errno: done() is not called. */
int snapmem_start(struct snapmem *s, int fd);
/* It is of no use any more, or will be wrong from now on: nobody waits for it. Any thread. */
void snapmem_cancel(struct snapmem *s);
uint64_t snapmem_epoch(const struct snapmem *s);
uint64_t snapmem_id(const struct snapmem *s);
/* Waits for its thread. On a standby no epoch may be applied meanwhile. NULL is fine. */
void snapmem_free(struct snapmem *s);

/* Does a running guest go on while it is saved? */
int snapmem_can_run(const struct vmm *m);
/* Before the sandbox: what saving a running guest needs. That it is not there is no error. */
void snapmem_init(struct vmm *m);

/* Instead of vm_boot(): all of the file @fd (borrowed) into a machine that has not started; @used_out: its guest
 * has run before (and nothing was loaded). The addresses that the guest spoke from are in m->s_net. 0 or
 * -errno. */
int snapmem_load(struct vmm *m, int fd, int *used_out, struct err *err);

#endif
