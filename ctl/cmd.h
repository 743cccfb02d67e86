/* SPDX-License-Identifier: Apache-2.0
 * cmd - what the control socket can be asked. For the world outside see rheactl(8).
 *
 *   {"cmd":"ping"}                                    {"ok":true,"host":s,"version":s}
 *   {"cmd":"status"}                                  one object, see cmd_status.c
 *   {"cmd":"stats","vm":s}                            all counters of rhea-vm
 *   {"cmd":"heartbeat"}                               the paths to the peer
 *   {"cmd":"vm-start","vm":s}                         progress lines, then {"ok":true,...}
 *   {"cmd":"vm-stop","vm":s,"force":b}                likewise
 *   {"cmd":"failover","vm":s,"override":s,"cold":b}   likewise
 *   {"cmd":"console","vm":s}                          {"ok":true}, then bytes both ways
 *   {"cmd":"events","after":n,"count":n,"follow":b}   a line each, then {"ok":true,"last":n}
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
void cmd_failover(struct host *h, struct ctl_conn *c, json_t *req);
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
