/* SPDX-License-Identifier: Apache-2.0
 * disk - on each disk one block a turn and a header block, written, read back and checked (proto.h).
 */
#include "tests/guest/disk.h"

#include "tests/guest/io.h"
#include "tests/guest/memory.h"
#include "tests/guest/net.h"
#include "tests/guest/proto.h"
#include "tests/guest/say.h"
#include "tests/guest/virtio.h"

enum { BLK_ID = 2, F_FLUSH = 1 << 9, T_IN = 0, T_OUT = 1, T_FLUSH = 4, SECTOR = 512 };
enum {
	DISKS_MAX = 2,
	WORDS = GP_BLOCK / 8,
	PER_BLOCK = GP_BLOCK / SECTOR,
	NO_STATUS = 0xff
};

struct head {
	uint32_t type, reserved;
	uint64_t sector;
};

static struct disk {
	struct virtio dev;
	struct vring ring;
	uint64_t blocks; /* of turns: neither the header's nor scattered ones */
	uint64_t first, more,
		since; /* blocks at the start; and that came after, by which turn */
} disk[DISKS_MAX];
static unsigned disks;
static uint64_t scatter; /* blocks at a disk's end */
static struct head head;
static uint64_t block[WORDS] __attribute__((aligned(GP_BLOCK)));
static volatile uint8_t status;

/* A size that changes while it is read is read again (Virtual I/O Device 1.2, 2.5.1). */
static uint64_t sectors_of(struct disk *d)
{
	uint64_t sectors;
	uint8_t before;

	do {
		before = virtio_generation(&d->dev);
		sectors = io_read32(d->dev.device) |
			  (uint64_t)io_read32(d->dev.device + 4) << 32;
	} while (virtio_generation(&d->dev) != before);
	return sectors;
}

static int open_one(struct disk *d, unsigned nth)
{
	uint64_t sectors;

	if (!virtio_find(BLK_ID, nth, &d->dev) || !d->dev.device ||
	    !virtio_begin(&d->dev, F_FLUSH))
		return 0;
	sectors = sectors_of(d);
	if (sectors / PER_BLOCK < 2 + scatter)
		return 0;
	d->blocks = sectors / PER_BLOCK - 1 - scatter;
	d->first = sectors / PER_BLOCK;
	vring_open(&d->dev, 0, &d->ring);
	virtio_run(&d->dev);
	return 1;
}

int disk_open(unsigned n, uint64_t scattered)
{
	if (n > DISKS_MAX)
		return 0;
	scatter = scattered;
	for (disks = 0; disks < n; disks++)
		if (!open_one(&disk[disks], disks))
			return 0;
	return 1;
}

/* One request from its beginning to its end. Pings are answered meanwhile. */
static void request(struct disk *d, uint32_t type, uint64_t at)
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
	vring_put(&d->ring, 0, buf, n);
	while (!vring_done(&d->ring, &id, &len)) {
		net_poll();
		io_relax();
	}
	if (status)
		fail(type == T_IN    ? "disk: a read failed"
		     : type == T_OUT ? "disk: a write failed"
				     : "disk: a flush failed");
}

static void write_block(struct disk *d, uint64_t at, uint64_t n)
{
	for (uint64_t i = 0; i < WORDS; i++)
		block[i] = n ^ i;
	request(d, T_OUT, at);
}

static uint64_t read_block(struct disk *d, uint64_t at)
{
	request(d, T_IN, at);
	io_order();
	for (uint64_t i = 1; i < WORDS; i++)
		if ((block[i] ^ i) != block[0])
			fail("disk: a block is torn");
	return block[0];
}

static uint64_t turn(struct disk *d, uint64_t n, int flush, uint64_t pick)
{
	/* Blocks that still hold what this boot wrote. */
	uint64_t reach = n < d->blocks ? n : d->blocks;
	uint64_t old = n - pick % reach;
	uint64_t found;

	write_block(d, 1 + n % d->blocks, n);
	write_block(d, 0, n);
	if (flush)
		request(d, T_FLUSH, 0);
	if (read_block(d, 1 + old % d->blocks) != old)
		fail("disk: a block is not what was written");
	found = read_block(d, 0);
	if (found != n)
		fail("disk: the header is not the last turn's");
	return found;
}

