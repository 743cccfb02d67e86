/* SPDX-License-Identifier: Apache-2.0
 * boot - what all kernel images have in common: memory map, initrd, command line, entry state.
 */
#include "hv/boot.h"

#include "hv/acpi.h"
#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/layout.h"
#include "hv/vcpu.h"
#include "hv/vm.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PAGE_PRESENT = 1,
	PAGE_WRITE = 2,
	PAGE_HUGE = 0x80,
	CR0_PE = 1,
	CR0_ET = 0x10,
	CR4_PAE = 0x20,
	EFER_LME_LMA = 0x500,
	RFLAGS_FIXED = 2,
};
#define CR0_PG 0x80000000ull

/* The selectors that the Linux boot protocols ask for. */
enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20, GDT_ENTRIES = 6 };

uint64_t boot_low_end(const struct gm *gm)
{
	uint64_t n = gm_bytes(gm);

	return n < LAYOUT_RAM_LOW_MAX ? n : LAYOUT_RAM_LOW_MAX;
}

unsigned boot_map(const struct gm *gm, struct boot_range map[BOOT_MAP_MAX])
{
	const uint64_t acpi_end = BOOT_ACPI + BOOT_ACPI_SIZE, low = boot_low_end(gm);
	unsigned n = 0;

	map[n++] = (struct boot_range){0, BOOT_RAM_END, BOOT_MEM_RAM};
	map[n++] = (struct boot_range){BOOT_ACPI, BOOT_ACPI_SIZE, BOOT_MEM_ACPI};
	map[n++] = (struct boot_range){acpi_end, BOOT_KERNEL_MIN - acpi_end,
				       BOOT_MEM_RESERVED};
	map[n++] =
		(struct boot_range){BOOT_KERNEL_MIN, low - BOOT_KERNEL_MIN, BOOT_MEM_RAM};
	map[n++] = (struct boot_range){LAYOUT_ECAM, LAYOUT_ECAM_SIZE, BOOT_MEM_RESERVED};
	if (gm_bytes(gm) > low)
		map[n++] = (struct boot_range){LAYOUT_RAM_HIGH, gm_bytes(gm) - low,
					       BOOT_MEM_RAM};
	return n;
}

int boot_read(int fd, uint64_t off, void *dst, uint64_t len, struct err *err)
{
	uint8_t *p = dst;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, -errno, "reading the image");
		if (n == 0)
			return err_set(err, -ENOEXEC, "the image ends before its time");
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int boot_read_guest(struct gm *gm, int fd, uint64_t off, uint64_t gpa, uint64_t len,
		    struct err *err)
{
	void *dst = gm_at(gm, gpa, len);
	int rc;

	if (!dst)
		return err_set(err, -EFBIG,
			       "%" PRIu64 " bytes at %#" PRIx64
			       " do not fit the guest's memory",
			       len, gpa);
	rc = boot_read(fd, off, dst, len, err);
	gm_mark(gm, gpa, len);
	return rc;
}

static int file_len(int fd, uint64_t *len_out, struct err *err)
{
	struct stat st;

	*len_out = 0;
	if (fstat(fd, &st))
		return err_sys(err, -errno, "looking at the image");
	if (!S_ISREG(st.st_mode) || st.st_size <= 0)
		return err_set(err, -ENOEXEC, "the image is empty or no regular file");
	*len_out = (uint64_t)st.st_size;
	return 0;
}

int boot_initrd(struct gm *gm, const struct vm_kernel *k, uint64_t kernel_end,
		uint64_t limit, uint64_t *addr_out, uint64_t *size_out, struct err *err)
{
	uint64_t len, top = boot_low_end(gm);
	int rc;

	*addr_out = *size_out = 0;
	if (k->initrd_fd < 0)
		return 0;
	rc = file_len(k->initrd_fd, &len, err);
	if (rc)
		return err_ctx(err, "initrd");
	if (limit < top)
		top = limit;
	if (top < kernel_end || len > top - kernel_end ||
	    ((top - len) & ~(uint64_t)(GM_PAGE - 1)) < kernel_end)
		return err_set(err, -EFBIG,
			       "initrd of %" PRIu64
			       " KiB does not fit beside the kernel: give the "
			       "VM more memory",
			       len >> 10);
	*addr_out = (top - len) & ~(uint64_t)(GM_PAGE - 1);
	*size_out = len;
	rc = boot_read_guest(gm, k->initrd_fd, 0, *addr_out, len, err);
	return rc ? err_ctx(err, "initrd") : 0;
}

/* A Linux that has hardware-reduced ACPI reboots through EFI, and without EFI jumps to the BIOS's
 * entry: there it finds mov $reset_value,%al; mov $reset_port,%dx; out %al,(%dx); hlt; jmp. */
static int write_reset_code(struct gm *gm)
{
	enum { PORT = LAYOUT_PORT_ACPI + ACPI_REG_RESET };
	static const uint8_t code[] = {
		0xB0, ACPI_RESET_VALUE, 0xBA, PORT & 0xFF, PORT >> 8, 0xEE, 0xF4, 0xEB,
		0xFD};

	return gm_write(gm, BOOT_RESET, code, sizeof(code));
}

