/* SPDX-License-Identifier: Apache-2.0
 * test_virtio_pci - the transport: negotiation, queues, notifications, interrupts, saved state.
 */
#include "tests/unit/unit.h"

#include "hv/virtio_pci.h"
#include "hv/virtio_regs.h"
#include "hv/virtq.h"
#include "tests/unit/fakevm.h"

enum { SLOT = 1, QUEUES = 2, FEATURE_X = 5 };

/* A device that gives every chain back, with the bytes it could write. */
struct echo {
	struct vpci *v;
	unsigned kicks, resets;
	uint8_t cfg[6];
	struct virtq_chain chain;
};

static void echo_kick(void *self, unsigned queue)
{
	struct echo *e = self;
	struct virtq *q = vpci_queue(e->v, queue);
	int rc;

	e->kicks++;
	while ((rc = virtq_pop(q, &e->chain)) == 1)
		virtq_push(q, e->chain.head, (uint32_t)e->chain.in_len);
	if (rc < 0)
		vpci_broken(e->v);
	(void)virtq_wait(q); /* the test kicks itself */
	vpci_notify(e->v, queue);
}

static void echo_reset(void *self)
{
	((struct echo *)self)->resets++;
}

static int echo_save(void *self, uint32_t instance, struct buf *b)
{
	return buf_add_u32(b, 0xEC0);
}

static int echo_load(void *self, uint32_t instance, struct reader *r, struct err *err)
{
	return rd_u32(r) == 0xEC0 ? 0 : err_set(err, -EBADMSG, "echo");
}

static void echo_destroy(void *self)
{
}

static const struct virtio_ops echo_ops = {
	.name = "echo",
	.id = 42,
	.class_code = 0xFF0000,
	.queues = QUEUES,
	.queue_size = 64,
	.kick = echo_kick,
	.reset = echo_reset,
	.save = echo_save,
	.load = echo_load,
	.destroy = echo_destroy,
};

static struct vm vm;
static struct echo echo;
static struct drv drv[QUEUES];

static void open_echo(struct vm *on, struct echo *e)
{
	struct err err = {0};

	fake_vm_open(on);
	*e = (struct echo){.cfg = {1, 2, 3, 4, 5, 6}};
	CU_ASSERT_EQUAL_FATAL(vpci_create(on, &echo_ops, e, 1ull << FEATURE_X, e->cfg,
					  sizeof(e->cfg), &e->v, &err),
			      0);
}

static uint64_t bar(void)
{
	return drv_bar(&vm, SLOT);
}

static uint32_t status(void)
{
	return drv_status(&vm, SLOT);
}

static void set_status(uint8_t v)
{
	mmio_write(&vm, bar() + 20, 1, v);
}

static void open_decoded(void)
{
	open_echo(&vm, &echo);
	mmio_write(&vm, ecam(SLOT, 4), 2, 2);
}

static void identity_and_capabilities(void)
{
	unsigned seen = 0, at;

	open_echo(&vm, &echo);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(SLOT, 0), 4), (0x1040u + 42) << 16 | 0x1AF4);
	for (at = mmio_read(&vm, ecam(SLOT, 0x34), 1); at;
	     at = mmio_read(&vm, ecam(SLOT, at + 1), 1))
		if (mmio_read(&vm, ecam(SLOT, at), 1) == 9)
			seen |= 1u << mmio_read(&vm, ecam(SLOT, at + 3), 1);
	CU_ASSERT_EQUAL(seen, 0x3E); /* 1 to 5, each there */
	fake_vm_close(&vm);
}

static void features_are_offered_and_negotiated(void)
{
	open_decoded();
	mmio_write(&vm, bar(), 4, 0);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 4, 4), 1u << FEATURE_X | 3u << 28);
	mmio_write(&vm, bar(), 4, 1);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 4, 4), 1);
	mmio_write(&vm, bar(), 4, 2);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 4, 4), 0);
	CU_ASSERT_EQUAL(drv_negotiate(&vm, SLOT, 1ull << FEATURE_X), 0xB);
	CU_ASSERT_EQUAL(vpci_has(echo.v, FEATURE_X), 1);
	CU_ASSERT_EQUAL(vpci_has(echo.v, 29), 0);
	/* Too late to change. */
	mmio_write(&vm, bar() + 8, 4, 0);
	mmio_write(&vm, bar() + 12, 4, 0);
	CU_ASSERT_EQUAL(vpci_has(echo.v, FEATURE_X), 1);
	fake_vm_close(&vm);
}

