/* SPDX-License-Identifier: Apache-2.0
 * test_vm - a tiny guest on /dev/kvm: run, and stop at any moment.
 */
#include "hv/layout.h"
#include "tests/unit/vmrig.h"

#include <errno.h>
#include <stdatomic.h>

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
		{"the I/O thread stays out", test_guard},
	};

	return RIG_MAIN("vm", tests);
}
