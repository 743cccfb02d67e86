/* SPDX-License-Identifier: Apache-2.0
 * test_config - what a config means, and the one line that each mistake in it gets.
 */
#include "tests/unit/config_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_good(void)
{
	struct config *c;
	struct err err;

	CU_ASSERT_FATAL(parse(0, NULL, "a", &c, &err) == 0);
	CU_ASSERT_STRING_EQUAL(c->pair, "p");
	CU_ASSERT_EQUAL(c->key[1], 0x11);
	CU_ASSERT_STRING_EQUAL(config_self(c)->name, "a");
	CU_ASSERT_STRING_EQUAL(config_peer(c)->name, "b");
	CU_ASSERT_EQUAL(config_self(c)->n_heartbeat, 2);
	CU_ASSERT_STRING_EQUAL(config_peer(c)->heartbeat[1].text, "10.1.0.2:71");
	CU_ASSERT_EQUAL(config_self(c)->replication.ss.ss_family, AF_INET);
	CU_ASSERT_EQUAL(c->arbiter.kind, CONFIG_ARBITER_ETCD);
	CU_ASSERT_STRING_EQUAL(c->arbiter.endpoints[0], "http://10.0.0.9:2379");
	CU_ASSERT_STRING_EQUAL(c->arbiter.prefix, "/rhea");
	CU_ASSERT_EQUAL(c->arbiter.timeout_ms, 1000);
	CU_ASSERT_EQUAL(c->heartbeat_interval_ms, 50);
	CU_ASSERT_EQUAL(c->heartbeat_missed, 4);
	CU_ASSERT_EQUAL(c->n_vms, 1);
	CU_ASSERT_EQUAL(config_find_vm(c, "vm0"), 0);
	CU_ASSERT_EQUAL(config_find_vm(c, "vm1"), -ENOENT);
	config_free(c);
}

static void test_good_vm(void)
{
	struct config *c;
	struct config_vm *v;
	struct err err;

	CU_ASSERT_FATAL(parse(0, NULL, "a.example.org", &c, &err) == 0);
	v = &c->vms[0];
	CU_ASSERT_EQUAL(v->host, 1);
	CU_ASSERT_EQUAL(v->memory, 512ull << 20);
	CU_ASSERT_EQUAL(v->vcpus, 2);
	CU_ASSERT_STRING_EQUAL(v->cpu, "x86-64-v3");
	CU_ASSERT_STRING_EQUAL(v->kernel, "/k/a");
	CU_ASSERT_EQUAL(v->interval_us, 2500);
	CU_ASSERT_EQUAL(v->min_interval_us, 200);
	CU_ASSERT_EQUAL(v->latency_target_us, 500);
	CU_ASSERT_EQUAL(v->overhead_cap, 20);
	CU_ASSERT_EQUAL(v->verify_s, 600);
	CU_ASSERT_EQUAL(v->encoders, 0);
	CU_ASSERT_EQUAL(v->inflight, 3);
	CU_ASSERT_EQUAL(v->delta_cache, 0);
	CU_ASSERT_EQUAL(v->netbuf_limit, 8u << 20);
	CU_ASSERT_EQUAL(v->disk_buffer, 1u << 30);
	CU_ASSERT_EQUAL(v->journal_size, 2ull << 30); /* twice that */
	CU_ASSERT_STRING_EQUAL(v->journal, "");
	CU_ASSERT_EQUAL(v->autostart, 1);
	CU_ASSERT_EQUAL(v->n_disks, 2);
	CU_ASSERT_STRING_EQUAL(v->disks[0].path, "/d/a");
	CU_ASSERT_STRING_EQUAL(v->disks[1].serial, "disk1");
	CU_ASSERT_EQUAL(v->disks[1].read_only, 1);
	CU_ASSERT_EQUAL(v->disks[0].format, CONFIG_FORMAT_UNSAID);
	CU_ASSERT_STRING_EQUAL(v->nets[0].tap, "ta");
	CU_ASSERT_STRING_EQUAL(v->nets[0].mac_text, "52:54:00:ab:cd:01");
	CU_ASSERT_EQUAL(v->nets[0].mac[3], 0xab);
	CU_ASSERT_EQUAL(v->nets[0].mtu, 9000);
	CU_ASSERT_EQUAL(v->nets[0].vhost, 0);
	config_free(c);
	CU_ASSERT_FATAL(parse(19,
			      "   mac = \"52:54:00:AB:cd:01\"; vhost = true; } ); } );",
			      "a", &c, &err) == 0);
	CU_ASSERT_EQUAL(c->vms[0].nets[0].vhost, 1);
	config_free(c);
	CU_ASSERT_FATAL(parse(0, NULL, "b", &c, &err) == 0);
	CU_ASSERT_STRING_EQUAL(c->vms[0].kernel, "/k/b");
	CU_ASSERT_STRING_EQUAL(c->vms[0].disks[0].path, "/d/b");
	CU_ASSERT_STRING_EQUAL(c->vms[0].nets[0].tap, "tb");
	config_free(c);
}

