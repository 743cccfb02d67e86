/* SPDX-License-Identifier: Apache-2.0
 * tinyguest - a PVH guest of a few instructions for unit tests that need one on /dev/kvm.
 *
 * It enters 64-bit mode, starts the other CPUs by INIT and SIPI, and drops to ring 3, where each
 * CPU counts in a page of its own. For each count it writes the number to a port and reads it
 * back: an access that is lost or done twice around a pause shows. What else to do is told
 * by words in its memory (TG_*). Its TSS lets all its ports through: software KVMs that emulate
 * ring 0 look there and not at IOPL.
 */
#ifndef TESTS_UNIT_TINYGUEST_H
#define TESTS_UNIT_TINYGUEST_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/gm.h"

#define TG_RAM	    (32ull << 20)
#define TG_LOAD	    0x100000ull
#define TG_TABLES   0x200000ull /* page tables */
#define TG_SIPI	    0x10000ull	/* real-mode code */
#define TG_VCPUS    0x300000ull /* how many there are */
#define TG_HALT	    0x300008ull /* not 0: all but CPU 0 halt in ring 0 */
#define TG_COMMAND  0x300010ull /* CPU 0: value << 16 | port, written to the port once */
#define TG_DIE	    0x300018ull /* not 0: CPU 0 ends in a triple fault */
#define TG_COUNTERS 0x400000ull /* a page for each CPU */
enum { TG_PORT = 0x700, TG_PORT_FAIL = 0x740 };

extern const uint8_t tg_start[], tg_end[], tg_sipi[], tg_sipi_end[], tg_entry[];

/* clang-format off */
__asm__(
".pushsection .rodata\n"
".balign 16\n"
"tg_start:\n"
".set TG_BASE, 0x100000\n"
"tg_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff\n"
"        .quad 0x00cff3000000ffff, 0x00affb000000ffff\n"
".rept 4\n	.quad 0x000089100000016f + ((tg_tss - tg_start) << 16), 0\n.endr\n"
"tg_gdtr: .word 111; .quad TG_BASE + tg_gdt - tg_start\n"
"tg_tss: .fill 102, 1, 0; .word 104; .fill 256, 1, 0; .byte 0xff\n"
".code32\n"
"tg_entry:\n"
"	mov $0x200000, %eax\n	mov %eax, %cr3\n"
"	mov %cr4, %eax\n	or $0x20, %eax\n	mov %eax, %cr4\n"
"	mov $0xC0000080, %ecx\n	rdmsr\n	or $0x100, %eax\n	wrmsr\n"
"	mov %cr0, %eax\n	or $0x80000000, %eax\n	mov %eax, %cr0\n"
"	lgdt TG_BASE + tg_gdtr - tg_start\n"
"	ljmp $0x08, $(TG_BASE + tg_long - tg_start)\n"
".code64\n"
"tg_long:\n"
"	mov $0x10, %eax\n	mov %eax, %ss\n	mov %eax, %ds\n	mov %eax, %es\n"
"	mov $1, %eax\n	cpuid\n	shr $24, %ebx\n	mov %ebx, %r15d\n"
"	shl $4, %ebx\n	add $0x30, %ebx\n	ltr %bx\n"
"	test %r15d, %r15d\n	jnz 3f\n"
"	mov $0xFEE00000, %r8d\n	mov $1, %r9d\n"
"1:	cmp %r9d, 0x300000\n	jbe 4f\n"
"	mov %r9d, %eax\n	shl $24, %eax\n	mov %eax, 0x310(%r8)\n"
"	movl $0x4500, 0x300(%r8)\n"
"	mov %eax, 0x310(%r8)\n	movl $0x4610, 0x300(%r8)\n"
"	inc %r9d\n	jmp 1b\n"
"3:	cmpl $0, 0x300008\n	je 4f\n"
"2:	hlt\n	jmp 2b\n"
"4:	mov %r15d, %ebx\n	shl $12, %ebx\n	lea 0x381000(%rbx), %rax\n"
"	mov %rax, %rsp\n	add $0x400000, %ebx\n"
"	pushq $0x23\n	pushq %rax\n	pushq $0x3002\n	pushq $0x2b\n"
"	pushq $(TG_BASE + tg_user - tg_start)\n	iretq\n"
"tg_user:\n"
"	incq (%rbx)\n"
"	mov (%rbx), %eax\n	lea 0x700(,%r15d,4), %edx\n	out %eax, %dx\n"
"	lea 0x720(,%r15d,4), %edx\n	in %dx, %eax\n"
"	cmp %eax, (%rbx)\n	jne tg_fail\n"
"	mov $500, %ecx\n"
"5:	dec %ecx\n	jnz 5b\n"
"	test %r15d, %r15d\n	jnz tg_user\n"
"	xor %eax, %eax\n	xchg %eax, 0x300010\n	test %eax, %eax\n	jz 6f\n"
"	movzwl %ax, %edx\n	shr $16, %eax\n	out %al, %dx\n"
"6:	cmpl $0, 0x300018\n	je tg_user\n	ud2\n"
"tg_fail: mov $0x740, %edx\n	out %eax, %dx\n	jmp tg_fail\n"
"tg_end:\n"
".code16\n"
"tg_sipi:\n"
"	cli\n"
"	lgdtl %cs:(tg_sipi_gdtr - tg_sipi)\n"
"	mov %cr0, %eax\n	or $1, %eax\n	mov %eax, %cr0\n"
"	ljmpl $0x18, $(0x10000 + tg_sipi32 - tg_sipi)\n"
".code32\n"
"tg_sipi32:\n"
"	mov $0x10, %eax\n	mov %eax, %ds\n	mov %eax, %ss\n"
"	mov $(TG_BASE + tg_entry - tg_start), %eax\n	jmp *%eax\n"
"tg_sipi_gdtr: .word 111; .long TG_BASE + tg_gdt - tg_start\n"
"tg_sipi_end:\n"
".code64\n"
".popsection\n"
".globl tg_start, tg_end, tg_sipi, tg_sipi_end, tg_entry\n");
/* clang-format on */

