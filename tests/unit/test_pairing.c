/* SPDX-License-Identifier: Apache-2.0
 * test_pairing - rheactl pair's exchange between two hosts, over a wire that may be cut anywhere,
 * may change bytes, or has a stranger at its other end.
 */
#include "ctl/pairing.h"
#include "hv/base/err.h"
#include "tests/unit/pairingrig.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

static const struct pairing_ask add = {0}, replace = {.replace = 1}, check = {.check = 1},
				copy = {.copy_config = 1};

static void test_fresh(void)
{
	struct rig g;
	struct stat st;

	rig_init(&g);
	CU_ASSERT_EQUAL(rig_run(&g, &add), 0);
	CU_ASSERT_EQUAL(g.served, 0);
	CU_ASSERT_EQUAL(g.report.did, PAIRING_MADE);
	CU_ASSERT_EQUAL(g.report.same_key, 1);
	CU_ASSERT(rig_same(&g));
	CU_ASSERT_EQUAL(strlen(g.h[0].key), 65);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(stat(g.h[i].key_path, &st), 0);
		CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
		CU_ASSERT_EQUAL(st.st_size, 65);
	}
	CU_ASSERT_EQUAL(rig_litter(&g), 0);
	/* And once more: there is nothing to do. */
	rig_remember(&g);
	CU_ASSERT_EQUAL(rig_run(&g, &add), 0);
	CU_ASSERT_EQUAL(g.report.did, PAIRING_KEPT);
	CU_ASSERT(rig_unchanged(&g));
	rig_fini(&g);
}

static void test_existing(void)
{
	struct rig g;

	rig_init(&g);
	rig_key(&g, 0, KEY_A);
	CU_ASSERT_EQUAL(rig_run(&g, &add), 0);
	CU_ASSERT_EQUAL(g.report.did, PAIRING_SHARED);
	CU_ASSERT_STRING_EQUAL(g.h[1].key, KEY_A);
	CU_ASSERT_STRING_EQUAL(g.h[0].key, KEY_A);

	rig_key(&g, 1, KEY_B);
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EKEYREJECTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(g.err.msg, "another key"));
	CU_ASSERT(rig_unchanged(&g));

	CU_ASSERT_EQUAL(rig_run(&g, &replace), 0);
	CU_ASSERT_EQUAL(g.report.did, PAIRING_MADE);
	CU_ASSERT(rig_same(&g));
	CU_ASSERT_STRING_NOT_EQUAL(g.h[0].key, KEY_A);
	CU_ASSERT_STRING_NOT_EQUAL(g.h[0].key, KEY_B);

	CU_ASSERT_EQUAL(unlink(g.h[0].key_path), 0);
	rig_remember(&g);
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EEXIST);
	CU_ASSERT(rig_unchanged(&g));

	rig_key(&g, 0, KEY_A);
	rig_key(&g, 1, "no key\n");
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EEXIST);
	CU_ASSERT(rig_unchanged(&g));
	CU_ASSERT_EQUAL(rig_run(&g, &replace), 0);
	CU_ASSERT(rig_same(&g));
	CU_ASSERT_EQUAL(rig_litter(&g), 0);
	rig_fini(&g);
}

/* A key in the config itself is proved like any other, and never replaced. */
static void test_inline(void)
{
	struct rig g;

	rig_init(&g);
	rig_config(&g, 0, "key = \"" KEY_A_HEX "\"", "");
	rig_key(&g, 1, KEY_A);
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.report.same_key, 1);
	rig_key(&g, 1, KEY_B);
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.report.same_key, 0);
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EINVAL);
	CU_ASSERT_EQUAL(rig_run(&g, &replace), -EINVAL);
	CU_ASSERT(rig_unchanged(&g));
	rig_fini(&g);
}

static void test_check(void)
{
	struct rig g;

	rig_init(&g);
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.report.same_key, -1);
	CU_ASSERT_EQUAL(g.report.same_config, 1);
	CU_ASSERT_EQUAL(g.report.same_version, 1);
	/* One path by TCP, one for heartbeats. */
	CU_ASSERT_EQUAL(g.report.n_ways, 2);
	for (unsigned i = 0; i < g.report.n_ways; i++) {
		CU_ASSERT_EQUAL(g.report.way[i].out, 1);
		CU_ASSERT_EQUAL(g.report.way[i].in, 1);
	}
	CU_ASSERT_STRING_EQUAL(g.report.way[0].name, "path 0 (tcp)");
	CU_ASSERT_STRING_EQUAL(g.report.way[1].name, "heartbeat 0");
	rig_key(&g, 0, KEY_A);
	rig_key(&g, 1, KEY_A);
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.served, 0);
	CU_ASSERT_EQUAL(g.report.same_key, 1);
	CU_ASSERT(rig_unchanged(&g));
	rig_fini(&g);
}

