/* SPDX-License-Identifier: Apache-2.0
 * drill - hurt a protected VM on purpose and measure how it goes on.
 *
 * Theory of operation. A drill runs on the host of the primary, whose rhead does the deed to
 * its own rhea-vm and then only watches, like anybody else:
 *   kill-vm   SIGKILL: the peer must take over
 *   stop-vm   SIGSTOP: the peer must take over; then SIGCONT: what was stopped must find
 *             itself fenced and end
 *   cut-link  the replication connection breaks while heartbeats go on: exactly one side must
 *             go on, whichever wins the grant
 * The gap is from the deed until this rhead knows that the guest runs in a later term: by the
 * peer's heartbeat, which is sent at the change, so at most one trip of a datagram too long.
 * A VM that is not protected is only hurt with "force". One drill at a time.
 *
 * On the loop's thread.
 */
#ifndef CTL_DRILL_H
#define CTL_DRILL_H

#include <jansson.h>

struct ctl_conn;
struct drill;
struct host;

/* The "drill" command; ends the request with {"report":{...}}:
 * {"drill","vm","from_host","to_host","ok","gap_ms","gap_by","takeover_ms","protected_ms",
 *  "term_before","term_after","stopped_vm":s|null,"why","steps":[{"at_ms","what"}]} */
void drill_cmd(struct host *h, struct ctl_conn *c, json_t *req);
/* Give it up (rhead ends). What was stopped is continued. NULL is fine. */
void drill_destroy(struct drill *d);

#endif
