/* SPDX-License-Identifier: Apache-2.0
 * net - frames of proto.h over virtio-net.
 */
#include "tests/guest/net.h"

#include "tests/guest/io.h"
#include "tests/guest/proto.h"
#include "tests/guest/virtio.h"

enum { NET_ID = 1, RX = 0, TX = 1, F_MAC = 1 << 5, VIRTIO_HEADER = 12, RX_BYTES = 2048 };

struct out {
	uint8_t header[VIRTIO_HEADER];
	struct gp_frame frame;
};

static struct virtio dev;
static struct vring rx, tx;
static uint8_t rx_buf[VRING_SIZE][RX_BYTES];
static struct out tx_buf[VRING_SIZE];
static uint8_t tx_busy[VRING_SIZE];
static uint8_t mac[6];
static struct net_report now;
static int is_open;
static void (*work_of_ping)(void);

static void post(uint16_t slot)
{
	struct vring_buf b = {.at = rx_buf[slot], .len = RX_BYTES, .device_writes = 1};

	vring_put(&rx, slot, &b, 1);
}

int net_open(void)
{
	if (!virtio_find(NET_ID, 0, &dev) || !dev.device || !virtio_begin(&dev, F_MAC))
		return 0;
	for (unsigned i = 0; i < sizeof(mac); i++)
		mac[i] = io_read8(dev.device + i);
	vring_open(&dev, RX, &rx);
	vring_open(&dev, TX, &tx);
	virtio_run(&dev);
	for (uint16_t i = 0; i < VRING_SIZE; i++)
		post(i);
	is_open = 1;
	return 1;
}

/* A free place for one frame, or NULL. */
static struct out *slot_take(void)
{
	uint16_t slot;
	uint32_t len;

	while (vring_done(&tx, &slot, &len))
		tx_busy[slot] = 0;
	for (slot = 0; slot < VRING_SIZE; slot++)
		if (!tx_busy[slot])
			return &tx_buf[slot];
	return 0;
}

static void frame_fill(struct out *o, const uint8_t dst[6], enum gp_type type)
{
	*o = (struct out){0};
	memcpy(o->frame.dst, dst, 6);
	memcpy(o->frame.src, mac, 6);
	o->frame.ethertype = __builtin_bswap16(GP_ETHERTYPE);
	o->frame.magic = GP_MAGIC;
	o->frame.type = type;
	o->frame.boot_id = now.boot_id;
	o->frame.n = now.n;
	o->frame.mem_n = now.mem_n;
	o->frame.disk_n = now.disk_n;
	o->frame.tsc = io_tsc();
}

static void slot_send(struct out *o)
{
	uint16_t slot = (uint16_t)(o - tx_buf);
	struct vring_buf b = {.at = o, .len = sizeof(*o)};

	tx_busy[slot] = 1;
	vring_put(&tx, slot, &b, 1);
}

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

void net_count(const struct net_report *r)
{
	struct out *o;

	now = *r;
	if (!is_open)
		return;
	while (!(o = slot_take())) {
		net_poll();
		io_relax();
	}
	frame_fill(o, everybody, GP_COUNT);
	o->frame.seq = r->blocks;
	slot_send(o);
}

/* A ping that finds no room for its answer is dropped: the client asks again. */
static void answer(const struct gp_frame *ping)
{
	struct out *o = slot_take();

	if (work_of_ping)
		work_of_ping();
	if (!o)
		return;
	frame_fill(o, ping->src, GP_PONG);
	o->frame.seq = ping->seq;
	slot_send(o);
}

void net_serve(void (*work)(void))
{
	work_of_ping = work;
}

void net_poll(void)
{
	struct gp_frame f;
	uint16_t slot;
	uint32_t len;

	while (is_open && vring_done(&rx, &slot, &len)) {
		memcpy(&f, rx_buf[slot] + VIRTIO_HEADER, sizeof(f));
		if (len >= VIRTIO_HEADER + sizeof(f) &&
		    f.ethertype == __builtin_bswap16(GP_ETHERTYPE) &&
		    f.magic == GP_MAGIC && f.type == GP_PING)
			answer(&f);
		post(slot);
	}
}

void net_fail(const char *why)
{
	struct out *o;
	unsigned i = 0;

	if (!is_open)
		return;
	is_open = 0; /* a failure on the way here must not come back */
	while (!(o = slot_take()))
		io_relax();
	frame_fill(o, everybody, GP_FAIL);
	for (; why[i] && i + 1 < sizeof(o->frame.text); i++)
		o->frame.text[i] = why[i];
	slot_send(o);
}
