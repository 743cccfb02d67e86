/* SPDX-License-Identifier: Apache-2.0
 * test_resize - disks that grow: in step, alone, refused, cut short at every step, and told by an enemy.
 */
#include "diskrep/resize.h"
#include "hv/base/clock.h"
#include "tests/unit/resyncrig.h"

#include <stdatomic.h>

enum { MORE = 90 * DR_CHUNK + 1024, NEW = CAP + MORE };

/* What became of it. */
struct asked {
	atomic_int over;
	struct diskrep_resized r;
};

static void on_end(void *arg, const struct diskrep_resized *r)
{
	struct asked *a = arg;

	a->r = *r;
	atomic_store(&a->over, 1);
}

/* The guest's device. */
static void on_size(void *arg, uint64_t bytes)
{
	struct rig *r = arg;

	r->img.cap = bytes;
}

static int ask(struct rig *r, uint64_t bytes, struct asked *a, struct err *err)
{
	*a = (struct asked){.over = 0};
	*err = (struct err){0};
	diskrep_on_resize(r->dr, 0, on_size, r);
	return diskrep_resize(r->dr, 0, bytes, on_end, a, err);
}

/* An epoch as the engine has them: the pause comes first. */
static void step(struct rig *r, uint64_t *e)
{
	CU_ASSERT_EQUAL(r->p.ops->pause(r->p.self), 0);
	epoch(r, (*e)++);
}

/* The same without looking at all of the images, for while threads are waited for. */
static void light_step(struct rig *r, uint64_t *e)
{
	CU_ASSERT_EQUAL(r->p.ops->pause(r->p.self), 0);
	rig_capture(r, *e);
	rig_ship(r, *e);
	rig_report(r);
	rig_apply(r, (*e)++);
}

static void await_over(struct rig *r, struct asked *a, uint64_t *e)
{
	uint64_t end = clock_mono_ns() + 60000000000ull;

	while (!atomic_load(&a->over)) {
		CU_ASSERT_TRUE_FATAL(clock_mono_ns() < end);
		if (e)
			light_step(r, e);
		else
			CU_ASSERT_TRUE(event_base_loop(loop_base(r->loop),
						       EVLOOP_NONBLOCK) >= 0);
		sched_yield();
	}
}

static void must_grow(struct rig *r, uint64_t bytes, uint64_t *e)
{
	struct asked a;
	struct err err;

	CU_ASSERT_EQUAL_FATAL(ask(r, bytes, &a, &err), 0);
	await_over(r, &a, e);
	CU_ASSERT_STRING_EQUAL(a.r.why, "");
	CU_ASSERT_EQUAL(a.r.standby, e != NULL);
	CU_ASSERT_EQUAL(diskrep_capacity(r->dr, 0), bytes);
	CU_ASSERT_EQUAL(r->img.cap, bytes);
	if (e)
		step(r, e);
}

/* Two hosts in step, with a guest. */
static struct rig *two(struct pair *p, uint64_t *e)
{
	struct rig *r = process(&p->a, &p->b);
	uint64_t looked, sent;

	be_standby(r, NULL);
	guest_starts(r);
	protect(r, &looked, &sent);
	*e = 1;
	return r;
}

static void end_two(struct rig *r, struct pair *p)
{
	end_standby(r);
	end_process(r);
	pair_free(p);
}

static void test_in_step(void)
{
	struct pair p = pair_new();
	uint64_t e;
	struct rig *r = two(&p, &e);

	must_grow(r, NEW, &e);
	CU_ASSERT_EQUAL(r->sb->img[0].capacity, NEW);
	CU_ASSERT_EQUAL(size_of_file(p.a.image), NEW);
	CU_ASSERT_EQUAL(size_of_file(p.b.image), NEW);
	/* Its last sector, and over the old end. */
	write_at(r, NEW - 512, 512, 7);
	write_at(r, CAP - 4096, 8192, 9);
	step(r, &e);
	/* Again: to where it is, and once more. */
	must_grow(r, NEW, &e);
	must_grow(r, NEW + 512, &e);
	write_at(r, NEW, 512, 11);
	step(r, &e);
	end_two(r, &p);
}

