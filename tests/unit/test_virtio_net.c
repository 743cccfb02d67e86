/* SPDX-License-Identifier: Apache-2.0
 * test_virtio_net - the network card, with a packet socket pair in the tap's place.
 */
#include "tests/unit/unit.h"

#include "hv/devices.h"
#include "tests/unit/fakevm.h"

#include <fcntl.h>
#include <sys/socket.h>

enum { SLOT = 1, RX = 0, TX = 1, HDR = 12, FRAME = 60, MRG_RXBUF = 15, EVENT_IDX = 29 };

/* Where frames go: it counts, and says no when told to. */
struct sink {
	unsigned frames;
	size_t bytes;
	uint8_t first[64];
	int answer;
};

static int sink_frame(void *self, const struct iovec *iov, int n)
{
	struct sink *s = self;
	size_t at = 0;

	if (s->answer)
		return s->answer;
	s->frames++;
	s->bytes = 0;
	for (int i = 0; i < n; i++) {
		for (size_t k = 0; k < iov[i].iov_len && at < sizeof(s->first); k++)
			s->first[at++] = ((uint8_t *)iov[i].iov_base)[k];
		s->bytes += iov[i].iov_len;
	}
	return 0;
}

static struct vm vm;
static struct vnet *dev;
static struct sink sink;
static struct drv drv[2];
static int wire;
static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static void open_net(uint64_t features, int with_sink)
{
	struct net_out out = {.frame = sink_frame, .self = &sink};
	struct err err = {0};
	int fds[2];

	fake_vm_open(&vm);
	sink = (struct sink){0};
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX,
					 SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
					 fds),
			      0);
	wire = fds[1];
	CU_ASSERT_EQUAL_FATAL(vnet_create(&vm, fds[0], mac, &dev, &err), 0);
	if (with_sink)
		vnet_set_out(dev, &out);
	drv_start(&vm, SLOT, features, drv, 2);
}

static void close_net(void)
{
	fake_vm_close(&vm);
	close(wire);
}

/* Buffer @i of a queue: 2 KiB each. */
static uint64_t buf_of(struct drv *q, unsigned i)
{
	return drv_data(q) + i * 2048;
}

static void post_tx(unsigned i, uint32_t len)
{
	memset(vm.gm.ram + buf_of(&drv[TX], i), 0, HDR);
	memset(vm.gm.ram + buf_of(&drv[TX], i) + HDR, 0xC0 + (int)i, len);
	drv_desc(&drv[TX], i, buf_of(&drv[TX], i), HDR + len, 0, 0);
	drv_post(&drv[TX], (uint16_t)i);
	vm_watch(&vm);
}

static void post_rx(unsigned i, uint32_t len)
{
	drv_desc(&drv[RX], i, buf_of(&drv[RX], i), len, D_WRITE, 0);
	drv_post(&drv[RX], (uint16_t)i);
	vm_watch(&vm);
}

static void send_to_guest(size_t len, int fill)
{
	static uint8_t frame[HDR + 70000];

	memset(frame, 0, HDR);
	memset(frame + HDR, fill, len);
	CU_ASSERT_EQUAL(send(wire, frame, HDR + len, 0), (ssize_t)(HDR + len));
	vm_turn(&vm);
}

static void address_is_shown(void)
{
	open_net(0, 1);
	CU_ASSERT_EQUAL(mmio_read(&vm, drv_bar(&vm, SLOT) + WIN_CFG_AT, 4), 0x01005452);
	CU_ASSERT_EQUAL(mmio_read(&vm, drv_bar(&vm, SLOT) + WIN_CFG_AT + 4, 2), 0x0302);
	CU_ASSERT_EQUAL(mmio_read(&vm, drv_bar(&vm, SLOT) + WIN_CFG_AT + 6, 2), 1);
	close_net();
}

static void frames_go_out_unchanged(void)
{
	uint32_t head, len;

	open_net(0, 1);
	post_tx(0, FRAME);
	vm.gm.ram[buf_of(&drv[TX], 0)] = 1; /* a header's flag */
	vm_watch(&vm);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(sink.frames, 1);
	CU_ASSERT_EQUAL(sink.bytes, HDR + FRAME);
	CU_ASSERT_EQUAL(sink.first[0], 1);
	CU_ASSERT_EQUAL(sink.first[HDR], 0xC0);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	CU_ASSERT_EQUAL(len, 0);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	close_net();
}

