/* SPDX-License-Identifier: Apache-2.0
 * boot - a kernel image into guest memory, and the state in which vCPU 0 enters it.
 *
 * What the first MiB holds (all of it RAM to the guest but the ACPI part):
 *   0x0500 GDT    0x6000 PVH start info    0x7000 boot_params    0x9000 page tables
 *   0x6000 stack (downwards; nobody needs it for long)           0x20000 command line
 *   0xE0000 ACPI tables                  0xFFFF0 what runs after a reset of the CPU alone
 */
#ifndef HV_BOOT_H
#define HV_BOOT_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct gm;
struct vcpu;
struct vm_kernel;

#define BOOT_GDT	0x500ull
#define BOOT_STACK	0x6000ull
#define BOOT_PVH_INFO	0x6000ull
#define BOOT_PARAMS	0x7000ull
#define BOOT_PAGES	0x9000ull
#define BOOT_CMDLINE	0x20000ull
#define BOOT_RAM_END	0xA0000ull
#define BOOT_ACPI	0xE0000ull
#define BOOT_ACPI_SIZE	0x10000ull
#define BOOT_RESET	0xFFFF0ull
#define BOOT_KERNEL_MIN 0x100000ull

enum { BOOT_CMDLINE_MAX = 4096 /* with its end */, BOOT_MAP_MAX = 8 };

enum boot_mem {
	BOOT_MEM_RAM = 1,
	BOOT_MEM_RESERVED = 2,
	BOOT_MEM_ACPI = 3
}; /* E820 types */

struct boot_range {
	uint64_t addr, size;
	enum boot_mem type;
};

/* How vCPU 0 starts: at @rip in 64-bit mode with RSI = @arg (bzImage), or in 32-bit protected
 * mode without paging with EBX = @arg (PVH). */
struct boot_entry {
	int pvh;
	uint64_t rip, arg;
};

/* Load kernel, initrd, command line and ACPI tables. The images are hostile. 0, -ENOEXEC for
 * something that is no kernel of ours, -EFBIG if it does not fit, or another -errno. */
int boot_load(struct gm *gm, const struct vm_kernel *k, unsigned vcpus,
	      struct boot_entry *entry_out, struct err *err);
/* Set the registers of @v accordingly. It is in its power-on state. */
int boot_enter(struct gm *gm, struct vcpu *v, const struct boot_entry *e,
	       struct err *err);

/* For the two kinds of image. @rsdp: where the ACPI tables start. */
int bzimage_load(struct gm *gm, const struct vm_kernel *k, uint64_t file_len,
		 uint64_t rsdp, struct boot_entry *entry_out, struct err *err);
int pvh_load(struct gm *gm, const struct vm_kernel *k, uint64_t file_len, uint64_t rsdp,
	     struct boot_entry *entry_out, struct err *err);

/* The guest's memory map; returns the number of ranges. */
unsigned boot_map(const struct gm *gm, struct boot_range map[BOOT_MAP_MAX]);
/* Where RAM below 4 GiB ends. */
uint64_t boot_low_end(const struct gm *gm);
/* Exactly [off, off + len) of a file, into memory of ours or of the guest's. */
int boot_read(int fd, uint64_t off, void *dst, uint64_t len, struct err *err);
int boot_read_guest(struct gm *gm, int fd, uint64_t off, uint64_t gpa, uint64_t len,
		    struct err *err);
/* The initrd, as high as it may be: below @limit, above @kernel_end. Size 0: there is none. */
int boot_initrd(struct gm *gm, const struct vm_kernel *k, uint64_t kernel_end,
		uint64_t limit, uint64_t *addr_out, uint64_t *size_out, struct err *err);

#endif
