/* SPDX-License-Identifier: Apache-2.0
 * test_guest - the ring-3 guest under the real hypervisor: does it count, answer, go on after
 * a move, and above all: does it notice when it is not itself any more?
 *
 *   B=build/out test_guest
 */
#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/devices.h"
#include "hv/gm.h"
#include "hv/vm.h"
#include "tests/guest/memory.h"
#include "tests/guest/proto.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RAM = 32 << 20, DISK = 1 << 20, HEADER = 12, PATIENCE_MS = 30000, DIRTY = 64 };

/* One VM. The other end of its "tap" is ours: a socket that keeps frames apart. */
struct machine {
	struct loop *loop;
	struct vm *vm;
	pthread_t io;
	int wire;
	atomic_int said_fail; /* on the serial port */
};

static int kvm_fd, guest_fd, disk_fd;

__attribute__((noreturn)) static void die(const char *what, const char *why)
{
	(void)fprintf(stderr, "test_guest: %s: %s\n", what, why);
	exit(1);
}

static void expect(int truth, const char *what)
{
	if (!truth)
		die("not so", what);
}

static void *io_main(void *arg)
{
	(void)loop_run(arg); /* ends by loop_stop */
	return NULL;
}

static void on_event(void *arg, enum vm_event ev, const char *text)
{
	die("the guest ended", text ? text : "without a word");
}

static void on_serial(void *self, const void *p, size_t len)
{
	struct machine *m = self;

	if (memchr(p, 'F', len)) /* of FAIL: nothing else it says has one */
		atomic_store(&m->said_fail, 1);
}

static void devices(struct machine *m)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 7};
	const struct con_out serial_out = {.bytes = on_serial, .self = m};
	struct serial *serial;
	struct vnet *net;
	struct vblk *disk;
	struct blk image;
	struct err e = {0};
	int wire[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, wire))
		die("socketpair", strerror(errno));
	m->wire = wire[1];
	if (serial_create(m->vm, &serial_out, &serial, &e) ||
	    vnet_create(m->vm, wire[0], mac, &net, &e) ||
	    raw_open(dup(disk_fd), m->loop, &image, &e) ||
	    vblk_create(m->vm, image, "guest-test", 0, &disk, &e))
		die("devices", e.msg);
}

static struct machine *machine_make(void)
{
	struct vm_config cfg = {.name = "guest",
				.ram_bytes = RAM,
				.vcpus = 1,
				.cpu = "host",
				.kvm_fd = kvm_fd};
	struct machine *m = calloc(1, sizeof(*m));
	struct err e = {0};

	if (!m || loop_create(&m->loop, &e))
		die("loop", e.msg);
	cfg.loop = m->loop;
	if (vm_create(&cfg, &m->vm, &e))
		die("vm", e.msg);
	vm_on_event(m->vm, on_event, NULL);
	devices(m);
	return m;
}

static void machine_run(struct machine *m)
{
	struct err e = {0};

	if (pthread_create(&m->io, NULL, io_main, m->loop) || vm_start(m->vm, &e))
		die("start", e.msg);
}

static struct machine *machine_boot(const char *cmdline)
{
	struct vm_kernel k = {.kernel_fd = guest_fd, .initrd_fd = -1, .cmdline = cmdline};
	struct machine *m = machine_make();
	struct err e = {0};

	if (vm_boot(m->vm, &k, &e))
		die("boot", e.msg);
	machine_run(m);
	return m;
}

static void machine_end(struct machine *m)
{
	loop_stop(m->loop);
	(void)pthread_join(m->io, NULL); /* it is there */
	vm_destroy(m->vm);
	loop_destroy(m->loop);
	(void)close(m->wire); /* ours alone */
	free(m);
}

/* The next frame of the guest. */
static struct gp_frame frame_next(struct machine *m)
{
	struct pollfd p = {.fd = m->wire, .events = POLLIN};
	uint8_t b[2048];
	struct gp_frame f;
	ssize_t n;

	if (poll(&p, 1, PATIENCE_MS) != 1)
		die("the guest", "says nothing any more");
	n = recv(m->wire, b, sizeof(b), 0);
	expect(n == HEADER + (ssize_t)sizeof(f), "a frame has its length");
	memcpy(&f, b + HEADER, sizeof(f));
	expect(ntohs(f.ethertype) == GP_ETHERTYPE && f.magic == GP_MAGIC,
	       "a frame of ours");
	f.text[sizeof(f.text) - 1] = 0;
	return f;
}

