/* SPDX-License-Identifier: Apache-2.0
 * test_vm - a tiny guest on /dev/kvm: run, stop, save, go on in another VM, reboot, die.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/bus.h"
#include "hv/gm.h"
#include "hv/layout.h"
#include "hv/state.h"
#include "hv/vm.h"
#include "tests/unit/tinyguest.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SLOT_SHIFT = 2, READ_BACK = 0x20, PORTS = 0x40 };

/* The device that the guest counts with, and the VM around it. */
struct counter {
	uint32_t seq[VM_VCPUS_MAX];
};
struct rig {
	struct loop *loop;
	struct vm *vm;
	struct counter c;
	unsigned bad, loaded; /* wrong numbers seen; calls of loaded() */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int events;
	enum vm_event ev;
	char text[160];
};

static int kvm_fd = -1, image_fd = -1;

static void count_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct rig *g = self;

	memset(data, 0, len);
	if (off >= READ_BACK && off < READ_BACK + 4 * VM_VCPUS_MAX)
		memcpy(data, &g->c.seq[(off - READ_BACK) >> SLOT_SHIFT], 4);
}

static void count_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct rig *g = self;
	uint32_t v;

	memcpy(&v, data, sizeof(v));
	pthread_mutex_lock(&g->lock);
	if (off >= 4 * VM_VCPUS_MAX || v != g->c.seq[off >> SLOT_SHIFT] + 1)
		g->bad++;
	if (off < 4 * VM_VCPUS_MAX)
		g->c.seq[off >> SLOT_SHIFT] = v;
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
}

static void fail_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct rig *g = self;

	pthread_mutex_lock(&g->lock);
	g->bad++;
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
}

static const struct bus_ops count_bus = {.read = count_read, .write = count_write};
static const struct bus_ops fail_bus = {.read = count_read, .write = fail_write};

static const struct state_field counter_fields[] = {
	STATE_INTS(1, 1, struct counter, seq),
	STATE_END,
};
static const struct state_table counter_table = {"counter", 1, counter_fields};

static int dev_save(void *self, struct buf *b)
{
	struct rig *g = self;

	return state_save(b, &counter_table, 0, &g->c);
}

static int dev_load(void *self, struct reader *r, struct err *err)
{
	struct rig *g = self;

	return state_load(r, &counter_table, 0, &g->c, err);
}

static void dev_loaded(void *self)
{
	struct rig *g = self;

	g->loaded++;
}

static void dev_reset(void *self)
{
	struct rig *g = self;

	memset(&g->c, 0, sizeof(g->c));
}

static void dev_destroy(void *self)
{
	struct rig *g = self;

	g->loaded = 0;
}

static const struct vm_device_ops dev_ops = {.name = "counter",
					     .save = dev_save,
					     .load = dev_load,
					     .loaded = dev_loaded,
					     .reset = dev_reset,
					     .destroy = dev_destroy};

static void on_event(void *arg, enum vm_event ev, const char *text)
{
	struct rig *g = arg;

	pthread_mutex_lock(&g->lock);
	g->events++;
	g->ev = ev;
	(void)snprintf(g->text, sizeof(g->text), "%s", text);
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
}

static void *loop_main(void *arg)
{
	struct rig *g = arg;

	return loop_run(g->loop) ? g : NULL;
}

