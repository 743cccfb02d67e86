/* SPDX-License-Identifier: Apache-2.0
 * test_virtio_console - the console, and the random numbers.
 */
#include "tests/unit/unit.h"

#include "hv/devices.h"
#include "tests/unit/fakevm.h"

enum { SLOT = 1, IN = 0, OUT = 1 };

static struct vm vm;
static struct vconsole *con;
static struct drv drv[2];
static char said[16384];
static size_t said_len;

static void hear(void *self, const void *p, size_t len)
{
	if (len <= sizeof(said) - said_len) {
		memcpy(said + said_len, p, len);
		said_len += len;
	}
}

static void create(struct vm *on)
{
	struct con_out out = {.bytes = hear};
	struct err err = {0};

	fake_vm_open(on);
	CU_ASSERT_EQUAL_FATAL(vconsole_create(on, &out, &con, &err), 0);
}

static void open_console(void)
{
	said_len = 0;
	create(&vm);
	drv_start(&vm, SLOT, 0, drv, 2);
}

static void output_is_heard(void)
{
	uint32_t head, len;

	open_console();
	memcpy(vm.gm.ram + drv_data(&drv[OUT]), "hello, ", 7);
	memset(vm.gm.ram + drv_data(&drv[OUT]) + 7, 'x', 10000);
	drv_desc(&drv[OUT], 0, drv_data(&drv[OUT]), 7, D_NEXT, 1);
	drv_desc(&drv[OUT], 1, drv_data(&drv[OUT]) + 7, 10000, 0, 0);
	drv_post(&drv[OUT], 0);
	vm_watch(&vm);
	drv_kick(&vm, SLOT, OUT);
	CU_ASSERT_EQUAL(said_len, 10007);
	CU_ASSERT_EQUAL(memcmp(said, "hello, xxx", 10), 0);
	CU_ASSERT_EQUAL(said[10006], 'x');
	CU_ASSERT_EQUAL(drv_take(&drv[OUT], &head, &len), 1);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	fake_vm_close(&vm);
}

static void post_input(struct drv *q, unsigned i, uint32_t room)
{
	drv_desc(q, i, drv_data(q) + i * 256, room, D_WRITE, 0);
	drv_post(q, (uint16_t)i);
	vm_watch(q->vm);
}

static void input_waits_for_buffers(void)
{
	uint32_t head, len;

	open_console();
	CU_ASSERT_EQUAL(vconsole_input(con, "abcdef", 6), 6);
	vm_turn(&vm);
	post_input(&drv[IN], 0, 4);
	drv_kick(&vm, SLOT, IN);
	CU_ASSERT_EQUAL(drv_take(&drv[IN], &head, &len), 1);
	CU_ASSERT_EQUAL(len, 4);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram + drv_data(&drv[IN]), "abcd", 4), 0);
	post_input(&drv[IN], 1, 4);
	drv_kick(&vm, SLOT, IN);
	CU_ASSERT_EQUAL(drv_take(&drv[IN], &head, &len), 1);
	CU_ASSERT_EQUAL(len, 2);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram + drv_data(&drv[IN]) + 256, "ef", 2), 0);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	fake_vm_close(&vm);
}

static void input_is_taken_up_to_a_bound(void)
{
	static const char many[1000];
	size_t n;

	open_console();
	n = vconsole_input(con, many, sizeof(many));
	CU_ASSERT_TRUE(n > 0 && n < sizeof(many));
	CU_ASSERT_EQUAL(vconsole_input(con, many, 1), 0);
	fake_vm_close(&vm);
}

static void input_taken_survives_a_failover(void)
{
	struct err err = {0};
	struct buf b = {0};
	struct reader r;
	struct vm other;
	uint32_t head, len;

	open_console();
	CU_ASSERT_EQUAL(vconsole_input(con, "keys", 4), 4);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	create(&other);
	memcpy(other.gm.ram, vm.gm.ram, FAKE_RAM);
	r = reader_of(b.data, b.len);
	CU_ASSERT_EQUAL(other.dev[0].ops->load(other.dev[0].self, &r, &err), 0);
	other.dev[0].ops->loaded(other.dev[0].self);
	drv[IN].vm = &other;
	post_input(&drv[IN], 0, 16);
	drv_kick(&other, SLOT, IN);
	CU_ASSERT_EQUAL(drv_take(&drv[IN], &head, &len), 1);
	CU_ASSERT_EQUAL(len, 4);
	for (size_t cut = 0; cut < b.len; cut++) {
		r = reader_of(b.data, cut);
		CU_ASSERT_EQUAL(other.dev[0].ops->load(other.dev[0].self, &r, &err),
				-EBADMSG);
	}
	buf_fini(&b);
	fake_vm_close(&other);
	fake_vm_close(&vm);
}

static void random_bytes_come(void)
{
	struct err err = {0};
	uint32_t head, len;
	unsigned zeroes = 0;

	fake_vm_open(&vm);
	CU_ASSERT_EQUAL_FATAL(vrng_create(&vm, &err), 0);
	drv_start(&vm, SLOT, 0, drv, 1);
	post_input(&drv[0], 0, 64);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(drv_take(&drv[0], &head, &len), 1);
	CU_ASSERT_EQUAL(len, 64);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	for (unsigned i = 0; i < 64; i++)
		zeroes += vm.gm.ram[drv_data(&drv[0]) + i] == 0;
	CU_ASSERT_TRUE(zeroes < 32);
	/* A huge request gets a part; a readable one is an offence. */
	post_input(&drv[0], 0, 8192);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(drv_take(&drv[0], &head, &len), 1);
	CU_ASSERT_TRUE(len > 0 && len < 8192);
	drv_desc(&drv[0], 0, drv_data(&drv[0]), 8, 0, 0);
	drv_post(&drv[0], 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0x4F);
	fake_vm_close(&vm);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"output is heard", output_is_heard},
		{"input waits for buffers", input_waits_for_buffers},
		{"input is taken up to a bound", input_is_taken_up_to_a_bound},
		{"input taken survives a failover", input_taken_survives_a_failover},
		{"random bytes come", random_bytes_come},
	};

	return UNIT_MAIN("virtio_console", tests);
}
