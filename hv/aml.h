/* SPDX-License-Identifier: Apache-2.0
 * aml - ACPI Machine Language, as little of it as our DSDT needs.
 *
 * Source: ACPI 6.3, chapter 20. Everything is appended to a struct buf; memory running out
 * sticks there. Blocks are opened and closed: aml_open_*() returns a mark for aml_close().
 */
#ifndef HV_AML_H
#define HV_AML_H

#include <stddef.h>
#include <stdint.h>

struct buf;

/* A path as ASL writes it: "\\_SB", "PCI0", "\\_SB.PWRB". Segments of four characters. */
void aml_path(struct buf *b, const char *path);
void aml_int(struct buf *b, uint64_t v);
void aml_string(struct buf *b, const char *s);
/* The compressed id of "PNP0A08", as EISAID() in ASL. */
void aml_eisaid(struct buf *b, const char *id);
/* Name (@path, ...): what follows is the value. */
void aml_name(struct buf *b, const char *path);

size_t aml_open_scope(struct buf *b, const char *path);
size_t aml_open_device(struct buf *b, const char *path);
size_t aml_open_method(struct buf *b, const char *path, unsigned args, int serialized);
size_t aml_open_package(struct buf *b, unsigned elements);
/* A resource template as a buffer; closed by aml_close_resources(). */
size_t aml_open_resources(struct buf *b);
void aml_close(struct buf *b, size_t mark);
void aml_close_resources(struct buf *b, size_t mark);

/* Resource descriptors (ACPI 6.3, 6.4). */
void aml_res_io(struct buf *b, uint16_t port, uint8_t len);
void aml_res_memory(struct buf *b, uint32_t addr, uint32_t len);   /* fixed, read-write */
void aml_res_interrupt(struct buf *b, uint32_t gsi);		   /* edge, active high */
void aml_res_bus(struct buf *b, uint16_t first, uint16_t last);	   /* produced */
void aml_res_window(struct buf *b, uint32_t first, uint32_t last); /* produced memory */

/* OperationRegion (@name, SystemIO, @port, @len), and a Field of one byte @field over it. */
void aml_io_byte(struct buf *b, const char *name, uint16_t port, const char *field);
/* If (@field & @mask) { Notify (@device, @value) }, the field having been put in Local0. */
void aml_store_local0(struct buf *b, const char *field);
void aml_if_local0_notify(struct buf *b, uint8_t mask, const char *device, uint8_t value);

#endif
