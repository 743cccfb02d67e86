/* SPDX-License-Identifier: Apache-2.0
 * test_pci - configuration space, BARs that are sized and moved, and MSI-X.
 */
#include "tests/unit/unit.h"

#include "hv/msix.h"
#include "tests/unit/fakevm.h"

enum { BAR_SIZE = 0x4000 };

/* A function that remembers what it was told. */
struct probe {
	struct pci_dev *d;
	unsigned reads, writes, cfg_writes, moves, last_off;
	uint64_t at;
	uint32_t value;
};

static void probe_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct probe *p = self;

	p->reads++;
	p->last_off = (unsigned)off;
	memset(data, 0xAB, len);
}

static void probe_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct probe *p = self;

	p->writes++;
	p->last_off = (unsigned)off;
	memcpy(&p->value, data, len < 4 ? len : 4);
}

static const struct bus_ops probe_bar = {.read = probe_read, .write = probe_write};

static void probe_cfg_read(void *self, unsigned off, unsigned len)
{
}

static void probe_cfg_write(void *self, unsigned off, unsigned len)
{
	((struct probe *)self)->cfg_writes++;
}

static void probe_moved(void *self, unsigned bar, uint64_t addr, int on)
{
	struct probe *p = self;

	p->moves++;
	p->at = on ? addr : 0;
}

static const struct pci_dev_ops probe_ops = {
	.cfg_read = probe_cfg_read,
	.cfg_write = probe_cfg_write,
	.bar_moved = probe_moved,
};
static const struct pci_id probe_id = {
	.vendor = 0x1234,
	.device = 0x5678,
	.subsys_vendor = 0x1AF4,
	.subsys = 0x1100,
	.class_code = 0x020000,
	.revision = 1,
};

static struct vm vm;
static struct probe a, b;

static void make(struct probe *p, int is64)
{
	struct err err = {0};

	memset(p, 0, sizeof(*p));
	CU_ASSERT_EQUAL_FATAL(
		pci_dev_create(vm.pci, &probe_id, &probe_ops, p, &p->d, &err), 0);
	CU_ASSERT_EQUAL_FATAL(pci_dev_bar(p->d, 0, BAR_SIZE, is64, &probe_bar, p, &err),
			      0);
}

static void open_bus(void)
{
	fake_vm_open(&vm);
	make(&a, 1);
	make(&b, 0);
}

static void close_bus(void)
{
	pci_dev_destroy(a.d);
	pci_dev_destroy(b.d);
	fake_vm_close(&vm);
}

static uint64_t bar_at(unsigned slot)
{
	return mmio_read(&vm, ecam(slot, 0x10), 4) & ~0xFu;
}

static void identity_is_shown(void)
{
	open_bus();
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(0, 8), 4) >> 8, 0x060000);
	CU_ASSERT_EQUAL(pci_dev_slot(a.d), 1);
	CU_ASSERT_EQUAL(pci_dev_slot(b.d), 2);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0), 4), 0x56781234);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 2), 2), 0x5678);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 8), 4), 0x02000001);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0x2C), 4), 0x11001AF4);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0x0E), 1), 0);
	close_bus();
}

static void nobody_answers_elsewhere(void)
{
	open_bus();
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(3, 0), 4), 0xFFFFFFFF);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0x1000), 4), 0xFFFFFFFF); /* function 1 */
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0x100), 4),
			0); /* no extended capability */
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 1), 2), 0xFFFF); /* not aligned */
	mmio_write(&vm, ecam(3, 4), 4, ~0ull);
	mmio_write(&vm, ecam(1, 0xFFC), 4, ~0ull);
	CU_ASSERT_EQUAL(a.cfg_writes, 0);
	close_bus();
}

static void read_only_bits_stay(void)
{
	open_bus();
	for (unsigned reg = 0; reg < PCI_CFG_SIZE; reg += 4)
		mmio_write(&vm, ecam(1, reg), 4, ~0ull);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0), 4), 0x56781234);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 4), 2), 0x0406);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 8), 4), 0x02000001);
	close_bus();
}

