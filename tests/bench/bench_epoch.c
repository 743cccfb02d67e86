/* SPDX-License-Identifier: Apache-2.0
 * bench_epoch - the epoch engine: how long a checkpoint stops the guest, how many there can be,
 * what they leave of the guest's speed, and what they add to an answer's time.
 *
 * All natively on /dev/kvm with the ring-3 guest; each figure beside a floor of the same run, in
 * turns. The floor of a pause is a bare loop: read the dirty log, protect, copy, read the vCPU.
 *
 *   bench_epoch GUEST.elf OUT.json [SECONDS a turn] [TURNS]
 */
#include "tests/bench/kit.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/vcpu.h"
#include "hv/vm.h"
#include "hv/vm_impl.h"
#include "tests/guest/proto.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct spread none;
#define MIB ((uint64_t)1 << 20)

/* The default interval; for many pages as long as a guest needs here to write them (a first
 * write costs it up to 10 us). */
static unsigned interval_us(unsigned pages)
{
	return pages * 20 > 25000 ? pages * 20 : 25000;
}

/* Long enough for a good number of epochs. */
static unsigned seconds_for(const struct kit *k, unsigned pages)
{
	unsigned s = interval_us(pages) / 50000;

	return s > k->seconds ? s : k->seconds;
}

struct floor {
	struct hist pause, dirty;
	uint64_t words;
	uint64_t *bitmap;
	uint8_t *copy;
};

static uint64_t copy_out(const struct floor *f, const uint8_t *ram)
{
	uint64_t n = 0;

	for (uint64_t w = 0; w < f->words; w++)
		for (uint64_t x = f->bitmap[w]; x; x &= x - 1)
			memcpy(f->copy + n++ * GM_PAGE,
			       ram + (w * 64 + (uint64_t)__builtin_ctzll(x)) * GM_PAGE,
			       GM_PAGE);
	return n;
}

/* One bare checkpoint of a guest that stands; its pages. */
static uint64_t bare_checkpoint(struct kit_vm *v, struct floor *f)
{
	static struct vcpu_state state;

	memset(f->bitmap, 0, f->words * 8);
	if (gm_harvest(vm_gm(v->vm), f->bitmap) || vcpu_get(v->vm->vcpu[0], &state))
		kit_die("the bare loop", NULL);
	return copy_out(f, gm_base(vm_gm(v->vm)));
}

static void bare_turn(const struct kit *k, unsigned pages, uint64_t ram, struct floor *f)
{
	uint64_t end, t0, n;
	char cmdline[64];
	struct kit_vm v;
	struct err e = {0};

	*f = (struct floor){.words = ram / GM_PAGE / 64};
	f->bitmap = calloc(f->words, 8);
	f->copy = malloc((size_t)(pages + 1000) * 2 * GM_PAGE);
	if (!f->bitmap || !f->copy)
		kit_die("memory", NULL);
	/* Its own page faults are not the floor's. */
	memset(f->copy, 1, (size_t)(pages + 1000) * 2 * GM_PAGE);
	(void)snprintf(cmdline, sizeof(cmdline), "mode=dirty dirty=%u", pages);
	kit_vm_up(k, &v, ram, 0, -1, cmdline, NULL);
	if (gm_log(vm_gm(v.vm), 1, &e) || vm_start(v.vm, &e))
		kit_die("start", &e);
	end = clock_mono_ns() + seconds_for(k, pages) * 1000000000ull;
	for (unsigned i = 0; clock_mono_ns() < end; i++) {
		kit_sleep_us(interval_us(pages));
		if (vm_pause(v.vm))
			kit_die("vm_pause", NULL);
		t0 = clock_mono_ns();
		n = bare_checkpoint(&v, f);
		t0 = clock_mono_ns() - t0;
		vm_resume(v.vm);
		if (i < 4) /* the boot, and the first touch of everything */
			continue;
		hist_add(&f->pause, t0);
		hist_add(&f->dirty, n);
	}
	kit_vm_down(&v);
	free(f->bitmap);
	free(f->copy);
}

