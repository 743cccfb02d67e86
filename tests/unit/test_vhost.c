/* SPDX-License-Identifier: Apache-2.0
 * test_vhost - a network card whose queues the kernel serves, with a kernel that the test plays.
 */
#include "tests/unit/unit.h"

#include "hv/devices.h"
#include "hv/vhost.h"
#include "tests/unit/fakevm.h"

#include <fcntl.h>
#include <linux/vhost.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { SLOT = 1, RX = 0, TX = 1, HDR = 12, FRAME = 60, EVENT_IDX = 29, LOG_ALL = 26 };

/* What vhost-net was told, and how it would serve a ring. */
static struct {
	struct vm *vm;
	uint64_t features, has;
	uint8_t *log;
	unsigned regions, owners;
	struct {
		unsigned num, base;
		struct vhost_vring_addr at;
		int kick, call, err, tap;
	} q[2];
	unsigned long fail; /* this request fails, with -EIO */
	int fail_tap;	    /* and only with this tap, for SET_BACKEND */
} k;

static int serve_ioctl(void *arg, int fd, unsigned long request, void *p)
{
	struct vhost_vring_state *s = p;
	struct vhost_vring_file *f = p;

	if (request == k.fail &&
	    (request != VHOST_NET_SET_BACKEND || f->fd == k.fail_tap))
		return -EIO;
	switch (request) {
	case VHOST_SET_OWNER:
		k.owners++;
		break;
	case VHOST_GET_FEATURES:
		*(uint64_t *)p = k.has;
		break;
	case VHOST_SET_FEATURES:
		k.features = *(uint64_t *)p;
		break;
	case VHOST_SET_MEM_TABLE:
		k.regions = ((struct vhost_memory *)p)->nregions;
		break;
	case VHOST_SET_LOG_BASE:
		k.log = (uint8_t *)(uintptr_t) * (uint64_t *)p;
		break;
	case VHOST_SET_VRING_NUM:
		k.q[s->index].num = s->num;
		break;
	case VHOST_SET_VRING_BASE:
		k.q[s->index].base = s->num;
		break;
	case VHOST_GET_VRING_BASE:
		s->num = k.q[s->index].base;
		break;
	case VHOST_SET_VRING_ADDR:
		k.q[((struct vhost_vring_addr *)p)->index].at =
			*(struct vhost_vring_addr *)p;
		break;
	case VHOST_SET_VRING_KICK:
		k.q[f->index].kick = f->fd;
		break;
	case VHOST_SET_VRING_CALL:
		k.q[f->index].call = f->fd;
		break;
	case VHOST_SET_VRING_ERR:
		k.q[f->index].err = f->fd;
		break;
	case VHOST_NET_SET_BACKEND:
		k.q[f->index].tap = f->fd;
		break;
	default:
		return -ENOTTY;
	}
	return 0;
}

static const struct vhost_sys sys = {.ioctl = serve_ioctl};

static struct vm vm;
static struct vnet *dev;
static struct drv drv[2];
static unsigned sunk;
static int wire;
static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

/* The used ring and the log are written behind the device's back, as the kernel does. */
static unsigned serve(unsigned queue)
{
	uint8_t *avail = (uint8_t *)(uintptr_t)k.q[queue].at.avail_user_addr;
	uint8_t *used = (uint8_t *)(uintptr_t)k.q[queue].at.used_user_addr;
	uint64_t page = k.q[queue].at.log_guest_addr / GM_PAGE;
	uint16_t idx, done;
	unsigned n = 0;

	if (k.q[queue].tap < 0)
		return 0;
	memcpy(&idx, avail + 2, sizeof(idx));
	memcpy(&done, used + 2, sizeof(done));
	for (; (uint16_t)k.q[queue].base != idx; k.q[queue].base++, n++) {
		uint32_t e[2] = {0, 0};

		memcpy(e, avail + 4 + 2 * (k.q[queue].base % k.q[queue].num), 2);
		memcpy(used + 4 + 8 * (done++ % k.q[queue].num), e, sizeof(e));
	}
	memcpy(used + 2, &done, sizeof(done));
	if (n && k.q[queue].at.flags & 1 << VHOST_VRING_F_LOG)
		k.log[page / 8] |= (uint8_t)(1 << page % 8);
	return n;
}

static int sink_frame(void *self, const struct iovec *iov, int n)
{
	sunk++;
	return 0;
}

static int create(struct err *err)
{
	struct net_out out = {.frame = sink_frame};
	int fds[2];

	fake_vm_open(&vm);
	sunk = 0;
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX,
					 SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
					 fds),
			      0);
	wire = fds[1];
	CU_ASSERT_EQUAL_FATAL(vnet_create(&vm, fds[0], mac, &dev, err), 0);
	vnet_set_out(dev, &out);
	return vnet_use_vhost(dev, &vm, eventfd(0, EFD_CLOEXEC), &sys, err);
}

