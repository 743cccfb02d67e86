/* SPDX-License-Identifier: Apache-2.0
 * test_diskfault - disks that fail, are full, slow, or lie, on either host: each row of diskrep/FAULTS.md with
 * two real hosts.
 *
 * Images and journals are on file systems that fail as they are told (baddisk.h). The guest checks its
 * disk in every turn, and ends if it is told an error. So whatever happens to one host while there is another
 * one: the guest goes on and sees nothing, the operator is told, and once the disk is mended the VM is
 * protected again, by itself.
 *
 *   test_diskfault [NAME of one fault]
 */
#include "ctl/vmproc.h"
#include "hv/base/clock.h"
#include "tests/native/baddisk.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	WAIT_MS = 30000,
	SLOW_MS = 2000,
	DELAY_MS = 150,
	SLOW_JOURNAL_MS = 1000,
	LIE_MS = 300,
	SOME = 64 << 10
};

static struct twohosts p;
static struct baddisk bad[2];
static const char *rheactl;

/* The images move to where the bad file system shows them; their names stay. */
static void on_disks(struct twohosts *t)
{
	for (int i = 0; i < 2; i++) {
		const char *dir = t->host[i].dir;
		char real[300], at[300];

		(void)snprintf(real, sizeof(real), "%s/real", dir); /* these fit */
		(void)snprintf(at, sizeof(at), "%s/bad", dir);
		if (baddisk_up(&bad[i], real, at) ||
		    th_sh("mv %s/disk.img %s/disk.img && ln -s bad/disk.img %s/disk.img",
			  dir, real, dir))
			th_fail(t, "host %s: no bad disk", t->host[i].name);
	}
}

static uint64_t limit(void)
{
	return clock_mono_ns() + (uint64_t)WAIT_MS * 1000000;
}

/* How often the history of @host has this text. */
static unsigned told(int host, const char *text)
{
	char cmd[800], line[1024];
	unsigned n = 0;
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd), "%s --socket %s events --count 1000 2>/dev/null",
		       rheactl, p.host[host].sock); /* fits */
	f = popen(cmd, "r");
	if (!f)
		th_fail(&p, "popen: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		n += strstr(line, text) != NULL;
	(void)pclose(f); /* what it said counts */
	return n;
}

static void await_told(int host, const char *text, unsigned before)
{
	uint64_t end = limit();

	while (told(host, text) <= before) {
		if (clock_mono_ns() > end)
			th_fail(&p, "host %s does not tell \"%s\"", p.host[host].name,
				text);
		th_sleep_ms(20);
	}
}

static struct observed look(const char *what)
{
	struct observed o;

	observer_read(p.obs, &o);
	if (o.violations)
		th_fail(&p, "%s: %s", what, o.first_violation);
	return o;
}

static int protected_by(const char *what)
{
	int host = th_wait_protected(&p, WAIT_MS);

	if (host < 0)
		th_fail(&p, "%s: not protected after %d ms", what, WAIT_MS);
	return host;
}

/* Some frames of @host after now: the guest goes on there. */
static void await_frames(int host, const char *what)
{
	uint64_t end = limit(), from = look(what).from[host];

	while (look(what).from[host] < from + 5) {
		if (clock_mono_ns() > end)
			th_fail(&p, "%s: the guest is not heard from host %s", what,
				p.host[host].name);
		th_sleep_ms(2);
	}
}

static uint64_t term_of(int host)
{
	struct vm_view v;

	if (th_view(&p, host, &v))
		th_fail(&p, "host %s does not answer", p.host[host].name);
	return v.term;
}

/* What rheactl shows of the VM on @host, owned. */
static json_t *status_of(int host)
{
	json_t *st = th_rheactl(&p, host, "status");
	json_t *vm = json_incref(json_array_get(json_object_get(st, "vms"), 0));

	json_decref(st);
	return vm;
}

static json_int_t faults(int host, const char *key)
{
	json_t *vm = status_of(host);
	json_int_t n = json_integer_value(json_object_get(
		json_array_get(json_object_get(vm, "disk_faults"), 0), key));

	json_decref(vm);
	return n;
}

struct row {
	const char *name;
	enum bad_kind kind;
	enum { READ, WRITE, SYNC } op;
	int error;
	const char *told; /* where it fails */
};

static atomic_int *knob(int host, const struct row *r)
{
	struct baddisk_knobs *k = bad[host].knobs;

	return r->op == READ	? &k->kind[r->kind].read
	       : r->op == WRITE ? &k->kind[r->kind].write
				: &k->kind[r->kind].sync;
}

/* It forgets that its disk has failed: else it would not ask again so soon. */
static void rhead_anew(int host)
{
	if (kill(p.host[host].rhead, SIGKILL))
		th_fail(&p, "rhead: %s", strerror(errno));
	th_reap(p.host[host].rhead);
	th_rhead_start(&p, host);
}

