/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_pull - a file leaves a chain that a device writes: nothing changes for who reads, before or after a power cut at
 * any moment.
 */
#include "tests/unit/vhdcuts.h"
#include "tests/unit/vhdload.h"

#include <pthread.h>
#include <stdatomic.h>

/* Files of a chain, the leaf first. */
static const char *const chain3[] = {"l.vhd", "s.vhd", "g.vhd", NULL};
static const char *const chain2[] = {"l.vhd", "s.vhd", NULL};

/* Each has some of the disk, in part over its parents. */
static void fill(const char *const names[], struct rig_want *w, uint64_t at)
{
	struct rig_chain c;

	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, VHD_WRITE | VHD_ANY_PARENT), 0);
	for (uint64_t off = at; off + RIG_BLOCK / 2 < w->size; off += 5 * RIG_BLOCK) {
		rig_write(c.img, w, off, RIG_BLOCK / 2, (uint8_t)(1 + at / 512));
		rig_write(c.img, w, off + RIG_BLOCK - 512, 1024, (uint8_t)(1 + at / 512));
	}
	rig_erase(c.img, w, (at / RIG_BLOCK + 7) * RIG_BLOCK, 2 * RIG_BLOCK);
	rig_close(&c);
}

static void make3(struct rig_want *w, enum vhd_type base)
{
	rig_create("g.vhd", base, SIZE, base == VHD_FIXED ? 0 : RIG_BLOCK, NULL);
	fill(chain3 + 2, w, 0);
	rig_create("s.vhd", VHD_DIFF, SIZE, 16 << 10, "g.vhd");
	fill(chain3 + 1, w, 2 * RIG_BLOCK + 1024);
	rig_create("l.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "s.vhd");
	fill(chain3, w, 3 * RIG_BLOCK + 512);
}

static void make2(struct rig_want *w, enum vhd_type base)
{
	rig_create("s.vhd", base, SIZE, base == VHD_FIXED ? 0 : RIG_BLOCK, NULL);
	fill(chain2 + 1, w, 1024);
	rig_create("l.vhd", VHD_DIFF, SIZE, 16 << 10, "s.vhd");
	fill(chain2, w, 3 * RIG_BLOCK + 512);
}

/* What vhd_reparent() is to be told of @parent. */
static struct vhd_create parent_is(const char *parent, uint8_t *uuid)
{
	int fd = rig_file(parent, O_RDONLY);
	struct vhd_info info;
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(vhd_probe(img_of_fd(fd), &info, &err), 0);
	close(fd);
	memcpy(uuid, info.uuid, VHD_UUID_LEN);
	return (struct vhd_create){.parent_uuid = uuid,
				   .parent_mtime = 1,
				   .parent_path = rig_path(parent),
				   .parent_relative = parent};
}

static atomic_int over;

struct pulled {
	struct rig_chain *c;
	const char *grand; /* NULL: there is none */
};

/* Who may wait: requests go on meanwhile on their own thread. */
static void *puller(void *arg)
{
	const struct pulled *p = arg;
	uint8_t uuid[VHD_UUID_LEN];
	struct vhd_create g;
	struct err err = {0};
	int fd = -1;

	if (p->grand)
		g = parent_is(p->grand, uuid);
	CU_ASSERT_EQUAL(vhd_pull(p->c->v, NULL, NULL, &err), 0);
	CU_ASSERT_EQUAL(vhd_reparent(p->c->v, p->grand ? &g : NULL, &err), 0);
	CU_ASSERT_EQUAL(vhd_drop(p->c->v, &fd, &err), 0);
	CU_ASSERT_EQUAL(fd, p->c->part[1].fd);
	CU_ASSERT_EQUAL(unlink(rig_path("s.vhd")), 0);
	atomic_store(&over, 1);
	return NULL;
}

static void pull_under_load(struct rig_chain *c, struct rig_want *w, const char *grand)
{
	struct pulled p = {c, grand};
	unsigned i = 0;
	pthread_t t;

	atomic_store(&over, 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, puller, &p), 0);
	while (!atomic_load(&over) || i < 400) {
		one(w, i++);
		/* It may wait for what is under way. */
		if (i % 50 == 0)
			wait_all();
	}
	CU_ASSERT_EQUAL(pthread_join(t, NULL), 0);
}

static void expect(const char *const names[], const struct rig_want *w)
{
	struct rig_chain c;

	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, VHD_ANY_PARENT), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, w), UINT64_MAX);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean(names[0]));
}

