/* SPDX-License-Identifier: Apache-2.0
 * test_grant - the record comes back as it was stored, or not at all, and says why.
 */
#include "ctl/grant.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

static char dir[64];

static void make_dir(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/test_grant.XXXXXX");
	CU_ASSERT_FATAL(mkdtemp(dir) != NULL);
}

static const char *in_dir(const char *name)
{
	static char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void remove_dir(void)
{
	(void)unlink(in_dir("vm0.grant")); /* may be gone already */
	(void)unlink(in_dir("vm1.grant"));
	CU_ASSERT_EQUAL(rmdir(dir), 0); /* and nothing else was left */
}

static struct grant sample(uint64_t term)
{
	return (struct grant){.record = {.term = term,
					 .epoch = 99,
					 .alone = 1,
					 .wanted = 1,
					 .override = 1,
					 .incomplete = 1,
					 .behind = 1},
			      .owner = "a",
			      .wall_ns = 12345};
}

static void store(uint64_t term)
{
	struct grant g = sample(term);

	CU_ASSERT_EQUAL(grant_store(dir, "vm0", &g, NULL), 0);
}

static int same(const struct pair_record *a, const struct pair_record *b)
{
	return a->term == b->term && a->epoch == b->epoch && a->mine == b->mine &&
	       a->alone == b->alone && a->bye == b->bye && a->wanted == b->wanted &&
	       a->override == b->override && a->incomplete == b->incomplete &&
	       a->behind == b->behind && a->saved == b->saved;
}

static void test_round_trip(void)
{
	struct grant g = sample(7), got;
	struct err err = {0};

	make_dir();
	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, &err), -ENOENT);
	CU_ASSERT_EQUAL(err.code, 0);
	CU_ASSERT_EQUAL(grant_store(dir, "vm0", &g, &err), 0);
	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, &err), 0);
	g.record.mine = 1;
	CU_ASSERT(same(&got.record, &g.record));
	CU_ASSERT_STRING_EQUAL(got.owner, "a");
	CU_ASSERT_EQUAL(got.wall_ns, 12345);
	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "b", &got, &err), 0);
	CU_ASSERT_EQUAL(got.record.mine, 0);
	CU_ASSERT_EQUAL(grant_load(dir, "vm1", "a", &got, &err), -ENOENT);
	g.record =
		(struct pair_record){.term = UINT64_MAX, .epoch = UINT64_MAX, .bye = 1};
	CU_ASSERT_EQUAL(grant_store(dir, "vm0", &g, &err), 0);
	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "b", &got, &err), 0);
	CU_ASSERT(same(&got.record, &g.record));
	remove_dir();
}

static void expect_damaged(const char *what)
{
	struct err err = {0};
	struct grant got;

	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, &err), -EBADMSG);
	CU_ASSERT_EQUAL(err.code, -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, in_dir("vm0.grant")));
	if (!strstr(err.msg, what))
		printf("\n%s\n", err.msg);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, what));
}

static void read_bytes(uint8_t *p, size_t len)
{
	int fd = open(in_dir("vm0.grant"), O_RDONLY);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(read(fd, p, len), (ssize_t)len);
	close(fd);
}

static void write_bytes(const uint8_t *p, size_t len)
{
	int fd = open(in_dir("vm0.grant"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(write(fd, p, len), (ssize_t)len);
	close(fd);
}

/* Version 1 knew all but the last flag: read, and nothing is taken for incomplete. */
static void test_version_1(void)
{
	static const struct pair_record want = {
		.term = 7, .epoch = 99, .mine = 1, .alone = 1, .bye = 1, .wanted = 1};
	uint8_t old[120] = "RHEAGRNT";
	uint64_t sum;
	struct grant got;

	make_dir();
	for (uint32_t flags = 7; flags < 64; flags += 16) {
		old[8] = 1;
		old[12] = sizeof(old);
		old[16] = 7;
		old[24] = 99;
		old[40] = (uint8_t)flags;
		memcpy(old + 48, "vm0", sizeof("vm0"));
		memcpy(old + 80, "a", sizeof("a"));
		sum = htole64(XXH3_64bits(old, 112));
		memcpy(old + 112, &sum, sizeof(sum));
		write_bytes(old, sizeof(old));
		if (flags > 15) {
			expect_damaged("holds impossible values");
			continue;
		}
		CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, NULL), 0);
		CU_ASSERT(same(&got.record, &want));
	}
	for (unsigned version = 0; version < 256; version++) {
		old[8] = (uint8_t)version;
		old[40] = 7;
		sum = htole64(XXH3_64bits(old, 112));
		memcpy(old + 112, &sum, sizeof(sum));
		write_bytes(old, sizeof(old));
		CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, NULL),
				version >= 1 && version <= 4 ? 0 : -EBADMSG);
	}
	remove_dir();
}

