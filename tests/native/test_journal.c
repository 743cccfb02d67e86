/* SPDX-License-Identifier: Apache-2.0
 * test_journal - the standby's disks outlive its process, killed at any moment under disk load: they
 * come back as one epoch, not older than what the primary was told to be durable.
 *
 * What the page cache hides from this test (a kill is no power cut) is tried by
 * tests/unit/test_journal_crash.c.
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 8, WAIT_MS = 30000 };

struct durable {
	int known;
	json_int_t epoch, size, lag;
	char state[16];
};

static struct durable durable_of(struct twohosts *p, int host)
{
	json_t *o = th_rheactl(p, host, "status");
	json_t *vm = json_array_get(json_object_get(o, "vms"), 0);
	json_t *d = json_object_get(vm, "durable"), *e = json_object_get(d, "epoch");
	struct durable got = {.known = json_is_integer(e),
			      .epoch = json_integer_value(e)};
	const char *state = json_string_value(json_object_get(d, "state"));

	got.size = json_integer_value(json_object_get(d, "journal_size"));
	got.lag = json_integer_value(json_object_get(d, "lag_epochs"));
	(void)snprintf(got.state, sizeof(got.state), "%s", state ? state : "");
	json_decref(o);
	return got;
}

/* Until the primary knows that at least @epoch is durable on the standby. */
static struct durable await_durable(struct twohosts *p, int owner, json_int_t epoch)
{
	uint64_t end = clock_mono_ns() + (uint64_t)WAIT_MS * 1000000;
	struct durable d;

	while (d = durable_of(p, owner), !d.known || d.epoch < epoch) {
		if (clock_mono_ns() > end)
			th_fail(p, "epoch %lld is not durable after %d ms, but %lld (%s)",
				(long long)epoch, WAIT_MS,
				d.known ? (long long)d.epoch : -1, d.state);
		th_sleep_ms(5);
	}
	return d;
}

/* How often the log of @host says that its disks were recovered, and to which epoch last. */
static unsigned recoveries(struct twohosts *p, int host, long long *epoch)
{
	static const char text[] = "recovered to the end of epoch ";
	char path[256], line[1024], *at;
	unsigned n = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s.log", p->dir, p->host[host].name);
	f = fopen(path, "r");
	if (!f)
		th_fail(p, "%s cannot be read", path);
	while (fgets(line, sizeof(line), f)) {
		at = strstr(line, text);
		if (!at)
			continue;
		*epoch = strtoll(at + strlen(text), NULL, 10);
		n++;
	}
	(void)fclose(f); /* was only read */
	return n;
}

static void one_round(struct twohosts *p, int owner)
{
	uint64_t end = clock_mono_ns() + (uint64_t)WAIT_MS * 1000000;
	long long epoch = -1;
	unsigned before = recoveries(p, !owner, &epoch);
	struct durable d;
	struct vm_view v;

	(void)await_durable(p, owner, 3);
	th_sleep_ms(th_random(300));
	d = durable_of(p, owner);
	if (th_view(p, !owner, &v) || v.pid <= 0)
		th_fail(p, "the standby has no process");
	(void)kill(v.pid, SIGKILL);
	while (recoveries(p, !owner, &epoch) == before) {
		if (clock_mono_ns() > end)
			th_fail(p, "the standby's disks were not recovered");
		th_sleep_ms(5);
	}
	if (epoch < d.epoch)
		th_fail(p, "epoch %lld was durable, and %lld came back",
			(long long)d.epoch, epoch);
	if (th_wait_protected(p, WAIT_MS) != owner)
		th_fail(p, "it is not protected again");
	printf("epoch %lld was durable, %lld came back\n", (long long)d.epoch, epoch);
}

int main(int argc, char **argv)
{
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=500",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 5000,
		.heartbeat_ms = 50,
		.missed = 5,
		.extra_vm = "disk_buffer = \"4M\"; journal_size = \"8M\";",
	};
	static struct twohosts p;
	struct observed o;
	int owner;

	th_begin(argc, argv, NULL);
	th_up(&p, &opts);
	owner = th_wait_protected(&p, WAIT_MS);
	if (owner < 0)
		th_fail(&p, "the VM is not protected");
	if (await_durable(&p, owner, 0).size != (8 << 20) - 8192)
		th_fail(&p, "the journal has not the size that the config says");
	for (int i = 0; i < ROUNDS; i++)
		one_round(&p, owner);
	observer_read(p.obs, &o);
	if (o.violations)
		th_fail(&p, "%s", o.first_violation);
	th_end(&p);
	return 0;
}
