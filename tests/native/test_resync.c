/* SPDX-License-Identifier: Apache-2.0
 * test_resync - the primary is killed with writes that were never committed, the other takes over, and
 * what was killed returns: only what either has marked is compared, only what differs is sent, and
 * the images are alike.
 *
 * Then a bit in a real standby's image flips, and `rheactl disk verify` finds and mends it.
 *
 *   test_resync [ROUNDS [SEED]]
 */
#include "diskrep/diskrep.h"
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PROTECT_MS = 20000,
	DISK_MIB = 512,
	ZONE = 32 << 20, /* where the guest writes, in the time that this takes */
	TAIL = 4, /* chunks written in the last epochs: a header's, one or two of turns */
};

static int image(struct twohosts *p, int host)
{
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/disk.img", p->host[host].dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		th_fail(p, "%s cannot be opened", path);
	return fd;
}

/* Data all over the disk, so that a full comparison reads it all. */
static void fill(struct twohosts *p)
{
	static uint8_t buf[1 << 20];
	int fd[2] = {image(p, 0), image(p, 1)};

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)th_random(256);
	for (off_t at = ZONE; at < (off_t)DISK_MIB << 20; at += (off_t)sizeof(buf))
		for (int i = 0; i < 2; i++)
			if (pwrite(fd[i], buf, sizeof(buf), at) != sizeof(buf))
				th_fail(p, "the disk image cannot be written");
	close(fd[0]);
	close(fd[1]);
}

/* The whole images, byte for byte. The guest was killed: what it wrote last was not committed. */
static void expect_alike(struct twohosts *p)
{
	static uint8_t a[DR_CHUNK], b[DR_CHUNK];
	int fd[2] = {image(p, 0), image(p, 1)};
	unsigned differ = 0;
	off_t at = 0;
	ssize_t n;

	while ((n = pread(fd[0], a, sizeof(a), at)) > 0) {
		if (pread(fd[1], b, sizeof(b), at) != n)
			th_fail(p, "an image is shorter than the other");
		differ += memcmp(a, b, (size_t)n) != 0;
		at += n;
	}
	if (n || at != (off_t)DISK_MIB << 20)
		th_fail(p, "the images cannot be compared");
	if (differ > TAIL)
		th_fail(p, "the images differ in %u chunks", differ);
	printf("the images differ in %u chunks, all of the last epochs\n", differ);
	close(fd[0]);
	close(fd[1]);
}

static json_int_t number(json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* What the sync that led to this protection did: borrowed from *status_out, which is owned. */
static json_t *last_sync(struct twohosts *p, int host, json_t **status_out)
{
	*status_out = th_rheactl(p, host, "status");
	return json_object_get(json_array_get(json_object_get(*status_out, "vms"), 0),
			       "disk_sync");
}

static void expect_partial(struct twohosts *p, int host, unsigned round)
{
	json_t *st, *s = last_sync(p, host, &st);
	json_int_t looked = number(s, "looked_bytes"), sent = number(s, "sent_bytes");

	if (strcmp(json_string_value(json_object_get(s, "state")), "done") != 0)
		th_fail(p, "round %u: the disks' sync is not done", round);
	if (!json_is_true(json_object_get(s, "partial")))
		th_fail(p, "round %u: a full comparison: %s", round,
			json_string_value(json_object_get(s, "why")));
	/* The guest has written in a tenth of its disk; active extents are looked at whole. */
	if (!looked || looked > ZONE + (8 << 20) || sent > looked)
		th_fail(p, "round %u: %lld bytes compared, %lld sent", round,
			(long long)looked, (long long)sent);
	printf("round %u: %lld KiB compared, %lld KiB sent, of %d MiB\n", round,
	       (long long)looked >> 10, (long long)sent >> 10, DISK_MIB);
	json_decref(st);
}

static void one_round(struct twohosts *p, unsigned round)
{
	int host = th_wait_protected(p, PROTECT_MS);
	struct vm_view v;
	struct observed o;

	if (host < 0 || th_view(p, host, &v) || !v.pid)
		th_fail(p, "round %u: the VM is not protected", round);
	if (round)
		expect_partial(p, host, round);
	th_sleep_ms(300 + th_random(300)); /* epochs go by: marks come and go */
	if (kill(v.pid, SIGKILL))
		th_fail(p, "round %u: no process to kill", round);
	if (th_wait_protected(p, PROTECT_MS) != !host)
		th_fail(p, "round %u: no takeover", round);
	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "round %u: %s", round, o.first_violation);
}

static json_int_t verified(struct twohosts *p, int host, const char *args,
			   const char *key)
{
	json_t *r = th_rheactl(p, host, args);
	json_int_t n = number(r, key);

	if (!r || number(r, "total") != (DISK_MIB << 20) / DR_CHUNK)
		th_fail(p, "%s did not end well", args);
	json_decref(r);
	return n;
}

/* A bit of the standby's image flips: told, and mended if asked for, while the guest writes on. */
static void expect_verified(struct twohosts *p, int host)
{
	int fd = image(p, !host);
	off_t at = ZONE + (off_t)th_random((DISK_MIB << 20) - ZONE);
	uint8_t byte;

	if (verified(p, host, "disk verify v", "differ"))
		th_fail(p, "the images differ");
	if (pread(fd, &byte, 1, at) != 1)
		th_fail(p, "the standby's image cannot be read");
	byte ^= 1;
	if (pwrite(fd, &byte, 1, at) != 1)
		th_fail(p, "the standby's image cannot be written");
	close(fd);
	if (verified(p, host, "disk verify v", "differ") != 1)
		th_fail(p, "a flipped bit was not found");
	if (verified(p, host, "disk verify v --repair", "repaired") != 1)
		th_fail(p, "a flipped bit was not mended");
	if (verified(p, host, "disk verify v", "differ"))
		th_fail(p, "the images differ after they were mended");
	printf("a flipped bit in the standby's image was found and mended\n");
}

int main(int argc, char **argv)
{
	unsigned rounds = 8;
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=500",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
		.disk_mib = DISK_MIB,
		.on_disks = fill,
	};
	static struct twohosts p;
	int host;

	th_begin(argc, argv, &rounds);
	th_up(&p, &opts);
	for (unsigned r = 0; r < rounds; r++)
		one_round(&p, r);
	host = th_wait_protected(&p, PROTECT_MS);
	if (host < 0)
		th_fail(&p, "not protected in the end");
	expect_partial(&p, host, rounds);
	expect_verified(&p, host);
	th_hosts_end(&p);
	expect_alike(&p);
	th_end(&p);
	return 0;
}
