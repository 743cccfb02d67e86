/* SPDX-License-Identifier: Apache-2.0
 * vmrig - the tiny guest in a VM with one device that it counts with, for tests of hv/vm.h.
 */
#ifndef TESTS_UNIT_VMRIG_H
#define TESTS_UNIT_VMRIG_H

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/bus.h"
#include "hv/gm.h"
#include "hv/state.h"
#include "hv/vm.h"
#include "tests/unit/tinyguest.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>

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

static inline void count_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct rig *g = self;

	memset(data, 0, len);
	if (off >= READ_BACK && off < READ_BACK + 4 * VM_VCPUS_MAX)
		memcpy(data, &g->c.seq[(off - READ_BACK) >> SLOT_SHIFT], 4);
}

static inline void count_write(void *self, uint64_t off, const void *data, unsigned len)
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

static inline void fail_write(void *self, uint64_t off, const void *data, unsigned len)
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

static inline int dev_save(void *self, struct buf *b)
{
	struct rig *g = self;

	return state_save(b, &counter_table, 0, &g->c);
}

static inline int dev_load(void *self, struct reader *r, struct err *err)
{
	struct rig *g = self;

	return state_load(r, &counter_table, 0, &g->c, err);
}

static inline void dev_loaded(void *self)
{
	struct rig *g = self;

	g->loaded++;
}

static inline void dev_reset(void *self)
{
	struct rig *g = self;

	memset(&g->c, 0, sizeof(g->c));
}

static inline void dev_destroy(void *self)
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

static inline void on_event(void *arg, enum vm_event ev, const char *text)
{
	struct rig *g = arg;

	pthread_mutex_lock(&g->lock);
	g->events++;
	g->ev = ev;
	(void)snprintf(g->text, sizeof(g->text), "%s", text);
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
}

static inline void *loop_main(void *arg)
{
	struct rig *g = arg;

	return loop_run(g->loop) ? g : NULL;
}

/* Until each of @n CPUs counted @more further. */
static inline void wait_counts(struct rig *g, unsigned n, uint32_t more)
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

static inline enum vm_event wait_event(struct rig *g)
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

static inline struct vm_kernel kernel(void)
{
	return (struct vm_kernel){
		.kernel_fd = image_fd, .initrd_fd = -1, .cmdline = "tiny"};
}

/* A VM with the counting device and a running I/O thread; not booted. */
static inline void rig_init(struct rig *g, unsigned vcpus)
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

static inline void rig_fini(struct rig *g)
{
	loop_stop(g->loop);
	pthread_join(g->thread, NULL);
	vm_destroy(g->vm);
	loop_destroy(g->loop);
	pthread_cond_destroy(&g->cond);
	pthread_mutex_destroy(&g->lock);
}

static inline void rig_boot(struct rig *g, unsigned vcpus)
{
	struct vm_kernel k = kernel();
	struct err err = {0};

	if (vm_boot(g->vm, &k, &err))
		(void)fprintf(stderr, "%s\n", err.msg);
	CU_ASSERT_FATAL(err.code == 0);
	CU_ASSERT_FATAL(!tg_prepare(vm_gm(g->vm), vcpus));
}

static inline void rig_start(struct rig *g, unsigned vcpus)
{
	struct err err = {0};

	rig_boot(g, vcpus);
	CU_ASSERT_FATAL(!vm_start(g->vm, &err));
}

static inline uint32_t counter_of(struct rig *g, unsigned cpu)
{
	uint32_t v = 0;

	CU_ASSERT(!gm_read(vm_gm(g->vm), TG_COUNTERS + cpu * 4096ull, &v, sizeof(v)));
	return v;
}

/* Stopped: the guest's number is the device's, or the one that it is about to write. */
static inline void check_in_step(struct rig *g, unsigned vcpus)
{
	CU_ASSERT(g->bad == 0);
	for (unsigned i = 0; i < vcpus; i++) {
		uint32_t d = counter_of(g, i) - g->c.seq[i];

		CU_ASSERT(d <= 1);
	}
}

/* Save @from (paused) and load into @to, memory included. */
static inline void move(struct rig *from, struct rig *to)
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

/* What all rigs are made from. 0, or main's exit status. */
static inline int rig_open(void)
{
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	image_fd = tg_image();
	if (kvm_fd >= 0 && image_fd >= 0)
		return 0;
	perror("/dev/kvm");
	return 2;
}

/* A program's main: the tests of @suite with /dev/kvm and the guest's image. Exit status. */
static inline int rig_main(const char *suite, const struct unit_test *tests, unsigned n)
{
	int status = rig_open();

	return status ? status : unit_main(suite, tests, n);
}
#define RIG_MAIN(suite, tests) rig_main(suite, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
