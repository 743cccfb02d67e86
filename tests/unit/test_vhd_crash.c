/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_crash - the power fails after every write to a VHD file, with every subset of what no
 * flush has covered, and what was flushed is always read again.
 *
 * Between what the recorder below the image saw (vhdcuts.h) is what the user of the disk was promised. Each
 * file that a cut leaves is opened for writing, as after a real crash, checked, and read: each
 * sector holds what it held at the last flush, or what was written there since.
 */
#include "tests/unit/vhdcuts.h"

/* It is smaller at first, and grows while it is used. */
enum { SIZE = 6 * RIG_BLOCK + 512, FIRST_SIZE = 3 * RIG_BLOCK + 1024 };

/* What each sector may be after a cut: what it was at the last flush, and all that was written or erased
 * since (of a write, any part: a sector is one or the other). */
struct allowed {
	uint8_t *flushed;	  /* the whole disk */
	const struct step *since; /* STEP_SECTORS among them */
	unsigned n;
	uint64_t least, most; /* that the disk may have */
	int diff;
};

static int sector_allowed(const struct allowed *a, uint64_t sector, const uint8_t *got)
{
	uint64_t at = sector * 512;

	if (!memcmp(got, a->flushed + at, 512))
		return 1;
	for (unsigned i = 0; i < a->n; i++)
		if (a->since[i].kind == STEP_SECTORS && a->since[i].at <= at &&
		    at < a->since[i].at + a->since[i].len &&
		    !memcmp(got, a->since[i].bytes + (at - a->since[i].at), 512))
			return 1;
	return 0;
}

static struct disk parent_disk;
static unsigned cuts, recovered;

static int open_on(struct disk *d, int diff, struct vhd_image **v, struct err *err)
{
	struct vhd_part part[2] = {{img_of(d), -1, 0}, {img_of(&parent_disk), -1, 0}};

	return vhd_open(part, diff ? 2 : 1, VHD_WRITE, v, err);
}

/* Once it was opened. */
static int survives(struct disk *d, void *arg)
{
	const struct allowed *a = arg;
	static uint8_t got[SIZE];
	struct vhd_image *v;
	struct vhd_report r;
	struct err err = {0};
	uint64_t bad = 0, size;

	cuts++;
	if (open_on(d, a->diff, &v, &err)) {
		printf("\nnot opened: %s\n", err.msg);
		return 0;
	}
	size = vhd_capacity(v);
	if ((size != a->least && size != a->most) || size > SIZE) {
		printf("\na disk of %llu bytes\n", (unsigned long long)size);
		vhd_close(v);
		return 0;
	}
	CU_ASSERT_EQUAL(img_read(vhd_img(v), got, size, 0), 0);
	for (uint64_t s = 0; s < size / 512; s++)
		if (!sector_allowed(a, s, got + s * 512) && !bad++)
			printf("\nsector %llu is wrong\n", (unsigned long long)s);
	/* It can be written on. */
	memset(got, 0xee, 512);
	CU_ASSERT_EQUAL(img_write(vhd_img(v), got, 512, size - 512), 0);
	CU_ASSERT_EQUAL(img_sync(vhd_img(v)), 0);
	vhd_close(v);
	CU_ASSERT_EQUAL(vhd_check(img_of(d), &r, &err), 0);
	recovered += !bad;
	return !bad && vhd_report_clean(&r);
}

/* All cuts of the record of @d, of which @start steps made the image. */
static void cut_everywhere(const struct disk *d, unsigned start, int diff)
{
	struct disk base = disk_new(0), room = disk_new(0);
	struct allowed a = {.diff = diff, .least = FIRST_SIZE, .most = FIRST_SIZE};
	unsigned synced = start, promised = start;
	int ok = 1;

	for (unsigned i = 0; i < start; i++)
		replay(&base, &d->rec[i]);
	for (unsigned i = start; ok && i < d->n; i++) {
		const struct step *s = &d->rec[i];

		if (s->kind == STEP_PROMISE) {
			a.flushed = s->bytes;
			promised = i;
		}
		if (s->kind == STEP_SYNC) {
			for (; synced < i; synced++)
				replay(&base, &d->rec[synced]);
		}
		if (s->kind == STEP_GROWN) {
			a.most = s->len;
			a.least = s->at ? s->len : a.least;
		}
		if (!a.flushed || s->kind == STEP_SECTORS)
			continue;
		a.since = d->rec + promised;
		a.n = i + 1 - promised;
		ok = try_cut(d, &base, &room, synced, i + 1, survives, &a);
		if (!ok)
			printf("at step %u of %u\n", i, d->n);
	}
	CU_ASSERT_TRUE(ok);
	disk_free(&base);
	disk_free(&room);
}

