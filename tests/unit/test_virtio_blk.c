/* SPDX-License-Identifier: Apache-2.0
 * test_virtio_blk - the disk: requests, bad requests, and what happens to those in flight.
 *
 * With RHEA_GOLDEN_WRITE in the environment the golden state is written anew before it is
 * compared: for a change of the format that is meant.
 */
#include "tests/unit/unit.h"

#include "hv/devices.h"
#include "tests/unit/fakevm.h"

#define GOLDEN	 "tests/unit/golden/virtio-blk.state"
#define GOLDEN_1 "tests/unit/golden/virtio-blk.1.state" /* of version 1 */

enum { SLOT = 1, SECTORS = 128, HELD_MAX = 256 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xEE };

/* A disk in memory that answers at once, or when it is told to. */
struct disk {
	uint8_t bytes[2 * SECTORS * 512];
	uint64_t capacity;
	struct blk_req *held[HELD_MAX];
	unsigned n, submitted, closed;
	int hold, error;
	enum blk_op last;
};

static void disk_do(struct disk *d, struct blk_req *r)
{
	uint8_t *p = d->bytes + r->offset;

	if (!d->error && r->op == BLK_READ)
		memcpy(r->data->bytes, p, r->len);
	if (!d->error && r->op == BLK_WRITE)
		memcpy(p, r->data->bytes, r->len);
	if (!d->error && (r->op == BLK_ZEROES || r->op == BLK_DISCARD))
		memset(p, 0, r->len);
	r->done(r, d->error);
}

static void disk_submit(void *self, struct blk_req *r)
{
	struct disk *d = self;

	d->submitted++;
	d->last = r->op;
	if (d->hold && d->n < HELD_MAX)
		d->held[d->n++] = r;
	else
		disk_do(d, r);
}

static void disk_release(struct disk *d)
{
	unsigned n = d->n;

	d->n = 0;
	for (unsigned i = 0; i < n; i++)
		disk_do(d, d->held[i]);
}

static uint64_t disk_capacity(void *self)
{
	return ((struct disk *)self)->capacity;
}

static void disk_close(void *self)
{
	struct disk *d = self;

	disk_release(d);
	d->closed++;
}

static const struct blk_ops disk_ops = {
	.name = "test",
	.submit = disk_submit,
	.capacity = disk_capacity,
	.close = disk_close,
};

static struct vm vm;
static struct disk disk;
static struct drv drv;
static struct vblk *dev;

static void open_on(struct vm *on, struct disk *d, int read_only)
{
	struct err err = {0};

	fake_vm_open(on);
	memset(d, 0, sizeof(*d));
	d->capacity = SECTORS * 512;
	for (unsigned i = 0; i < sizeof(d->bytes); i++)
		d->bytes[i] = (uint8_t)(i / 512);
	CU_ASSERT_EQUAL_FATAL(vblk_create(on, (struct blk){&disk_ops, d},
					  "serial-0123456789abcdef", read_only, &dev,
					  &err),
			      0);
}

static void open_blk(void)
{
	open_on(&vm, &disk, 0);
	drv_start(&vm, SLOT, 0, &drv, 1);
}

static void close_blk(void)
{
	fake_vm_close(&vm);
	CU_ASSERT_EQUAL(disk.closed, 1);
}

/* Request @i of 3 descriptors: header, data, status. The data is at data_of(i). */
static uint64_t data_of(unsigned i)
{
	return drv_data(&drv) + 0x1000 + i * 0x1000;
}

static uint64_t status_of(unsigned i)
{
	return drv_data(&drv) + 0x800 + i;
}

static void post(unsigned i, uint32_t type, uint64_t sector, uint32_t len, int to_guest)
{
	uint64_t h = drv_data(&drv) + 16 * i;
	unsigned d = 3 * i;

	memset(drv.vm->gm.ram + h, 0, 16);
	memcpy(drv.vm->gm.ram + h, &type, 4);
	memcpy(drv.vm->gm.ram + h + 8, &sector, 8);
	drv.vm->gm.ram[status_of(i)] = S_NONE;
	drv_desc(&drv, d, h, 16, D_NEXT, (uint16_t)(len ? d + 1 : d + 2));
	drv_desc(&drv, d + 1, data_of(i), len, D_NEXT | (to_guest ? D_WRITE : 0),
		 (uint16_t)(d + 2));
	drv_desc(&drv, d + 2, status_of(i), 1, D_WRITE, 0);
	drv_post(&drv, (uint16_t)d);
	vm_watch(drv.vm);
}

