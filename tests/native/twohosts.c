/* SPDX-License-Identifier: Apache-2.0
 * twohosts - two hosts of Rhea on this machine, in network namespaces.
 */
#include "tests/native/twohosts.h"

#include "hv/base/clock.h"
#include "tests/native/observe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t rng = 1;

void th_seed(uint64_t seed)
{
	rng = seed ? seed : 1;
}

unsigned th_random(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)(rng % n);
}

void th_sleep_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000,
			      .tv_nsec = (long)(ms % 1000) * 1000000};

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

void th_begin(int argc, char **argv, unsigned *rounds)
{
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : clock_mono_ns() | 1;

	setbuf(stdout, NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	th_seed(seed);
	if (rounds && argc > 1)
		*rounds = (unsigned)strtoul(argv[1], NULL, 10);
}

static const char *build_dir(void)
{
	const char *b = getenv("B");

	return b ? b : "build/out";
}

const char *th_built(const char *name)
{
	const char *b = build_dir();
	char cwd[256] = "", *path;

	if (b[0] != '/' && !getcwd(cwd, sizeof(cwd)))
		return NULL;
	if (asprintf(&path, "%s%s%s/%s", cwd, cwd[0] ? "/" : "", b, name) < 0)
		return NULL;
	return path;
}

int th_sh(const char *fmt, ...)
{
	char cmd[2048];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(cmd, sizeof(cmd), fmt, ap); /* all callers' commands are short */
	va_end(ap);
	return system(cmd);
}

void th_fail(struct twohosts *p, const char *fmt, ...)
{
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap); /* truncation is fine */
	va_end(ap);
	(void)th_sh(
		"for f in %s/[ab].log; do echo \"--- $f\" >&2; tail -n 25 \"$f\" >&2; done",
		p->dir);
	(void)fprintf(stderr, "FAIL: %s\n", what);
	th_down(p);
	exit(1);
}

/* Start a program whose output goes to @log and that dies with this test. */
static pid_t spawn(struct twohosts *p, const char *log, char *const argv[])
{
	pid_t pid = fork();
	int fd;

	if (pid < 0)
		th_fail(p, "fork: %s", strerror(errno));
	if (pid > 0)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* best effort: th_down kills it too */
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
		_exit(127);
	execvp(argv[0], argv);
	_exit(127);
}