static void test_keys(void)
{
	expect(9, "memroy = \"512M\";",
	       "rhea.conf:9: vms[0].memroy: unknown key; did you mean \"memory\"?");
	expect(7, "heartbeat = { intervalms = 5; };",
	       "rhea.conf:7: heartbeat.intervalms: unknown key; did you mean \"interval_ms\"?");
	expect(7, "colour = \"red\";",
	       "rhea.conf:7: colour: unknown key; known here: pair, hosts, arbiter, heartbeat, vms, paths, path_buffer");
	expect(9, "", "rhea.conf:8: vms[0].memory: missing; add memory = \"512M\";");
	expect(11, "", "rhea.conf:8: vms[0].kernel: missing; add kernel = \"...\";");
	expect(11, "kernel = { a = \"/k\"; c = \"/k\"; };",
	       "rhea.conf:11: vms[0].kernel.c: unknown key; known here: a, b");
	expect(11, "kernel = { a = \"/k\"; };",
	       "rhea.conf:11: vms[0].kernel.b: missing; add b = \"...\";");
	expect(1, "", "rhea.conf:1: pair: missing; add pair = { ... };");
	expect(6, "arbiter = 5;",
	       "rhea.conf:6: arbiter: must be a group: arbiter = { ... };");
	expect(9, "memory = \"512M\"; memory = \"1G\";",
	       "rhea.conf:9: duplicate setting name; look at this line and the end of the one before");
	expect(9, "memory = ;",
	       "rhea.conf:9: syntax error; look at this line and the end of the one before");
	expect(9, "@include \"/etc/passwd\"",
	       "rhea.conf:9: @include: not supported; keep everything in one file");
}

