/* SPDX-License-Identifier: Apache-2.0
 * test_mem_part - guest memory through both memory participants: byte for byte the same at every
 * epoch, several epochs in flight, and what a hostile peer may send.
 */
#include "tests/unit/mem_rig.h"

#include "hv/base/buf.h"
#include "replication/pagecodec.h"
#include "replication/record.h"

#include <errno.h>

enum { QUEUE = 4, COMPARE_EVERY = 100 };

static int sync_begin(struct both *t)
{
	int rc;

	t->down.sink.put = to_primary;
	rc = t->s.ops->hello(t->s.self, &t->down.sink, &t->err);
	if (rc)
		return rc;
	t->down.sink.put = deliver;
	return t->p.ops->sync_begin(t->p.self, &t->down.sink, &t->err);
}

static uint64_t sync_round(struct both *t)
{
	uint64_t left = 0;

	CU_ASSERT_EQUAL_FATAL(
		t->p.ops->sync_round(t->p.self, &t->down.sink, &left, &t->err), 0);
	return left;
}

static int same(struct both *t)
{
	CU_ASSERT_EQUAL_FATAL(t->s.ops->activate(t->s.self, &t->err), 0);
	return !memcmp(gm_base(t->a), gm_base(t->b), RAM);
}

/* One word in each of many pages: more than a capture wants to copy in the pause. */
static void spray(struct gm *gm)
{
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t word = rnd();

		if (gm_write(gm, rnd() % (RAM / 8) * 8, &word, sizeof(word)))
			abort();
	}
}

/* The same new page in several places. */
static void copies(struct gm *gm)
{
	uint64_t page[GM_PAGE / 8];

	for (unsigned i = 0; i < GM_PAGE / 8; i++)
		page[i] = rnd();
	for (unsigned i = 0; i < 3; i++)
		if (gm_write(gm, rnd() % (RAM / GM_PAGE) * GM_PAGE, page, sizeof(page)))
			abort();
}

/* The guest writes on while its pages are copied ahead, into the same pages and others. */
static void capture_ahead(struct both *t, uint64_t epoch)
{
	if (rnd() % 8) {
		if (rnd() % 2)
			CU_ASSERT_EQUAL_FATAL(t->p.ops->ahead(t->p.self, epoch, &t->err),
					      0);
		scribble(t->a, (unsigned)(rnd() % 3));
		copies(t->a);
		return;
	}
	spray(t->a);
	CU_ASSERT_EQUAL_FATAL(t->p.ops->ahead(t->p.self, epoch, &t->err), 0);
	scribble(t->a, (unsigned)(rnd() % 20));
	if (rnd() % 2)
		CU_ASSERT_EQUAL_FATAL(t->p.ops->ahead(t->p.self, epoch, &t->err), 0);
	if (rnd() % 2)
		spray(t->a);
}

static void send_apply(struct both *t, uint64_t epoch)
{
	CU_ASSERT_EQUAL_FATAL(t->p.ops->send(t->p.self, epoch, &t->down.sink, &t->err),
			      0);
	CU_ASSERT_EQUAL_FATAL(t->s.ops->check(t->s.self, epoch, &t->err), 0);
	CU_ASSERT_EQUAL_FATAL(t->s.ops->apply(t->s.self, epoch, &t->err), 0);
	/* Mostly the next epoch comes while this one is being applied. */
	if (rnd() % 4)
		return;
	CU_ASSERT_EQUAL_FATAL(t->s.ops->activate(t->s.self, &t->err), 0);
}

/* Whatever was applied is there. */
static void settle(struct both *t)
{
	CU_ASSERT_EQUAL_FATAL(t->s.ops->activate(t->s.self, &t->err), 0);
}

/* Up to QUEUE captures are ahead of what is sent, and each epoch is compared with a copy of the
 * memory as it was at its capture. */
