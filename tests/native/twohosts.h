/* SPDX-License-Identifier: Apache-2.0
 * twohosts - two hosts of Rhea on this machine, each in a network namespace, and a third
 * namespace with the clients and a real etcd.
 *
 *        ns c: etcd, observer, bridge cl
 *          |port a          |port b        client network 10.77.0.0/24, 2nd heartbeat
 * path ns a: br0-tap     ns b: br0-tap
 *          |________________|              replication network 10.78.0.0/24
 */
#ifndef TESTS_NATIVE_TWOHOSTS_H
#define TESTS_NATIVE_TWOHOSTS_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

struct observer;

struct twohosts;

struct th_opts {
	const char *guest;   /* ELF to boot; NULL: tests/guest/guest.elf */
	const char *cmdline; /* of the guest */
	unsigned memory_mib, vcpus;
	unsigned interval_us; /* epoch */
	unsigned heartbeat_ms, missed;
	const char *extra_vm; /* more lines for the VM's config, or NULL */
	int no_etcd;
	unsigned disk_mib; /* of the image; 0: 16 */
	void (*on_disks)(
		struct twohosts *p); /* the images are there, and nobody uses them yet */
	unsigned
		networks; /* for replication: repl0 is 10.78.0.0/24, repl1 10.79.0.0/24; 0: one */
	const char *
		disk, /* a command that makes disk.vhd in the folder it is run in; NULL: a raw disk */
		*paths; /* what the config's list of paths holds, or NULL: one by tcp */
	int two_vhd;	/* @disk makes disk2.vhd as well */
	int both_kinds; /* the raw disk, and then the one that @disk makes */
	int wait_for_standby; /* th_up() starts rhead on host 0 only */
};

struct th_host {
	char name[8], ns[32], dir[200], sock[256], crash[256];
	pid_t rhead;
};

struct twohosts {
	char dir[128], ns_c[32], port[2][16];
	struct th_host host[2];
	pid_t etcd;
	struct th_opts opts;
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

/* What the main() of such a test begins with: argv is [ROUNDS [SEED]]. @rounds: changed if it is given; NULL: it is no
 * matter of rounds. The seed is printed. */
void th_begin(int argc, char **argv, unsigned *rounds);
/* The absolute path of what this build made, for as long as the process lives; NULL: out of memory. */
const char *th_built(const char *name);
/* A command's status, as system(). It may have 2047 bytes. */
int th_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* All of these end the test with a message and the logs if what they do fails. */
void th_up(struct twohosts *p, const struct th_opts *o);
void th_hosts_end(struct twohosts *p); /* kill both hosts' processes; their files stay */
void th_down(struct twohosts *p);      /* idempotent; also removes the namespaces */
void th_end(struct twohosts *p); /* a test went well: th_down(), and remove the files */
void th_rhead_start(struct twohosts *p, int host);
void th_etcd_start(struct twohosts *p);
/* Wait for a child that ends, so that it leaves no zombie; its status, as of waitpid(). 0 or less: there is none. */
int th_reap(pid_t pid);

/* The next rhea-vm of @host that comes to the crash point @name (crashpoint.h) dies there, or
 * waits if there is "+milliseconds" behind the name. */
void th_crash_at(struct twohosts *p, int host, const char *name);
/* Has it? */
int th_crashed(struct twohosts *p, int host);

/* Cut or join the two hosts' networks; each keeps its way to the clients and etcd. */
void th_cut(struct twohosts *p, int cut);

/* Pull or plug the cable of replication network @path. */
void th_cut_path(struct twohosts *p, unsigned path, int cut);

/* Let the replication network carry so much each way ("5mbit", as tc writes it), or NULL: as much as
 * it can. */
void th_rate(struct twohosts *p, const char *rate);
/* The same for replication network @path; @burst, in tc's words, may pass at once. */
void th_rate_path(struct twohosts *p, unsigned path, const char *rate, const char *burst);

/* 0, or -1 when that host's rhead does not answer now. */
int th_view(struct twohosts *p, int host, struct vm_view *out);
/* The host that runs the VM protected, waiting @timeout_ms for it; -1 if none does. Its guest has been heard by then,
 * from this host or the other, if it says anything: else who moves it could not tell from where. */
int th_wait_protected(struct twohosts *p, unsigned timeout_ms);
/* The same, but it must be protected. */
int th_protected(struct twohosts *p, unsigned timeout_ms);
/* Until @host's guest has said @frames more things, and all that is on the wire is right. */
void th_goes_on(struct twohosts *p, int host, unsigned frames, unsigned timeout_ms);
/* rheactl on @host: returns owned JSON or NULL. */
json_t *th_rheactl(struct twohosts *p, int host, const char *args);

/* Milliseconds of sleep, and a seeded random number below @n. */
void th_sleep_ms(unsigned ms);
unsigned th_random(unsigned n);
void th_seed(uint64_t seed);

/* Print the text and the ends of all logs, take everything down, exit 1. */
void th_fail(struct twohosts *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));

#endif