static void engine_turn(const struct kit *k, unsigned pages, uint64_t ram,
			struct primary_stats *st)
{
	char cmdline[64];
	struct kit_opts o = {.ram = ram,
			     .cmdline = cmdline,
			     .interval_us = interval_us(pages),
			     .min_interval_us = 1000,
			     .inflight = 4,
			     .tap = -1};
	static struct primary_stats before;
	struct kit_pair p;

	(void)snprintf(cmdline, sizeof(cmdline), "mode=dirty dirty=%u", pages);
	kit_pair_up(k, &p, &o);
	kit_sleep_us(10 * o.interval_us); /* the first touch of everything */
	primary_stats(p.primary, &before);
	kit_sleep_us(seconds_for(k, pages) * 1000000);
	primary_stats(p.primary, st);
	kit_hist_since(&st->pause, &before.pause);
	kit_pair_down(&p, NULL);
}

/* Where the pause goes, for people. */
static void print_step(const char *name, const struct hist *h)
{
	printf("    %-10s p50 %8.0f  p99 %8.0f us\n", name, kit_us(h, 0.5),
	       kit_us(h, 0.99));
}

static void print_steps(const struct primary_stats *st, const struct floor *f,
			unsigned pages)
{
	printf("  %u pages wanted: %llu dirty, %llu in the bare loop; %llu epochs\n",
	       pages, (unsigned long long)hist_quantile(&st->dirty_pages, 0.5),
	       (unsigned long long)hist_quantile(&f->dirty, 0.5),
	       (unsigned long long)st->pause.count);
	print_step("bare loop", &f->pause);
	print_step("ahead", &st->ahead);
	print_step("pause", &st->pause);
	print_step("  stop", &st->stop);
	print_step("  machine", &st->capture_part[0]);
	print_step("  memory", &st->capture_part[1]);
	print_step("  output", &st->capture_part[2]);
	print_step("  resume", &st->resume);
	print_step("commit", &st->commit);
}

struct quantiles {
	double p50[KIT_TURNS_MAX], p99[KIT_TURNS_MAX];
};

static void add_quantiles(struct quantiles *q, unsigned turn, const struct hist *h)
{
	q->p50[turn] = kit_us(h, 0.5);
	q->p99[turn] = kit_us(h, 0.99);
}

static void pause_turns(struct kit *k, unsigned pages, uint64_t ram,
			struct quantiles *engine, struct quantiles *bare)
{
	struct primary_stats *st = malloc(sizeof(*st));
	struct floor *f = malloc(sizeof(*f));

	if (!st || !f)
		kit_die("memory", NULL);
	for (unsigned t = 0; t < k->turns; t++) {
		bare_turn(k, pages, ram, f);
		engine_turn(k, pages, ram, st);
		add_quantiles(engine, t, &st->pause);
		add_quantiles(bare, t, &f->pause);
		print_steps(st, f, pages);
	}
	free(st);
	free(f);
}

static void bench_pause(struct kit *k)
{
	struct quantiles e, b;

	pause_turns(k, 100, 512 * MIB, &e, &b);
	kit_row(k, "pause, 100 pages, p50", "us", spread_of(e.p50, k->turns),
		spread_of(b.p50, k->turns), NO_TARGET, 0);
	pause_turns(k, 1000, 512 * MIB, &e, &b);
	kit_row(k, "pause, 1,000 pages, p50", "us", spread_of(e.p50, k->turns),
		spread_of(b.p50, k->turns), RATIO_AT_MOST, 1.3);
	kit_row(k, "pause, 1,000 pages, p99", "us", spread_of(e.p99, k->turns),
		spread_of(b.p99, k->turns), RATIO_AT_MOST, 2);
	pause_turns(k, 10000, 512 * MIB, &e, &b);
	kit_row(k, "pause, 10,000 pages, p50", "us", spread_of(e.p50, k->turns),
		spread_of(b.p50, k->turns), VALUE_AT_MOST, 1000);
	kit_row(k, "pause, 10,000 pages, p99", "us", spread_of(e.p99, k->turns),
		spread_of(b.p99, k->turns), NO_TARGET, 0);
	pause_turns(k, 100000, 1024 * MIB, &e, &b);
	kit_row(k, "pause, 100,000 pages, p50", "us", spread_of(e.p50, k->turns),
		spread_of(b.p50, k->turns), VALUE_AT_MOST, 3000);
}

