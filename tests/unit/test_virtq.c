/* SPDX-License-Identifier: Apache-2.0
 * test_virtq - the device's side of a virtqueue, against good and hostile drivers.
 */
#include "tests/unit/unit.h"

#include "hv/msix.h"
#include "hv/virtq.h"
#include "tests/unit/fakevm.h"

static struct vm vm;
static struct drv drv;
static struct virtq q;
static struct virtq_chain chain;

static void open_queue(void)
{
	fake_vm_open(&vm);
	drv_init(&drv, &vm, 0);
	virtq_init(&q, &vm.gm, 256);
	q.size = DRV_SIZE;
	q.desc = drv.base;
	q.avail = drv.base + DRV_AVAIL;
	q.used = drv.base + DRV_USED;
	CU_ASSERT_EQUAL_FATAL(virtq_enable(&q), 0);
}

static void close_queue(void)
{
	CU_ASSERT_EQUAL(vm_unmarked(&vm), 0);
	fake_vm_close(&vm);
}

/* Post descriptor 0, which the test has filled, and see the queue break on it. */
static void expect_broken(void)
{
	drv_post(&drv, 0);
	vm_watch(&vm);
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), -EPROTO);
	CU_ASSERT_TRUE(q.broken);
	/* Nothing more comes out, nothing goes in. */
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), -EPROTO);
	virtq_push(&q, 0, 1);
	CU_ASSERT_EQUAL(get16(&vm, q.used + 2), 0);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 0);
	close_queue();
}

static void takes_a_chain_and_gives_it_back(void)
{
	uint32_t head, len;
	char text[8] = {0};

	open_queue();
	memcpy(vm.gm.ram + drv_data(&drv), "hello", 5);
	drv_desc(&drv, 3, drv_data(&drv), 2, D_NEXT, 5);
	drv_desc(&drv, 5, drv_data(&drv) + 2, 3, D_NEXT, 1);
	drv_desc(&drv, 1, drv_data(&drv) + 64, 4, D_WRITE | D_NEXT, 2);
	drv_desc(&drv, 2, drv_data(&drv) + 128, 4, D_WRITE, 0);
	drv_post(&drv, 3);
	vm_watch(&vm);
	CU_ASSERT_EQUAL_FATAL(virtq_pop(&q, &chain), 1);
	CU_ASSERT_EQUAL(chain.head, 3);
	CU_ASSERT_EQUAL(chain.n_out, 2);
	CU_ASSERT_EQUAL(chain.n_in, 2);
	CU_ASSERT_EQUAL(chain.out_len, 5);
	CU_ASSERT_EQUAL(chain.in_len, 8);
	CU_ASSERT_EQUAL(virtq_read(&chain, 0, text, sizeof(text)), 5);
	CU_ASSERT_STRING_EQUAL(text, "hello");
	CU_ASSERT_EQUAL(virtq_read(&chain, 3, text, 1), 1);
	CU_ASSERT_EQUAL(text[0], 'l');
	CU_ASSERT_EQUAL(virtq_write(&q, &chain, 2, "world!!!", 8), 6);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram + drv_data(&drv) + 66, "wo", 2), 0);
	CU_ASSERT_EQUAL(memcmp(vm.gm.ram + drv_data(&drv) + 128, "rld!", 4), 0);
	virtq_push(&q, chain.head, 8);
	CU_ASSERT_EQUAL_FATAL(drv_take(&drv, &head, &len), 1);
	CU_ASSERT_EQUAL(head, 3);
	CU_ASSERT_EQUAL(len, 8);
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), 0);
	close_queue();
}

static void unpop_gives_the_same_chain_again(void)
{
	open_queue();
	drv_desc(&drv, 7, drv_data(&drv), 16, 0, 0);
	drv_post(&drv, 7);
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), 1);
	virtq_unpop(&q);
	chain.head = 0;
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), 1);
	CU_ASSERT_EQUAL(chain.head, 7);
	vm_watch(&vm);
	close_queue();
}

static void indices_wrap(void)
{
	uint32_t head, len;

	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 16, D_WRITE, 0);
	vm_watch(&vm);
	for (unsigned i = 0; i < 70000; i++) {
		drv_post(&drv, 0);
		if (virtq_pop(&q, &chain) != 1)
			break;
		virtq_push(&q, chain.head, i);
		if (!drv_take(&drv, &head, &len) || len != i)
			break;
	}
	CU_ASSERT_EQUAL(drv.used, (uint16_t)70000);
	fake_vm_close(&vm);
}