static enum dr_resize_step step_of(struct rig *r)
{
	enum dr_resize_step now;

	pthread_mutex_lock(&r->dr->lock);
	now = r->dr->resize.step;
	pthread_mutex_unlock(&r->dr->lock);
	return now;
}

/* All that was accepted before the pause is of the old size, in that epoch; the switch is its last word. */
static void test_last_word(void)
{
	struct pair p = pair_new();
	uint64_t e;
	struct rig *r = two(&p, &e);
	struct err err;
	struct asked a;
	const struct dr_list *l;

	CU_ASSERT_EQUAL_FATAL(ask(r, NEW, &a, &err), 0);
	while (step_of(r) != RESIZE_SWITCH) {
		/* Without a pause: it cannot get further. */
		rig_capture(r, e);
		rig_ship(r, e);
		rig_report(r);
		rig_apply(r, e++);
	}
	write_at(r, CAP - 512, 512, 1);
	/* The I/O loop has turns of its own. */
	dr_wake(r->dr);
	rig_turn(r);
	CU_ASSERT_EQUAL(r->img.cap, CAP);
	CU_ASSERT_EQUAL(r->p.ops->pause(r->p.self), 0);
	CU_ASSERT_EQUAL(r->img.cap, NEW);
	l = r->dr->open;
	CU_ASSERT_TRUE_FATAL(l->n == 2);
	CU_ASSERT_EQUAL(l->e[0].op, DR_WRITE);
	CU_ASSERT_EQUAL(l->e[1].op, DR_RESIZE);
	CU_ASSERT_FALSE(atomic_load(&a.over)); /* the standby has not got it */
	epoch(r, e++);
	await_over(r, &a, &e);
	CU_ASSERT_TRUE(a.r.standby);
	end_two(r, &p);
}

/* What the standby has beyond the old end is not what anybody wrote. */
static void put_junk(int fd, uint64_t from, uint64_t to)
{
	uint8_t junk[4096];

	memset(junk, 0xbd, sizeof(junk));
	for (uint64_t at = from; at < to; at += sizeof(junk)) {
		uint64_t n = to - at < sizeof(junk) ? to - at : sizeof(junk);

		CU_ASSERT_EQUAL(pwrite(fd, junk, n, (off_t)at), (ssize_t)n);
	}
}

/* The standby was away; it comes back smaller, or with something else there. Only what was written is
 * looked at. */
static void test_grown_alone(void)
{
	for (int junk = 0; junk < 2; junk++) {
		struct pair p = pair_new();
		uint64_t e, looked, sent;
		struct rig *r = two(&p, &e);

		lose_link(r);
		must_grow(r, NEW, NULL);
		write_at(r, CAP + 10 * DR_CHUNK, 4096, 3);
		write_at(r, 5 * DR_CHUNK, 4096, 4);
		if (junk)
			put_junk(p.b.image, CAP, NEW);
		protect(r, &looked, &sent);
		CU_ASSERT_TRUE(r->dr->resync.partial);
		CU_ASSERT_TRUE(looked <= 4 && sent == 2);
		CU_ASSERT_EQUAL(size_of_file(p.b.image), NEW);
		end_two(r, &p);
	}
}

/* The link is lost after each number of epochs: the disk is as it was or has grown, and again makes it so. */
static void test_link_lost(void)
{
	unsigned grown = 0, not_grown = 0;

	for (unsigned after = 0; after < 12; after++) {
		struct pair p = pair_new();
		uint64_t e, looked, sent;
		struct rig *r = two(&p, &e);
		struct asked a;
		struct err err;

		CU_ASSERT_EQUAL_FATAL(ask(r, NEW, &a, &err), 0);
		for (unsigned i = 0; i < after && !atomic_load(&a.over); i++)
			light_step(r, &e);
		lose_link(r);
		await_over(r, &a, NULL);
		grown += !a.r.why[0];
		not_grown += a.r.why[0] != 0;
		CU_ASSERT_EQUAL(r->img.cap, a.r.why[0] ? CAP : NEW);
		write_at(r, r->img.cap - 512, 512, 5);
		protect(r, &looked, &sent);
		CU_ASSERT_TRUE(r->dr->resync.partial);
		e = 1;
		must_grow(r, NEW, &e);
		write_at(r, NEW - 512, 512, 6);
		step(r, &e);
		end_two(r, &p);
	}
	CU_ASSERT_TRUE(grown && not_grown);
}

