/* SPDX-License-Identifier: Apache-2.0
 * linktest - rhead's part of measuring the paths between the hosts.
 *
 * Theory of operation. Each path is tested over a connection of its own: our rhead connects and says in the
 * preface that it is a test, both hosts give their end to a rhea-vm, and ours says how it went. That is the
 * VM's rhea-vm if it has one, because it has the transports' devices open; else a *tester*: the same
 * program without a machine, shut in like the others, at most one a host, which ends by itself when nobody
 * has wanted it for a while, and at once when a VM is started, which may need its devices.
 *
 * On the loop's thread.
 */
#ifndef CTL_LINKTEST_H
#define CTL_LINKTEST_H

#include <jansson.h>

struct config;
struct config_vm;
struct ctl_conn;
struct err;
struct host;
struct linktest;
struct preface;

enum { LINKTEST_SECONDS_MAX = 10 };

int linktest_create(struct host *h, struct linktest **lt_out, struct err *err);
void linktest_destroy(struct linktest *lt); /* also ends the tester; NULL is fine */

/* {"cmd":"link-test"}; cmd.h. */
void linktest_cmd(struct host *h, struct ctl_conn *c, json_t *req);
/* The peer tests; takes @fd. */
void linktest_incoming(struct linktest *lt, const struct preface *p, int fd);
/* A rhea-vm says how a test went. @msg is borrowed. */
void linktest_event(struct linktest *lt, json_t *msg);
/* A VM is about to start: end the tester, now. */
void linktest_yield(struct linktest *lt);

/* linktest_report.c: what was measured of path @i (@msg of rhea-vm, borrowed), or why nothing was
 * (@why), and what follows from it for @vm (NULL: none). Returns owned. */
json_t *linktest_report(const struct config *cfg, const struct config_vm *vm, unsigned i,
			json_t *msg, const char *why);

#endif