static void features_not_offered_are_refused(void)
{
	open_decoded();
	CU_ASSERT_EQUAL(drv_negotiate(&vm, SLOT, 1), 0x3);
	set_status(0xF);
	CU_ASSERT_EQUAL(status(), 0x3);
	CU_ASSERT_EQUAL(vpci_running(echo.v), 0);
	/* Neither goes it without VERSION_1. */
	set_status(0);
	set_status(3);
	set_status(0xB);
	CU_ASSERT_EQUAL(status(), 0x3);
	fake_vm_close(&vm);
}

static void status_has_one_way(void)
{
	open_decoded();
	set_status(2);
	CU_ASSERT_EQUAL(status(), 0);
	set_status(4);
	CU_ASSERT_EQUAL(status(), 0);
	set_status(1);
	set_status(3);
	set_status(1); /* nothing is taken back */
	CU_ASSERT_EQUAL(status(), 3);
	set_status(64); /* not the driver's bit */
	CU_ASSERT_EQUAL(status(), 3);
	set_status(0x83);
	CU_ASSERT_EQUAL(status(), 0x83);
	set_status(0);
	CU_ASSERT_EQUAL(status(), 0);
	CU_ASSERT_EQUAL(echo.resets, 1);
	fake_vm_close(&vm);
}

static void odd_register_accesses_do_nothing(void)
{
	open_decoded();
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 18, 2), QUEUES);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 18, 4), 0);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 19, 1), 0);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 56, 4), 0);
	mmio_write(&vm, bar() + 20, 4, 1);
	CU_ASSERT_EQUAL(status(), 0);
	mmio_write(&vm, bar() + 22, 2, 99); /* a queue that is not there */
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 24, 2), 0);
	mmio_write(&vm, bar() + 24, 2, 8);
	mmio_write(&vm, bar() + 28, 2, 1);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 28, 2), 0);
	mmio_write(&vm, bar() + 22, 2, 0);
	mmio_write(&vm, bar() + 26, 2, 7); /* a vector that is not there */
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 26, 2), 0xFFFF);
	mmio_write(&vm, bar() + 32, 4, 0x1000);
	mmio_write(&vm, bar() + 36, 4, 0x2);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 32, 4), 0x1000);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 36, 4), 0x2);
	fake_vm_close(&vm);
}

static void device_configuration_ends(void)
{
	open_decoded();
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + WIN_CFG_AT, 4), 0x04030201);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + WIN_CFG_AT + 4, 2), 0x0605);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + WIN_CFG_AT + 4, 4), 0);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + WIN_CFG_AT + 6, 1), 0);
	mmio_write(&vm, bar() + WIN_CFG_AT, 4, 0);
	CU_ASSERT_EQUAL(echo.cfg[0], 1);
	fake_vm_close(&vm);
}

static void chains_go_round(void)
{
	uint32_t head, len;

	open_echo(&vm, &echo);
	drv_start(&vm, SLOT, 0, drv, QUEUES);
	CU_ASSERT_EQUAL(status(), 0xF);
	drv_desc(&drv[1], 2, drv_data(&drv[1]), 100, D_WRITE, 0);
	drv_post(&drv[1], 2);
	drv_kick(&vm, SLOT, 1);
	CU_ASSERT_EQUAL(drv_take(&drv[1], &head, &len), 1);
	CU_ASSERT_EQUAL(len, 100);
	CU_ASSERT_EQUAL(vm.msi[2]->raised, 1);
	CU_ASSERT_EQUAL(vm.msi[1]->raised, 0);
	fake_vm_close(&vm);
}

static void nothing_happens_before_driver_ok(void)
{
	uint32_t head, len;

	open_echo(&vm, &echo);
	CU_ASSERT_EQUAL(drv_negotiate(&vm, SLOT, 0), 0xB);
	drv_enable(&vm, SLOT, 0, &drv[0]);
	drv_desc(&drv[0], 0, drv_data(&drv[0]), 4, D_WRITE, 0);
	drv_post(&drv[0], 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(echo.kicks, 0);
	/* What was posted before is looked at then, without a kick. */
	set_status(0xF);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(drv_take(&drv[0], &head, &len), 1);
	/* Without MSI-X there is the register to poll. */
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 0x1000, 1), 1);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 0x1000, 1), 0);
	fake_vm_close(&vm);
}

