/* SPDX-License-Identifier: Apache-2.0
 * bench_ring - the ways in which KVM tells dirty pages, compared on a bare guest without devices.
 *
 *   log     bitmap with manual protect: read it, protect what it names, in the pause
 *   ring    the dirty ring: take its entries and give them back, which protects them
 *   look    the bitmap is read and nothing is protected: what a guest of hot pages only would see
 *
 * The guest writes one word in each of its pages in turn and computes in between. Figures: what
 * the pause costs, in a small and a large guest, and how fast the guest is compared with one that
 * nobody watches.
 *
 *   bench_ring GUEST.elf OUT.json [SECONDS a turn] [TURNS]
 */
#include "tests/bench/kit.h"

#include "hv/base/clock.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 1000, RING = 4096, SPIN = 2000 };
enum { CODE = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000, COUNT = 0xf000 };
#define DATA 0x1000000u
#define GIB  (UINT64_C(1) << 30)

enum how { NOTHING, LOG, DIRTY_RING, LOOK };

struct bare {
	int vm, vcpu;
	enum how how;
	uint64_t ram;
	uint8_t *mem;
	struct kvm_run *run;
	size_t run_size;
	uint64_t *map;
	struct kvm_dirty_gfn *ring;
	uint32_t next; /* entry of the ring to take */
};

static int must(int r, const char *what)
{
	if (r < 0)
		kit_die(what, NULL);
	return r;
}

static void *map_or_die(size_t len, int flags, int fd, off_t at)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, at);

	if (p == MAP_FAILED)
		kit_die("mmap", NULL);
	return p;
}

/* Before any vCPU is there. */
static void choose_log(struct bare *b)
{
	struct kvm_enable_cap manual = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
	struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING,
				      .args = {RING * sizeof(struct kvm_dirty_gfn)}};

	if (b->how == DIRTY_RING)
		must(ioctl(b->vm, KVM_ENABLE_CAP, &ring), "this KVM has no dirty ring");
	else
		must(ioctl(b->vm, KVM_ENABLE_CAP, &manual), "manual protect");
}

/* Pages of 2 MiB, all of the first 512 MiB, for ring 3. */
static void page_tables(uint8_t *mem)
{
	uint64_t *pd = (uint64_t *)(void *)(mem + PD);

	*(uint64_t *)(void *)(mem + PML4) = PDPT | 7;
	*(uint64_t *)(void *)(mem + PDPT) = PD | 7;
	for (uint64_t i = 0; i < 256; i++)
		pd[i] = i << 21 | 0xe7;
}

/* for (;;) for (rdi = DATA, rcx = PAGES; rcx; rdi += 4096, rcx--) {
 *	++*rdi; ++*COUNT; for (edx = SPIN; edx; edx--) ; } */
static void program(uint8_t *p)
{
	static const uint8_t code[] = {
		0xb9, 0,    0,	  0,	0,	    /* mov $PAGES, %ecx */
		0xbf, 0,    0,	  0,	0,	    /* mov $DATA, %edi */
		0x48, 0xff, 0x07,		    /* next: incq (%rdi) */
		0x48, 0xff, 0x04, 0x25, 0, 0, 0, 0, /* incq COUNT */
		0xba, 0,    0,	  0,	0,	    /* mov $SPIN, %edx */
		0xff, 0xca, 0x75, 0xfc,		    /* dec %edx; jnz -4 */
		0x81, 0xc7, 0,	  0x10, 0, 0,	    /* add $4096, %edi */
		0xff, 0xc9, 0x75, 0xe2,		    /* dec %ecx; jnz next */
		0xeb, 0xd6,			    /* jmp start */
	};
	uint32_t v;

	memcpy(p, code, sizeof(code));
	memcpy(p + 1, (v = PAGES, &v), 4);
	memcpy(p + 6, (v = DATA, &v), 4);
	memcpy(p + 17, (v = COUNT, &v), 4);
	memcpy(p + 22, (v = SPIN, &v), 4);
}