static int hold_port(const char *addr, unsigned port, int type)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, type, 0);

	CU_ASSERT_EQUAL_FATAL(inet_pton(AF_INET, addr, &sa.sin_addr), 1);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* Each way for itself: an address that host b does not have, and a port for heartbeats that another
 * program has there. */
static void test_ways(void)
{
	char more[400];
	struct rig g;
	int fd;

	rig_init(&g);
	(void)snprintf(
		more, sizeof(more),
		"paths = ( { transport = \"tcp\"; address = { a = \"127.0.0.1:%u\"; "
		"b = \"127.0.0.2:%u\"; }; }, { transport = \"tcp\"; address = { a = "
		"\"127.0.0.1:%u\"; b = \"192.0.2.1:%u\"; }; } );\n",
		g.port, g.port, g.port, g.port); /* fits */
	rig_config(&g, 0, NULL, more);
	rig_config(&g, 1, NULL, more);
	fd = hold_port("127.0.0.2", g.port + 1, SOCK_DGRAM);
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.report.n_ways, 3);
	CU_ASSERT_EQUAL(g.report.way[0].out, 1);
	CU_ASSERT_EQUAL(g.report.way[0].in, 1);
	CU_ASSERT_EQUAL(g.report.way[1].out, 0);
	CU_ASSERT_EQUAL(g.report.way[1].in, 0);
	CU_ASSERT_STRING_NOT_EQUAL(g.report.way[1].why[0], "");
	CU_ASSERT_STRING_NOT_EQUAL(g.report.way[1].why[1], "");
	/* Ours was free, and nothing came; whether ours came there nobody can say. */
	CU_ASSERT_EQUAL(g.report.way[2].out, -1);
	CU_ASSERT_EQUAL(g.report.way[2].in, 0);
	CU_ASSERT_EQUAL(close(fd), 0);
	rig_fini(&g);
}

static void test_config(void)
{
	struct rig g;
	char was[4096];

	rig_init(&g);
	rig_config(&g, 1, NULL, "heartbeat = { interval_ms = 50; };\n");
	memcpy(was, g.h[1].config, sizeof(was));
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.report.same_config, 0);
	CU_ASSERT_STRING_EQUAL(g.report.where, "heartbeat.interval_ms");
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(g.err.msg, "differs in heartbeat.interval_ms"));
	CU_ASSERT(rig_unchanged(&g));
	/* With its config goes the path of the key, so here both hosts then have one file: each
	 * finds the other at work on it. */
	rig_config(&g, 0, g.shared_key, "");
	CU_ASSERT_EQUAL(rig_run(&g, &copy), -EREMOTEIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(g.err.msg, "another rheactl pair is at work"));
	CU_ASSERT_STRING_EQUAL(g.h[1].config, was);
	rig_key(&g, 1, KEY_A);
	CU_ASSERT_EQUAL(rig_run(&g, &copy), 0);
	CU_ASSERT_EQUAL(g.report.config_copied, 1);
	CU_ASSERT_EQUAL(g.report.did, PAIRING_KEPT);
	CU_ASSERT_STRING_EQUAL(g.h[0].config, g.h[1].config);
	CU_ASSERT_STRING_NOT_EQUAL(g.h[1].config, was);
	CU_ASSERT_EQUAL(rig_litter(&g), 0);
	/* None at all, and one that cannot be read. */
	CU_ASSERT_EQUAL(unlink(g.h[1].config_path), 0);
	CU_ASSERT_EQUAL(rig_run(&g, &check), 0);
	CU_ASSERT_EQUAL(g.report.peer.has_config, 0);
	CU_ASSERT_EQUAL(rig_run(&g, &add), -ENOENT);
	CU_ASSERT_EQUAL(rig_run(&g, &copy), 0);
	CU_ASSERT_STRING_EQUAL(g.h[0].config, g.h[1].config);
	rig_fini(&g);
}

static void test_names(void)
{
	struct rig g;

	rig_init(&g);
	g.h[1].place.host = "a";
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(g.err.msg, "name the other host"));
	g.h[1].place.host = "stranger";
	CU_ASSERT(rig_run(&g, &add) < 0);
	CU_ASSERT_EQUAL(g.h[0].key[0] | g.h[1].key[0], 0);
	rig_fini(&g);
}

