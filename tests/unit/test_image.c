/* SPDX-License-Identifier: Apache-2.0
 * test_image - rheactl image on real files: chains that are made, found, frozen, merged and thrown
 * back hold what they should, and what is in use, missing or changed is refused.
 */
#include "tests/unit/vhdrig.h"

#include "ctl/image_chain.h"
#include "ctl/image_ops.h"
#include "ctl/rheactl.h"

#include <sys/file.h>

enum { SIZE = 8 << 20 };

/* rheactl image with the words of @line, images of the folder as @name; its exit status. */
static int image(const char *line)
{
	static char words[16][128];
	char *argv[18] = {"image"}, copy[512], *save = NULL;
	struct rc rc = {.fd = -1, .json = 1};
	int argc = 1;

	(void)snprintf(copy, sizeof(copy), "%s", line); /* fits */
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		(void)snprintf(words[argc], sizeof(words[0]), "%s",
			       w[0] == '@' ? rig_path(w + 1) : w); /* fits */
		argv[argc] = words[argc];
		argc++;
	}
	optind = 0;
	return rheactl_image(&rc, argc, argv);
}

/* The chain as it is found from its leaf. */
struct found {
	struct image_chain chain;
	struct vhd_image *v;
	struct img img;
	struct err err;
};
static struct found found;

static int find(const char *name, int write)
{
	int rc;

	found.err = (struct err){0};
	found.v = NULL;
	rc = image_chain_open(rig_path(name), write ? IMAGE_WRITE : 0, &found.chain,
			      &found.err);
	rc = rc ? rc
		: vhd_open(found.chain.part, found.chain.n, write ? VHD_WRITE : 0,
			   &found.v, &found.err);
	if (!rc)
		found.img = vhd_img(found.v);
	return rc;
}

static void lose(void)
{
	vhd_close(found.v);
	image_chain_close(&found.chain);
}

/* Write some into the image @name, and into @w. */
static void scribble(const char *name, struct rig_want *w, unsigned seed)
{
	CU_ASSERT_EQUAL_FATAL(find(name, 1), 0);
	rig_seed = seed;
	for (unsigned i = 0; i < 20; i++) {
		uint64_t off = rig_random() % (w->size / 4096) * 4096;

		if (i % 5 == 4)
			rig_erase(found.img, w, off, 4096);
		else
			rig_write(found.img, w, off, 4096, (uint8_t)(seed + i));
	}
	CU_ASSERT_EQUAL(img_sync(found.img), 0);
	lose();
}

static int holds(const char *name, const struct rig_want *w)
{
	uint64_t at;

	if (find(name, 0)) {
		printf("\n%s\n", found.err.msg);
		lose();
		return 0;
	}
	at = vhd_capacity(found.v) == w->size ? rig_differs(found.img, w) : 0;
	lose();
	return at == UINT64_MAX;
}

static struct rig_want copy_of(const struct rig_want *w)
{
	struct rig_want c = rig_want_new(w->size);

	memcpy(c.bytes, w->bytes, w->size);
	return c;
}

static void forget(const char *name)
{
	CU_ASSERT_EQUAL(unlink(rig_path(name)), 0);
}

