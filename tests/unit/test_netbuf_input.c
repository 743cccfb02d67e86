/* SPDX-License-Identifier: Apache-2.0
 * test_netbuf_input - what comes for the guest reaches it at once, while what it says is held.
 *
 * A real net device before a real netbuf. A guest whose input waited for a commit could not even
 * be pinged by the host that should find out whether it lives; and after a failover input that was
 * held is input that was lost, though its sender had no reason to send it again.
 */
#include "tests/unit/fakevm.h"
#include "tests/unit/unit.h"

#include "hv/devices.h"
#include "netbuf/netbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOT = 1, RX = 0, TX = 1, HDR = 12, FRAME = 60, RX_LEN = 2048, LIMIT = 4096 };

static struct vm vm;
static struct vnet *dev;
static struct netbuf *nb;
static struct part part;
static struct drv drv[2];
static int wire;
static uint16_t posted[2];

static void open_all(void)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
	struct epoch_trigger none = {0};
	struct err err = {0};
	int fds[2];

	fake_vm_open(&vm);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX,
					 SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
					 fds),
			      0);
	wire = fds[1];
	CU_ASSERT_EQUAL_FATAL(netbuf_create(LIMIT, vm.loop, 0, none, &nb, &err), 0);
	CU_ASSERT_EQUAL_FATAL(vnet_create(&vm, fds[0], mac, &dev, &err), 0);
	CU_ASSERT_EQUAL_FATAL(netbuf_add_net(nb, dev, &err), 0);
	part = netbuf_part(nb);
	drv_start(&vm, SLOT, 0, drv, 2);
	posted[RX] = posted[TX] = 0;
}

static void close_all(void)
{
	netbuf_destroy(nb);
	fake_vm_close(&vm);
	close(wire);
}

/* The guest says a frame: does one come out? */
static int says(void)
{
	uint16_t i = posted[TX]++ % 8;
	uint64_t at = drv_data(&drv[TX]) + i * RX_LEN;
	uint8_t out[HDR + FRAME];

	memset(vm.gm.ram + at, 0, HDR);
	memset(vm.gm.ram + at + HDR, i, FRAME);
	drv_desc(&drv[TX], i, at, HDR + FRAME, 0, 0);
	drv_post(&drv[TX], i);
	vm_watch(&vm);
	drv_kick(&vm, SLOT, TX);
	vm_turn(&vm);
	return recv(wire, out, sizeof(out), 0) == (ssize_t)sizeof(out);
}

/* A frame comes for the guest: is it in its memory, with an interrupt, now? */
static int hears(uint8_t fill)
{
	uint16_t i = posted[RX]++ % 8;
	uint64_t at = drv_data(&drv[RX]) + i * RX_LEN;
	uint8_t in[HDR + FRAME] = {0};
	unsigned raised = vm.msi[1]->raised;
	uint32_t head, len;

	memset(in + HDR, fill, FRAME);
	drv_desc(&drv[RX], i, at, RX_LEN, D_WRITE, 0);
	drv_post(&drv[RX], i);
	vm_watch(&vm);
	drv_kick(&vm, SLOT, RX);
	CU_ASSERT_EQUAL(send(wire, in, sizeof(in), 0), (ssize_t)sizeof(in));
	vm_turn(&vm);
	return drv_take(&drv[RX], &head, &len) == 1 && len == HDR + FRAME &&
	       vm.gm.ram[at + HDR] == fill && vm.msi[1]->raised > raised;
}

static void capture(uint64_t epoch)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(part.ops->capture(part.self, epoch, &err), 0);
}

static void test_input_is_never_held(void)
{
	struct netbuf_stats st;
	struct err err = {0};

	open_all();
	CU_ASSERT_TRUE(says());
	CU_ASSERT_TRUE(hears(1));
	CU_ASSERT_EQUAL(part.ops->sync_begin(part.self, NULL, &err), 0);
	CU_ASSERT_TRUE(hears(2));
	capture(0);
	CU_ASSERT_FALSE(says());
	CU_ASSERT_TRUE(hears(3)); /* within an epoch */
	capture(1);
	CU_ASSERT_TRUE(hears(4)); /* one in flight, one open */
	for (int i = 0; i < LIMIT / FRAME + 1; i++)
		CU_ASSERT_FALSE(says());
	netbuf_stats(nb, &st);
	CU_ASSERT_TRUE(st.refused > 0);
	CU_ASSERT_TRUE(hears(5)); /* no room for output */
	part.ops->unlinked(part.self);
	CU_ASSERT_FALSE(says());
	CU_ASSERT_TRUE(hears(6)); /* nothing will be committed until a grant */
	close_all();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"input is never held", test_input_is_never_held},
	};

	return UNIT_MAIN("netbuf_input", tests);
}
