/* SPDX-License-Identifier: Apache-2.0
 * disk - one block a turn and a header block, written, read back and checked (proto.h).
 */
#include "tests/guest/disk.h"

#include "tests/guest/io.h"
#include "tests/guest/net.h"
#include "tests/guest/proto.h"
#include "tests/guest/say.h"
#include "tests/guest/virtio.h"

enum { BLK_ID = 2, F_FLUSH = 1 << 9, T_IN = 0, T_OUT = 1, T_FLUSH = 4, SECTOR = 512 };
enum { WORDS = GP_BLOCK / 8, PER_BLOCK = GP_BLOCK / SECTOR, NO_STATUS = 0xff };

struct head {
	uint32_t type, reserved;
	uint64_t sector;
};

static struct virtio dev;
static struct vring ring;
static struct head head;
static uint64_t block[WORDS] __attribute__((aligned(GP_BLOCK)));
static volatile uint8_t status;
static uint64_t blocks; /* of turns: the header's is not counted */

int disk_open(void)
{
	uint64_t sectors;

	if (!virtio_find(BLK_ID, &dev) || !dev.device || !virtio_begin(&dev, F_FLUSH))
		return 0;
	sectors = io_read32(dev.device) | (uint64_t)io_read32(dev.device + 4) << 32;
	if (sectors / PER_BLOCK < 2)
		return 0;
	blocks = sectors / PER_BLOCK - 1;
	vring_open(&dev, 0, &ring);
	virtio_run(&dev);
	return 1;
}

/* One request from its beginning to its end. Pings are answered meanwhile. */
static void request(uint32_t type, uint64_t at)
{
	struct vring_buf buf[3] = {{.at = &head, .len = sizeof(head)}};
	unsigned n = 1;
	uint16_t id;
	uint32_t len;

	head = (struct head){.type = type, .sector = at * PER_BLOCK};
	status = NO_STATUS;
	if (type != T_FLUSH)
		buf[n++] = (struct vring_buf){
			.at = block, .len = GP_BLOCK, .device_writes = type == T_IN};
	buf[n++] = (struct vring_buf){
		.at = (void *)(uint64_t)&status, .len = 1, .device_writes = 1};
	vring_put(&ring, 0, buf, n);
	while (!vring_done(&ring, &id, &len)) {
		net_poll();
		io_relax();
	}
	if (status)
		fail(type == T_IN    ? "disk: a read failed"
		     : type == T_OUT ? "disk: a write failed"
				     : "disk: a flush failed");
}

static void write_block(uint64_t at, uint64_t n)
{
	for (uint64_t i = 0; i < WORDS; i++)
		block[i] = n ^ i;
	request(T_OUT, at);
}

static uint64_t read_block(uint64_t at)
{
	request(T_IN, at);
	io_order();
	for (uint64_t i = 1; i < WORDS; i++)
		if ((block[i] ^ i) != block[0])
			fail("disk: a block is torn");
	return block[0];
}

uint64_t disk_turn(uint64_t n, int flush, uint64_t pick)
{
	/* Blocks that still hold what this boot wrote. */
	uint64_t reach = n < blocks ? n : blocks;
	uint64_t old = n - pick % reach;
	uint64_t found;

	write_block(1 + n % blocks, n);
	write_block(0, n);
	if (flush)
		request(T_FLUSH, 0);
	if (read_block(1 + old % blocks) != old)
		fail("disk: a block is not what was written");
	found = read_block(0);
	if (found != n)
		fail("disk: the header is not the last turn's");
	return found;
}