static unsigned result(unsigned i)
{
	return drv.vm->gm.ram[status_of(i)];
}

/* Post, kick, take; returns the status and the used length. */
static unsigned run(uint32_t type, uint64_t sector, uint32_t len, int to_guest,
		    uint32_t *len_out)
{
	uint32_t head;

	post(0, type, sector, len, to_guest);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(drv_take(&drv, &head, len_out), 1);
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	return result(0);
}

static void reads_and_writes(void)
{
	uint32_t len;

	open_blk();
	CU_ASSERT_EQUAL(run(T_IN, 5, 1024, 1, &len), S_OK);
	CU_ASSERT_EQUAL(len, 1025);
	CU_ASSERT_EQUAL(vm.gm.ram[data_of(0)], 5);
	CU_ASSERT_EQUAL(vm.gm.ram[data_of(0) + 1023], 6);
	CU_ASSERT_EQUAL(vm.msi[1]->raised, 1);
	memset(vm.gm.ram + data_of(0), 0x77, 512);
	CU_ASSERT_EQUAL(run(T_OUT, 127, 512, 0, &len), S_OK);
	CU_ASSERT_EQUAL(len, 1);
	CU_ASSERT_EQUAL(disk.bytes[127 * 512], 0x77);
	CU_ASSERT_EQUAL(disk.bytes[126 * 512 + 511], 126);
	close_blk();
}

static void flush_and_id(void)
{
	uint32_t len;

	open_blk();
	CU_ASSERT_EQUAL(run(T_FLUSH, 0, 0, 0, &len), S_OK);
	CU_ASSERT_EQUAL(disk.last, BLK_FLUSH);
	CU_ASSERT_EQUAL(run(T_GET_ID, 0, 20, 1, &len), S_OK);
	CU_ASSERT_EQUAL(len, 21);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram + data_of(0), "serial-0123456789abc", 20), 0);
	CU_ASSERT_EQUAL(run(T_GET_ID, 0, 4, 1, &len), S_OK);
	CU_ASSERT_EQUAL(len, 5);
	close_blk();
}

static unsigned run_range(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	uint8_t *p = vm.gm.ram + data_of(0);
	uint32_t len;

	memcpy(p, &sector, 8);
	memcpy(p + 8, &n, 4);
	memcpy(p + 12, &flags, 4);
	return run(type, 0, 16, 0, &len);
}

static void discards_and_zeroes(void)
{
	uint32_t len;

	open_blk();
	CU_ASSERT_EQUAL(run_range(T_ZEROES, 3, 2, 1), S_OK);
	CU_ASSERT_EQUAL(disk.last, BLK_ZEROES);
	CU_ASSERT_EQUAL(disk.bytes[3 * 512], 0);
	CU_ASSERT_EQUAL(disk.bytes[5 * 512], 5);
	CU_ASSERT_EQUAL(run_range(T_DISCARD, 10, 1, 0), S_OK);
	CU_ASSERT_EQUAL(disk.last, BLK_DISCARD);
	CU_ASSERT_EQUAL(run_range(T_DISCARD, 10, 1, 1), S_UNSUPP);
	CU_ASSERT_EQUAL(run_range(T_ZEROES, 10, 1, 2), S_UNSUPP);
	CU_ASSERT_EQUAL(run_range(T_ZEROES, 127, 2, 0), S_IOERR);
	CU_ASSERT_EQUAL(run_range(T_ZEROES, ~0ull, 1, 0), S_IOERR);
	CU_ASSERT_EQUAL(run_range(T_DISCARD, 0, ~0u, 0), S_IOERR);
	CU_ASSERT_EQUAL(run(T_DISCARD, 0, 17, 0, &len), S_IOERR);
	close_blk();
}