static void bars_tell_their_size(void)
{
	open_bus();
	mmio_write(&vm, ecam(1, 0x10), 4, ~0ull);
	mmio_write(&vm, ecam(1, 0x14), 4, ~0ull);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0x10), 4), 0xFFFFC004);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 0x14), 4), 0xFFFFFFFF);
	mmio_write(&vm, ecam(2, 0x10), 4, ~0ull);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(2, 0x10), 4), 0xFFFFC000);
	mmio_write(&vm, ecam(2, 0x14), 4, ~0ull);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(2, 0x14), 4), 0);
	close_bus();
}

static void bars_have_places_at_power_on(void)
{
	uint64_t at;

	open_bus();
	at = bar_at(1);
	CU_ASSERT_TRUE(at >= LAYOUT_PCI_MMIO && at % BAR_SIZE == 0);
	CU_ASSERT_TRUE(bar_at(2) >= at + BAR_SIZE);
	/* Not decoded before the guest says so. */
	CU_ASSERT_EQUAL(mmio_read(&vm, at, 4), 0xFFFFFFFF);
	mmio_write(&vm, ecam(1, 4), 2, 2);
	CU_ASSERT_EQUAL(a.at, at);
	CU_ASSERT_EQUAL(mmio_read(&vm, at + 8, 4), 0xABABABAB);
	CU_ASSERT_EQUAL(a.last_off, 8);
	mmio_write(&vm, at + 12, 4, 0x11223344);
	CU_ASSERT_EQUAL(a.value, 0x11223344);
	mmio_write(&vm, ecam(1, 4), 2, 0);
	CU_ASSERT_EQUAL(mmio_read(&vm, at, 4), 0xFFFFFFFF);
	CU_ASSERT_EQUAL(a.at, 0);
	close_bus();
}

static void bars_move(void)
{
	const uint64_t to = LAYOUT_PCI_MMIO + 0x1000000;
	uint64_t from;

	open_bus();
	from = bar_at(1);
	mmio_write(&vm, ecam(1, 4), 2, 2);
	mmio_write(&vm, ecam(1, 0x10), 4, to);
	CU_ASSERT_EQUAL(a.at, to);
	CU_ASSERT_EQUAL(mmio_read(&vm, from, 4), 0xFFFFFFFF);
	CU_ASSERT_EQUAL(mmio_read(&vm, to, 4), 0xABABABAB);
	close_bus();
}

static void bars_stay_in_the_window(void)
{
	static const uint64_t bad[] = {0, 0x100000, LAYOUT_ECAM, LAYOUT_LAPIC,
				       0xFFFFC000};

	open_bus();
	mmio_write(&vm, ecam(1, 4), 2, 2);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		mmio_write(&vm, ecam(1, 0x10), 4, bad[i]);
		CU_ASSERT_EQUAL(a.at, 0);
	}
	mmio_write(&vm, ecam(1, 0x10), 4, LAYOUT_PCI_MMIO);
	CU_ASSERT_EQUAL(a.at, LAYOUT_PCI_MMIO);
	mmio_write(&vm, ecam(1, 0x14), 4, 1);
	CU_ASSERT_EQUAL(a.at, 0);
	close_bus();
}

static void bars_that_overlap_do_not_hide_each_other(void)
{
	uint64_t at_b;

	open_bus();
	at_b = bar_at(2);
	mmio_write(&vm, ecam(2, 4), 2, 2);
	mmio_write(&vm, ecam(1, 4), 2, 2);
	mmio_write(&vm, ecam(1, 0x10), 4, at_b);
	CU_ASSERT_EQUAL(a.at, 0);
	CU_ASSERT_EQUAL(b.at, at_b);
	/* Once the other one leaves, its place is taken. */
	mmio_write(&vm, ecam(2, 0x10), 4, LAYOUT_PCI_MMIO + 0x2000000);
	CU_ASSERT_EQUAL(a.at, at_b);
	CU_ASSERT_EQUAL(b.at, LAYOUT_PCI_MMIO + 0x2000000);
	close_bus();
}