/* Every single flipped bit and every other length is found out. */
static void test_damage(void)
{
	uint8_t good[120], bad[121];
	struct grant got;

	make_dir();
	store(3);
	read_bytes(good, sizeof(good));
	for (unsigned bit = 0; bit < 8 * sizeof(good); bit++) {
		memcpy(bad, good, sizeof(good));
		bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
		write_bytes(bad, sizeof(good));
		CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, NULL), -EBADMSG);
	}
	memcpy(bad, good, sizeof(good));
	bad[16] ^= 1;
	write_bytes(bad, sizeof(good));
	expect_damaged("is damaged (checksum)");
	for (size_t len = 0; len < sizeof(good); len++) {
		write_bytes(good, len);
		expect_damaged("has the wrong size");
	}
	bad[16] ^= 1;
	bad[120] = 0;
	write_bytes(bad, sizeof(bad));
	expect_damaged("has the wrong size");
	bad[0] = 'X';
	write_bytes(bad, sizeof(good));
	expect_damaged("is no record of Rhea's");
	remove_dir();
}

static void test_other_vm(void)
{
	char from[128];

	make_dir();
	store(3);
	(void)snprintf(from, sizeof(from), "%s/vm1.grant", dir);
	CU_ASSERT_EQUAL(rename(in_dir("vm0.grant"), from), 0);
	{
		struct err err = {0};
		struct grant got;

		CU_ASSERT_EQUAL(grant_load(dir, "vm1", "a", &got, &err), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "belongs to another VM"));
	}
	remove_dir();
}

static void test_bad_names(void)
{
	struct grant g = sample(1);
	struct err err = {0};

	make_dir();
	CU_ASSERT_EQUAL(grant_store(dir, "../x", &g, &err), -ENAMETOOLONG);
	CU_ASSERT_EQUAL(grant_store(dir, "", &g, &err), -ENAMETOOLONG);
	CU_ASSERT_EQUAL(
		grant_store(dir, "0123456789012345678901234567890123456789", &g, &err),
		-ENAMETOOLONG);
	CU_ASSERT_EQUAL(grant_load(dir, "a/b", "a", &g, &err), -ENAMETOOLONG);
	remove_dir();
	CU_ASSERT_EQUAL(grant_store(dir, "vm0", &g, &err), -ENOENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "cannot store term 1 durably"));
}

static void test_prepare(void)
{
	struct err err = {0};
	struct stat st;
	struct grant got;

	make_dir();
	CU_ASSERT_EQUAL(rmdir(dir), 0);
	CU_ASSERT_EQUAL(grant_dir_prepare(dir, &err), 0);
	CU_ASSERT_EQUAL(stat(dir, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 0777, 0700);
	store(4);
	CU_ASSERT_EQUAL(symlink("nowhere", in_dir("vm0.grant.new")), 0);
	CU_ASSERT_EQUAL(grant_dir_prepare(dir, &err), 0);
	CU_ASSERT_EQUAL(lstat(in_dir("vm0.grant.new"), &st), -1);
	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, &err), 0);
	CU_ASSERT_EQUAL(grant_dir_prepare("/nonexistent/x", &err), -ENOENT);
	remove_dir();
}

/* Killed at any moment: the old record or the new one, never anything else. */
static void test_killed(void)
{
	uint64_t last = 0;
	struct grant got;

	make_dir();
	store(1);
	for (int i = 0; i < 100; i++) {
		int pipes[2];
		char ready;
		pid_t pid;

		CU_ASSERT_FATAL(pipe(pipes) == 0);
		pid = fork();
		CU_ASSERT_FATAL(pid >= 0);
		if (!pid) {
			for (uint64_t t = last + 1;; t++) {
				struct grant g = sample(t);

				if (grant_store(dir, "vm0", &g, NULL) ||
				    write(pipes[1], "x", 1) < 0)
					_exit(1);
			}
		}
		close(pipes[1]);
		CU_ASSERT_EQUAL(read(pipes[0], &ready, 1), 1);
		for (volatile int spin = 0; spin < i * 3000; spin++)
			; /* another moment each time */
		CU_ASSERT_EQUAL(kill(pid, SIGKILL), 0);
		CU_ASSERT_EQUAL(waitpid(pid, NULL, 0), pid);
		close(pipes[0]);
		CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, NULL), 0);
		CU_ASSERT(got.record.term > last);
		last = got.record.term;
	}
	CU_ASSERT_EQUAL(grant_dir_prepare(dir, NULL), 0);
	remove_dir();
}

/* What cannot be written is an error, and the old record is still there. */
static void test_store_fails(void)
{
	struct grant g = sample(9), got;
	struct err err = {0};

	make_dir();
	store(8);
	CU_ASSERT_EQUAL(mkdir(in_dir("vm0.grant.new"), 0700),
			0); /* in the way: cannot be written */
	CU_ASSERT(grant_store(dir, "vm0", &g, &err) < 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "cannot store term 9 durably"));
	CU_ASSERT_EQUAL(grant_load(dir, "vm0", "a", &got, NULL), 0);
	CU_ASSERT_EQUAL(got.record.term, 8);
	CU_ASSERT_EQUAL(rmdir(in_dir("vm0.grant.new")), 0);
	remove_dir();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"round trip", test_round_trip},
		{"version 1", test_version_1},
		{"damage", test_damage},
		{"another VM's", test_other_vm},
		{"bad names", test_bad_names},
		{"the directory", test_prepare},
		{"killed at any moment", test_killed},
		{"a store that fails", test_store_fails},
	};
	return UNIT_MAIN("grant", tests);
}
