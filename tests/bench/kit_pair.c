/* SPDX-License-Identifier: Apache-2.0
 * kit_pair - a protected guest, and its standby in a process of its own.
 */
#include "tests/bench/kit.h"

#include "diskrep/diskrep.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/vm.h"
#include "netbuf/netbuf.h"
#include "remus/parts.h"
#include "replication/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint8_t psk[TP_PSK_LEN] = {1, 2, 3};
enum { WAIT_S = 120, HANDSHAKE_MS = 10000, OUTPUT_LIMIT = 256 << 20 };

static struct sockaddr_in peer_address(int port)
{
	const char *ip = getenv("RHEA_BENCH_PEER_IP");
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	if (inet_pton(AF_INET, ip ? ip : "127.0.0.1", &a.sin_addr) != 1)
		kit_die("RHEA_BENCH_PEER_IP is no address", NULL);
	return a;
}

/* -- the standby's process -- */

static void go_to_namespace(void)
{
	const char *path = getenv("RHEA_BENCH_PEER_NS");
	int fd;

	if (!path)
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		kit_die(path, NULL);
	close(fd);
}

static struct tp *listen_once(struct kit_shared *sh)
{
	struct sockaddr_in a = peer_address(0);
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
	struct err e = {0};
	struct tp *tp;

	if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &len))
		kit_die("the standby's address", NULL);
	atomic_store(&sh->port, ntohs(a.sin_port));
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		kit_die("accept", NULL);
	close(l);
	if (tp_tcp_open(fd, 1, "bench", psk, HANDSHAKE_MS, &tp, &e))
		kit_die("the standby's TLS", &e);
	return tp;
}

static void on_standby(void *arg, enum standby_state s, uint64_t term, int bye,
		       const char *why)
{
}

static void standby_main(const struct kit *k, struct kit_shared *sh,
			 const struct kit_opts *o)
{
	struct diskrep_journal journal = {
		.vm = "bench", .fd = o->journal_fd, .bytes = o->journal_bytes};
	struct standby_config cfg = {.vm = "bench", .on_state = on_standby};
	struct kit_disk disk = {.fd = o->disk_fd[1], .activity_fd = -1};
	struct standby_part part[4];
	struct mach_standby *mach;
	struct mem_standby *mem;
	struct netbuf_standby *nb;
	struct diskrep_standby *dr;
	struct standby *s;
	struct kit_vm v;
	struct err e = {0};
	struct tp *tp;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail */
	go_to_namespace();
	tp = listen_once(sh);
	kit_vm_up(k, &v, o->ram, o->with_net, -1, NULL, o->with_disk ? &disk : NULL);
	if (mach_standby_create(v.vm, &mach, &e) ||
	    mem_standby_create(vm_gm(v.vm), 2 * o->ram, &mem, &e) ||
	    netbuf_standby_create(&nb, &e) ||
	    (o->with_disk &&
	     diskrep_standby_create(&disk.fd, 1, 256 << 20, &journal, &dr, &e)))
		kit_die("the standby's participants", &e);
	part[0] = mach_standby(mach);
	part[1] = mem_standby(mem);
	part[2] = netbuf_standby_part(nb);
	if (o->with_disk)
		part[3] = diskrep_standby_part(dr);
	if (standby_create(&cfg, part, o->with_disk ? 4 : 3, &s, &e) ||
	    standby_attach(s, tp, 1, &e))
		kit_die("the standby", &e);
	while (!atomic_load(&sh->stop))
		kit_sleep_us(10000);
	standby_stats(s, &sh->stats);
	atomic_store(&sh->done, 1);
	_exit(0); /* nothing of it is needed any more */
}

/* -- the primary -- */

static void on_primary(void *arg, enum primary_state s, uint64_t term, const char *why)
{
	struct kit_pair *p = arg;

	atomic_store(&p->state, (int)s);
	if (!atomic_load(&p->shared->stop) && (s == PRI_UNLINKED || s == PRI_FENCED))
		(void)fprintf(stderr, "bench: %s: %s\n", primary_state_name(s),
			      why ? why : "");
}

static struct tp *connect_standby(struct kit_pair *p)
{
	uint64_t end = clock_mono_ns() + WAIT_S * 1000000000ull;
	struct sockaddr_in a;
	struct err e = {0};
	struct tp *tp;
	int fd;