/* Whatever arrived before the cut: both old, or both new, or this host's new one and the word that
 * the other's is not known. The same command again always mends it. */
static void cut_once(struct rig *g, const struct pairing_ask *ask, int way, size_t at)
{
	int rc;

	if (ask->replace) {
		rig_key(g, 0, KEY_A);
		rig_key(g, 1, KEY_A);
	} else {
		rig_key(g, 0, NULL);
		rig_key(g, 1, NULL);
	}
	g->cut[way] = at;
	rc = rig_run(g, ask);
	g->cut[way] = SIZE_MAX;
	if (!rc) {
		CU_ASSERT(rig_same(g) && !rig_unchanged(g));
	} else if (g->report.unsure) {
		CU_ASSERT_STRING_NOT_EQUAL(g->h[0].key, g->h[0].was);
		CU_ASSERT(rig_same(g) || !strcmp(g->h[1].key, g->h[1].was));
	} else {
		CU_ASSERT(rig_unchanged(g));
	}
	CU_ASSERT_EQUAL(rig_litter(g), 0);
	CU_ASSERT_EQUAL_FATAL(rig_run(g, ask), 0);
	CU_ASSERT(rig_same(g));
}

static void test_cut(void)
{
	const struct pairing_ask *const asks[] = {&add, &replace};
	size_t total[2];
	struct rig g;

	rig_init(&g);
	for (unsigned k = 0; k < 2; k++) {
		rig_key(&g, 0, k ? KEY_A : NULL);
		rig_key(&g, 1, k ? KEY_A : NULL);
		CU_ASSERT_EQUAL_FATAL(rig_run(&g, asks[k]), 0);
		memcpy(total, g.passed, sizeof(total));
		CU_ASSERT(total[0] > 300 && total[1] > 300);
		for (int way = 0; way < 2; way++)
			for (size_t at = 0; at < total[way]; at++)
				cut_once(&g, asks[k], way, at);
	}
	rig_fini(&g);
}

/* A bit changed in either proof, or in the key, is found before anything is renamed. */
static void test_tampered(void)
{
	static const struct {
		int way;
		const char *header;
	} at[] = {{0, "proof 32\n"}, {0, "key 32\n"}, {1, "proof 32\n"}};
	struct rig g;

	rig_init(&g);
	rig_key(&g, 0, KEY_A);
	rig_key(&g, 1, KEY_B);
	for (unsigned i = 0; i < 3; i++) {
		g.flip_way = at[i].way;
		g.flip_after = at[i].header;
		CU_ASSERT(rig_run(&g, &replace) < 0);
		CU_ASSERT_EQUAL(g.flipped, 1);
		CU_ASSERT_EQUAL(g.report.unsure, 0);
		CU_ASSERT(rig_unchanged(&g));
		CU_ASSERT_EQUAL(rig_litter(&g), 0);
	}
	rig_fini(&g);
}

static void block_rename(struct rig *g)
{
	CU_ASSERT_EQUAL(mkdir(g->h[1].key_path, 0700), 0);
}

/* The peer says that it could not rename: this host takes its new key back. */
static void test_no_rename(void)
{
	struct rig g;

	rig_init(&g);
	g.on_commit = block_rename;
	CU_ASSERT_EQUAL(rig_run(&g, &add), -EREMOTEIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(g.err.msg, "rename"));
	CU_ASSERT_EQUAL(g.report.unsure, 0);
	CU_ASSERT_EQUAL(access(g.h[0].key_path, F_OK), -1);
	CU_ASSERT_EQUAL(rmdir(g.h[1].key_path), 0);
	CU_ASSERT_EQUAL(rig_litter(&g), 0);
	g.on_commit = NULL;
	CU_ASSERT_EQUAL(rig_run(&g, &add), 0);
	rig_fini(&g);
}

static void fill_disk(struct rig *g, int i)
{
	char path[160], block[512] = "";
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/full", g->h[i].dir);
	f = fopen(path, "w");
	if (!f)
		abort();
	setbuf(f, NULL);
	while (fwrite(block, 1, sizeof(block), f) == sizeof(block))
		;
	CU_ASSERT_EQUAL(errno, ENOSPC);
	(void)fclose(f); /* full is meant */
}

