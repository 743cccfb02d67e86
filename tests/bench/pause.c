/* SPDX-License-Identifier: Apache-2.0
 * pause - how long a checkpoint stops the guest, step by step, beside a bare loop that
 * only reads the dirty log and copies the pages.
 *
 * Both run natively on /dev/kvm with the same ring-3 guest, which dirties N pages over
 * and over, in the same run, in turns. The engine's standby is in this process, behind
 * TLS on a socket.
 *
 *   pause GUEST.elf OUT.json [SECONDS a turn] [TURNS]
 */
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/hist.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/gm.h"
#include "hv/vm.h"
#include "remus/parts.h"
#include "remus/primary.h"
#include "remus/standby.h"
#include "replication/pagecodec.h"
#include "replication/transport.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RAM = 128 << 20, TURNS_MAX = 16 };

/* The default interval; for many pages as long as a guest needs here to write them (a first write
 * costs it up to 10 us). */
static unsigned interval_us(unsigned pages)
{
	return pages * 20 > 25000 ? pages * 20 : 25000;
}

static void die(struct err *e, const char *what)
{
	(void)fprintf(stderr, "pause: %s: %s\n", what, e->msg);
	exit(1);
}

static void sleep_us(unsigned us)
{
	struct timespec ts = {.tv_sec = us / 1000000,
			      .tv_nsec = (long)(us % 1000000) * 1000};

	(void)nanosleep(&ts, NULL); /* no signals here */
}

/* A VM with the guest in it. */
struct bench_vm {
	struct loop *loop;
	struct vm *vm;
	pthread_t io;
};

static void *io_main(void *arg)
{
	(void)loop_run(arg); /* ends by loop_stop */
	return NULL;
}

static void guest_event(void *arg, enum vm_event ev, const char *text)
{
	(void)fprintf(stderr, "pause: the guest ended (%d: %s)\n", (int)ev,
		      text ? text : "");
	_exit(1);
}

static void make_vm(struct bench_vm *b, int kvm_fd)
{
	struct vm_config cfg = {.name = "bench",
				.ram_bytes = RAM,
				.vcpus = 1,
				.cpu = "host",
				.kvm_fd = kvm_fd};
	struct err e = {0};

	if (loop_create(&b->loop, &e))
		die(&e, "loop");
	cfg.loop = b->loop;
	if (vm_create(&cfg, &b->vm, &e))
		die(&e, "vm");
	vm_on_event(b->vm, guest_event, NULL);
	if (pthread_create(&b->io, NULL, io_main, b->loop))
		die(&e, "thread");
}

static void boot(struct bench_vm *b, int guest_fd, unsigned pages)
{
	char cmdline[64];
	struct vm_kernel k = {.kernel_fd = guest_fd, .initrd_fd = -1, .cmdline = cmdline};
	struct err e = {0};

	(void)snprintf(cmdline, sizeof(cmdline), "mode=dirty dirty=%u", pages);
	if (vm_boot(b->vm, &k, &e))
		die(&e, "boot");
}

static void end_vm(struct bench_vm *b)
{
	loop_stop(b->loop);
	pthread_join(b->io, NULL);
	vm_destroy(b->vm);
	loop_destroy(b->loop);
}

/* The floor: log and copy, nothing else. Histogram of one turn, ns. */
static void bare_turn(int kvm_fd, int guest_fd, unsigned pages, unsigned seconds,
		      struct hist *floor, struct hist *dirty)
{
	uint64_t words = RAM / GM_PAGE / 64, end, t0, n;
	uint64_t *bitmap = calloc(words, 8);
	uint8_t *copy = malloc(RAM), *ram;
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};
	struct bench_vm b;
	struct err e = {0};

	if (!bitmap || !copy)
		die(&e, "memory");
	memset(copy, 1, RAM); /* its own page faults are not the floor's */
	make_vm(&b, kvm_fd);
	boot(&b, guest_fd, pages);
	if (gm_log(vm_gm(b.vm), 1, &e) || vm_start(b.vm, &e))
		die(&e, "start");
	ram = gm_base(vm_gm(b.vm));
	end = clock_mono_ns() + seconds * 1000000000ull;
	for (unsigned i = 0; clock_mono_ns() < end; i++) {
		sleep_us(interval_us(pages));
		if (vm_pause(b.vm))
			die(&e, "vm_pause");
		t0 = clock_mono_ns();
		if (ioctl(vm_fd(b.vm), KVM_GET_DIRTY_LOG, &log))
			die(&e, "KVM_GET_DIRTY_LOG");
		n = 0;
		for (uint64_t w = 0; w < words; w++)
			for (uint64_t x = bitmap[w]; x; x &= x - 1)
				memcpy(copy + n++ * GM_PAGE,
				       ram + (w * 64 + (uint64_t)__builtin_ctzll(x)) *
						       GM_PAGE,
				       GM_PAGE);
		t0 = clock_mono_ns() - t0;
		vm_resume(b.vm);
		if (i < 4) /* the boot, and the first touch of everything */
			continue;
		hist_add(floor, t0);
		hist_add(dirty, n);
	}
	end_vm(&b);
	free(bitmap);
	free(copy);
}