static void random_epochs(size_t cache, uint64_t epochs)
{
	static uint8_t *then[QUEUE];
	struct both t;
	uint64_t captured = 0, sent = 0;
	struct pc_stats st;

	both_init(&t, cache, RAM);
	for (int i = 0; i < QUEUE; i++)
		CU_ASSERT_PTR_NOT_NULL_FATAL(then[i] = malloc(RAM));
	scribble(t.a, 500);
	CU_ASSERT_EQUAL_FATAL(sync_begin(&t), 0);
	scribble(t.a, 50);
	CU_ASSERT_TRUE(sync_round(&t) > 0);
	CU_ASSERT_EQUAL(sync_round(&t), 0);
	CU_ASSERT_TRUE(same(&t));
	while (sent < epochs) {
		if (captured < epochs && captured - sent < QUEUE &&
		    (captured == sent || rnd() % 2)) {
			scribble(t.a, (unsigned)(rnd() % 20));
			capture_ahead(&t, captured);
			CU_ASSERT_TRUE_FATAL(
				t.p.ops->capture(t.p.self, captured, &t.err) >= 0);
			/* The whole memory costs much to compare: now and then. */
			if (captured % COMPARE_EVERY < QUEUE)
				memcpy(then[captured % QUEUE], gm_base(t.a), RAM);
			captured++;
			continue;
		}
		send_apply(&t, sent);
		if (sent % COMPARE_EVERY < QUEUE) {
			settle(&t);
			CU_ASSERT_EQUAL(memcmp(then[sent % QUEUE], gm_base(t.b), RAM), 0);
		}
		sent++;
	}
	CU_ASSERT_TRUE(same(&t));
	CU_ASSERT_TRUE(t.down.digests > epochs / 4); /* and no false alarm */
	mem_part_stats(t.mp, &st);
	CU_ASSERT_TRUE(st.same > epochs); /* two of three, mostly */
	for (int i = 0; i < QUEUE; i++)
		free(then[i]);
	both_fini(&t);
}

static void with_large_cache(void)
{
	random_epochs(RAM, 2000);
}

static void with_small_cache(void)
{
	random_epochs(37 * GM_PAGE, 500);
}

static void without_cache(void)
{
	random_epochs(0, 200);
}

static void several_encoders(void)
{
	for (encoders = 2; encoders <= 8; encoders += 3)
		random_epochs(encoders == 5 ? RAM / 2 : RAM, 300);
	encoders = 1;
}

static void counts(void)
{
	struct pc_stats st;
	struct both t;

	both_init(&t, RAM, RAM);
	CU_ASSERT_EQUAL(sync_begin(&t), 0);
	CU_ASSERT_EQUAL(sync_round(&t), 0);
	CU_ASSERT_EQUAL(gm_write(t.a, 5 * GM_PAGE - 1, "ab", 2), 0);
	CU_ASSERT_EQUAL(t.p.ops->capture(t.p.self, 0, &t.err), 2);
	CU_ASSERT_EQUAL(mem_part_last_dirty(t.mp), 2);
	send_apply(&t, 0);
	mem_part_stats(t.mp, &st);
	CU_ASSERT_EQUAL(st.pages, RAM / GM_PAGE + 2);
	CU_ASSERT_EQUAL(st.zero, RAM / GM_PAGE);
	/* Written with what was there: nothing goes out. */
	t.down.records = 0;
	CU_ASSERT_EQUAL(gm_write(t.a, 5 * GM_PAGE - 1, "ab", 2), 0);
	CU_ASSERT_EQUAL(t.p.ops->capture(t.p.self, 1, &t.err), 2);
	send_apply(&t, 1);
	CU_ASSERT_EQUAL(t.down.records, 0);
	CU_ASSERT_TRUE(same(&t));
	both_fini(&t);
}

