/* SPDX-License-Identifier: Apache-2.0
 * test_verify - a bit flips in the memory of a real standby: it is found, the standby is brought
 * up anew while the guest runs on, and what carries on after a takeover is whole.
 *
 *   test_verify [ROUNDS [SEED]]
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	PROTECT_MS = 20000,
	FOUND_MS = 10000, /* all of memory is looked at once a second */
	RAM_MIB = 32,
	CODE_AT = 1 << 20, /* of the guest: see tests/guest/guest.ld */
	CODE_BYTES = 8 << 10,
};

/* Where a process has the guest's memory. */
static uint64_t ram_of(struct twohosts *p, pid_t pid)
{
	char path[64], line[512];
	unsigned long long at = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "r");
	if (!f)
		th_fail(p, "%s cannot be read", path);
	while (!at && fgets(line, sizeof(line), f))
		if (strstr(line, "guest-ram"))
			at = strtoull(line, NULL, 16);
	(void)fclose(f); /* was only read */
	if (!at)
		th_fail(p, "process %d has no guest memory", (int)pid);
	return at;
}

/* One bit of the guest's code: it is there from the start and never written again, which would
 * mend it. */
static void flip(struct twohosts *p, pid_t pid)
{
	uint64_t at = ram_of(p, pid) + CODE_AT + th_random(CODE_BYTES);
	char path[64];
	uint8_t byte;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, &byte, 1, (off_t)at) != 1)
		th_fail(p, "%s cannot be read", path);
	byte ^= (uint8_t)(1u << th_random(8));
	if (pwrite(fd, &byte, 1, (off_t)at) != 1)
		th_fail(p, "%s cannot be written", path);
	close(fd);
}

/* The link goes, and protection is back, without the VM having moved. */
static void expect_found(struct twohosts *p, int host, uint64_t term)
{
	uint64_t end = clock_mono_ns() + FOUND_MS * 1000000ull;
	struct vm_view v;

	while (!th_view(p, host, &v) && v.protected && v.term == term) {
		if (clock_mono_ns() > end)
			th_fail(p, "the flipped bit was not found in %d ms", FOUND_MS);
		th_sleep_ms(1);
	}
	if (th_wait_protected(p, PROTECT_MS) != host)
		th_fail(p, "not protected again where it ran");
}

static void one_round(struct twohosts *p, unsigned round)
{
	int host = th_wait_protected(p, PROTECT_MS);
	struct vm_view here, there;
	struct observed o;

	if (host < 0 || th_view(p, host, &here) || th_view(p, !host, &there))
		th_fail(p, "round %u: the VM is not protected", round);
	flip(p, there.pid);
	expect_found(p, host, here.term);
	/* The new standby is the one that will carry on. */
	if (kill(here.pid, SIGKILL))
		th_fail(p, "round %u: no process to kill", round);
	if (th_wait_protected(p, PROTECT_MS) != !host)
		th_fail(p, "round %u: no takeover", round);
	th_sleep_ms(2800); /* the guest looks at its whole working set */
	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "round %u: %s", round, o.first_violation);
}

int main(int argc, char **argv)
{
	unsigned rounds = 4;
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 set=4096 net=1 disk=1 pace=40000",
		.memory_mib = RAM_MIB,
		.vcpus = 1,
		.interval_us = 5000,
		.heartbeat_ms = 50,
		.missed = 5,
	};
	static struct twohosts p;

	th_begin(argc, argv, &rounds);
	th_up(&p, &opts);
	th_sleep_ms(3000); /* all of the working set is written once */
	for (unsigned r = 0; r < rounds; r++)
		one_round(&p, r);
	printf("%u flipped bits found\n", rounds);
	th_end(&p);
	return 0;
}