static void middle_of_three(void)
{
	static const char *const left[] = {"l.vhd", "g.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;

	for (unsigned k = 0; k < 2; k++) {
		memset(w.bytes, 0, SIZE);
		make3(&w, k ? VHD_FIXED : VHD_DYNAMIC);
		serve(&c, chain3, VHD_WRITE | VHD_ANY_PARENT);
		pull_under_load(&c, &w, "g.vhd");
		for (unsigned i = 0; i < 200; i++)
			one(&w, i);
		wait_all();
		CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
		end(&c);
		expect(left, &w);
	}
	free(w.bytes);
}

static void the_base(void)
{
	static const char *const left[] = {"l.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct vhd_info info;
	struct rig_chain c;

	for (unsigned k = 0; k < 2; k++) {
		memset(w.bytes, 0, SIZE);
		make2(&w, k ? VHD_FIXED : VHD_DYNAMIC);
		serve(&c, chain2, VHD_WRITE | VHD_ANY_PARENT);
		pull_under_load(&c, &w, NULL);
		for (unsigned i = 0; i < 200; i++)
			one(&w, i);
		wait_all();
		vhd_info(c.v, &info);
		CU_ASSERT_EQUAL(info.type, VHD_DYNAMIC);
		CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
		end(&c);
		expect(left, &w);
		rig_save_raw(&w, "l.raw");
		CU_ASSERT_TRUE(rig_qemu_same("l.vhd", "l.raw"));
	}
	free(w.bytes);
}

/* A file below the leaf is freed of its parent on a chain of its own, and then changes places. */
static void below_the_leaf(void)
{
	static const char *const left[] = {"l.vhd", "s.vhd", NULL};
	static const char *const low[] = {"s.vhd", "g.vhd", NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c, apart;
	struct err err = {0};
	int fd[2];

	make3(&w, VHD_DYNAMIC);
	serve(&c, chain3, VHD_WRITE | VHD_ANY_PARENT);
	CU_ASSERT_EQUAL_FATAL(rig_open(&apart, low, VHD_WRITE | VHD_ANY_PARENT), 0);
	for (unsigned i = 0; i < 100; i++)
		one(&w, i);
	wait_all();
	CU_ASSERT_EQUAL(vhd_pull(apart.v, NULL, NULL, &err), 0);
	CU_ASSERT_EQUAL(vhd_reparent(apart.v, NULL, &err), 0);
	CU_ASSERT_EQUAL(vhd_replace(c.v, 1, apart.v, fd, &err), 0);
	apart.v = NULL;
	CU_ASSERT_EQUAL(fd[0], c.part[1].fd);
	CU_ASSERT_EQUAL(fd[1], c.part[2].fd);
	for (unsigned i = 0; i < 100; i++)
		one(&w, i);
	wait_all();
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	end(&c);
	rig_close(&apart);
	CU_ASSERT_EQUAL(unlink(rig_path("g.vhd")), 0);
	expect(left, &w);
	free(w.bytes);
}

/* -- the guest writes what is being pulled -- */

static struct gate {
	pthread_mutex_t lock;
	pthread_cond_t news;
	int armed, reading, written;
	struct img below;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER};

/* What was read of the parent is old when this returns: if the writer can be through meanwhile, he is. */
static int gated_read(void *self, void *p, uint64_t len, uint64_t off)
{
	int rc = img_read(gate.below, p, len, off);
	struct timespec t;

	pthread_mutex_lock(&gate.lock);
	if (gate.armed && len >= RIG_BLOCK / 4) {
		gate.armed = 0;
		gate.reading = 1;
		pthread_cond_broadcast(&gate.news);
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_sec++;
		while (!gate.written &&
		       pthread_cond_timedwait(&gate.news, &gate.lock, &t) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&gate.lock);
	return rc;
}

static int gated_size(void *self, uint64_t *bytes_out)
{
	return img_size(gate.below, bytes_out);
}

static const struct img_ops gated_ops = {
	.name = "gated", .read = gated_read, .size = gated_size};

static void *writer(void *arg)
{
	struct rig_chain *c = arg;
	static uint8_t fresh[RIG_BLOCK / 2];

	memset(fresh, 0xee, sizeof(fresh));
	pthread_mutex_lock(&gate.lock);
	while (!gate.reading)
		pthread_cond_wait(&gate.news, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	CU_ASSERT_EQUAL(img_write(c->img, fresh, sizeof(fresh), 0), 0);
	pthread_mutex_lock(&gate.lock);
	gate.written = 1;
	pthread_cond_broadcast(&gate.news);
	pthread_mutex_unlock(&gate.lock);
	return NULL;
}

static void what_is_newer_stays(void)
{
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;
	pthread_t t;

	rig_create("s.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "s.vhd", VHD_WRITE), 0);
	rig_write(c.img, &w, 0, RIG_BLOCK, 1);
	rig_close(&c);
	rig_create("l.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "s.vhd");
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, chain2, VHD_WRITE), 0);
	vhd_close(c.v);
	gate.below = c.part[1].io;
	c.part[1].io.ops = &gated_ops;
	CU_ASSERT_EQUAL_FATAL(vhd_open(c.part, 2, VHD_WRITE, &c.v, &c.err), 0);
	c.img = vhd_img(c.v);
	gate.armed = 1;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, writer, &c), 0);
	CU_ASSERT_EQUAL(vhd_pull(c.v, NULL, NULL, &c.err), 0);
	CU_ASSERT_EQUAL(pthread_join(t, NULL), 0);
	CU_ASSERT_TRUE(gate.reading);
	memset(w.bytes, 0xee, RIG_BLOCK / 2);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	free(w.bytes);
}

static unsigned told;

static int stop_at_third(void *arg, uint64_t bytes, uint64_t done, uint64_t all)
{
	return ++told == 3 ? -ECANCELED : 0;
}

static void broken_off(void)
{
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;
	int fd;

	make2(&w, VHD_DYNAMIC);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, chain2, VHD_WRITE | VHD_ANY_PARENT), 0);
	told = 0;
	CU_ASSERT_EQUAL(vhd_pull(c.v, stop_at_third, NULL, &c.err), -ECANCELED);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_write(c.img, &w, 0, RIG_BLOCK, 3);
	rig_close(&c);
	expect(chain2, &w);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, "s.vhd", VHD_WRITE), 0);
	CU_ASSERT_EQUAL(vhd_pull(c.v, NULL, NULL, &c.err), -EINVAL);
	CU_ASSERT_EQUAL(vhd_drop(c.v, &fd, &c.err), -EINVAL);
	rig_close(&c);
	free(w.bytes);
}

