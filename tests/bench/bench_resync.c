/* SPDX-License-Identifier: Apache-2.0
 * bench_resync - what a resync reads and sends for random writes of 4 KiB, and what the activity log costs the guest.
 *
 *   bench_resync DIRECTORY_FOR_FILES OUT.json [GiB of the disk]
 *
 * Both hosts' disk replication in one process over real files, with the records handed over in
 * memory. The first rows are bytes over bytes of changed chunks, target 1.2; the others the
 * throughput of random writes through the filter with the log over without, a number of them in flight.
 */
#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "remus/participant.h"

#include <event2/event.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXTENT (UINT64_C(64) * DR_CHUNK)
enum { BLOCK = 4096, WRITES = 4000, TIMED = 10000, TURNS = 3, DEPTH_MAX = 64 };

static void must(int ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "bench_resync: %s failed\n", what);
	exit(1);
}

struct world {
	struct rec_sink sink; /* first */
	const char *dir;
	uint64_t capacity;
	int image[2], meta;
	struct loop *loop;
	struct blk disk;
	struct diskrep *dr;
	struct diskrep_standby *sb;
	struct part p;
	struct standby_part s;
	int to_primary;
	uint64_t sent; /* bytes, either way */
	unsigned seed;
	unsigned in_flight, done;
};