static void test_types(void)
{
	expect(9, "memory = \"lots\";",
	       "rhea.conf:9: vms[0].memory: is no size; write it like \"512M\" (K, M or G)");
	expect(9, "memory = true;",
	       "rhea.conf:9: vms[0].memory: is no size; write it like \"512M\" (K, M or G)");
	expect(9, "memory = \"1M\";",
	       "rhea.conf:9: vms[0].memory: out of range; give 16M to 256G");
	expect(9, "memory = \"99999999999999999999G\";",
	       "rhea.conf:9: vms[0].memory: out of range; give 16M to 256G");
	expect(9, "memory = -5;",
	       "rhea.conf:9: vms[0].memory: out of range; give 16M to 256G");
	expect(10, "vcpus = \"2\";",
	       "rhea.conf:10: vms[0].vcpus: must be a whole number, without quotes");
	expect(10, "vcpus = 5;", "rhea.conf:10: vms[0].vcpus: out of range; give 1 to 4");
	expect(10, "cpu = \"i486\";",
	       "rhea.conf:10: vms[0].cpu: \"i486\" is no CPU model; give \"x86-64-v2\", \"x86-64-v3\" "
	       "or \"host\"");
	expect(12, "cmdline = 7;",
	       "rhea.conf:12: vms[0].cmdline: must be text in double quotes");
	expect(12, "cmdline = \"a\\nb\";",
	       "rhea.conf:12: vms[0].cmdline: has a control character; remove it");
	expect(14, "journal_size = \"100M\";",
	       "rhea.conf:14: vms[0].journal_size: must be 0, for none, or at least twice disk_buffer: "
	       "\"128M\"");
	expect(14, "journal = \"web.journal\";",
	       "rhea.conf:14: vms[0].journal: \"web.journal\" must be a whole path, from / on");
	expect(13, "interval_ms = 0.1;",
	       "rhea.conf:13: vms[0].interval_ms: out of range; give 0.2 to 10000");
	expect(13, "interval_ms = \"fast\";",
	       "rhea.conf:13: vms[0].interval_ms: must be a number of milliseconds, like 25 or 2.5");
	expect(13, "interval_ms = 5; interval_us = 5000;",
	       "rhea.conf:13: vms[0].interval_ms: is given as interval_us too; keep one");
	expect(13, "overhead_cap = 0;",
	       "rhea.conf:13: vms[0].overhead_cap: out of range; give 1 to 100");
	expect(13, "interval_us = 2000; min_interval_us = 3000;",
	       "rhea.conf:13: vms[0].min_interval_us: out of range; give 100 to 2000");
	expect(15, "autostart = 1;",
	       "rhea.conf:15: vms[0].autostart: must be true or false, without quotes");
	expect(15, "policy = \"run\";",
	       "rhea.conf:15: vms[0].policy: \"run\" is no policy; the only one is \"hold\" (output "
	       "waits while peer and arbiter are both gone)");
	expect(7, "heartbeat = { missed = 1; };",
	       "rhea.conf:7: heartbeat.missed: out of range; give 2 to 100");
}

/* Only what the hypervisor can make guest memory of, told before a VM is started with it. */
static void test_memory(void)
{
	struct config *c;
	struct err err = {0};

	expect(9, "memory = \"14M\";",
	       "rhea.conf:9: vms[0].memory: out of range; give 16M to 256G");
	expect(9, "memory = 16777215;",
	       "rhea.conf:9: vms[0].memory: out of range; give 16M to 256G");
	expect(9, "memory = \"258G\";",
	       "rhea.conf:9: vms[0].memory: out of range; give 16M to 256G");
	expect(9, "memory = \"17M\";",
	       "rhea.conf:9: vms[0].memory: must be a multiple of 2M; give \"16M\" or \"18M\"");
	expect(9, "memory = \"524289K\";",
	       "rhea.conf:9: vms[0].memory: must be a multiple of 2M; give \"512M\" or \"514M\"");
	expect(9, "memory = 274877906943L;",
	       "rhea.conf:9: vms[0].memory: must be a multiple of 2M; give \"262142M\" or \"262144M\"");
	CU_ASSERT_FATAL(parse(9, "memory = \"16M\";", "a", &c, &err) == 0);
	CU_ASSERT_EQUAL(c->vms[0].memory, 16ull << 20);
	config_free(c);
	CU_ASSERT_FATAL(parse(9, "memory = \"18432K\";", "a", &c, &err) == 0);
	CU_ASSERT_EQUAL(c->vms[0].memory, 18ull << 20);
	config_free(c);
}