static void indirect_table_is_walked(void)
{
	uint64_t table;

	open_queue();
	table = drv_data(&drv) + 0x1003; /* no alignment is promised */
	drv_desc(&drv, 0, drv_data(&drv), 8, D_NEXT, 1);
	drv_desc(&drv, 1, table, 48, D_INDIRECT, 0);
	desc_at(&vm, table, 0, drv_data(&drv) + 8, 8, D_NEXT, 2);
	desc_at(&vm, table, 2, drv_data(&drv) + 16, 32, D_WRITE, 0);
	drv_post(&drv, 0);
	vm_watch(&vm);
	CU_ASSERT_EQUAL_FATAL(virtq_pop(&q, &chain), 1);
	CU_ASSERT_EQUAL(chain.n_out, 2);
	CU_ASSERT_EQUAL(chain.n_in, 1);
	CU_ASSERT_EQUAL(chain.in_len, 32);
	close_queue();
}

static void nested_indirect_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 16, D_INDIRECT, 0);
	desc_at(&vm, drv_data(&drv), 0, drv_data(&drv) + 64, 16, D_INDIRECT, 0);
	expect_broken();
}

static void indirect_with_next_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 16, D_INDIRECT | D_NEXT, 1);
	expect_broken();
}

static void indirect_of_odd_size_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 17, D_INDIRECT, 0);
	expect_broken();
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 0, D_INDIRECT, 0);
	expect_broken();
}

static void indirect_link_out_of_its_table_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 32, D_INDIRECT, 0);
	desc_at(&vm, drv_data(&drv), 0, drv_data(&drv), 8, D_NEXT, 2);
	expect_broken();
}

static void indirect_table_out_of_memory_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, FAKE_RAM - 16, 32, D_INDIRECT, 0);
	expect_broken();
}

static void loops_break(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 8, D_NEXT, 1);
	drv_desc(&drv, 1, drv_data(&drv), 8, D_NEXT, 0);
	expect_broken();
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 16 * 2, D_INDIRECT, 0);
	desc_at(&vm, drv_data(&drv), 0, drv_data(&drv), 8, D_NEXT, 0);
	expect_broken();
}

static void bad_addresses_break(void)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = {
		{FAKE_RAM, 1},	      {FAKE_RAM - 1, 2},     {UINT64_MAX, 1},
		{UINT64_MAX - 7, 16}, {UINT64_MAX - 7, ~0u}, {LAYOUT_ECAM, 4},
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		open_queue();
		drv_desc(&drv, 0, bad[i].addr, bad[i].len, D_WRITE, 0);
		expect_broken();
	}
}

static void zero_length_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 0, 0, 0);
	expect_broken();
}

static void readable_after_writable_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 8, D_WRITE | D_NEXT, 1);
	drv_desc(&drv, 1, drv_data(&drv), 8, 0, 0);
	expect_broken();
}

static void head_or_link_out_of_the_table_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 8, D_NEXT, DRV_SIZE);
	expect_broken();
	open_queue();
	drv_post(&drv, 0xFFFF);
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), -EPROTO);
	vm_watch(&vm);
	close_queue();
}

static void index_that_jumps_breaks(void)
{
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 8, 0, 0);
	put16(&vm, q.avail + 2, DRV_SIZE + 1);
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), -EPROTO);
	vm_watch(&vm);
	close_queue();
	open_queue();
	drv_desc(&drv, 0, drv_data(&drv), 8, 0, 0);
	put16(&vm, q.avail + 2, DRV_SIZE); /* a full ring is fine */
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), 1);
	q.avail_next = 2;
	put16(&vm, q.avail + 2, 1); /* backwards is not */
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), -EPROTO);
	vm_watch(&vm);
	close_queue();
}

static void bad_places_and_sizes_are_refused(void)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
	} bad[] = {
		{0, DRV_BASE, DRV_BASE, DRV_BASE},
		{3, DRV_BASE, DRV_BASE, DRV_BASE},
		{512, DRV_BASE, DRV_BASE, DRV_BASE},
		{16, DRV_BASE + 8, DRV_BASE, DRV_BASE},
		{16, DRV_BASE, DRV_BASE + 1, DRV_BASE},
		{16, DRV_BASE, DRV_BASE, DRV_BASE + 2},
		{16, FAKE_RAM - 128, DRV_BASE, DRV_BASE},
		{16, DRV_BASE, FAKE_RAM - 36, DRV_BASE},
		{16, DRV_BASE, DRV_BASE, UINT64_MAX - 3},
	};

	open_queue();
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		virtq_reset(&q);
		q.size = bad[i].size;
		q.desc = bad[i].desc;
		q.avail = bad[i].avail;
		q.used = bad[i].used;
		CU_ASSERT_EQUAL(virtq_enable(&q), -EINVAL);
		CU_ASSERT_EQUAL(q.ready, 0);
		CU_ASSERT_EQUAL(virtq_pop(&q, &chain), 0);
	}
	vm_watch(&vm);
	close_queue();
}

static void interrupts_follow_the_flag(void)
{
	open_queue();
	vm_watch(&vm);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 0);
	virtq_push(&q, 0, 0);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 1);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 0);
	put16(&vm, q.avail, 1);
	virtq_push(&q, 0, 0);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 0);
	fake_vm_close(&vm);
}

