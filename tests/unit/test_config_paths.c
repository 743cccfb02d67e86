/* SPDX-License-Identifier: Apache-2.0
 * test_config_paths - the list of paths in a config, and the one line that each mistake in it gets.
 */
#include "tests/unit/config_rig.h"

#include <errno.h>
#include <string.h>

#define BEAT "heartbeat = { interval_ms = 50; missed = 4; }; "

static void test_paths(void)
{
	struct config *c;
	struct err err;

	/* As simple as it can be: one, between the replication addresses. */
	CU_ASSERT_FATAL(parse(0, NULL, "a", &c, &err) == 0);
	CU_ASSERT_EQUAL(c->n_paths, 1);
	CU_ASSERT_EQUAL(c->path_buffer, 32 << 20);
	CU_ASSERT_STRING_EQUAL(c->paths[0].transport, "tcp");
	CU_ASSERT_STRING_EQUAL(c->paths[0].addr[1].text, "10.0.0.2:70");
	config_free(c);
	CU_ASSERT_FATAL(
		parse(7,
		      BEAT
		      "path_buffer = \"4M\"; paths = ( { transport = \"rdma\"; args = { a = "
		      "\"dev=x\"; b = \"dev=y\"; }; address = { a = \"10.2.0.1:70\"; b = "
		      "\"10.2.0.2:70\"; }; }, { transport = \"tcp\"; address = { b = "
		      "\"[fd00::2]:70\"; a = \"[fd00::1]:70\"; }; } );",
		      "b", &c, &err) == 0);
	CU_ASSERT_EQUAL(c->n_paths, 2);
	CU_ASSERT_EQUAL(c->path_buffer, 4 << 20);
	CU_ASSERT_STRING_EQUAL(c->paths[0].transport, "rdma");
	CU_ASSERT_STRING_EQUAL(c->paths[0].args, "dev=y");
	CU_ASSERT_STRING_EQUAL(c->paths[0].addr[0].text, "10.2.0.1:70");
	CU_ASSERT_STRING_EQUAL(c->paths[1].addr[0].text, "[fd00::1]:70");
	CU_ASSERT_STRING_EQUAL(c->paths[1].args, "");
	config_free(c);
}

/* With a list of paths the hosts need no address of their own for replication. */
static void test_paths_alone(void)
{
	struct config *c;
	struct err err;

	CU_ASSERT(
		parse(2,
		      "paths = ( { transport = \"tcp\"; address = { a = \"10.2.0.1:70\"; b = "
		      "\"10.2.0.2:70\"; }; } ); hosts = ( { name = \"a\";",
		      "a", &c, &err) == 0);
	config_free(c);
}

#define PATH(text) BEAT "paths = ( { " text " } );"
#define ADDRESS	   "address = { a = \"10.2.0.1:70\"; b = \"10.2.0.2:70\"; };"

static void test_wrong_paths(void)
{
	expect(7, BEAT "paths = ( );", "rhea.conf:7: paths: has 0 entries; give 1 to 8");
	expect(7, PATH(ADDRESS),
	       "rhea.conf:7: paths[0].transport: missing; add transport = \"...\";");
	expect(7, PATH("transport = \"../x\"; " ADDRESS),
	       "rhea.conf:7: paths[0].transport: \"../x\" is no transport; give \"tcp\", \"rdma\" or \"dpdk\"");
	expect(7, PATH("transport = \"tcp\"; args = \"x\"; " ADDRESS),
	       "rhea.conf:7: paths[0].args: tcp has no args; leave it out");
	expect(7, PATH("transport = \"tcp\";"),
	       "rhea.conf:7: paths[0].address: missing; add address = { ... };");
	expect(7, PATH("transport = \"tcp\"; address = { a = \"10.2.0.1:70\"; };"),
	       "rhea.conf:7: paths[0].address: b is missing; add b = \"addr:port\";");
	expect(7,
	       PATH("transport = \"tcp\"; address = { a = \"10.2.0.1:70\"; c = \"10.2.0.2:70\"; };"),
	       "rhea.conf:7: paths[0].address.c: unknown key; known here: a, b");
	expect(7,
	       PATH("transport = \"tcp\"; address = { a = \"10.2.0.1:70\"; b = \"[::1]:70\"; };"),
	       "rhea.conf:7: paths[0].address: is IPv4 on one host and IPv6 on the other");
	expect(7, PATH("transport = \"tcp\"; port = 1; " ADDRESS),
	       "rhea.conf:7: paths[0].port: unknown key; known here: transport, address, args, streams");
	expect(7, PATH("transport = \"tcp\"; streams = 9; " ADDRESS),
	       "rhea.conf:7: paths[0].streams: out of range; give 1 to 8");
	expect(7, PATH("transport = \"rdma\"; streams = 2; " ADDRESS),
	       "rhea.conf:7: paths[0].streams: only tcp has streams; leave it out");
	expect(7, BEAT "path_buffer = \"1K\";",
	       "rhea.conf:7: path_buffer: out of range; give 1M to 1G");
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"paths", test_paths},
		{"paths alone", test_paths_alone},
		{"wrong paths", test_wrong_paths},
	};
	return UNIT_MAIN("config_paths", tests);
}
