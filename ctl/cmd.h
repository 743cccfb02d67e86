/* SPDX-License-Identifier: Apache-2.0
 * cmd - what the control socket can be asked. For the world outside see rheactl(8).
 *
 *   {"cmd":"ping"}                                    {"ok":true,"host":s,"version":s}
 *   {"cmd":"status"}                                  one object, see cmd_status.c
 *   {"cmd":"stats","vm":s}                            all counters of rhea-vm
 *   {"cmd":"heartbeat"}                               the paths to the peer
 *   {"cmd":"vm-start","vm":s}                         progress lines, then {"ok":true,...}
 *   {"cmd":"vm-stop","vm":s,"force":b}                likewise
 *   {"cmd":"vm-start","vm":s,"discard":b}             likewise, and forget a suspended guest
 *   {"cmd":"vm-suspend","vm":s}                       likewise
 *   {"cmd":"vm-resume","vm":s}                        likewise
 *   {"cmd":"failover","vm":s,"override":s,"cold":b}   likewise
 *   {"cmd":"console","vm":s}                          {"ok":true}, then bytes both ways
 *   {"cmd":"events","after":n,"count":n,"follow":b}   a line each, then {"ok":true,"last":n}
 *   {"cmd":"link-test","vm":s?,"path":s?,"seconds":n}
 *        {"progress":"measuring","path":i,"transport":s}, then {"ok":true,"from":s,"to":s,"vm":s|null,
 *        "by_vm":b,"other_way":b,"paths":[see linktest_report.c],"heartbeat":[see cmd_heartbeat.c]}
 *   {"cmd":"disk-verify","vm":s,"repair":b}          {"verified":{...}}, see vmproto.h
 *   {"cmd":"disk-resize","vm":s,"disk":s,"bytes":n}  {"resized":{...}}, likewise; the disk by number or serial; 0: what its image has
 *   {"cmd":"resync-rate","vm":s,"bytes":n}           {"ok":true}; until rhea-vm ends
 *   {"cmd":"snapshot-create","vm":s,"name":s,"memory":b}   {"snapshot":{"name","id","peer","peer_why"}}, see vmrun_snap.h
 *   {"cmd":"snapshot-delete","vm":s,"name":s}        {"snapshot":{"name","here","peer","peer_why"}}
 *   {"cmd":"snapshot-revert","vm":s,"name":s}        {"ok":true,"memory":b}; the VM is off;
 *        memory: vm-resume goes on from the snapshot's, as from a suspended guest
 *   {"cmd":"snapshot-list","vm":s}                   {"host","snapshots":[see snapfile.c],"peer","peer_snapshots":[...]|null}
 *   {"cmd":"drill","what":s,"vm":s,"force":b}         progress lines, then {"report":{...}}
 *
 * A progress line is {"progress":s,"state":s,"term":n}. Commands that wait take "timeout_ms".
 */
#ifndef CTL_CMD_H
#define CTL_CMD_H

#include <jansson.h>

struct ctl_conn;
struct host;
struct vmrun;

/* A ctl_handler_fn; @arg is the struct host. */
void cmd_handle(void *arg, struct ctl_conn *c, json_t *req);

/* The handlers in files of their own: same arguments, each ends the request. */
void cmd_status(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_stats(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_heartbeat(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_vm_start(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_vm_stop(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_vm_suspend(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_vm_resume(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_failover(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_disk_verify(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_disk_resize(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_resync_rate(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_snap_create(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_snap_delete(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_snap_revert(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_snap_list(struct host *h, struct ctl_conn *c, json_t *req);
void cmd_events(struct host *h, struct ctl_conn *c, json_t *req);

/* The VM that the request names, or NULL after the request was ended with an error. */
struct vmrun *cmd_vm(struct host *h, struct ctl_conn *c, json_t *req);
/* An integer of the request in [@min, @max], or @dflt when it is missing or out of range. */
json_int_t cmd_int(json_t *req, const char *key, json_int_t min, json_int_t max,
		   json_int_t dflt);
/* {"progress":text,"state":...,"term":...} of @v; owned. */
json_t *cmd_progress(const struct vmrun *v, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
