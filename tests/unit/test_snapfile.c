/* SPDX-License-Identifier: Apache-2.0
 * test_snapfile - snapshots of two disks: what is refused, and which descriptions are believed.
 */
#include "tests/unit/snaprig.h"

static void refusals(void)
{
	struct snap *s = calloc(1, sizeof(*s));
	struct err err = {0};
	int fd[CONFIG_DISKS_MAX];

	fresh_disks();
	CU_ASSERT_EQUAL(make("../s"), -EINVAL);
	CU_ASSERT_EQUAL(make(".s"), -EINVAL);
	CU_ASSERT_EQUAL(make(""), -EINVAL);
	CU_ASSERT_EQUAL(make("s"), 0);
	CU_ASSERT_EQUAL(make("s"), -EEXIST);
	CU_ASSERT_EQUAL(delete ("t"), -ENOENT);
	vm.disks[1].format = CONFIG_FORMAT_RAW;
	CU_ASSERT_EQUAL(snap_prepare(&vm, s, fd, &err), -EINVAL);
	vm.disks[1].format = CONFIG_FORMAT_VHD;
	/* A clone of it would be lost. */
	CU_ASSERT_EQUAL(image_create(rig_path("clone.vhd"),
				     &(struct image_new){.format = IMAGE_VHD,
							 .type = VHD_DIFF,
							 .parent = rig_path("one@s.vhd")},
				     &err),
			0);
	CU_ASSERT_EQUAL(delete ("s"), -EBUSY);
	CU_ASSERT_EQUAL(state_of("s"), SNAP_COMPLETE);
	CU_ASSERT_EQUAL(unlink(rig_path("clone.vhd")), 0);
	CU_ASSERT_EQUAL(delete ("s"), 0);
	CU_ASSERT_TRUE(all_hold(is));
	free(s);
}

static void list_is(unsigned n)
{
	struct snap **list;
	struct err err = {0};
	unsigned got;

	CU_ASSERT_EQUAL_FATAL(snap_list(&vm, &list, &got, &err), 0);
	CU_ASSERT_EQUAL(got, n);
	snap_list_free(list, got);
}

static void put_text(const char *name, const char *text)
{
	int fd = rig_file(name, O_RDWR | O_CREAT | O_TRUNC);

	CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

/* What is no description is none, whoever put it there. */
static void damaged_descriptions(void)
{
	static const char *const bad[] = {"", "{", "[]", "{\"version\":2}",
					  "{\"version\":1,\"disks\":[]}"};

	fresh_disks();
	CU_ASSERT_EQUAL(make("s"), 0);
	list_is(1);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		put_text("one@x.json", bad[i]);
		list_is(1);
		recover();
		CU_ASSERT_EQUAL(state_of("x"), SNAP_NSTATES);
	}
}

enum { WHOLE = 8192 };

/* The description of s as one of x, with @to for @from, after which only @keep bytes are left. */
static void put_lie(const char *from, const char *to, int keep)
{
	static const char was[] = "\"name\": \"s\"", is[] = "\"name\": \"x\"";
	char text[WHOLE], out[2 * sizeof(text)];
	int fd = rig_file("one@s.json", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *at;

	close(fd);
	CU_ASSERT_FATAL(n > 0);
	text[n] = '\0';
	at = strstr(text, was);
	CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	memcpy(at, is, sizeof(is) - 1);
	at = strstr(text, from);
	CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	(void)snprintf(out, sizeof(out), "%.*s%s%.*s", (int)(at - text), text, to, keep,
		       at + strlen(from)); /* fits */
	put_text("one@x.json", out);
}

/* It is read by its own path, and names what is renamed and removed: only what a snapshot of this one could name. */
static void false_descriptions(void)
{
	static const struct {
		const char *from, *to;
		int keep;
	} lie[] = {
		{"\"name\": \"x\"", "\"name\": \"y\"", WHOLE},
		{"\"name\": \"x\"", "\"name\": \"../x\"", WHOLE},
		{"\"memory\": \"\"", "\"memory\": \"/etc/hostname\"", WHOLE},
		{"\"memory\": \"\"", "\"memory\": \"x.mem\"", WHOLE},
		{"/one.vhd", "/two.vhd", WHOLE},
		{"/b/two.vhd", "/one.vhd", WHOLE},
		{"\"disk\": 1", "\"disk\": 0", WHOLE},
		{"\"disk\": 1", "\"disk\": 8", WHOLE},
		{"\"disk\": 1", "\"disk\": -1", WHOLE},
		{"\"disk\": 1", "\"disk\": 1.0", WHOLE},
		{"\"child\": \"\"", "\"child\": \"two.vhd\"", WHOLE},
		{"\"child_time\": 0", "\"child_time\": 1", WHOLE},
		{"\"size\": ", "\"size\": -", WHOLE},
		{"\"uuid\": \"", "\"uuid\": \"0", WHOLE},
		{"\"id\": 7", "\"id\": \"7\"", WHOLE},
		{"\"state\": \"complete\"", "\"state\": \"odd\"", WHOLE},
		{"\"version\": 1", "\"version\": 2", WHOLE},
		{"\"host\": \"a\"", "\"host\": \"a23456789012345678901234567890123\"",
		 WHOLE},
		{"\"vm\": \"web\"", "\"name\": \"x\", \"vm\": \"web\"", WHOLE},
		{"\"epoch\": 5", "\"epoch\": 5", 40},
	};

	fresh_disks();
	CU_ASSERT_EQUAL(make("s"), 0);
	put_lie("\"vm\"", "\"vm\"", WHOLE);
	list_is(2);
	for (unsigned i = 0; i < sizeof(lie) / sizeof(lie[0]); i++) {
		put_lie(lie[i].from, lie[i].to, lie[i].keep);
		list_is(1);
		CU_ASSERT_EQUAL(state_of("x"), SNAP_NSTATES);
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"refusals", refusals},
		{"damaged descriptions", damaged_descriptions},
		{"false descriptions", false_descriptions},
	};
	int rc;

	rig_make_dir();
	rc = UNIT_MAIN("snapfile", tests);
	free_disks();
	rig_remove_dir();
	return rc;
}