/* The floor here is the same engine with a small guest. */
static void bench_large_guest(struct kit *k)
{
	struct primary_stats *st = malloc(sizeof(*st));
	struct quantiles small, large;

	if (!st)
		kit_die("memory", NULL);
	for (unsigned t = 0; t < k->turns; t++) {
		engine_turn(k, 1000, 512 * MIB, st);
		add_quantiles(&small, t, &st->pause);
		engine_turn(k, 1000, 16384 * MIB, st);
		add_quantiles(&large, t, &st->pause);
	}
	free(st);
	kit_row(k, "pause, 1,000 pages of 16 GiB, p50", "us",
		spread_of(large.p50, k->turns), spread_of(small.p50, k->turns),
		RATIO_AT_MOST, 1.2);
}

/* Checkpoints a second, with @pages dirty in each. */
static void bench_rate(struct kit *k, unsigned pages, double target)
{
	struct primary_stats *st = malloc(2 * sizeof(*st));
	unsigned us = (unsigned)(1000000 / target);
	double rate[KIT_TURNS_MAX], dirty[KIT_TURNS_MAX];
	char cmdline[64], name[64];
	struct kit_opts o = {.ram = 128 * MIB,
			     .cmdline = cmdline,
			     .interval_us = us * 9 / 10,
			     .min_interval_us = us / 2,
			     .inflight = 16,
			     .tap = -1};
	struct kit_pair p;

	if (!st)
		kit_die("memory", NULL);
	(void)snprintf(cmdline, sizeof(cmdline), "mode=dirty dirty=%u", pages);
	for (unsigned t = 0; t < k->turns; t++) {
		kit_pair_up(k, &p, &o);
		kit_sleep_us(500000);
		primary_stats(p.primary, &st[0]);
		kit_sleep_us(k->seconds * 1000000);
		primary_stats(p.primary, &st[1]);
		kit_pair_down(&p, NULL);
		rate[t] = (double)(st[1].acked - st[0].acked) / k->seconds;
		dirty[t] = (double)hist_quantile(&st[1].dirty_pages, 0.5);
		(void)fprintf(
			stderr,
			"  rate: dirty %.0f, p50 us: pause %.0f (stop %.0f machine "
			"%.0f memory %.0f resume %.0f) send %.0f commit %.0f\n",
			dirty[t], kit_us(&st[1].pause, 0.5), kit_us(&st[1].stop, 0.5),
			kit_us(&st[1].capture_part[0], 0.5),
			kit_us(&st[1].capture_part[1], 0.5), kit_us(&st[1].resume, 0.5),
			kit_us(&st[1].send, 0.5), kit_us(&st[1].commit, 0.5));
	}
	free(st);
	(void)snprintf(name, sizeof(name), "checkpoints, %u pages each", pages);
	kit_row(k, name, "1/s", spread_of(rate, k->turns), none, VALUE_AT_LEAST, target);
	(void)snprintf(name, sizeof(name), "  pages in each, wanted %u", pages);
	kit_row(k, name, "pages", spread_of(dirty, k->turns), none, VALUE_AT_LEAST,
		pages);
}

static double speed_over(const struct kit_vm *v, unsigned seconds)
{
	uint64_t n = kit_progress(v), t = clock_mono_ns();

	kit_sleep_us(seconds * 1000000);
	return (double)(kit_progress(v) - n) * 1e9 / (double)(clock_mono_ns() - t);
}