static void capabilities_are_chained(void)
{
	uint8_t body[6] = {1, 2, 3, 4, 5, 6}, mask[6] = {0, 0xFF};
	unsigned at;
	int first, second;

	open_bus();
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 6), 2) & 0x10, 0);
	first = pci_dev_cap(a.d, 0x11, body, mask, sizeof(body));
	second = pci_dev_cap(a.d, 0x09, body, NULL, 3);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, 6), 2) & 0x10, 0x10);
	at = mmio_read(&vm, ecam(1, 0x34), 1);
	CU_ASSERT_EQUAL(at, (unsigned)first);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, at), 1), 0x11);
	at = mmio_read(&vm, ecam(1, at + 1), 1);
	CU_ASSERT_EQUAL(at, (unsigned)second);
	CU_ASSERT_EQUAL(at % 4, 0);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, at + 1), 1), 0);
	mmio_write(&vm, ecam(1, (unsigned)first), 4, ~0ull);
	CU_ASSERT_EQUAL(mmio_read(&vm, ecam(1, (unsigned)first), 4),
			0xFF010011 | (uint32_t)second << 8);
	while ((first = pci_dev_cap(a.d, 9, body, NULL, sizeof(body))) > 0)
		CU_ASSERT_FATAL(first < PCI_CFG_SIZE);
	CU_ASSERT_EQUAL(first, -ENOSPC);
	close_bus();
}

static void slots_and_bars_end(void)
{
	struct err err = {0};
	struct pci_dev *d[PCI_SLOTS];
	unsigned n = 0;

	open_bus();
	CU_ASSERT_EQUAL(pci_dev_bar(a.d, 1, BAR_SIZE, 0, &probe_bar, &a, &err), 0);
	CU_ASSERT_EQUAL(pci_dev_bar(a.d, 0, BAR_SIZE, 0, &probe_bar, &a, &err), -EINVAL);
	CU_ASSERT_EQUAL(pci_dev_bar(a.d, 2, 0x3000, 0, &probe_bar, &a, &err), -EINVAL);
	CU_ASSERT_EQUAL(pci_dev_bar(a.d, 5, BAR_SIZE, 1, &probe_bar, &a, &err), -EINVAL);
	CU_ASSERT_EQUAL(pci_dev_bar(a.d, 5, 0x40000000, 0, &probe_bar, &a, &err),
			-ENOSPC);
	while (pci_dev_create(vm.pci, &probe_id, &probe_ops, &b, &d[n], &err) == 0)
		n++;
	CU_ASSERT_EQUAL(n, PCI_SLOTS - 3);
	while (n)
		pci_dev_destroy(d[--n]);
	close_bus();
}

static void state_moves_bars_and_names_another_device(void)
{
	struct err err = {0};
	struct buf s = {0};
	struct reader r;

	open_bus();
	mmio_write(&vm, ecam(1, 4), 2, 2);
	mmio_write(&vm, ecam(1, 0x10), 4, LAYOUT_PCI_MMIO + 0x800000);
	CU_ASSERT_EQUAL(pci_dev_save(a.d, &s), 0);
	pci_dev_reset(a.d);
	CU_ASSERT_EQUAL(a.at, 0);
	r = reader_of(s.data, s.len);
	CU_ASSERT_EQUAL(pci_dev_load(a.d, &r, &err), 0);
	CU_ASSERT_EQUAL(a.at, LAYOUT_PCI_MMIO + 0x800000);
	/* The same bytes are no state of a function with other capabilities. */
	(void)pci_dev_cap(a.d, 9, "xyz", NULL, 3); /* there is room */
	r = reader_of(s.data, s.len);
	CU_ASSERT_EQUAL(pci_dev_load(a.d, &r, &err), -EBADMSG);
	buf_fini(&s);
	close_bus();
}

static uint32_t port_in(unsigned port, unsigned len)
{
	uint32_t v = 0;

	bus_read(vm.pio, port, &v, len);
	return v;
}

static void port_out(unsigned port, unsigned len, uint32_t v)
{
	bus_write(vm.pio, port, &v, len);
}

