/* SPDX-License-Identifier: Apache-2.0
 * bench_disk - what protection at 25 ms leaves of a disk's throughput, side by side in the same run.
 *
 * Natively on /dev/kvm: the ring-3 guest keeps requests under way on a raw image. Unprotected the
 * image is the device's; protected there is the replicating filter with its activity log, and a
 * standby in a process of its own, which brings each epoch through a journal into an image of its own.
 *
 *   bench_disk GUEST.elf OUT.json [SECONDS a turn] [TURNS] [PATTERN of loads]
 *
 * The files are in the folder of OUT.json. Four figures of each load, each beside what it is unprotected:
 *   - as it is: both hosts on this machine's processors and on its disk;
 *   - "memory": the standby's files are in /dev/shm, so that the guest has its disk for itself as on two hosts;
 *   - "SSD": likewise, on a disk of SSD_US a request and SSD_BYTES_S, as a usual SSD writes; the page cache
 *     of this machine, which is what the others show unless there are flushes, is faster than networks are;
 *   - "stage": from the processor time of the busiest thread of either host, in the turns of "memory": what
 *     it could carry if each thread had a processor, as hosts have them.
 */
#include "tests/bench/kit.h"
#include "tests/bench/kit_cpu.h"

#include "diskrep/diskrep.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
enum {
	IMAGE_MIB = 512,
	JOURNAL_MIB = 256,
	RAM_MIB = 64,
	INTERVAL_US = 25000,
	WARM_US = 500000,
	SSD_US = 40,
	SSD_BYTES_S = 400 << 20,
};

/* Of the standby: on the disk of the primary's, or beside it. */
struct place {
	int image_fd, journal_fd;
};

struct files {
	int image_fd, activity_fd;
	struct place disk, memory;
};

/* How one turn is done. */
struct way {
	const struct place *there; /* the standby's; NULL: unprotected */
	int ssd;
};

struct speed {
	double rate;	/* requests a second */
	double carried; /* what the busiest thread could carry */
};

static int new_file(const char *dir, const char *name)
{
	char path[400];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s-%d", dir, name,
		       (int)getpid()); /* fits */
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || unlink(path))
		kit_die(path, NULL);
	return fd;
}

/* All of it is there: what a hole costs is no matter of replication. Written in chunks, as a first sync
 * writes: ext4 keeps in one piece in its cache what was written in one piece, and a small write into
 * a piece of a mebibyte costs 40 us. */
static int new_image(const char *dir, const char *name)
{
	static uint8_t buf[DR_CHUNK];
	int fd = new_file(dir, name);

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 2654435761u >> 13);
	for (unsigned k = 0; k < IMAGE_MIB * MIB / DR_CHUNK; k++)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			kit_die("the images", NULL);
	if (fsync(fd))
		kit_die("the images", NULL);
	return fd;
}

static struct place new_place(const char *dir)
{
	struct place p = {.image_fd = new_image(dir, "standby"),
			  .journal_fd = new_file(dir, "journal")};

	errno = posix_fallocate(p.journal_fd, 0, JOURNAL_MIB * MIB);
	if (errno)
		kit_die("the journal", NULL);
	return p;
}

static void files_up(struct files *f, const char *out)
{
	char *copy = strdup(out), *dir = copy ? dirname(copy) : NULL;

	if (!dir)
		kit_die("memory", NULL);
	f->image_fd = new_image(dir, "primary");
	f->activity_fd = new_file(dir, "activity");
	f->disk = new_place(dir);
	f->memory = new_place("/dev/shm");
	free(copy);
}

/* @peer: the standby's process, or 0. */
static struct speed speed_of(const struct kit *k, const struct kit_vm *v, pid_t peer)
{
	struct kit_cpu cpu[2][2];
	uint64_t n, t, most, other = 0;

	kit_sleep_us(WARM_US);
	kit_cpu_now(getpid(), &cpu[0][0]);
	if (peer)
		kit_cpu_now(peer, &cpu[1][0]);
	n = kit_progress(v);
	t = clock_mono_ns();
	kit_sleep_us(k->seconds * 1000000);
	n = kit_progress(v) - n;
	t = clock_mono_ns() - t;
	kit_cpu_now(getpid(), &cpu[0][1]);
	most = kit_cpu_busiest(&cpu[0][0], &cpu[0][1]);
	if (peer) {
		kit_cpu_now(peer, &cpu[1][1]);
		other = kit_cpu_busiest(&cpu[1][0], &cpu[1][1]);
	}
	most = other > most ? other : most;
	return (struct speed){.rate = (double)n * 1e9 / (double)t,
			      .carried = most ? (double)n * 1e9 / (double)most : 0};
}