static void reset_kernel(void)
{
	memset(&k, 0, sizeof(k));
	k.has = vhost_features() | 1ull << LOG_ALL;
	k.q[0].tap = k.q[1].tap = -1;
}

static void open_net(void)
{
	struct err err = {0};

	reset_kernel();
	CU_ASSERT_EQUAL_FATAL(create(&err), 0);
	drv_start(&vm, SLOT, 1u << EVENT_IDX, drv, 2);
}

static void close_net(void)
{
	fake_vm_close(&vm);
	close(wire);
}

static void post_tx(unsigned i)
{
	uint64_t at = drv_data(&drv[TX]) + i * 2048;

	drv_desc(&drv[TX], i, at, HDR + FRAME, 0, 0);
	drv_post(&drv[TX], (uint16_t)i);
}

static int pause_vm(void)
{
	return vm.pausing->pause(vm.pausing_self);
}

static void resume_vm(void)
{
	vm.pausing->resume(vm.pausing_self);
}

/* How often the kick was written since it was read last, and reads it. */
static uint64_t kicks(unsigned queue)
{
	uint64_t n = 0;

	return read(k.q[queue].kick, &n, sizeof(n)) < 0 ? 0 : n;
}

static void the_kernel_serves_from_the_first_kick_on(void)
{
	open_net();
	CU_ASSERT_EQUAL(k.owners, 1);
	CU_ASSERT_EQUAL(k.regions, 1);
	CU_ASSERT_EQUAL(k.features, 1ull << 32 | 1u << EVENT_IDX | 1u << LOG_ALL);
	for (unsigned i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(k.q[i].num, DRV_SIZE);
		CU_ASSERT_EQUAL(k.q[i].tap, vnet_tap_fd(dev));
		CU_ASSERT_EQUAL(k.q[i].at.log_guest_addr, drv[i].base + DRV_USED);
		CU_ASSERT_EQUAL(k.q[i].at.flags, 1 << VHOST_VRING_F_LOG);
		CU_ASSERT(kicks(i) > 0);
	}
	/* Kicks are not looked at here any more. */
	post_tx(0);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(sunk, 0);
	CU_ASSERT_EQUAL(serve(TX), 1);
	close_net();
}

static void a_pause_stops_it_and_takes_over(void)
{
	uint32_t head, len;

	open_net();
	vm_watch(&vm);
	post_tx(0);
	post_tx(1);
	CU_ASSERT_EQUAL(serve(TX), 2);
	post_tx(2);
	CU_ASSERT_EQUAL(pause_vm(), 0);
	CU_ASSERT_EQUAL(serve(TX), 0);
	CU_ASSERT_EQUAL(serve(RX), 0);
	/* What the kernel wrote is marked, once. */
	CU_ASSERT(vm.gm.marked[drv[TX].base + DRV_USED + 2]);
	CU_ASSERT_EQUAL(k.log[(drv[TX].base + DRV_USED) / GM_PAGE / 8], 0);
	while (kicks(TX))
		;
	resume_vm();
	CU_ASSERT(kicks(TX) > 0);
	CU_ASSERT(kicks(RX) > 0);
	CU_ASSERT_EQUAL(serve(TX), 1);
	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	close_net();
}

/* The state says nothing of vhost: who loads it goes on with it or without. */
static void a_state_moves_to_a_card_without(void)
{
	struct err err = {0};
	struct buf b = {0};
	struct reader r;
	uint32_t head, len;

	open_net();
	post_tx(0);
	post_tx(1);
	CU_ASSERT_EQUAL(serve(TX), 2);
	post_tx(2);
	CU_ASSERT_EQUAL(pause_vm(), 0);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	r = reader_of(b.data, b.len);
	k.fail = VHOST_SET_VRING_NUM; /* from here on it does without */
	CU_ASSERT_EQUAL(vm.dev[0].ops->load(vm.dev[0].self, &r, &err), 0);
	resume_vm();
	CU_ASSERT_EQUAL(k.q[TX].tap, -1);
	vm.dev[0].ops->loaded(vm.dev[0].self);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(sunk, 1);
	for (unsigned i = 0; i < 3; i++) {
		CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
		CU_ASSERT_EQUAL(head, i);
	}
	buf_fini(&b);
	close_net();
}

