/* SPDX-License-Identifier: Apache-2.0
 * test_serial - the 16550 as a driver sees it: registers, FIFO, interrupts, saved state.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/bus.h"
#include "hv/devices.h"
#include "hv/layout.h"
#include "hv/vm.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <string.h>

struct rig {
	struct loop *loop;
	struct vm *vm;
	struct serial *s;
	char out[64];
	size_t len;
};

static int kvm_fd;

static void collect(void *self, const void *p, size_t len)
{
	struct rig *g = self;

	CU_ASSERT_FATAL(g->len + len <= sizeof(g->out));
	memcpy(g->out + g->len, p, len);
	g->len += len;
}

static void rig_init(struct rig *g)
{
	struct vm_config cfg = {.name = "serial",
				.ram_bytes = 16 << 20,
				.vcpus = 1,
				.cpu = "host",
				.kvm_fd = kvm_fd};
	struct con_out out = {.bytes = collect, .self = g};
	struct err err = {0};

	memset(g, 0, sizeof(*g));
	CU_ASSERT_FATAL(!loop_create(&g->loop, &err));
	cfg.loop = g->loop;
	CU_ASSERT_FATAL(!vm_create(&cfg, &g->vm, &err));
	CU_ASSERT_FATAL(!serial_create(g->vm, &out, &g->s, &err));
}

static void rig_fini(struct rig *g)
{
	vm_destroy(g->vm);
	loop_destroy(g->loop);
}

static uint8_t in(struct rig *g, unsigned reg)
{
	uint8_t v;

	bus_read(vm_pio(g->vm), LAYOUT_PORT_COM1 + reg, &v, 1);
	return v;
}

static void out(struct rig *g, unsigned reg, uint8_t v)
{
	bus_write(vm_pio(g->vm), LAYOUT_PORT_COM1 + reg, &v, 1);
}

static void test_transmit(void)
{
	struct rig g;

	rig_init(&g);
	CU_ASSERT(in(&g, 5) == 0x60); /* always ready */
	for (const char *c = "hello"; *c; c++)
		out(&g, 0, (uint8_t)*c);
	CU_ASSERT(g.len == 5 && !memcmp(g.out, "hello", 5));
	rig_fini(&g);
}

static void test_receive(void)
{
	char many[100];
	struct rig g;

	rig_init(&g);
	memset(many, 'x', sizeof(many));
	CU_ASSERT(serial_input(g.s, "ab", 2) == 2);
	CU_ASSERT(in(&g, 5) & 1);
	CU_ASSERT_EQUAL(in(&g, 0), 'a');
	CU_ASSERT_EQUAL(in(&g, 0), 'b');
	CU_ASSERT(!(in(&g, 5) & 1) && in(&g, 0) == 0);
	CU_ASSERT(serial_input(g.s, many, sizeof(many)) ==
		  64); /* no more than there is room */
	CU_ASSERT(serial_input(g.s, many, 1) == 0);
	out(&g, 2, 3); /* FIFO on, and emptied */
	CU_ASSERT(!(in(&g, 5) & 1));
	rig_fini(&g);
}

static void test_interrupts(void)
{
	struct rig g;

	rig_init(&g);
	CU_ASSERT((in(&g, 2) & 0xF) == 1); /* none */
	out(&g, 1, 2);
	CU_ASSERT((in(&g, 2) & 0xF) == 2); /* transmitter empty; reading takes it away */
	CU_ASSERT((in(&g, 2) & 0xF) == 1);
	out(&g, 0, 'x');
	CU_ASSERT((in(&g, 2) & 0xF) == 2);
	out(&g, 1, 3);
	CU_ASSERT(serial_input(g.s, "y", 1) == 1);
	CU_ASSERT((in(&g, 2) & 0xF) == 4); /* data comes first, until it is read */
	CU_ASSERT((in(&g, 2) & 0xF) == 4);
	CU_ASSERT(in(&g, 0) == 'y');
	CU_ASSERT((in(&g, 2) & 0xF) == 1);
	out(&g, 2, 1);
	CU_ASSERT((in(&g, 2) & 0xF0) == 0xC0); /* a 16550A with its FIFO on */
	rig_fini(&g);
}

/* What drivers try to find out whether something is there. */
static void test_probing(void)
{
	struct rig g;

	rig_init(&g);
	out(&g, 7, 0x5A);
	CU_ASSERT(in(&g, 7) == 0x5A);
	out(&g, 1, 0xFF);
	CU_ASSERT(in(&g, 1) == 0x0F);
	out(&g, 3, 0x80);
	out(&g, 0, 0x01);
	out(&g, 1, 0x02);
	CU_ASSERT(in(&g, 0) == 0x01 && in(&g, 1) == 0x02);
	out(&g, 3, 0x03);
	CU_ASSERT(in(&g, 1) == 0x0F && g.len == 0);
	out(&g, 4, 0x1A); /* loop-back, OUT2 and RTS: DCD and CTS */
	CU_ASSERT((in(&g, 6) & 0xF0) == 0x90);
	out(&g, 0, 'l');
	CU_ASSERT(g.len == 0 && in(&g, 0) == 'l');
	rig_fini(&g);
}

static void test_state(void)
{
	struct buf b = {0};
	struct err err = {0};
	struct rig g, h;

	rig_init(&g);
	rig_init(&h);
	out(&g, 7, 0x77);
	out(&g, 1, 2);
	CU_ASSERT(serial_input(g.s, "kept", 4) == 4);
	CU_ASSERT_FATAL(!vm_pause(g.vm));
	CU_ASSERT_FATAL(!vm_save(g.vm, &b));
	vm_resume(g.vm);
	CU_ASSERT_FATAL(!vm_load(h.vm, b.data, b.len, &err));
	CU_ASSERT(in(&h, 7) == 0x77 && in(&h, 1) == 2);
	CU_ASSERT((in(&h, 2) & 0xF) == 2);
	for (const char *c = "kept"; *c; c++)
		CU_ASSERT_EQUAL(in(&h, 0), *c);
	rig_fini(&h);
	rig_fini(&g);
	buf_fini(&b);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"transmit", test_transmit},	 {"receive", test_receive},
		{"interrupts", test_interrupts}, {"probing", test_probing},
		{"state", test_state},
	};

	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0) {
		perror("/dev/kvm");
		return 2;
	}
	return UNIT_MAIN("serial", tests);
}
