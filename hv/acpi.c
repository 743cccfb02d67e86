/* SPDX-License-Identifier: Apache-2.0
 * acpi - the tables that describe the machine to its guest (ACPI 6.3, hardware-reduced).
 *
 * Devices that a guest cannot find by itself: the PCI root, COM1, and the generic event device
 * through which the power button is pressed. Interrupts of PCI functions are MSI-X only, so
 * there is no _PRT.
 */
#include "hv/acpi.h"

#include "hv/aml.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "hv/gm.h"
#include "hv/layout.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

struct acpi_head {
	uint8_t signature[4];
	struct le32 len;
	uint8_t revision, checksum;
	uint8_t oem[6], oem_table[8];
	struct le32 oem_revision;
	uint8_t creator[4];
	struct le32 creator_revision;
};
WIRE_SIZE(struct acpi_head, 36);

struct acpi_rsdp {
	uint8_t signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	uint8_t oem[6];
	uint8_t revision;
	struct le32 rsdt;
	struct le32 len;
	struct le64 xsdt;
	uint8_t checksum_all;
	uint8_t reserved[3];
};
WIRE_SIZE(struct acpi_rsdp, 36);
enum { RSDP_V1_LEN = 20 };

struct acpi_gas {
	uint8_t space, bits, offset, access;
	struct le64 addr;
};
WIRE_SIZE(struct acpi_gas, 12);

struct acpi_fadt {
	struct acpi_head head;
	struct le32 facs, dsdt;
	uint8_t reserved0[65]; /* 44: fixed hardware that we have not */
	struct le16 boot_arch; /* 109 */
	uint8_t reserved1;
	struct le32 flags;     /* 112 */
	struct acpi_gas reset; /* 116 */
	uint8_t reset_value;   /* 128 */
	struct le16 arm_boot_arch;
	uint8_t minor; /* 131 */
	struct le64 x_facs, x_dsdt;
	uint8_t reserved2[96];			     /* 148: more fixed hardware */
	struct acpi_gas sleep_control, sleep_status; /* 244 */
	struct le64 hypervisor;
};
WIRE_SIZE(struct acpi_fadt, 276);
_Static_assert(offsetof(struct acpi_fadt, boot_arch) == 109, "ACPI 6.3, table 5-33");
_Static_assert(offsetof(struct acpi_fadt, reset) == 116, "ACPI 6.3, table 5-33");
_Static_assert(offsetof(struct acpi_fadt, sleep_control) == 244, "ACPI 6.3, table 5-33");

enum {
	FADT_REVISION = 6,
	FADT_MINOR = 3,
	/* No VGA, no CMOS clock; no keyboard controller and no legacy devices by omission. */
	FADT_BOOT_ARCH = 1 << 2 | 1 << 5,
	FADT_WBINVD = 1 << 0,
	FADT_PWR_BUTTON = 1 << 4, /* a control method device, not fixed hardware */
	FADT_SLP_BUTTON = 1 << 5, /* likewise: there is none */
	FADT_RESET_REG = 1 << 10,
	FADT_HW_REDUCED = 1 << 20,
	GAS_SYSTEM_IO = 1,
	GAS_BYTE = 1,
};

struct acpi_madt {
	struct acpi_head head;
	struct le32 lapic, flags;
};
struct madt_lapic {
	uint8_t type, len, uid, id;
	struct le32 flags;
};
struct madt_ioapic {
	uint8_t type, len, id, reserved;
	struct le32 addr, gsi_base;
};
struct madt_nmi {
	uint8_t type, len, uid;
	uint8_t flags[2];
	uint8_t lint;
};
enum { MADT_LAPIC, MADT_IOAPIC, MADT_NMI = 4, MADT_ENABLED = 1, ALL_CPUS = 0xFF };

struct acpi_mcfg {
	struct acpi_head head;
	uint8_t reserved0[8];
	struct le64 base;
	struct le16 segment;
	uint8_t first_bus, last_bus;
	struct le32 reserved1;
};
WIRE_SIZE(struct acpi_mcfg, 60);

static uint8_t checksum(const void *p, size_t len)
{
	const uint8_t *c = p;
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *c++);
	return (uint8_t)-sum;
}

static void head_init(struct acpi_head *h, const char *signature, uint8_t revision)
{
	memset(h, 0, sizeof(*h));
	memcpy(h->signature, signature, sizeof(h->signature));
	h->revision = revision;
	memcpy(h->oem, "RHEA  ", sizeof(h->oem));
	memcpy(h->oem_table, "RHEAVM  ", sizeof(h->oem_table));
	h->oem_revision = le32_of(1);
	memcpy(h->creator, "RHEA", sizeof(h->creator));
	h->creator_revision = le32_of(1);
}

