/* SPDX-License-Identifier: Apache-2.0
 * test_diskrep_hostile - what a broken or evil primary sends to a standby's disks is refused.
 */
#include "tests/unit/diskrig.h"

#include <lz4.h>

static uint8_t payload[2 << 20]; /* what follows the heads */

static int record(struct rig *r, uint16_t type, uint64_t epoch, const void *head,
		  size_t head_len, size_t data_len)
{
	uint8_t *exact =
		malloc(head_len + data_len + 1); /* so that a sanitizer sees its end */
	struct err err = {0};
	int rc;

	memcpy(exact, head, head_len);
	memcpy(exact + head_len, payload, data_len);
	rc = r->s.ops->record(r->s.self, type, epoch, exact, head_len + data_len, &err);
	CU_ASSERT_EQUAL(err.code, rc);
	CU_ASSERT_EQUAL(rc ? err.msg[0] != 0 : 1, 1);
	free(exact);
	return rc;
}

static int write_rec(struct rig *r, uint64_t epoch, uint32_t disk, uint64_t offset,
		     uint32_t len, size_t data_len)
{
	struct dr_wire_write w = {
		.disk = le32_of(disk), .offset = le64_of(offset), .len = le32_of(len)};

	return record(r, DR_REC_WRITE, epoch, &w, sizeof(w), data_len);
}

static int packed_rec(struct rig *r, uint32_t flags, uint64_t offset, uint32_t len,
		      uint32_t packed, size_t data_len)
{
	struct dr_wire_write w = {.flags = le32_of(flags),
				  .offset = le64_of(offset),
				  .len = le32_of(len),
				  .packed = le32_of(packed)};

	return record(r, DR_REC_WRITE, 0, &w, sizeof(w), data_len);
}

static int erase_rec(struct rig *r, uint32_t disk, uint32_t flags, uint64_t offset,
		     uint64_t len)
{
	struct dr_wire_erase w = {.disk = le32_of(disk),
				  .flags = le32_of(flags),
				  .offset = le64_of(offset),
				  .len = le64_of(len)};

	return record(r, DR_REC_ERASE, 0, &w, sizeof(w), 0);
}

static int chunk_rec(struct rig *r, uint64_t epoch, uint32_t disk, uint32_t flags,
		     uint64_t first, uint32_t count, uint32_t len, size_t data_len)
{
	struct dr_wire_chunk w = {.disk = le32_of(disk),
				  .flags = le32_of(flags),
				  .first = le64_of(first),
				  .count = le32_of(count),
				  .len = le32_of(len)};

	return record(r, DR_REC_CHUNK, epoch, &w, sizeof(w), data_len);
}

static int barrier_rec(struct rig *r, uint64_t epoch, uint32_t count, uint64_t bytes)
{
	struct dr_wire_barrier w = {.count = le32_of(count), .bytes = le64_of(bytes)};

	return record(r, DR_REC_BARRIER, epoch, &w, sizeof(w), 0);
}