static void a_state_moves_to_a_card_with(void)
{
	struct err err = {0};
	struct buf b = {0};
	struct reader r;

	open_net();
	post_tx(0);
	post_tx(1);
	CU_ASSERT_EQUAL(serve(TX), 2);
	CU_ASSERT_EQUAL(pause_vm(), 0);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	r = reader_of(b.data, b.len);
	k.q[TX].base = 99;
	CU_ASSERT_EQUAL(vm.dev[0].ops->load(vm.dev[0].self, &r, &err), 0);
	resume_vm();
	vm.dev[0].ops->loaded(vm.dev[0].self);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(k.q[TX].base, 2);
	CU_ASSERT_EQUAL(k.q[TX].tap, vnet_tap_fd(dev));
	buf_fini(&b);
	close_net();
}

static void a_queue_that_does_not_stop_is_no_pause(void)
{
	open_net();
	k.fail = VHOST_NET_SET_BACKEND;
	k.fail_tap = -1;
	CU_ASSERT_EQUAL(pause_vm(), -EIO);
	k.fail = 0;
	resume_vm();
	CU_ASSERT_EQUAL(pause_vm(), 0);
	k.fail = VHOST_GET_VRING_BASE;
	resume_vm();
	CU_ASSERT_EQUAL(pause_vm(), -EIO);
	k.fail = 0;
	close_net();
}

static void a_queue_that_does_not_go_on_is_served_here(void)
{
	open_net();
	post_tx(0);
	CU_ASSERT_EQUAL(serve(TX), 1);
	CU_ASSERT_EQUAL(pause_vm(), 0);
	post_tx(1);
	k.fail = VHOST_NET_SET_BACKEND;
	k.fail_tap = vnet_tap_fd(dev);
	resume_vm();
	vm_turn(&vm);
	CU_ASSERT_EQUAL(k.q[RX].tap, -1);
	CU_ASSERT_EQUAL(k.q[TX].tap, -1);
	CU_ASSERT_EQUAL(sunk, 1);
	post_tx(2);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(sunk, 2);
	k.fail = 0;
	close_net();
}

static void a_reset_takes_the_queues_back(void)
{
	open_net();
	mmio_write(&vm, drv_bar(&vm, SLOT) + 20, 1, 0);
	CU_ASSERT_EQUAL(k.q[RX].tap, -1);
	CU_ASSERT_EQUAL(k.q[TX].tap, -1);
	vm_turn(&vm);
	drv_start(&vm, SLOT, 0, drv, 2);
	CU_ASSERT_EQUAL(k.q[TX].tap, vnet_tap_fd(dev));
	CU_ASSERT_EQUAL(k.q[TX].base, 0);
	CU_ASSERT_EQUAL(k.features, 1ull << 32 | 1u << LOG_ALL);
	/* In a pause, as when an operator reboots the guest: it stays stopped. */
	CU_ASSERT_EQUAL(pause_vm(), 0);
	vm.dev[0].ops->reset(vm.dev[0].self);
	resume_vm();
	CU_ASSERT_EQUAL(k.q[TX].tap, -1);
	close_net();
}

static void its_signals_reach_the_guest(void)
{
	uint64_t one = 1;
	unsigned before;

	open_net();
	before = vm.msi[2]->raised;
	CU_ASSERT_EQUAL(write(k.q[TX].call, &one, sizeof(one)), sizeof(one));
	vm_turn(&vm);
	CU_ASSERT_EQUAL(vm.msi[2]->raised, before + 1);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0xF);
	CU_ASSERT_EQUAL(write(k.q[RX].err, &one, sizeof(one)), sizeof(one));
	vm_turn(&vm);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0x4F);
	close_net();
}

static void kernels_that_lack_something_are_refused(void)
{
	static const unsigned long needed[] = {VHOST_SET_OWNER, VHOST_GET_FEATURES,
					       VHOST_SET_MEM_TABLE, VHOST_SET_LOG_BASE};
	struct err err = {0};

	reset_kernel();
	k.has = vhost_features();
	CU_ASSERT_EQUAL(create(&err), -EOPNOTSUPP);
	close_net();
	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		reset_kernel();
		k.fail = needed[i];
		CU_ASSERT_EQUAL(create(&err), -EIO);
		close_net();
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the kernel serves from the first kick",
		 the_kernel_serves_from_the_first_kick_on},
		{"a pause stops it and takes over", a_pause_stops_it_and_takes_over},
		{"a state moves to a card without", a_state_moves_to_a_card_without},
		{"a state moves to a card with", a_state_moves_to_a_card_with},
		{"a queue that does not stop is no pause",
		 a_queue_that_does_not_stop_is_no_pause},
		{"a queue that does not go on is served here",
		 a_queue_that_does_not_go_on_is_served_here},
		{"a reset takes the queues back", a_reset_takes_the_queues_back},
		{"its signals reach the guest", its_signals_reach_the_guest},
		{"kernels that lack something are refused",
		 kernels_that_lack_something_are_refused},
	};

	return UNIT_MAIN("vhost", tests);
}
