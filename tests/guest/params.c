/* SPDX-License-Identifier: Apache-2.0
 * params - what the guest is to do, from the PVH start info (Xen, start_info.h).
 */
#include "tests/guest/params.h"

#include "tests/guest/io.h"
#include "tests/guest/proto.h"

struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};
struct start_memory {
	uint64_t addr, size;
	uint32_t type, reserved;
};
enum { TYPE_RAM = 1 };
#define LOW_RAM 0x100000u /* where the piece of RAM begins that holds this program */

extern uint32_t start_info;

/* The value behind "@key=", or NULL. */
static const char *value_of(const char *line, const char *key)
{
	for (const char *p = line; *p;) {
		const char *k = key;

		while (*k && *p == *k) {
			p++;
			k++;
		}
		if (!*k && *p == '=')
			return p + 1;
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	return 0;
}

static uint64_t number_of(const char *line, const char *key, uint64_t otherwise)
{
	const char *p = value_of(line, key);
	uint64_t v = 0;

	if (!p)
		return otherwise;
	for (; *p >= '0' && *p <= '9'; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	return v;
}

static uint64_t ram_end(const struct start_info *s)
{
	const struct start_memory *m = (const void *)s->memmap;

	for (uint32_t i = 0; i < s->memmap_entries; i++)
		if (m[i].type == TYPE_RAM && m[i].addr <= LOW_RAM &&
		    m[i].addr + m[i].size > LOW_RAM)
			return m[i].addr + m[i].size;
	return 0;
}

void params_read(struct params *p, uint64_t *ram_end_out)
{
	const struct start_info *s = (const void *)(uint64_t)start_info;
	const char *line = s->cmdline ? (const char *)s->cmdline : "";
	const char *mode = value_of(line, "mode"), *end = value_of(line, "end");

	*p = (struct params){
		.mode = mode && mode[0] == 'd'	 ? MODE_DIRTY
			: mode && mode[0] == 's' ? MODE_SERVE
			: mode && mode[0] == 'l' ? MODE_LOAD
						 : MODE_COUNTER,
		.dirty = number_of(line, "dirty", 16),
		.words = number_of(line, "words", 1),
		.pace_us = number_of(line, "pace", 0),
		.think_us = number_of(line, "think", 0),
		.compute = number_of(line, "compute", 0),
		.net = number_of(line, "net", 0) != 0,
		.disk = (unsigned)number_of(line, "disk", 0),
		.scatter = number_of(line, "scatter", 0),
		.grow = number_of(line, "grow", 0) != 0,
		.console = number_of(line, "console", 1) != 0,
		.flush = number_of(line, "flush", 64),
		.turns = number_of(line, "turns", 0),
		.write = number_of(line, "write", 0) != 0,
		.random = number_of(line, "random", 0) != 0,
		.bytes = number_of(line, "bytes", GP_BLOCK),
		.depth = number_of(line, "depth", 1),
		.button = number_of(line, "button", 0) != 0,
		.reset = end && end[0] == 'r',
	};
	p->set = number_of(line, "set", p->dirty);
	if (p->dirty)
		p->set = (p->set + p->dirty - 1) / p->dirty * p->dirty;
	if (p->set < p->dirty)
		p->set = p->dirty;
	if (!p->words || p->words > 512)
		p->words = 512;
	*ram_end_out = ram_end(s);
}