static void ports_reach_the_same_registers(void)
{
	open_bus();
	port_out(0xCF8, 4, 1u << 31 | 1 << 11);
	CU_ASSERT_EQUAL(port_in(0xCF8, 4), 1u << 31 | 1 << 11);
	CU_ASSERT_EQUAL(port_in(0xCFC, 4), 0x56781234);
	CU_ASSERT_EQUAL(port_in(0xCFE, 2), 0x5678);
	CU_ASSERT_EQUAL(port_in(0xCFF, 1), 0x56);
	port_out(0xCFB, 1, 1); /* not the address port: kernels try it */
	CU_ASSERT_EQUAL(port_in(0xCF8, 4), 1u << 31 | 1 << 11);
	port_out(0xCF8, 4, 1u << 31 | 1 << 11 | 4);
	port_out(0xCFC, 2, 2);
	CU_ASSERT_EQUAL(a.at, bar_at(1));
	port_out(0xCF8, 4, 1u << 31 | 1 << 16 | 1 << 11); /* another bus */
	CU_ASSERT_EQUAL(port_in(0xCFC, 4), 0xFFFFFFFF);
	port_out(0xCF8, 4, 1 << 11); /* not enabled */
	CU_ASSERT_EQUAL(port_in(0xCFC, 4), 0xFFFFFFFF);
	port_out(0xCF8, 4, 1u << 31 | 1 << 11 | 1 << 8); /* function 1 */
	CU_ASSERT_EQUAL(port_in(0xCFC, 4), 0xFFFFFFFF);
	close_bus();
}

/* A checkpoint may fall between the address and the data. */
static void address_port_is_state(void)
{
	struct err err = {0};
	struct buf s = {0};
	struct reader r;

	open_bus();
	port_out(0xCF8, 4, 1u << 31 | 1 << 11);
	CU_ASSERT_EQUAL(vm.root->save(vm.pci, &s), 0);
	vm.root->reset(vm.pci);
	CU_ASSERT_EQUAL(port_in(0xCF8, 4), 0);
	r = reader_of(s.data, s.len);
	CU_ASSERT_EQUAL(vm.root->load(vm.pci, &r, &err), 0);
	CU_ASSERT_EQUAL(port_in(0xCFC, 4), 0x56781234);
	r = reader_of(s.data, s.len - 1);
	CU_ASSERT_EQUAL(vm.root->load(vm.pci, &r, &err), -EBADMSG);
	buf_fini(&s);
	close_bus();
}

/* ---- MSI-X ---- */

static struct msix *m;

static void entry(unsigned v, uint32_t data, uint32_t ctrl)
{
	uint64_t addr = LAYOUT_LAPIC;

	msix_table_write(m, v * 16, &addr, 8);
	msix_table_write(m, v * 16 + 8, &data, 4);
	msix_table_write(m, v * 16 + 12, &ctrl, 4);
}

static unsigned pending(void)
{
	uint32_t v;

	msix_pba_read(m, 0, &v, 4);
	return v;
}

static void open_msix(void)
{
	struct err err = {0};

	fake_vm_open(&vm);
	CU_ASSERT_EQUAL_FATAL(msix_create(&vm, 3, &m, &err), 0);
}

static void close_msix(void)
{
	msix_destroy(m);
	fake_vm_close(&vm);
}

static void vectors_go_where_the_table_says(void)
{
	open_msix();
	entry(1, 0x41, 0);
	msix_raise(m, 1);
	CU_ASSERT_EQUAL(vm.msi[1]->raised, 0); /* off: dropped, not kept */
	CU_ASSERT_EQUAL(pending(), 0);
	msix_control(m, MSIX_CTRL_ENABLE);
	msix_raise(m, 1);
	CU_ASSERT_EQUAL(vm.msi[1]->raised, 1);
	CU_ASSERT_EQUAL(vm.msi[1]->addr, LAYOUT_LAPIC);
	CU_ASSERT_EQUAL(vm.msi[1]->data, 0x41);
	CU_ASSERT_EQUAL(vm.msi[1]->routes, 1);
	entry(1, 0x41, 0); /* the same again costs no route */
	CU_ASSERT_EQUAL(vm.msi[1]->routes, 1);
	msix_raise(m, 3);
	msix_raise(m, MSIX_NO_VECTOR);
	CU_ASSERT_EQUAL(vm.msi[0]->raised + vm.msi[2]->raised, 0);
	close_msix();
}