/* The host that runs it dies after each number of epochs, with writes beyond the old end that never were committed; the
 * other goes on with the size of its last epoch, and the dead one returns. */
static void test_taken_over(void)
{
	for (unsigned after = 0; after < 12; after++) {
		struct pair p = pair_new();
		uint64_t e, looked, sent, size;
		struct rig *r = process(&p.a, &p.b), *next;
		struct asked a;
		struct err err;

		guest_starts(r);
		next = standby_process(&p.b, &p.a);
		be_standby(r, next->dr);
		protect(r, &looked, &sent);
		e = 1;
		CU_ASSERT_EQUAL_FATAL(ask(r, NEW, &a, &err), 0);
		for (unsigned i = 0; i < after && !atomic_load(&a.over); i++)
			light_step(r, &e);
		if (r->img.cap == NEW)
			write_at(r, NEW - 512, 512, 0xee);
		size = r->sb->img[0].capacity;
		lose_link(r);
		CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, NULL), 0);
		await_over(r, &a, NULL);
		next->sb = r->sb;
		next->s = r->s;
		end_process(r);
		guest_starts(next);
		next->img.cap = diskrep_capacity(next->dr, 0);
		CU_ASSERT_EQUAL(next->img.cap, size);
		write_at(next, size - 512, 512, 8);
		r = next;
		next = standby_process(&p.a, &p.b);
		end_standby(r);
		be_standby(r, next->dr);
		protect(r, &looked, &sent);
		e = 1;
		must_grow(r, NEW, &e);
		write_at(r, NEW - 1024, 512, 9);
		step(r, &e);
		end_standby(r);
		end_process(next);
		end_process(r);
		pair_free(&p);
	}
}

/* A host that was grown and dies before its log says so, or whose image was made larger by hand: the old claim is as good
 * as it was for who returns as a standby, and void for a guest that boots from it. */
static void test_larger_image(void)
{
	for (int boots = 0; boots < 3; boots++) {
		struct pair p = pair_new();
		struct rig *r = process(&p.a, &p.b), *next;
		uint64_t looked, sent;

		guest_starts(r);
		next = standby_process(&p.b, &p.a);
		be_standby(r, next->dr);
		protect(r, &looked, &sent);
		write_at(r, 0, 512, 1);
		epoch(r, 1);
		await_claim(r->dr, ACT_WRITER);
		lose_link(r);
		CU_ASSERT_EQUAL(r->s.ops->activate(r->s.self, NULL), 0);
		next->sb = r->sb;
		next->s = r->s;
		end_process(r);
		guest_starts(next);
		put_junk(p.a.image, CAP, NEW);
		r = next;
		next = standby_process(&p.a, &p.b);
		CU_ASSERT_EQUAL(next->dr->activity.act.claim.role, ACT_WRITER);
		end_standby(r);
		if (boots == 2) {
			/* One that was saved, and has a disk of the old size. */
			diskrep_set_capacity(next->dr, 0, CAP);
			guest_starts(next);
			CU_ASSERT_EQUAL(next->dr->activity.act.claim.role, ACT_WRITER);
			CU_ASSERT_EQUAL(diskrep_capacity(next->dr, 0), CAP);
		} else if (boots) {
			guest_starts(next);
			CU_ASSERT_EQUAL(next->dr->activity.act.claim.role, ACT_NONE);
			CU_ASSERT_EQUAL(diskrep_capacity(next->dr, 0), NEW);
		} else {
			must_grow(r, NEW, NULL);
			be_standby(r, next->dr);
			protect(r, &looked, &sent);
			CU_ASSERT_TRUE(r->dr->resync.partial);
			end_standby(r);
		}
		end_process(next);
		end_process(r);
		pair_free(&p);
	}
}

static int no_room(void *self, uint64_t bytes)
{
	return -ENOSPC;
}