/* The user of the disk: what it did is noted before it reaches the image. */
struct user {
	struct disk *d;
	struct img img;
	uint64_t size;
	uint8_t now[SIZE];
};

static void user_write(struct user *u, uint64_t sector, uint64_t sectors, uint8_t fill)
{
	uint64_t at = sector * 512, len = sectors * 512;

	memset(u->now + at, fill, len);
	note(u->d, STEP_SECTORS, u->now + at, len, at);
	CU_ASSERT_EQUAL(fill ? img_write(u->img, u->now + at, len, at)
			     : img_erase(u->img, at, len),
			0);
}

static void user_flush(struct user *u)
{
	CU_ASSERT_EQUAL(img_sync(u->img), 0);
	note(u->d, STEP_PROMISE, u->now, SIZE, 0);
}

/* Whatever has not been flushed. */
static void user_grow(struct user *u)
{
	u->size += 512 * (1 + (uint64_t)rig_random() % (2 * RIG_BLOCK / 512));
	u->size = u->size < SIZE ? u->size : SIZE;
	note(u->d, STEP_GROWN, NULL, u->size, 0);
	CU_ASSERT_EQUAL(img_resize(u->img, u->size), 0);
	note(u->d, STEP_GROWN, NULL, u->size, 1);
}

static void use(struct user *u, unsigned rounds)
{
	for (unsigned i = 1; i <= rounds; i++) {
		const uint64_t sectors = u->size / 512;
		uint64_t sector = rig_random() % sectors, most = sectors - sector;
		uint64_t n = 1 + rig_random() % (most < 150 ? most : 150);
		const uint64_t block = RIG_BLOCK / 512;

		switch (rig_random() % 6) {
		case 0:
			user_flush(u);
			break;
		case 1:
			sector = sector / block * block;
			user_write(u, sector,
				   sectors - sector < block ? sectors - sector : block,
				   0);
			if (rig_random() % 3 == 0)
				user_grow(u);
			break;
		case 2:
			user_write(u, sector, n, 0);
			break;
		default:
			user_write(u, sector, n, (uint8_t)(i % 250 + 1));
		}
	}
	user_flush(u);
}

static void make_parent(struct user *u)
{
	struct vhd_create c = {
		.type = VHD_DYNAMIC, .size = SIZE, .block_size = RIG_BLOCK};
	struct vhd_part part = {img_of(&parent_disk), -1, 0};
	struct vhd_image *v;
	struct err err = {0};

	parent_disk = disk_new(0);
	CU_ASSERT_EQUAL_FATAL(vhd_create(img_of(&parent_disk), &c, &err), 0);
	CU_ASSERT_EQUAL_FATAL(vhd_open(&part, 1, VHD_WRITE, &v, &err), 0);
	memset(u->now, 0x77, SIZE / 2);
	CU_ASSERT_EQUAL(img_write(vhd_img(v), u->now, SIZE / 512 / 2 * 512, 0), 0);
	memset(u->now + SIZE / 512 / 2 * 512, 0, SIZE - SIZE / 512 / 2 * 512);
	vhd_close(v);
}

static void run(enum vhd_type type, uint64_t seed, unsigned rounds)
{
	struct disk d = disk_new(1);
	struct user u = {.d = &d, .size = FIRST_SIZE};
	struct vhd_create c = {.type = type, .size = FIRST_SIZE, .block_size = RIG_BLOCK};
	struct vhd_info info;
	struct vhd_image *v;
	struct err err = {0};
	unsigned start;

	rig_seed = seed;
	make_parent(&u);
	if (type != VHD_DIFF)
		memset(u.now, 0, SIZE);
	CU_ASSERT_EQUAL_FATAL(vhd_probe(img_of(&parent_disk), &info, &err), 0);
	c.parent_uuid = info.uuid;
	c.parent_path = c.parent_relative = "p.vhd";
	CU_ASSERT_EQUAL_FATAL(vhd_create(img_of(&d), &c, &err), 0);
	start = d.n;
	CU_ASSERT_EQUAL_FATAL(open_on(&d, type == VHD_DIFF, &v, &err), 0);
	note(&d, STEP_PROMISE, u.now, SIZE, 0);
	u.img = vhd_img(v);
	use(&u, rounds);
	vhd_close(v);
	cut_everywhere(&d, start, type == VHD_DIFF);
	disk_free(&d);
	disk_free(&parent_disk);
}