/* How far @to is behind @from, both labels of the assembly above: parts of one block, which the
 * compiler does not know. */
static inline uint64_t tg_distance(const uint8_t *from, const uint8_t *to)
{
	return (uint64_t)((uintptr_t)to - (uintptr_t)from);
}

/* The guest as an ELF in a memfd. Returns owned, or -1. */
static inline int tg_image(void)
{
	struct {
		Elf64_Ehdr eh;
		Elf64_Phdr ph[2];
		Elf64_Nhdr nh;
		char name[4];
		uint32_t entry;
	} h = {0};
	int fd = memfd_create("tinyguest", MFD_CLOEXEC);
	size_t len = tg_distance(tg_start, tg_end);

	memcpy(h.eh.e_ident, ELFMAG, SELFMAG);
	h.eh.e_ident[EI_CLASS] = ELFCLASS64;
	h.eh.e_ident[EI_DATA] = ELFDATA2LSB;
	h.eh.e_machine = EM_X86_64;
	h.eh.e_phoff = sizeof(h.eh);
	h.eh.e_phentsize = sizeof(h.ph[0]);
	h.eh.e_phnum = 2;
	h.ph[0] = (Elf64_Phdr){.p_type = PT_LOAD,
			       .p_offset = sizeof(h),
			       .p_paddr = TG_LOAD,
			       .p_filesz = len,
			       .p_memsz = len};
	h.ph[1] = (Elf64_Phdr){.p_type = PT_NOTE,
			       .p_offset = offsetof(__typeof__(h), nh),
			       .p_filesz = sizeof(h.nh) + 8};
	h.nh = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
	memcpy(h.name, "Xen", 4);
	h.entry = (uint32_t)(TG_LOAD + tg_distance(tg_start, tg_entry));
	if (fd < 0 || write(fd, &h, sizeof(h)) != sizeof(h) ||
	    write(fd, tg_start, len) != (ssize_t)len)
		return -1;
	return fd;
}

/* What the guest expects in memory beside its image. After vm_boot(). 0 or -EFAULT. */
static inline int tg_prepare(struct gm *gm, uint32_t vcpus)
{
	uint64_t t[512] = {0};
	int rc = gm_write(gm, TG_SIPI, tg_sipi, tg_distance(tg_sipi, tg_sipi_end));

	rc = rc ? rc : gm_write(gm, TG_VCPUS, &vcpus, sizeof(vcpus));
	t[0] = (TG_TABLES + 0x1000) | 7;
	rc = rc ? rc : gm_write(gm, TG_TABLES, t, sizeof(t));
	t[0] = (TG_TABLES + 0x2000) | 7;
	t[3] = (TG_TABLES + 0x3000) | 7;
	rc = rc ? rc : gm_write(gm, TG_TABLES + 0x1000, t, sizeof(t));
	for (uint64_t i = 0; i < 512; i++)
		t[i] = i << 21 | 0x87;
	rc = rc ? rc : gm_write(gm, TG_TABLES + 0x2000, t, sizeof(t));
	for (uint64_t i = 0; i < 512; i++)
		t[i] = (3ull << 30 | i << 21) | 0x87;
	return rc ? rc : gm_write(gm, TG_TABLES + 0x3000, t, sizeof(t));
}

#endif