int boot_load(struct gm *gm, const struct vm_kernel *k, unsigned vcpus,
	      struct boot_entry *entry_out, struct err *err)
{
	size_t cmd = strlen(k->cmdline) + 1;
	uint64_t rsdp, len;
	uint8_t magic[SELFMAG];
	int rc;

	if (cmd > BOOT_CMDLINE_MAX)
		return err_set(err, -E2BIG, "command line of more than %d bytes",
			       BOOT_CMDLINE_MAX - 1);
	rc = acpi_build(gm, BOOT_ACPI, BOOT_ACPI_SIZE, vcpus, &rsdp, err);
	if (!rc && (gm_write(gm, BOOT_CMDLINE, k->cmdline, cmd) || write_reset_code(gm)))
		rc = err_set(err, -EFBIG, "command line does not fit the guest's memory");
	if (rc)
		return rc;
	rc = file_len(k->kernel_fd, &len, err);
	if (!rc)
		rc = boot_read(k->kernel_fd, 0, magic, sizeof(magic), err);
	if (!rc && !memcmp(magic, ELFMAG, SELFMAG))
		rc = pvh_load(gm, k, len, rsdp, entry_out, err);
	else if (!rc)
		rc = bzimage_load(gm, k, len, rsdp, entry_out, err);
	return rc ? err_ctx(err, "kernel") : 0;
}

/* The first 4 GiB as they are, in pages of 2 MiB. */
static int write_page_tables(struct gm *gm)
{
	enum { GIB = 4, ENTRIES = 512 };
	uint64_t table[ENTRIES] = {0};
	uint64_t next = BOOT_PAGES + GM_PAGE;
	int rc;

	table[0] = next | PAGE_PRESENT | PAGE_WRITE;
	rc = gm_write(gm, BOOT_PAGES, table, sizeof(table));
	for (unsigned g = 0; g < GIB; g++)
		table[g] =
			(next + (g + 1) * (uint64_t)GM_PAGE) | PAGE_PRESENT | PAGE_WRITE;
	rc = rc ? rc : gm_write(gm, next, table, sizeof(table));
	for (unsigned g = 0; g < GIB && !rc; g++) {
		for (unsigned i = 0; i < ENTRIES; i++)
			table[i] = ((uint64_t)g * ENTRIES + i) << 21 | PAGE_PRESENT |
				   PAGE_WRITE | PAGE_HUGE;
		rc = gm_write(gm, next + (g + 1) * (uint64_t)GM_PAGE, table,
			      sizeof(table));
	}
	return rc;
}

static void set_segments(struct kvm_sregs2 *s, int long_mode)
{
	struct kvm_segment code = {.limit = 0xFFFFFFFF,
				   .selector = SEL_CODE,
				   .type = 11,
				   .present = 1,
				   .s = 1,
				   .g = 1,
				   .l = (uint8_t)long_mode,
				   .db = !long_mode};
	struct kvm_segment data = {.limit = 0xFFFFFFFF,
				   .selector = SEL_DATA,
				   .type = 3,
				   .present = 1,
				   .s = 1,
				   .g = 1,
				   .db = 1};

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){
		.limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1};
	s->gdt.base = BOOT_GDT;
	s->gdt.limit = GDT_ENTRIES * sizeof(uint64_t) - 1;
	s->idt.base = 0;
	s->idt.limit = 0;
}

int boot_enter(struct gm *gm, struct vcpu *v, const struct boot_entry *e, struct err *err)
{
	/* Null twice, code (64- or 32-bit), data, and a TSS of two entries. */
	uint64_t gdt[GDT_ENTRIES] = {
		0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067, 0};
	struct vcpu_state *s = &v->state;

	*s = v->initial;
	set_segments(&s->sregs, !e->pvh);
	s->regs = (struct kvm_regs){
		.rip = e->rip, .rflags = RFLAGS_FIXED, .rsp = BOOT_STACK};
	if (e->pvh) {
		gdt[SEL_CODE / 8] = 0x00CF9B000000FFFF;
		s->sregs.cr0 = CR0_PE | CR0_ET;
		s->sregs.cr4 = 0;
		s->sregs.efer = 0;
		s->regs.rbx = e->arg;
	} else {
		s->sregs.cr0 = CR0_PG | CR0_PE | CR0_ET;
		s->sregs.cr3 = BOOT_PAGES;
		s->sregs.cr4 = CR4_PAE;
		s->sregs.efer = EFER_LME_LMA;
		s->regs.rsi = e->arg;
	}
	if (gm_write(gm, BOOT_GDT, gdt, sizeof(gdt)) ||
	    (!e->pvh && write_page_tables(gm)))
		return err_set(err, -EFBIG, "boot tables do not fit the guest's memory");
	return vcpu_set(v, s, err);
}
