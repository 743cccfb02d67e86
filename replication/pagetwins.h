/* SPDX-License-Identifier: Apache-2.0
 * pagetwins - which pages of an epoch have the same content as another one of it.
 *
 * A bounded table of digests, filled while an epoch is encoded, by several threads at once. What
 * falls out of it is sent once more; nothing is ever taken for equal that was not compared.
 */
#ifndef REPLICATION_PAGETWINS_H
#define REPLICATION_PAGETWINS_H

#include <stddef.h>
#include <stdint.h>

struct page_twins;

struct page_twins *page_twins_create(void);    /* returns owned, or NULL: out of memory */
void page_twins_destroy(struct page_twins *t); /* NULL is fine */
/* A new epoch. No other call may be under way. */
void page_twins_clear(struct page_twins *t);

/* @content: the pages of the epoch, 4096 bytes each, whose content does not change until the next
 * clear. Which page that was asked about before equals page @n? @n: none that is known, and @n
 * itself will be found from now on. Any thread. */
size_t page_twins_find(struct page_twins *t, const void *const *content, size_t n);

#endif