static void test_pair_and_hosts(void)
{
	char long_name[256];

	expect(1, "pair = { name = \"p\"; };",
	       "rhea.conf:1: pair: give either key or key_file");
	expect(1, "pair = { name = \"p\"; key = \"abc\"; };",
	       "rhea.conf:1: pair.key: must be 64 hex digits; or let rheactl pair make a key_file");
	expect(1, "pair = { name = \"p\"; key_file = \"/nonexistent/key\"; };",
	       "rhea.conf:1: pair.key_file: /nonexistent/key: No such file or directory; make it with: "
	       "rheactl pair OTHER-HOST");
	expect(1, "pair = { name = \"p q\"; key = \"" KEY "\"; };",
	       "rhea.conf:1: pair.name: \"p q\" is no name; use letters, digits, - and _");
	expect(1, "pair = { name = \"../x\"; key = \"" KEY "\"; };",
	       "rhea.conf:1: pair.name: \"../x\" is no name; begin with a letter or digit");
	(void)snprintf(long_name, sizeof(long_name),
		       "pair = { name = \"%040d\"; key = \"" KEY "\"; };", 7);
	expect(1, long_name, "rhea.conf:1: pair.name: has 40 characters; at most 31 fit");
	expect(4, " { name = \"a\"; replication = \"10.0.0.2:70\";",
	       "rhea.conf:4: hosts[1].name: \"a\" is the name of hosts[0]; choose another");
	expect(4, " { name = \"1b\"; replication = \"10.0.0.2:70\";",
	       "rhea.conf:4: hosts[1].name: \"1b\": a host's name begins with a letter");
	expect(4, " { name = \"b\";",
	       "rhea.conf:4: hosts[1]: replication is missing; add replication = \"addr:port\";");
	expect(4, " { name = \"b\"; replication = \"example.org:70\";",
	       "rhea.conf:4: hosts[1].replication: \"example.org:70\" is no address; write it like "
	       "\"10.0.0.1:7000\" or \"[fd00::1]:7000\" (numbers, no names)");
	expect(4, " { name = \"b\"; replication = \"10.0.0.2:0\";",
	       "rhea.conf:4: hosts[1].replication: port out of range; give 1 to 65535");
	expect(4, " { name = \"b\"; replication = \"10.0.0.2:70000\";",
	       "rhea.conf:4: hosts[1].replication: port out of range; give 1 to 65535");
	expect(5, "  heartbeat = ( \"10.0.0.2:71\" ); } );",
	       "rhea.conf:5: hosts[1].heartbeat: has 1 paths, hosts[0] has 2; path i joins both hosts' "
	       "address i");
	expect(5, "  heartbeat = ( \"10.0.0.2:71\", \"10.0.0.2:71\" ); } );",
	       "rhea.conf:5: hosts[1].heartbeat[1]: 10.0.0.2:71 is listed twice; each path has an "
	       "address of its own");
	expect(5, "  heartbeat = ( \"10.0.0.2:71\", \"[::1]:71\" ); } );",
	       "rhea.conf:5: hosts[1].heartbeat: path 1 is IPv4 on one host and IPv6 on the other");
	expect(5, "  heartbeat = \"10.0.0.2:71\"; } );",
	       "rhea.conf:5: hosts[1].heartbeat: must be a list: heartbeat = ( ... );");
	expect(5,
	       "  heartbeat = ( \"10.0.0.2:71\", \"10.1.0.2:71\" ); }, { name = \"c\"; } );",
	       "rhea.conf:2: hosts: has 3 entries; give 2 to 2");
	expect(6, "arbiter = { kind = \"dice\"; };",
	       "rhea.conf:6: arbiter.kind: \"dice\" is no arbiter; give \"etcd\" or \"manual\"");
	expect(6, "arbiter = { kind = \"etcd\"; };",
	       "rhea.conf:6: arbiter.endpoints: missing; add endpoints = ( ... );");
	expect(6, "arbiter = { kind = \"etcd\"; endpoints = ( \"10.0.0.9\" ); };",
	       "rhea.conf:6: arbiter.endpoints[0]: \"10.0.0.9\" is no URL; write it like "
	       "\"http://10.0.0.3:2379\"");
}

