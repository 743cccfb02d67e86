/* SPDX-License-Identifier: Apache-2.0
 * test_rounds - the primary dies under load, the other takes over, the dead one returns and gets
 * what it lacks, roles are swapped: round after round, and in the end both hosts' disks are the same.
 *
 * A raw disk and a VHD, of another kind on either host, full of data. What the guest writes depends
 * on its clock, so the one that goes on does not write what the dead one did. In each round rhea-vm,
 * rhead or both are killed, as the seed says. After it there has been one takeover, the guest's
 * count has gone on, and what returned looked at little of its disks. In the end somebody presses
 * the guest's power button: its last epoch is committed, so nothing may differ.
 *
 *   test_rounds [ROUNDS [SEED]]
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum {
	TAKEOVER_MS = 8000,
	PROTECT_MS = 30000,
	STOP_MS = 30000,
	DISK_MIB = 512,		       /* each of two */
	MOST = 2 * DISK_MIB / 8 << 20, /* that a resync looks at, in bytes */
	LOAD_MS = 500, /* in step, before the next one dies: up to so long again */
	SUM_LEN = 65,
};

enum deed { KILL_VM, KILL_RHEAD, KILL_BOTH, DEEDS };
static const char *const deed_name[] = {"rhea-vm", "rhead", "rhead and rhea-vm"};

struct sums {
	unsigned done[DEEDS];
	json_int_t looked, most, sent; /* bytes */
};

static const char *rheactl;

/* The same data on all four images, so that comparing one as a whole means to read it. */
static void fill(struct twohosts *p)
{
	const char *a = p->host[0].dir, *b = p->host[1].dir;
	static uint8_t buf[1 << 20];
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/disk.img", a); /* fits */
	fd = open(path, O_WRONLY | O_CLOEXEC);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(1 + th_random(255));
	for (unsigned i = 0; i < DISK_MIB; i++) {
		memcpy(buf, &i, sizeof(i));
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			th_fail(p, "%s cannot be written", path);
	}
	close(fd);
	if (th_sh("cp %s/disk.img %s/disk.img", a, b) ||
	    th_sh("%s image convert %s/disk.img %s/disk.vhd --type fixed >&2", rheactl, a,
		  a) ||
	    th_sh("%s image convert %s/disk.img %s/disk.vhd >&2", rheactl, b, b))
		th_fail(p, "the disks cannot be made");
}

static json_int_t number(json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* The sync that led to this protection looked at little and sent little. What was written after the
 * greeting is sent without a look. */
static void expect_partial(struct twohosts *p, int host, unsigned round, struct sums *t)
{
	json_t *st = th_rheactl(p, host, "status");
	json_t *s = json_object_get(json_array_get(json_object_get(st, "vms"), 0),
				    "disk_sync");
	json_int_t looked = number(s, "looked_bytes"), sent = number(s, "sent_bytes");
	const char *state = json_string_value(json_object_get(s, "state"));
	const char *why = json_string_value(json_object_get(s, "why"));

	if (!state || strcmp(state, "done") != 0)
		th_fail(p, "round %u: the disks' sync is not done", round);
	if (!json_is_true(json_object_get(s, "partial")))
		th_fail(p, "round %u: a full comparison: %s", round, why ? why : "");
	if (!looked || looked > MOST || sent > MOST)
		th_fail(p, "round %u: %lld bytes of %d MiB compared, %lld sent", round,
			(long long)looked, 2 * DISK_MIB, (long long)sent);
	t->looked += looked;
	t->sent += sent;
	t->most = looked > t->most ? looked : t->most;
	json_decref(st);
}

static void die(struct twohosts *p, int host, enum deed d, pid_t vm)
{
	if (d != KILL_VM && kill(p->host[host].rhead, SIGKILL))
		th_fail(p, "rhead: %s", strerror(errno));
	/* Its end may follow that of its rhead at once. */
	if (d != KILL_RHEAD && kill(vm, SIGKILL) && errno != ESRCH)
		th_fail(p, "rhea-vm: %s", strerror(errno));
}

static void wait_frames_from(struct twohosts *p, int host, uint64_t since)
{
	uint64_t end = clock_mono_ns() + (uint64_t)TAKEOVER_MS * 1000000;
	struct observed o;

	while (observer_read(p->obs, &o), o.last_host != host || o.frames <= since) {
		if (clock_mono_ns() > end)
			th_fail(p, "no frame from host %s after %d ms",
				p->host[host].name, TAKEOVER_MS);
		th_sleep_ms(1);
	}
}

/* Protected by @host now, after exactly one takeover since @before and @seen. */
static void expect_swapped(struct twohosts *p, int host, const struct vm_view *before,
			   const struct observed *seen)
{
	struct observed o;
	struct vm_view v;

	if (th_wait_protected(p, PROTECT_MS) != host)
		th_fail(p, "not protected by host %s after %d ms", p->host[host].name,
			PROTECT_MS);
	if (th_view(p, host, &v) || v.term != before->term + 1)
		th_fail(p, "term %llu after %llu", (unsigned long long)v.term,
			(unsigned long long)before->term);
	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s", o.first_violation);
	if (o.switches != seen->switches + 1 || o.last_n <= seen->last_n)
		th_fail(p, "the guest's frames changed hosts %llu times",
			(unsigned long long)(o.switches - seen->switches));
}

static void one_round(struct twohosts *p, unsigned round, struct sums *t)
{
	enum deed d = (enum deed)th_random(DEEDS);
	int host = th_wait_protected(p, PROTECT_MS);
	struct observed seen;
	struct vm_view v;

	if (host < 0 || th_view(p, host, &v) || !v.pid)
		th_fail(p, "round %u: the VM is not protected", round);
	th_sleep_ms(LOAD_MS + th_random(LOAD_MS));
	observer_read(p->obs, &seen);
	die(p, host, d, v.pid);
	wait_frames_from(p, !host, seen.frames);
	if (d != KILL_VM) {
		th_reap(p->host[host].rhead);
		th_rhead_start(p, host);
	}
	expect_swapped(p, !host, &v, &seen);
	expect_partial(p, !host, round, t);
	t->done[d]++;
	printf("round %u: killed %s of host %s\n", round, deed_name[d],
	       p->host[host].name);
}

/* Off on both hosts, in good order. */
static void stop(struct twohosts *p)
{
	uint64_t end = clock_mono_ns() + (uint64_t)STOP_MS * 1000000;
	int host = th_wait_protected(p, PROTECT_MS);
	struct vm_view v;

	if (host < 0)
		th_fail(p, "not protected in the end");
	json_decref(th_rheactl(p, host, "vm stop v")); /* its outcome is awaited here */
	for (int i = 0; i < 2; i++)
		while (th_view(p, i, &v) || v.pid || strcmp(v.state, "off") != 0) {
			if (clock_mono_ns() > end)
				th_fail(p, "host %s is not off but %s", p->host[i].name,
					v.state);
			th_sleep_ms(5);
		}
}

static void checksum(struct twohosts *p, int host, const char *file, char out[SUM_LEN])
{
	char cmd[400];
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd), "sha256sum < %s/%s", p->host[host].dir,
		       file); /* fits */
	f = popen(cmd, "r");
	if (!f || !fgets(out, SUM_LEN, f) || strlen(out) != SUM_LEN - 1)
		th_fail(p, "no checksum of %s", file);
	(void)pclose(f); /* the checksum is there */
}

