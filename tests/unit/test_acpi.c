/* SPDX-License-Identifier: Apache-2.0
 * test_acpi - the tables: checksums, pointers, what they name; and AML byte by byte.
 */
#include "hv/acpi.h"
#include "hv/aml.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/layout.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#define AT   0xE0000ull
#define ROOM 0x10000ull

static struct gm *gm;

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

static uint64_t get(const uint8_t *p, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, p, len);
	return v;
}

/* The table at @at, after a look at its head. */
static const uint8_t *table_at(uint64_t at, const char *signature, uint32_t *len_out)
{
	const uint8_t *p = gm_at(gm, at, 36);

	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	*len_out = (uint32_t)get(p + 4, 4);
	CU_ASSERT(!memcmp(p, signature, 4));
	CU_ASSERT(at >= AT && at + *len_out <= AT + ROOM);
	CU_ASSERT(sum(p, *len_out) == 0);
	return p;
}

/* The table that the XSDT lists at @index. */
static const uint8_t *listed(uint64_t rsdp, unsigned index, const char *signature,
			     uint32_t *len)
{
	const uint8_t *r = gm_at(gm, rsdp, 36), *x;
	uint32_t xlen;

	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	CU_ASSERT(!memcmp(r, "RSD PTR ", 8) && r[15] == 2);
	CU_ASSERT(sum(r, 20) == 0 && sum(r, 36) == 0);
	x = table_at(get(r + 24, 8), "XSDT", &xlen);
	CU_ASSERT_FATAL(36 + 8 * (index + 1) <= xlen);
	return table_at(get(x + 36 + 8 * (size_t)index, 8), signature, len);
}

static uint64_t build(unsigned vcpus)
{
	struct err err = {0};
	uint64_t rsdp = 0;

	CU_ASSERT_FATAL(!acpi_build(gm, AT, ROOM, vcpus, &rsdp, &err));
	return rsdp;
}

static void test_fadt(void)
{
	uint32_t len, dlen;
	const uint8_t *f = listed(build(1), 0, "FACP", &len);

	CU_ASSERT(len == 276);
	CU_ASSERT(get(f + 112, 4) & 1 << 20); /* hardware-reduced */
	CU_ASSERT(get(f + 112, 4) & 1 << 10); /* there is a reset register */
	CU_ASSERT(f[116] == 1 && get(f + 120, 8) == LAYOUT_PORT_ACPI + 2);
	CU_ASSERT(f[128] == ACPI_RESET_VALUE);
	CU_ASSERT(get(f + 244 + 4, 8) == LAYOUT_PORT_ACPI); /* sleep control */
	CU_ASSERT(get(f + 256 + 4, 8) == LAYOUT_PORT_ACPI + 1);
	CU_ASSERT(get(f + 40, 4) == get(f + 140, 8));
	(void)table_at(get(f + 140, 8), "DSDT", &dlen);
	CU_ASSERT(dlen > 36);
}

static void test_madt(void)
{
	for (unsigned n = 1; n <= 4; n++) {
		uint32_t len, at = 44;
		const uint8_t *m = listed(build(n), 1, "APIC", &len);
		unsigned cpus = 0, ioapics = 0;

		CU_ASSERT(get(m + 36, 4) == LAYOUT_LAPIC);
		while (at + 2 <= len && m[at + 1] >= 2) {
			if (m[at] == 0) {
				CU_ASSERT(m[at + 3] == cpus && get(m + at + 4, 4) == 1);
				cpus++;
			} else if (m[at] == 1) {
				CU_ASSERT(get(m + at + 4, 4) == LAYOUT_IOAPIC);
				ioapics++;
			}
			at += m[at + 1];
		}
		CU_ASSERT(at == len && cpus == n && ioapics == 1);
	}
}

static void test_mcfg(void)
{
	uint32_t len;
	const uint8_t *m = listed(build(1), 2, "MCFG", &len);

	CU_ASSERT(len == 60 && get(m + 44, 8) == LAYOUT_ECAM);
	CU_ASSERT(m[54] == 0 && m[55] == 0); /* bus 0 alone: 1 MiB */
}

static int has(const uint8_t *p, size_t len, const void *what, size_t n)
{
	return memmem(p, len, what, n) != NULL;
}

