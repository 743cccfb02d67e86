/* SPDX-License-Identifier: Apache-2.0
 * test_snapmem - snapshots with memory while the guest writes memory and disk: both hosts have saved the same
 * memory, byte for byte, although one did so under the running guest and the other under its epochs; a
 * host that is alone saves it, too; and a standby that dies meanwhile keeps nobody waiting.
 *
 *   test_snapmem [ROUNDS [SEED]]
 */
#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/gm.h"
#include "remus/saved.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WAIT_MS = 20000, ENOUGH = 20, MEMORY_MIB = 64, TOLD_S = 10 };

static const char *rheactl;

static int protected_on(struct twohosts *p)
{
	int host = th_protected(p, WAIT_MS);

	th_goes_on(p, host, ENOUGH, WAIT_MS);
	return host;
}

/* With memory, and on the peer if there is to be one. */
static void create(struct twohosts *p, int host, const char *name, const char *peer)
{
	char words[128];
	json_t *o;

	(void)snprintf(words, sizeof(words), "snapshot create v %s --memory", name);
	o = th_rheactl(p, host, words);
	if (!json_is_true(json_object_get(o, "memory")) ||
	    strcmp(json_string_value(json_object_get(o, "peer")), peer) != 0)
		th_fail(p, "%s: %s", words, o ? json_dumps(o, 0) : "failed");
	json_decref(o);
}

static struct gm *load(struct twohosts *p, int host, const char *name,
		       struct saved_info *info)
{
	struct buf state = {0}, said = {0};
	struct err err = {0};
	char path[400];
	struct gm *gm;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/disk@%s.mem", p->host[host].dir,
		       name); /* fits */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || gm_create((uint64_t)MEMORY_MIB << 20, &gm, &err) ||
	    saved_load(fd, gm, &state, &said, info, &err))
		th_fail(p, "%s: %s", path, fd < 0 ? "not there" : err.msg);
	if (!state.len || !said.len)
		th_fail(p, "%s: no machine or no addresses", path);
	buf_fini(&state);
	buf_fini(&said);
	close(fd);
	return gm;
}

static void expect_same(struct twohosts *p, const char *name)
{
	struct saved_info a, b;
	struct gm *ga = load(p, 0, name, &a), *gb = load(p, 1, name, &b);
	uint64_t bad = 0, any = 0;

	if (a.epoch != b.epoch || a.term != b.term || a.epoch == UINT64_MAX)
		th_fail(p, "%s: epoch %llu on a, %llu on b", name,
			(unsigned long long)a.epoch, (unsigned long long)b.epoch);
	for (uint64_t i = 0; i < gm_pages(ga); i++) {
		const uint8_t *page = gm_base(ga) + i * GM_PAGE;

		bad += memcmp(page, gm_base(gb) + i * GM_PAGE, GM_PAGE) != 0;
		any += page[0] || memcmp(page, page + 1, GM_PAGE - 1) != 0;
	}
	if (bad || !any)
		th_fail(p,
			"%s: of %llu pages that are not empty %llu differ between the hosts",
			name, (unsigned long long)any, (unsigned long long)bad);
	gm_destroy(ga);
	gm_destroy(gb);
}

static void one_round(struct twohosts *p, unsigned round)
{
	int host = protected_on(p);
	char name[32];

	(void)snprintf(name, sizeof(name), "both%u", round); /* fits */
	create(p, host, name, "complete");
	expect_same(p, name);
	th_goes_on(p, host, ENOUGH, WAIT_MS);
	if (th_wait_protected(p, WAIT_MS) != host)
		th_fail(p, "%s: a snapshot moved the VM", name);
}

static void alone(struct twohosts *p)
{
	int host = protected_on(p);
	pid_t other = p->host[!host].rhead;
	uint64_t end = clock_mono_ns() + (uint64_t)WAIT_MS * 1000000;
	struct saved_info info;
	struct vm_view v = {0};

	(void)kill(other, SIGKILL); /* it is our child */
	th_reap(other);
	p->host[!host].rhead = 0;
	while (th_view(p, host, &v) || strcmp(v.state, "running-alone") != 0) {
		if (clock_mono_ns() > end)
			th_fail(p, "it is %s", v.state);
		th_sleep_ms(2);
	}
	th_goes_on(p, host, ENOUGH, WAIT_MS);
	create(p, host, "alone", "none");
	gm_destroy(load(p, host, "alone", &info));
	if (info.epoch != UINT64_MAX)
		th_fail(p, "alone, and there is an epoch");
	th_goes_on(p, host, ENOUGH, WAIT_MS);
	th_rhead_start(p, !host);
	(void)protected_on(p);
}

