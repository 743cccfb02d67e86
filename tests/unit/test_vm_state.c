/* SPDX-License-Identifier: Apache-2.0
 * test_vm_state - a running guest's state: saved, gone on with in another VM, damaged, dirty pages.
 */
#include "tests/unit/vmrig.h"

#include <errno.h>
#include <stdlib.h>

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

int main(void)
{
	static const struct unit_test tests[] = {
		{"move to another VM", test_move},
		{"load into a paused VM", test_load_paused},
		{"load what is damaged", test_load_damaged},
		{"dirty pages", test_dirty},
	};

	return RIG_MAIN("vm state", tests);
}
