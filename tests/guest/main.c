/* SPDX-License-Identifier: Apache-2.0
 * main - the ring-3 guest: a machine that counts, and would notice if it were not itself.
 *
 * Theory of operation. Turn n writes n into memory and on disk, checks both, and only then says
 * n on the network. So whoever listens knows: a machine that goes on elsewhere must go on with
 * a count that nobody has heard yet, and memory, disk and clock must all be of that same
 * moment. Whatever does not fit ends in FAIL.
 */
#include "tests/guest/clock.h"
#include "tests/guest/disk.h"
#include "tests/guest/io.h"
#include "tests/guest/memory.h"
#include "tests/guest/net.h"
#include "tests/guest/params.h"
#include "tests/guest/proto.h"
#include "tests/guest/say.h"

static struct params params;

/* Now; and a check that it is not earlier than before. */
static uint64_t time_ns(void)
{
	static uint64_t last;
	uint64_t ns = clock_ns();

	if (ns < last)
		fail("clock: time went backwards");
	last = ns;
	return ns;
}

static void wait_until(uint64_t ns)
{
	while (time_ns() < ns) {
		net_poll();
		io_relax();
	}
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * 0x9E3779B97F4A7C15ull;
	return x ^ x >> 29;
}

/* A line a second on virtio-console. */
static void tell_people(uint64_t n, uint64_t ns)
{
	static uint64_t next;

	if (ns < next)
		return;
	next = ns + 1000000000;
	console_number(n);
}

/* The registers that the ACPI tables of this machine speak of (hv/acpi.h). */
enum {
	PORT_SLEEP = 0x600,
	PORT_RESET = 0x602,
	PORT_EVENT = 0x604,
	POWER_BUTTON = 1,
	SLEEP_S5 = 0x20 | 5 << 2,
	RESET = 1
};

/* A guest that still runs after it has asked was not listened to. */
static void end_machine(void)
{
	if (params.reset)
		io_out8(PORT_RESET, RESET);
	else
		io_out8(PORT_SLEEP, SLEEP_S5);
	fail("end: it goes on after its end");
}

/* mode=counter */
static void count_for_ever(void)
{
	struct net_report r = {.boot_id = mix(io_tsc()) ^ mix(time_ns())};
	uint64_t start;

	for (;;) {
		start = time_ns();
		r.n++;
		r.mem_n = memory_turn(r.n, params.dirty, params.set);
		if (params.disk)
			r.disk_n = disk_turn(r.n, params.flush && r.n % params.flush == 0,
					     mix(r.n));
		if (params.grow)
			r.blocks = disk_grow_turn(r.n, mix(r.n));
		if (params.think_us)
			wait_until(time_ns() + params.think_us * 1000);
		net_count(&r);
		net_poll();
		*(volatile uint64_t *)GP_PROGRESS_GPA = r.n;
		if (params.console)
			tell_people(r.n, start);
		wait_until(start + params.pace_us * 1000);
		if (r.n == params.turns ||
		    (params.button && io_in8(PORT_EVENT) & POWER_BUTTON))
			end_machine();
	}
}

static void compute(uint64_t rounds)
{
	static volatile uint64_t result;
	uint64_t x = result;

	while (rounds--)
		x = mix(x + rounds);
	result = x;
}

/* mode=dirty: nothing but memory is touched. */
static void dirty_for_ever(void)
{
	uint64_t n = 0, start = 0;

	for (;;) {
		if (params.pace_us)
			start = time_ns();
		memory_dirty(++n, params.dirty, params.set, params.words);
		compute(params.compute);
		*(volatile uint64_t *)GP_PROGRESS_GPA = n;
		if (params.think_us)
			wait_until(time_ns() + params.think_us * 1000);
		if (params.pace_us)
			wait_until(start + params.pace_us * 1000);
	}
}

static void serve_one(void)
{
	static uint64_t n;

	memory_dirty(++n, params.dirty, params.set, params.words);
	*(volatile uint64_t *)GP_PROGRESS_GPA = n;
}

/* mode=serve: a ping is a request, with writes to memory before its answer. */
static void serve_for_ever(void)
{
	net_serve(serve_one);
	for (;;) {
		net_poll();
		io_relax();
	}
}

/* mode=load: the disk is kept busy; the progress counts requests. */
static void load_for_ever(void)
{
	const struct disk_load l = {.write = params.write,
				    .random = params.random,
				    .depth = (unsigned)params.depth,
				    .flush = params.flush,
				    .bytes = params.bytes};

	disk_load(&l, (volatile uint64_t *)GP_PROGRESS_GPA);
}

static void introduce(void)
{
	static const char *const modes[] = {
		[MODE_COUNTER] = "guest: mode=counter",
		[MODE_DIRTY] = "guest: mode=dirty",
		[MODE_SERVE] = "guest: mode=serve",
		[MODE_LOAD] = "guest: mode=load",
	};

	say(modes[params.mode]);
	say_number(" dirty=", params.dirty, "");
	say_number(" set=", params.set, "");
	say_number(" net=", (uint64_t)params.net, "");
	say_number(" disk=", (uint64_t)params.disk, "");
	say_number(" pace=", params.pace_us, "\n");
}

/* From entry.S, in ring 3. */
void guest_main(void);

void guest_main(void)
{
	uint64_t ram_end;

	params_read(&params, &ram_end);
	introduce();
	if (!clock_ns())
		fail("clock: there is no KVM clock");
	if (MEMORY_AT + params.set * 4096 > ram_end)
		fail("memory: too small for the working set");
	if (params.net && !net_open())
		fail("net: there is no such device");
	if (params.disk && !disk_open(params.disk, params.scatter))
		fail("disk: there is no such device");
	params.console = params.console && console_open();
	if (params.mode == MODE_DIRTY)
		dirty_for_ever();
	if (params.mode == MODE_LOAD)
		load_for_ever();
	if (params.mode == MODE_SERVE)
		serve_for_ever();
	count_for_ever();
}
