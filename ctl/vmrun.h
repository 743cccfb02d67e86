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

/* Ask rhea-vm for its counters; the answer is told to the host's watchers. Returns a number
 * that vmrun_stats_seq() reaches when it is there, or 0: there is no process to ask. */
uint64_t vmrun_stats_ask(struct vmrun *v);
uint64_t vmrun_stats_seq(const struct vmrun *v);
json_t *vmrun_stats(const struct vmrun *v); /* the last answer, borrowed; NULL: none */

const struct config_vm *vmrun_config(const struct vmrun *v);
const struct pair *vmrun_pair(const struct vmrun *v);
struct vmproc *vmrun_proc(const struct vmrun *v); /* NULL: none runs */
struct console *vmrun_console(const struct vmrun *v);
/* The last line that the pair machine said. */
const char *vmrun_said(const struct vmrun *v);
/* How long the last takeover on this host took inside rhea-vm, microseconds; 0: none. */
uint64_t vmrun_activate_us(const struct vmrun *v);

#endif