static void test_ranges(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	const uint32_t last = RIG_CAP / DR_CHUNK;
	struct err err = {0};
	uint8_t *clean;

	CU_ASSERT_EQUAL(write_rec(r, 0, 1, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, UINT32_MAX, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, RIG_CAP - 511, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, UINT64_MAX - 255, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, 512, 511), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, 512, 513), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, UINT32_MAX, 512), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, DR_WRITE_MAX + 1, DR_WRITE_MAX + 1),
			-EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 0, 1, RIG_CAP, 1), -EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 0, 1, 0, RIG_CAP + 1), -EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 0, 1, 512, UINT64_MAX), -EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 0, 2, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 0, 0, 0, 1), -EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 0, 3, 0, 1), -EBADMSG);
	CU_ASSERT_EQUAL(erase_rec(r, 9, 1, 0, 1), -EBADMSG);
	for (uint64_t e = 0; e < 2; e++) {
		uint64_t epoch = e ? 0 : REC_EPOCH_SYNC;

		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 1, 1, 0, 1, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 1, last + 1, 1, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 1, 1, last + 1, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 1, 1, UINT32_MAX, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 1, UINT64_MAX, 2, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 1, 0, 0, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 1, 0, 1, 8, 8), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 0, 0, 1, 512, 512), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 0, 0, 2, DR_CHUNK, DR_CHUNK),
				-EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 0, 0, 1, DR_CHUNK, DR_CHUNK - 1),
				-EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 0, last, 1, DR_CHUNK, DR_CHUNK),
				-EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 0, UINT64_MAX / DR_CHUNK, 1,
					  DR_CHUNK, DR_CHUNK),
				-EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 3, 0, 1, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 4, 0, 1, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 2, 0, 1, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(chunk_rec(r, epoch, 0, 2, 0, 1, 100, 100), -EBADMSG);
		CU_ASSERT_EQUAL(
			chunk_rec(r, epoch, 0, 2, 0, 1, DR_CHUNK + 1, DR_CHUNK + 1),
			-EBADMSG);
	}
	CU_ASSERT_EQUAL(record(r, 0x04ff, 0, "", 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(record(r, DR_REC_DIGESTS, 0, "", 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(record(r, DR_REC_ALIVE, 0, "", 0, 0), -EBADMSG);
	for (size_t len = 0; len < sizeof(struct dr_wire_write); len++)
		for (unsigned type = DR_REC_WRITE; type <= DR_REC_CHUNK; type++)
			/* Sixteen zero bytes are a good barrier. */
			if (type != DR_REC_BARRIER ||
			    len != sizeof(struct dr_wire_barrier))
				CU_ASSERT_EQUAL(record(r, type, 0, payload, 0, len),
						-EBADMSG);
	/* None of it left a trace: an epoch that then comes whole is right. */
	CU_ASSERT_EQUAL(barrier_rec(r, 0, 0, 0), 0);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 0, &err), 0);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 0, &err), 0);
	clean = rig_snapshot(r);
	CU_ASSERT_TRUE(rig_standby_is(r, clean));
	free(clean);
	rig_free(r);
}

/* An LZ4 block that is right, but of another length than the chunk. */
static void test_lz4_length(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	static uint8_t plain[DR_CHUNK];
	static const uint32_t lens[] = {1, 512, DR_CHUNK - 1};
	int n;

	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		n = LZ4_compress_default((char *)plain, (char *)payload, (int)lens[i],
					 sizeof(payload));
		CU_ASSERT_EQUAL(
			chunk_rec(r, REC_EPOCH_SYNC, 0, 2, 0, 1, (uint32_t)n, (size_t)n),
			-EBADMSG);
	}
	n = LZ4_compress_default((char *)plain, (char *)payload, DR_CHUNK,
				 sizeof(payload));
	CU_ASSERT_EQUAL(chunk_rec(r, REC_EPOCH_SYNC, 0, 2, 20, 1, (uint32_t)n, (size_t)n),
			-EBADMSG);
	CU_ASSERT_EQUAL(chunk_rec(r, REC_EPOCH_SYNC, 0, 2, 19, 1, (uint32_t)n, (size_t)n),
			0);
	memset(payload, 0, sizeof(payload));
	rig_free(r);
}

static void test_packed_writes(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	static uint8_t plain[DR_WRITE_MAX];
	const uint32_t len = 8192;
	uint32_t n = (uint32_t)LZ4_compress_default((char *)plain, (char *)payload,
						    (int)len, sizeof(payload));

	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len, n, n - 1), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len, n, n + 1), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len, n - 1, n - 1), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len - 1, n, n), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len + 1, n, n), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, DR_WRITE_MAX + 1, n, n), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, n, n, n), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, RIG_CAP - len + 1, len, n, n),
			-EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, 0, 0, len, n, n), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, 0, 0, len, n, len), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, 2, 0, len, n, n), -EBADMSG);
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, len, n, n), 0);
	n = (uint32_t)LZ4_compress_default((char *)plain, (char *)payload, DR_WRITE_MAX,
					   sizeof(payload));
	CU_ASSERT_EQUAL(packed_rec(r, DR_WRITE_LZ4, 0, DR_WRITE_MAX, n, n), 0);
	memset(payload, 0, sizeof(payload));
	rig_free(r);
}