int th_reap(pid_t pid)
{
	int status = -1;

	if (pid > 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	return status;
}

static void end_child(pid_t *pid)
{
	if (*pid > 0) {
		(void)kill(*pid, SIGKILL); /* gone already: fine */
		(void)kill(*pid, SIGCONT);
		th_reap(*pid);
	}
	*pid = 0;
}

static void make_host_net(struct twohosts *p, int i)
{
	struct th_host *h = &p->host[i];

	if (th_sh("ip netns add %s && ip -n %s link set lo up", h->ns, h->ns) ||
	    th_sh("ip -n %s link add %s type veth peer name cl0 netns %s", p->ns_c,
		  p->port[i], h->ns) ||
	    th_sh("ip -n %s link set %s master cl up", p->ns_c, p->port[i]) ||
	    th_sh("ip -n %s link add br0 type bridge && ip -n %s link set cl0 master br0 up",
		  h->ns, h->ns) ||
	    th_sh("ip -n %s addr add 10.77.0.%d/24 dev br0 && ip -n %s link set br0 up",
		  h->ns, 11 + i, h->ns))
		th_fail(p, "the network of host %s could not be made", h->name);
}

static void make_replication(struct twohosts *p, unsigned path)
{
	if (th_sh("ip -n %s link add repl%u type veth peer name repl%u netns %s",
		  p->host[0].ns, path, path, p->host[1].ns))
		th_fail(p, "the replication network could not be made");
	for (int i = 0; i < 2; i++)
		if (th_sh("ip -n %s addr add 10.%u.0.%d/24 dev repl%u && ip -n %s link set repl%u "
			  "up",
			  p->host[i].ns, 78 + path, 1 + i, path, p->host[i].ns, path))
			th_fail(p, "the replication network could not be set up");
}

static void make_nets(struct twohosts *p)
{
	if (th_sh("ip netns add %s && ip -n %s link set lo up", p->ns_c, p->ns_c) ||
	    th_sh("ip -n %s link add cl type bridge && ip -n %s addr add 10.77.0.1/24 dev "
		  "cl && "
		  "ip -n %s link set cl up",
		  p->ns_c, p->ns_c, p->ns_c))
		th_fail(p, "the client network could not be made");
	make_host_net(p, 0);
	make_host_net(p, 1);
	for (unsigned i = 0; !i || i < p->opts.networks; i++)
		make_replication(p, i);
}

static void write_disk(FILE *f, const struct twohosts *p, const char *file,
		       const char *format, unsigned i)
{
	(void)fprintf(f,
		      "%s{ path = { a = \"%s/%s\"; b = \"%s/%s\"; }; serial = \"d%u\"; "
		      "format = \"%s\"; }",
		      i ? ", " : "", p->host[0].dir, file, p->host[1].dir, file, i,
		      format);
}

static void write_disks(FILE *f, const struct twohosts *p)
{
	unsigned n = 0;

	(void)fprintf(f, "  disks = ( ");
	if (!p->opts.disk || p->opts.both_kinds)
		write_disk(f, p, "disk.img", "raw", n++);
	if (p->opts.disk)
		write_disk(f, p, "disk.vhd", "vhd", n++);
	if (p->opts.two_vhd)
		write_disk(f, p, "disk2.vhd", "vhd", n);
	(void)fprintf(f, " );\n");
}

static void write_config(struct twohosts *p)
{
	const struct th_opts *o = &p->opts;
	char path[256];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/rhea.conf", p->dir);
	f = fopen(path, "w");
	if (!f)
		th_fail(p, "%s: %s", path, strerror(errno));
	(void)fprintf(f, "pair = { name = \"native\"; key = \"");
	for (int i = 0; i < 32; i++)
		(void)fprintf(f, "%02x", th_random(256));
	(void)fprintf(f, "\"; };\nhosts = (\n");
	for (int i = 0; i < 2; i++)
		(void)fprintf(f,
			      "  { name = \"%s\"; replication = \"10.78.0.%d:7700\";\n"
			      "    heartbeat = ( \"10.78.0.%d:7701\", "
			      "\"10.77.0.%d:7701\" ); }%s\n",
			      p->host[i].name, 1 + i, 1 + i, 11 + i, i ? "" : ",");
	(void)fprintf(f, ");\n");
	if (o->paths)
		(void)fprintf(f, "paths = ( %s );\n", o->paths);
	if (o->no_etcd)
		(void)fprintf(f, "arbiter = { kind = \"manual\"; };\n");
	else
		(void)fprintf(f, "arbiter = { kind = \"etcd\"; endpoints = ( "
				 "\"http://10.77.0.1:2379\" ); "
				 "timeout_ms = 1000; };\n");
	(void)fprintf(
		f,
		"heartbeat = { interval_ms = %u; missed = %u; };\n"
		"vms = ( { name = \"v\"; host = \"a\"; memory = \"%uM\"; vcpus = %u; cpu = \"host\";\n"
		"  verify_interval_s = 1; kernel = \"%s\"; cmdline = \"%s\"; interval_us = %u; autostart = "
		"true;\n"
		"  nets = ( { tap = \"v0\"; bridge = \"br0\"; mac = "
		"\"52:54:00:00:00:01\"; } );\n",
		o->heartbeat_ms, o->missed, o->memory_mib, o->vcpus, o->guest, o->cmdline,
		o->interval_us);
	write_disks(f, p);
	(void)fprintf(f, "%s } );\n", o->extra_vm ? o->extra_vm : "");
	if (fclose(f))
		th_fail(p, "%s: %s", path, strerror(errno));
}

void th_etcd_start(struct twohosts *p)
{
	char log[256], data[256];
	char *argv[] = {"ip",
			"netns",
			"exec",
			p->ns_c,
			"etcd",
			"--data-dir",
			data,
			"--listen-client-urls",
			"http://10.77.0.1:2379",
			"--advertise-client-urls",
			"http://10.77.0.1:2379",
			"--listen-peer-urls",
			"http://127.0.0.1:2380",
			"--unsafe-no-fsync",
			NULL};
	uint64_t end = clock_mono_ns() + 20000000000ull;

	(void)snprintf(log, sizeof(log), "%s/etcd.log", p->dir);
	(void)snprintf(data, sizeof(data), "%s/etcd", p->dir);
	p->etcd = spawn(p, log, argv);
	while (th_sh("ip netns exec %s curl -s -m 1 http://10.77.0.1:2379/health "
		     "2>/dev/null | grep -q true",
		     p->ns_c)) {
		if (clock_mono_ns() > end)
			th_fail(p, "etcd does not come up");
		th_sleep_ms(50);
	}
}

void th_rhead_start(struct twohosts *p, int i)
{
	struct th_host *h = &p->host[i];
	const char *out = build_dir();
	char bin[256], vmbin[256], log[256], conf[256], run[256], state[256];
	char *argv[] = {"ip",	     "netns",	    "exec",   h->ns,	   bin,
			"-c",	     conf,	    "--host", h->name,	   "--run-dir",
			run,	     "--state-dir", state,    "--libexec", vmbin,
			"--modules", (char *)out,   NULL};

	(void)snprintf(bin, sizeof(bin), "%s/rhead", out);
	(void)snprintf(vmbin, sizeof(vmbin), "%s/rhea-vm", out);
	(void)snprintf(log, sizeof(log), "%s/%s.log", p->dir, h->name);
	(void)snprintf(conf, sizeof(conf), "%s/rhea.conf", p->dir);
	(void)snprintf(run, sizeof(run), "%s/run", h->dir);
	(void)snprintf(state, sizeof(state), "%s/state", h->dir);
	if (setenv("RHEA_CRASH_FILE", h->crash, 1))
		th_fail(p, "setenv: %s", strerror(errno));
	h->rhead = spawn(p, log, argv);
}

void th_up(struct twohosts *p, const struct th_opts *o)
{
	static const char *const name[] = {"a", "b"};
	int pid = (int)getpid();
	char cwd[64];

	memset(p, 0, sizeof(*p));
	p->opts = *o;
	p->opts.guest = o->guest ? o->guest : th_built("tests/guest/guest.elf");
	if (!p->opts.guest)
		th_fail(p, "where is this?");
	if (!getcwd(cwd, sizeof(cwd)))
		th_fail(p, "the working directory's path is too long");
	(void)snprintf(p->dir, sizeof(p->dir), "%s/build/native/%d", cwd, pid);
	if (th_sh("rm -rf %s", p->dir)) /* of an earlier pair of this process */
		th_fail(p, "%s cannot be removed", p->dir);
	(void)snprintf(p->ns_c, sizeof(p->ns_c), "rhea%dc", pid);
	for (int i = 0; i < 2; i++) {
		struct th_host *h = &p->host[i];

		(void)snprintf(h->name, sizeof(h->name), "%s", name[i]);
		(void)snprintf(h->ns, sizeof(h->ns), "rhea%d%s", pid, name[i]);
		(void)snprintf(h->dir, sizeof(h->dir), "%s/%s", p->dir, name[i]);
		(void)snprintf(h->sock, sizeof(h->sock), "%s/run/rhead.sock", h->dir);
		(void)snprintf(p->port[i], sizeof(p->port[i]), "port-%s", name[i]);
		(void)snprintf(h->crash, sizeof(h->crash), "%s/crash", h->dir);
		if (th_sh("mkdir -p %s/run %s/state && truncate -s %uM %s/disk.img && > %s",
			  h->dir, h->dir, o->disk_mib ? o->disk_mib : 16, h->dir,
			  h->crash))
			th_fail(p, "%s cannot be made", h->dir);
		if (o->disk && th_sh("cd %s && %s", h->dir, o->disk))
			th_fail(p, "%s: the disk cannot be made", h->dir);
	}
	if (o->on_disks)
		o->on_disks(p);
	make_nets(p);
	write_config(p);
	if (!o->no_etcd)
		th_etcd_start(p);
	p->obs = observer_start(p->ns_c, p->port[0], p->port[1]);
	if (!p->obs)
		th_fail(p, "the observer could not start");
	th_rhead_start(p, 0);
	if (!o->wait_for_standby)
		th_rhead_start(p, 1);
}

void th_hosts_end(struct twohosts *p)
{
	end_child(&p->host[0].rhead);
	end_child(&p->host[1].rhead);
}

void th_down(struct twohosts *p)
{
	if (p->obs)
		observer_stop(p->obs);
	p->obs = NULL;
	th_hosts_end(p);
	end_child(&p->etcd);
	for (int i = 0; i < 2; i++)
		if (p->host[i].ns[0])
			(void)th_sh("ip netns del %s 2>/dev/null",
				    p->host[i].ns); /* may not exist */
	if (p->ns_c[0])
		(void)th_sh("ip netns del %s 2>/dev/null", p->ns_c); /* may not exist */
	p->ns_c[0] = p->host[0].ns[0] = p->host[1].ns[0] = 0;
}

void th_end(struct twohosts *p)
{
	th_down(p);
	if (th_sh("rm -rf %s", p->dir))
		(void)fprintf(stderr, "%s is left\n", p->dir);
}

void th_crash_at(struct twohosts *p, int host, const char *name)
{
	char word[32] = {0};
	int fd = open(p->host[host].crash, O_WRONLY);

	(void)snprintf(word, sizeof(word), "%s", name); /* all are shorter */
	if (fd < 0 || pwrite(fd, word, sizeof(word), 0) != sizeof(word))
		th_fail(p, "%s: %s", p->host[host].crash, strerror(errno));
	close(fd);
}

int th_crashed(struct twohosts *p, int host)
{
	char word[32] = {0};
	int fd = open(p->host[host].crash, O_RDONLY);

	if (fd < 0 || pread(fd, word, sizeof(word), 0) < 0)
		th_fail(p, "%s: %s", p->host[host].crash, strerror(errno));
	close(fd);
	return !word[0];
}

void th_cut(struct twohosts *p, int cut)
{
	if (th_sh("ip -n %s link set repl0 %s", p->host[0].ns, cut ? "down" : "up"))
		th_fail(p, "the replication network could not be switched");
	/* Isolated bridge ports reach the bridge's own address (etcd), not each other. */
	for (int i = 0; i < 2; i++)
		if (th_sh("ip netns exec %s bridge link set dev %s isolated %s", p->ns_c,
			  p->port[i], cut ? "on" : "off"))
			th_fail(p, "the client network could not be switched");
}

void th_cut_path(struct twohosts *p, unsigned path, int cut)
{
	if (th_sh("ip -n %s link set repl%u %s", p->host[0].ns, path,
		  cut ? "down" : "up"))
		th_fail(p, "replication network %u could not be switched", path);
}

void th_rate_path(struct twohosts *p, unsigned path, const char *rate, const char *burst)
{
	for (int i = 0; i < 2; i++) {
		int rc = rate ? th_sh("ip netns exec %s tc qdisc replace dev repl%u root "
				      "tbf rate %s burst %s latency 200ms",
				      p->host[i].ns, path, rate, burst)
			      : th_sh("ip netns exec %s tc qdisc del dev repl%u root",
				      p->host[i].ns, path);

		if (rc)
			th_fail(p, "the replication network's speed could not be set");
	}
}

void th_rate(struct twohosts *p, const char *rate)
{
	th_rate_path(p, 0, rate, "16kb");
}

int th_protected(struct twohosts *p, unsigned timeout_ms)
{
	int host = th_wait_protected(p, timeout_ms);

	if (host < 0)
		th_fail(p, "the VM is not protected");
	return host;
}

void th_goes_on(struct twohosts *p, int host, unsigned frames, unsigned timeout_ms)
{
	uint64_t end = clock_mono_ns() + timeout_ms * UINT64_C(1000000), from;
	struct observed o;

	observer_read(p->obs, &o);
	from = o.from[host];
	while (observer_read(p->obs, &o), o.from[host] < from + frames) {
		if (o.violations)
			th_fail(p, "%s", o.first_violation);
		if (clock_mono_ns() > end)
			th_fail(p, "host %s says nothing", p->host[host].name);
		th_sleep_ms(1);
	}
}

json_t *th_rheactl(struct twohosts *p, int host, const char *args)
{
	const char *out = build_dir();
	char cmd[1024];
	json_t *o;
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd),
		       "timeout 60 %s/rheactl --socket %s --json %s 2>/dev/null", out,
		       p->host[host].sock, args);
	f = popen(cmd, "r");
	if (!f)
		th_fail(p, "popen: %s", strerror(errno));
	o = json_loadf(f, 0, NULL);
	(void)pclose(f); /* what it said is judged, not its status */
	return o;
}

