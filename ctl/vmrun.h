/* SPDX-License-Identifier: Apache-2.0
 * vmrun - one VM on this host: drives its pair machine and turns its actions into deeds.
 *
 * Theory of operation. An event goes through pair_step(), and the actions that come out are
 * done in order before the next event: a row of events waits in a queue when a deed fails at
 * once and so makes an event of its own. After each step the heartbeat says the new view and
 * the timer stands at the machine's deadline. Deeds that take time (arbiter, disk, connect,
 * the process) answer with an event later.
 *
 * All on the loop's thread.
 */
#ifndef CTL_VMRUN_H
#define CTL_VMRUN_H

#include <jansson.h>
#include <stdint.h>

#include "ctl/pair.h"

struct arb_answer;
struct config_vm;
struct console;
struct err;
struct host;
struct vmproc;
struct vmrun;

/* Reads the grant from the disk. Returns owned; does nothing before vmrun_begin(). @h is
 * borrowed. */
int vmrun_create(struct host *h, unsigned index, struct vmrun **v_out, struct err *err);
void vmrun_destroy(struct vmrun *v); /* NULL is fine */
/* The host is ready: start the VM if it is to be on by itself. */
void vmrun_begin(struct vmrun *v);

void vmrun_event(struct vmrun *v, const struct pair_event *ev);
void vmrun_simple(struct vmrun *v,
		  enum pair_ev_kind kind); /* an event without arguments */
void vmrun_arbiter(struct vmrun *v, const struct arb_answer *ans);
void vmrun_stored(struct vmrun *v, uint64_t id, int ok, const char *why);
void vmrun_incoming(struct vmrun *v, uint64_t term, int fd); /* takes @fd */

/* A further path of the link that there is; takes @fd. */
void vmrun_further(struct vmrun *v, uint64_t term, int fd);

/* A further stream of a path; takes @fd. */
void vmrun_stream(struct vmrun *v, int fd);

/* Ask rhea-vm for its counters; the answer is told to the host's watchers. Returns a number
 * that vmrun_stats_seq() reaches when it is there, or 0: there is no process to ask. */
uint64_t vmrun_stats_ask(struct vmrun *v);
uint64_t vmrun_stats_seq(const struct vmrun *v);
/* Compare both hosts' disks. Returns the number that vmrun_verified() reaches when that is done, or
 * 0: there is no process to ask. */
uint64_t vmrun_verify_ask(struct vmrun *v, int repair);
json_t *vmrun_verified(const struct vmrun *v,
		       uint64_t *seq_out); /* borrowed; NULL: none */
/* What keeps the disks busy, so that neither a snapshot nor a new size may begin now: a string for good; NULL: nothing. */
const char *vmrun_disks_busy(const struct vmrun *v);
/* Let a disk of the running guest grow; likewise. */
uint64_t vmrun_resize_ask(struct vmrun *v, unsigned disk, uint64_t bytes);
json_t *vmrun_resized(const struct vmrun *v, uint64_t *seq_out);
int vmrun_resync_rate(struct vmrun *v,
		      uint64_t bytes);	    /* until the process ends; 0 or -errno */
json_t *vmrun_stats(const struct vmrun *v); /* the last answer, borrowed; NULL: none */

/* What rhea-vm told last of path @i: "down", "ready", "in-use" or "". */
const char *vmrun_path_state(const struct vmrun *v, unsigned i);
/* Its rhea-vm can be given a link test: there is one, built and answering. */
int vmrun_takes_tests(const struct vmrun *v);

/* It is off, and its disks were taken back; @saved: its guest of then is in the file, for PAIR_RESUME. */
void vmrun_reverted(struct vmrun *v, int saved);
/* Why the last suspend came to nothing; "" while nothing is known. */
const char *vmrun_save_why(const struct vmrun *v);
/* Before it is resumed: is this host's file that of a guest that can go on? 0, or -errno with @err. */
int vmrun_saved_check(const struct vmrun *v, struct err *err);

const struct config_vm *vmrun_config(const struct vmrun *v);
const struct pair *vmrun_pair(const struct vmrun *v);
struct vmproc *vmrun_proc(const struct vmrun *v); /* NULL: none runs */
struct console *vmrun_console(const struct vmrun *v);
/* The last line that the pair machine said. */
const char *vmrun_said(const struct vmrun *v);
/* What its process is at that takes long; "": nothing. */
const char *vmrun_doing(const struct vmrun *v);
/* How long the last takeover on this host took inside rhea-vm, microseconds; 0: none. */
uint64_t vmrun_activate_us(const struct vmrun *v);

#endif
