/* SPDX-License-Identifier: Apache-2.0
 * test_vm_clock - the guest's time over a takeover: on by the wall time that passed, at most a
 * minute, and never back, whatever the other host's wall clock says.
 */
#include "tests/unit/vmrig.h"

#include "hv/base/clock.h"
#include "hv/vm_clock.h"
#include "hv/vm_impl.h"

#include <sys/ioctl.h>
#include <xxhash.h>

#define SECOND 1000000000ll
/* KVM reads its clocks a moment before or after we read ours. */
#define SLACK (5 * SECOND / 1000)

/* The stream's head, and where field real_ns of its clock section is (STATE.md). */
enum { STREAM_HEAD = 24, STREAM_SUM = 16 };
enum { SECTION_HEAD = 44, FIELD_HEAD = 6, REAL_NS = SECTION_HEAD + 2 * FIELD_HEAD + 8 };

static void test_step(void)
{
	const struct vm_clock c = {.real_ns = 1000ull * SECOND};

	CU_ASSERT_EQUAL(vm_clock_step(&c, 1000ull * SECOND), 0);
	CU_ASSERT_EQUAL(vm_clock_step(&c, 1000ull * SECOND + 1), 1);
	CU_ASSERT_EQUAL(vm_clock_step(&c, 1000ull * SECOND - 1), 0);
	CU_ASSERT_EQUAL(vm_clock_step(&c, 0), 0);
	CU_ASSERT_EQUAL(vm_clock_step(&c, 1060ull * SECOND - 1), 60ull * SECOND - 1);
	CU_ASSERT_EQUAL(vm_clock_step(&c, 1060ull * SECOND + 1), VM_CLOCK_STEP_MAX_NS);
	CU_ASSERT_EQUAL(vm_clock_step(&c, UINT64_MAX), VM_CLOCK_STEP_MAX_NS);
}

/* As if it had been saved by a host whose wall clock is @ago_ns behind ours. */
static void date_back(struct buf *b, int64_t ago_ns)
{
	uint64_t len = b->len - STREAM_HEAD, real, sum;
	uint8_t *p = memmem(b->data, b->len, "clock\0\0", 7);

	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	memcpy(&real, p + REAL_NS, sizeof(real));
	real -= (uint64_t)ago_ns;
	memcpy(p + REAL_NS, &real, sizeof(real));
	sum = XXH3_64bits(b->data + STREAM_HEAD, len);
	memcpy(b->data + STREAM_SUM, &sum, sizeof(sum));
}

/* A KVM without hardware under it may take an offset and forget it: its guests see the host's TSC
 * as it is, and get their time from kvmclock alone. */
static int tsc_can_move(struct vm *vm)
{
	uint64_t offset = 1ull << 40, got = 0;
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL,
				    .attr = KVM_VCPU_TSC_OFFSET};

	a.addr = (uintptr_t)&offset;
	if (ioctl(vm->vcpu[0]->fd, KVM_SET_DEVICE_ATTR, &a))
		return 1; /* vm_clock.c writes the TSC itself then */
	a.addr = (uintptr_t)&got;
	return !ioctl(vm->vcpu[0]->fd, KVM_GET_DEVICE_ATTR, &a) && got == offset;
}

static uint64_t tsc_ns(const struct vm_clock *c)
{
	return (uint64_t)((unsigned __int128)c->tsc * 1000000 / c->tsc_khz);
}

/* @from (paused) goes on as @to, which sees a checkpoint that is @ago_ns old. The guest's clocks
 * have gone on by @step_ns then, and by what really passed. */
static void takeover(struct rig *from, struct rig *to, int64_t ago_ns, int64_t step_ns)
{
	struct buf b = {0};
	struct err err = {0};
	struct vm_clock was, is;
	int tsc_moves;
	uint64_t began = clock_mono_ns();
	int64_t passed, moved, tsc_moved;

	CU_ASSERT_FATAL(!vm_clock_get(from->vm, &was));
	CU_ASSERT_FATAL(!vm_save(from->vm, &b));
	date_back(&b, ago_ns);
	rig_init(to, 2);
	tsc_moves = tsc_can_move(to->vm);
	memcpy(gm_base(vm_gm(to->vm)), gm_base(vm_gm(from->vm)), TG_RAM);
	CU_ASSERT_EQUAL_FATAL(vm_load(to->vm, b.data, b.len, &err), 0);
	CU_ASSERT_FATAL(!vm_clock_get(to->vm, &is));
	passed = (int64_t)(clock_mono_ns() - began);
	moved = (int64_t)(is.kvmclock_ns - was.kvmclock_ns);
	tsc_moved = (int64_t)(tsc_ns(&is) - tsc_ns(&was));
	CU_ASSERT_TRUE(moved >= 0 && tsc_moved >= 0);
	CU_ASSERT_TRUE(moved >= step_ns - SLACK);
	CU_ASSERT_TRUE(moved <= step_ns + passed + SLACK);
	CU_ASSERT_TRUE(tsc_moved >= (tsc_moves ? step_ns - SLACK : 0));
	CU_ASSERT_TRUE(tsc_moved <= step_ns + passed + SLACK);
	buf_fini(&b);
}

static void test_takeovers(void)
{
	static const struct {
		int64_t ago_ns, step_ns;
	} host[] = {
		{0, 0},
		{5 * SECOND, 5 * SECOND},
		{3600 * SECOND, 60 * SECOND}, /* the cap */
		{-2 * SECOND, 0},	      /* this host's clock is behind */
		{-36000 * SECOND, 0},
		{SECOND / 2, SECOND / 2},
	};
	struct rig g[2];

	rig_init(&g[0], 2);
	rig_start(&g[0], 2);
	for (unsigned i = 0; i < sizeof(host) / sizeof(host[0]); i++) {
		struct rig *from = &g[i % 2], *to = &g[(i + 1) % 2];

		wait_counts(from, 2, 5);
		CU_ASSERT_FATAL(!vm_pause(from->vm));
		check_in_step(from, 2);
		takeover(from, to, host[i].ago_ns, host[i].step_ns);
		vm_resume(from->vm);
		rig_fini(from);
		CU_ASSERT_FATAL(!vm_start(to->vm, &(struct err){0}));
	}
	rig_fini(&g[0]);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the step", test_step},
		{"takeovers by hosts with other wall clocks", test_takeovers},
	};

	return RIG_MAIN("vm_clock", tests);
}
