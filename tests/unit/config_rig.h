/* SPDX-License-Identifier: Apache-2.0
 * config_rig - a good config, one statement a line, and what is said when one of them is another.
 */
#ifndef TESTS_UNIT_CONFIG_RIG_H
#define TESTS_UNIT_CONFIG_RIG_H

#include <stdio.h>
#include <string.h>

#include "ctl/config.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

/* NOLINTNEXTLINE(bugprone-suspicious-missing-comma): KEY is pasted in on purpose */
#define PAIR "pair = { name = \"p\"; key = \"" KEY "\"; };"

/* One statement a line, so that a mistake's line number is known. */
static const char *const good[] = {
	/*  1 */ PAIR,
	/*  2 */ "hosts = ( { name = \"a\"; replication = \"10.0.0.1:70\";",
	/*  3 */ "  heartbeat = ( \"10.0.0.1:71\", \"10.1.0.1:71\" ); },",
	/*  4 */ " { name = \"b\"; replication = \"10.0.0.2:70\";",
	/*  5 */ "  heartbeat = ( \"10.0.0.2:71\", \"10.1.0.2:71\" ); } );",
	/*  6 */
	"arbiter = { kind = \"etcd\"; endpoints = ( \"http://10.0.0.9:2379/\" ); };",
	/*  7 */ "heartbeat = { interval_ms = 50; missed = 4; };",
	/*  8 */ "vms = ( { name = \"vm0\"; host = \"b\";",
	/*  9 */ "  memory = \"512M\";",
	/* 10 */ "  vcpus = 2; cpu = \"x86-64-v3\";",
	/* 11 */ "  kernel = { a = \"/k/a\"; b = \"/k/b\"; };",
	/* 12 */ "  initrd = \"/i\"; cmdline = \"quiet\";",
	/* 13 */ "  interval_ms = 2.5;",
	/* 14 */
	"  inflight = 3; delta_cache = 0; netbuf_limit = \"8M\"; disk_buffer = \"1G\";",
	/* 15 */ "  policy = \"hold\"; autostart = true;",
	/* 16 */
	"  disks = ( { path = { a = \"/d/a\"; b = \"/d/b\"; }; serial = \"root\"; },",
	/* 17 */ "   { path = \"/d/ro\"; read_only = true; } );",
	/* 18 */ "  nets = ( { tap = { a = \"ta\"; b = \"tb\"; }; bridge = \"br0\";",
	/* 19 */ "   mac = \"52:54:00:AB:cd:01\"; mtu = 9000; } ); } );",
};
enum { LINES = sizeof(good) / sizeof(good[0]) };

/* The good config with line @line replaced (0: none). */
static inline int parse(unsigned line, const char *instead, const char *host,
			struct config **cfg, struct err *err)
{
	char text[8192];
	size_t n = 0;

	for (unsigned i = 1; i <= LINES; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\n",
				      i == line ? instead : good[i - 1]);
	memset(err, 0, sizeof(*err));
	return config_parse(text, n, "rhea.conf", host, CONFIG_NO_FILES, cfg, err);
}

static inline void expect(unsigned line, const char *instead, const char *message)
{
	struct config *cfg = NULL;
	struct err err;
	int rc = parse(line, instead, "a", &cfg, &err);

	CU_ASSERT(rc < 0);
	CU_ASSERT_PTR_NULL(cfg);
	CU_ASSERT_EQUAL(err.code, rc);
	if (strcmp(err.msg, message) != 0)
		printf("\n  got:  %s\n  want: %s\n", err.msg, message);
	CU_ASSERT_STRING_EQUAL(err.msg, message);
	CU_ASSERT_PTR_NULL(strchr(err.msg, '\n'));
	config_free(cfg);
}

#endif
