/* SPDX-License-Identifier: Apache-2.0
 * pair - two hosts of Rhea on this machine, each in a network namespace, and a third
 * namespace with the clients and a real etcd.
 *
 *        ns c: etcd, observer, bridge cl
 *          |port a          |port b        client network 10.77.0.0/24, 2nd heartbeat
 * path ns a: br0-tap     ns b: br0-tap
 *          |________________|              replication network 10.78.0.0/24
 */
#ifndef TESTS_NATIVE_PAIR_H
#define TESTS_NATIVE_PAIR_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

struct observer;

struct pair_opts {
	const char *guest;   /* ELF to boot */
	const char *cmdline; /* of the guest */
	unsigned memory_mib, vcpus;
	unsigned interval_us; /* epoch */
	unsigned heartbeat_ms, missed;
	const char *extra_vm; /* more lines for the VM's config, or NULL */
	int no_etcd;
};

struct pair_host {
	char name[8], ns[32], dir[200], sock[256];
	pid_t rhead;
};

struct pair {
	char dir[128], ns_c[32], port[2][16];
	struct pair_host host[2];
	pid_t etcd;
	struct pair_opts opts;
	struct observer *obs;
};

/* How rheactl sees the VM on one host. */
struct vm_view {
	char state[32]; /* of the pair machine */
	char role[16];
	uint64_t term;
	int protected;
	pid_t pid; /* of rhea-vm; 0: none */
};

/* All of these end the test with a message and the logs if what they do fails. */
void pair_up(struct pair *p, const struct pair_opts *o);
void pair_down(struct pair *p); /* idempotent; also removes the namespaces */
void pair_rhead_start(struct pair *p, int host);
void pair_etcd_start(struct pair *p);
/* Wait for a child that was killed, so that it leaves no zombie. */
void pair_reap(pid_t pid);

/* Cut or join the two hosts' networks; each keeps its way to the clients and etcd. */
void pair_cut(struct pair *p, int cut);

/* 0, or -1 when that host's rhead does not answer now. */
int pair_view(struct pair *p, int host, struct vm_view *out);
/* The host that runs the VM protected, waiting @timeout_ms for it; -1 if none does. */
int pair_wait_protected(struct pair *p, unsigned timeout_ms);
/* rheactl on @host: returns owned JSON or NULL. */
json_t *pair_rheactl(struct pair *p, int host, const char *args);

/* Milliseconds of sleep, and a seeded random number below @n. */
void pair_sleep_ms(unsigned ms);
unsigned pair_random(unsigned n);
void pair_seed(uint64_t seed);

/* Print the text and the ends of all logs, take everything down, exit 1. */
void pair_fail(struct pair *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));

#endif
