/* SPDX-License-Identifier: Apache-2.0
 * table - aligned columns of text, and numbers as people read them.
 */
#include "ctl/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void table_row(struct table *t)
{
	t->cols = 0;
	t->rows++;
}

void table_add(struct table *t, const char *fmt, ...)
{
	va_list ap;

	if (!t->rows || t->rows > TABLE_ROWS || t->cols >= TABLE_COLS)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(t->cell[t->rows - 1][t->cols++], TABLE_CELL, fmt,
			ap); /* cutting is meant */
	va_end(ap);
}

void table_head(struct table *t, const char *text, int right)
{
	if (!t->rows)
		table_row(t);
	if (t->cols < TABLE_COLS)
		t->right[t->cols] = right;
	table_add(t, "%s", text);
}

void table_print(const struct table *t)
{
	unsigned rows = t->rows < TABLE_ROWS ? t->rows : TABLE_ROWS, last;
	int width[TABLE_COLS] = {0}, len;

	for (unsigned r = 0; r < rows; r++)
		for (unsigned c = 0; c < TABLE_COLS; c++) {
			len = (int)strlen(t->cell[r][c]);
			width[c] = len > width[c] ? len : width[c];
		}
	for (unsigned r = 0; r < rows; r++) {
		for (last = TABLE_COLS; last && !t->cell[r][last - 1][0]; last--)
			;
		for (unsigned c = 0; c < last; c++) {
			/* No blanks at the end of a line. */
			len = t->right[c] ? width[c] : c + 1 == last ? 0 : -width[c];
			(void)printf("%*s%s", len, t->cell[r][c],
				     c + 1 == last ? "\n" : "  ");
		}
	}
}

const char *fmt_bytes(json_t *v, char *out, size_t room)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double n = json_number_value(v);
	unsigned u = 0;

	for (; n >= 1024 && u < 5; u++)
		n /= 1024;
	if (!json_is_number(v))
		(void)snprintf(out, room, "-"); /* fits, as below */
	else
		(void)snprintf(out, room, n < 10 && u ? "%.1f %s" : "%.0f %s", n,
			       unit[u]);
	return out;
}

const char *fmt_us(json_t *v, char *out, size_t room)
{
	double us = json_number_value(v);

	if (!json_is_number(v))
		(void)snprintf(out, room, "-"); /* fits, as below */
	else if (us < 100e3)
		(void)snprintf(out, room, "%.2f ms", us / 1e3);
	else
		(void)snprintf(out, room, "%.2f s", us / 1e6);
	return out;
}

const char *fmt_int(json_t *v, char *out, size_t room)
{
	if (json_is_integer(v))
		(void)snprintf(out, room, "%" JSON_INTEGER_FORMAT,
			       json_integer_value(v)); /* fits */
	else
		(void)snprintf(out, room, "-");
	return out;
}