/* The next peer knows nothing of what the last one got. */
static void a_new_peer(void)
{
	struct both t;
	struct err err = {0};

	both_init(&t, RAM, RAM);
	scribble(t.a, 300);
	CU_ASSERT_EQUAL(sync_begin(&t), 0);
	(void)sync_round(&t); /* how much is left does not matter here */
	CU_ASSERT_TRUE(t.p.ops->capture(t.p.self, 0, &t.err) >= 0);
	t.p.ops->unlinked(t.p.self); /* captured, never sent */
	scribble(t.a, 300);
	/* It must greet again. */
	CU_ASSERT_EQUAL(t.p.ops->sync_begin(t.p.self, &t.down.sink, &err), -EPROTO);
	mem_standby_destroy(t.ms);
	gm_destroy(t.b);
	CU_ASSERT_EQUAL_FATAL(gm_create(RAM, &t.b, &t.err), 0);
	scribble(t.b, 300); /* and its memory may hold anything */
	CU_ASSERT_EQUAL_FATAL(mem_standby_create(t.b, RAM, &t.ms, &t.err), 0);
	t.s = t.down.to = mem_standby(t.ms);
	CU_ASSERT_EQUAL(sync_begin(&t), 0);
	CU_ASSERT_EQUAL(sync_round(&t), 0);
	CU_ASSERT_TRUE(same(&t));
	CU_ASSERT_EQUAL(t.p.ops->send(t.p.self, 0, &t.down.sink, &err), -EINVAL);
	both_fini(&t);
}

/* A bit that flips on either side is found within one round over all of memory. */
static void a_flipped_bit(int on_standby)
{
	struct both t;
	struct err err = {0};
	uint64_t epoch, bit = rnd() % 8, at = rnd() % RAM;
	int rc = 0;

	both_init(&t, RAM, RAM);
	for (uint64_t p = 0; p < RAM / GM_PAGE; p++)
		CU_ASSERT_EQUAL(gm_write(t.a, p * GM_PAGE, &p, sizeof(p)), 0);
	CU_ASSERT_EQUAL_FATAL(sync_begin(&t), 0);
	CU_ASSERT_EQUAL(sync_round(&t), 0);
	for (epoch = 0; epoch < 1000 && !rc; epoch++) {
		if (epoch == 3) /* unseen by anybody */
			gm_base(on_standby ? t.b : t.a)[at] ^= (uint8_t)(1 << bit);
		CU_ASSERT_EQUAL_FATAL(t.p.ops->ahead(t.p.self, epoch, &t.err), 0);
		CU_ASSERT_TRUE_FATAL(t.p.ops->capture(t.p.self, epoch, &t.err) >= 0);
		rc = t.p.ops->send(t.p.self, epoch, &t.down.sink, &err);
		if (!rc)
			CU_ASSERT_EQUAL(t.s.ops->apply(t.s.self, epoch, &t.err), 0);
	}
	CU_ASSERT_EQUAL(rc, -EIO);
	CU_ASSERT_TRUE(epoch > 3 && epoch < 3 + 2 * RAM / GM_PAGE / 64);
	both_fini(&t);
}

static void flipped_bits(void)
{
	for (int i = 0; i < 8; i++)
		a_flipped_bit(i & 1);
}

/* What was copied ahead for an epoch that never came is forgotten with its peer. */
static void ahead_of_nothing(void)
{
	struct both t;

	both_init(&t, RAM, RAM);
	CU_ASSERT_EQUAL_FATAL(sync_begin(&t), 0);
	CU_ASSERT_EQUAL(sync_round(&t), 0);
	spray(t.a);
	CU_ASSERT_EQUAL(t.p.ops->ahead(t.p.self, 0, &t.err), 0);
	t.p.ops->unlinked(t.p.self);
	spray(t.a);
	CU_ASSERT_EQUAL_FATAL(sync_begin(&t), 0);
	CU_ASSERT_EQUAL(sync_round(&t), 0);
	CU_ASSERT_EQUAL(gm_write(t.a, 0, "x", 1), 0);
	CU_ASSERT_EQUAL(t.p.ops->capture(t.p.self, 0, &t.err), 1);
	send_apply(&t, 0);
	CU_ASSERT_TRUE(same(&t));
	both_fini(&t);
}