/* The standby dies when the memory is saved on one of the hosts: @at. Who asked for the snapshot is told soon that it is
 * made on one host only, and the VM is protected again. */
static void lose_standby(struct twohosts *p, int at_standby)
{
	int host = protected_on(p);
	uint64_t end = clock_mono_ns() + (uint64_t)WAIT_MS * 1000000;
	struct vm_view v;
	pid_t pid;

	if (th_view(p, !host, &v))
		th_fail(p, "no process to kill");
	th_crash_at(p, at_standby ? !host : host,
		    at_standby ? "memory-saved" : "memory-saved+2000");
	pid = fork();
	if (pid < 0)
		th_fail(p, "fork");
	if (!pid)
		_exit(th_sh("timeout %d %s --socket %s --json snapshot create v lost%d --memory | "
			    "grep -q '\"peer\": *\"failed\"'",
			    TOLD_S, rheactl, p->host[host].sock, at_standby)
			      ? 1
			      : 0);
	while (!th_crashed(p, at_standby ? !host : host)) {
		if (clock_mono_ns() > end)
			th_fail(p, "no memory is saved");
		th_sleep_ms(1);
	}
	if (!at_standby && kill(v.pid, SIGKILL))
		th_fail(p, "no process to kill");
	if (th_reap(pid))
		th_fail(p, "the standby died while memory was saved: not told in %d s",
			TOLD_S);
	if (protected_on(p) != host)
		th_fail(p, "it moved with its standby's death");
}

/* Back to a snapshot with memory: the guest goes on from there, and finds the disk of that moment. */
static void back(struct twohosts *p, const char *name)
{
	int host = protected_on(p), ran;
	struct saved_info info;
	struct observed o;
	char cmd[900];

	create(p, host, name, "complete");
	gm_destroy(load(p, host, name, &info));
	th_goes_on(p, host, ENOUGH, WAIT_MS);
	/* A new one, which does not know what it will see again. */
	observer_stop(p->obs);
	(void)snprintf(
		cmd, sizeof(cmd),
		"timeout 60 %s --socket %s snapshot revert v %s --force >>%s/revert.log 2>&1",
		rheactl, p->host[host].sock, name, p->dir); /* fits */
	ran = system(cmd);
	p->obs = observer_start(p->ns_c, p->port[0], p->port[1]);
	if (ran || !p->obs)
		th_fail(p, "the VM cannot be taken back to %s", name);
	th_goes_on(p, host, ENOUGH, WAIT_MS);
	if (protected_on(p) != host)
		th_fail(p, "back at %s, it changed hosts", name);
	observer_read(p->obs, &o);
	if (o.boots)
		th_fail(p, "back at %s, it has booted", name);
}

int main(int argc, char **argv)
{
	unsigned rounds = 3;
	char disk[700];
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=256 net=1 disk=1 flush=7 pace=300",
		.memory_mib = MEMORY_MIB,
		.vcpus = 1,
		.interval_us = 5000,
		.heartbeat_ms = 50,
		.missed = 5,
		.disk = disk,
	};
	static struct twohosts p;

	th_begin(argc, argv, &rounds);
	rheactl = th_built("rheactl");
	(void)snprintf(disk, sizeof(disk),
		       "%s image create disk.vhd --size 16M --block-size 64K >/dev/null",
		       rheactl); /* fits */
	th_up(&p, &opts);
	for (unsigned i = 0; i < rounds; i++)
		one_round(&p, i);
	back(&p, "back");
	lose_standby(&p, 0);
	lose_standby(&p, 1);
	alone(&p);
	printf("%u snapshots with memory, the same on both hosts\n", rounds);
	th_end(&p);
	return 0;
}