/* Each record goes to the other side at once. */
static int put(struct rec_sink *sink, uint16_t type, uint64_t epoch,
	       const struct iovec *iov, int n)
{
	struct world *w = (struct world *)sink;
	static uint8_t buf[4 << 20];
	struct err err = {0};
	size_t len = 0;

	for (int i = 0; i < n; i++) {
		if (iov[i].iov_len)
			memcpy(buf + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	w->sent += len;
	return w->to_primary ? w->p.ops->peer_record(w->p.self, type, buf, len, &err)
			     : w->s.ops->record(w->s.self, type, epoch, buf, len, &err);
}

static int new_file(const struct world *w, const char *name, uint64_t bytes)
{
	char path[512];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/resync-%s", w->dir, name); /* fits */
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	must(fd >= 0 && !ftruncate(fd, (off_t)bytes) && !unlink(path), path);
	return fd;
}

static void world_up(struct world *w, int with_log)
{
	static const struct diskrep_journal no_journal = {.fd = -1};
	static const struct epoch_trigger none;
	struct err err = {0};
	struct blk raw;

	w->sink.put = put;
	w->seed = 1;
	w->image[0] = new_file(w, "a", w->capacity);
	w->image[1] = new_file(w, "b", w->capacity);
	w->meta = new_file(w, "activity", 0);
	must(!loop_create(&w->loop, &err), "loop");
	must(!diskrep_create(256 << 20, w->loop, none, &w->dr, &err), "diskrep");
	must(!raw_open(dup(w->image[0]), w->loop, &raw, &err), "the image");
	must(!diskrep_add(w->dr, raw, w->image[0], &w->disk, &err), "the disk");
	must(!diskrep_activity(w->dr, with_log ? w->meta : -1, NULL, NULL, &err) &&
		     !diskrep_run(w->dr, &err),
	     "the activity log");
	must(!diskrep_standby_create(&w->image[1], 1, 256 << 20, &no_journal, &w->sb,
				     &err),
	     "the standby");
	w->p = diskrep_part(w->dr);
	w->s = diskrep_standby_part(w->sb);
	diskrep_start(w->dr);
}

static void world_down(struct world *w)
{
	w->p.ops->teardown(w->p.self);
	w->s.ops->teardown(w->s.self);
	w->disk.ops->close(w->disk.self);
	diskrep_destroy(w->dr);
	diskrep_standby_destroy(w->sb);
	loop_destroy(w->loop);
	close(w->image[0]);
	close(w->image[1]);
	close(w->meta);
}

static void on_done(struct blk_req *r, int status)
{
	struct world *w = r->backend_priv;

	must(!status, "a write");
	blk_data_put(r->data);
	free(r);
	w->in_flight--;
	w->done++;
}

struct request {
	struct blk_req r;
	struct world *w;
};

static void done_of(struct blk_req *r, int status)
{
	r->backend_priv = ((struct request *)r)->w;
	on_done(r, status);
}

static uint64_t random_at(struct world *w, uint64_t span)
{
	uint64_t n = (uint64_t)rand_r(&w->seed) << 31 | (uint64_t)rand_r(&w->seed);

	return n % (span / BLOCK) * BLOCK;
}

/* What no compression shortens. */
static void guest_writes(struct world *w, uint64_t at)
{
	struct request *q = calloc(1, sizeof(*q));
	struct blk_data *d = blk_data_new(BLOCK);

	must(q && d, "memory");
	for (unsigned i = 0; i < BLOCK; i += 4) {
		uint32_t v = (uint32_t)rand_r(&w->seed) * 2654435761u;

		memcpy(d->bytes + i, &v, sizeof(v));
	}
	q->w = w;
	q->r = (struct blk_req){
		.op = BLK_WRITE, .offset = at, .len = BLOCK, .data = d, .done = done_of};
	w->in_flight++;
	w->disk.ops->submit(w->disk.self, &q->r);
}

static void keep_in_flight(struct world *w, unsigned at_most)
{
	while (w->in_flight > at_most)
		must(event_base_loop(loop_base(w->loop), EVLOOP_ONCE) >= 0, "the loop");
}

static void commit(struct world *w, uint64_t epoch)
{
	struct err err = {0};

	w->to_primary = 0;
	must(!w->p.ops->capture(w->p.self, epoch, &err) &&
		     !w->p.ops->send(w->p.self, epoch, &w->sink, &err) &&
		     !w->s.ops->check(w->s.self, epoch, &err),
	     "an epoch");
	w->to_primary = 1;
	must(!w->s.ops->report(w->s.self, &w->sink), "a report");
	w->to_primary = 0;
	must(!w->s.ops->apply(w->s.self, epoch, &err), "an epoch that was acked");
	w->p.ops->committed(w->p.self, epoch);
}

/* From the greeting to checkpoint 0; all of its bytes. */
static void meet(struct world *w)
{
	struct err err = {0};
	uint64_t left;

	w->sent = 0;
	w->to_primary = 0;
	must(!w->p.ops->greet(w->p.self, &w->sink, &err), "greeting");
	w->to_primary = 1;
	must(!w->s.ops->hello(w->s.self, &w->sink, &err), "hello");
	w->to_primary = 0;
	must(!w->p.ops->sync_begin(w->p.self, &w->sink, &err) &&
		     !w->p.ops->sync_round(w->p.self, &w->sink, &left, &err),
	     "the sync");
	commit(w, 0);
}

static void row(json_t *rows, const char *figure, double value, double target,
		const char *is)
{
	int met = is[6] == '<' ? value <= target : value >= target;

	printf("%-56s %7.3f  %s %.2f%s\n", figure, value, is, target,
	       met ? "" : "  MISSED");
	must(!json_array_append_new(rows, json_pack("{s:s,s:f,s:s,s:f,s:s,s:b}", "figure",
						    figure, "value", value, "unit",
						    "ratio", "target", target,
						    "target_is", is, "met", met)),
	     "a row");
}

/* The standby is away while the guest writes 4 KiB here and there. */
static void bytes(struct world *w, json_t *rows)
{
	struct diskrep_sync_stats st;
	uint64_t *hit, chunks = w->capacity / DR_CHUNK, changed = 0;

	world_up(w, 1);
	meet(w);
	w->p.ops->unlinked(w->p.self);
	w->s.ops->drop(w->s.self);
	hit = calloc(chunks / 64 + 1, sizeof(*hit));
	must(hit != NULL, "memory");
	for (unsigned i = 0; i < WRITES; i++) {
		uint64_t at = random_at(w, w->capacity), c = at / DR_CHUNK;

		changed += !(hit[c / 64] >> c % 64 & 1);
		hit[c / 64] |= UINT64_C(1) << c % 64;
		guest_writes(w, at);
		keep_in_flight(w, 16);
	}
	keep_in_flight(w, 0);
	free(hit);
	meet(w);
	diskrep_sync_stats(w->dr, &st);
	must(st.partial, "a partial resync");
	row(rows, "resync: bytes read on each host over changed chunks",
	    (double)st.looked_bytes / (double)(changed * DR_CHUNK), 1.2, "value <=");
	row(rows, "resync: bytes on the wire over changed chunks",
	    (double)w->sent / (double)(changed * DR_CHUNK), 1.2, "value <=");
	world_down(w);
}

/* Writes a second, protected, with epochs of some writes; @warm: where all extents have been written. */
static double speed(struct world *w, int with_log, unsigned depth, uint64_t span,
		    int warm)
{
	uint64_t began, epoch = 1;

	world_up(w, with_log);
	meet(w);
	for (uint64_t at = 0; warm && at < span; at += EXTENT) {
		guest_writes(w, at);
		keep_in_flight(w, 16);
	}
	keep_in_flight(w, 0);
	began = clock_mono_ns();
	for (unsigned i = 0; i < TIMED; i++) {
		guest_writes(w, random_at(w, span));
		keep_in_flight(w, depth - 1);
		if (i % 200 == 199)
			commit(w, epoch++);
	}
	keep_in_flight(w, 0);
	began = clock_mono_ns() - began;
	world_down(w);
	return TIMED * 1e9 / (double)began;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void cost(struct world *w, json_t *rows, unsigned depth, uint64_t span, int warm,
		 const char *where)
{
	double ratio[TURNS];
	char figure[100];

	/* Side by side, or the machine's moods count. */
	for (unsigned i = 0; i < TURNS; i++)
		ratio[i] =
			speed(w, 1, depth, span, warm) / speed(w, 0, depth, span, warm);
	qsort(ratio, TURNS, sizeof(ratio[0]), by_size);
	(void)snprintf(figure, sizeof(figure),
		       "4 KiB writes with the log, %u in flight, %s", depth,
		       where); /* fits */
	row(rows, figure, ratio[TURNS / 2], 0.9, "value >=");
}

int main(int argc, char **argv)
{
	uint64_t gib = argc > 3 ? strtoull(argv[3], NULL, 10) : 16;
	struct world w = {0};
	json_t *rows = json_array();

	setbuf(stdout, NULL);
	log_init("bench", NULL, LOG_LVL_ERR);
	must(argc > 2 && gib, "bench_resync DIRECTORY OUT.json [GiB]: the arguments");
	w.dir = argv[1];
	w.capacity = gib << 30;
	bytes(&w, rows);
	cost(&w, rows, 32, 1 << 30, 1, "over 1 GiB, warm");
	cost(&w, rows, 1, 1 << 30, 1, "over 1 GiB, warm");
	cost(&w, rows, 32, w.capacity, 1, "over the whole disk, warm");
	cost(&w, rows, 32, w.capacity, 0, "over the whole disk, cold");
	must(!json_dump_file(rows, argv[2], JSON_INDENT(1)), argv[2]);
	json_decref(rows);
	return 0;
}