/* Tables one after the other in a buffer; each starts at a multiple of 8. */
static size_t table_begin(struct buf *b)
{
	static const uint8_t zero[8];

	(void)buf_add(b, zero, -b->len & 7); /* failure sticks in the buffer */
	return b->len;
}

/* Put in length and checksum of the table that began at @mark; returns its address. */
static uint64_t table_end(struct buf *b, size_t mark, uint64_t at)
{
	struct acpi_head *h;

	if (b->failed)
		return 0;
	h = (struct acpi_head *)(b->data + mark);
	h->len = le32_of((uint32_t)(b->len - mark));
	h->checksum = 0;
	h->checksum = checksum(h, b->len - mark);
	return at + mark;
}

static uint64_t add_table(struct buf *b, const void *table, size_t len, uint64_t at)
{
	size_t mark = table_begin(b);

	(void)buf_add(b, table, len); /* as above */
	return table_end(b, mark, at);
}

static void add_root(struct buf *b)
{
	size_t dev = aml_open_device(b, "PCI0"), res;

	aml_name(b, "_HID");
	aml_eisaid(b, "PNP0A08");
	aml_name(b, "_CID");
	aml_eisaid(b, "PNP0A03");
	aml_name(b, "_SEG");
	aml_int(b, 0);
	aml_name(b, "_BBN");
	aml_int(b, 0);
	aml_name(b, "_UID");
	aml_int(b, 0);
	aml_name(b, "_CRS");
	res = aml_open_resources(b);
	aml_res_bus(b, 0, 0);
	aml_res_window(b, (uint32_t)LAYOUT_PCI_MMIO,
		       (uint32_t)(LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE - 1));
	aml_close_resources(b, res);
	aml_close(b, dev);
}

/* The configuration space is reserved by a device of its own, as the PCI firmware
 * specification wants it: else Linux does not trust the MCFG. */
static void add_ecam(struct buf *b)
{
	size_t dev = aml_open_device(b, "ECAM"), res;

	aml_name(b, "_HID");
	aml_eisaid(b, "PNP0C02");
	aml_name(b, "_UID");
	aml_int(b, 1);
	aml_name(b, "_CRS");
	res = aml_open_resources(b);
	aml_res_memory(b, (uint32_t)LAYOUT_ECAM, (uint32_t)LAYOUT_ECAM_SIZE);
	aml_close_resources(b, res);
	aml_close(b, dev);
}

static void add_com1(struct buf *b)
{
	size_t dev = aml_open_device(b, "COM1"), res;

	aml_name(b, "_HID");
	aml_eisaid(b, "PNP0501");
	aml_name(b, "_UID");
	aml_int(b, 1);
	aml_name(b, "_CRS");
	res = aml_open_resources(b);
	aml_res_io(b, LAYOUT_PORT_COM1, 8);
	aml_res_interrupt(b, LAYOUT_GSI_COM1);
	aml_close_resources(b, res);
	aml_close(b, dev);
}

/* The power button, and the event device that reports it: _EVT is evaluated with each interrupt
 * and reads, and so clears, what happened. */
static void add_events(struct buf *b)
{
	size_t dev = aml_open_device(b, "PWRB"), res, method;

	aml_name(b, "_HID");
	aml_eisaid(b, "PNP0C0C");
	aml_name(b, "_UID");
	aml_int(b, 0);
	aml_close(b, dev);

	dev = aml_open_device(b, "GED_");
	aml_name(b, "_HID");
	aml_string(b, "ACPI0013");
	aml_name(b, "_UID");
	aml_int(b, 0);
	aml_name(b, "_CRS");
	res = aml_open_resources(b);
	aml_res_interrupt(b, LAYOUT_GSI_GED);
	aml_close_resources(b, res);
	aml_io_byte(b, "EVTR", LAYOUT_PORT_ACPI + ACPI_REG_EVENT, "EVTS");
	method = aml_open_method(b, "_EVT", 1, 1);
	aml_store_local0(b, "EVTS");
	aml_if_local0_notify(b, ACPI_EVENT_POWER_BUTTON, "\\_SB_.PWRB", 0x80);
	aml_close(b, method);
	aml_close(b, dev);
}

static uint64_t add_dsdt(struct buf *b, uint64_t at)
{
	size_t mark = table_begin(b), block;
	struct acpi_head h;

	head_init(&h, "DSDT", 2);
	(void)buf_add(b, &h, sizeof(h)); /* failure sticks in the buffer */
	block = aml_open_scope(b, "\\_SB_");
	add_root(b);
	add_ecam(b);
	add_com1(b);
	add_events(b);
	aml_close(b, block);
	aml_name(b, "\\_S5_");
	block = aml_open_package(b, 1);
	aml_int(b, ACPI_SLEEP_S5);
	aml_close(b, block);
	return table_end(b, mark, at);
}

