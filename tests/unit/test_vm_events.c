/* SPDX-License-Identifier: Apache-2.0
 * test_vm_events - what the tiny guest asks for (reset, power-off) and suffers (crash), also when a
 * checkpoint comes before anybody acted on it.
 */
#include "tests/unit/vmrig.h"

#include "hv/layout.h"

#include <errno.h>
#include <xxhash.h>

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

/* The guest has asked, and the checkpoint comes before anybody acted: @to is told again, and its
 * vCPU 0 has not run past the asking. */
static void asked_moves(struct rig *from, struct rig *to, uint16_t port, uint8_t value,
			enum vm_event want)
{
	uint32_t then;

	command(from, port, value);
	CU_ASSERT(wait_event(from) == want);
	CU_ASSERT_FATAL(!vm_pause(from->vm));
	then = counter_of(from, 0);
	rig_init(to, 2);
	move(from, to);
	vm_resume(from->vm);
	rig_fini(from);
	CU_ASSERT_FATAL(!vm_start(to->vm, &(struct err){0}));
	pthread_mutex_lock(&to->lock);
	while (!to->events && to->c.seq[0] <= then)
		pthread_cond_wait(&to->cond, &to->lock);
	CU_ASSERT_EQUAL_FATAL(to->events, 1);
	CU_ASSERT_EQUAL(to->ev, want);
	to->events = 0;
	pthread_mutex_unlock(&to->lock);
	CU_ASSERT_FATAL(!vm_pause(to->vm));
	CU_ASSERT_EQUAL(counter_of(to, 0), then);
}

/* Rule 14: a takeover loses neither a reset nor a power-off, not even the second takeover; and
 * what was done is not done again. */
static void test_asked(void)
{
	struct vm_kernel k = kernel();
	struct err err = {0};
	struct rig g[2];

	rig_init(&g[0], 2);
	rig_start(&g[0], 2);
	wait_counts(&g[0], 2, 20);
	asked_moves(&g[0], &g[1], LAYOUT_PORT_ACPI + 2, 1, VM_EV_RESET);
	CU_ASSERT_FATAL(!vm_reboot(g[1].vm, &k, &err));
	CU_ASSERT_FATAL(!tg_prepare(vm_gm(g[1].vm), 2));
	rig_init(&g[0], 2);
	move(&g[1], &g[0]);
	vm_resume(g[1].vm);
	rig_fini(&g[1]);
	CU_ASSERT_FATAL(!vm_start(g[0].vm, &err));
	wait_counts(&g[0], 2, 20);
	CU_ASSERT_EQUAL(g[0].events, 0);
	asked_moves(&g[0], &g[1], LAYOUT_PORT_ACPI, 0x20 | 5 << 2, VM_EV_POWEROFF);
	rig_init(&g[0], 2);
	move(&g[1], &g[0]);
	vm_resume(g[1].vm);
	rig_fini(&g[1]);
	CU_ASSERT_FATAL(!vm_start(g[0].vm, &err));
	CU_ASSERT_EQUAL(wait_event(&g[0]), VM_EV_POWEROFF);
	rig_fini(&g[0]);
}

/* The stream's head and its acpi section, as STATE.md has them. */
enum { STREAM_HEAD = 24, STREAM_LEN = 8, STREAM_SUM = 16 };
enum { SECTION_HEAD = 44, SECTION_VERSION = 36, SECTION_FIELDS = 38, SECTION_LEN = 40 };
enum { ACPI_V1 = 6 + 1, ACPI_V2 = ACPI_V1 + 6 + VM_VCPUS_MAX };

static uint8_t *acpi_section(const struct buf *b)
{
	uint8_t *p = memmem(b->data, b->len, "acpi\0\0", 6);

	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	return p;
}

static void seal(struct buf *b)
{
	uint64_t len = b->len - STREAM_HEAD,
		 sum = XXH3_64bits(b->data + STREAM_HEAD, len);

	memcpy(b->data + STREAM_LEN, &len, sizeof(len));
	memcpy(b->data + STREAM_SUM, &sum, sizeof(sum));
}

/* Version 1 of the acpi section did not say what was asked; a false answer is refused. */
static void test_asked_format(void)
{
	struct buf b = {0};
	struct err err = {0};
	struct rig g;
	uint8_t *p, *end;

	rig_init(&g, 1);
	rig_boot(&g, 1);
	CU_ASSERT_FATAL(!vm_save(g.vm, &b));
	p = acpi_section(&b);
	CU_ASSERT_EQUAL(p[SECTION_VERSION], 2);
	CU_ASSERT_EQUAL(p[SECTION_LEN], ACPI_V2);
	end = p + SECTION_HEAD + ACPI_V2;
	end[-VM_VCPUS_MAX] = 3;
	seal(&b);
	CU_ASSERT_EQUAL(vm_load(g.vm, b.data, b.len, &err), -EBADMSG);
	end[-VM_VCPUS_MAX] = 0;
	end[-1] = 1; /* there is no such vCPU */
	seal(&b);
	CU_ASSERT_EQUAL(vm_load(g.vm, b.data, b.len, &err), -EBADMSG);
	p[SECTION_VERSION] = p[SECTION_FIELDS] = 1;
	p[SECTION_LEN] = ACPI_V1;
	memmove(p + SECTION_HEAD + ACPI_V1, end, (size_t)(b.data + b.len - end));
	b.len -= ACPI_V2 - ACPI_V1;
	seal(&b);
	CU_ASSERT_EQUAL(vm_load(g.vm, b.data, b.len, &err), 0);
	rig_fini(&g);
	buf_fini(&b);
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

int main(void)
{
	static const struct unit_test tests[] = {
		{"power-off and reset", test_events},
		{"asked for, not done: told again after a move", test_asked},
		{"asked for: older and false states", test_asked_format},
		{"crash", test_crash},
	};

	return RIG_MAIN("vm_events", tests);
}
