/* SPDX-License-Identifier: Apache-2.0
 * say - text for people: on the serial port (16550) and on virtio-console.
 */
#include "tests/guest/say.h"

#include "hv/layout.h"
#include "tests/guest/io.h"
#include "tests/guest/net.h"
#include "tests/guest/virtio.h"

enum { LSR = 5, LSR_ROOM = 0x20, LSR_TRIES = 1000 };
enum { CONSOLE_ID = 3, CONSOLE_TX = 1, DIGITS = 20 };

static struct virtio console;
static struct vring console_tx;
static uint8_t console_line[64];
static int console_busy;

void say(const char *text)
{
	for (; *text; text++) {
		for (int i = 0; i < LSR_TRIES; i++)
			if (io_in8(LAYOUT_PORT_COM1 + LSR) & LSR_ROOM)
				break;
		io_out8(LAYOUT_PORT_COM1, (uint8_t)*text);
	}
}

/* @n in decimal, at the end of @room; returns where it begins. */
static char *decimal(uint64_t n, char room[DIGITS + 1])
{
	char *p = room + DIGITS;

	*p = 0;
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	return p;
}

void say_number(const char *before, uint64_t n, const char *after)
{
	char room[DIGITS + 1];

	say(before);
	say(decimal(n, room));
	say(after);
}

int console_open(void)
{
	if (!virtio_find(CONSOLE_ID, 0, &console) || !virtio_begin(&console, 0))
		return 0;
	vring_open(&console, CONSOLE_TX, &console_tx);
	virtio_run(&console);
	return 1;
}

/* The line before this one may still be on its way; then this one is left out. */
void console_number(uint64_t n)
{
	struct vring_buf buf = {.at = console_line};
	char room[DIGITS + 1], *digits = decimal(n, room);
	uint32_t len, digits_len = (uint32_t)(room + DIGITS - digits);
	uint16_t id;

	if (console_busy && !vring_done(&console_tx, &id, &len))
		return;
	memcpy(console_line, "n=", 2);
	memcpy(console_line + 2, digits, digits_len);
	memcpy(console_line + 2 + digits_len, "\r\n", 2);
	buf.len = digits_len + 4;
	vring_put(&console_tx, 0, &buf, 1);
	console_busy = 1;
}

void fail(const char *why)
{
	say("FAIL: ");
	say(why);
	say("\n");
	net_fail(why);
	for (;;)
		io_relax();
}