/* A turn; anything else is a failure. */
static struct gp_frame count_next(struct machine *m)
{
	struct gp_frame f = frame_next(m);

	if (f.type == GP_FAIL)
		die("the guest", f.text);
	expect(f.type == GP_COUNT, "a turn");
	expect(f.mem_n == f.n && f.disk_n == f.n, "memory and disk agree with the count");
	return f;
}

static void wait_for_fail(struct machine *m, const char *why)
{
	struct gp_frame f;

	do
		f = frame_next(m);
	while (f.type == GP_COUNT);
	expect(f.type == GP_FAIL, "FAIL follows");
	if (strcmp(f.text, why) != 0)
		die("another failure", f.text);
	expect(atomic_load(&m->said_fail), "FAIL on the serial port too");
}

#define CMDLINE "mode=counter dirty=64 net=1 disk=1 flush=16"

static void test_counts(void)
{
	struct machine *m = machine_boot(CMDLINE);
	struct gp_frame f, first = count_next(m);

	expect(first.n == 1 && first.boot_id, "turns are counted from 1");
	for (uint64_t n = 2; n < 400; n++) {
		f = count_next(m);
		expect(f.n == n, "each turn is said once, in order");
		expect(f.boot_id == first.boot_id, "one boot, one id");
	}
	expect(*(volatile uint64_t *)gm_at(vm_gm(m->vm), GP_PROGRESS_GPA, 8) >= 398,
	       "progress can be read from outside");
	machine_end(m);
}

static void test_answers(void)
{
	static const uint8_t guest_mac[6] = {2, 0, 0, 0, 0, 7},
			     our_mac[6] = {2, 0, 0, 0, 0, 9};
	struct machine *m = machine_boot("mode=counter dirty=4 net=1 disk=1 pace=2000");
	struct gp_frame ping = {
		.ethertype = htons(GP_ETHERTYPE), .magic = GP_MAGIC, .type = GP_PING};
	uint8_t b[HEADER + sizeof(ping)] = {0};
	struct gp_frame f = count_next(m);
	uint64_t last = f.n;

	memcpy(ping.dst, guest_mac, 6);
	memcpy(ping.src, our_mac, 6);
	for (ping.seq = 1000; ping.seq < 1200; ping.seq++) {
		memcpy(b + HEADER, &ping, sizeof(ping));
		expect(send(m->wire, b, sizeof(b), 0) == sizeof(b), "a ping goes in");
		while ((f = frame_next(m)).type == GP_COUNT)
			last = f.n;
		expect(f.type == GP_PONG && f.seq == ping.seq, "its own answer comes");
		expect(!memcmp(f.dst, our_mac, 6) && !memcmp(f.src, guest_mac, 6),
		       "from the guest to who asked");
		expect(f.n == last, "with the last count that was said");
	}
	machine_end(m);
}

/* Machines that are made from now on have a disk of their own, which holds what it holds now. */
static void disk_copy(void)
{
	static uint8_t all[DISK];
	int copy = memfd_create("disk", MFD_CLOEXEC);

	if (copy < 0 || pread(disk_fd, all, DISK, 0) != DISK ||
	    pwrite(copy, all, DISK, 0) != DISK)
		die("copying the disk", strerror(errno));
	(void)close(disk_fd); /* who uses it has a descriptor of its own */
	disk_fd = copy;
}

/* The state goes to a second VM in the middle of things, again and again; the count goes on. The first one runs on for a
 * moment before it ends, and no longer matters. */
static void test_moves(void)
{
	struct machine *m = machine_boot(CMDLINE " set=256"), *next;
	struct gp_frame f = count_next(m);
	uint64_t n = f.n, boot_id = f.boot_id;
	struct buf state = {0};
	struct err e = {0};

	for (int i = 0; i < 25; i++) {
		for (int k = 0; k < 7 * i; k++) {
			f = count_next(m);
			expect(f.n == ++n && f.boot_id == boot_id, "the count goes on");
		}
		buf_reset(&state);
		expect(!vm_pause(m->vm) && !vm_save(m->vm, &state), "pause and save");
		disk_copy();
		next = machine_make();
		memcpy(gm_base(vm_gm(next->vm)), gm_base(vm_gm(m->vm)), RAM);
		/* What the old one has said already stays said. */
		while (recv(m->wire, &f, 0, MSG_PEEK | MSG_DONTWAIT) >= 0) {
			f = count_next(m);
			expect(f.n == ++n, "the count goes on until the move");
		}
		vm_resume(m->vm);
		machine_end(m);
		if (vm_load(next->vm, state.data, state.len, &e))
			die("load", e.msg);
		machine_run(next);
		m = next;
	}
	buf_fini(&state);
	machine_end(m);
}