static void sizes_differ(void)
{
	struct mem_hello_wire w = {.pages = le64_of(RAM / GM_PAGE * 2)};
	struct both t;
	struct err err = {0};

	both_init(&t, 0, RAM);
	CU_ASSERT_EQUAL(t.p.ops->peer_record(t.p.self, MEM_HELLO, &w, sizeof(w), &err),
			-EPROTO);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "16 MiB"));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "32 MiB"));
	CU_ASSERT_EQUAL(
		t.s.ops->record(t.s.self, MEM_HELLO, REC_EPOCH_SYNC, &w, sizeof(w), &err),
		-EPROTO);
	CU_ASSERT_EQUAL(t.s.ops->record(t.s.self, MEM_PAGES, 0, "", 0, &err), -EPROTO);
	CU_ASSERT_EQUAL(t.p.ops->peer_record(t.p.self, MEM_HELLO, &w, 3, &err), -EPROTO);
	CU_ASSERT_EQUAL(t.p.ops->peer_record(t.p.self, MEM_PAGES, &w, sizeof(w), &err),
			-EPROTO);
	both_fini(&t);
}

/* A batch of @n random pages from @first on. */
static void batch(struct buf *b, uint64_t first, unsigned n)
{
	uint64_t page[GM_PAGE / 8];
	struct pc_stats st = {0};

	buf_reset(b);
	for (unsigned i = 0; i < n; i++) {
		for (unsigned j = 0; j < GM_PAGE / 8; j++)
			page[j] = rnd();
		CU_ASSERT_EQUAL_FATAL(pc_encode(b, first + i, page, NULL, &st), 0);
	}
}

static int pages_in(struct both *t, uint64_t epoch, const struct buf *b)
{
	struct err err = {0};

	return t->s.ops->record(t->s.self, MEM_PAGES, epoch, b->data, b->len, &err);
}

static void hostile_primary(void)
{
	struct buf b = {0};
	struct both t;

	both_init(&t, 0, 8 * (GM_PAGE + 64));
	CU_ASSERT_EQUAL(sync_begin(&t), 0);
	batch(&b, 0, 8);
	CU_ASSERT_EQUAL(pages_in(&t, 0, &b), 0);
	/* Rule 2: staged is not applied. */
	CU_ASSERT_TRUE(same(&t));
	batch(&b, 8, 1);
	CU_ASSERT_EQUAL(pages_in(&t, 0, &b), -ENOBUFS); /* more than may be staged */
	CU_ASSERT_EQUAL(pages_in(&t, 1, &b), -EPROTO);	/* two epochs at once */
	CU_ASSERT_EQUAL(t.s.ops->check(t.s.self, 1, &t.err), -EPROTO);
	t.s.ops->drop(t.s.self);
	CU_ASSERT_TRUE(same(&t));
	CU_ASSERT_EQUAL(t.s.ops->apply(t.s.self, 0, &t.err), 0);
	CU_ASSERT_TRUE(same(&t));    /* dropped is gone */
	batch(&b, RAM / GM_PAGE, 1); /* behind the end */
	CU_ASSERT_EQUAL(pages_in(&t, 0, &b), -EBADMSG);
	CU_ASSERT_EQUAL(pages_in(&t, REC_EPOCH_SYNC, &b), -EBADMSG);
	batch(&b, 3, 1);
	b.len--; /* cut short */
	CU_ASSERT_EQUAL(pages_in(&t, 0, &b), -EBADMSG);
	CU_ASSERT_EQUAL(t.s.ops->record(t.s.self, 0x01ff, 0, "", 0, &t.err), -EPROTO);
	CU_ASSERT_TRUE(same(&t));
	buf_fini(&b);
	both_fini(&t);
}

static const struct unit_test tests[] = {
	{"thousands of epochs, all of memory cached", with_large_cache},
	{"hundreds of epochs, little cached", with_small_cache},
	{"hundreds of epochs, nothing cached", without_cache},
	{"hundreds of epochs, several encoders", several_encoders},
	{"what is counted", counts},
	{"a new peer starts from nothing", a_new_peer},
	{"a flipped bit is found", flipped_bits},
	{"copied ahead for nothing", ahead_of_nothing},
	{"sizes that differ, pages before hello", sizes_differ},
	{"hostile batches", hostile_primary},
};

int main(void)
{
	return UNIT_MAIN("mem_part", tests);
}
