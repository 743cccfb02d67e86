/* SPDX-License-Identifier: Apache-2.0
 * state - device state as versioned field tables: saved, restored, specified in STATE.md.
 *
 * A section is: name, instance, version, length, fields in table order, each as id, size and
 * little-endian value. Version N reads N-1: a field newer than the stream keeps its default;
 * an unknown section, field or size is an error that names it. Input is hostile.
 */
#ifndef HV_STATE_H
#define HV_STATE_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct reader;

struct state_field {
	uint16_t id;	/* never reused within a table */
	uint16_t since; /* the version that brought it */
	const char *name;
	uint32_t offset, size; /* size of one element: 1, 2, 4, 8, or any for bytes */
	uint32_t count;
	int bytes; /* opaque bytes instead of integers */
};

struct state_table {
	const char *name; /* at most 31 characters */
	uint16_t version;
	const struct state_field *field; /* ends with a zero name */
};

#define STATE_INT(id_, since_, type, member)                                           \
	{                                                                              \
		.id = (id_), .since = (since_), .name = #member,                       \
		.offset = offsetof(type, member), .size = sizeof(((type *)0)->member), \
		.count = 1                                                             \
	}
#define STATE_INTS(id_, since_, type, member)                                         \
	{                                                                             \
		.id = (id_), .since = (since_), .name = #member,                      \
		.offset = offsetof(type, member),                                     \
		.size = sizeof(((type *)0)->member[0]),                               \
		.count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]) \
	}
#define STATE_BYTES(id_, since_, type, member)                                         \
	{                                                                              \
		.id = (id_), .since = (since_), .name = #member,                       \
		.offset = offsetof(type, member), .size = sizeof(((type *)0)->member), \
		.count = 1, .bytes = 1                                                 \
	}
#define STATE_END            \
	{                    \
		.name = NULL \
	}

/* Append one section. 0 or -ENOMEM (also sticks in @b). */
int state_save(struct buf *b, const struct state_table *t, uint32_t instance,
	       const void *obj);
/* Read one section that must be of @t and @instance into @obj. 0 or -EBADMSG with @err. */
int state_load(struct reader *r, const struct state_table *t, uint32_t instance,
	       void *obj, struct err *err);

#endif