/* No room on either host: that is said, and nothing has changed. */
static void test_no_room(void)
{
	for (int standby = 0; standby < 2; standby++) {
		struct pair p = pair_new();
		uint64_t e;
		struct rig *r = two(&p, &e);
		struct dr_image *img = standby ? &r->sb->img[0] : &r->dr->disk[0].img;
		struct img_ops tight = *img->io.ops;
		const struct img_ops *roomy = img->io.ops;
		struct asked a;
		struct err err;

		tight.resize = no_room;
		img->io.ops = &tight;
		CU_ASSERT_EQUAL_FATAL(ask(r, NEW, &a, &err), 0);
		await_over(r, &a, &e);
		CU_ASSERT_PTR_NOT_NULL(
			strstr(a.r.why, standby ? "the standby has no room"
						: "this host has no room"));
		CU_ASSERT_PTR_NOT_NULL(strstr(a.r.why, "No space left"));
		CU_ASSERT_EQUAL(r->img.cap, CAP);
		CU_ASSERT_EQUAL(diskrep_capacity(r->dr, 0), CAP);
		write_at(r, 0, 512, 1);
		step(r, &e);
		img->io.ops = roomy;
		must_grow(r, NEW, &e);
		end_two(r, &p);
	}
}

static void on_verified(void *arg, const struct diskrep_verified *v)
{
}

static void test_refused(void)
{
	struct pair p = pair_new();
	uint64_t e, left;
	struct rig *r = two(&p, &e);
	struct asked a, b;
	struct err err;

	CU_ASSERT_EQUAL(ask(r, CAP - 512, &a, &err), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "cannot become smaller"));
	CU_ASSERT_EQUAL(ask(r, NEW + 1, &a, &err), -EINVAL);
	CU_ASSERT_EQUAL(ask(r, ACT_CAPACITY_MAX + 512, &a, &err), -EFBIG);
	CU_ASSERT_EQUAL(diskrep_resize(r->dr, 1, NEW, on_end, &a, &err), -EINVAL);
	CU_ASSERT_EQUAL_FATAL(ask(r, NEW, &a, &err), 0);
	CU_ASSERT_EQUAL(ask(r, NEW, &b, &err), -EBUSY);
	CU_ASSERT_EQUAL(diskrep_verify(r->dr, 0, on_verified, NULL, &err), -EBUSY);
	await_over(r, &a, &e);
	CU_ASSERT_EQUAL(diskrep_verify(r->dr, 0, on_verified, NULL, &err), 0);
	CU_ASSERT_EQUAL(ask(r, NEW + 512, &a, &err), -EBUSY);
	lose_link(r);
	/* While a standby is brought up. */
	CU_ASSERT_EQUAL(rig_hello(r, &err), 0);
	CU_ASSERT_EQUAL(r->p.ops->sync_begin(r->p.self, &r->sink, &err), 0);
	while (ask(r, NEW + 512, &a, &err) == -EBUSY)
		sched_yield(); /* the comparison ends */
	await_over(r, &a, NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(a.r.why, "being brought up"));
	CU_ASSERT_EQUAL(r->p.ops->sync_round(r->p.self, &r->sink, &left, &err), 0);
	CU_ASSERT_EQUAL(rig_receive(r, &err), 0);
	e = 0;
	step(r, &e);
	must_grow(r, NEW + 512, &e);
	end_two(r, &p);
}

static int tell(struct rig *r, uint16_t type, uint64_t epoch, const void *p, size_t len)
{
	struct err err = {0};

	return r->s.ops->record(r->s.self, type, epoch, p, len, &err);
}

static int size_rec(struct rig *r, uint16_t type, uint64_t epoch, uint32_t disk,
		    uint64_t bytes)
{
	struct dr_wire_resize w = {.disk = le32_of(disk), .capacity = le64_of(bytes)};

	return tell(r, type, epoch, &w, sizeof(w));
}

static int write_rec(struct rig *r, uint64_t epoch, uint64_t offset)
{
	struct {
		struct dr_wire_write w;
		uint8_t bytes[512];
	} m = {.w = {.offset = le64_of(offset), .len = le32_of(512)}};

	return tell(r, DR_REC_WRITE, epoch, &m, sizeof(m));
}

