/* SPDX-License-Identifier: Apache-2.0
 * serial - a 16550A at COM1, whose line is infinitely fast and never breaks.
 *
 * Source: National Semiconductor PC16550D data sheet. Everything runs under the device lock.
 */
#include "hv/devices.h"

#include "hv/base/err.h"
#include "hv/bus.h"
#include "hv/irq.h"
#include "hv/layout.h"
#include "hv/state.h"
#include "hv/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PORTS = 8, FIFO_LEN = 64 /* deeper than the real one: nobody counts */ };

/* Registers, by offset; some are two. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum {
	IER_RX = 1 << 0,
	IER_TX = 1 << 1,
	IER_MASK = 0x0F,
	IIR_NONE = 1,
	IIR_TX = 2,
	IIR_RX = 4,
	IIR_FIFO = 0xC0,
	FCR_ENABLE = 1 << 0,
	FCR_CLEAR_RX = 1 << 1,
	LCR_DLAB = 1 << 7,
	MCR_OUT2 = 1 << 3, /* gates the interrupt on PCs */
	MCR_LOOP = 1 << 4,
	MCR_MASK = 0x1F,
	LSR_DATA = 1 << 0,
	LSR_TX_EMPTY = 1 << 5 | 1 << 6,
	MSR_CARRIER = 0xB0, /* CTS, DSR, DCD */
};

struct serial {
	struct vm *vm;
	struct con_out out;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t tx_pending; /* the guest is owed a "transmitter empty" */
	uint8_t rx[FIFO_LEN];
	uint32_t rx_len;
	int line; /* what the interrupt pin was last set to */
};

static const struct state_field serial_fields[] = {
	STATE_INT(1, 1, struct serial, ier),
	STATE_INT(2, 1, struct serial, fcr),
	STATE_INT(3, 1, struct serial, lcr),
	STATE_INT(4, 1, struct serial, mcr),
	STATE_INT(5, 1, struct serial, scr),
	STATE_INT(6, 1, struct serial, dll),
	STATE_INT(7, 1, struct serial, dlm),
	STATE_INT(8, 1, struct serial, tx_pending),
	STATE_BYTES(9, 1, struct serial, rx),
	STATE_INT(10, 1, struct serial, rx_len),
	STATE_END,
};
static const struct state_table serial_table = {"serial", 1, serial_fields};

static uint8_t pending(const struct serial *s)
{
	if ((s->ier & IER_RX) && s->rx_len)
		return IIR_RX;
	if ((s->ier & IER_TX) && s->tx_pending)
		return IIR_TX;
	return IIR_NONE;
}

static void update_line(struct serial *s)
{
	int level = pending(s) != IIR_NONE && (s->mcr & MCR_OUT2);

	if (level == s->line)
		return;
	s->line = level;
	/* A pin that exists cannot be refused. */
	(void)irq_line(s->vm, LAYOUT_GSI_COM1, level);
}

static size_t receive(struct serial *s, const uint8_t *p, size_t len)
{
	size_t room = FIFO_LEN - s->rx_len;

	if (len > room)
		len = room;
	memcpy(s->rx + s->rx_len, p, len);
	s->rx_len += (uint32_t)len;
	update_line(s);
	return len;
}

static uint8_t take_rx(struct serial *s)
{
	uint8_t c = s->rx[0];

	if (!s->rx_len)
		return 0;
	s->rx_len--;
	memmove(s->rx, s->rx + 1, s->rx_len);
	return c;
}

static void transmit(struct serial *s, uint8_t c)
{
	if (s->mcr & MCR_LOOP)
		receive(s, &c, 1); /* full: it is lost, as on the wire */
	else
		s->out.bytes(s->out.self, &c, 1);
	s->tx_pending = 1;
}

