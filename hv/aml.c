/* SPDX-License-Identifier: Apache-2.0
 * aml - ACPI Machine Language, as little of it as our DSDT needs.
 */
#include "hv/aml.h"

#include "hv/base/buf.h"

#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0A,
	OP_WORD = 0x0B,
	OP_DWORD = 0x0C,
	OP_STRING = 0x0D,
	OP_QWORD = 0x0E,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	PREFIX_DUAL = 0x2E,
	PREFIX_MULTI = 0x2F,
	PREFIX_EXT = 0x5B,
	OP_LOCAL0 = 0x60,
	OP_STORE = 0x70,
	OP_AND = 0x7B,
	OP_NOTIFY = 0x86,
	OP_IF = 0xA0,
	EXT_REGION = 0x80,
	EXT_FIELD = 0x81,
	EXT_DEVICE = 0x82,
};
enum { SPACE_SYSTEM_IO = 1, FIELD_BYTE_ACCESS = 1 };
enum { SEG = 4, PKG_LEN_BYTES = 3, PKG_LEN_MAX = 0xFFFFF };

static void byte(struct buf *b, uint8_t v)
{
	(void)buf_add(b, &v, 1); /* failure sticks in the buffer */
}

static void u16(struct buf *b, uint16_t v)
{
	(void)buf_add_u16(b, v); /* as above */
}

static void u32(struct buf *b, uint32_t v)
{
	(void)buf_add_u32(b, v); /* as above */
}

void aml_path(struct buf *b, const char *path)
{
	size_t segs;

	if (*path == '\\')
		byte(b, (uint8_t)*path++);
	segs = (strlen(path) + 1) / (SEG + 1);
	if (segs == 2) {
		byte(b, PREFIX_DUAL);
	} else if (segs > 2) {
		byte(b, PREFIX_MULTI);
		byte(b, (uint8_t)segs);
	}
	for (size_t i = 0; i < segs; i++)
		(void)buf_add(b, path + i * (SEG + 1), SEG); /* as above */
}