static int sizes_rec(struct rig *r, uint32_t disks, uint64_t first, uint64_t second)
{
	struct dr_wire_sizes w = {.disks = le32_of(disks),
				  .capacity = {le64_of(first), le64_of(second)}};

	return tell(r, DR_REC_SIZES, REC_EPOCH_SYNC, &w, sizeof(w));
}

static void test_hostile_sizes(void)
{
	struct pair p = pair_new();
	uint64_t e;
	struct rig *r = two(&p, &e);
	struct dr_wire_grown g = {.capacity = le64_of(NEW)};
	struct dr_wire_resize cut = {.capacity = le64_of(CAP + 512)};
	struct err err = {0};

	for (unsigned grow = 0; grow < 2; grow++) {
		uint16_t type = grow ? DR_REC_GROW : DR_REC_RESIZE;

		CU_ASSERT_EQUAL(size_rec(r, type, e, 0, CAP), -EBADMSG);
		CU_ASSERT_EQUAL(size_rec(r, type, e, 0, CAP - 512), -EBADMSG);
		CU_ASSERT_EQUAL(size_rec(r, type, e, 0, 0), -EBADMSG);
		CU_ASSERT_EQUAL(size_rec(r, type, e, 0, CAP + 511), -EBADMSG);
		CU_ASSERT_EQUAL(size_rec(r, type, e, 1, CAP + 512), -EBADMSG);
		CU_ASSERT_EQUAL(size_rec(r, type, e, 0, UINT64_MAX - 511), -EBADMSG);
		CU_ASSERT_EQUAL(tell(r, type, e, &cut, sizeof(cut) - 1), -EBADMSG);
	}
	/* There is no room for it yet. */
	CU_ASSERT_EQUAL(size_rec(r, DR_REC_RESIZE, e, 0, CAP + 512), -EBADMSG);
	CU_ASSERT_EQUAL(ftruncate(p.b.image, NEW), 0);
	CU_ASSERT_EQUAL(size_rec(r, DR_REC_RESIZE, e, 0, NEW + 512), -EBADMSG);
	CU_ASSERT_EQUAL(size_rec(r, DR_REC_RESIZE, e, 0, NEW), 0);
	/* Still the old end, and not twice. */
	CU_ASSERT_EQUAL(write_rec(r, e, CAP - 512), 0);
	CU_ASSERT_EQUAL(write_rec(r, e, CAP), -EBADMSG);
	CU_ASSERT_EQUAL(size_rec(r, DR_REC_RESIZE, e, 0, NEW), -EBADMSG);
	CU_ASSERT_EQUAL(r->sb->img[0].capacity, CAP);
	/* Greetings. */
	CU_ASSERT_EQUAL(sizes_rec(r, 9, CAP, 0), -EBADMSG);
	CU_ASSERT_EQUAL(sizes_rec(r, 1, CAP + 1, 0), -EBADMSG);
	CU_ASSERT_EQUAL(sizes_rec(r, 1, CAP, 512), -EBADMSG);
	CU_ASSERT_EQUAL(sizes_rec(r, 1, UINT64_MAX - 511, 0), -EBADMSG);
	CU_ASSERT_EQUAL(sizes_rec(r, 1, ACT_CAPACITY_MAX + 512, 0), -EBADMSG);
	CU_ASSERT_EQUAL(tell(r, DR_REC_SIZES, REC_EPOCH_SYNC, &g, sizeof(g)), -EBADMSG);
	/* Nobody has asked. */
	CU_ASSERT_EQUAL(
		r->p.ops->peer_record(r->p.self, DR_REC_GROWN, &g, sizeof(g), &err),
		-EBADMSG);
	lose_link(r);
	end_two(r, &p);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"in step", test_in_step},
		{"the last word of an epoch", test_last_word},
		{"grown alone", test_grown_alone},
		{"the link is lost", test_link_lost},
		{"taken over", test_taken_over},
		{"an image that is larger", test_larger_image},
		{"no room", test_no_room},
		{"refused", test_refused},
		{"hostile sizes", test_hostile_sizes},
	};

	return UNIT_MAIN("resize", tests);
}
