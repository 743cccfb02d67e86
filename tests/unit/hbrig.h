/* SPDX-License-Identifier: Apache-2.0
 * hbrig - the config of two hosts, and a datagram of theirs.
 */
#ifndef TESTS_UNIT_HBRIG_H
#define TESTS_UNIT_HBRIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/heartbeat.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

static inline struct config *hb_config(const char *host, const char *pair_key,
				       unsigned missed)
{
	char text[1024];
	struct config *cfg = NULL;
	struct err err = {0};
	int n = snprintf(
		text, sizeof(text),
		"pair = { name = \"p\"; key = \"%s11111111111111111111111111111111111111111111111111111111\"; };\n"
		"hosts = ( { name = \"a\"; replication = \"127.0.0.1:0\";\n"
		"  heartbeat = ( \"127.0.0.1:0\", \"127.0.0.1:0\" ); },\n"
		" { name = \"b\"; replication = \"127.0.0.1:0\";\n"
		"  heartbeat = ( \"127.0.0.1:0\", \"127.0.0.1:0\" ); } );\n"
		"arbiter = { kind = \"manual\"; };\n"
		"heartbeat = { interval_ms = 10; missed = %u; };\n"
		"vms = ( { name = \"v\"; memory = \"64M\"; kernel = \"/k\"; },\n"
		" { name = \"w\"; memory = \"64M\"; kernel = \"/k\"; } );\n",
		pair_key, missed);

	if (config_parse(text, (size_t)n, "test", host, CONFIG_NO_FILES | CONFIG_ANY_PORT,
			 &cfg, &err))
		printf("%s\n", err.msg);
	if (!cfg)
		abort();
	return cfg;
}

static inline struct hb_msg hb_message(const struct config *from, uint64_t seq)
{
	struct hb_msg m = {.boot_id = 77,
			   .seq = seq,
			   .mono_ns = seq * 1000,
			   .wall_ns = 5,
			   .n_vms = 2};

	memcpy(m.pair, from->pair, sizeof(m.pair));
	memcpy(m.host, config_self(from)->name, sizeof(m.host));
	memcpy(m.digest, from->digest, sizeof(m.digest));
	m.interval_us = 10000;
	m.vms[0] = (struct pair_view){.state = PAIR_PROTECTED,
				      .health = PAIR_VM_OK,
				      .flags = PAIR_VIEW_PLEASE,
				      .term = 3,
				      .epoch = 1234567};
	m.vms[1] = (struct pair_view){.state = PAIR_OFF, .epoch = UINT64_MAX};
	return m;
}

#endif
