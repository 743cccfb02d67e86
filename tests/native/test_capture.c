/* SPDX-License-Identifier: Apache-2.0
 * test_capture - what somebody on the replication network records of a protected guest, searched for
 * what the guest has in its memory: nothing of it is there.
 *
 * The guest's initrd is random: pages that no encoder makes smaller, so they go as they are. That the
 * search would find them is shown by the same programs with a cipher that does nothing
 * (preload/nocipher.c).
 */
#include "hv/base/clock.h"
#include "tests/native/twohosts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	PAGES = 32,
	NEEDLE = 16,
	NEEDLE_AT = 1000, /* within its page */
	PROTECT_MS = 30000,
	TURN_MS = 10000,
};

static uint8_t secret[PAGES * PAGE];
static char work[200], initrd[256], pcap[256], word[256];

static const struct {
	const char *name, *paths;
} kinds[] = {
	{"tcp", NULL},
	{"dpdk",
	 "{ transport = \"dpdk\"; args = \"--vdev=net_af_packet0,iface=repl1 window=4\"; "
	 "address = { a = \"10.78.0.1:7702\"; b = \"10.78.0.2:7702\"; }; }"},
};

static _Noreturn void die(const char *what)
{
	(void)fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void make_secret(void)
{
	char cmd[256];
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd), "mkdir -p %s", work);
	if (system(cmd)) /* NOLINT(cert-env33-c): our own words */
		die(work);
	for (size_t at = 0; at < sizeof(secret); at += 256)
		if (getrandom(secret + at, 256, 0) != 256)
			die("random bytes");
	f = fopen(initrd, "w");
	if (!f || fwrite(secret, sizeof(secret), 1, f) != 1 || fclose(f))
		die(initrd);
}

/* All that comes to and leaves the standby's host, from before its rhead is there. */
static pid_t record(struct twohosts *p)
{
	char *argv[] = {"ip",  "netns", "exec", p->host[1].ns, "tcpdump", "-i",
			"any", "-U",	"-w",	pcap,	       NULL};
	struct stat st;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		(void)freopen("/dev/null", "w", stderr); /* its counts are for people */
		execvp(argv[0], argv);
		_exit(127);
	}
	/* The file's header is written when packets are taken. */
	for (int i = 0; stat(pcap, &st) || !st.st_size; i++) {
		if (i > TURN_MS || waitpid(pid, NULL, WNOHANG))
			die("tcpdump");
		th_sleep_ms(1);
	}
	return pid;
}

static const uint8_t *needle(unsigned page)
{
	return secret + (size_t)page * PAGE + NEEDLE_AT;
}

/* How many of the pages are seen in the file, byte by byte. */
static unsigned found_in_bytes(void)
{
	int fd = open(pcap, O_RDONLY | O_CLOEXEC);
	unsigned found = 0;
	struct stat st;
	void *map;

	if (fd < 0 || fstat(fd, &st) || !st.st_size)
		die(pcap);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		die(pcap);
	for (unsigned i = 0; i < PAGES; i++)
		found += memmem(map, (size_t)st.st_size, needle(i), NEEDLE) != NULL;
	printf("%lld bytes recorded, ", (long long)st.st_size);
	(void)munmap(map, (size_t)st.st_size); /* ours */
	(void)close(fd);		       /* was only read */
	return found;
}

/* The same for tshark: in how many frames it sees one of them. */
static unsigned found_by_tshark(void)
{
	static char cmd[PAGES * (3 * NEEDLE + 24) + 256];
	size_t n = (size_t)snprintf(cmd, sizeof(cmd), "tshark -r %s -Y '", pcap);
	unsigned frames = 0;
	char line[64];
	FILE *f;

	for (unsigned i = 0; i < PAGES; i++) {
		n += (size_t)snprintf(cmd + n, sizeof(cmd) - n, "%sframe contains ",
				      i ? " or " : "");
		for (unsigned k = 0; k < NEEDLE; k++)
			n += (size_t)snprintf(cmd + n, sizeof(cmd) - n, "%s%02x",
					      k ? ":" : "", needle(i)[k]);
	}
	(void)snprintf(cmd + n, sizeof(cmd) - n,
		       "' -T fields -e frame.number 2>/dev/null");
	f = popen(cmd, "r"); /* NOLINT(cert-env33-c): our own words */
	if (!f)
		die("tshark");
	while (fgets(line, sizeof(line), f))
		frames++;
	if (pclose(f))
		die("tshark");
	return frames;
}