/* A disk that is full, and one that is read-only, on either side. */
static void test_disk(void)
{
	struct rig g;

	for (int i = 0; i < 2; i++)
		for (int full = 0; full < 2; full++) {
			rig_init(&g);
			if (mount("none", g.h[i].dir, "tmpfs", 0, "size=64k"))
				abort();
			rig_config(&g, i, NULL, "");
			rig_key(&g, 0, KEY_A);
			rig_key(&g, 1, KEY_B);
			if (full)
				fill_disk(&g, i);
			else if (mount(NULL, g.h[i].dir, NULL, MS_REMOUNT | MS_RDONLY,
				       NULL))
				abort();
			CU_ASSERT(rig_run(&g, &replace) < 0);
			CU_ASSERT_PTR_NOT_NULL(
				strstr(g.err.msg, full ? "No space" : "Read-only"));
			CU_ASSERT(rig_unchanged(&g));
			CU_ASSERT_EQUAL(rig_litter(&g), 0);
			CU_ASSERT_EQUAL(umount(g.h[i].dir), 0);
			rig_fini(&g);
		}
}

/* What a stranger says at the other end, to either side. */
static void test_hostile(void)
{
	static const char *const said[] = {
		"",
		"\n",
		"hello",
		"hello 0\n",
		"hello -1\n",
		"hello 1025\n",
		"hello 99999999999999999999999\n",
		"config 1048577\n",
		"error 513\n",
		"key 33\n",
		"key 31\n",
		"proof 32\n0123456789abcdef0123456789abcdef",
		"Welcome to Debian GNU/Linux! You have mail.\n",
		"error 12\n\033[2Jevil\r\n\t!x",
		"hello 12\nrhea-pair 2\n",
		"hello 20\nrhea-pair 1\nversion\n",
		"commit 0\n",
		"done 0\n",
	};
	struct rig g;

	rig_init(&g);
	for (unsigned i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
		CU_ASSERT(rig_stranger(&g, said[i], strlen(said[i]), 0, &add) < 0);
		CU_ASSERT(g.err.msg[0] && !strchr(g.err.msg, '\033'));
		if (strstr(said[i], "rhea-pair 2")) {
			CU_ASSERT_EQUAL(g.err.code, -EPROTONOSUPPORT);
		}
		CU_ASSERT(rig_stranger(&g, said[i], strlen(said[i]), 1, &add) < 0);
		CU_ASSERT_EQUAL(g.h[0].key[0] | g.h[1].key[0], 0);
		CU_ASSERT_EQUAL(rig_litter(&g), 0);
	}
	rig_fini(&g);
}

/* A line that never ends: the header's length is all that is read of it. */
static void test_endless(void)
{
	char *big = malloc(1 << 20);
	struct rig g;

	if (!big)
		abort();
	memset(big, 'x', 1 << 20);
	rig_init(&g);
	CU_ASSERT_EQUAL(rig_stranger(&g, big, 1 << 16, 0, &add), -EPROTO);
	CU_ASSERT_EQUAL(rig_stranger(&g, big, 1 << 16, 1, &add), -EPROTO);
	rig_fini(&g);
	free(big);
}

static void test_where(void)
{
	char out[32];

	pairing_where("a 1\nb.c 2\nd 3\n", "a 1\nb.c 9\nd 3\ne 1\n", out, sizeof(out));
	CU_ASSERT_STRING_EQUAL(out, "b.c, e");
	pairing_where("a 1\n", "a 1\n", out, sizeof(out));
	CU_ASSERT_STRING_EQUAL(out, "");
	pairing_where("long.name.one 1\nlong.name.two 2\nthree 1\n", "", out,
		      sizeof(out));
	CU_ASSERT_STRING_EQUAL(out, "long.name.one, ...");
	pairing_where("", "x\033y\nno end", out, sizeof(out));
	CU_ASSERT_STRING_EQUAL(out, "x?y, no");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a new key for both", test_fresh},
		{"keys that are there", test_existing},
		{"a key in the config", test_inline},
		{"check changes nothing", test_check},
		{"each way for itself", test_ways},
		{"configs that differ, and a copy", test_config},
		{"the wrong host", test_names},
		{"cut at every byte", test_cut},
		{"tampered with", test_tampered},
		{"a rename that fails is taken back", test_no_rename},
		{"full and read-only disks", test_disk},
		{"strangers", test_hostile},
		{"a line without end", test_endless},
		{"where two configs differ", test_where},
	};

	/* Its mounts stay its own. */
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		perror("a mount namespace (are you root?)");
		return 1;
	}
	return UNIT_MAIN("pairing", tests);
}