static void test_devices(void)
{
	expect(8, "vms = ( { name = \"vm0\"; host = \"c\";",
	       "rhea.conf:8: vms[0].host: \"c\" is no host of this pair; give \"a\" or \"b\"");
	expect(19, "   mac = \"52:54:00:ab:cd\"; } ); } );",
	       "rhea.conf:19: vms[0].nets[0].mac: \"52:54:00:ab:cd\" is no MAC; write it like "
	       "\"52:54:00:12:34:56\"");
	expect(19, "   mac = \"53:54:00:ab:cd:01\"; } ); } );",
	       "rhea.conf:19: vms[0].nets[0].mac: \"53:54:00:ab:cd:01\" is a multicast MAC; make the first "
	       "byte even");
	expect(19, "   mac = \"00:00:00:00:00:00\"; } ); } );",
	       "rhea.conf:19: vms[0].nets[0].mac: \"00:00:00:00:00:00\" is no MAC; write it like "
	       "\"52:54:00:12:34:56\"");
	expect(18, "  nets = ( { tap = \"a/b\";",
	       "rhea.conf:18: vms[0].nets[0].tap: \"a/b\" is no interface name");
	expect(18, "  nets = ( { tap = \"sixteen-letters-\";",
	       "rhea.conf:18: vms[0].nets[0].tap: has 16 characters; at most 15 fit");
	expect(18, "  nets = ( { vhost = true; tap = \"thirteen-long\";",
	       "rhea.conf:18: vms[0].nets[0].tap: \"thirteen-long\": with vhost a tap's name has at "
	       "most 12 characters");
	expect(18, "  nets = ( { tap = \"\";",
	       "rhea.conf:18: vms[0].nets[0].tap: is empty; name a tap device");
	expect(17, "   { path = \"/d/x\"; serial = \"root\"; } );",
	       "rhea.conf:17: vms[0].disks[1]: serial \"root\" is that of disks[0]; choose another");
	expect(17, "   { path = \"/d/a\"; } );",
	       "rhea.conf:8: vms[0]: disks[1]: /d/a is that of vm0 disks[0]; a writable image belongs to "
	       "one disk");
	expect(17, "   { path = \"d/a\"; } );",
	       "rhea.conf:17: vms[0].disks[1].path: \"d/a\" must be a whole path, from / on");
	expect(17, "   5 );", "rhea.conf:17: vms[0].disks[1]: must be a group: { ... }");
	expect(17, "   { path = \"/d/x\"; format = \"qcow2\"; } );",
	       "rhea.conf:17: vms[0].disks[1].format: \"qcow2\" is no format; give \"raw\" or "
	       "\"vhd\"");
}

static void test_formats(void)
{
	struct config *c = NULL;
	struct err err;

	CU_ASSERT_EQUAL_FATAL(
		parse(17, "   { path = \"/d/x\"; format = \"vhd\"; } );", "a", &c, &err),
		0);
	CU_ASSERT_EQUAL(c->vms[0].disks[1].format, CONFIG_FORMAT_VHD);
	config_free(c);
	CU_ASSERT_EQUAL_FATAL(
		parse(17, "   { path = \"/d/x\"; format = \"raw\"; } );", "a", &c, &err),
		0);
	CU_ASSERT_EQUAL(c->vms[0].disks[1].format, CONFIG_FORMAT_RAW);
	config_free(c);
}

static void test_duplicates_between_vms(void)
{
	const char *second =
		"   mac = \"52:54:00:ab:cd:01\"; } ); }, { name = \"%s\"; memory = \"64M\"; "
		"kernel = \"/k\"; nets = ( { tap = \"%s\"; mac = \"%s\"; } ); } );";
	char line[512];

	(void)snprintf(line, sizeof(line), second, "vm0", "t2", "52:54:00:ab:cd:02");
	expect(19, line,
	       "rhea.conf:19: vms[1].name: \"vm0\" is the name of vms[0]; choose another");
	(void)snprintf(line, sizeof(line), second, "vm1", "t2", "52:54:00:ab:cd:01");
	expect(19, line,
	       "rhea.conf:19: vms[1]: nets[0]: mac 52:54:00:ab:cd:01 is that of vm0 nets[0]; choose another");
	(void)snprintf(line, sizeof(line), second, "vm1", "ta", "52:54:00:ab:cd:02");
	expect(19, line,
	       "rhea.conf:19: vms[1]: nets[0]: tap ta is that of vm0 nets[0]; choose another");
}

static void test_self(void)
{
	struct config *c;
	struct err err;

	CU_ASSERT(parse(0, NULL, "c", &c, &err) < 0);
	CU_ASSERT_STRING_EQUAL(
		err.msg,
		"rhea.conf:2: hosts: this host is \"c\" and the pair is \"a\" and "
		"\"b\"; correct it or say --host NAME");
	CU_ASSERT(parse(0, NULL, "ab", &c, &err) < 0);
}