/* A guest is brought to the standby and protected for a while, all of it recorded. */
static void protect(unsigned kind, const char *guest)
{
	struct th_opts opts = {.guest = guest,
			       .cmdline = "mode=counter dirty=16 net=1 disk=1 pace=1000",
			       .memory_mib = 32,
			       .vcpus = 1,
			       .interval_us = 10000,
			       .heartbeat_ms = 100,
			       .missed = 10,
			       .networks = 2,
			       .paths = kinds[kind].paths,
			       .extra_vm = word,
			       .wait_for_standby = 1};
	static struct twohosts p;
	pid_t tcpdump;

	(void)unlink(pcap); /* may not be there */
	th_up(&p, &opts);
	tcpdump = record(&p);
	th_rhead_start(&p, 1);
	if (th_wait_protected(&p, PROTECT_MS) < 0)
		th_fail(&p, "not protected over %s after %d ms", kinds[kind].name,
			PROTECT_MS);
	th_sleep_ms(500); /* some epochs, too */
	(void)kill(tcpdump, SIGINT);
	th_reap(tcpdump);
	th_end(&p);
}

static int one(unsigned kind, const char *guest, const char *nocipher)
{
	unsigned bytes, frames;
	int ok;

	if (nocipher ? setenv("LD_PRELOAD", nocipher, 1) : unsetenv("LD_PRELOAD"))
		die("the environment");
	protect(kind, guest);
	(void)unsetenv("LD_PRELOAD"); /* a valid name */
	bytes = found_in_bytes();
	frames = found_by_tshark();
	ok = nocipher ? bytes > PAGES / 2 && frames > 0 : !bytes && !frames;
	printf("%s%s: %u of %d pages found, %u frames with one of them: %s\n",
	       kinds[kind].name, nocipher ? " with a cipher that does nothing" : "",
	       bytes, PAGES, frames, ok ? "ok" : "FAILED");
	return !ok;
}

int main(int argc, char **argv)
{
	const char *b = getenv("B"), *out = b ? b : "build/out";
	char guest[300], nocipher[300], cwd[128];
	int failed = 0;

	setbuf(stdout, NULL);
	th_seed(clock_mono_ns() | 1);
	if (!getcwd(cwd, sizeof(cwd)))
		die("working directory");
	(void)snprintf(guest, sizeof(guest), "%s%s%s/tests/guest/guest.elf",
		       out[0] == '/' ? "" : cwd, out[0] == '/' ? "" : "/", out);
	(void)snprintf(nocipher, sizeof(nocipher), "%s%s%s/tests/native/nocipher.so",
		       out[0] == '/' ? "" : cwd, out[0] == '/' ? "" : "/", out);
	(void)snprintf(work, sizeof(work), "%s/build/native/capture-%d", cwd,
		       (int)getpid());
	(void)snprintf(initrd, sizeof(initrd), "%s/initrd", work);
	(void)snprintf(pcap, sizeof(pcap), "%s/wire.pcap", work);
	(void)snprintf(word, sizeof(word), "initrd = \"%.230s\";", initrd);
	make_secret();
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		failed += one(i, guest, NULL);
		failed += one(i, guest, nocipher);
	}
	(void)unlink(pcap); /* ours */
	(void)unlink(initrd);
	(void)rmdir(work);
	return failed ? 1 : 0;
}