static struct acpi_gas io_byte(unsigned reg)
{
	return (struct acpi_gas){.space = GAS_SYSTEM_IO,
				 .bits = 8,
				 .access = GAS_BYTE,
				 .addr = le64_of(LAYOUT_PORT_ACPI + reg)};
}

static uint64_t add_fadt(struct buf *b, uint64_t dsdt, uint64_t at)
{
	struct acpi_fadt f = {0};

	head_init(&f.head, "FACP", FADT_REVISION);
	f.minor = FADT_MINOR;
	f.dsdt = le32_of((uint32_t)dsdt);
	f.x_dsdt = le64_of(dsdt);
	f.boot_arch = le16_of(FADT_BOOT_ARCH);
	f.flags = le32_of(FADT_WBINVD | FADT_PWR_BUTTON | FADT_SLP_BUTTON |
			  FADT_RESET_REG | FADT_HW_REDUCED);
	f.reset = io_byte(ACPI_REG_RESET);
	f.reset_value = ACPI_RESET_VALUE;
	f.sleep_control = io_byte(ACPI_REG_SLEEP);
	f.sleep_status = io_byte(ACPI_REG_SLEEP_STATUS);
	return add_table(b, &f, sizeof(f), at);
}

static uint64_t add_madt(struct buf *b, unsigned vcpus, uint64_t at)
{
	const struct madt_ioapic io = {.type = MADT_IOAPIC,
				       .len = sizeof(io),
				       .addr = le32_of((uint32_t)LAYOUT_IOAPIC)};
	const struct madt_nmi nmi = {
		.type = MADT_NMI, .len = sizeof(nmi), .uid = ALL_CPUS, .lint = 1};
	struct acpi_madt m = {.lapic = le32_of((uint32_t)LAYOUT_LAPIC)};
	size_t mark = table_begin(b);

	head_init(&m.head, "APIC", 5);
	(void)buf_add(b, &m, sizeof(m)); /* failure sticks in the buffer, also below */
	for (unsigned i = 0; i < vcpus; i++) {
		struct madt_lapic l = {.type = MADT_LAPIC,
				       .len = sizeof(l),
				       .uid = (uint8_t)i,
				       .id = (uint8_t)i,
				       .flags = le32_of(MADT_ENABLED)};

		(void)buf_add(b, &l, sizeof(l));
	}
	(void)buf_add(b, &io, sizeof(io));
	(void)buf_add(b, &nmi, sizeof(nmi));
	return table_end(b, mark, at);
}

static uint64_t add_mcfg(struct buf *b, uint64_t at)
{
	struct acpi_mcfg m = {.base = le64_of(LAYOUT_ECAM)}; /* bus 0 to 0 */

	head_init(&m.head, "MCFG", 1);
	return add_table(b, &m, sizeof(m), at);
}

static uint64_t add_xsdt(struct buf *b, const uint64_t *table, unsigned n, uint64_t at)
{
	size_t mark = table_begin(b);
	struct acpi_head h;

	head_init(&h, "XSDT", 1);
	(void)buf_add(b, &h, sizeof(h)); /* failure sticks in the buffer */
	for (unsigned i = 0; i < n; i++)
		(void)buf_add_u64(b, table[i]); /* as above */
	return table_end(b, mark, at);
}

int acpi_build(struct gm *gm, uint64_t at, uint64_t room, unsigned vcpus,
	       uint64_t *rsdp_out, struct err *err)
{
	struct acpi_rsdp rsdp = {.signature = "RSD PTR ", .oem = "RHEA  ", .revision = 2};
	struct buf b = {0};
	uint64_t table[3];
	int rc = 0;

	/* The RSDP comes first, and is known last. */
	(void)buf_grow(&b, sizeof(rsdp)); /* failure sticks in the buffer */
	table[0] = add_fadt(&b, add_dsdt(&b, at), at);
	table[1] = add_madt(&b, vcpus, at);
	table[2] = add_mcfg(&b, at);
	rsdp.xsdt = le64_of(add_xsdt(&b, table, 3, at));
	rsdp.len = le32_of(sizeof(rsdp));
	rsdp.checksum = checksum(&rsdp, RSDP_V1_LEN);
	rsdp.checksum_all = checksum(&rsdp, sizeof(rsdp));
	if (b.failed) {
		rc = err_set(err, -ENOMEM, "ACPI tables: out of memory");
		goto out;
	}
	memcpy(b.data, &rsdp, sizeof(rsdp));
	if (b.len > room || gm_write(gm, at, b.data, b.len))
		rc = err_set(err, -EFBIG, "ACPI tables: no room for %zu bytes", b.len);
	*rsdp_out = at;
out:
	buf_fini(&b);
	return rc;
}
