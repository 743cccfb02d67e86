/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snap - a snapshot of a VM's disks, taken while it runs: what the rheads of both hosts do for it.
 *
 * Theory of operation. One at a time for a VM, a struct snapop on each host. On the primary's host (all of it on the
 * loop's thread, files by filework):
 *
 *   PREPARE  the children are made, and given to rhea-vm       (snapfile.h)
 *   ASK      protected: the peer's rhead is asked to do the same, by a note (diskrep.h), and says ready
 *   MAKE     rhea-vm makes it (vmm_snap.c); in between it asks for the names (SWITCH)
 *   SURE     its moment must be committed, or ours alone; and the guest's memory, if it is to have that, in its file
 *   PEER     the peer says whether it has it
 *
 * On the standby's: PREPARE by the note, WAIT for its rhea-vm to come to that moment, SWITCH; then the primary is told.
 *
 * Until SWITCH a failure on either host undoes what was prepared there. The two hosts' snapshots are files of their
 * own: one that has it while the other has not is told by list, and harms nothing.
 *
 * Notes are {"snap":s,"id":n,...}: prepare (name, host, term, created_ms, memory), ready and done (ok, why), abandon,
 * list and listed (snapshots).
 */
#ifndef CTL_VMRUN_SNAP_H
#define CTL_VMRUN_SNAP_H

#include <jansson.h>
#include <stdint.h>

struct config_vm;
struct vmrun;

enum {
	SNAP_ASK_MS = 15000,
	SNAP_WAIT_MS = 60000,
	SNAP_LAST_MS = 2000,
	SNAP_MEMORY_MS = 3600000,
	SNAP_LIST_MS = 3000
};

/* Who asked for one is told how it went, once: @why "" if it was made; @result (borrowed): NULL, or
 * {"name","id","peer":"complete"|"failed"|"none","peer_why","memory":b,"memory_why"}. */
typedef void snap_told_fn(void *arg, const char *why, json_t *result);

/* vmrun_snapbegin.c: make snapshot @name of the VM, which runs here. 0, or -errno with @why_out ("busy" and the like). */
int vmrun_snap_create(struct vmrun *v, const char *name, snap_told_fn *fn, void *arg,
		      const char **why_out);
/* The same with the guest's memory. */
int vmrun_snap_create_memory(struct vmrun *v, const char *name, snap_told_fn *fn,
			     void *arg, const char **why_out);
void vmrun_snap_unasked(struct vmrun *v, const void *arg); /* who asked has gone */
/* Ask the peer for its list: @fn is told it, or NULL if it does not come. */
typedef void snap_listed_fn(void *arg, json_t *snapshots);
int vmrun_snap_ask_list(struct vmrun *v, snap_listed_fn *fn, void *arg);
void vmrun_snap_unlisted(struct vmrun *v, const void *arg);

/* vmrun_snapdel.c: delete one, here and on the standby. As vmrun_snap_create(); @result has {"name","here":b,
 * "peer":"deleted"|"none"|"failed","peer_why"}. */
int vmrun_snap_delete(struct vmrun *v, const char *name, snap_told_fn *fn, void *arg,
		      const char **why_out);
void vmrun_snap_undeleted(struct vmrun *v, const void *arg);
void vmrun_snap_left(struct vmrun *v, json_t *msg); /* rhea-vm needs its files no more */
void vmrun_snapdel_note(struct vmrun *v, json_t *note, const char *what);
void vmrun_snapdel_exited(struct vmrun *v);
void vmrun_snapdel_end(struct vmrun *v);

/* Its images are changed by rhead itself (1), or not any more (0): meanwhile no rhea-vm is started. -EBUSY. */
int vmrun_snap_hold(struct vmrun *v, int hold);

/* vmrun_snaplist.c: tell rhea-vm, which may be gone; takes @msg, borrows @fd (-1: none). One that does not take
 * it ends, and that is told. */
void vmrun_snap_tell(struct vmrun *v, json_t *msg, int fd);
void vmrun_snap_tell_peer(struct vmrun *v, json_t *note); /* its rhead; takes @note */
/* Those of this host; blocking. Owned. */
json_t *vmrun_snaps_here(const struct config_vm *vm);
void vmrun_snap_say_list(struct vmrun *v, json_t *note);
void vmrun_snap_take_list(struct vmrun *v, json_t *note); /* NULL: it does not come */

/* From vmrun.c: what rhea-vm says, and its end. */
void vmrun_snap_switch(struct vmrun *v, json_t *msg);
void vmrun_snap_over(struct vmrun *v, json_t *msg);
void vmrun_snap_memory(struct vmrun *v, json_t *msg);
void vmrun_peer_note(struct vmrun *v, json_t *msg);
void vmrun_snap_exited(struct vmrun *v);
void vmrun_snap_end(struct vmrun *v); /* the vmrun is destroyed; filework has ended */

#endif