static void ioeventfds_follow_the_bar(void)
{
	const uint64_t to = LAYOUT_PCI_MMIO + 0x1000000;

	open_decoded();
	CU_ASSERT_EQUAL(vm.ios, QUEUES);
	CU_ASSERT_EQUAL(vm.io[1].addr, bar() + WIN_NOTIFY_AT + 4);
	mmio_write(&vm, ecam(SLOT, 0x10), 4, to);
	CU_ASSERT_EQUAL(vm.ios, QUEUES);
	CU_ASSERT_TRUE(vm.io[0].addr >= to && vm.io[1].addr >= to);
	mmio_write(&vm, ecam(SLOT, 4), 2, 0);
	CU_ASSERT_EQUAL(vm.ios, 0);
	fake_vm_close(&vm);
}

static void hostile_rings_need_a_reset(void)
{
	open_echo(&vm, &echo);
	drv_start(&vm, SLOT, 0, drv, QUEUES);
	drv_post(&drv[0], 999);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(status(), 0x4F);
	CU_ASSERT_EQUAL(vpci_running(echo.v), 0);
	set_status(0);
	CU_ASSERT_EQUAL(status(), 0);
	drv_start(&vm, SLOT, 0, drv, QUEUES);
	CU_ASSERT_EQUAL(status(), 0xF);
	CU_ASSERT_EQUAL(vpci_running(echo.v), 1);
	fake_vm_close(&vm);
}

static void bad_queue_addresses_need_a_reset(void)
{
	open_echo(&vm, &echo);
	CU_ASSERT_EQUAL(drv_negotiate(&vm, SLOT, 0), 0xB);
	mmio_write(&vm, bar() + 22, 2, 0);
	mmio_write(&vm, bar() + 32, 8, FAKE_RAM);
	mmio_write(&vm, bar() + 28, 2, 1);
	CU_ASSERT_EQUAL(mmio_read(&vm, bar() + 28, 2), 0);
	CU_ASSERT_EQUAL(status(), 0x4B);
	fake_vm_close(&vm);
}

/* 4.1.4.9: a guest without a mapping of the BAR reaches it through configuration space. */
static void bar_is_reached_by_configuration_space(void)
{
	unsigned at;

	open_decoded();
	for (at = mmio_read(&vm, ecam(SLOT, 0x34), 1); at;
	     at = mmio_read(&vm, ecam(SLOT, at + 1), 1))
		if (mmio_read(&vm, ecam(SLOT, at), 1) == 9 &&
		    mmio_read(&vm, ecam(SLOT, at + 3), 1) == 5)
			break;
	CU_ASSERT_NOT_EQUAL_FATAL(at, 0);
	mmio_write(&vm, ecam(SLOT, at + 8), 4, 18);
	mmio_write(&vm, ecam(SLOT, at + 12), 4, 2);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(SLOT, at + 16), 2), QUEUES);
	mmio_write(&vm, ecam(SLOT, at + 8), 4, 20);
	mmio_write(&vm, ecam(SLOT, at + 12), 4, 1);
	mmio_write(&vm, ecam(SLOT, at + 16), 4, 1);
	CU_ASSERT_EQUAL(status(), 1);
	/* Out of the BAR, odd lengths, other BARs. */
	mmio_write(&vm, ecam(SLOT, at + 8), 4, 0xFFFFFFFF);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(SLOT, at + 16), 1), 0xFF);
	mmio_write(&vm, ecam(SLOT, at + 12), 4, 3);
	mmio_write(&vm, ecam(SLOT, at + 16), 4, 0);
	mmio_write(&vm, ecam(SLOT, at + 12), 4, 1);
	mmio_write(&vm, ecam(SLOT, at + 4), 1, 3);
	mmio_write(&vm, ecam(SLOT, at + 8), 4, 20);
	mmio_write(&vm, ecam(SLOT, at + 16), 4, 0);
	CU_ASSERT_EQUAL(status(), 1);
	fake_vm_close(&vm);
}

static int save_device(struct vm *from, struct buf *b)
{
	return from->dev[0].ops->save(from->dev[0].self, b);
}

static int load_device(struct vm *to, const void *p, size_t len, struct err *err)
{
	struct reader r = reader_of(p, len);
	int rc = to->dev[0].ops->load(to->dev[0].self, &r, err);

	CU_ASSERT_TRUE(rc || rd_left(&r) == 0);
	return rc;
}