/* Until each of @n CPUs counted @more further. */
static void wait_counts(struct rig *g, unsigned n, uint32_t more)
{
	uint32_t goal[VM_VCPUS_MAX];

	pthread_mutex_lock(&g->lock);
	for (unsigned i = 0; i < n; i++)
		goal[i] = g->c.seq[i] + more;
	for (unsigned i = 0; i < n && !g->bad; i++)
		while (g->c.seq[i] < goal[i] && !g->bad)
			pthread_cond_wait(&g->cond, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

static enum vm_event wait_event(struct rig *g)
{
	enum vm_event ev;

	pthread_mutex_lock(&g->lock);
	while (!g->events)
		pthread_cond_wait(&g->cond, &g->lock);
	g->events = 0;
	ev = g->ev;
	pthread_mutex_unlock(&g->lock);
	return ev;
}

static struct vm_kernel kernel(void)
{
	return (struct vm_kernel){
		.kernel_fd = image_fd, .initrd_fd = -1, .cmdline = "tiny"};
}

/* A VM with the counting device and a running I/O thread; not booted. */
static void rig_init(struct rig *g, unsigned vcpus)
{
	struct vm_config cfg = {.name = "tiny",
				.ram_bytes = TG_RAM,
				.vcpus = vcpus,
				.cpu = "host",
				.kvm_fd = kvm_fd};
	struct err err = {0};

	memset(g, 0, sizeof(*g));
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->cond, NULL);
	CU_ASSERT_FATAL(!loop_create(&g->loop, &err));
	cfg.loop = g->loop;
	if (vm_create(&cfg, &g->vm, &err))
		(void)fprintf(stderr, "%s\n", err.msg);
	CU_ASSERT_PTR_NOT_NULL_FATAL(g->vm);
	vm_on_event(g->vm, on_event, g);
	CU_ASSERT_FATAL(!bus_add(vm_pio(g->vm), TG_PORT, PORTS, &count_bus, g));
	CU_ASSERT_FATAL(!bus_add(vm_pio(g->vm), TG_PORT_FAIL, 4, &fail_bus, g));
	CU_ASSERT_FATAL(!vm_add_device(g->vm, &dev_ops, g, 0, &err));
	CU_ASSERT_FATAL(!pthread_create(&g->thread, NULL, loop_main, g));
}

static void rig_fini(struct rig *g)
{
	loop_stop(g->loop);
	pthread_join(g->thread, NULL);
	vm_destroy(g->vm);
	loop_destroy(g->loop);
	pthread_cond_destroy(&g->cond);
	pthread_mutex_destroy(&g->lock);
}

static void rig_boot(struct rig *g, unsigned vcpus)
{
	struct vm_kernel k = kernel();
	struct err err = {0};

	if (vm_boot(g->vm, &k, &err))
		(void)fprintf(stderr, "%s\n", err.msg);
	CU_ASSERT_FATAL(err.code == 0);
	CU_ASSERT_FATAL(!tg_prepare(vm_gm(g->vm), vcpus));
}

static void rig_start(struct rig *g, unsigned vcpus)
{
	struct err err = {0};

	rig_boot(g, vcpus);
	CU_ASSERT_FATAL(!vm_start(g->vm, &err));
}

static uint32_t counter_of(struct rig *g, unsigned cpu)
{
	uint32_t v = 0;

	CU_ASSERT(!gm_read(vm_gm(g->vm), TG_COUNTERS + cpu * 4096ull, &v, sizeof(v)));
	return v;
}

/* Stopped: the guest's number is the device's, or the one that it is about to write. */
static void check_in_step(struct rig *g, unsigned vcpus)
{
	CU_ASSERT(g->bad == 0);
	for (unsigned i = 0; i < vcpus; i++) {
		uint32_t d = counter_of(g, i) - g->c.seq[i];

		CU_ASSERT(d <= 1);
	}
}

static void pause_many(unsigned vcpus, unsigned rounds)
{
	struct rig g;

	rig_init(&g, vcpus);
	rig_start(&g, vcpus);
	for (unsigned i = 0; i < rounds; i++) {
		wait_counts(&g, vcpus, 1 + i % 3);
		CU_ASSERT_FATAL(!vm_pause(g.vm));
		check_in_step(&g, vcpus);
		vm_resume(g.vm);
	}
	wait_counts(&g, vcpus, 10);
	rig_fini(&g);
}

static void test_pause_one(void)
{
	pause_many(1, 1000);
}

static void test_pause_smp(void)
{
	for (unsigned n = 2; n <= VM_VCPUS_MAX; n++)
		pause_many(n, 60);
}

/* No count comes between two pauses: a second stop is not mistaken for the first. */
static void test_pause_back_to_back(void)
{
	struct rig g;

	rig_init(&g, 2);
	rig_start(&g, 2);
	wait_counts(&g, 2, 5);
	for (unsigned i = 0; i < 1000; i++) {
		CU_ASSERT_FATAL(!vm_pause(g.vm));
		vm_resume(g.vm);
	}
	wait_counts(&g, 2, 5);
	CU_ASSERT(g.bad == 0);
	rig_fini(&g);
}

/* CPUs that wait for their SIPI, and CPUs that halt, must leave KVM_RUN as well. */
static void test_pause_idle(void)
{
	const uint32_t halt = 1;
	struct rig g;

	rig_init(&g, 4);
	rig_start(&g, 1); /* CPU 0 starts nobody */
	for (unsigned i = 0; i < 50; i++) {
		wait_counts(&g, 1, 2);
		CU_ASSERT_FATAL(!vm_pause(g.vm));
		vm_resume(g.vm);
	}
	rig_fini(&g);

	rig_init(&g, 4);
	rig_boot(&g, 4);
	CU_ASSERT_FATAL(!gm_write(vm_gm(g.vm), TG_HALT, &halt, sizeof(halt)));
	CU_ASSERT_FATAL(!vm_start(g.vm, &(struct err){0}));
	for (unsigned i = 0; i < 50; i++) {
		wait_counts(&g, 1, 2);
		CU_ASSERT_FATAL(!vm_pause(g.vm));
		vm_resume(g.vm);
	}
	rig_fini(&g);
}

/* Save @from (paused) and load into @to, memory included. */
static void move(struct rig *from, struct rig *to)
{
	struct buf b = {0};
	struct err err = {0};

	CU_ASSERT_FATAL(!vm_save(from->vm, &b));
	memcpy(gm_base(vm_gm(to->vm)), gm_base(vm_gm(from->vm)), TG_RAM);
	if (vm_load(to->vm, b.data, b.len, &err))
		(void)fprintf(stderr, "%s\n", err.msg);
	CU_ASSERT_FATAL(err.code == 0);
	CU_ASSERT(to->loaded == 1);
	buf_fini(&b);
}

/* From VM to VM, several times: no count is lost, none comes twice. */
static void test_move(void)
{
	for (unsigned n = 1; n <= VM_VCPUS_MAX; n++) {
		struct rig g[2];

		rig_init(&g[0], n);
		rig_start(&g[0], n);
		for (unsigned i = 0; i < 10; i++) {
			struct rig *from = &g[i % 2], *to = &g[(i + 1) % 2];

			wait_counts(from, n, 20);
			rig_init(to, n);
			CU_ASSERT_FATAL(!vm_pause(from->vm));
			check_in_step(from, n);
			move(from, to);
			vm_resume(from->vm);
			rig_fini(from);
			CU_ASSERT_FATAL(!vm_start(to->vm, &(struct err){0}));
			wait_counts(to, n, 5);
			CU_ASSERT(to->bad == 0);
		}
		rig_fini(&g[0]);
	}
}

/* A VM that runs can take an older state of itself. */
static void test_load_paused(void)
{
	struct buf b = {0};
	struct err err = {0};
	struct rig g;
	uint8_t *ram = malloc(TG_RAM);
	uint32_t then;

	CU_ASSERT_PTR_NOT_NULL_FATAL(ram);
	rig_init(&g, 2);
	rig_start(&g, 2);
	wait_counts(&g, 2, 20);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	CU_ASSERT_FATAL(!vm_save(g.vm, &b));
	memcpy(ram, gm_base(vm_gm(g.vm)), TG_RAM);
	then = counter_of(&g, 0);
	vm_resume(g.vm);
	wait_counts(&g, 2, 20);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	CU_ASSERT(counter_of(&g, 0) > then);
	memcpy(gm_base(vm_gm(g.vm)), ram, TG_RAM);
	CU_ASSERT_FATAL(!vm_load(g.vm, b.data, b.len, &err));
	CU_ASSERT(counter_of(&g, 0) == then);
	vm_resume(g.vm);
	wait_counts(&g, 2, 20);
	CU_ASSERT(g.bad == 0);
	rig_fini(&g);
	buf_fini(&b);
	free(ram);
}

/* Nothing that is not exactly a state is taken for one, and nothing crashes. */
static void test_load_damaged(void)
{
	struct buf b = {0};
	struct err err = {0};
	struct rig g, h;

	rig_init(&g, 1);
	rig_start(&g, 1);
	wait_counts(&g, 1, 3);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	CU_ASSERT_FATAL(!vm_save(g.vm, &b));
	vm_resume(g.vm);
	rig_init(&h, 1);
	CU_ASSERT(!vm_check(h.vm, b.data, b.len, &err));
	CU_ASSERT(h.loaded == 0);
	CU_ASSERT(vm_check(h.vm, b.data, b.len - 1, &err) == -EBADMSG);
	for (size_t len = 0; len < b.len; len += 1 + len / 7)
		CU_ASSERT(vm_load(h.vm, b.data, len, &err) == -EBADMSG);
	for (size_t i = 0; i < b.len; i += 97) {
		b.data[i] ^= 0x10;
		CU_ASSERT(vm_load(h.vm, b.data, b.len, &err) == -EBADMSG);
		b.data[i] ^= 0x10;
	}
	rig_fini(&h);
	rig_init(&h, 2);
	CU_ASSERT(vm_check(h.vm, b.data, b.len, &err) == -EBADMSG);
	CU_ASSERT(vm_load(h.vm, b.data, b.len, &err) == -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "vCPUs"));
	rig_fini(&h);
	rig_fini(&g);
	buf_fini(&b);
}

