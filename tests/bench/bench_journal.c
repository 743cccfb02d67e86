/* SPDX-License-Identifier: Apache-2.0
 * bench_journal - what the standby's disk journal costs: throughput of applying epochs, time spent in
 * apply (which stands between two acks), bytes written for each byte of the guest's, flushes, and how
 * far "durable" is behind "acked". With and without it, in turns, on real files.
 *
 *   bench_journal DIRECTORY_FOR_FILES OUT.json     medians of some turns, without a journal as the floor
 */
#include "diskrep/standby.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"
#include "tests/bench/kit.h"

#include <fcntl.h>
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DISK = 256 << 20, JOURNAL = 256 << 20, LIMIT = 64 << 20, TURNS = 3, EPOCHS = 200 };

/* What one epoch writes. */
static const struct load {
	const char *name;
	unsigned writes, len, interval_us; /* 0: as fast as it goes */
} loads[] = {
	{"4 KiB random, 16 an epoch", 16, 4096, 0},
	{"64 KiB random, 16 an epoch", 16, 65536, 0},
	{"512 KiB, 4 an epoch", 4, 512 << 10, 0},
	{"4 KiB random, 16 an epoch of 25 ms", 16, 4096, 25000},
	{"nothing, 25 ms", 0, 0, 25000},
};

/* Counts what goes to the files. */
struct counted {
	struct dr_files files;
	struct dr_io io;
	struct dr_image img;
	_Atomic uint64_t image_bytes, journal_bytes, image_syncs, journal_syncs;
};

static int count_read(void *self, unsigned file, void *p, size_t len, uint64_t offset)
{
	struct counted *c = self;

	return c->io.ops->read(c->io.self, file, p, len, offset);
}

static int count_write(void *self, unsigned file, const void *p, size_t len,
		       uint64_t offset)
{
	struct counted *c = self;

	*(file == DR_IO_JOURNAL ? &c->journal_bytes : &c->image_bytes) += len;
	return c->io.ops->write(c->io.self, file, p, len, offset);
}

static int count_erase(void *self, unsigned file, uint64_t offset, uint64_t len)
{
	struct counted *c = self;

	return c->io.ops->erase(c->io.self, file, offset, len);
}

static int count_sync(void *self, unsigned file)
{
	struct counted *c = self;

	(*(file == DR_IO_JOURNAL ? &c->journal_syncs : &c->image_syncs))++;
	return c->io.ops->sync(c->io.self, file);
}

static const struct dr_io_ops count_ops = {.read = count_read,
					   .write = count_write,
					   .erase = count_erase,
					   .sync = count_sync};

struct run {
	double mib_s, amplification, apply_p50_us, apply_max_us, lag_ms, syncs_s;
};

static void die(const char *what, const struct err *err)
{
	(void)fprintf(stderr, "bench_journal: %s: %s\n", what, err ? err->msg : "");
	exit(1);
}

static int make_file(const char *dir, const char *name, off_t bytes)
{
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s.%d", dir, name, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || unlink(path) || posix_fallocate(fd, 0, bytes))
		die(path, NULL);
	return fd;
}

static void record(struct standby_part *p, uint16_t type, uint64_t epoch, const void *r,
		   size_t len)
{
	struct err err = {0};

	if (p->ops->record(p->self, type, epoch, r, len, &err))
		die("record", &err);
}

