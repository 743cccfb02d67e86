/* SPDX-License-Identifier: Apache-2.0
 * test_vhd_push - a chain gets new leaves while a device writes: what was the leaf stays what it was when the
 * hold began, and nothing of what came later is lost.
 */
#include "tests/unit/vhdload.h"

#include <pthread.h>

enum { PUSHES = 6 };

static int drained;

static void on_drained(void *arg)
{
	drained = 1;
}

static const char *name_of(unsigned i)
{
	static char name[2 * VHD_CHAIN_MAX][16];

	(void)snprintf(name[i], sizeof(name[i]), "p%u.vhd", i); /* fits */
	return name[i];
}

/* An empty child of leaf @i, with its open descriptor. */
static struct vhd *child_of(struct rig_chain *c, unsigned i, int *fd_out)
{
	struct vhd_part part;
	struct vhd *child;

	rig_create(name_of(i + 1), VHD_DIFF, SIZE, i % 2 ? RIG_BLOCK : 16 << 10,
		   name_of(i));
	*fd_out = rig_file(name_of(i + 1), O_RDWR);
	part = (struct vhd_part){img_of_fd(*fd_out), *fd_out, 0};
	CU_ASSERT_EQUAL_FATAL(vhd_child_open(c->v, &part, &child, &c->err), 0);
	return child;
}

/* Writes that are submitted during the hold stay outside of the snapshot. */
static void push_under_load(struct rig_chain *c, struct rig_want *w,
			    struct rig_want *snap, unsigned i, int *fd_out)
{
	struct vhd *child = child_of(c, i, fd_out);

	for (unsigned k = 0; k < 60; k++)
		one(w, k + i);
	memcpy(snap->bytes, w->bytes, SIZE);
	drained = 0;
	vhd_blk_hold(blk, on_drained, NULL);
	for (unsigned k = 0; k < 8; k++)
		one(w, k + 100 + i);
	while (!drained)
		turn();
	CU_ASSERT_EQUAL(img_sync(c->img), 0);
	CU_ASSERT_EQUAL(rig_differs(c->img, snap), UINT64_MAX);
	CU_ASSERT_EQUAL(vhd_push(c->v, child, &c->err), 0);
	vhd_blk_release(blk);
	for (unsigned k = 0; k < 60; k++)
		one(w, k + 200 + i);
}

static void names_from(const char **names, unsigned i)
{
	unsigned n = 0;

	for (unsigned k = i + 1; k-- > 0;)
		names[n++] = name_of(k);
	names[n] = NULL;
}

/* The chain from file @i on holds @w, opened anew. */
static void expect(unsigned i, const struct rig_want *w)
{
	const char *names[PUSHES + 2];
	struct rig_chain c;

	names_from(names, i);
	/* Its time is what the program that names the files has set. */
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, names, VHD_ANY_PARENT), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, w), UINT64_MAX);
	rig_close(&c);
	CU_ASSERT_TRUE(rig_clean(name_of(i)));
}

static void under_load(enum vhd_type type)
{
	const char *base[] = {name_of(0), NULL};
	struct rig_want w = rig_want_new(SIZE), snap[PUSHES];
	struct rig_chain c;
	int fd[PUSHES];

	rig_create(base[0], type, SIZE, type == VHD_FIXED ? 0 : RIG_BLOCK, NULL);
	serve(&c, base, VHD_WRITE);
	for (unsigned i = 0; i < PUSHES; i++) {
		snap[i] = rig_want_new(SIZE);
		push_under_load(&c, &w, &snap[i], i, &fd[i]);
	}
	wait_all();
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	end(&c);
	for (unsigned i = 0; i < PUSHES; i++) {
		expect(i, &snap[i]);
		free(snap[i].bytes);
		close(fd[i]);
	}
	expect(PUSHES, &w);
	free(w.bytes);
}

static void dynamic(void)
{
	under_load(VHD_DYNAMIC);
}

static void fixed(void)
{
	under_load(VHD_FIXED);
}