/* Its speed when nobody looks, or when its dirty log is read at an interval and no more. */
static double bare_speed(const struct kit *k, const char *cmdline, unsigned us)
{
	uint64_t *bits = calloc(128 * MIB / GM_PAGE / 64, 8), n, t, end;
	struct kit_vm v;
	struct err e = {0};
	double speed;

	if (!bits)
		kit_die("memory", NULL);
	kit_vm_up(k, &v, 128 * MIB, 0, -1, cmdline, NULL);
	if ((us && gm_log(vm_gm(v.vm), 1, &e)) || vm_start(v.vm, &e))
		kit_die("start", &e);
	kit_sleep_us(300000);
	n = kit_progress(&v);
	t = clock_mono_ns();
	end = t + k->seconds * 1000000000ull;
	while (clock_mono_ns() < end) {
		kit_sleep_us(us ? us : 100000);
		if (us && gm_harvest(vm_gm(v.vm), bits))
			kit_die("harvest", NULL);
	}
	speed = (double)(kit_progress(&v) - n) * 1e9 / (double)(clock_mono_ns() - t);
	kit_vm_down(&v);
	free(bits);
	return speed;
}

static double protected_speed(const struct kit *k, const char *cmdline, unsigned us,
			      double *dirty)
{
	struct kit_opts o = {.ram = 128 * MIB,
			     .cmdline = cmdline,
			     .interval_us = us,
			     .min_interval_us = 1000,
			     .inflight = 4,
			     .tap = -1};
	struct primary_stats *st = malloc(sizeof(*st));
	struct kit_pair p;
	double speed;

	if (!st)
		kit_die("memory", NULL);
	kit_pair_up(k, &p, &o);
	kit_sleep_us(300000);
	speed = speed_over(&p.vm, k->seconds);
	primary_stats(p.primary, st);
	*dirty = (double)hist_quantile(&st->dirty_pages, 0.5);
	kit_pair_down(&p, NULL);
	free(st);
	return speed;
}

/* A guest that computes, and writes 1,000 pages an epoch on the way: @compute rounds for each. */
static void bench_progress(struct kit *k, unsigned us, unsigned compute, double target)
{
	double alone[KIT_TURNS_MAX], logged[KIT_TURNS_MAX], prot[KIT_TURNS_MAX],
		dirty[KIT_TURNS_MAX];
	char cmdline[64], name[64];

	(void)snprintf(cmdline, sizeof(cmdline), "mode=dirty dirty=1 set=1000 compute=%u",
		       compute);
	for (unsigned t = 0; t < k->turns; t++) {
		alone[t] = bare_speed(k, cmdline, 0);
		logged[t] = bare_speed(k, cmdline, us);
		prot[t] = protected_speed(k, cmdline, us, &dirty[t]);
	}
	(void)snprintf(name, sizeof(name), "guest's speed, %u ms, to log read",
		       us / 1000);
	kit_row(k, name, "turn/s", spread_of(prot, k->turns), spread_of(logged, k->turns),
		RATIO_AT_LEAST, target);
	(void)snprintf(name, sizeof(name), "  the same, to unprotected");
	kit_row(k, name, "turn/s", spread_of(prot, k->turns), spread_of(alone, k->turns),
		NO_TARGET, 0);
	(void)snprintf(name, sizeof(name), "  pages in each epoch");
	kit_row(k, name, "pages", spread_of(dirty, k->turns), none, NO_TARGET, 0);
}

/* -- requests and answers -- */

enum { HDR = 12, ANSWER_MS = 2000 };

/* One request, and the time until its answer, in ns. */
static uint64_t ask(int fd, uint64_t seq)
{
	uint8_t buf[HDR + 2048] = {0};
	struct gp_frame f = {.ethertype = htons(GP_ETHERTYPE),
			     .magic = GP_MAGIC,
			     .type = GP_PING,
			     .seq = seq};
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	uint64_t t = clock_mono_ns();

	memcpy(buf + HDR, &f, sizeof(f));
	if (write(fd, buf, HDR + sizeof(f)) < 0)
		kit_die("asking the guest", NULL);
	do {
		ssize_t n;

		if (poll(&pfd, 1, ANSWER_MS) <= 0)
			kit_die("the guest does not answer", NULL);
		n = read(fd, buf, sizeof(buf));
		if (n >= (ssize_t)(HDR + sizeof(f)))
			memcpy(&f, buf + HDR, sizeof(f));
	} while (f.type != GP_PONG || f.seq != seq);
	return clock_mono_ns() - t;
}

