/* SPDX-License-Identifier: Apache-2.0
 * test_vm - a tiny guest on /dev/kvm: run, stop, save, go on in another VM.
 */
#include "tests/unit/vmrig.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

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
		{"the I/O thread stays out", test_guard},
	};

	return rig_open() ? 2 : UNIT_MAIN("vm", tests);
}
