/* SPDX-License-Identifier: Apache-2.0
 * bus - ranges of addresses in a sorted array, found by bisection.
 *
 * Everything happens under the VM's device lock, or before the VM runs. A handler may add and
 * remove ranges (a BAR that moves), so nothing of the array is used after it was called.
 */
#include "hv/bus.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct range {
	uint64_t base, size;
	const struct bus_ops *ops;
	void *self;
};

struct bus {
	struct range *range; /* by base, without overlaps */
	size_t n, cap;
};

struct bus *bus_create(void)
{
	return calloc(1, sizeof(struct bus));
}

void bus_destroy(struct bus *b)
{
	if (!b)
		return;
	free(b->range);
	free(b);
}

/* Index of the first range that starts above @addr. */
static size_t after(const struct bus *b, uint64_t addr)
{
	size_t lo = 0, hi = b->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (b->range[mid].base > addr)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops,
	    void *self)
{
	size_t at = after(b, base);
	const struct range *below = at ? &b->range[at - 1] : NULL;
	const struct range *above = at < b->n ? &b->range[at] : NULL;

	if (!size || size - 1 > UINT64_MAX - base)
		return -EINVAL;
	if ((below && base - below->base < below->size) ||
	    (above && above->base - base < size))
		return -EEXIST;
	if (b->n == b->cap) {
		size_t cap = b->cap ? b->cap * 2 : 16;
		struct range *r = realloc(b->range, cap * sizeof(*r));

		if (!r)
			return -ENOMEM;
		b->range = r;
		b->cap = cap;
	}
	assert(b->range); /* there is room, so there is an array */
	memmove(&b->range[at + 1], &b->range[at], (b->n - at) * sizeof(*b->range));
	b->range[at] =
		(struct range){.base = base, .size = size, .ops = ops, .self = self};
	b->n++;
	return 0;
}

void bus_remove(struct bus *b, uint64_t base)
{
	size_t at = after(b, base);

	if (!at || b->range[at - 1].base != base)
		return;
	memmove(&b->range[at - 1], &b->range[at], (b->n - at) * sizeof(*b->range));
	b->n--;
}

/* The range that holds all of [addr, addr + len). KVM cuts an access at a page's end, which may
 * leave an odd length: no device has registers for that. */
static int find(const struct bus *b, uint64_t addr, unsigned len, struct range *out)
{
	size_t at = after(b, addr);

	if (!at || !len || (len & (len - 1)))
		return 0;
	*out = b->range[at - 1];
	return addr - out->base < out->size && len <= out->size - (addr - out->base);
}

void bus_read(struct bus *b, uint64_t addr, void *data, unsigned len)
{
	struct range r;

	memset(data, 0xff, len);
	if (find(b, addr, len, &r))
		r.ops->read(r.self, addr - r.base, data, len);
}

void bus_write(struct bus *b, uint64_t addr, const void *data, unsigned len)
{
	struct range r;

	if (find(b, addr, len, &r))
		r.ops->write(r.self, addr - r.base, data, len);
}
