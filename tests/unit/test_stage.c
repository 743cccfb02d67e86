/* SPDX-License-Identifier: Apache-2.0
 * test_stage - pages of an epoch staged on the standby; pages that name each other; gangs.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/gang.h"
#include "hv/base/wire.h"
#include "remus/stage.h"
#include "replication/pagetwins.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 64 };

struct rig {
	struct stage st;
	struct stage_spare spare;
	uint32_t slot[PAGES];
	struct err err;
};

static void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	/* Whatever an earlier epoch left there. */
	for (unsigned i = 0; i < PAGES; i++)
		r->slot[i] = i % 3 ? i : UINT32_MAX;
}

static void rig_fini(struct rig *r)
{
	stage_fini(&r->st);
	stage_spare_fini(&r->spare);
}

static void replace(struct rig *r, uint64_t index, uint8_t byte)
{
	uint8_t page[PC_PAGE];
	struct pc_item it = {
		.index = index, .change = PC_REPLACE, .data = page, .len = PC_PAGE};

	memset(page, byte, sizeof(page));
	CU_ASSERT_EQUAL(stage_add(&r->st, &r->spare, &it), 0);
}

static void twin(struct rig *r, uint64_t index, uint64_t other)
{
	struct le64 v = le64_of(other);
	struct pc_item it = {.index = index,
			     .twin = other,
			     .change = PC_TWIN,
			     .data = &v,
			     .len = sizeof(v)};

	CU_ASSERT_EQUAL(stage_add(&r->st, &r->spare, &it), 0);
}

static int byte_of(const struct rig *r, size_t item)
{
	const struct staged *s = &r->st.item[item];

	CU_ASSERT_EQUAL(s->change, PC_REPLACE);
	CU_ASSERT_EQUAL(s->len, PC_PAGE);
	return *(const uint8_t *)s->data;
}

static void named_before_and_behind(void)
{
	struct rig r;

	rig_init(&r);
	twin(&r, 1, 7);
	replace(&r, 7, 0x11);
	replace(&r, 8, 0x22);
	replace(&r, 7, 0x33); /* the last one counts */
	twin(&r, 2, 8);
	CU_ASSERT_EQUAL(stage_resolve(&r.st, r.slot, &r.err), 0);
	CU_ASSERT_EQUAL(byte_of(&r, 0), 0x33);
	CU_ASSERT_EQUAL(byte_of(&r, 4), 0x22);
	CU_ASSERT_EQUAL(r.st.item[0].index, 1);
	CU_ASSERT_EQUAL(stage_resolve(&r.st, r.slot, &r.err), 0); /* nothing left to do */
	rig_fini(&r);
}

static void named_in_vain(void)
{
	struct rig r;

	for (unsigned how = 0; how < 4; how++) {
		rig_init(&r);
		replace(&r, 5, 0x55);
		if (how == 1) { /* a twin is nobody's other page */
			twin(&r, 9, 5);
			r.slot[9] = 1; /* as an earlier epoch may have left it */
		}
		if (how == 2) /* nor is a page that only changed */
			CU_ASSERT_EQUAL(
				stage_add(&r.st, &r.spare,
					  &(struct pc_item){.index = 9,
							    .change = PC_XOR,
							    .len = PC_PAGE,
							    .data = r.st.item[0].data,
							    .lasting = 1}),
				0);
		twin(&r, 10, how == 3 ? 10 : 9);
		CU_ASSERT_EQUAL(stage_resolve(&r.st, r.slot, &r.err), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(r.err.msg, "page 10"));
		rig_fini(&r);
	}
}