struct handshake {
	int fd;
	struct tp *tp;
	struct err err;
};

static const uint8_t psk[TP_PSK_LEN] = {1, 2, 3};

static void *server_main(void *arg)
{
	struct handshake *h = arg;

	(void)tp_tcp_open(h->fd, 1, "bench", psk, 5000, &h->tp,
			  &h->err); /* told by h->tp */
	return NULL;
}

static void connect_tls(struct tp *ends[2])
{
	struct handshake server = {0};
	int sv[2];
	pthread_t t;
	struct err e = {0};

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		die(&e, "socketpair");
	server.fd = sv[1];
	if (pthread_create(&t, NULL, server_main, &server))
		die(&e, "thread");
	if (tp_tcp_open(sv[0], 0, "bench", psk, 5000, &ends[0], &e))
		die(&e, "TLS");
	pthread_join(t, NULL);
	ends[1] = server.tp;
	if (!ends[1])
		die(&server.err, "TLS");
}

static atomic_int state;

static void on_primary(void *arg, enum primary_state s, uint64_t term, const char *why)
{
	atomic_store(&state, (int)s);
	if (s == PRI_UNLINKED || s == PRI_FENCED)
		(void)fprintf(stderr, "pause: %s: %s\n", primary_state_name(s),
			      why ? why : "");
}

static void on_standby(void *arg, enum standby_state s, uint64_t term, int bye,
		       const char *why)
{
}

struct engine_turn {
	struct bench_vm p, s;
	struct mach_part *mach;
	struct mem_part *mem;
	struct mach_standby *s_mach;
	struct mem_standby *s_mem;
	struct primary *primary;
	struct standby *standby;
};

static void make_engines(struct engine_turn *t, unsigned pages)
{
	struct primary_config pc = {.vm = "bench",
				    .interval_us = interval_us(pages),
				    .min_interval_us = 1000,
				    .max_inflight = 4,
				    .on_state = on_primary};
	struct standby_config sc = {.vm = "bench", .on_state = on_standby};
	struct part parts[2];
	struct standby_part sparts[2];
	struct tp *ends[2];
	struct err e = {0};

	if (mach_part_create(t->p.vm, &t->mach, &e) ||
	    mem_part_create(vm_gm(t->p.vm), RAM, &t->mem, &e) ||
	    mach_standby_create(t->s.vm, &t->s_mach, &e) ||
	    mem_standby_create(vm_gm(t->s.vm), 2u * RAM, &t->s_mem, &e))
		die(&e, "participants");
	parts[0] = mach_part(t->mach);
	parts[1] = mem_part(t->mem);
	sparts[0] = mach_standby(t->s_mach);
	sparts[1] = mem_standby(t->s_mem);
	if (primary_create(&pc, parts, 2, &t->primary, &e) ||
	    standby_create(&sc, sparts, 2, &t->standby, &e) ||
	    primary_alone(t->primary, 1, &e) || vm_start(t->p.vm, &e))
		die(&e, "engines");
	connect_tls(ends);
	if (standby_attach(t->standby, ends[1], 1, &e) ||
	    primary_attach(t->primary, ends[0], 1, &e))
		die(&e, "attach");
}

static void engine_turn(int kvm_fd, int guest_fd, unsigned pages, unsigned seconds,
			struct primary_stats *out)
{
	struct engine_turn t = {0};
	struct err e = {0};
	uint64_t end;

	make_vm(&t.p, kvm_fd);
	make_vm(&t.s, kvm_fd);
	boot(&t.p, guest_fd, pages);
	atomic_store(&state, PRI_ALONE);
	make_engines(&t, pages);
	end = clock_mono_ns() + 20000000000ull;
	while (atomic_load(&state) != PRI_PROTECTED) {
		if (clock_mono_ns() > end)
			die(&e, "not protected after 20 s");
		sleep_us(1000);
	}
	sleep_us(seconds * 1000000);
	primary_stats(t.primary, out);
	primary_destroy(t.primary);
	standby_destroy(t.standby);
	end_vm(&t.p);
	end_vm(&t.s);
	mach_part_destroy(t.mach);
	mem_part_destroy(t.mem);
	mach_standby_destroy(t.s_mach);
	mem_standby_destroy(t.s_mem);
}

static double us(const struct hist *h, double q)
{
	return (double)hist_quantile(h, q) / 1000;
}