static void dynamic(void)
{
	for (uint64_t seed = 1; seed <= 6; seed++)
		run(VHD_DYNAMIC, seed, 60);
}

static void differencing(void)
{
	for (uint64_t seed = 1; seed <= 6; seed++)
		run(VHD_DIFF, seed, 60);
}

/* An operation on a whole image, cut everywhere: it is the old image or the new one, with the same
 * content. */
struct whole {
	uint64_t old_size, new_size;
	uint8_t *bytes; /* of the smaller one */
	unsigned seen_old, seen_new;
};

static int is_either(struct disk *d, void *arg)
{
	struct whole *w = arg;
	uint64_t size, least = w->old_size < w->new_size ? w->old_size : w->new_size;
	uint8_t *got = malloc(least);
	struct vhd_image *v;
	struct err err = {0};
	int ok;

	cuts++;
	CU_ASSERT_PTR_NOT_NULL_FATAL(got);
	if (open_on(d, 0, &v, &err)) {
		printf("\nnot opened: %s\n", err.msg);
		free(got);
		return 0;
	}
	size = vhd_capacity(v);
	w->seen_old += size == w->old_size;
	w->seen_new += size == w->new_size;
	ok = size == w->old_size || size == w->new_size;
	CU_ASSERT_EQUAL(img_read(vhd_img(v), got, least, 0), 0);
	ok = ok && !memcmp(got, w->bytes, least);
	vhd_close(v);
	free(got);
	recovered += (unsigned)ok;
	return ok;
}

static void resize_and_cut(enum vhd_type type, uint64_t from, uint64_t to)
{
	struct vhd_create c = {.type = type, .size = from, .block_size = RIG_BLOCK};
	struct disk d = disk_new(1), base = disk_new(0), room = disk_new(0);
	struct vhd_part part = {img_of(&d), -1, 0};
	struct whole w = {from, to, NULL, 0, 0};
	uint64_t least = from < to ? from : to;
	struct vhd_image *v;
	struct err err = {0};
	unsigned start, synced;
	int ok = 1;

	w.bytes = malloc(least);
	CU_ASSERT_PTR_NOT_NULL_FATAL(w.bytes);
	memset(w.bytes, 0x3c, least);
	CU_ASSERT_EQUAL_FATAL(vhd_create(img_of(&d), &c, &err), 0);
	CU_ASSERT_EQUAL_FATAL(vhd_open(&part, 1, VHD_WRITE, &v, &err), 0);
	CU_ASSERT_EQUAL(img_write(vhd_img(v), w.bytes, least, 0), 0);
	vhd_close(v);
	start = synced = d.n;
	CU_ASSERT_EQUAL(vhd_resize(&part, 1, to, 1, &err), 0);
	for (unsigned i = 0; i < start; i++)
		replay(&base, &d.rec[i]);
	for (unsigned i = start; ok && i < d.n; i++) {
		if (d.rec[i].kind == STEP_SYNC)
			for (; synced < i; synced++)
				replay(&base, &d.rec[synced]);
		ok = try_cut(&d, &base, &room, synced, i + 1, is_either, &w);
	}
	CU_ASSERT_TRUE(ok && w.seen_old && w.seen_new);
	disk_free(&d);
	disk_free(&base);
	disk_free(&room);
	free(w.bytes);
}

static void resizing(void)
{
	resize_and_cut(VHD_DYNAMIC, 2 * RIG_BLOCK, 20 * RIG_BLOCK);
	resize_and_cut(VHD_DYNAMIC, 2 * RIG_BLOCK - 1024, 2 * RIG_BLOCK);
	resize_and_cut(VHD_DYNAMIC, 20 * RIG_BLOCK, 2 * RIG_BLOCK);
	resize_and_cut(VHD_FIXED, 2 * RIG_BLOCK, 20 * RIG_BLOCK);
	resize_and_cut(VHD_FIXED, 20 * RIG_BLOCK, 2 * RIG_BLOCK);
}

static void counted(void)
{
	/* So that the loops above are known to have looked. */
	CU_ASSERT_TRUE(cuts > 10000);
	CU_ASSERT_EQUAL(recovered, cuts);
	printf("(%u states) ", cuts);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a dynamic image", dynamic},
		{"a differencing image", differencing},
		{"resizing", resizing},
		{"thousands of power cuts", counted},
	};

	return UNIT_MAIN("vhd_crash", tests);
}