static void create_and_convert(void)
{
	struct rig_want w = rig_want_new(SIZE);
	struct stat st;

	CU_ASSERT_EQUAL(image("create @a.vhd --size 8M"), RC_OK);
	CU_ASSERT_EQUAL(image("create @a.vhd --size 8M"), RC_FAILED);
	CU_ASSERT_EQUAL(image("create @b.vhd"), RC_USAGE);
	CU_ASSERT_EQUAL(image("create @b --size 8M"), RC_USAGE);
	CU_ASSERT_EQUAL(image("create @b.vhd --size 8Q"), RC_USAGE);
	CU_ASSERT_EQUAL(image("create @b.vhd --size 3000G"), RC_FAILED);
	CU_ASSERT_NOT_EQUAL(access(rig_path("b.vhd"), F_OK), 0);
	scribble("a.vhd", &w, 1);
	rig_save_raw(&w, "w.raw");
	CU_ASSERT_TRUE(rig_qemu_same("a.vhd", "w.raw"));
	CU_ASSERT_EQUAL(image("check @a.vhd"), RC_OK);
	CU_ASSERT_EQUAL(image("info @a.vhd"), RC_OK);
	/* Round by all formats: each step is read by qemu, too. */
	CU_ASSERT_EQUAL(image("convert @a.vhd @a.raw"), RC_OK);
	CU_ASSERT_EQUAL(image("convert @a.raw @f.vhd --type fixed"), RC_OK);
	CU_ASSERT_TRUE(rig_qemu_same("f.vhd", "w.raw"));
	CU_ASSERT_EQUAL(image("convert @f.vhd @a.qcow2"), RC_OK);
	const char *const check[] = {"qemu-img",	  "check", "-f", "qcow2",
				     rig_path("a.qcow2"), NULL};
	CU_ASSERT_EQUAL(rig_run(check), 0);
	CU_ASSERT_EQUAL(image("convert @a.qcow2 @a.vmdk"), RC_OK);
	CU_ASSERT_EQUAL(image("convert @a.vmdk @z.vhd"), RC_OK);
	CU_ASSERT_TRUE(holds("z.vhd", &w));
	CU_ASSERT_TRUE(rig_qemu_same("z.vhd", "w.raw"));
	/* Holes stay holes. */
	CU_ASSERT_EQUAL(stat(rig_path("a.raw"), &st), 0);
	CU_ASSERT_EQUAL(st.st_size, SIZE);
	CU_ASSERT_TRUE(st.st_blocks * 512 <= 20 * 4096);
	CU_ASSERT_EQUAL(stat(rig_path("f.vhd"), &st), 0);
	CU_ASSERT_TRUE(st.st_blocks * 512 <= 24 * 4096);
	free(w.bytes);
}

static void foreign_references_are_refused(void)
{
	const char *const make[] = {"qemu-img", "create", "-f",
				    "qcow2",	"-b",	  "/etc/hostname",
				    "-F",	"raw",	  rig_path("evil.qcow2"),
				    "8M",	NULL};

	CU_ASSERT_EQUAL_FATAL(rig_run(make), 0);
	CU_ASSERT_EQUAL(image("convert @evil.qcow2 @evil.vhd"), RC_FAILED);
	CU_ASSERT_NOT_EQUAL(access(rig_path("evil.vhd"), F_OK), 0);
}

static void snapshots(void)
{
	struct rig_want one = rig_want_new(SIZE), two, three;

	CU_ASSERT_EQUAL(image("create @s.vhd --size 8M"), RC_OK);
	scribble("s.vhd", &one, 10);
	CU_ASSERT_EQUAL(image("snapshot @s.vhd @s1.vhd"), RC_OK);
	two = copy_of(&one);
	CU_ASSERT_TRUE(holds("s.vhd", &two));
	scribble("s.vhd", &two, 11);
	CU_ASSERT_TRUE(holds("s1.vhd", &one));
	CU_ASSERT_EQUAL(image("snapshot @s.vhd @s2.vhd"), RC_OK);
	three = copy_of(&two);
	scribble("s.vhd", &three, 12);
	CU_ASSERT_TRUE(holds("s.vhd", &three));
	/* A clone goes its own way. */
	CU_ASSERT_EQUAL(image("clone @s1.vhd @c.vhd"), RC_OK);
	CU_ASSERT_TRUE(holds("c.vhd", &one));
	/* What others stand on is neither resized, merged nor thrown away. */
	CU_ASSERT_EQUAL(image("resize @s1.vhd --size 16M"), RC_FAILED);
	CU_ASSERT_EQUAL(image("coalesce @s2.vhd"), RC_FAILED);
	CU_ASSERT_EQUAL(image("revert @s2.vhd"), RC_FAILED);
	CU_ASSERT_TRUE(holds("s.vhd", &three) && holds("c.vhd", &one));
	forget("c.vhd");
	/* Back to the last one, and to the one before it. */
	CU_ASSERT_EQUAL(image("revert @s.vhd"), RC_OK);
	CU_ASSERT_TRUE(holds("s.vhd", &two));
	CU_ASSERT_EQUAL(image("revert @s.vhd @c.vhd"), RC_FAILED);
	CU_ASSERT_EQUAL(image("revert @s.vhd @s1.vhd"), RC_OK);
	CU_ASSERT_TRUE(holds("s.vhd", &one));
	CU_ASSERT_EQUAL(image("convert @s.vhd @flat.vhd"), RC_OK);
	rig_save_raw(&one, "w.raw");
	CU_ASSERT_TRUE(rig_qemu_same("flat.vhd", "w.raw"));
	free(one.bytes);
	free(two.bytes);
	free(three.bytes);
}