/* The devices that a guest must find, by their ids. */
static void test_dsdt(void)
{
	static const uint8_t root[] = {0x41, 0xD0, 0x0A, 0x08};	  /* PNP0A08 */
	static const uint8_t button[] = {0x41, 0xD0, 0x0C, 0x0C}; /* PNP0C0C */
	static const uint8_t com1[] = {0x41, 0xD0, 0x05, 0x01};	  /* PNP0501 */
	static const uint8_t s5[] = {'_', 'S', '5', '_', 0x12};
	uint32_t len, dlen;
	const uint8_t *f = listed(build(1), 0, "FACP", &len);
	const uint8_t *d = table_at(get(f + 140, 8), "DSDT", &dlen);

	CU_ASSERT(has(d, dlen, root, 4) && has(d, dlen, button, 4) &&
		  has(d, dlen, com1, 4));
	CU_ASSERT(has(d, dlen, "ACPI0013", 9) && has(d, dlen, s5, sizeof(s5)));
}

static void test_no_room(void)
{
	struct err err = {0};
	uint64_t rsdp;

	CU_ASSERT(acpi_build(gm, AT, 256, 1, &rsdp, &err) == -EFBIG);
	CU_ASSERT(acpi_build(gm, 16 << 20, ROOM, 1, &rsdp, &err) == -EFBIG);
}

/* Scope (\_SB) { Device (COM1) { Name (_UID, 2) } }, and a resource template. */
static void test_aml(void)
{
	static const uint8_t
		nested[] =
			{
				0x10, 0x80 | 8, 0x01,	   0x00, '\\', '_', 'S',  'B',
				'_', /* 24 bytes with length */
				0x5B, 0x82,	0x80 | 14, 0x00, 0x00, 'C', 'O',  'M',
				'1',  0x08,	'_',	   'U',	 'I',  'D', 0x0A, 2,
			};
	static const uint8_t res[] = {
		0x11, 0x80 | 0, 0x01, 0x00, 0x0B, 0x0A, 0x00, 0x47, 1,
		0xF8, 3,	0xF8, 3,    1,	  8,	0x79, 0,
	};
	struct buf b = {0};
	size_t scope = aml_open_scope(&b, "\\_SB_"), dev = aml_open_device(&b, "COM1"), r;

	aml_name(&b, "_UID");
	aml_int(&b, 2);
	aml_close(&b, dev);
	aml_close(&b, scope);
	CU_ASSERT(b.len == sizeof(nested) && !memcmp(b.data, nested, b.len));
	buf_reset(&b);
	r = aml_open_resources(&b);
	aml_res_io(&b, 0x3F8, 8);
	aml_close_resources(&b, r);
	CU_ASSERT(b.len == sizeof(res) && !memcmp(b.data, res, b.len));
	buf_fini(&b);
}

static void test_aml_values(void)
{
	static const uint8_t ints[] = {0, 1,	0x0A, 2, 0x0B, 0, 1, 0x0C, 0, 0, 1,
				       0, 0x0E, 0,    0, 0,    0, 1, 0,	   0, 0};
	static const uint8_t path[] = {'\\', 0x2E, '_', 'S', 'B',
				       '_',  'P',  'W', 'R', 'B'};
	struct buf b = {0};

	aml_int(&b, 0);
	aml_int(&b, 1);
	aml_int(&b, 2);
	aml_int(&b, 0x100);
	aml_int(&b, 0x10000);
	aml_int(&b, 1ull << 32);
	CU_ASSERT(b.len == sizeof(ints) && !memcmp(b.data, ints, b.len));
	buf_reset(&b);
	aml_path(&b, "\\_SB_.PWRB");
	CU_ASSERT(b.len == sizeof(path) && !memcmp(b.data, path, b.len));
	buf_fini(&b);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"FADT", test_fadt},
		{"MADT", test_madt},
		{"MCFG", test_mcfg},
		{"DSDT", test_dsdt},
		{"no room", test_no_room},
		{"AML blocks", test_aml},
		{"AML values", test_aml_values},
	};
	struct err err = {0};
	int rc;

	if (gm_create(16 << 20, &gm, &err))
		return 2;
	rc = UNIT_MAIN("acpi", tests);
	gm_destroy(gm);
	return rc;
}