static void bad_requests_are_answered(void)
{
	uint32_t len;
	unsigned n;

	open_blk();
	n = disk.submitted;
	CU_ASSERT_EQUAL(run(T_IN, 128, 512, 1, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(T_IN, 127, 1024, 1, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(T_IN, ~0ull, 512, 1, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(T_IN, 1ull << 55, 512, 1, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(T_IN, 0, 100, 1, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(T_OUT, 0, 513, 0, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(99, 0, 512, 1, &len), S_UNSUPP);
	CU_ASSERT_EQUAL(disk.submitted, n);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0xF);
	close_blk();
}

static void chain_without_room_for_an_answer_breaks(void)
{
	open_blk();
	drv_desc(&drv, 0, drv_data(&drv), 16, 0, 0);
	drv_post(&drv, 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0x4F);
	close_blk();
	open_blk();
	drv_desc(&drv, 0, drv_data(&drv), 15, D_NEXT, 1);
	drv_desc(&drv, 1, drv_data(&drv) + 16, 1, D_WRITE, 0);
	drv_post(&drv, 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0x4F);
	close_blk();
}

static void errors_reach_the_guest(void)
{
	uint32_t len;

	open_blk();
	disk.error = -EIO;
	memset(vm.gm.ram + data_of(0), 0x55, 512);
	CU_ASSERT_EQUAL(run(T_IN, 0, 512, 1, &len), S_IOERR);
	CU_ASSERT_EQUAL(len, 1);
	CU_ASSERT_EQUAL(vm.gm.ram[data_of(0)], 0x55);
	disk.error = -ENOSPC;
	CU_ASSERT_EQUAL(run(T_OUT, 0, 512, 0, &len), S_IOERR);
	disk.error = -EOPNOTSUPP;
	CU_ASSERT_EQUAL(run_range(T_DISCARD, 0, 1, 0), S_UNSUPP);
	close_blk();
}

static void read_only_disks_refuse_writes(void)
{
	uint32_t len;

	open_on(&vm, &disk, 1);
	drv_start(&vm, SLOT, 1 << 5, &drv, 1);
	CU_ASSERT_EQUAL(run(T_OUT, 0, 512, 0, &len), S_IOERR);
	CU_ASSERT_EQUAL(run(T_IN, 0, 512, 1, &len), S_OK);
	CU_ASSERT_EQUAL(disk.submitted, 1);
	close_blk();
}

static void write_data_is_taken_at_once(void)
{
	open_blk();
	disk.hold = 1;
	memset(vm.gm.ram + data_of(0), 0x11, 512);
	post(0, T_OUT, 1, 512, 0);
	drv_kick(&vm, SLOT, 0);
	memset(vm.gm.ram + data_of(0), 0x22, 512); /* the guest scribbles */
	disk_release(&disk);
	CU_ASSERT_EQUAL(disk.bytes[512], 0x11);
	close_blk();
}

static void requests_complete_in_any_order(void)
{
	struct blk_req *first;
	uint32_t head, len;

	open_blk();
	disk.hold = 1;
	for (unsigned i = 0; i < 4; i++)
		post(i, T_IN, i, 512, 1);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL_FATAL(disk.n, 4);
	first = disk.held[0];
	disk.held[0] = disk.held[3];
	disk.held[3] = first;
	disk_release(&disk);
	CU_ASSERT_EQUAL(drv_take(&drv, &head, &len), 1);
	CU_ASSERT_EQUAL(head, 9);
	for (unsigned i = 0; i < 4; i++) {
		CU_ASSERT_EQUAL(result(i), S_OK);
		CU_ASSERT_EQUAL(vm.gm.ram[data_of(i)], i);
	}
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	close_blk();
}

/* A driver that posts the same chain for ever must not bind memory for ever. */
static void flight_is_bounded(void)
{
	open_blk();
	disk.hold = 1;
	post(0, T_IN, 0, 512, 1);
	for (unsigned i = 0; i < 300; i++) {
		drv_kick(&vm, SLOT, 0);
		drv_post(&drv, 0);
	}
	CU_ASSERT_EQUAL(disk.n, 128);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0xF);
	/* By now its index is further ahead than the ring is long. */
	disk_release(&disk);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(disk.submitted, 128);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0x4F);
	close_blk();
}

static void stalled_queue_goes_on(void)
{
	open_blk();
	disk.hold = 1;
	post(0, T_IN, 0, 512, 1);
	for (unsigned i = 0; i < 127 + 8; i++) {
		drv_kick(&vm, SLOT, 0);
		drv_post(&drv, 0);
	}
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(disk.n, 128);
	disk.hold = 0;
	disk_release(&disk);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(disk.submitted, 136);
	CU_ASSERT_EQUAL(drv_status(&vm, SLOT), 0xF);
	close_blk();
}

static void reset_disowns_what_is_in_flight(void)
{
	struct drv old;

	open_blk();
	disk.hold = 1;
	post(0, T_IN, 3, 512, 1);
	post(1, T_OUT, 4, 512, 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL_FATAL(disk.n, 2);
	old = drv;
	drv_start(&vm, SLOT, 0, &drv, 1);
	/* The new driver's first request waits until the old ones are over. */
	post(2, T_IN, 5, 512, 1);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL(disk.n, 2);
	memset(vm.gm.ram + data_of(0), 0x99, 512);
	vm_watch(&vm);
	disk_release(&disk);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram, vm.gm.seen, FAKE_RAM), 0);
	vm_turn(&vm);
	CU_ASSERT_EQUAL(disk.n, 1);
	disk_release(&disk);
	CU_ASSERT_EQUAL(result(2), S_OK);
	CU_ASSERT_EQUAL(vm.gm.ram[data_of(0)], 0x99);
	CU_ASSERT_EQUAL(old.base, drv.base);
	close_blk();
}

static int load_into(struct vm *to, const struct buf *b, struct err *err)
{
	struct reader r = reader_of(b->data, b->len);

	return to->dev[0].ops->load(to->dev[0].self, &r, err);
}

static void requests_in_flight_go_on_elsewhere(void)
{
	static struct disk other_disk;
	struct err err = {0};
	struct buf b = {0}, again = {0};
	struct vm other;

	open_blk();
	disk.hold = 1;
	memset(vm.gm.ram + data_of(1), 0x42, 1024);
	post(0, T_IN, 7, 512, 1);
	post(1, T_OUT, 20, 1024, 0);
	post(2, T_FLUSH, 0, 0, 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL_FATAL(disk.n, 3);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);

	open_on(&other, &other_disk, 0);
	other_disk.hold = 1;
	memcpy(other.gm.ram, vm.gm.ram, FAKE_RAM);
	CU_ASSERT_EQUAL(load_into(&other, &b, &err), 0);
	vm_turn(&other);
	CU_ASSERT_EQUAL(other_disk.n, 0);
	/* A state taken before they were issued again holds them as well. */
	CU_ASSERT_EQUAL_FATAL(other.dev[0].ops->save(other.dev[0].self, &again), 0);
	CU_ASSERT_EQUAL(again.len, b.len);
	other.dev[0].ops->loaded(other.dev[0].self);
	vm_turn(&other);
	CU_ASSERT_EQUAL_FATAL(other_disk.n, 3);
	buf_reset(&again);
	CU_ASSERT_EQUAL_FATAL(other.dev[0].ops->save(other.dev[0].self, &again), 0);
	CU_ASSERT_EQUAL(again.len, b.len);
	vm_watch(&other);
	disk_release(&other_disk);
	CU_ASSERT_EQUAL(vm_unmarked(&other), 0);
	drv.vm = &other;
	for (unsigned i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(result(i), S_OK);
	CU_ASSERT_EQUAL(other.gm.ram[data_of(0)], 7);
	CU_ASSERT_EQUAL(other_disk.bytes[20 * 512], 0x42);
	CU_ASSERT_EQUAL(get16(&other, drv.base + DRV_USED + 2), 3);
	buf_fini(&b);
	buf_fini(&again);
	fake_vm_close(&other);
	close_blk();
}

static uint32_t cfg_read(unsigned at)
{
	return mmio_read(&vm, drv_bar(&vm, SLOT) + WIN_CFG_AT + at, 4);
}

/* The driver is told, sees the new size, and only then may use it. */
static void disks_grow(void)
{
	uint32_t len, generation;
	unsigned raised;

	open_blk();
	disk.capacity *= 2;
	raised = vm.msi[0]->raised;
	generation = mmio_read(&vm, drv_bar(&vm, SLOT) + 21, 1);
	CU_ASSERT_EQUAL(cfg_read(0), SECTORS);
	CU_ASSERT_EQUAL(run(T_OUT, SECTORS, 512, 0, &len), S_IOERR);
	vblk_resize(dev, disk.capacity);
	CU_ASSERT_EQUAL(cfg_read(0), 2 * SECTORS);
	CU_ASSERT_EQUAL(vm.msi[0]->raised, raised + 1);
	CU_ASSERT_EQUAL(mmio_read(&vm, drv_bar(&vm, SLOT) + 21, 1), generation + 1);
	CU_ASSERT_EQUAL(run(T_OUT, SECTORS, 512, 0, &len), S_OK);
	CU_ASSERT_EQUAL(run(T_IN, 2 * SECTORS, 512, 1, &len), S_IOERR);
	vblk_resize(dev, disk.capacity); /* nothing new */
	CU_ASSERT_EQUAL(vm.msi[0]->raised, raised + 1);
	close_blk();
}

/* Who takes over has the size of the checkpoint, in an image that may be larger, but not smaller. */
static void sizes_go_on_elsewhere(void)
{
	struct err err = {0};
	struct buf b = {0};

	open_blk();
	disk.capacity *= 2;
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	vblk_resize(dev, disk.capacity);
	CU_ASSERT_EQUAL(load_into(&vm, &b, &err), 0);
	CU_ASSERT_EQUAL(cfg_read(0), SECTORS);
	disk.capacity = SECTORS * 512 - 512;
	CU_ASSERT_EQUAL(load_into(&vm, &b, &err), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "the image here"));
	buf_fini(&b);
	close_blk();
}

static size_t read_golden(const char *path, uint8_t *to, size_t room)
{
	FILE *f = fopen(path, "rb");
	size_t n;

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	n = fread(to, 1, room, f);
	CU_ASSERT_EQUAL(fclose(f), 0);
	return n;
}

/* Before disks could grow, no size was told: it is the image's. */
static void older_states_are_read(void)
{
	struct err err = {0};
	uint8_t old[8192];
	struct buf b = {.data = old};

	open_blk();
	b.len = read_golden(GOLDEN_1, old, sizeof(old));
	CU_ASSERT_EQUAL(load_into(&vm, &b, &err), 0);
	CU_ASSERT_EQUAL(cfg_read(0), SECTORS);
	close_blk();
}

/* What this program writes is what hv/STATE.md says, and what its predecessors wrote. */
static void state_is_the_golden_one(void)
{
	uint8_t want[8192];
	struct buf b = {0};
	size_t n;
	FILE *f;

	open_blk();
	disk.hold = 1;
	post(0, T_IN, 7, 512, 1);
	post(1, T_OUT, 20, 1024, 0);
	post(2, T_FLUSH, 0, 0, 0);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	if (getenv("RHEA_GOLDEN_WRITE")) {
		f = fopen(GOLDEN, "wb");
		CU_ASSERT_FATAL(f && fwrite(b.data, 1, b.len, f) == b.len);
		CU_ASSERT_EQUAL_FATAL(fclose(f), 0);
	}
	n = read_golden(GOLDEN, want, sizeof(want));
	CU_ASSERT_EQUAL_FATAL(n, b.len);
	CU_ASSERT_EQUAL(memcmp(want, b.data, n), 0);
	buf_fini(&b);
	close_blk();
}

static void hostile_state_is_refused_or_harmless(void)
{
	struct err err = {0};
	struct buf b = {0};
	unsigned refused = 0;

	open_blk();
	disk.hold = 1;
	post(0, T_IN, 7, 512, 1);
	drv_kick(&vm, SLOT, 0);
	CU_ASSERT_EQUAL_FATAL(vm.dev[0].ops->save(vm.dev[0].self, &b), 0);
	disk.hold = 0;
	disk_release(&disk);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= 0x81;
		refused += load_into(&vm, &b, &err) != 0;
		vm.dev[0].ops->loaded(vm.dev[0].self);
		vm_turn(&vm);
		b.data[i] ^= 0x81;
	}
	CU_ASSERT_TRUE(refused > b.len / 3);
	buf_fini(&b);
	close_blk();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"reads and writes", reads_and_writes},
		{"flush and id", flush_and_id},
		{"discards and zeroes", discards_and_zeroes},
		{"bad requests are answered", bad_requests_are_answered},
		{"chain without room for an answer",
		 chain_without_room_for_an_answer_breaks},
		{"errors reach the guest", errors_reach_the_guest},
		{"read-only disks refuse writes", read_only_disks_refuse_writes},
		{"write data is taken at once", write_data_is_taken_at_once},
		{"requests complete in any order", requests_complete_in_any_order},
		{"flight is bounded", flight_is_bounded},
		{"stalled queue goes on", stalled_queue_goes_on},
		{"reset disowns what is in flight", reset_disowns_what_is_in_flight},
		{"requests in flight go on elsewhere",
		 requests_in_flight_go_on_elsewhere},
		{"disks grow", disks_grow},
		{"sizes go on elsewhere", sizes_go_on_elsewhere},
		{"older states are read", older_states_are_read},
		{"state is the golden one", state_is_the_golden_one},
		{"hostile state", hostile_state_is_refused_or_harmless},
	};

	return UNIT_MAIN("virtio_blk", tests);
}