/* The primary's disk: the standby takes over, and the guest sees nothing. */
static void primary_fails(const struct row *r)
{
	int host = protected_by(r->name);
	unsigned before = told(host, r->told), moved = told(host, "asked to take over");
	unsigned lost = told(!host, "-> unlinked");
	struct observed seen = look(r->name);
	uint64_t term = term_of(host);

	atomic_store(knob(host, r), r->error);
	await_frames(!host, r->name);
	await_told(host, r->told, before);
	await_told(host, "asked to take over", moved);
	atomic_store(knob(host, r), 0);
	/* As a standby it fails as well, while it does: each link that is lost by that takes a term, too. */
	if (protected_by(r->name) != !host ||
	    term_of(!host) != term + 1 + told(!host, "-> unlinked") - lost)
		th_fail(&p, "%s: it did not move once", r->name);
	await_frames(!host, r->name);
	if (look(r->name).switches != seen.switches + 1)
		th_fail(&p, "%s: the guest's frames changed hosts more than once",
			r->name);
	printf("primary: %s: taken over by host %s\n", r->name, p.host[!host].name);
	rhead_anew(host);
}

/* The standby's: the guest goes on where it is, and is protected again when the disk works. */
static void standby_fails(const struct row *r)
{
	int host = protected_by(r->name);
	unsigned before = told(!host, r->told), lost = told(host, "unlinked");
	uint64_t switches = look(r->name).switches;

	atomic_store(knob(!host, r), r->error);
	await_told(!host, r->told, before);
	if (strstr(r->name, "stays") == NULL)
		await_told(host, "unlinked", lost);
	await_frames(host, r->name);
	atomic_store(knob(!host, r), 0);
	if (protected_by(r->name) != host)
		th_fail(&p, "%s: it moved", r->name);
	await_frames(host, r->name);
	if (look(r->name).switches != switches)
		th_fail(&p, "%s: the guest moved", r->name);
	printf("standby: %s: goes on on host %s, protected again\n", r->name,
	       p.host[host].name);
}

/* A standby whose disk takes long: nothing changes hands, what it stages is bounded. */
static void standby_slow(void)
{
	int host = protected_by("slow");
	uint64_t term = term_of(host), end;
	struct baddisk_knobs *k = bad[!host].knobs;
	struct observed seen = look("slow");
	json_t *vm;

	atomic_store(&k->kind[BAD_JOURNAL].delay_ms, DELAY_MS);
	atomic_store(&k->kind[BAD_IMAGE].delay_ms, DELAY_MS);
	end = clock_mono_ns() + SLOW_MS * UINT64_C(1000000);
	while (clock_mono_ns() < end) {
		struct vm_view v;

		if (th_view(&p, host, &v) || !v.protected || v.term != term)
			th_fail(&p, "slow: protection was lost: %s", v.state);
		th_sleep_ms(50);
	}
	vm = status_of(!host);
	if (json_integer_value(json_object_get(vm, "staged_max_bytes")) >
	    json_integer_value(json_object_get(vm, "staged_limit_bytes")))
		th_fail(&p, "slow: more is staged than may be");
	json_decref(vm);
	await_frames(host, "slow");
	atomic_store(&k->kind[BAD_JOURNAL].delay_ms, 0);
	atomic_store(&k->kind[BAD_IMAGE].delay_ms, 0);
	if (look("slow").switches != seen.switches)
		th_fail(&p, "slow: the guest moved");
	printf("standby: slow by %d ms: protected all the time, %llu frames\n", DELAY_MS,
	       (unsigned long long)(look("slow").frames - seen.frames));
}

static void primary_slow(void)
{
	int host = protected_by("slow");
	uint64_t term = term_of(host), end;
	struct baddisk_knobs *k = bad[host].knobs;
	uint64_t switches = look("slow").switches;

	atomic_store(&k->kind[BAD_IMAGE].delay_ms, DELAY_MS);
	end = clock_mono_ns() + SLOW_MS * UINT64_C(1000000);
	while (clock_mono_ns() < end) {
		struct vm_view v;

		if (th_view(&p, host, &v) || !v.protected || v.term != term)
			th_fail(&p, "slow: protection was lost: %s", v.state);
		th_sleep_ms(50);
	}
	await_frames(host, "slow");
	atomic_store(&k->kind[BAD_IMAGE].delay_ms, 0);
	await_frames(host, "slow");
	if (look("slow").switches != switches)
		th_fail(&p, "slow: the guest moved");
	printf("primary: slow by %d ms: protected all the time\n", DELAY_MS);
}

static json_int_t verify(int host, const char *how, const char *key)
{
	json_t *o = th_rheactl(&p, host, how);
	json_int_t n;

	if (!o || !json_object_get(o, key))
		th_fail(&p, "%s: no answer", how);
	n = json_integer_value(json_object_get(o, key));
	json_decref(o);
	return n;
}

