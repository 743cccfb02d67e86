/* SPDX-License-Identifier: Apache-2.0
 * test_room - memory of an epoch: pieces that lie apart, blocks that come back.
 */
#include "tests/unit/unit.h"

#include "diskrep/room.h"

#include <stdint.h>
#include <string.h>

enum { PIECES = 400 };

static const size_t lens[] = {1, 24, 48, 512, 4096, 4120, 65536, DR_ROOM_BLOCK, 1 << 20};

/* All are there at once, aligned, and none reaches into another. */
static void pieces_lie_apart(void)
{
	struct dr_pool pool;
	struct dr_room room = {0};
	uint8_t *p[PIECES];
	size_t len[PIECES];
	unsigned seed = 1;

	dr_pool_init(&pool);
	for (unsigned turn = 0; turn < 3; turn++) {
		for (unsigned i = 0; i < PIECES; i++) {
			len[i] = lens[(unsigned)rand_r(&seed) %
				      (sizeof(lens) / sizeof(lens[0]))];
			p[i] = dr_room_take(&pool, &room, len[i]);
			CU_ASSERT_PTR_NOT_NULL_FATAL(p[i]);
			CU_ASSERT_EQUAL((uintptr_t)p[i] % 16, 0);
			memset(p[i], (int)i, len[i]);
		}
		for (unsigned i = 0; i < PIECES; i++) {
			CU_ASSERT_EQUAL(p[i][0], (uint8_t)i);
			CU_ASSERT_EQUAL(p[i][len[i] - 1], (uint8_t)i);
		}
		dr_room_give(&pool, &room);
		CU_ASSERT_PTR_NULL(room.first);
	}
	dr_pool_fini(&pool);
}

/* The first piece of a room: of a spare block, if there is one. */
static void blocks_come_back(void)
{
	struct dr_pool pool;
	struct dr_room a = {0}, b = {0};
	void *first, *second;

	dr_pool_init(&pool);
	first = dr_room_take(&pool, &a, 100);
	second = dr_room_take(&pool, &a, DR_ROOM_SMALL);
	CU_ASSERT_EQUAL(pool.bytes, 0);
	dr_room_give(&pool, &a);
	CU_ASSERT_EQUAL(pool.bytes, DR_ROOM_SMALL + DR_ROOM_BLOCK);
	CU_ASSERT_PTR_EQUAL(dr_room_take(&pool, &b, 200), first);
	CU_ASSERT_PTR_EQUAL(dr_room_take(&pool, &b, DR_ROOM_BLOCK), second);
	CU_ASSERT_EQUAL(pool.bytes, 0);
	dr_room_give(&pool, &b);
	dr_pool_fini(&pool);
}

/* What a large epoch took is not kept for ever, nor is a piece that is larger than a block. */
static void a_pool_is_bounded(void)
{
	struct dr_pool pool;
	struct dr_room room = {0};

	dr_pool_init(&pool);
	for (unsigned i = 0; i < 2 * (DR_ROOM_SPARE / DR_ROOM_BLOCK); i++)
		CU_ASSERT_PTR_NOT_NULL_FATAL(dr_room_take(&pool, &room, DR_ROOM_BLOCK));
	dr_room_give(&pool, &room);
	CU_ASSERT_EQUAL(pool.bytes, DR_ROOM_SPARE);
	dr_pool_fini(&pool);
	dr_pool_init(&pool);
	CU_ASSERT_PTR_NOT_NULL_FATAL(dr_room_take(&pool, &room, DR_ROOM_BLOCK + 1));
	dr_room_give(&pool, &room);
	CU_ASSERT_EQUAL(pool.bytes, 0);
	dr_pool_fini(&pool);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"pieces lie apart", pieces_lie_apart},
		{"blocks come back", blocks_come_back},
		{"a pool is bounded", a_pool_is_bounded},
	};

	return UNIT_MAIN("room", tests);
}
