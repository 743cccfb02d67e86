/* SPDX-License-Identifier: Apache-2.0
 * list - what each epoch wrote, kept until it is committed.
 */
#include "diskrep/dr.h"

#include <stdlib.h>

struct dr_list *dr_list_get(struct diskrep *dr, uint64_t epoch)
{
	struct dr_list *l = dr->spare;

	if (l)
		dr->spare = l->next;
	else
		l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	*l = (struct dr_list){.epoch = epoch, .e = l->e, .cap = l->cap};
	return l;
}

void dr_list_add(struct diskrep *dr, struct dr_list *l, const struct dr_entry *e)
{
	uint64_t cost = DR_ENTRY_COST + (e->data ? e->len : 0);

	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		struct dr_entry *more = reallocarray(l->e, cap, sizeof(*more));

		if (!more) {
			l->lost = 1;
			return;
		}
		l->e = more;
		l->cap = cap;
	}
	l->e[l->n] = *e;
	if (e->data)
		l->e[l->n].data = blk_data_get(e->data);
	l->n++;
	l->cost += cost;
	dr->queued += cost;
}

void dr_list_seal(struct diskrep *dr, struct dr_list *l)
{
	l->next = NULL;
	*dr->sealed_tail = l;
	dr->sealed_tail = &l->next;
}

struct dr_list *dr_list_find(struct diskrep *dr, uint64_t epoch)
{
	struct dr_list *l = dr->sealed;

	while (l && l->epoch != epoch)
		l = l->next;
	return l;
}

struct dr_list *dr_list_take(struct diskrep *dr, uint64_t epoch)
{
	struct dr_list *first = dr->sealed, **at = &dr->sealed;

	for (; *at && (*at)->epoch <= epoch; at = &(*at)->next)
		dr->queued -= (*at)->cost;
	if (at == &dr->sealed)
		return NULL;
	dr->sealed = *at;
	*at = NULL;
	if (!dr->sealed)
		dr->sealed_tail = &dr->sealed;
	return first;
}

void dr_list_release(struct dr_list *l)
{
	for (; l; l = l->next) {
		for (size_t i = 0; i < l->n; i++)
			blk_data_put(l->e[i].data);
		l->n = 0;
		dr_notes_free(l->notes);
		l->notes = NULL;
	}
}

void dr_list_recycle(struct diskrep *dr, struct dr_list *l)
{
	struct dr_list *next;

	for (; l; l = next) {
		next = l->next;
		l->next = dr->spare;
		dr->spare = l;
	}
}

void dr_list_free(struct dr_list *l)
{
	struct dr_list *next;

	dr_list_release(l);
	for (; l; l = next) {
		next = l->next;
		free(l->e);
		free(l);
	}
}