uint64_t disk_turn(uint64_t n, int flush, uint64_t pick)
{
	uint64_t found = 0;

	for (unsigned i = 0; i < disks; i++) {
		uint64_t now = io_tsc();

		if (scatter)
			write_block(&disk[i],
				    1 + disk[i].blocks + (now ^ now >> 16) % scatter,
				    now);
		found = turn(&disk[i], n, flush, pick);
	}
	return found;
}

static void expect_empty(struct disk *d, uint64_t at)
{
	request(d, T_IN, at);
	io_order();
	for (uint64_t i = 0; i < WORDS; i++)
		if (block[i])
			fail("disk: what it got is not empty");
}

static void grow_turn(struct disk *d, uint64_t n, uint64_t pick)
{
	uint64_t more = sectors_of(d) / PER_BLOCK - d->first, reach, old;

	if (more != d->more) {
		/* What came now, at its beginning and at its end. */
		expect_empty(d, d->first + d->more);
		expect_empty(d, d->first + more - 1);
		d->more = more;
		d->since = n;
	}
	if (!more)
		return;
	reach = n - d->since + 1 < more ? n - d->since + 1 : more;
	old = n - pick % reach;
	write_block(d, d->first + n % more, n);
	if (read_block(d, d->first + old % more) != old)
		fail("disk: a block of what it got is not what was written");
}

uint64_t disk_grow_turn(uint64_t n, uint64_t pick)
{
	uint64_t blocks = 0;

	for (unsigned i = 0; i < disks; i++) {
		grow_turn(&disk[i], n, pick);
		blocks += disk[i].first + disk[i].more;
	}
	return blocks;
}

/* -- load -- */

enum { PER_REQUEST = 3 }; /* descriptors */
_Static_assert(DISK_DEPTH_MAX *PER_REQUEST <= VRING_SIZE,
	       "a queue has room for all requests");

static struct head heads[DISK_DEPTH_MAX];
static volatile uint8_t done[DISK_DEPTH_MAX];

static uint64_t next_place(const struct disk_load *l, uint64_t places)
{
	static uint64_t n, x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (l->random ? x : n++) % places;
}

static void put(const struct disk_load *l, unsigned i, uint64_t place)
{
	uint64_t *data = (uint64_t *)(MEMORY_AT + i * l->bytes);
	struct vring_buf buf[PER_REQUEST] = {
		{.at = &heads[i], .len = sizeof(heads[i])},
		{.at = data, .len = (uint32_t)l->bytes, .device_writes = !l->write},
		{.at = (void *)(uint64_t)&done[i], .len = 1, .device_writes = 1},
	};

	if (l->write)
		data[0] = io_tsc();
	heads[i] = (struct head){.type = l->write ? T_OUT : T_IN,
				 .sector = place * (l->bytes / SECTOR)};
	done[i] = NO_STATUS;
	vring_put(&disk[0].ring, (uint16_t)(i * PER_REQUEST), buf, PER_REQUEST);
}

/* Which came back. */
static unsigned take(void)
{
	uint16_t id;
	uint32_t len;

	while (!vring_done(&disk[0].ring, &id, &len))
		io_relax();
	if (done[id / PER_REQUEST])
		fail("disk: a request of the load failed");
	return id / PER_REQUEST;
}

/* What no compression shortens. */
static void fill_buffers(const struct disk_load *l)
{
	uint64_t *data = (uint64_t *)MEMORY_AT, x = io_tsc() | 1;

	for (uint64_t i = 0; i < l->depth * l->bytes / sizeof(*data); i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = x;
	}
}

void disk_load(const struct disk_load *l, volatile uint64_t *done_out)
{
	uint64_t n = 0, places;

	if (!l->depth || l->depth > DISK_DEPTH_MAX || !l->bytes || l->bytes % GP_BLOCK ||
	    !disks)
		fail("disk: no such load");
	places = (disk[0].blocks + 1) * GP_BLOCK / l->bytes;
	fill_buffers(l);
	for (;;) {
		uint64_t round = l->flush ? l->flush : UINT64_MAX;
		unsigned i;

		for (i = 0; i < l->depth; i++)
			put(l, i, next_place(l, places));
		for (uint64_t k = l->depth; k < round; k++) {
			i = take();
			*done_out = ++n;
			put(l, i, next_place(l, places));
		}
		for (i = 0; i < l->depth; i++) {
			(void)take(); /* all of them */
			*done_out = ++n;
		}
		request(&disk[0], T_FLUSH, 0);
	}
}