static void state_continues_elsewhere(void)
{
	struct err err = {0};
	struct buf b = {0};
	struct echo other_echo;
	struct vm other;
	uint32_t head, len;

	open_echo(&vm, &echo);
	drv_start(&vm, SLOT, 1ull << FEATURE_X, drv, QUEUES);
	drv_desc(&drv[0], 0, drv_data(&drv[0]), 8, D_WRITE, 0);
	drv_post(&drv[0], 0);
	drv_kick(&vm, SLOT, 0);
	/* Posted, but the kick was not seen yet when the state is taken. */
	drv_post(&drv[0], 0);
	CU_ASSERT_EQUAL_FATAL(save_device(&vm, &b), 0);

	open_echo(&other, &other_echo);
	memcpy(other.gm.ram, vm.gm.ram, FAKE_RAM);
	CU_ASSERT_EQUAL(load_device(&other, b.data, b.len, &err), 0);
	CU_ASSERT_EQUAL(drv_status(&other, SLOT), 0xF);
	CU_ASSERT_EQUAL(vpci_has(other_echo.v, FEATURE_X), 1);
	/* Not before loaded(), whatever comes. */
	vpci_kick(other_echo.v, 0);
	vm_turn(&other);
	CU_ASSERT_EQUAL(other_echo.kicks, 0);
	CU_ASSERT_EQUAL(vpci_running(other_echo.v), 0);
	other.dev[0].ops->loaded(other.dev[0].self);
	for (unsigned i = 0; i <= QUEUES; i++)
		CU_ASSERT_EQUAL(other.msi[i]->raised, 1);
	vm_turn(&other);
	drv[0].vm = &other;
	CU_ASSERT_EQUAL(drv_take(&drv[0], &head, &len), 1); /* the one from before */
	CU_ASSERT_EQUAL(drv_take(&drv[0], &head, &len), 1);
	CU_ASSERT_EQUAL(other.ios, QUEUES);
	CU_ASSERT_EQUAL(other.msi[1]->data, 0x41);
	buf_fini(&b);
	fake_vm_close(&other);
	fake_vm_close(&vm);
}

static void damaged_state_is_refused(void)
{
	struct err err = {0};
	struct buf b = {0};
	unsigned refused = 0;

	open_echo(&vm, &echo);
	drv_start(&vm, SLOT, 0, drv, QUEUES);
	CU_ASSERT_EQUAL_FATAL(save_device(&vm, &b), 0);
	for (size_t cut = 0; cut < b.len; cut++)
		CU_ASSERT_EQUAL(load_device(&vm, b.data, cut, &err), -EBADMSG);
	/* No flipped bit crashes it; most are found. */
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 0x40;
		refused += load_device(&vm, b.data, b.len, &err) != 0;
		vm.dev[0].ops->loaded(vm.dev[0].self);
		vm_turn(&vm);
		b.data[i] ^= 0x40;
	}
	CU_ASSERT_TRUE(refused > b.len / 3);
	CU_ASSERT_EQUAL(load_device(&vm, b.data, b.len, &err), 0);
	buf_fini(&b);
	fake_vm_close(&vm);
}

static void power_on_reset_forgets_all(void)
{
	struct buf fresh = {0}, b = {0};

	open_echo(&vm, &echo);
	CU_ASSERT_EQUAL_FATAL(save_device(&vm, &fresh), 0);
	drv_start(&vm, SLOT, 0, drv, QUEUES);
	vm.dev[0].ops->reset(vm.dev[0].self);
	CU_ASSERT_EQUAL_FATAL(save_device(&vm, &b), 0);
	CU_ASSERT_EQUAL_FATAL(b.len, fresh.len);
	CU_ASSERT_EQUAL(memcmp(b.data, fresh.data, b.len), 0);
	CU_ASSERT_EQUAL(vm.ios, 0);
	drv_start(&vm, SLOT, 0, drv, QUEUES);
	CU_ASSERT_EQUAL(vpci_running(echo.v), 1);
	buf_fini(&b);
	buf_fini(&fresh);
	fake_vm_close(&vm);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"identity and capabilities", identity_and_capabilities},
		{"features are offered", features_are_offered_and_negotiated},
		{"features not offered", features_not_offered_are_refused},
		{"status has one way", status_has_one_way},
		{"odd register accesses", odd_register_accesses_do_nothing},
		{"device configuration ends", device_configuration_ends},
		{"chains go round", chains_go_round},
		{"nothing before DRIVER_OK", nothing_happens_before_driver_ok},
		{"ioeventfds follow the BAR", ioeventfds_follow_the_bar},
		{"hostile rings need a reset", hostile_rings_need_a_reset},
		{"bad queue addresses", bad_queue_addresses_need_a_reset},
		{"BAR by configuration space", bar_is_reached_by_configuration_space},
		{"state continues elsewhere", state_continues_elsewhere},
		{"damaged state is refused", damaged_state_is_refused},
		{"power-on reset forgets all", power_on_reset_forgets_all},
	};

	return UNIT_MAIN("virtio_pci", tests);
}