static void without_an_out_they_go_to_the_tap(void)
{
	uint8_t got[128];

	open_net(0, 0);
	post_tx(0, FRAME);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(recv(wire, got, sizeof(got), 0), HDR + FRAME);
	CU_ASSERT_EQUAL(got[HDR], 0xC0);
	close_net();
}

static void bad_frames_are_dropped_and_given_back(void)
{
	uint32_t head, len;

	open_net(0, 1);
	post_tx(0, 13); /* shorter than an Ethernet header */
	drv_desc(&drv[TX], 1, DRV_BASE, 70000, 0, 0);
	drv_post(&drv[TX], 1);
	sink.answer = 0;
	vm_watch(&vm);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(sink.frames, 0);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	sink.answer = -EIO;
	post_tx(2, FRAME);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0xF);
	close_net();
}

static void a_full_way_out_stops_the_queue(void)
{
	uint32_t head, len;

	open_net(0, 1);
	sink.answer = -EAGAIN;
	post_tx(0, FRAME);
	post_tx(1, FRAME);
	drv_kick(&vm, SLOT, TX);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 0);
	sink.answer = 0;
	drv_kick(&vm, SLOT, TX); /* a kick is no permission */
	CU_ASSERT_EQUAL(sink.frames, 0);
	vnet_tx_resume(dev);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(sink.frames, 2);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	CU_ASSERT_EQUAL(head, 0);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	CU_ASSERT_EQUAL(vm.msi[2]->raised > 0, 1);
	close_net();
}

static void a_full_tap_stops_the_queue(void)
{
	uint8_t got[4096];
	unsigned sent = 0, seen = 0;
	uint32_t head, len;

	open_net(0, 0);
	do {
		post_tx(sent % DRV_SIZE, 1500);
		drv_kick(&vm, SLOT, TX);
		sent++;
	} while (drv_take(&drv[TX], &head, &len) && sent < 100000);
	CU_ASSERT_TRUE(sent > 1 && sent < 100000);
	/* The tap has room again: nothing was lost. */
	while (recv(wire, got, sizeof(got), 0) > 0) {
		seen++;
		vm_turn(&vm);
	}
	CU_ASSERT_EQUAL(seen, sent);
	close_net();
}

static void input_reaches_the_guest(void)
{
	uint32_t head, len;

	open_net(0, 1);
	post_rx(0, 2048);
	drv_kick(&vm, SLOT, RX);
	send_to_guest(FRAME, 0xAA);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
	CU_ASSERT_EQUAL(len, HDR + FRAME);
	CU_ASSERT_EQUAL(vm.gm.ram[buf_of(&drv[RX], 0) + HDR], 0xAA);
	CU_ASSERT_EQUAL(get16(&vm, buf_of(&drv[RX], 0) + 10), 1);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	CU_ASSERT_EQUAL(vm.msi[1]->raised, 1);
	close_net();
}

static void input_waits_for_buffers(void)
{
	uint32_t head, len;

	open_net(0, 1);
	send_to_guest(FRAME, 1);
	send_to_guest(FRAME, 2);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 0);
	post_rx(0, 2048);
	post_rx(1, 2048);
	drv_kick(&vm, SLOT, RX);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
	CU_ASSERT_EQUAL(vm.gm.ram[buf_of(&drv[RX], 0) + HDR], 1);
	CU_ASSERT_EQUAL(vm.gm.ram[buf_of(&drv[RX], 1) + HDR], 2);
	close_net();
}

static void long_frames_are_spread(void)
{
	uint32_t head, len, total = 0;

	open_net(1 << MRG_RXBUF, 1);
	post_rx(0, 2048);
	post_rx(1, 2048);
	drv_kick(&vm, SLOT, RX);
	send_to_guest(5000, 0x66);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 0); /* not half of it */
	post_rx(2, 2048);
	drv_kick(&vm, SLOT, RX);
	for (unsigned i = 0; i < 3; i++) {
		CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
		CU_ASSERT_EQUAL(head, i);
		total += len;
	}
	CU_ASSERT_EQUAL(total, HDR + 5000);
	CU_ASSERT_EQUAL(get16(&vm, buf_of(&drv[RX], 0) + 10), 3);
	CU_ASSERT_EQUAL(vm.gm.ram[buf_of(&drv[RX], 2)], 0x66);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	close_net();
}

/* The kick is asked for behind the buffers that were too few, not before them. */
static void more_buffers_are_asked_for(void)
{
	open_net(1 << MRG_RXBUF | 1 << EVENT_IDX, 1);
	post_rx(0, 2048);
	post_rx(1, 2048);
	drv_kick(&vm, SLOT, RX);
	send_to_guest(5000, 0x66);
	CU_ASSERT_EQUAL(get16(&vm, drv[RX].base + DRV_USED + 4 + 8 * DRV_SIZE), 2);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	close_net();
}

