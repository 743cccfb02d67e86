/* SPDX-License-Identifier: Apache-2.0
 * test_state - sections: what is written comes back, older versions are read, damage is refused.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/state.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

struct thing {
	uint8_t small;
	uint16_t pair[2];
	uint32_t word;
	uint64_t wide;
	uint8_t raw[5];
	uint32_t later;
};

static const struct state_field fields_v1[] = {
	STATE_INT(1, 1, struct thing, small), STATE_INTS(2, 1, struct thing, pair),
	STATE_INT(3, 1, struct thing, word),  STATE_INT(4, 1, struct thing, wide),
	STATE_BYTES(5, 1, struct thing, raw), STATE_END,
};
static const struct state_table v1 = {"thing", 1, fields_v1};

/* A field that came with version 2, in the middle. */
static const struct state_field fields_v2[] = {
	STATE_INT(1, 1, struct thing, small),
	STATE_INTS(2, 1, struct thing, pair),
	STATE_INT(6, 2, struct thing, later),
	STATE_INT(3, 1, struct thing, word),
	STATE_INT(4, 1, struct thing, wide),
	STATE_BYTES(5, 1, struct thing, raw),
	STATE_END,
};
static const struct state_table v2 = {"thing", 2, fields_v2};

static const struct thing example = {
	.small = 0xA1,
	.pair = {0xB2B1, 0xB4B3},
	.word = 0xC4C3C2C1,
	.wide = 0xD8D7D6D5D4D3D2D1,
	.raw = {1, 2, 3, 4, 5},
	.later = 0xE4E3E2E1,
};

/* STATE.md by hand: the head, and five fields. */
static const uint8_t golden[] = {
	't', 'h', 'i',	'n',  'g',  0,	  0,	0,    0,    0,	  0, 0,
	0,   0,	  0,	0,    0,    0,	  0,	0,    0,    0,	  0, 0,
	0,   0,	  0,	0,    0,    0,	  0,	0, /* name */
	7,   0,	  0,	0,			   /* instance */
	1,   0,					   /* version */
	5,   0,					   /* fields */
	52,  0,	  0,	0, /* length: 5 heads of 6 and 1 + 4 + 4 + 8 + 5 */
	1,   0,	  1,	0,    0,    0,	  0xA1, /* small */
	2,   0,	  4,	0,    0,    0,	  0xB1, 0xB2, 0xB3, 0xB4, 3, 0,
	4,   0,	  0,	0,    0xC1, 0xC2, 0xC3, 0xC4, 4,    0,	  8, 0,
	0,   0,	  0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 5, 0,
	5,   0,	  0,	0,    1,    2,	  3,	4,    5,
};

static int load(const void *p, size_t len, const struct state_table *t, uint32_t instance,
		struct thing *out, struct err *err)
{
	struct reader r = reader_of(p, len);
	int rc = state_load(&r, t, instance, out, err);

	CU_ASSERT(rc || rd_left(&r) == 0);
	return rc;
}

static void test_format(void)
{
	struct buf b = {0};

	CU_ASSERT(!state_save(&b, &v1, 7, &example));
	CU_ASSERT_FATAL(b.len == sizeof(golden));
	CU_ASSERT(!memcmp(b.data, golden, sizeof(golden)));
	buf_fini(&b);
}

static int same(const struct thing *a, const struct thing *b)
{
	return a->small == b->small && a->word == b->word && a->wide == b->wide &&
	       a->later == b->later && !memcmp(a->pair, b->pair, sizeof(a->pair)) &&
	       !memcmp(a->raw, b->raw, sizeof(a->raw));
}

static void test_back(void)
{
	struct thing t = {0};
	struct err err = {0};
	struct buf b = {0};

	CU_ASSERT_FATAL(!state_save(&b, &v2, 3, &example));
	CU_ASSERT(!load(b.data, b.len, &v2, 3, &t, &err));
	CU_ASSERT(same(&t, &example));
	buf_fini(&b);
}

/* Version 2 reads version 1 and leaves alone what that did not have; not the other way. */
static void test_versions(void)
{
	struct thing t = {.later = 42};
	struct err err = {0};
	struct buf b = {0};

	CU_ASSERT(!load(golden, sizeof(golden), &v2, 7, &t, &err));
	CU_ASSERT(t.later == 42 && t.wide == example.wide);
	CU_ASSERT_FATAL(!state_save(&b, &v2, 7, &example));
	CU_ASSERT(load(b.data, b.len, &v1, 7, &t, &err) == -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "version 2"));
	buf_fini(&b);
}

/* Each error names what came and what was due, and nothing is half taken over. */
static void test_wrong(void)
{
	static const struct state_table other = {"other", 1, fields_v1};
	struct thing t = {0}, none = {0};
	struct err err = {0};
	uint8_t bytes[sizeof(golden)];

	CU_ASSERT(load(golden, sizeof(golden), &other, 7, &t, &err) == -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "\"thing\" where other"));
	CU_ASSERT(load(golden, sizeof(golden), &v1, 8, &t, &err) == -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "thing.7 where thing.8"));
	memcpy(bytes, golden, sizeof(golden));
	bytes[71] = 9; /* the id of wide, the last but one */
	CU_ASSERT(load(bytes, sizeof(bytes), &v1, 7, &t, &err) == -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "wide"));
	CU_ASSERT(same(&t, &none));
}

/* No length that anybody writes there makes us read or write where we must not. */
static void test_hostile(void)
{
	struct err err = {0};
	uint8_t bytes[sizeof(golden)];
	struct thing t = {0};

	for (size_t len = 0; len < sizeof(golden); len++)
		CU_ASSERT(load(golden, len, &v1, 7, &t, &err) == -EBADMSG);
	for (size_t i = 0; i < sizeof(golden); i++)
		for (unsigned v = 1; v < 256; v += 51) {
			memcpy(bytes, golden, sizeof(golden));
			bytes[i] ^= (uint8_t)v;
			(void)load(bytes, sizeof(bytes), &v1, 7, &t,
				   &err); /* must only survive */
		}
}

static void test_no_memory(void)
{
	struct buf b = {.failed = 1};

	CU_ASSERT(state_save(&b, &v1, 0, &example) == -ENOMEM);
	CU_ASSERT(b.failed);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the format, byte by byte", test_format},
		{"there and back", test_back},
		{"versions", test_versions},
		{"wrong sections", test_wrong},
		{"hostile bytes", test_hostile},
		{"out of memory", test_no_memory},
	};

	return UNIT_MAIN("state", tests);
}
