/* SPDX-License-Identifier: Apache-2.0
 * test_wire - tcp and dpdk as rhea-vm has them, between two network namespaces, over a wire that loses,
 * doubles, reorders, delays and changes frames, and over one that goes silent.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "tests/native/badwire.h"
#include "tests/native/conform.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FLOOD = 24 << 20, WIRE_BYTES = 512 << 10 };

static struct badwire wire;

static const struct {
	const char *name, *module, *args;
	int flips_cut;
} kinds[] = {
	{"tcp", NULL, NULL, 0},
	/* A changed byte of content gets through to the seal, which ends the link. */
	{"dpdk", "dpdk",
	 "--vdev=net_af_packet0,iface=wire,framecnt=4096,qdisc_bypass=0 window=4", 1},
};

static const struct {
	const char *name, *group;
	unsigned lose, twice, late, flip, delay_us;
} wires[] = {
	{"a sound wire", "whole", 0, 0, 0, 0, 0},
	{"a sound wire", "harm", 0, 0, 0, 0, 0},
	{"a sound wire", "hello", 0, 0, 0, 0, 0},
	{"1 % loss", "wire", 10, 0, 0, 0, 0},
	{"duplicates", "wire", 0, 50, 0, 0, 0},
	{"out of order", "wire", 0, 0, 30, 0, 0},
	{"100 ms away", "wire", 0, 0, 0, 0, 100000},
	{"all of it", "wire", 10, 20, 20, 0, 5000},
	{"flipped bits", "flips", 0, 0, 0, 10, 0},
	{"silence", "silent", 0, 0, 0, 0, 0},
};

static void set_wire(unsigned i)
{
	struct badwire_knobs *k = wire.knobs;

	atomic_store(&k->lose, wires[i].lose);
	atomic_store(&k->twice, wires[i].twice);
	atomic_store(&k->late, wires[i].late);
	atomic_store(&k->flip, wires[i].flip);
	atomic_store(&k->delay_us, wires[i].delay_us);
}

static int is_bad(unsigned i)
{
	return wires[i].lose || wires[i].twice || wires[i].late || wires[i].flip;
}

static void silence(struct conform *c, int on)
{
	atomic_store(&wire.knobs->silent, (unsigned)on); /* both sides want the same */
}

static void sound_again(struct conform *c)
{
	set_wire(0);
}

static int one_side(struct conform *c, unsigned kind)
{
	const char *out = getenv("B") ? getenv("B") : "build/out";
	struct err err = {0};
	int failed = 0, run = 0, n;
	unsigned before;

	if (kinds[kind].module) {
		c->module = conform_load(out, kinds[kind].module);
		if (c->module->open(kinds[kind].args, &c->dev, &err)) {
			(void)fprintf(stderr, "side %d: %s\n", c->side, err.msg);
			return 1;
		}
	}
	c->flips_cut = kinds[kind].flips_cut;
	for (unsigned i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
		conform_meet(c);
		set_wire(i); /* both sides want the same */
		conform_meet(c);
		before = atomic_load(&wire.knobs->harmed);
		n = conform_group(c, wires[i].group, &run);
		/* What the wire was to do, it did. */
		n += is_bad(i) == (before == atomic_load(&wire.knobs->harmed));
		if (!c->side)
			printf("%s: %s over %s: %s\n", n ? "FAILED" : "ok",
			       wires[i].group, kinds[kind].name, wires[i].name);
		failed += n;
	}
	if (c->module)
		c->module->close(c->dev);
	return failed;
}

static pid_t start_side(int side, const int sock[2], unsigned kind)
{
	struct conform c = {.side = side,
			    .sock = sock[side],
			    .connect = conform_connect_path,
			    .address = "10.99.0.2",
			    .flood = FLOOD,
			    .wire_bytes = WIRE_BYTES,
			    .silence = silence,
			    .sound_again = sound_again};
	pid_t pid = fork();
	int failed;

	if (pid < 0)
		exit(2);
	if (pid)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* best effort */
	(void)close(sock[!side]);		/* so that the other's death is seen */
	badwire_enter(&wire, side);
	failed = one_side(&c, kind);
	exit(failed < 100 ? failed : 100);
}

static int both_sides(unsigned kind)
{
	int sock[2], status, failed = 0;
	pid_t pid[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		return 1;
	for (int i = 0; i < 2; i++)
		pid[i] = start_side(i, sock, kind);
	(void)close(sock[0]); /* the children's */
	(void)close(sock[1]);
	for (int i = 0; i < 2; i++)
		if (waitpid(pid[i], &status, 0) != pid[i] || status)
			failed++;
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	setbuf(stdout, NULL);
	badwire_up(&wire);
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (argc < 2 || !strcmp(argv[1], kinds[i].name))
			failed += both_sides(i);
	badwire_down(&wire);
	return failed ? 1 : 0;
}