static void interrupts_follow_the_event_index(void)
{
	uint64_t used_event;

	open_queue();
	q.event_idx = 1;
	used_event = q.avail + 4 + 2 * DRV_SIZE;
	put16(&vm, used_event, 1); /* tell me of the second */
	virtq_push(&q, 0, 0);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 0);
	virtq_push(&q, 0, 0);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 1);
	put16(&vm, used_event, 5);
	for (unsigned i = 0; i < 8; i++) /* it lies between, not at the end */
		virtq_push(&q, 0, 0);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 1);
	CU_ASSERT_EQUAL(virtq_wants_irq(&q), 0);
	fake_vm_close(&vm);
}

static void wait_asks_for_the_next_kick(void)
{
	open_queue();
	q.event_idx = 1;
	drv_desc(&drv, 0, drv_data(&drv), 8, 0, 0);
	drv_post(&drv, 0);
	vm_watch(&vm);
	CU_ASSERT_EQUAL(virtq_wait(&q), 1);
	CU_ASSERT_EQUAL(virtq_pop(&q, &chain), 1);
	CU_ASSERT_EQUAL(virtq_wait(&q), 0);
	CU_ASSERT_EQUAL(get16(&vm, q.used + 4 + 8 * DRV_SIZE), 1);
	close_queue();
}

static void filled_entries_show_at_once(void)
{
	uint32_t head, len;

	open_queue();
	vm_watch(&vm);
	virtq_fill(&q, 0, 4, 40);
	virtq_fill(&q, 1, 5, 50);
	CU_ASSERT_EQUAL(drv_take(&drv, &head, &len), 0);
	virtq_show(&q, 2);
	CU_ASSERT_EQUAL(drv_take(&drv, &head, &len), 1);
	CU_ASSERT_EQUAL(head, 4);
	CU_ASSERT_EQUAL(drv_take(&drv, &head, &len), 1);
	CU_ASSERT_EQUAL(len, 50);
	close_queue();
}

static void state_survives_and_is_judged(void)
{
	struct err err = {0};
	struct buf b = {0};
	struct virtq other;
	struct reader r;

	open_queue();
	vm_watch(&vm);
	q.avail_next = 65535;
	q.used_next = 7;
	q.vector = 2;
	CU_ASSERT_EQUAL_FATAL(virtq_save(&q, 9, &b), 0);
	virtq_init(&other, &vm.gm, 256);
	r = reader_of(b.data, b.len);
	CU_ASSERT_EQUAL(virtq_load(&other, 9, &r, &err), 0);
	CU_ASSERT_EQUAL(other.avail_next, 65535);
	CU_ASSERT_EQUAL(other.used_next, 7);
	CU_ASSERT_EQUAL(other.vector, 2);
	CU_ASSERT_PTR_EQUAL(other.used_p, q.used_p);
	q.used = FAKE_RAM - 4;
	buf_reset(&b);
	CU_ASSERT_EQUAL_FATAL(virtq_save(&q, 9, &b), 0);
	r = reader_of(b.data, b.len);
	virtq_init(&other, &vm.gm, 256);
	CU_ASSERT_EQUAL(virtq_load(&other, 9, &r, &err), -EBADMSG);
	CU_ASSERT_EQUAL(other.ready, 0);
	for (size_t cut = 0; cut < b.len; cut++) {
		r = reader_of(b.data, cut);
		CU_ASSERT_EQUAL(virtq_load(&other, 9, &r, &err), -EBADMSG);
	}
	buf_fini(&b);
	close_queue();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"takes a chain and gives it back", takes_a_chain_and_gives_it_back},
		{"unpop gives the same chain again", unpop_gives_the_same_chain_again},
		{"indices wrap", indices_wrap},
		{"indirect table is walked", indirect_table_is_walked},
		{"nested indirect breaks", nested_indirect_breaks},
		{"indirect with next breaks", indirect_with_next_breaks},
		{"indirect of odd size breaks", indirect_of_odd_size_breaks},
		{"indirect link out of its table", indirect_link_out_of_its_table_breaks},
		{"indirect table out of memory", indirect_table_out_of_memory_breaks},
		{"loops break", loops_break},
		{"bad addresses break", bad_addresses_break},
		{"zero length breaks", zero_length_breaks},
		{"readable after writable breaks", readable_after_writable_breaks},
		{"head or link out of the table", head_or_link_out_of_the_table_breaks},
		{"index that jumps breaks", index_that_jumps_breaks},
		{"bad places and sizes are refused", bad_places_and_sizes_are_refused},
		{"interrupts follow the flag", interrupts_follow_the_flag},
		{"interrupts follow the event index", interrupts_follow_the_event_index},
		{"wait asks for the next kick", wait_asks_for_the_next_kick},
		{"filled entries show at once", filled_entries_show_at_once},
		{"state survives and is judged", state_survives_and_is_judged},
	};

	return UNIT_MAIN("virtq", tests);
}
