/* SPDX-License-Identifier: Apache-2.0
 * entry - from the PVH entry point (32-bit protected mode) to ring 3, in few instructions.
 *
 * Ring 0 may be emulated, slowly, so all tables are data: nothing is built at run time. Accessed
 * and dirty bits are set already, so that nobody writes to the tables while pages are counted.
 * In ring 3 everything is allowed: all of the first 4 GiB is user memory, and the TSS lets all
 * ports below 0x800 through (not every hypervisor that emulates ring 0 looks at IOPL).
 */
#define NOTE_PHYS32_ENTRY 18
#define MSR_EFER	  0xC0000080
#define EFER_LME	  0x100
#define CR0_PG		  0x80000000
#define CR4_PAE		  0x20
#define MSR_KVM_CLOCK	  0x4B564D01
#define CODE0		  0x08
#define CODE3		  (0x18 | 3)
#define DATA3		  (0x20 | 3)
#define TSS		  0x28
#define TSS_PORTS	  104	 /* offset of its map of ports, one bit each */
#define PORTS		  0x800
#define RFLAGS		  0x3002 /* IOPL 3, no interrupts */
#define TABLE		  0x27	 /* present, writable, user, accessed */
#define LEAF		  0xE7	 /* and dirty, 2 MiB */

	.section .note.xen, "a", @note
	.balign 4
	.long 4, 4, NOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long guest_entry

	.text
	.code32
	.globl guest_entry
guest_entry:
	movl %ebx, start_info
	lgdt gdt_pointer
	movl $pml4, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $CR4_PAE, %eax
	movl %eax, %cr4
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl %cr0, %eax
	orl $CR0_PG, %eax
	movl %eax, %cr0
	ljmp $CODE0, $long_mode

	.code64
long_mode:
	movl $MSR_KVM_CLOCK, %ecx
	movl $(clock_page + 1), %eax /* +1: on */
	xorl %edx, %edx
	wrmsr
	movl $tss, %eax
	movw %ax, gdt_tss + 2
	shrl $16, %eax
	movb %al, gdt_tss + 4
	movb %ah, gdt_tss + 7
	movl $TSS, %eax
	ltr %ax
	movl $DATA3, %eax
	movl %eax, %ds
	movl %eax, %es
	movl $stack_top, %esp
	pushq $DATA3
	pushq $(stack_top - 128 - 8) /* as if called: 8 below a multiple of 16 */
	pushq $RFLAGS
	pushq $CODE3
	pushq $guest_main
	iretq

	.data
	.balign 4096
pml4:	.quad pdpt + TABLE
	.fill 511, 8, 0
pdpt:	.quad pages + TABLE, pages + 0x1000 + TABLE, pages + 0x2000 + TABLE, pages + 0x3000 + TABLE
	.fill 508, 8, 0
pages:
	.set at, 0
	.rept 2048
	.quad at + LEAF
	.set at, at + 0x200000
	.endr
gdt:	.quad 0
	.quad 0x00AF9B000000FFFF /* CODE0 */
	.quad 0x00CF93000000FFFF
	.quad 0x00AFFB000000FFFF /* CODE3 */
	.quad 0x00CFF3000000FFFF /* DATA3 */
gdt_tss:
	.word TSS_PORTS + PORTS / 8 /* limit */
	.word 0			    /* base, filled in at the start: */
	.byte 0, 0x89, 0, 0	    /* no relocation can split an address */
	.quad 0
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long gdt

tss:	.fill 102, 1, 0
	.word TSS_PORTS
	.fill PORTS / 8, 1, 0
	.byte 0xFF /* asked for by the architecture */

	.bss
	.globl start_info, clock_page
	.balign 4096
clock_page:
	.skip 4096
start_info:
	.skip 8
	.balign 4096
	.skip 32768
stack_top:

	.section .note.GNU-stack, "", @progbits