static void merging(void)
{
	static const struct timespec old[2] = {{.tv_nsec = UTIME_OMIT},
					       {.tv_sec = 1700000000}};
	struct rig_want w = rig_want_new(SIZE), mid;

	CU_ASSERT_EQUAL(image("create @m.vhd --size 8M"), RC_OK);
	scribble("m.vhd", &w, 20);
	CU_ASSERT_EQUAL(image("snapshot @m.vhd @m1.vhd"), RC_OK);
	scribble("m.vhd", &w, 21);
	CU_ASSERT_EQUAL(image("snapshot @m.vhd @m2.vhd"), RC_OK);
	/* Of another day than its merging, and its child knows. */
	CU_ASSERT_EQUAL(utimensat(AT_FDCWD, rig_path("m2.vhd"), old, 0), 0);
	CU_ASSERT_FALSE(holds("m.vhd", &w));
	CU_ASSERT_EQUAL(image("repair @m.vhd --parent @m2.vhd"), RC_OK);
	mid = copy_of(&w);
	scribble("m.vhd", &w, 22);
	/* In the middle: its child does not notice. */
	CU_ASSERT_EQUAL(image("coalesce @m2.vhd"), RC_OK);
	CU_ASSERT_NOT_EQUAL(access(rig_path("m1.vhd"), F_OK), 0);
	CU_ASSERT_TRUE(holds("m2.vhd", &mid));
	CU_ASSERT_TRUE(holds("m.vhd", &w));
	CU_ASSERT_EQUAL(image("coalesce @m.vhd"), RC_OK);
	CU_ASSERT_NOT_EQUAL(access(rig_path("m2.vhd"), F_OK), 0);
	CU_ASSERT_TRUE(holds("m.vhd", &w));
	CU_ASSERT_EQUAL(image("coalesce @m.vhd"), RC_FAILED);
	CU_ASSERT_EQUAL(image("check @m.vhd"), RC_OK);
	rig_save_raw(&w, "w.raw");
	CU_ASSERT_TRUE(rig_qemu_same("m.vhd", "w.raw"));
	free(w.bytes);
	free(mid.bytes);
}

/* Broken off after the mark, and after half of it: only the same command goes on. */
static void merging_goes_on(void)
{
	struct rig_want w = rig_want_new(SIZE);
	struct vhd_mark mark = {.seconds = 5};

	CU_ASSERT_EQUAL(image("create @g1.vhd --size 8M"), RC_OK);
	scribble("g1.vhd", &w, 30);
	CU_ASSERT_EQUAL(image("create @g.vhd --parent @g1.vhd --size 12M"), RC_OK);
	free(w.bytes);
	w = rig_want_new(12 << 20);
	CU_ASSERT_EQUAL_FATAL(find("g.vhd", 0), 0);
	CU_ASSERT_EQUAL(img_read(found.img, w.bytes, w.size, 0), 0);
	lose();
	scribble("g.vhd", &w, 31);
	CU_ASSERT_EQUAL_FATAL(image_chain_open(rig_path("g.vhd"),
					       IMAGE_WRITE | IMAGE_WRITE_PARENT,
					       &found.chain, &found.err),
			      0);
	mark.seconds = found.chain.file[0].st.st_mtim.tv_sec;
	CU_ASSERT_EQUAL(vhd_set_mark(found.chain.part[0].io, &mark, &found.err), 0);
	CU_ASSERT_EQUAL(
		vhd_merge(found.chain.part, found.chain.n, NULL, NULL, &found.err), 0);
	image_chain_close(&found.chain);
	CU_ASSERT_EQUAL(find("g.vhd", 1), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(found.err.msg, "coalesce"));
	lose();
	CU_ASSERT_EQUAL(image("coalesce @g.vhd"), RC_OK);
	CU_ASSERT_TRUE(holds("g.vhd", &w));
	CU_ASSERT_NOT_EQUAL(access(rig_path("g1.vhd"), F_OK), 0);
	free(w.bytes);
}