/* The pages that the guest wrote, and those that we wrote for it, and no others. */
static void test_dirty(void)
{
	uint64_t bits[TG_RAM / 4096 / 64];
	const uint64_t counter = TG_COUNTERS / 4096, ours = 0x500000 / 4096;
	struct err err = {0};
	struct rig g;

	rig_init(&g, 1);
	rig_start(&g, 1);
	wait_counts(&g, 1, 3);
	CU_ASSERT_FATAL(!gm_log(vm_gm(g.vm), 1, &err));
	wait_counts(&g, 1, 3);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	gm_mark(vm_gm(g.vm), 0x500000, 1);
	memset(bits, 0, sizeof(bits));
	CU_ASSERT_FATAL(!gm_harvest(vm_gm(g.vm), bits));
	CU_ASSERT(bits[counter / 64] >> (counter % 64) & 1);
	CU_ASSERT(bits[ours / 64] >> (ours % 64) & 1);
	CU_ASSERT(!(bits[(ours + 64) / 64] >> (ours % 64) & 1));
	memset(bits, 0, sizeof(bits));
	CU_ASSERT_FATAL(!gm_harvest(vm_gm(g.vm), bits));
	for (size_t i = 0; i < TG_RAM / 4096 / 64; i++)
		CU_ASSERT(bits[i] == 0);
	vm_resume(g.vm);
	rig_fini(&g);
}