static void digest_of(unsigned line, const char *instead, const char *host, uint8_t *out)
{
	struct config *c;
	struct err err;

	if (parse(line, instead, host, &c, &err))
		printf("%s\n", err.msg);
	if (!c)
		abort();
	memcpy(out, c->digest, CONFIG_DIGEST_LEN);
	config_free(c);
}

static void test_digest(void)
{
	uint8_t a[CONFIG_DIGEST_LEN], b[CONFIG_DIGEST_LEN];

	digest_of(0, NULL, "a", a);
	digest_of(0, NULL, "b", b); /* the same from both sides */
	CU_ASSERT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	digest_of(
		7,
		"heartbeat = { missed = 4;   interval_ms = 50; /* order, space */ }; # comment",
		"a", b);
	CU_ASSERT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	digest_of(1, "pair = { name = \"p\"; key = \"" KEY "\"; }; // key does not count",
		  "a", b);
	CU_ASSERT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	digest_of(7, "heartbeat = { interval_ms = 50; missed = 5; };", "a", b);
	CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	/* A value of the other host only. */
	digest_of(11, "kernel = { a = \"/k/a\"; b = \"/k/c\"; };", "a", b);
	CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	/* Lists keep their order. */
	digest_of(3, "  heartbeat = ( \"10.1.0.1:71\", \"10.0.0.1:71\" ); },", "a", b);
	CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof(a)), 0);
}

static void test_derived_keys(void)
{
	uint8_t a[CONFIG_KEY_LEN], b[CONFIG_KEY_LEN];
	struct config *c;
	struct err err;

	CU_ASSERT_FATAL(parse(0, NULL, "a", &c, &err) == 0);
	CU_ASSERT_EQUAL(config_derive_key(c, "rhea heartbeat", a), 0);
	CU_ASSERT_EQUAL(config_derive_key(c, "rhea stream", b), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(a, c->key, sizeof(a)), 0);
	config_free(c);
}

static void write_text(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	CU_ASSERT_FATAL(f != NULL);
	CU_ASSERT(fputs(text, f) >= 0);
	CU_ASSERT_EQUAL(fclose(f), 0);
	CU_ASSERT_EQUAL(chmod(path, mode), 0);
}

/* With real files: what is missing is said, what is there is taken. */
static void test_files(void)
{
	char dir[] = "/tmp/test_config.XXXXXX", conf[64], key[64], disk[64], text[2048],
	     want[256];
	struct config *c;
	struct err err;

	CU_ASSERT_FATAL(mkdtemp(dir) != NULL);
	(void)snprintf(conf, sizeof(conf), "%s/rhea.conf", dir);
	(void)snprintf(key, sizeof(key), "%s/key", dir);
	(void)snprintf(disk, sizeof(disk), "%s/disk", dir);
	(void)snprintf(
		text, sizeof(text),
		"pair = { name = \"p\"; key_file = \"%s\"; };\n"
		"hosts = ( { name = \"a\"; replication = \"[::1]:70\"; heartbeat = ( \"[::1]:71\" ); },\n"
		" { name = \"b\"; replication = \"[::1]:72\"; heartbeat = ( \"[::1]:73\" ); } );\n"
		"arbiter = { kind = \"manual\"; };\n"
		"vms = ( { name = \"v\"; memory = \"64M\"; kernel = \"%s\";\n"
		" disks = ( { path = \"%s\"; } ); } );\n",
		key, key, disk);
	write_text(conf, text, 0600);
	write_text(key, KEY "\n", 0644);
	CU_ASSERT(config_load(conf, "a", 0, &c, &err) < 0);
	(void)snprintf(want, sizeof(want),
		       "%s:1: pair.key_file: %s can be read by others; chmod 600 %s",
		       conf, key, key);
	CU_ASSERT_STRING_EQUAL(err.msg, want);
	write_text(key, KEY "\n", 0600);
	CU_ASSERT_EQUAL(config_load(conf, "a", 0, &c, &err), -ENOENT);
	(void)snprintf(
		want, sizeof(want),
		"%s:6: vms[0].disks[0].path: %s: No such file or directory; create it or correct the path",
		conf, disk);
	CU_ASSERT_STRING_EQUAL(err.msg, want);
	CU_ASSERT_EQUAL(mkdir(disk, 0700), 0);
	CU_ASSERT(config_load(conf, "a", 0, &c, &err) < 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "is neither a file nor a block device"));
	CU_ASSERT_EQUAL(rmdir(disk), 0);
	write_text(disk, "x", 0600);
	CU_ASSERT_EQUAL(config_load(conf, "a", 0, &c, &err), 0);
	CU_ASSERT_EQUAL(c->arbiter.kind, CONFIG_ARBITER_MANUAL);
	CU_ASSERT_EQUAL(c->heartbeat_interval_ms, 100);
	CU_ASSERT_EQUAL(c->vms[0].interval_us, 25000);
	config_free(c);
	CU_ASSERT_EQUAL(unlink(conf), 0);
	CU_ASSERT_EQUAL(config_load(conf, "a", 0, &c, &err), -ENOENT);
	(void)snprintf(want, sizeof(want),
		       "%s:1: cannot read the config: No such file or directory", conf);
	CU_ASSERT_STRING_EQUAL(err.msg, want);
	CU_ASSERT_EQUAL(unlink(key) | unlink(disk) | rmdir(dir), 0);
}

