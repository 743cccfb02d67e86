/* SPDX-License-Identifier: Apache-2.0
 * acpi_dev - the registers that the ACPI tables speak of: power-off, reset, power button.
 *
 * The keyboard controller's reset line is here as well: it is what a kernel pulls that does
 * not trust its ACPI tables.
 */
#include "hv/acpi.h"

#include "hv/base/err.h"
#include "hv/bus.h"
#include "hv/irq.h"
#include "hv/layout.h"
#include "hv/state.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ACPI_PORTS = 8, KBD_PORT = 0x64, KBD_PULSE_RESET = 0xFE };

struct acpi_dev {
	struct vm *vm;
	uint8_t events;		     /* not yet read by the guest */
	uint8_t asked[VM_VCPUS_MAX]; /* enum vcpu_asked; only while saved or loaded */
};

static const struct state_field acpi_fields[] = {
	STATE_INT(1, 1, struct acpi_dev, events),
	STATE_INTS(2, 2, struct acpi_dev, asked),
	STATE_END,
};
static const struct state_table acpi_table = {"acpi", 2, acpi_fields};

static void acpi_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct acpi_dev *d = self;

	/* Sleep status: it never slept. */
	memset(data, 0, len);
	if (off == ACPI_REG_EVENT) {
		memcpy(data, &d->events, 1);
		d->events = 0;
	}
}

static void acpi_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct acpi_dev *d = self;
	uint8_t v;

	memcpy(&v, data, 1);
	if (off == ACPI_REG_SLEEP && (v & ACPI_SLEEP_ENABLE) &&
	    (v >> ACPI_SLEEP_TYPE_SHIFT & 7) == ACPI_SLEEP_S5)
		vm_notify(d->vm, VM_EV_POWEROFF, "ACPI power-off");
	else if (off == ACPI_REG_RESET && v == ACPI_RESET_VALUE)
		vm_notify(d->vm, VM_EV_RESET, "ACPI reset");
}

static const struct bus_ops acpi_ops = {.read = acpi_read, .write = acpi_write};

/* Status zero: no input waits, the controller is ready for the reset command. */
static void kbd_read(void *self, uint64_t off, void *data, unsigned len)
{
	memset(data, 0, len);
}

static void kbd_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct acpi_dev *d = self;
	uint8_t v;

	memcpy(&v, data, 1);
	if (v == KBD_PULSE_RESET)
		vm_notify(d->vm, VM_EV_RESET, "reset by the keyboard controller");
}

static const struct bus_ops kbd_ops = {.read = kbd_read, .write = kbd_write};

/* The event device's interrupt is an edge: up and down again. */
static void tell_guest(struct acpi_dev *d)
{
	/* A pin that exists cannot be refused. */
	(void)irq_line(d->vm, LAYOUT_GSI_GED, 1);
	(void)irq_line(d->vm, LAYOUT_GSI_GED, 0);
}

void acpi_press(struct acpi_dev *d)
{
	d->events |= ACPI_EVENT_POWER_BUTTON;
	tell_guest(d);
}

static int acpi_save(void *self, struct buf *b)
{
	struct acpi_dev *d = self;

	for (unsigned i = 0; i < VM_VCPUS_MAX; i++)
		d->asked[i] = (uint8_t)(i < vm_vcpus(d->vm) ? d->vm->vcpu[i]->asked
							    : VCPU_ASKED_NOTHING);
	return state_save(b, &acpi_table, 0, self);
}

static int acpi_load(void *self, struct reader *r, struct err *err)
{
	struct acpi_dev *d = self;
	int rc;

	memset(d->asked, 0, sizeof(d->asked)); /* version 1 does not say */
	rc = state_load(r, &acpi_table, 0, self, err);
	for (unsigned i = 0; !rc && i < VM_VCPUS_MAX; i++) {
		if (d->asked[i] > VCPU_ASKED_RESET ||
		    (d->asked[i] && i >= vm_vcpus(d->vm)))
			rc = err_set(err, -EBADMSG, "state: vCPU %u asked for %u", i,
				     d->asked[i]);
		else if (i < vm_vcpus(d->vm))
			d->vm->vcpu[i]->asked = (enum vcpu_asked)d->asked[i];
	}
	return rc;
}

static void acpi_loaded(void *self)
{
	struct acpi_dev *d = self;

	if (d->events)
		tell_guest(d);
}

static void acpi_reset(void *self)
{
	struct acpi_dev *d = self;

	d->events = 0;
}

static void acpi_destroy(void *self)
{
	struct acpi_dev *d = self;

	bus_remove(vm_pio(d->vm), KBD_PORT);
	bus_remove(vm_pio(d->vm), LAYOUT_PORT_ACPI);
	free(d);
}

static const struct vm_device_ops device_ops = {
	.name = "acpi",
	.save = acpi_save,
	.load = acpi_load,
	.loaded = acpi_loaded,
	.reset = acpi_reset,
	.destroy = acpi_destroy,
};

int acpi_dev_create(struct vm *vm, struct acpi_dev **dev_out, struct err *err)
{
	struct acpi_dev *d = calloc(1, sizeof(*d));
	int rc;

	*dev_out = NULL;
	if (!d)
		return err_set(err, -ENOMEM, "ACPI device: out of memory");
	d->vm = vm;
	rc = bus_add(vm_pio(vm), LAYOUT_PORT_ACPI, ACPI_PORTS, &acpi_ops, d);
	if (!rc)
		rc = bus_add(vm_pio(vm), KBD_PORT, 1, &kbd_ops, d);
	if (rc) {
		err_sys(err, rc, "ACPI device: its ports");
		goto fail;
	}
	rc = vm_add_device(vm, &device_ops, d, 0, err);
	if (rc)
		goto fail;
	*dev_out = d;
	return 0;
fail:
	acpi_destroy(d);
	return rc;
}