static void resizing_one(const char *create)
{
	struct rig_want w = rig_want_new(SIZE), more = rig_want_new(40 << 20);

	CU_ASSERT_EQUAL(image(create), RC_OK);
	scribble("r.vhd", &w, 40);
	memcpy(more.bytes, w.bytes, SIZE);
	CU_ASSERT_EQUAL(image("resize @r.vhd --size 40M"), RC_OK);
	CU_ASSERT_TRUE(holds("r.vhd", &more));
	CU_ASSERT_EQUAL_FATAL(find("r.vhd", 1), 0);
	rig_write(found.img, &more, (40 << 20) - 4096, 4096, 1);
	lose();
	CU_ASSERT_TRUE(holds("r.vhd", &more));
	CU_ASSERT_EQUAL(image("check @r.vhd"), RC_OK);
	rig_save_raw(&more, "w.raw");
	CU_ASSERT_TRUE(rig_qemu_same("r.vhd", "w.raw"));
	CU_ASSERT_EQUAL(image("resize @r.vhd --size 8M"), RC_FAILED);
	CU_ASSERT_EQUAL(image("resize @r.vhd --size 8M --shrink"), RC_FAILED);
	CU_ASSERT_TRUE(holds("r.vhd", &more));
	CU_ASSERT_EQUAL_FATAL(find("r.vhd", 1), 0);
	rig_erase(found.img, &more, (40 << 20) - 4096, 4096);
	lose();
	CU_ASSERT_EQUAL(image("resize @r.vhd --size 8M --shrink"), RC_OK);
	CU_ASSERT_TRUE(holds("r.vhd", &w));
	rig_save_raw(&w, "w.raw");
	CU_ASSERT_TRUE(rig_qemu_same("r.vhd", "w.raw"));
	forget("r.vhd");
	free(w.bytes);
	free(more.bytes);
}

static void resizing(void)
{
	resizing_one("create @r.vhd --size 8M");
	resizing_one("create @r.vhd --size 8M --block-size 64K");
	resizing_one("create @r.vhd --size 8M --type fixed");
}

static void what_is_in_use_is_refused(void)
{
	static const char *const deeds[] = {
		"check @u.vhd",	   "repair @u.vhd",	      "resize @u.vhd --size 16M",
		"info @u.vhd",	   "clone @u.vhd @u2.vhd",    "revert @u.vhd",
		"coalesce @u.vhd", "snapshot @u.vhd @u2.vhd", "convert @u.vhd @u2.raw",
	};
	int fd;

	CU_ASSERT_EQUAL(image("create @u.vhd --size 8M"), RC_OK);
	fd = rig_file("u.vhd", O_RDWR);
	CU_ASSERT_EQUAL_FATAL(flock(fd, LOCK_EX), 0);
	for (unsigned i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++)
		CU_ASSERT_EQUAL(image(deeds[i]), RC_FAILED);
	CU_ASSERT_NOT_EQUAL(access(rig_path("u2.vhd"), F_OK), 0);
	close(fd);
	CU_ASSERT_EQUAL(image("check @u.vhd"), RC_OK);
	/* A parent that is read may be read by others, and not be written. */
	CU_ASSERT_EQUAL(image("snapshot @u.vhd @u1.vhd"), RC_OK);
	fd = rig_file("u1.vhd", O_RDONLY);
	CU_ASSERT_EQUAL_FATAL(flock(fd, LOCK_SH), 0);
	CU_ASSERT_EQUAL(image("clone @u1.vhd @u3.vhd"), RC_OK);
	forget("u3.vhd");
	CU_ASSERT_EQUAL(image("coalesce @u.vhd"), RC_FAILED);
	close(fd);
	CU_ASSERT_EQUAL(image("coalesce @u.vhd"), RC_OK);
}