static void test_odd_text(void)
{
	struct config *c;
	struct err err;
	char *big = calloc(1, CONFIG_FILE_MAX + 1);

	if (!big)
		abort();
	CU_ASSERT(config_parse("", 0, "x", "a", 0, &c, &err) < 0);
	CU_ASSERT(config_parse("a\n\0b", 4, "x", "a", 0, &c, &err) < 0);
	CU_ASSERT_STRING_EQUAL(err.msg, "x:2: has a NUL byte; is this a text file?");
	memset(big, ' ', CONFIG_FILE_MAX);
	CU_ASSERT_EQUAL(config_parse(big, CONFIG_FILE_MAX, "x", "a", 0, &c, &err),
			-EFBIG);
	free(big);
	config_free(NULL);
}

/* The documented example is a good one. */
static void test_example(void)
{
	static const char was[] = "key_file = \"/etc/rhea/key\";";
	char dir[] = "/tmp/test_config.XXXXXX", key[64];
	char *text = calloc(1, CONFIG_FILE_MAX), *mine = calloc(1, CONFIG_FILE_MAX), *at;
	FILE *f = fopen("ctl/rhea.conf.example", "r");
	struct config *c = NULL;
	struct err err = {0};
	size_t n;

	if (!text || !mine || !f || !mkdtemp(dir))
		abort();
	(void)snprintf(key, sizeof(key), "%s/k", dir);
	CU_ASSERT(fread(text, 1, CONFIG_FILE_MAX - 64, f) > 0);
	CU_ASSERT_EQUAL(fclose(f), 0);
	at = strstr(text, was);
	if (!at)
		abort();
	n = (size_t)snprintf(mine, CONFIG_FILE_MAX, "%.*skey_file = \"%s\";%s",
			     (int)(at - text), text, key, at + strlen(was));
	write_text(key, KEY, 0600);
	CU_ASSERT_EQUAL(config_parse(mine, n, "example", "b", CONFIG_NO_FILES, &c, &err),
			0);
	if (err.code)
		printf("%s\n", err.msg);
	config_free(c);
	free(mine);
	free(text);
	CU_ASSERT_EQUAL(unlink(key) | rmdir(dir), 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a good config", test_good},
		{"a good VM, from both hosts", test_good_vm},
		{"unknown, missing and double keys", test_keys},
		{"wrong types and ranges", test_types},
		{"memory", test_memory},
		{"pair, hosts and arbiter", test_pair_and_hosts},
		{"disks and nets", test_devices},
		{"formats of disks", test_formats},
		{"duplicates between VMs", test_duplicates_between_vms},
		{"which host we are", test_self},
		{"digest", test_digest},
		{"derived keys", test_derived_keys},
		{"files", test_files},
		{"odd text", test_odd_text},
		{"the example", test_example},
	};
	return UNIT_MAIN("config", tests);
}
