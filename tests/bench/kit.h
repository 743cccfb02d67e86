/* SPDX-License-Identifier: Apache-2.0
 * kit - what the benchmarks share: VMs with the ring-3 guest, a protected pair, rows of figures.
 *
 * The standby is a process of its own. With RHEA_BENCH_PEER_NS set to the path of a network
 * namespace it lives there and listens on RHEA_BENCH_PEER_IP, else on this host's loopback. Whatever
 * fails ends the benchmark with a message.
 */
#ifndef TESTS_BENCH_KIT_H
#define TESTS_BENCH_KIT_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/hist.h"
#include "remus/primary.h"
#include "remus/standby.h"

struct blk;
struct diskrep;
struct err;
struct loop;
struct mach_part;
struct mem_part;
struct netbuf;
struct vm;
struct vnet;

enum { KIT_TURNS_MAX = 16 };

/* Opened once. */
struct kit {
	int kvm_fd, guest_fd;
	unsigned seconds, turns; /* of a turn; of each figure */
	json_t *rows;
};

/* argv: GUEST.elf OUT.json [SECONDS] [TURNS] */
void kit_begin(struct kit *k, int argc, char **argv);
int kit_end(struct kit *k, const char *out); /* exit status */

void kit_die(const char *what, const struct err *e) __attribute__((noreturn));
void kit_sleep_us(unsigned us);

struct kit_vm {
	struct loop *loop;
	struct vm *vm;
	struct vnet *net;   /* NULL: none */
	struct netbuf *nb;  /* NULL: none; destroyed with the VM */
	struct diskrep *dr; /* the same */
	pthread_t io;
};

/* A disk, raw unless @open: as it is, or behind the replicating filter. */
struct kit_disk {
	int fd; /* borrowed */
	struct blk (*open)(void *arg, struct loop *loop);
	void *arg;
	int replicated;
	struct epoch_trigger trigger; /* if it is */
	int activity_fd;	      /* of its log, borrowed; -1: none */
	unsigned slow_us;	      /* kit_slow.h; 0: as fast as it is */
	uint64_t slow_bytes_s;
};

/* @tap: -1 and @with_net for a card that leads nowhere. Booted but not started if @cmdline.
 * @disk: NULL: none. */
void kit_vm_up(const struct kit *k, struct kit_vm *v, uint64_t ram, int with_net, int tap,
	       const char *cmdline, const struct kit_disk *disk);
void kit_vm_down(struct kit_vm *v);
/* Turns of the guest's loop. */
uint64_t kit_progress(const struct kit_vm *v);

struct kit_opts {
	uint64_t ram;
	const char *cmdline; /* of the guest */
	unsigned interval_us, min_interval_us, inflight;
	unsigned latency_target_us, overhead_cap;
	int with_net, tap;
	/* Images of the primary and of the standby; @journal_fd: the standby's, -1: none. */
	int with_disk, disk_fd[2], activity_fd, journal_fd;
	uint64_t journal_bytes, slow_bytes_s;
	unsigned slow_us; /* the primary's disk: kit_slow.h; 0: as fast as it is */
};

/* What the standby's process tells. */
struct kit_shared {
	atomic_int port, stop, done;
	struct standby_stats stats; /* whole when done */
};

struct kit_pair {
	struct kit_vm vm;
	struct mach_part *mach;
	struct mem_part *mem;
	struct primary *primary;
	struct kit_shared *shared;
	pid_t standby;
	atomic_int state; /* enum primary_state */
};

/* Both up, guest running, checkpoint 0 committed. */
void kit_pair_up(const struct kit *k, struct kit_pair *p, const struct kit_opts *o);
/* @standby_out may be NULL. */
void kit_pair_down(struct kit_pair *p, struct standby_stats *standby_out);

struct spread {
	double min, med, max;
	unsigned n; /* 0: there is none */
};
struct spread spread_of(const double *v, unsigned n);

enum kit_target {
	VALUE_AT_MOST,
	VALUE_AT_LEAST,
	RATIO_AT_MOST,
	RATIO_AT_LEAST,
	NO_TARGET
};

/* One figure of the table. @floor: of the same run. */
void kit_row(struct kit *k, const char *figure, const char *unit, struct spread value,
	     struct spread floor, enum kit_target how, double target);

/* @h less what it was at an earlier time. */
void kit_hist_since(struct hist *h, const struct hist *before);

static inline double kit_us(const struct hist *h, double q)
{
	return (double)hist_quantile(h, q) / 1000;
}

#endif