static uint8_t *stage(struct standby_part *p, const struct load *l, uint64_t e,
		      uint8_t *room, unsigned *seed)
{
	struct dr_wire_write w = {.len = le32_of(l->len)};
	struct dr_wire_barrier b = {
		.count = le32_of(l->writes),
		.bytes = le64_of(l->writes * (sizeof(w) + (uint64_t)l->len))};

	for (unsigned i = 0; i < l->writes; i++) {
		uint64_t slot = (uint64_t)rand_r(seed) % (DISK / l->len);

		w.offset = le64_of(slot * l->len);
		memcpy(room, &w, sizeof(w));
		memset(room + sizeof(w), (int)(e + i), 64);
		record(p, DR_REC_WRITE, e, room, sizeof(w) + l->len);
	}
	record(p, DR_REC_BARRIER, e, &b, sizeof(b));
	return room;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* How long until the epoch just applied is durable. */
static double lag_ms(struct diskrep_standby *s, uint64_t epoch, int journal)
{
	uint64_t from = clock_mono_ns();
	struct diskrep_durable d;

	do
		diskrep_standby_durable(s, &d);
	while (journal && (d.epoch == UINT64_MAX || d.epoch < epoch) && !usleep(200));
	return (double)(clock_mono_ns() - from) / 1e6;
}

static struct run measure(const char *dir, const struct load *l, int journal)
{
	static uint8_t room[sizeof(struct dr_wire_write) + DR_WRITE_MAX];
	static double took[EPOCHS];
	struct counted c = {.files.journal = -1};
	int disk = make_file(dir, "image", DISK);
	struct diskrep_journal jc = {.vm = "bench", .fd = -1, .bytes = JOURNAL};
	struct dr_io io = {.ops = &count_ops, .self = &c};
	struct diskrep_standby *s;
	struct standby_part p;
	struct err err = {0};
	unsigned seed = 7;
	uint64_t from;
	double seconds;
	struct run r = {0};

	if (journal)
		jc.fd = c.files.journal = make_file(dir, "journal", JOURNAL);
	c.files.img = &c.img;
	c.io = dr_files_io(&c.files);
	if (dr_image_open(img_of_fd(disk), &c.img, &err) ||
	    diskrep_standby_create_on(&disk, 1, LIMIT, &jc, &io, &s, &err))
		die("standby", &err);
	p = diskrep_standby_part(s);
	from = clock_mono_ns();
	for (uint64_t e = 0; e < EPOCHS; e++) {
		uint64_t at;

		(void)stage(&p, l, e, room, &seed);
		at = clock_mono_ns();
		if (p.ops->check(p.self, e, &err) || p.ops->apply(p.self, e, &err))
			die("apply", &err);
		took[e] = (double)(clock_mono_ns() - at) / 1e3;
		if (l->interval_us)
			usleep(l->interval_us);
	}
	r.lag_ms = lag_ms(s, EPOCHS - 1, journal);
	if (diskrep_standby_sync(s))
		die("sync", NULL);
	seconds = (double)(clock_mono_ns() - from) / 1e9;
	qsort(took, EPOCHS, sizeof(took[0]), by_size);
	r.mib_s = (double)l->writes * l->len * EPOCHS / seconds / (1 << 20);
	r.amplification = l->writes ? (double)(c.image_bytes + c.journal_bytes) /
					      ((double)l->writes * l->len * EPOCHS)
				    : 0;
	r.apply_p50_us = took[EPOCHS / 2];
	r.apply_max_us = took[EPOCHS - 1];
	r.syncs_s = (double)(c.image_syncs + c.journal_syncs) / seconds;
	p.ops->teardown(p.self);
	diskrep_standby_destroy(s);
	(void)close(disk); /* its content does not matter */
	if (journal)
		(void)close(jc.fd); /* likewise */
	return r;
}

/* What is compared: a member of struct run. */
static const struct figure {
	const char *name, *unit;
	size_t at;
	int of_writes;	/* nothing to say of a load that has none */
	int of_journal; /* nor of what has none */
} figures[] = {
	{"", "MiB/s", offsetof(struct run, mib_s), 1, 0},
	{": written for a byte", "bytes", offsetof(struct run, amplification), 1, 0},
	{": apply, p50", "us", offsetof(struct run, apply_p50_us), 0, 0},
	{": apply, longest", "us", offsetof(struct run, apply_max_us), 0, 0},
	{": durable after", "ms", offsetof(struct run, lag_ms), 0, 1},
	{": flushes", "/s", offsetof(struct run, syncs_s), 0, 0},
};

static double of(const struct run *r, const struct figure *f)
{
	double v;

	memcpy(&v, (const char *)r + f->at, sizeof(v));
	return v;
}

static void compare(struct kit *k, const char *dir, const struct load *l)
{
	const struct spread none = {0};
	struct run r[2][TURNS];

	for (int turn = 0; turn < TURNS; turn++)
		for (int journal = 0; journal < 2; journal++)
			r[journal][turn] = measure(dir, l, journal);
	for (unsigned i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
		const struct figure *f = &figures[i];
		double v[2][TURNS];
		char name[100];

		if (f->of_writes && !l->writes)
			continue;
		for (int turn = 0; turn < TURNS; turn++)
			for (int journal = 0; journal < 2; journal++)
				v[journal][turn] = of(&r[journal][turn], f);
		(void)snprintf(name, sizeof(name), "journal: %s%s", l->name,
			       f->name); /* fits */
		kit_row(k, name, f->unit, spread_of(v[1], TURNS),
			f->of_journal ? none : spread_of(v[0], TURNS), NO_TARGET, 0);
	}
}

int main(int argc, char **argv)
{
	struct kit k = {.rows = json_array(), .kvm_fd = -1, .guest_fd = -1};

	if (argc != 3 || !k.rows)
		die("the arguments are DIRECTORY OUT.json", NULL);
	log_init("bench", NULL, LOG_LVL_ERR);
	for (unsigned i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		compare(&k, argv[1], &loads[i]);
	return kit_end(&k, argv[2]);
}