/* -- power cuts -- */

static struct cut_rig {
	struct disk leaf, parent, grand;
	uint8_t *bytes; /* what the disk reads as */
	unsigned old, new;
} cut;

enum { CUT_SIZE = 12 * RIG_BLOCK };

static int is_whole(struct disk *d, void *arg)
{
	struct vhd_part part[3] = {{img_of(d), -1, 0},
				   {img_of(&cut.parent), -1, 0},
				   {img_of(&cut.grand), -1, 0}};
	uint8_t *got = malloc(CUT_SIZE);
	struct vhd_info info, parent;
	struct vhd_image *v = NULL;
	struct err err = {0};
	unsigned n = 3;
	int ok;

	CU_ASSERT_PTR_NOT_NULL_FATAL(got);
	CU_ASSERT_EQUAL_FATAL(vhd_probe(img_of(&cut.parent), &parent, &err), 0);
	ok = !vhd_probe(img_of(d), &info, &err);
	/* Who is without the one that leaves must not need it. */
	if (ok && info.type == VHD_DYNAMIC) {
		n = 1;
	} else if (ok && memcmp(info.parent_uuid, parent.uuid, VHD_UUID_LEN) != 0) {
		part[1] = part[2];
		n = 2;
	} else if (!cut.grand.size) {
		n = 2;
	}
	if (ok && info.type == VHD_DIFF && n == 2 && !cut.grand.size)
		cut.old++;
	else if (n == 3)
		cut.old++;
	else
		cut.new ++;
	ok = ok && !vhd_open(part, n, VHD_WRITE | VHD_ANY_PARENT, &v, &err) &&
	     !img_read(vhd_img(v), got, CUT_SIZE, 0) && !memcmp(got, cut.bytes, CUT_SIZE);
	if (!ok)
		printf("\n%u files: %s\n", n, err.msg);
	vhd_close(v);
	free(got);
	return ok;
}