void aml_int(struct buf *b, uint64_t v)
{
	if (v <= 1) {
		byte(b, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		byte(b, OP_BYTE);
		byte(b, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		byte(b, OP_WORD);
		u16(b, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		byte(b, OP_DWORD);
		u32(b, (uint32_t)v);
	} else {
		byte(b, OP_QWORD);
		(void)buf_add_u64(b, v); /* as above */
	}
}

void aml_string(struct buf *b, const char *s)
{
	byte(b, OP_STRING);
	(void)buf_add(b, s, strlen(s) + 1); /* as above */
}

static uint32_t hex(char c)
{
	return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

void aml_eisaid(struct buf *b, const char *id)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex(id[i]);
	byte(b, OP_DWORD);
	u32(b, __builtin_bswap32(v));
}

void aml_name(struct buf *b, const char *path)
{
	byte(b, OP_NAME);
	aml_path(b, path);
}

/* Lengths always take three bytes, so that they can be put in afterwards. */
static size_t open_len(struct buf *b)
{
	size_t mark = b->len;

	(void)buf_grow(b, PKG_LEN_BYTES); /* as above */
	return mark;
}

void aml_close(struct buf *b, size_t mark)
{
	size_t len = b->len - mark;

	if (b->failed || len > PKG_LEN_MAX) {
		b->failed = 1;
		return;
	}
	b->data[mark] = (uint8_t)((PKG_LEN_BYTES - 1) << 6 | (len & 0xF));
	b->data[mark + 1] = (uint8_t)(len >> 4);
	b->data[mark + 2] = (uint8_t)(len >> 12);
}

size_t aml_open_scope(struct buf *b, const char *path)
{
	size_t mark;

	byte(b, OP_SCOPE);
	mark = open_len(b);
	aml_path(b, path);
	return mark;
}

size_t aml_open_device(struct buf *b, const char *path)
{
	size_t mark;

	byte(b, PREFIX_EXT);
	byte(b, EXT_DEVICE);
	mark = open_len(b);
	aml_path(b, path);
	return mark;
}

size_t aml_open_method(struct buf *b, const char *path, unsigned args, int serialized)
{
	size_t mark;

	byte(b, OP_METHOD);
	mark = open_len(b);
	aml_path(b, path);
	byte(b, (uint8_t)(args | (serialized ? 8 : 0)));
	return mark;
}

size_t aml_open_package(struct buf *b, unsigned elements)
{
	size_t mark;

	byte(b, OP_PACKAGE);
	mark = open_len(b);
	byte(b, (uint8_t)elements);
	return mark;
}

/* Buffer (size) { ... }: the size is a word, put in at the end. */
enum { BUFFER_HEAD = PKG_LEN_BYTES + 1 + 2 };

size_t aml_open_resources(struct buf *b)
{
	size_t mark;

	byte(b, OP_BUFFER);
	mark = open_len(b);
	byte(b, OP_WORD);
	u16(b, 0);
	return mark;
}

void aml_close_resources(struct buf *b, size_t mark)
{
	size_t len;

	byte(b, 0x79); /* end tag; a zero checksum means none */
	byte(b, 0);
	if (b->failed)
		return;
	len = b->len - mark - BUFFER_HEAD;
	b->data[mark + PKG_LEN_BYTES + 1] = (uint8_t)len;
	b->data[mark + PKG_LEN_BYTES + 2] = (uint8_t)(len >> 8);
	aml_close(b, mark);
}

void aml_res_io(struct buf *b, uint16_t port, uint8_t len)
{
	byte(b, 0x47);
	byte(b, 1); /* decodes 16 bits */
	u16(b, port);
	u16(b, port);
	byte(b, 1); /* alignment */
	byte(b, len);
}

void aml_res_memory(struct buf *b, uint32_t addr, uint32_t len)
{
	byte(b, 0x86);
	u16(b, 9);
	byte(b, 1);
	u32(b, addr);
	u32(b, len);
}

void aml_res_interrupt(struct buf *b, uint32_t gsi)
{
	byte(b, 0x89);
	u16(b, 6);
	byte(b, 1 | 2); /* consumer, edge, active high, exclusive */
	byte(b, 1);
	u32(b, gsi);
}

void aml_res_bus(struct buf *b, uint16_t first, uint16_t last)
{
	byte(b, 0x88);
	u16(b, 13);
	byte(b, 2);	/* bus numbers */
	byte(b, 4 | 8); /* both ends fixed */
	byte(b, 0);
	u16(b, 0);
	u16(b, first);
	u16(b, last);
	u16(b, 0);
	u16(b, (uint16_t)(last - first + 1));
}

void aml_res_window(struct buf *b, uint32_t first, uint32_t last)
{
	byte(b, 0x87);
	u16(b, 23);
	byte(b, 0);	/* memory */
	byte(b, 4 | 8); /* both ends fixed */
	byte(b, 1);	/* read-write, not cacheable */
	u32(b, 0);
	u32(b, first);
	u32(b, last);
	u32(b, 0);
	u32(b, last - first + 1);
}

void aml_io_byte(struct buf *b, const char *name, uint16_t port, const char *field)
{
	size_t mark;

	byte(b, PREFIX_EXT);
	byte(b, EXT_REGION);
	aml_path(b, name);
	byte(b, SPACE_SYSTEM_IO);
	aml_int(b, port);
	aml_int(b, 1);
	byte(b, PREFIX_EXT);
	byte(b, EXT_FIELD);
	mark = open_len(b);
	aml_path(b, name);
	byte(b, FIELD_BYTE_ACCESS);
	aml_path(b, field);
	byte(b, 8); /* bits: a length of one byte */
	aml_close(b, mark);
}

void aml_store_local0(struct buf *b, const char *field)
{
	byte(b, OP_STORE);
	aml_path(b, field);
	byte(b, OP_LOCAL0);
}

void aml_if_local0_notify(struct buf *b, uint8_t mask, const char *device, uint8_t value)
{
	size_t mark;

	byte(b, OP_IF);
	mark = open_len(b);
	byte(b, OP_AND);
	byte(b, OP_LOCAL0);
	aml_int(b, mask);
	byte(b, OP_ZERO); /* no target */
	byte(b, OP_NOTIFY);
	aml_path(b, device);
	aml_int(b, value);
	aml_close(b, mark);
}