/* Whoever reads by another way, as a comparison of disks does, finds each byte in its file. */
static void *reader(void *arg)
{
	struct rig_chain *c = arg;
	static uint8_t buf[RIG_BLOCK];
	uint64_t at;

	for (unsigned i = 0; i < 3000; i++) {
		CU_ASSERT_EQUAL(img_read(c->img, buf, sizeof(buf), i % 60 * RIG_BLOCK),
				0);
		memcpy(&at, buf, sizeof(at));
		if (at != i % 60 * RIG_BLOCK)
			CU_FAIL("a reader saw bytes of another place");
	}
	return NULL;
}

static void other_readers(void)
{
	const char *base[] = {name_of(0), NULL};
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;
	struct vhd *child;
	int fd[20];
	pthread_t t;

	rig_create(base[0], VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	CU_ASSERT_EQUAL_FATAL(rig_open(&c, base, VHD_WRITE), 0);
	rig_write(c.img, &w, 0, SIZE, 1);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, reader, &c), 0);
	for (unsigned i = 0; i < 20; i++) {
		rig_write(c.img, &w, i * RIG_BLOCK, RIG_BLOCK, (uint8_t)(i + 2));
		CU_ASSERT_EQUAL(img_sync(c.img), 0);
		child = child_of(&c, i, &fd[i]);
		CU_ASSERT_EQUAL(vhd_push(c.v, child, &c.err), 0);
	}
	CU_ASSERT_EQUAL(pthread_join(t, NULL), 0);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	for (unsigned i = 0; i < 20; i++)
		close(fd[i]);
	free(w.bytes);
}

static void ask_child(struct rig_chain *c, const char *name, int rc)
{
	int fd = rig_file(name, O_RDWR);
	struct vhd_part part = {img_of_fd(fd), fd, 0};
	struct vhd *child;

	c->err = (struct err){0};
	CU_ASSERT_EQUAL(vhd_child_open(c->v, &part, &child, &c->err), rc);
	vhd_child_close(child);
	close(fd);
}

static void refused(void)
{
	struct rig_want w = rig_want_new(SIZE);
	struct rig_chain c;
	struct vhd *child;
	int fd;

	rig_create("a.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	rig_create("b.vhd", VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	rig_create("child.vhd", VHD_DIFF, SIZE, RIG_BLOCK, "b.vhd");
	rig_create(name_of(0), VHD_DYNAMIC, SIZE, RIG_BLOCK, NULL);
	rig_create("large.vhd", VHD_DIFF, SIZE + 512, RIG_BLOCK, name_of(0));
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, name_of(0), 0), 0);
	rig_create("new.vhd", VHD_DIFF, SIZE, RIG_BLOCK, name_of(0));
	ask_child(&c, "new.vhd", -EROFS);
	rig_close(&c);
	CU_ASSERT_EQUAL_FATAL(rig_open1(&c, name_of(0), VHD_WRITE), 0);
	ask_child(&c, "a.vhd", -ESTALE);
	ask_child(&c, "child.vhd", -ESTALE);
	ask_child(&c, "large.vhd", -ESTALE);
	child = child_of(&c, 0, &fd);
	rig_write(c.img, &w, 0, 512, 1);
	CU_ASSERT_EQUAL(vhd_push(c.v, child, &c.err), -EBUSY);
	CU_ASSERT_EQUAL(img_sync(c.img), 0);
	CU_ASSERT_EQUAL(vhd_push(c.v, child, &c.err), 0);
	rig_write(c.img, &w, 1024, 512, 2);
	CU_ASSERT_EQUAL(rig_differs(c.img, &w), UINT64_MAX);
	rig_close(&c);
	close(fd);
	free(w.bytes);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a dynamic image under load", dynamic},
		{"a fixed image under load", fixed},
		{"other readers", other_readers},
		{"what is no child is refused", refused},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("vhd_push", tests);
	rig_remove_dir();
	return rc;
}