static int cmp(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Median and spread over the turns. */
struct spread {
	double min, med, max;
};

static struct spread spread_of(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), cmp);
	return (struct spread){v[0], v[n / 2], v[n - 1]};
}

static void add_row(json_t *rows, unsigned pages, const char *step, struct spread p50,
		    struct spread p99, struct spread floor50, struct spread floor99)
{
	double ratio = floor50.med > 0 ? p50.med / floor50.med : 0;

	printf("%6u  %-9s %8.1f [%.1f-%.1f] %9.1f [%.1f-%.1f] %8.2f\n", pages, step,
	       p50.med, p50.min, p50.max, p99.med, p99.min, p99.max, ratio);
	json_array_append_new(rows,
			      json_pack("{s:i,s:s,s:f,s:f,s:[ff],s:[ff],s:f,s:f,s:f,s:s}",
					"dirty_pages", (int)pages, "step", step, "p50",
					p50.med, "p99", p99.med, "p50_spread", p50.min,
					p50.max, "p99_spread", p99.min, p99.max,
					"floor_p50", floor50.med, "floor_p99",
					floor99.med, "ratio_p50", ratio, "unit", "us"));
}

static void bench_pages(json_t *rows, int kvm_fd, int guest_fd, unsigned pages,
			unsigned seconds, unsigned turns)
{
	static const struct {
		const char *name;
		size_t off;
	} step[] = {
		{"pause", offsetof(struct primary_stats, pause)},
		{"stop", offsetof(struct primary_stats, stop)},
		{"capture", offsetof(struct primary_stats, capture)},
		{" machine", offsetof(struct primary_stats, capture_part[0])},
		{" memory", offsetof(struct primary_stats, capture_part[1])},
		{"resume", offsetof(struct primary_stats, resume)},
	};
	enum { STEPS = sizeof(step) / sizeof(step[0]) };
	double v50[STEPS][TURNS_MAX], v99[STEPS][TURNS_MAX], f50[TURNS_MAX],
		f99[TURNS_MAX];
	struct primary_stats *ps = malloc(sizeof(*ps));
	struct hist *floor, *dirty;
	struct spread s50, s99;

	assert(turns > 0);
	for (unsigned t = 0; t < turns; t++) {
		floor = calloc(1, sizeof(*floor));
		dirty = calloc(1, sizeof(*dirty));
		if (!floor || !dirty || !ps)
			exit(1);
		bare_turn(kvm_fd, guest_fd, pages, seconds, floor, dirty);
		f50[t] = us(floor, 0.5);
		f99[t] = us(floor, 0.99);
		engine_turn(kvm_fd, guest_fd, pages, seconds, ps);
		for (unsigned s = 0; s < STEPS; s++) {
			v50[s][t] = us((struct hist *)((char *)ps + step[s].off), 0.5);
			v99[s][t] = us((struct hist *)((char *)ps + step[s].off), 0.99);
		}
		(void)fprintf(
			stderr,
			"turn %u: %u pages wanted, %llu bare, %llu in %llu epochs\n",
			t + 1, pages, (unsigned long long)hist_quantile(dirty, 0.5),
			(unsigned long long)hist_quantile(&ps->dirty_pages, 0.5),
			(unsigned long long)ps->pause.count);
		free(floor);
		free(dirty);
	}
	s50 = spread_of(f50, turns);
	s99 = spread_of(f99, turns);
	add_row(rows, pages, "floor", s50, s99, s50, s99);
	for (unsigned s = 0; s < STEPS; s++)
		add_row(rows, pages, step[s].name, spread_of(v50[s], turns),
			spread_of(v99[s], turns), s50, s99);
	free(ps);
}

int main(int argc, char **argv)
{
	static const unsigned pages[] = {100, 1000, 10000};
	unsigned seconds = argc > 3 ? (unsigned)atoi(argv[3]) : 3,
		 turns = argc > 4 ? (unsigned)atoi(argv[4]) : 3;
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), guest_fd;
	json_t *rows = json_array();

	if (argc < 3 || !turns || turns > TURNS_MAX) {
		(void)fprintf(stderr,
			      "usage: pause GUEST.elf OUT.json [SECONDS] [TURNS<=16]\n");
		return 2;
	}
	guest_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (kvm_fd < 0 || guest_fd < 0) {
		(void)fprintf(stderr, "pause: %s: %s\n",
			      kvm_fd < 0 ? "/dev/kvm" : argv[1], strerror(errno));
		return 1;
	}
	log_init("pause", NULL, LOG_LVL_WARN);
	printf(" pages  step           p50 us [min-max]      p99 us [min-max]  "
	       "p50/floor\n");
	for (unsigned i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		bench_pages(rows, kvm_fd, guest_fd, pages[i], seconds, turns);
	if (json_dump_file(rows, argv[2], JSON_INDENT(1)))
		return 1;
	json_decref(rows);
	return 0;
}