static void lost_parents(void)
{
	struct rig_want w = rig_want_new(SIZE);

	CU_ASSERT_EQUAL(image("create @l1.vhd --size 8M"), RC_OK);
	scribble("l1.vhd", &w, 50);
	CU_ASSERT_EQUAL(image("clone @l1.vhd @l.vhd"), RC_OK);
	CU_ASSERT_EQUAL(rename(rig_path("l1.vhd"), rig_path("l9.vhd")), 0);
	CU_ASSERT_EQUAL(find("l.vhd", 0), -ENOENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(found.err.msg, "parent l1.vhd is missing"));
	CU_ASSERT_PTR_NULL(strchr(found.err.msg, '\n'));
	lose();
	CU_ASSERT_EQUAL(image("info @l.vhd"), RC_FAILED);
	CU_ASSERT_EQUAL(image("check @l.vhd"), RC_FAILED);
	/* Another one under its name. */
	CU_ASSERT_EQUAL(image("create @l1.vhd --size 8M"), RC_OK);
	CU_ASSERT_EQUAL(find("l.vhd", 0), -ENOENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(found.err.msg, "another image"));
	lose();
	/* A person says where it is. */
	CU_ASSERT_EQUAL(image("repair @l.vhd --parent @l9.vhd"), RC_OK);
	CU_ASSERT_TRUE(holds("l.vhd", &w));
	/* Written behind the child's back. */
	CU_ASSERT_EQUAL_FATAL(find("l9.vhd", 1), 0);
	lose();
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000}};
	CU_ASSERT_EQUAL(utimensat(AT_FDCWD, rig_path("l9.vhd"), t, 0), 0);
	CU_ASSERT_EQUAL(find("l.vhd", 0), -ESTALE);
	lose();
	CU_ASSERT_EQUAL(image("info @l.vhd"), RC_FAILED);
	free(w.bytes);
}

/* Its parent was in another folder, and was moved beside it; or both went elsewhere together. */
static void moved_parents(void)
{
	struct rig_want w = rig_want_new(SIZE);

	CU_ASSERT_EQUAL(mkdir(rig_path("dir"), 0700), 0);
	CU_ASSERT_EQUAL(mkdir(rig_path("dir/deep"), 0700), 0);
	CU_ASSERT_EQUAL(image("create @dir/deep/v1.vhd --size 8M"), RC_OK);
	scribble("dir/deep/v1.vhd", &w, 60);
	CU_ASSERT_EQUAL(image("clone @dir/deep/v1.vhd @dir/v.vhd"), RC_OK);
	scribble("dir/v.vhd", &w, 61);
	CU_ASSERT_TRUE(holds("dir/v.vhd", &w));
	CU_ASSERT_EQUAL(rename(rig_path("dir"), rig_path("dir2")), 0);
	CU_ASSERT_TRUE(holds("dir2/v.vhd", &w));
	CU_ASSERT_EQUAL(rename(rig_path("dir2/deep/v1.vhd"), rig_path("dir2/v1.vhd")), 0);
	CU_ASSERT_TRUE(holds("dir2/v.vhd", &w));
	CU_ASSERT_EQUAL(rename(rig_path("dir2/v.vhd"), rig_path("dir2/deep/v.vhd")), 0);
	CU_ASSERT_EQUAL(find("dir2/deep/v.vhd", 0), -ENOENT);
	lose();
	free(w.bytes);
}

/* Anywhere where one of the makers would look for it. */
static void what_looks_like_vhd(void)
{
	static const off_t at[] = {0, 8192 - 512, 8192 - 511, 100};
	int fd;

	for (unsigned i = 0; i < 4; i++) {
		fd = rig_file("k.img", O_RDWR | O_CREAT | O_TRUNC);
		CU_ASSERT_EQUAL(ftruncate(fd, 8192), 0);
		CU_ASSERT_EQUAL(image_looks_like_vhd(fd), 0);
		CU_ASSERT_EQUAL(pwrite(fd, "conectix", 8, at[i]), 8);
		CU_ASSERT_EQUAL(image_looks_like_vhd(fd), i < 3);
		close(fd);
	}
	CU_ASSERT_EQUAL(image("resize @k.img --size 16K"), RC_OK);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"create and convert", create_and_convert},
		{"foreign references are refused", foreign_references_are_refused},
		{"snapshots, clones, reverts", snapshots},
		{"merging", merging},
		{"merging that was broken off", merging_goes_on},
		{"resizing", resizing},
		{"what is in use is refused", what_is_in_use_is_refused},
		{"lost and changed parents", lost_parents},
		{"moved parents", moved_parents},
		{"what looks like VHD", what_looks_like_vhd},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("image", tests);
	rig_remove_dir();
	return rc;
}