/* In loop-back mode the modem inputs are the modem outputs. */
static uint8_t modem_status(const struct serial *s)
{
	uint8_t m = s->mcr;

	if (!(m & MCR_LOOP))
		return MSR_CARRIER;
	return (uint8_t)((m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4);
}

static uint8_t read_reg(struct serial *s, uint64_t reg)
{
	uint8_t v;

	switch (reg) {
	case REG_DATA:
		return s->lcr & LCR_DLAB ? s->dll : take_rx(s);
	case REG_IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case REG_IIR_FCR:
		v = pending(s);
		if (v == IIR_TX)
			s->tx_pending = 0;
		return v | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return LSR_TX_EMPTY | (s->rx_len ? LSR_DATA : 0);
	case REG_MSR:
		return modem_status(s);
	default:
		return s->scr;
	}
}

static void write_reg(struct serial *s, uint64_t reg, uint8_t v)
{
	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->dll = v;
		else
			transmit(s, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB) {
			s->dlm = v;
			break;
		}
		/* Switched on while the transmitter is empty, which it always is: told at once. */
		if ((v & IER_TX) && !(s->ier & IER_TX))
			s->tx_pending = 1;
		s->ier = v & IER_MASK;
		break;
	case REG_IIR_FCR:
		s->fcr = v & FCR_ENABLE;
		if (v & FCR_CLEAR_RX)
			s->rx_len = 0;
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		s->mcr = v & MCR_MASK;
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

static void serial_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct serial *s = self;
	uint8_t *p = data;

	memset(p, 0xFF, len);
	p[0] = read_reg(s, off);
	update_line(s);
}

static void serial_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct serial *s = self;
	const uint8_t *p = data;

	write_reg(s, off, p[0]);
	update_line(s);
}

static const struct bus_ops serial_bus = {.read = serial_read, .write = serial_write};

size_t serial_input(struct serial *s, const void *p, size_t len)
{
	return receive(s, p, len);
}

static int serial_save(void *self, struct buf *b)
{
	return state_save(b, &serial_table, 0, self);
}

static int serial_load(void *self, struct reader *r, struct err *err)
{
	struct serial *s = self;
	int rc = state_load(r, &serial_table, 0, s, err);

	if (rc)
		return rc;
	if (s->rx_len > FIFO_LEN) {
		rc = err_set(err, -EBADMSG, "%u bytes in a FIFO of %d", s->rx_len,
			     FIFO_LEN);
		s->rx_len = 0;
	}
	return rc;
}

/* The pin is an edge: low first, so that what is pending is one again. */
static void serial_loaded(void *self)
{
	struct serial *s = self;

	s->line = 0;
	/* A pin that exists cannot be refused. */
	(void)irq_line(s->vm, LAYOUT_GSI_COM1, 0);
	update_line(s);
}

static void serial_reset(void *self)
{
	struct serial *s = self;

	s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->dll = s->dlm = s->tx_pending = 0;
	s->rx_len = 0;
	update_line(s);
}

static void serial_destroy(void *self)
{
	struct serial *s = self;

	bus_remove(vm_pio(s->vm), LAYOUT_PORT_COM1);
	free(s);
}

static const struct vm_device_ops serial_ops = {
	.name = "serial",
	.save = serial_save,
	.load = serial_load,
	.loaded = serial_loaded,
	.reset = serial_reset,
	.destroy = serial_destroy,
};

int serial_create(struct vm *vm, const struct con_out *out, struct serial **dev_out,
		  struct err *err)
{
	struct serial *s = calloc(1, sizeof(*s));
	int rc;

	*dev_out = NULL;
	if (!s)
		return err_set(err, -ENOMEM, "serial port: out of memory");
	s->vm = vm;
	s->out = *out;
	rc = bus_add(vm_pio(vm), LAYOUT_PORT_COM1, PORTS, &serial_bus, s);
	if (rc) {
		free(s);
		return err_sys(err, rc, "serial port: its ports");
	}
	rc = vm_add_device(vm, &serial_ops, s, 0, err);
	if (rc) {
		serial_destroy(s);
		return rc;
	}
	*dev_out = s;
	return 0;
}
