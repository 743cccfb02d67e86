/* SPDX-License-Identifier: Apache-2.0
 * memory - the pages that a turn writes, and whether they still hold what turns wrote.
 *
 * Word i of page p holds n XOR i XOR p << 32, n being the turn that wrote it. A page that
 * came over without one of its lines, or from another epoch than its neighbours, shows.
 */
#include "tests/guest/memory.h"

#include "tests/guest/say.h"

enum { PAGE = 4096, WORDS = PAGE / 8 };

static volatile uint64_t *page_of(uint64_t page)
{
	return (volatile uint64_t *)(MEMORY_AT + page * PAGE);
}

/* The first page of turn @n. */
static uint64_t window(uint64_t n, uint64_t dirty, uint64_t set)
{
	return n % (set / dirty) * dirty;
}

static void check_page(uint64_t page, uint64_t n)
{
	volatile uint64_t *w = page_of(page);

	/* Memory is zero before the first turn. */
	for (uint64_t i = 0; i < WORDS; i++)
		if (w[i] != (n ? n ^ i ^ page << 32 : 0))
			fail(i && w[0] == (n ^ page << 32)
				     ? "memory: a page is torn"
				     : "memory: a page is of another turn");
}

uint64_t memory_turn(uint64_t n, uint64_t dirty, uint64_t set)
{
	static volatile uint64_t cell;
	uint64_t first, round;

	if (cell != n - 1)
		fail("memory: the counter jumped");
	cell = n;
	if (!dirty)
		return cell;
	first = window(n, dirty, set);
	round = set / dirty;
	for (uint64_t p = first; p < first + dirty; p++) {
		check_page(p, n > round ? n - round : 0);
		for (uint64_t i = 0; i < WORDS; i++)
			page_of(p)[i] = n ^ i ^ p << 32;
	}
	for (uint64_t p = first; p < first + dirty; p++)
		check_page(p, n);
	return cell;
}

void memory_dirty(uint64_t n, uint64_t dirty, uint64_t set, uint64_t words)
{
	uint64_t first, step = WORDS / words;

	if (!dirty)
		return;
	first = window(n, dirty, set);
	for (uint64_t p = first; p < first + dirty; p++)
		for (uint64_t i = 0; i < words; i++)
			page_of(p)[i * step] = n ^ p;
}