	while (!atomic_load(&p->shared->port)) {
		if (clock_mono_ns() > end)
			kit_die("the standby does not come up", NULL);
		kit_sleep_us(1000);
	}
	a = peer_address(atomic_load(&p->shared->port));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
		kit_die("connecting to the standby", NULL);
	if (tp_tcp_open(fd, 0, "bench", psk, HANDSHAKE_MS, &tp, &e))
		kit_die("the primary's TLS", &e);
	return tp;
}

/* The engine's trigger exists only after the participants that need it. */
static void trigger(void *arg, const char *why)
{
	struct kit_pair *p = arg;
	struct epoch_trigger t;

	if (!p->primary)
		return;
	t = primary_trigger(p->primary);
	t.request(t.arg, why);
}

static void make_primary(struct kit_pair *p, const struct kit_opts *o)
{
	struct primary_config cfg = {.vm = "bench",
				     .interval_us = o->interval_us,
				     .min_interval_us = o->min_interval_us,
				     .latency_target_us = o->latency_target_us,
				     .overhead_cap = o->overhead_cap,
				     .max_inflight = o->inflight,
				     .on_state = on_primary,
				     .arg = p};
	struct epoch_trigger t = {.request = trigger, .arg = p};
	struct part part[4];
	struct err e = {0};

	if (mach_part_create(p->vm.vm, &p->mach, &e) ||
	    mem_part_create(vm_gm(p->vm.vm), p->vm.vm, o->ram, 0, &p->mem, &e) ||
	    netbuf_create(OUTPUT_LIMIT, p->vm.loop, 0, t, &p->vm.nb, &e) ||
	    (p->vm.net && netbuf_add_net(p->vm.nb, p->vm.net, &e)))
		kit_die("participants", &e);
	part[0] = mach_part(p->mach);
	part[1] = mem_part(p->mem);
	part[2] = netbuf_part(p->vm.nb);
	if (o->with_disk)
		part[3] = diskrep_part(p->vm.dr);
	if (primary_create(&cfg, part, o->with_disk ? 4 : 3, &p->primary, &e) ||
	    (o->with_disk && diskrep_run(p->vm.dr, &e)))
		kit_die("the primary", &e);
	if (o->with_disk)
		diskrep_start(p->vm.dr);
	if (primary_alone(p->primary, 1, &e) || vm_start(p->vm.vm, &e))
		kit_die("the primary", &e);
}

void kit_pair_up(const struct kit *k, struct kit_pair *p, const struct kit_opts *o)
{
	uint64_t end = clock_mono_ns() + WAIT_S * 1000000000ull;
	struct kit_disk disk = {.fd = o->disk_fd[0],
				.replicated = 1,
				.trigger = {.request = trigger, .arg = p},
				.activity_fd = o->activity_fd,
				.slow_us = o->slow_us,
				.slow_bytes_s = o->slow_bytes_s};
	struct err e = {0};

	*p = (struct kit_pair){0};
	p->shared = mmap(NULL, sizeof(*p->shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->shared == MAP_FAILED)
		kit_die("shared memory", NULL);
	(void)fflush(stdout);
	p->standby = fork();
	if (p->standby < 0)
		kit_die("fork", NULL);
	if (!p->standby)
		standby_main(k, p->shared, o);
	kit_vm_up(k, &p->vm, o->ram, o->with_net, o->tap, o->cmdline,
		  o->with_disk ? &disk : NULL);
	make_primary(p, o);
	if (primary_attach(p->primary, connect_standby(p), 1, &e))
		kit_die("attach", &e);
	while (atomic_load(&p->state) != PRI_PROTECTED) {
		if (clock_mono_ns() > end)
			kit_die("the guest is not protected", NULL);
		kit_sleep_us(1000);
	}
}

void kit_pair_down(struct kit_pair *p, struct standby_stats *standby_out)
{
	int status;

	if (atomic_load(&p->state) != PRI_PROTECTED)
		kit_die("protection was lost", NULL);
	atomic_store(&p->shared->stop, 1);
	if (waitpid(p->standby, &status, 0) < 0 || status ||
	    !atomic_load(&p->shared->done))
		kit_die("the standby's end", NULL);
	if (standby_out)
		*standby_out = p->shared->stats;
	primary_destroy(p->primary);
	kit_vm_down(&p->vm);
	mach_part_destroy(p->mach);
	mem_part_destroy(p->mem);
	munmap(p->shared, sizeof(*p->shared));
}
