/* SPDX-License-Identifier: Apache-2.0
 * test_vhd - a protected VM whose disk is a VHD image, of another kind on either host: taken over again
 * and again, the guest finds on it what it wrote; and the images are whole in the end.
 *
 *   test_vhd [ROUNDS [SEED]]
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { PROTECT_MS = 20000, LEAST_FRAMES = 20 };

static const char *rheactl;

/* rheactl image with these words; its exit status is 0. */
static int image(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int image(const char *fmt, ...)
{
	char words[512], cmd[1280];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(words, sizeof(words), fmt, ap); /* fits */
	va_end(ap);
	(void)snprintf(cmd, sizeof(cmd), "%s image %s >/dev/null 2>&1", rheactl,
		       words); /* fits */
	return system(cmd) == 0;
}

/* A snapshot of the VM, which runs on. */
static void take(struct twohosts *p, int host, const char *name)
{
	if (th_sh("timeout 60 %s --socket %s snapshot create v %s >/dev/null 2>&1",
		  rheactl, p->host[host].sock, name))
		th_fail(p, "no snapshot %s", name);
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
}

/* While the VM runs: a whole backup of one snapshot, what changed until the next one on top of it, and what both make is that
 * one. Of what changed nothing is read twice. The image itself is in use. */
static void back_up(struct twohosts *p, int host)
{
	static const char script[] =
		"set -e; new=disk@n2.vhd old=disk@n1.vhd; exec >backup.log 2>&1\n"
		"refused() { if \"$@\"; then exit 1; fi; }\n"
		"refused $r image export disk.vhd\n"
		"$r image export $old --once | { read -r uri && nbdcopy \"$uri\" full.raw; }\n"
		"refused $r image coalesce $new\n"
		"$r image --json export $new --since $old --once >served & end=$!\n"
		"until [ -s served ]; do kill -0 $end; done\n"
		"uri=$(head -n 1 served | jq -r .changed_uri)\n"
		"qemu-img convert -f raw -O qcow2 -B full.raw -F raw \"$uri\" inc.qcow2\n"
		"wait $end\n"
		"qemu-img convert -f qcow2 -O raw inc.qcow2 got.raw\n"
		"$r image convert $new want.raw\n"
		"cmp got.raw want.raw\n"
		"refused cmp -s full.raw want.raw\n"
		"read=$(tail -n 1 served | jq .read_bytes)\n"
		"data=$($r image --json changed $new --since $old | tail -n 1 | jq .data_bytes)\n"
		"[ $data -gt 0 ] && [ $read -ge $data ] && [ $read -le $((data + 65536)) ]\n";
	take(p, host, "n1");
	take(p, host, "n2");
	if (th_sh("cd %s && r=%s timeout 100 bash -c '%s'", p->host[host].dir, rheactl,
		  script))
		th_fail(p, "the backup failed; see backup.log");
}

/* A child of a child of a fixed image on a, a dynamic one on b. */
static void disk_command(char *out, size_t room)
{
	(void)snprintf(out, room,
		       "r='%s image' && case $PWD in "
		       "*/a) $r create d1.vhd --size 16M --type fixed && "
		       "$r create d2.vhd --parent d1.vhd --block-size 64K && "
		       "$r clone d2.vhd disk.vhd ;; "
		       "*) $r create disk.vhd --size 16M --block-size 64K ;; esac",
		       rheactl); /* fits */
}

static void one_round(struct twohosts *p, unsigned round)
{
	int host = th_wait_protected(p, PROTECT_MS);
	struct vm_view v;

	if (host < 0 || th_view(p, host, &v))
		th_fail(p, "round %u: the VM is not protected", round);
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	if (!round)
		back_up(p, host);
	if (image("check %s/disk.vhd", p->host[host].dir) ||
	    image("check %s/disk.vhd", p->host[!host].dir))
		th_fail(p, "round %u: an image that is in use was not refused", round);
	if (kill(v.pid, SIGKILL))
		th_fail(p, "round %u: no process to kill", round);
	th_goes_on(p, !host, LEAST_FRAMES, PROTECT_MS);
}

/* A rhea-vm ends a moment after its rhead. */
static void wait_free(struct twohosts *p, int host)
{
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/disk.vhd", p->host[host].dir); /* fits */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX))
		th_fail(p, "%s cannot be locked", path);
	close(fd);
}

int main(int argc, char **argv)
{
	unsigned rounds = 10;
	char disk[1500];
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 flush=7 pace=2000",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
		.disk = disk,
	};
	static struct twohosts p;

	th_begin(argc, argv, &rounds);
	rheactl = th_built("rheactl");
	disk_command(disk, sizeof(disk));
	th_up(&p, &opts);
	for (unsigned r = 0; r < rounds; r++)
		one_round(&p, r);
	if (th_wait_protected(&p, PROTECT_MS) < 0)
		th_fail(&p, "not protected in the end");
	th_down(&p);
	for (int i = 0; i < 2; i++) {
		wait_free(&p, i);
		if (!image("check %s/disk.vhd", p.host[i].dir) ||
		    !image("convert %s/disk.vhd %s/flat.vhd", p.host[i].dir,
			   p.host[i].dir))
			th_fail(&p, "host %s: the image is damaged", p.host[i].name);
	}
	th_end(&p);
	printf("%u takeovers on VHD images\n", rounds);
	return 0;
}
