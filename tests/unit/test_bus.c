/* SPDX-License-Identifier: Apache-2.0
 * test_bus - who answers for an address, and what happens where nobody does.
 */
#include "hv/bus.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

struct probe {
	struct bus *bus;
	uint64_t off, move_to;
	unsigned len, reads, writes;
};

static const struct bus_ops probe_ops;

static void probe_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct probe *p = self;

	p->reads++;
	p->off = off;
	p->len = len;
	memset(data, 0x5A, len);
}

static void probe_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct probe *p = self;

	p->writes++;
	p->off = off;
	p->len = len;
	if (p->move_to) {
		bus_remove(p->bus, p->move_to - 0x1000);
		CU_ASSERT(!bus_add(p->bus, p->move_to, 0x100, &probe_ops, p));
	}
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

static void test_find(void)
{
	struct bus *b = bus_create();
	struct probe p[3] = {{0}};
	uint32_t v = 0;

	CU_ASSERT_PTR_NOT_NULL_FATAL(b);
	CU_ASSERT(!bus_add(b, 0x2000, 0x100, &probe_ops, &p[1]));
	CU_ASSERT(!bus_add(b, 0x1000, 0x100, &probe_ops, &p[0]));
	CU_ASSERT(!bus_add(b, 0x2100, 0x10, &probe_ops, &p[2]));
	bus_read(b, 0x1004, &v, 4);
	CU_ASSERT(p[0].reads == 1 && p[0].off == 4 && p[0].len == 4 && v == 0x5A5A5A5A);
	bus_write(b, 0x20FF, &v, 1);
	CU_ASSERT(p[1].writes == 1 && p[1].off == 0xFF);
	bus_write(b, 0x2100, &v, 2);
	CU_ASSERT(p[2].writes == 1 && p[2].off == 0);
	bus_destroy(b);
}

static void test_nobody(void)
{
	struct bus *b = bus_create();
	struct probe p = {0};
	uint64_t v = 0;

	CU_ASSERT_PTR_NOT_NULL_FATAL(b);
	bus_read(b, 0, &v, 8);
	CU_ASSERT(v == UINT64_MAX);
	CU_ASSERT(!bus_add(b, 0x1000, 0x10, &probe_ops, &p));
	v = 0;
	bus_read(b, 0x100E, &v, 4); /* its end is outside */
	CU_ASSERT((uint32_t)v == UINT32_MAX);
	bus_write(b, 0x0FFF, &v, 2); /* its start is */
	bus_write(b, 0x1010, &v, 1); /* just behind */
	bus_write(b, 0x1000, &v, 3); /* an access cut at a page's end */
	bus_read(b, UINT64_MAX, &v, 8);
	CU_ASSERT(p.reads == 0 && p.writes == 0);
	bus_destroy(b);
}

static void test_overlap(void)
{
	struct bus *b = bus_create();
	struct probe p = {0};

	CU_ASSERT_PTR_NOT_NULL_FATAL(b);
	CU_ASSERT(!bus_add(b, 0x1000, 0x100, &probe_ops, &p));
	CU_ASSERT(bus_add(b, 0x1000, 0x100, &probe_ops, &p) == -EEXIST);
	CU_ASSERT(bus_add(b, 0x10FF, 1, &probe_ops, &p) == -EEXIST);
	CU_ASSERT(bus_add(b, 0x0FFF, 2, &probe_ops, &p) == -EEXIST);
	CU_ASSERT(bus_add(b, 0, 0x10000, &probe_ops, &p) == -EEXIST);
	CU_ASSERT(bus_add(b, 0x3000, 0, &probe_ops, &p) == -EINVAL);
	CU_ASSERT(bus_add(b, UINT64_MAX, 2, &probe_ops, &p) == -EINVAL);
	CU_ASSERT(!bus_add(b, UINT64_MAX, 1, &probe_ops, &p));
	CU_ASSERT(!bus_add(b, 0x1100, 1, &probe_ops, &p));
	bus_remove(b, 0x1000);
	bus_remove(b, 0x1001); /* nobody starts there */
	CU_ASSERT(!bus_add(b, 0x1080, 0x80, &probe_ops, &p));
	bus_destroy(b);
}

/* A handler that moves itself, as a BAR does. */
static void test_move(void)
{
	struct bus *b = bus_create();
	struct probe p = {.bus = b, .move_to = 0x2000};
	uint8_t v = 0;

	CU_ASSERT_PTR_NOT_NULL_FATAL(b);
	CU_ASSERT(!bus_add(b, 0x1000, 0x100, &probe_ops, &p));
	bus_write(b, 0x1000, &v, 1);
	p.move_to = 0;
	bus_write(b, 0x1000, &v, 1);
	CU_ASSERT(p.writes == 1);
	bus_write(b, 0x2000, &v, 1);
	CU_ASSERT(p.writes == 2);
	bus_destroy(b);
}

static void test_many(void)
{
	enum { MANY = 500 };
	struct bus *b = bus_create();
	static struct probe p[MANY];
	uint8_t v;

	CU_ASSERT_PTR_NOT_NULL_FATAL(b);
	for (unsigned i = 0; i < MANY; i++) /* in an order that is none */
		CU_ASSERT(!bus_add(b, (i * 7919ull % MANY) * 0x10, 0x10, &probe_ops,
				   &p[i * 7919ull % MANY]));
	for (unsigned i = 0; i < MANY; i++) {
		bus_read(b, i * 0x10 + 5, &v, 1);
		CU_ASSERT(p[i].reads == 1 && p[i].off == 5);
	}
	bus_destroy(b);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"who answers", test_find}, {"nobody", test_nobody},
		{"overlaps", test_overlap}, {"moving", test_move},
		{"many", test_many},
	};

	return UNIT_MAIN("bus", tests);
}