static void room_is_counted_and_kept(void)
{
	struct rig r;
	uint8_t *a, *b, *c;
	size_t one;

	rig_init(&r);
	a = stage_room(&r.st, &r.spare, 1000);
	b = stage_room(&r.st, &r.spare, 24);
	CU_ASSERT_PTR_EQUAL(b, a + 1000);
	CU_ASSERT_TRUE(stage_is_last_room(&r.st, b, 24));
	CU_ASSERT_FALSE(stage_is_last_room(&r.st, a, 1000));
	CU_ASSERT_EQUAL(r.st.held, 1024);
	c = stage_room(&r.st, &r.spare, 256 << 10); /* does not fit behind */
	CU_ASSERT_TRUE(stage_is_last_room(&r.st, c, 256 << 10));
	/* What was left over is taken as well: no peer gets memory for nothing. */
	CU_ASSERT_EQUAL(r.st.held, 512 << 10);
	one = r.spare.bytes;
	stage_forget(&r.st, &r.spare);
	CU_ASSERT_EQUAL(r.st.held, 0);
	CU_ASSERT_EQUAL(r.spare.bytes, one + (512 << 10));
	CU_ASSERT_PTR_EQUAL(stage_room(&r.st, &r.spare, 5),
			    a); /* the same memory again */
	(void)stage_room(&r.st, &r.spare, 3 << 20);
	stage_forget(&r.st, &r.spare);
	CU_ASSERT_EQUAL(r.spare.bytes, 512 << 10); /* odd sizes are not kept */
	CU_ASSERT_FALSE(stage_is_last_room(&r.st, a, 5));
	rig_fini(&r);
}

static void twins_are_compared(void)
{
	static uint8_t page[5][PC_PAGE];
	const void *content[5] = {page[0], page[1], page[2], page[3], page[4]};
	struct page_twins *t = page_twins_create();

	CU_ASSERT_PTR_NOT_NULL_FATAL(t);
	memset(page[0], 1, PC_PAGE);
	memset(page[1], 2, PC_PAGE);
	memset(page[2], 1, PC_PAGE);
	memset(page[3], 2, PC_PAGE);
	CU_ASSERT_EQUAL(page_twins_find(t, content, 0), 0);
	CU_ASSERT_EQUAL(page_twins_find(t, content, 1), 1);
	CU_ASSERT_EQUAL(page_twins_find(t, content, 2), 0);
	/* The digest is that of what page 1 was: only the comparison shows that it is not. */
	page[1][4095] ^= 1;
	CU_ASSERT_EQUAL(page_twins_find(t, content, 3), 3);
	page_twins_clear(t);
	CU_ASSERT_EQUAL(page_twins_find(t, content, 2), 2);
	page_twins_destroy(t);
	page_twins_destroy(NULL);
}

struct tally {
	atomic_uint calls, seen;
	unsigned plain[8];
};

static void add(void *arg, unsigned k)
{
	struct tally *t = arg;

	atomic_fetch_add(&t->calls, 1);
	atomic_fetch_or(&t->seen, 1u << k);
	t->plain[k]++;
}

static void gangs(void)
{
	for (unsigned n = 0; n < 5; n++) {
		struct tally t = {0};
		struct gang *g;

		CU_ASSERT_EQUAL_FATAL(gang_create(n, &g), 0);
		CU_ASSERT_EQUAL(gang_size(g), n);
		gang_wait(g); /* for nothing */
		for (unsigned i = 0; i < 1000; i++) {
			gang_start(g, add, &t);
			if (i % 2)
				gang_wait(g);
		}
		gang_wait(g);
		CU_ASSERT_EQUAL(t.calls, 1000 * n);
		CU_ASSERT_EQUAL(t.seen, (1u << n) - 1);
		for (unsigned k = 0; k < n; k++)
			CU_ASSERT_EQUAL(t.plain[k], 1000);
		gang_start(g, add, &t);
		gang_destroy(g); /* waits */
		CU_ASSERT_EQUAL(t.calls, 1001 * n);
	}
	gang_destroy(NULL);
}

static const struct unit_test tests[] = {
	{"named before and behind", named_before_and_behind},
	{"named in vain", named_in_vain},
	{"room is counted and kept", room_is_counted_and_kept},
	{"twins are compared", twins_are_compared},
	{"gangs", gangs},
};

int main(void)
{
	return UNIT_MAIN("stage", tests);
}