/* The child of @parent that is called rhea-vm. */
static pid_t vm_pid(pid_t parent)
{
	char path[64], comm[32];
	long pid, found = 0;
	FILE *f, *c;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent,
		       (int)parent);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (fscanf(f, "%ld", &pid) == 1) {
		(void)snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
		c = fopen(path, "r");
		if (!c)
			continue;
		if (fgets(comm, sizeof(comm), c) && !strncmp(comm, "rhea-vm", 7))
			found = pid;
		(void)fclose(c);
	}
	(void)fclose(f);
	return (pid_t)found;
}

int th_view(struct twohosts *p, int host, struct vm_view *v)
{
	json_t *o = th_rheactl(p, host, "status"), *vm;
	const char *s;

	memset(v, 0, sizeof(*v));
	vm = json_array_get(json_object_get(o, "vms"), 0);
	if (!vm) {
		json_decref(o);
		return -1;
	}
	s = json_string_value(json_object_get(vm, "state"));
	(void)snprintf(v->state, sizeof(v->state), "%s", s ? s : "?");
	s = json_string_value(json_object_get(vm, "role"));
	(void)snprintf(v->role, sizeof(v->role), "%s", s ? s : "?");
	v->term = (uint64_t)json_integer_value(json_object_get(vm, "term"));
	v->protected = !strcasecmp(v->state, "protected");
	v->pid = vm_pid(p->host[host].rhead);
	json_decref(o);
	return 0;
}

/* Has the guest been heard at all? If it ever says anything. */
static int was_heard(struct twohosts *p)
{
	struct observed o;

	if (!p->obs || !strstr(p->opts.cmdline, "net=1"))
		return 1;
	observer_read(p->obs, &o);
	return o.frames > 0;
}

int th_wait_protected(struct twohosts *p, unsigned timeout_ms)
{
	uint64_t end = clock_mono_ns() + (uint64_t)timeout_ms * 1000000;
	struct vm_view v;

	do {
		for (int i = 0; i < 2; i++)
			if (p->host[i].rhead > 0 && !th_view(p, i, &v) && v.protected &&
			    was_heard(p))
				return i;
		th_sleep_ms(5);
	} while (clock_mono_ns() < end);
	return -1;
}