static void create_on(struct disk *d, enum vhd_type type, const struct disk *parent)
{
	struct vhd_create c = {.type = type, .size = CUT_SIZE, .block_size = RIG_BLOCK};
	struct vhd_info info;
	struct err err = {0};

	if (parent) {
		CU_ASSERT_EQUAL_FATAL(
			vhd_probe(img_of((struct disk *)parent), &info, &err), 0);
		c.parent_uuid = info.uuid;
		c.parent_path = "/x/parent.vhd";
		c.parent_relative = "parent.vhd";
	}
	CU_ASSERT_EQUAL_FATAL(vhd_create(img_of(d), &c, &err), 0);
}

static void write_on(const struct vhd_part *part, unsigned n, unsigned first, int fill)
{
	struct vhd_image *v;
	struct err err = {0};
	uint8_t *buf = malloc(RIG_BLOCK);

	CU_ASSERT_PTR_NOT_NULL_FATAL(buf);
	CU_ASSERT_EQUAL_FATAL(vhd_open(part, n, VHD_WRITE, &v, &err), 0);
	memset(buf, fill, RIG_BLOCK);
	for (unsigned b = first; b < 12; b += 3)
		CU_ASSERT_EQUAL(img_write(vhd_img(v), buf, RIG_BLOCK - 1024,
					  (uint64_t)b * RIG_BLOCK + 512),
				0);
	CU_ASSERT_EQUAL(img_read(vhd_img(v), cut.bytes, CUT_SIZE, 0), 0);
	vhd_close(v);
	free(buf);
}

static void pull_and_cut(int with_grand)
{
	struct disk base = disk_new(0), room = disk_new(0);
	struct vhd_part part[3];
	struct vhd_create c = {.parent_path = "/x/g.vhd", .parent_relative = "g.vhd"};
	struct vhd_info info;
	struct vhd_image *v;
	struct err err = {0};
	unsigned start, synced;
	int ok = 1;

	cut = (struct cut_rig){disk_new(1),	 disk_new(0), disk_new(0),
			       malloc(CUT_SIZE), 0,	      0};
	CU_ASSERT_PTR_NOT_NULL_FATAL(cut.bytes);
	part[0] = (struct vhd_part){img_of(&cut.leaf), -1, 0};
	part[1] = (struct vhd_part){img_of(&cut.parent), -1, 0};
	part[2] = (struct vhd_part){img_of(&cut.grand), -1, 0};
	if (with_grand) {
		create_on(&cut.grand, VHD_DYNAMIC, NULL);
		write_on(part + 2, 1, 0, 1);
	}
	create_on(&cut.parent, with_grand ? VHD_DIFF : VHD_DYNAMIC,
		  with_grand ? &cut.grand : NULL);
	write_on(part + 1, with_grand ? 2 : 1, 1, 2);
	create_on(&cut.leaf, VHD_DIFF, &cut.parent);
	write_on(part, with_grand ? 3 : 2, 2, 3);
	start = synced = cut.leaf.n;
	if (with_grand) {
		CU_ASSERT_EQUAL_FATAL(vhd_probe(img_of(&cut.grand), &info, &err), 0);
		c.parent_uuid = info.uuid;
	}
	CU_ASSERT_EQUAL_FATAL(vhd_open(part, with_grand ? 3 : 2, VHD_WRITE, &v, &err), 0);
	CU_ASSERT_EQUAL(vhd_pull(v, NULL, NULL, &err), 0);
	CU_ASSERT_EQUAL(vhd_reparent(v, with_grand ? &c : NULL, &err), 0);
	vhd_close(v);
	for (unsigned i = 0; i < start; i++)
		replay(&base, &cut.leaf.rec[i]);
	for (unsigned i = start; ok && i < cut.leaf.n; i++) {
		if (cut.leaf.rec[i].kind == STEP_SYNC)
			for (; synced < i; synced++)
				replay(&base, &cut.leaf.rec[synced]);
		ok = try_cut(&cut.leaf, &base, &room, synced, i + 1, is_whole, NULL);
	}
	CU_ASSERT_TRUE(ok && cut.old && cut.new);
	printf("(%u before, %u after) ", cut.old, cut.new);
	disk_free(&cut.leaf);
	disk_free(&cut.parent);
	disk_free(&cut.grand);
	disk_free(&base);
	disk_free(&room);
	free(cut.bytes);
}

static void power_cuts(void)
{
	pull_and_cut(1);
	pull_and_cut(0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"the middle of three", middle_of_three},
		{"the base", the_base},
		{"below the leaf", below_the_leaf},
		{"what is newer stays", what_is_newer_stays},
		{"broken off", broken_off},
		{"power cuts", power_cuts},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd_pull", tests);
	rig_remove_dir();
	return rc;
}