static void command(struct rig *g, uint16_t port, uint8_t value)
{
	uint32_t c = (uint32_t)value << 16 | port;

	CU_ASSERT_FATAL(!gm_write(vm_gm(g->vm), TG_COMMAND, &c, sizeof(c)));
}

/* Power-off and the two ways to reset; after a reboot all counts from zero. */
static void test_events(void)
{
	struct vm_kernel k = kernel();
	uint64_t before;
	struct err err = {0};
	struct rig g;

	rig_init(&g, 2);
	rig_start(&g, 2);
	wait_counts(&g, 2, 50);
	command(&g, LAYOUT_PORT_ACPI + 2, 1);
	CU_ASSERT(wait_event(&g) == VM_EV_RESET);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	CU_ASSERT_FATAL(!vm_reboot(g.vm, &k, &err));
	CU_ASSERT(counter_of(&g, 0) == 0 && g.c.seq[1] == 0);
	CU_ASSERT_FATAL(!tg_prepare(vm_gm(g.vm), 2));
	vm_resume(g.vm);
	wait_counts(&g, 2, 10);
	CU_ASSERT(g.bad == 0);
	command(&g, 0x64, 0xFE);
	CU_ASSERT(wait_event(&g) == VM_EV_RESET);
	/* A checkpoint that comes before the reboot does not let the guest run past its reset. */
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	before = counter_of(&g, 0);
	vm_resume(g.vm);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	CU_ASSERT_EQUAL(counter_of(&g, 0), before);
	CU_ASSERT_FATAL(!vm_reboot(g.vm, &k, &err));
	CU_ASSERT_FATAL(!tg_prepare(vm_gm(g.vm), 2));
	vm_resume(g.vm);
	wait_counts(&g, 2, 10);
	command(&g, LAYOUT_PORT_ACPI, 0x20 | 5 << 2);
	CU_ASSERT(wait_event(&g) == VM_EV_POWEROFF);
	rig_fini(&g);
}