static void registers(int vcpu)
{
	struct kvm_segment cs = {.limit = 0xffffffff,
				 .selector = 0x33,
				 .type = 11,
				 .present = 1,
				 .dpl = 3,
				 .s = 1,
				 .l = 1,
				 .g = 1};
	struct kvm_segment ds = cs;
	struct kvm_regs regs = {.rip = CODE, .rflags = 0x3002, .rsp = 0x8000};
	struct kvm_sregs s;

	must(ioctl(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cr3 = PML4;
	s.cr4 = 0x620;
	s.cr0 = 0x80050033;
	s.efer = 0x500;
	ds.type = 3;
	ds.selector = 0x2b;
	ds.l = 0;
	s.cs = cs;
	s.ds = s.es = s.fs = s.gs = s.ss = ds;
	must(ioctl(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void make_vcpu(const struct kit *k, struct bare *b)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *cpuid = calloc(1, sizeof(*cpuid));

	if (!cpuid)
		kit_die("memory", NULL);
	cpuid->head.nent = 256;
	b->vcpu = must(ioctl(b->vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	b->run_size = (size_t)must(ioctl(k->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), "size");
	b->run = map_or_die(b->run_size, MAP_SHARED, b->vcpu, 0);
	must(ioctl(k->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid), "CPUID");
	must(ioctl(b->vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
	free(cpuid);
	if (b->how == DIRTY_RING)
		b->ring = map_or_die(RING * sizeof(*b->ring), MAP_SHARED, b->vcpu,
				     KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
	registers(b->vcpu);
}

static void bare_up(const struct kit *k, struct bare *b, enum how how, uint64_t ram)
{
	struct kvm_userspace_memory_region r = {
		.flags = how == NOTHING ? 0 : KVM_MEM_LOG_DIRTY_PAGES,
		.memory_size = ram};

	*b = (struct bare){.how = how, .ram = ram};
	b->vm = must(ioctl(k->kvm_fd, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	choose_log(b);
	b->mem = map_or_die(ram, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	b->map = map_or_die(ram / PAGE / 8, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page_tables(b->mem);
	program(b->mem + CODE);
	r.userspace_addr = (uintptr_t)b->mem;
	must(ioctl(b->vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
	must(ioctl(b->vm, KVM_SET_USER_MEMORY_REGION, &r), "memory");
	make_vcpu(k, b);
}

static void bare_down(struct bare *b)
{
	if (b->ring)
		munmap(b->ring, RING * sizeof(*b->ring));
	munmap(b->run, b->run_size);
	close(b->vcpu);
	close(b->vm);
	munmap(b->mem, b->ram);
	munmap(b->map, b->ram / PAGE / 8);
}

static unsigned take_log(struct bare *b)
{
	struct kvm_dirty_log get = {.dirty_bitmap = b->map};
	struct kvm_clear_dirty_log clear = {.num_pages = (uint32_t)(b->ram / PAGE),
					    .dirty_bitmap = b->map};
	unsigned n = 0;

	must(ioctl(b->vm, KVM_GET_DIRTY_LOG, &get), "KVM_GET_DIRTY_LOG");
	for (uint64_t w = 0; w < b->ram / PAGE / 64; w++)
		if (b->map[w])
			n += (unsigned)__builtin_popcountll(b->map[w]);
	if (b->how == LOG)
		must(ioctl(b->vm, KVM_CLEAR_DIRTY_LOG, &clear), "KVM_CLEAR_DIRTY_LOG");
	return n;
}

static unsigned take_ring(struct bare *b)
{
	struct kvm_dirty_gfn *e;
	unsigned n = 0;

	for (;; n++) {
		e = &b->ring[b->next % RING];
		if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		b->next++;
	}
	must(ioctl(b->vm, KVM_RESET_DIRTY_RINGS, 0), "KVM_RESET_DIRTY_RINGS");
	return n;
}

static void on_alarm(int sig)
{
}

/* Let the guest run for so long. A full ring ends it early, and that would be seen in its speed. */
static void run_for(struct bare *b, timer_t timer, unsigned us)
{
	struct itimerspec t = {.it_value.tv_nsec = (long)us * 1000};
	int r;

	must(timer_settime(timer, 0, &t, NULL), "timer_settime");
	do
		r = ioctl(b->vcpu, KVM_RUN, 0);
	while (!r && b->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL && take_ring(b));
	if (!r || errno != EINTR)
		kit_die("the bare guest ended", NULL);
}

struct seen {
	double us, speed,
		pages; /* of a pause, p50; of the guest, steps a second; of a pause */
};

static struct seen measure(const struct kit *k, enum how how, uint64_t ram, unsigned us)
{
	struct sigevent sev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	struct hist *h = calloc(1, sizeof(*h));
	uint64_t end, t0, n = 0, first, start;
	const volatile uint64_t *count;
	struct seen s = {0};
	struct bare b;
	timer_t timer;

	if (!h)
		kit_die("memory", NULL);
	bare_up(k, &b, how, ram);
	must(timer_create(CLOCK_MONOTONIC, &sev, &timer), "timer_create");
	count = (const volatile uint64_t *)(void *)(b.mem + COUNT);
	run_for(&b, timer, 100000); /* every page is there */
	first = *count;
	start = clock_mono_ns();
	end = start + k->seconds * UINT64_C(1000000000) / 2;
	while (clock_mono_ns() < end) {
		run_for(&b, timer, us);
		t0 = clock_mono_ns();
		if (how != NOTHING)
			n += how == DIRTY_RING ? take_ring(&b) : take_log(&b);
		hist_add(h, clock_mono_ns() - t0);
	}
	s.us = kit_us(h, 0.5);
	s.pages = (double)n / (double)h->count;
	s.speed = (double)(*count - first) / ((double)(clock_mono_ns() - start) / 1e9);
	must(timer_delete(timer), "timer_delete");
	bare_down(&b);
	free(h);
	return s;
}

static const char *const how_name[] = {"nothing", "log", "ring", "look"};

static void bench_way(struct kit *k, enum how how)
{
	double small[KIT_TURNS_MAX], large[KIT_TURNS_MAX], slow[KIT_TURNS_MAX],
		fast[KIT_TURNS_MAX], free_[KIT_TURNS_MAX];
	char name[64];
	struct seen s = {0};

	for (unsigned t = 0; t < k->turns; t++) {
		free_[t] = measure(k, NOTHING, GIB / 2, 25000).speed;
		s = measure(k, how, GIB / 2, 25000);
		small[t] = s.us;
		slow[t] = s.speed;
		fast[t] = measure(k, how, GIB / 2, 5000).speed;
		large[t] = measure(k, how, 16 * GIB, 25000).us;
	}
	(void)fprintf(stderr, "  %s: %.0f pages a pause\n", how_name[how], s.pages);
	(void)snprintf(name, sizeof(name), "dirty pages by %s, 16 GiB to 512 MiB",
		       how_name[how]);
	kit_row(k, name, "us", spread_of(large, k->turns), spread_of(small, k->turns),
		NO_TARGET, 0);
	(void)snprintf(name, sizeof(name), "guest's speed, %s, 25 ms", how_name[how]);
	kit_row(k, name, "steps/s", spread_of(slow, k->turns), spread_of(free_, k->turns),
		NO_TARGET, 0);
	(void)snprintf(name, sizeof(name), "guest's speed, %s, 5 ms", how_name[how]);
	kit_row(k, name, "steps/s", spread_of(fast, k->turns), spread_of(free_, k->turns),
		NO_TARGET, 0);
}

int main(int argc, char **argv)
{
	const char *only = getenv("RHEA_BENCH_ONLY");
	struct sigaction sa = {.sa_handler = on_alarm};
	struct kit k;

	kit_begin(&k, argc, argv);
	must(sigaction(SIGALRM, &sa, NULL), "sigaction");
	for (int how = LOG; how <= LOOK && (!only || strstr(only, "ring")); how++)
		bench_way(&k, (enum how)how);
	return kit_end(&k, argv[2]);
}
