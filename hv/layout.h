/* SPDX-License-Identifier: Apache-2.0
 * layout - where things are in the guest's physical address space. Both hosts agree on it.
 *
 *   0x0000_0000  RAM, up to 3 GiB (the first MiB holds boot data and the ACPI tables)
 *   0xC000_0000  PCI memory window (BARs), 512 MiB
 *   0xE000_0000  ECAM of bus 0, 1 MiB
 *   0xFEC0_0000  I/O APIC;  0xFEE0_0000 local APICs
 *   0xFFFB_C000  identity map page, TSS pages (KVM's own, Intel only)
 *  0x1_0000_0000 RAM above 3 GiB, if any
 */
#ifndef HV_LAYOUT_H
#define HV_LAYOUT_H

#define LAYOUT_RAM_LOW_MAX   0xC0000000ull
#define LAYOUT_PCI_MMIO	     0xC0000000ull
#define LAYOUT_PCI_MMIO_SIZE 0x20000000ull
#define LAYOUT_ECAM	     0xE0000000ull
#define LAYOUT_ECAM_SIZE     0x00100000ull
#define LAYOUT_IOAPIC	     0xFEC00000ull
#define LAYOUT_LAPIC	     0xFEE00000ull
#define LAYOUT_KVM_IDENTITY  0xFFFBC000ull
#define LAYOUT_KVM_TSS	     0xFFFBD000ull
#define LAYOUT_RAM_HIGH	     0x100000000ull

/* I/O ports */
#define LAYOUT_PORT_PCI	 0xCF8 /* +0 address, +4 data */
#define LAYOUT_PORT_COM1 0x3F8
#define LAYOUT_PORT_ACPI 0x600 /* +0 sleep control, +1 sleep status, +2 reset, +4 GED */

/* Global system interrupts (I/O APIC pins) */
#define LAYOUT_GSI_COM1	     4
#define LAYOUT_GSI_GED	     9
#define LAYOUT_GSI_MSI_FIRST 24 /* routing entries from here on are MSI vectors */

#endif
