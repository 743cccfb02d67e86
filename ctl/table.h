/* SPDX-License-Identifier: Apache-2.0
 * table - aligned columns of text on stdout, and numbers as people read them.
 */
#ifndef CTL_TABLE_H
#define CTL_TABLE_H

#include <jansson.h>
#include <stddef.h>

enum { TABLE_COLS = 16, TABLE_ROWS = 256, TABLE_CELL = 96 };

/* Zero-initialised is empty. Too large for a stack: make it static or allocate it. */
struct table {
	unsigned cols, rows;
	char cell[TABLE_ROWS][TABLE_COLS][TABLE_CELL];
	int right[TABLE_COLS]; /* numbers stand at the right */
};

/* Begin the next row (0 is the heading); rows that do not fit are dropped. */
void table_row(struct table *t);
void table_add(struct table *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* A heading; with @right the column's cells are aligned to the right. */
void table_head(struct table *t, const char *text, int right);
void table_print(const struct table *t);

/* Into @out: "1.4 MiB"; "0.31 ms" of microseconds; "-" for what is no number. Return @out. */
const char *fmt_bytes(json_t *v, char *out, size_t room);
const char *fmt_us(json_t *v, char *out, size_t room);
const char *fmt_int(json_t *v, char *out, size_t room);

#endif
