/* SPDX-License-Identifier: Apache-2.0
 * acpi - the tables that describe the machine, and the device behind their registers.
 */
#ifndef HV_ACPI_H
#define HV_ACPI_H

#include <stdint.h>

struct acpi_dev;
struct err;
struct gm;
struct vm;

/* Write all tables into [at, at + room). *rsdp_out: where the RSDP is. 0, -ENOMEM, -EFBIG. */
int acpi_build(struct gm *gm, uint64_t at, uint64_t room, unsigned vcpus,
	       uint64_t *rsdp_out, struct err *err);

/* Sleep control, reset, generic events and the keyboard controller's reset line, on vm_pio(). The
 * VM owns it like any device; *dev_out is for acpi_press() and as good as the VM. */
int acpi_dev_create(struct vm *vm, struct acpi_dev **dev_out, struct err *err);
/* The power button. Under vm_lock(). */
void acpi_press(struct acpi_dev *d);

/* Bits of the generic event register: read clears them. */
enum { ACPI_EVENT_POWER_BUTTON = 1 };
/* Sleep control: SLP_TYP in bits 2 to 4, SLP_EN; the type of S5 is ours to choose. */
enum { ACPI_SLEEP_TYPE_SHIFT = 2, ACPI_SLEEP_ENABLE = 0x20, ACPI_SLEEP_S5 = 5 };
enum { ACPI_RESET_VALUE = 1 };
/* Registers, from LAYOUT_PORT_ACPI. */
enum {
	ACPI_REG_SLEEP = 0,
	ACPI_REG_SLEEP_STATUS = 1,
	ACPI_REG_RESET = 2,
	ACPI_REG_EVENT = 4
};

#endif