static void ask_for(int fd, unsigned seconds, struct hist *h)
{
	uint64_t end = clock_mono_ns() + seconds * 1000000000ull;

	for (uint64_t seq = 1; clock_mono_ns() < end; seq++) {
		hist_add(h, ask(fd, seq));
		kit_sleep_us(1000);
	}
}

static void card(int fd[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd))
		kit_die("socketpair", NULL);
}

static const char serve[] = "mode=serve net=1 dirty=150 set=600";

static void ask_bare(const struct kit *k, struct hist *h)
{
	struct kit_vm v;
	struct err e = {0};
	int fd[2];

	card(fd);
	kit_vm_up(k, &v, 128 * MIB, 1, fd[0], serve, NULL);
	if (vm_start(v.vm, &e))
		kit_die("start", &e);
	kit_sleep_us(300000);
	ask_for(fd[1], k->seconds, h);
	kit_vm_down(&v);
	close(fd[1]);
}

static void ask_protected(const struct kit *k, struct hist *h)
{
	struct kit_opts o = {.ram = 128 * MIB,
			     .cmdline = serve,
			     .interval_us = 25000,
			     .min_interval_us = 100,
			     .inflight = 4,
			     .with_net = 1};
	struct primary_stats *st = malloc(sizeof(*st));
	struct kit_pair p;
	int fd[2];

	if (!st)
		kit_die("memory", NULL);
	card(fd);
	o.tap = fd[0];
	kit_pair_up(k, &p, &o);
	kit_sleep_us(300000);
	ask_for(fd[1], k->seconds, h);
	primary_stats(p.primary, st);
	(void)fprintf(
		stderr,
		"  answers: %llu, early epochs %llu of %llu, p50 us: pause %.0f (stop "
		"%.0f machine %.0f memory %.0f output %.0f) send %.0f commit %.0f\n",
		(unsigned long long)h->count, (unsigned long long)st->early_epochs,
		(unsigned long long)st->pause.count, kit_us(&st->pause, 0.5),
		kit_us(&st->stop, 0.5), kit_us(&st->capture_part[0], 0.5),
		kit_us(&st->capture_part[1], 0.5), kit_us(&st->capture_part[2], 0.5),
		kit_us(&st->send, 0.5), kit_us(&st->commit, 0.5));
	kit_pair_down(&p, NULL);
	free(st);
	close(fd[1]);
}

static void bench_answers(struct kit *k)
{
	double a50[KIT_TURNS_MAX], a99[KIT_TURNS_MAX], f50[KIT_TURNS_MAX];
	struct hist *bare, *prot;

	for (unsigned t = 0; t < k->turns; t++) {
		bare = calloc(1, sizeof(*bare));
		prot = calloc(1, sizeof(*prot));
		if (!bare || !prot)
			kit_die("memory", NULL);
		ask_bare(k, bare);
		ask_protected(k, prot);
		f50[t] = kit_us(bare, 0.5);
		a50[t] = kit_us(prot, 0.5) - f50[t];
		a99[t] = kit_us(prot, 0.99) - f50[t];
		free(bare);
		free(prot);
	}
	kit_row(k, "added to an answer, p50", "us", spread_of(a50, k->turns),
		spread_of(f50, k->turns), VALUE_AT_MOST, 500);
	kit_row(k, "added to an answer, p99", "us", spread_of(a99, k->turns),
		spread_of(f50, k->turns), VALUE_AT_MOST, 2000);
}

int main(int argc, char **argv)
{
	const char *only = getenv("RHEA_BENCH_ONLY");
	struct kit k;

	kit_begin(&k, argc, argv);
	if (!only || strstr(only, "pause"))
		bench_pause(&k);
	if (!only || strstr(only, "large"))
		bench_large_guest(&k);
	if (!only || strstr(only, "rate")) {
		bench_rate(&k, 64, 2500);
		bench_rate(&k, 256, 1000);
	}
	if (!only || strstr(only, "speed")) {
		bench_progress(&k, 25000, 6500, 0.97);
		bench_progress(&k, 5000, 1200, 0.90);
	}
	if (!only || strstr(only, "answers"))
		bench_answers(&k);
	return kit_end(&k, argv[2]);
}