/* Changes one byte of a page that the guest has written, and of nothing else. */
static void test_notices_memory(void)
{
	struct machine *m = machine_boot("mode=counter dirty=8 set=800 net=1 disk=1");
	struct gp_frame f;

	do
		f = count_next(m);
	while (f.n < 150);
	expect(!vm_pause(m->vm), "pause");
	gm_base(vm_gm(m->vm))[MEMORY_AT + 700 * 4096 + 3001] ^= 1;
	vm_resume(m->vm);
	wait_for_fail(m, "memory: a page is torn");
	machine_end(m);
}

static void test_notices_old_page(void)
{
	struct machine *m = machine_boot("mode=counter dirty=64 net=1 disk=1");
	uint8_t *page = gm_base(vm_gm(m->vm)) + MEMORY_AT, old[4096];
	struct gp_frame f = count_next(m);

	expect(!vm_pause(m->vm), "pause");
	memcpy(old, page, sizeof(old));
	vm_resume(m->vm);
	for (int i = 0; i < 20; i++)
		f = count_next(m);
	expect(f.n >= 21 && !vm_pause(m->vm), "pause");
	memcpy(page, old, sizeof(old));
	vm_resume(m->vm);
	wait_for_fail(m, "memory: a page is of another turn");
	machine_end(m);
}

/* All blocks but the header change behind its back. */
static void test_notices_disk(void)
{
	struct machine *m = machine_boot(CMDLINE);
	static uint64_t junk[DISK / 8 - 512];
	struct gp_frame f;

	do
		f = count_next(m);
	while (f.n < 260);
	expect(!vm_pause(m->vm), "pause");
	expect(pwrite(disk_fd, junk, sizeof(junk), 4096) == sizeof(junk),
	       "harm the disk");
	vm_resume(m->vm);
	wait_for_fail(m, "disk: a block is torn");
	machine_end(m);
}

static void test_dirties(void)
{
	enum { WORDS = RAM / 4096 / 64 };
	struct machine *m = machine_boot("mode=dirty dirty=500 set=2000");
	volatile uint64_t *turns = gm_at(vm_gm(m->vm), GP_PROGRESS_GPA, 8);
	static uint64_t bitmap[WORDS];
	uint64_t before, pages = 0;
	struct err e = {0};

	expect(!gm_log(vm_gm(m->vm), 1, &e), "the log is on");
	before = *turns;
	while (*turns < before + 100)
		(void)poll(NULL, 0, 1); /* nothing to wait on but memory */
	expect(!gm_harvest(vm_gm(m->vm), bitmap), "harvest");
	for (unsigned i = 0; i < WORDS; i++)
		pages += (unsigned)__builtin_popcountll(bitmap[i]);
	for (uint64_t p = MEMORY_AT / 4096; p < MEMORY_AT / 4096 + 2000; p++)
		expect(bitmap[p / 64] >> p % 64 & 1, "each page of the set is dirty");
	expect(pages < 2000 + 16, "and hardly any other");
	machine_end(m);
}

static const struct {
	const char *name;
	void (*fn)(void);
} tests[] = {
	{"counts", test_counts},
	{"answers pings", test_answers},
	{"goes on after moves", test_moves},
	{"notices a changed byte in memory", test_notices_memory},
	{"notices a page of another turn", test_notices_old_page},
	{"notices a changed disk", test_notices_disk},
	{"dirties pages", test_dirties},
};

int main(void)
{
	const char *b = getenv("B");
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/tests/guest/guest.elf",
		       b ? b : "build/out");
	(void)setvbuf(stdout, NULL, _IOLBF, 0); /* without it lines only come late */
	log_init("test_guest", NULL, LOG_LVL_WARN);
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	guest_fd = open(path, O_RDONLY | O_CLOEXEC);
	disk_fd = memfd_create("disk", MFD_CLOEXEC);
	if (kvm_fd < 0 || guest_fd < 0 || disk_fd < 0 || ftruncate(disk_fd, DISK))
		die("/dev/kvm, the guest or its disk", strerror(errno));
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		tests[i].fn();
		printf("ok %s\n", tests[i].name);
	}
	return 0;
}