static void expect_same(struct twohosts *p, const char *file)
{
	char sum[2][SUM_LEN];

	checksum(p, 0, file, sum[0]);
	checksum(p, 1, file, sum[1]);
	if (strcmp(sum[0], sum[1]) != 0)
		th_fail(p, "%s differs: %s on a, %s on b", file, sum[0], sum[1]);
	printf("%s: %s on both\n", file, sum[0]);
}

static void expect_images_same(struct twohosts *p)
{
	const char *a = p->host[0].dir, *b = p->host[1].dir;

	for (int i = 0; i < 2; i++) {
		const char *dir = p->host[i].dir;

		if (th_sh("%s image check %s/disk.vhd >&2", rheactl, dir) ||
		    th_sh("%s image convert %s/disk.vhd %s/flat.img >&2", rheactl, dir,
			  dir))
			th_fail(p, "host %s: the VHD is damaged", p->host[i].name);
	}
	expect_same(p, "disk.img");
	expect_same(p, "flat.img");
	if (th_sh("qemu-img compare -f vpc -F vpc %s/disk.vhd %s/disk.vhd >&2", a, b))
		th_fail(p, "the VHDs differ");
	if (th_sh("rm %s/*.img %s/*.img %s/*.vhd %s/*.vhd", a, b, a, b))
		th_fail(p, "the images cannot be removed");
}

int main(int argc, char **argv)
{
	unsigned rounds = 4;
	struct th_opts opts = {
		.cmdline =
			"mode=counter dirty=64 set=2048 net=1 disk=2 scatter=2048 flush=16 "
			"pace=1000 button=1",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
		.disk_mib = DISK_MIB,
		.disk = "true",
		.both_kinds = 1,
		.on_disks = fill,
	};
	static struct twohosts p;
	struct sums t = {0};

	th_begin(argc, argv, &rounds);
	rheactl = th_built("rheactl");
	th_up(&p, &opts);
	for (unsigned r = 0; r < rounds; r++)
		one_round(&p, r, &t);
	stop(&p);
	expect_images_same(&p);
	printf("%u rounds (%u rhea-vm, %u rhead, %u both): of %d MiB %lld KiB compared at most, %lld "
	       "in the mean, %lld sent\n",
	       rounds, t.done[KILL_VM], t.done[KILL_RHEAD], t.done[KILL_BOTH],
	       2 * DISK_MIB, (long long)t.most >> 10,
	       (long long)(rounds ? t.looked / rounds : 0) >> 10,
	       (long long)(rounds ? t.sent / rounds : 0) >> 10);
	th_end(&p);
	return 0;
}