static void masked_vectors_are_pending(void)
{
	open_msix();
	entry(0, 0x40, 1);
	msix_control(m, MSIX_CTRL_ENABLE);
	msix_raise(m, 0);
	msix_raise(m, 0);
	CU_ASSERT_EQUAL(vm.msi[0]->raised, 0);
	CU_ASSERT_EQUAL(pending(), 1);
	entry(0, 0x50, 0);
	CU_ASSERT_EQUAL(vm.msi[0]->raised, 1); /* once, to the new address */
	CU_ASSERT_EQUAL(vm.msi[0]->data, 0x50);
	CU_ASSERT_EQUAL(pending(), 0);
	close_msix();
}

static void function_mask_holds_all(void)
{
	open_msix();
	entry(0, 0x40, 0);
	entry(2, 0x42, 0);
	msix_control(m, MSIX_CTRL_ENABLE | MSIX_CTRL_MASK);
	msix_raise(m, 0);
	msix_raise(m, 2);
	CU_ASSERT_EQUAL(pending(), 5);
	msix_control(m, MSIX_CTRL_ENABLE);
	CU_ASSERT_EQUAL(vm.msi[0]->raised, 1);
	CU_ASSERT_EQUAL(vm.msi[2]->raised, 1);
	CU_ASSERT_EQUAL(pending(), 0);
	close_msix();
}

static void odd_table_accesses_do_nothing(void)
{
	uint64_t ones = ~0ull, v = 1;

	open_msix();
	msix_table_write(m, 4, &ones, 8);
	msix_table_write(m, 1, &ones, 1);
	msix_table_write(m, 3 * 16, &ones, 4);
	msix_table_write(m, ~0ull - 3, &ones, 4);
	msix_table_read(m, 0, &v, 8);
	CU_ASSERT_EQUAL(v, 0);
	msix_table_read(m, 8, &v, 8);
	CU_ASSERT_EQUAL(v, 1ull << 32); /* masked at power-on */
	msix_table_read(m, 3 * 16, &v, 8);
	CU_ASSERT_EQUAL(v, 0);
	msix_pba_read(m, ~0ull - 1, &v, 4);
	close_msix();
}

static void msix_state_survives(void)
{
	struct err err = {0};
	struct buf s = {0};
	struct reader r;

	open_msix();
	entry(0, 0x40, 1);
	entry(1, 0x41, 0);
	msix_control(m, MSIX_CTRL_ENABLE);
	msix_raise(m, 0);
	CU_ASSERT_EQUAL(msix_save(m, 4, &s), 0);
	msix_reset(m);
	CU_ASSERT_EQUAL(pending(), 0);
	r = reader_of(s.data, s.len);
	CU_ASSERT_EQUAL(msix_load(m, 4, &r, &err), 0);
	msix_control(m, MSIX_CTRL_ENABLE);
	CU_ASSERT_EQUAL(pending(), 1);
	CU_ASSERT_EQUAL(vm.msi[0]->raised, 0);
	entry(0, 0x40, 0);
	CU_ASSERT_EQUAL(vm.msi[0]->raised, 1);
	/* The last byte of the stream is the highest of the pending bits. */
	s.data[s.len - 1] = 0x80;
	r = reader_of(s.data, s.len);
	CU_ASSERT_EQUAL(msix_load(m, 4, &r, &err), -EBADMSG);
	buf_fini(&s);
	close_msix();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"identity is shown", identity_is_shown},
		{"nobody answers elsewhere", nobody_answers_elsewhere},
		{"read-only bits stay", read_only_bits_stay},
		{"BARs tell their size", bars_tell_their_size},
		{"BARs have places at power-on", bars_have_places_at_power_on},
		{"BARs move", bars_move},
		{"BARs stay in the window", bars_stay_in_the_window},
		{"BARs that overlap", bars_that_overlap_do_not_hide_each_other},
		{"capabilities are chained", capabilities_are_chained},
		{"slots and BARs end", slots_and_bars_end},
		{"state moves BARs", state_moves_bars_and_names_another_device},
		{"ports reach the same registers", ports_reach_the_same_registers},
		{"address port is state", address_port_is_state},
		{"vectors go where the table says", vectors_go_where_the_table_says},
		{"masked vectors are pending", masked_vectors_are_pending},
		{"function mask holds all", function_mask_holds_all},
		{"odd table accesses do nothing", odd_table_accesses_do_nothing},
		{"MSI-X state survives", msix_state_survives},
	};

	return UNIT_MAIN("pci", tests);
}