/* A crash is told, its VM can still be paused, and rebooted. */
static void test_crash(void)
{
	const uint32_t die = 1;
	struct vm_kernel k = kernel();
	struct err err = {0};
	struct rig g;

	rig_init(&g, 1);
	rig_start(&g, 1);
	wait_counts(&g, 1, 5);
	CU_ASSERT_FATAL(!gm_write(vm_gm(g.vm), TG_DIE, &die, sizeof(die)));
	CU_ASSERT(wait_event(&g) == VM_EV_CRASH);
	CU_ASSERT_PTR_NOT_NULL(strstr(g.text, "vCPU 0"));
	(void)vm_pause(g.vm); /* may tell of the vCPU's failure */
	CU_ASSERT_FATAL(!vm_reboot(g.vm, &k, &err));
	CU_ASSERT_FATAL(!tg_prepare(vm_gm(g.vm), 1));
	vm_resume(g.vm);
	wait_counts(&g, 1, 10);
	CU_ASSERT(g.bad == 0);
	rig_fini(&g);
}

static atomic_int stopped, broke_in, worked;

static void look(void *arg)
{
	(void)arg;
	atomic_fetch_add(&worked, 1);
	if (atomic_load(&stopped))
		atomic_fetch_add(&broke_in, 1);
}

/* Work of the I/O thread stays out of a pause, and is not lost. */
static void test_guard(void)
{
	enum { ROUNDS = 500, POSTS = 4 };
	struct rig g;

	rig_init(&g, 1);
	rig_start(&g, 1);
	for (unsigned i = 0; i < ROUNDS; i++) {
		for (unsigned j = 0; j < POSTS / 2; j++)
			CU_ASSERT(!loop_post(g.loop, look, NULL));
		CU_ASSERT_FATAL(!vm_pause(g.vm));
		atomic_store(&stopped, 1);
		for (unsigned j = 0; j < POSTS / 2; j++)
			CU_ASSERT(!loop_post(g.loop, look, NULL));
		atomic_store(&stopped, 0);
		vm_resume(g.vm);
	}
	while (atomic_load(&worked) < ROUNDS * POSTS)
		wait_counts(&g, 1, 1);
	CU_ASSERT(atomic_load(&broke_in) == 0);
	rig_fini(&g);
}

static void test_config(void)
{
	struct vm_config cfg = {.name = "bad",
				.ram_bytes = TG_RAM,
				.vcpus = 5,
				.cpu = "host",
				.kvm_fd = kvm_fd};
	struct err err = {0};
	struct vm *vm;

	CU_ASSERT_FATAL(!loop_create(&cfg.loop, &err));
	CU_ASSERT(vm_create(&cfg, &vm, &err) == -EINVAL);
	CU_ASSERT_PTR_NULL(vm);
	cfg.vcpus = 1;
	cfg.cpu = "z80";
	CU_ASSERT(vm_create(&cfg, &vm, &err) == -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "z80"));
	cfg.cpu = "host";
	cfg.ram_bytes = 4096;
	CU_ASSERT(vm_create(&cfg, &vm, &err) == -EINVAL);
	loop_destroy(cfg.loop);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"configuration", test_config},
		{"pause, one vCPU", test_pause_one},
		{"pause, more vCPUs", test_pause_smp},
		{"pause, back to back", test_pause_back_to_back},
		{"pause, idle vCPUs", test_pause_idle},
		{"move to another VM", test_move},
		{"load into a paused VM", test_load_paused},
		{"load what is damaged", test_load_damaged},
		{"dirty pages", test_dirty},
		{"power-off and reset", test_events},
		{"crash", test_crash},
		{"the I/O thread stays out", test_guard},
	};

	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	image_fd = tg_image();
	if (kvm_fd < 0 || image_fd < 0) {
		perror("/dev/kvm");
		return 2;
	}
	return UNIT_MAIN("vm", tests);
}