/* A standby's image that loses or tears what is written there, and says that it does not: found by a comparison,
 * and repaired. */
static void standby_lies(const char *name, int tear)
{
	int host = protected_by(name);
	struct baddisk_knobs *k = bad[!host].knobs;
	atomic_int *lie = tear ? &k->kind[BAD_IMAGE].tear : &k->kind[BAD_IMAGE].lose;
	uint64_t end = limit();
	json_int_t differ;

	atomic_store(&k->kind[BAD_IMAGE].lost, 0);
	atomic_store(lie, 1);
	while (!atomic_load(&k->kind[BAD_IMAGE].lost)) {
		if (clock_mono_ns() > end)
			th_fail(&p, "%s: nothing is written", name);
		th_sleep_ms(5);
	}
	th_sleep_ms(LIE_MS);
	atomic_store(lie, 0);
	differ = verify(host, "disk verify v --repair", "differ");
	if (!differ)
		th_fail(&p, "%s: not found", name);
	if (verify(host, "disk verify v", "differ"))
		th_fail(&p, "%s: not repaired", name);
	printf("standby: %s: %lld chunks differed\n", name, (long long)differ);
}

/* Its journal has been retired a moment ago, and holds something again: the next time is some while off. */
static void await_journal(int host)
{
	uint64_t end = limit();
	json_int_t used = 0, last = 0;
	int retired = 0;

	while (!retired || used < SOME) {
		json_t *vm = status_of(host);

		last = used;
		used = json_integer_value(
			json_object_get(json_object_get(vm, "durable"), "journal_used"));
		retired |= used < last;
		json_decref(vm);
		if (clock_mono_ns() > end)
			th_fail(&p, "the journal is not used");
		th_sleep_ms(5);
	}
}

/* The same of its journal: what is missing is noticed when it would be replayed, or by the primary, which was told of
 * more; and all is compared. */
static void journal_lies(void)
{
	int host = protected_by("a journal that lies");
	struct baddisk_knobs *k = bad[!host].knobs;
	uint64_t end = limit();
	struct vm_view v, now;
	json_t *vm, *sync;

	atomic_store(&k->kind[BAD_JOURNAL].tear, 1);
	if (th_view(&p, !host, &v) || v.pid <= 0)
		th_fail(&p, "the standby has no process");
	await_journal(!host);
	if (kill(v.pid, SIGKILL))
		th_fail(&p, "the standby's process has ended");
	atomic_store(&k->kind[BAD_JOURNAL].tear, 0);
	while (th_view(&p, !host, &now) || now.pid <= 0 || now.pid == v.pid ||
	       strcmp(now.state, "standby-ready") != 0) {
		if (clock_mono_ns() > end)
			th_fail(&p, "a journal that lies: no new standby");
		th_sleep_ms(10);
	}
	if (protected_by("a journal that lies") != host)
		th_fail(&p, "a journal that lies: it moved");
	vm = status_of(host);
	sync = json_object_get(vm, "disk_sync");
	if (!json_is_false(json_object_get(sync, "partial")))
		th_fail(&p, "a journal that lies: it was believed");
	printf("standby: a journal that lies: found out, all was compared: %s\n",
	       json_string_value(json_object_get(sync, "why")));
	json_decref(vm);
}

/* A journal that takes longer to be read than a process may be silent: it is let finish. */
static void journal_slow(void)
{
	int host = protected_by("a slow journal");
	atomic_uint *delay = &bad[!host].knobs->kind[BAD_JOURNAL].delay_ms;
	uint64_t began, end = limit();
	struct vm_view v, now;

	if (th_view(&p, !host, &v) || v.pid <= 0)
		th_fail(&p, "the standby has no process");
	await_journal(!host);
	atomic_store(delay, SLOW_JOURNAL_MS);
	if (kill(v.pid, SIGKILL))
		th_fail(&p, "the standby's process has ended");
	while (th_view(&p, !host, &now) || now.pid <= 0 || now.pid == v.pid) {
		if (clock_mono_ns() > end)
			th_fail(&p, "a slow journal: no new standby");
		th_sleep_ms(10);
	}
	began = clock_mono_ns();
	v = now;
	await_told(!host, "replaying the journal", 0);
	while (clock_mono_ns() - began < (VMPROC_BUSY_MS + 2000) * UINT64_C(1000000))
		th_sleep_ms(100);
	atomic_store(delay, 0);
	if (protected_by("a slow journal") != host)
		th_fail(&p, "a slow journal: it moved");
	if (th_view(&p, !host, &now) || now.pid != v.pid ||
	    told(!host, "has not answered"))
		th_fail(&p, "a slow journal: what read it was not let finish");
	printf("standby: a slow journal: was let finish\n");
}