static struct speed alone(const struct kit *k, const struct files *f, int ssd,
			  const char *cmdline)
{
	struct kit_disk disk = {.fd = f->image_fd,
				.activity_fd = -1,
				.slow_us = ssd ? SSD_US : 0,
				.slow_bytes_s = SSD_BYTES_S};
	struct err e = {0};
	struct kit_vm v;
	struct speed s;

	kit_vm_up(k, &v, RAM_MIB * MIB, 0, -1, cmdline, &disk);
	if (vm_start(v.vm, &e))
		kit_die("start", &e);
	s = speed_of(k, &v, 0);
	kit_vm_down(&v);
	return s;
}

static struct speed protected(const struct kit *k, const struct files *f,
			      const struct way *w, const char *cmdline)
{
	struct kit_opts o = {.ram = RAM_MIB * MIB,
			     .cmdline = cmdline,
			     .interval_us = INTERVAL_US,
			     .min_interval_us = 1000,
			     .inflight = 4,
			     .tap = -1,
			     .with_disk = 1,
			     .disk_fd = {f->image_fd, w->there->image_fd},
			     .activity_fd = f->activity_fd,
			     .journal_fd = w->there->journal_fd,
			     .journal_bytes = JOURNAL_MIB * MIB,
			     .slow_us = w->ssd ? SSD_US : 0,
			     .slow_bytes_s = SSD_BYTES_S};
	struct kit_pair p;
	struct speed s;

	kit_pair_up(k, &p, &o);
	s = speed_of(k, &p.vm, p.standby);
	kit_pair_down(&p, NULL);
	return s;
}

struct load {
	const char *name, *cmdline;
	unsigned bytes, flush; /* after so many requests; 0: never */
};

static const struct load loads[] = {
	{"random reads, 4 KiB", "bytes=4096 depth=16 random=1", 4096, 0},
	{"random reads, 64 KiB", "bytes=65536 depth=16 random=1", 65536, 0},
	{"sequential reads, 64 KiB", "bytes=65536 depth=16", 65536, 0},
	{"random writes, 4 KiB", "bytes=4096 depth=16 random=1 write=1", 4096, 0},
	{"random writes, 4 KiB, one at a time", "bytes=4096 depth=1 random=1 write=1",
	 4096, 0},
	{"sequential writes, 4 KiB", "bytes=4096 depth=16 write=1", 4096, 0},
	{"random writes, 64 KiB", "bytes=65536 depth=16 random=1 write=1", 65536, 0},
	{"sequential writes, 64 KiB", "bytes=65536 depth=16 write=1", 65536, 0},
	{"random writes, 4 KiB, flush each 64", "bytes=4096 depth=16 random=1 write=1",
	 4096, 64},
	{"sequential writes, 64 KiB, flush each 64", "bytes=65536 depth=16 write=1",
	 65536, 64},
};

enum { ALONE, ALONE_SSD, DISK, MEMORY, SSD, WAYS };

static void row(struct kit *k, const struct load *l, const char *how, const double *value,
		const double *floor)
{
	char figure[100];

	(void)snprintf(figure, sizeof(figure), "%s%s", l->name, how); /* fits */
	kit_row(k, figure, "MiB/s", spread_of(value, k->turns),
		spread_of(floor, k->turns), RATIO_AT_LEAST, 0.9);
}

/* All ways take turns. */
static void bench(struct kit *k, const struct files *f, const struct load *l)
{
	const struct way ways[WAYS] = {
		[ALONE_SSD] = {.ssd = 1},
		[DISK] = {.there = &f->disk},
		[MEMORY] = {.there = &f->memory},
		[SSD] = {.there = &f->memory, .ssd = 1},
	};
	double rate[WAYS][KIT_TURNS_MAX], carried[WAYS][KIT_TURNS_MAX];
	double mib = (double)l->bytes / (double)MIB;
	char cmdline[128];

	(void)snprintf(cmdline, sizeof(cmdline), "mode=load disk=1 console=0 flush=%u %s",
		       l->flush, l->cmdline); /* fits */
	for (unsigned t = 0; t < k->turns; t++)
		for (unsigned w = 0; w < WAYS; w++) {
			struct speed s = ways[w].there
						 ? protected(k, f, &ways[w], cmdline)
						 : alone(k, f, ways[w].ssd, cmdline);

			rate[w][t] = s.rate * mib;
			carried[w][t] = s.carried * mib;
		}
	row(k, l, "", rate[DISK], rate[ALONE]);
	row(k, l, ": memory", rate[MEMORY], rate[ALONE]);
	row(k, l, ": SSD", rate[SSD], rate[ALONE_SSD]);
	row(k, l, ": stage", carried[MEMORY], carried[ALONE]);
}

int main(int argc, char **argv)
{
	struct files f;
	struct kit k;

	kit_begin(&k, argc, argv);
	files_up(&f, argv[2]);
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		if (argc < 6 || !fnmatch(argv[5], loads[i].name, 0))
			bench(&k, &f, &loads[i]);
	return kit_end(&k, argv[2]);
}