static void test_order_of_epochs(void)
{
	struct rig *r = rig_new(1 << 20, RIG_CAP, RIG_CAP);
	const size_t w = sizeof(struct dr_wire_write);
	struct err err = {0};

	/* Pre-copy is made of chunks. */
	CU_ASSERT_EQUAL(write_rec(r, REC_EPOCH_SYNC, 0, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(barrier_rec(r, REC_EPOCH_SYNC, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(record(r, DR_REC_ALIVE, REC_EPOCH_SYNC, payload, 0, 1), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 1, 0, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, 512, 512), 0);
	CU_ASSERT_EQUAL(write_rec(r, 1, 0, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 0, &err), -EBADMSG);
	/* Counts that do not fit. */
	CU_ASSERT_EQUAL(barrier_rec(r, 0, 0, w + 512), -EBADMSG);
	CU_ASSERT_EQUAL(barrier_rec(r, 0, 2, w + 512), -EBADMSG);
	CU_ASSERT_EQUAL(barrier_rec(r, 0, 1, w + 511), -EBADMSG);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 0, &err), -EBADMSG);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 0, &err), -EPROTO);
	CU_ASSERT_EQUAL(barrier_rec(r, 0, 1, w + 512), 0);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 0, &err), -EPROTO); /* not checked */
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 0, &err), 0);
	CU_ASSERT_EQUAL(r->s.ops->check(r->s.self, 1, &err), -EBADMSG);
	/* Closed; a second time; and no pre-copy any more. */
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(barrier_rec(r, 0, 1, w + 512), -EBADMSG);
	CU_ASSERT_EQUAL(chunk_rec(r, REC_EPOCH_SYNC, 0, 1, 0, 1, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(write_rec(r, 2, 0, 0, 512, 512), -EBADMSG);
	CU_ASSERT_EQUAL(barrier_rec(r, 1, 0, 0), 0);
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 1, &err), -EPROTO); /* 0 is first */
	CU_ASSERT_EQUAL(r->s.ops->apply(r->s.self, 0, &err), 0);
	CU_ASSERT_EQUAL(write_rec(r, 0, 0, 0, 512, 512), -EBADMSG);
	rig_free(r);
}

static void test_staging_is_bounded(void)
{
	struct rig *r = rig_new(4096, RIG_CAP, RIG_CAP);
	const size_t most = 2 * 4096 + DRS_SLACK;
	uint64_t n = 0, epochs = 0;
	int rc;

	while (!(rc = write_rec(r, 0, 0, 0, DR_WRITE_MAX, DR_WRITE_MAX)))
		n++;
	CU_ASSERT_EQUAL(rc, -ENOBUFS);
	CU_ASSERT_EQUAL(n, DRS_SLACK / DR_WRITE_MAX);
	CU_ASSERT_TRUE(r->sb->applier.staged <= most);
	r->s.ops->drop(r->s.self);
	CU_ASSERT_EQUAL(r->sb->applier.staged, 0);
	/* Epochs without any content cost something too. */
	r->sb->next = 0;
	r->sb->stage_max = 64 << 10;
	while (!(rc = barrier_rec(r, epochs, 0, 0)))
		epochs++;
	CU_ASSERT_EQUAL(rc, -ENOBUFS);
	CU_ASSERT_TRUE(epochs < 64 << 10);
	rig_free(r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"ranges", test_ranges},
		{"the length of LZ4 blocks", test_lz4_length},
		{"packed writes", test_packed_writes},
		{"the order of epochs", test_order_of_epochs},
		{"staging is bounded", test_staging_is_bounded},
	};

	return UNIT_MAIN("diskrep, hostile primary", tests);
}