/* Nobody else is there. @host is left alone. */
static int be_alone(void)
{
	int host = protected_by("alone");
	uint64_t end = limit();
	struct vm_view v;

	if (kill(p.host[!host].rhead, SIGKILL))
		th_fail(&p, "rhead: %s", strerror(errno));
	th_reap(p.host[!host].rhead);
	while (th_view(&p, host, &v) || strcmp(v.state, "running-alone") != 0) {
		if (clock_mono_ns() > end)
			th_fail(&p, "host %s is not alone", p.host[host].name);
		th_sleep_ms(10);
	}
	return host;
}

/* A full disk: the guest waits, and goes on when there is room. */
static void alone_full(int host)
{
	atomic_int *write = &bad[host].knobs->kind[BAD_IMAGE].write;
	uint64_t end = limit();

	atomic_store(write, ENOSPC);
	await_told(host, "it waits for room", 0);
	while (faults(host, "waiting") != 1) {
		if (clock_mono_ns() > end)
			th_fail(&p, "no request waits");
		th_sleep_ms(5);
	}
	if (faults(host, "answered"))
		th_fail(&p, "the guest was told of a full disk");
	atomic_store(write, 0);
	await_frames(host, "room again");
	await_told(host, "works again", 0);
	printf("alone: ENOSPC: waited, and went on\n");
}

/* An error that nobody can help: the guest is told. It ends then, which it is made for. */
static void alone_error(int host)
{
	uint64_t end = limit();

	atomic_store(&bad[host].knobs->kind[BAD_IMAGE].write, EIO);
	await_told(host, "the guest was told", 0);
	while (!faults(host, "answered")) {
		if (clock_mono_ns() > end)
			th_fail(&p, "the guest was told nothing");
		th_sleep_ms(5);
	}
	printf("alone: EIO: the guest was told\n");
}

static const struct row primary_rows[] = {
	{"a write fails", BAD_IMAGE, WRITE, EIO, "a write at"},
	{"a read fails", BAD_IMAGE, READ, EIO, "a read at"},
	{"a flush fails", BAD_IMAGE, SYNC, EIO, "a flush at"},
	{"the disk is full", BAD_IMAGE, WRITE, ENOSPC, "No space left on device"},
};
static const struct row standby_rows[] = {
	{"an image cannot be written", BAD_IMAGE, WRITE, EIO,
	 "a disk image cannot be written"},
	{"an image cannot be flushed", BAD_IMAGE, SYNC, EIO,
	 "a disk image cannot be flushed"},
	{"the disk is full", BAD_IMAGE, WRITE, ENOSPC, "a disk image cannot be written"},
	{"the journal cannot be written", BAD_JOURNAL, WRITE, EIO,
	 "the disk journal failed"},
};

static int wants(const char *only, const char *name)
{
	return !only || !strcmp(only, name);
}

static void all_faults(const char *only)
{
	int host;

	for (unsigned i = 0; i < sizeof(standby_rows) / sizeof(standby_rows[0]); i++)
		if (wants(only, standby_rows[i].name))
			standby_fails(&standby_rows[i]);
	if (wants(only, "slow")) {
		standby_slow();
		primary_slow();
	}
	if (wants(only, "lost writes"))
		standby_lies("lost writes", 0);
	if (wants(only, "torn writes"))
		standby_lies("torn writes", 1);
	if (wants(only, "journal lies"))
		journal_lies();
	if (wants(only, "journal slow"))
		journal_slow();
	for (unsigned i = 0; i < sizeof(primary_rows) / sizeof(primary_rows[0]); i++)
		if (wants(only, primary_rows[i].name))
			primary_fails(&primary_rows[i]);
	if (!wants(only, "alone"))
		return;
	host = be_alone();
	alone_full(host);
	alone_error(host);
}

int main(int argc, char **argv)
{
	char cwd[200], extra[700];
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 scatter=512 flush=8 "
			   "pace=1000",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
		.extra_vm = extra,
		.on_disks = on_disks,
	};

	th_begin(argc, argv, NULL);
	rheactl = th_built("rheactl");
	if (!getcwd(cwd, sizeof(cwd)))
		return 1;
	(void)snprintf(
		extra, sizeof(extra),
		"disk_buffer = \"4M\"; journal_size = \"8M\"; journal = { a = \"%s/build/native/%d/a/bad/v.journal\"; "
		"b = \"%s/build/native/%d/b/bad/v.journal\"; };",
		cwd, (int)getpid(), cwd, (int)getpid()); /* these fit */
	th_up(&p, &opts);
	all_faults(argc > 1 ? argv[1] : NULL);
	th_down(&p);
	baddisk_down(&bad[0]);
	baddisk_down(&bad[1]);
	th_end(&p);
	return 0;
}