static void frames_too_long_for_any_buffer_are_dropped(void)
{
	uint32_t head, len;

	open_net(0, 1);
	post_rx(0, 512);
	drv_kick(&vm, SLOT, RX);
	send_to_guest(1500, 1);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 0);
	send_to_guest(FRAME, 2);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
	CU_ASSERT_EQUAL(vm.gm.ram[buf_of(&drv[RX], 0) + HDR], 2);
	close_net();
}

/* A ring full of small buffers: more will never come, so waiting would be for ever. */
static void frames_too_long_for_the_ring_are_dropped(void)
{
	uint32_t head, len;

	open_net(1 << MRG_RXBUF, 1);
	for (unsigned i = 0; i < DRV_SIZE; i++)
		post_rx(i, 64);
	drv_kick(&vm, SLOT, RX);
	send_to_guest(5000, 1);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 0);
	send_to_guest(FRAME, 2);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
	CU_ASSERT_EQUAL(vm.gm.ram[buf_of(&drv[RX], 0) + HDR], 2);
	close_net();
}

static void readable_receive_buffers_break(void)
{
	open_net(0, 1);
	drv_desc(&drv[RX], 0, buf_of(&drv[RX], 0), 2048, 0, 0);
	drv_post(&drv[RX], 0);
	drv_kick(&vm, SLOT, RX);
	send_to_guest(FRAME, 1);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0x4F);
	send_to_guest(FRAME, 1);
	close_net();
}

static void nothing_is_touched_between_load_and_loaded(void)
{
	struct err err = {0};
	struct buf b = {0};
	struct reader r;
	uint32_t head, len;

	open_net(0, 1);
	post_rx(0, 2048);
	post_tx(0, FRAME);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	r = reader_of(b.data, b.len);
	CU_ASSERT_EQUAL(vm.dev[0].ops->load(vm.dev[0].self, &r, &err), 0);
	vm_watch(&vm);
	send_to_guest(FRAME, 1);
	drv_kick(&vm, SLOT, RX);
	drv_kick(&vm, SLOT, TX);
	vnet_tx_resume(dev);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram, vm.gm.seen, FAKE_RAM), 0);
	CU_ASSERT_EQUAL(sink.frames, 0);
	vm.dev[0].ops->loaded(vm.dev[0].self);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(drv_take(&drv[RX], &head, &len), 1);
	CU_ASSERT_EQUAL(sink.frames, 1);
	buf_fini(&b);
	close_net();
}

static void without_a_tap_output_vanishes(void)
{
	struct err err = {0};
	uint32_t head, len;

	fake_vm_open(&vm);
	CU_ASSERT_EQUAL_FATAL(vnet_create(&vm, -1, mac, &dev, &err), 0);
	drv_start(&vm, SLOT, 0, drv, 2);
	post_tx(0, FRAME);
	drv_kick(&vm, SLOT, TX);
	drv_kick(&vm, SLOT, RX);
	CU_ASSERT_EQUAL(drv_take(&drv[TX], &head, &len), 1);
	CU_ASSERT_EQUAL(vnet_tap_fd(dev), -1);
	CU_ASSERT_EQUAL(vnet_tap_write(dev, NULL, 0), -ENODEV);
	fake_vm_close(&vm);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"address is shown", address_is_shown},
		{"frames go out unchanged", frames_go_out_unchanged},
		{"without an out they go to the tap", without_an_out_they_go_to_the_tap},
		{"bad frames are dropped", bad_frames_are_dropped_and_given_back},
		{"a full way out stops the queue", a_full_way_out_stops_the_queue},
		{"a full tap stops the queue", a_full_tap_stops_the_queue},
		{"input reaches the guest", input_reaches_the_guest},
		{"input waits for buffers", input_waits_for_buffers},
		{"long frames are spread", long_frames_are_spread},
		{"more buffers are asked for", more_buffers_are_asked_for},
		{"frames too long are dropped",
		 frames_too_long_for_any_buffer_are_dropped},
		{"frames too long for the ring",
		 frames_too_long_for_the_ring_are_dropped},
		{"readable receive buffers break", readable_receive_buffers_break},
		{"nothing between load and loaded",
		 nothing_is_touched_between_load_and_loaded},
		{"without a tap output vanishes", without_a_tap_output_vanishes},
	};

	return UNIT_MAIN("virtio_net", tests);
}
