/* SPDX-License-Identifier: Apache-2.0
 * cutcheck - what a host whose power was cut would say of its disks, and whether that is true.
 *
 *   cutcheck standby VM DIR DIGESTS [EPOCH]  recover DIR/VM.journal onto the images, write their digests; with
 *                                            EPOCH as if its batch had been torn behind that epoch
 *   cutcheck primary VM DIR DIGESTS...       read DIR/VM.activity, compare the images with any DIGESTS that it claims
 *
 * The VM's disks are DIR/root.raw, which nobody writes, DIR/data.raw and DIR/scratch.vhd. One line of JSON on stdout. DIGESTS is a file: the
 * generation that the images were at, and one digest for each chunk of each disk that is written. A primary's claim says which
 * chunks may differ from the state of a generation; so those that do differ must all be marked. Exit status
 * 0 also for images that are nobody's: the line says so.
 */
#include "diskrep/activity_file.h"
#include "diskrep/diskrep.h"
#include "diskrep/image.h"
#include "diskrep/journal.h"
#include "diskrep/journal_wire.h"
#include "hv/base/err.h"
#include "hv/vhd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROOT, DATA, SCRATCH, DISKS };

struct images {
	int fd[DISKS];
	struct vhd_image *vhd;
	struct img img[DISKS];
	struct dr_image chunks[DISKS];
};

struct digests {
	struct dr_generation at;
	uint64_t n;
	struct dr_digest *d; /* of DATA, then of SCRATCH */
};

static int open_in(const char *dir, const char *name, const char *ending, int flags)
{
	char path[PATH_MAX];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s%s", dir, name, ending); /* open tells */
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* What a power cut left behind a VHD is mended, as when a VM is started. */
static int images_open(struct images *s, const char *dir, struct err *err)
{
	static const char *const name[DISKS] = {"root.raw", "data.raw", "scratch.vhd"};
	struct vhd_part part;
	int rc = 0;

	for (int i = 0; !rc && i < DISKS; i++) {
		s->fd[i] = open_in(dir, name[i], "", i == ROOT ? O_RDONLY : O_RDWR);
		if (s->fd[i] < 0)
			rc = err_sys(err, s->fd[i], "%s/%s", dir, name[i]);
	}
	if (rc)
		return rc;
	part = (struct vhd_part){.io = img_of_fd(s->fd[SCRATCH]), .fd = s->fd[SCRATCH]};
	rc = vhd_open(&part, 1, VHD_WRITE, &s->vhd, err);
	if (rc)
		return rc;
	s->img[ROOT] = img_of_fd(s->fd[ROOT]);
	s->img[DATA] = img_of_fd(s->fd[DATA]);
	s->img[SCRATCH] = vhd_img(s->vhd);
	for (int i = 0; !rc && i < DISKS; i++)
		rc = dr_image_open(s->img[i], &s->chunks[i], err);
	return rc;
}

static void images_close(struct images *s)
{
	vhd_close(s->vhd);
	for (int i = 0; i < DISKS; i++)
		if (s->fd[i] >= 0)
			(void)close(s->fd[i]); /* nobody needs what was written */
}

static int digests_make(const struct images *s, struct digests *g, struct err *err)
{
	uint8_t *buf = aligned_alloc(4096, DR_CHUNK);
	int rc = 0;

	g->n = s->chunks[DATA].chunks + s->chunks[SCRATCH].chunks;
	g->d = calloc(g->n + 1, sizeof(*g->d)); /* never of no bytes */
	if (!buf || !g->d) {
		free(buf);
		return err_set(err, -ENOMEM, "no memory for the digests");
	}
	for (uint64_t i = DATA, k = 0; !rc && i < DISKS; i++)
		for (uint64_t c = 0; !rc && c < s->chunks[i].chunks; c++, k++) {
			uint32_t len = dr_chunk_len(&s->chunks[i], c);
			int r = dr_chunk_load(&s->chunks[i], c, buf);

			if (r < 0)
				rc = err_sys(err, r, "reading disk %" PRIu64, i);
			g->d[k] = r > 0 ? dr_digest_zero(len) : dr_digest_of(buf, len);
		}
	free(buf);
	return rc;
}

static int digests_write(const struct digests *g, const char *path, struct err *err)
{
	FILE *f = fopen(path, "we");
	int bad = !f || fwrite(&g->at, sizeof(g->at), 1, f) != 1 ||
		  fwrite(g->d, sizeof(*g->d), g->n, f) != g->n;

	if (f && fclose(f))
		bad = 1;
	return bad ? err_sys(err, -EIO, "writing %s", path) : 0;
}

/* Of the same disks as @like. */
static int digests_read(struct digests *g, const struct digests *like, const char *path,
			struct err *err)
{
	FILE *f = fopen(path, "re");
	int bad;

	g->n = like->n;
	g->d = calloc(g->n + 1, sizeof(*g->d));
	bad = !f || !g->d || fread(&g->at, sizeof(g->at), 1, f) != 1 ||
	      fread(g->d, sizeof(*g->d), g->n, f) != g->n;
	if (f)
		(void)fclose(f); /* was only read */
	return bad ? err_sys(err, -EIO, "reading %s", path) : 0;
}

static void print_generation(const struct dr_generation *g)
{
	printf("\"base\":\"");
	for (int i = 0; i < DR_BASE_LEN; i++)
		printf("%02x", g->base[i]);
	printf("\",\"epoch\":%" PRIu64, g->epoch);
}

/* Is this the commit of @epoch? Of several lives and laps the one with the highest number counts. */
static int is_commit(const uint8_t *at, uint64_t epoch, uint64_t *seq)
{
	struct jw_record r;
	struct jw_commit c;

	memcpy(&r, at, sizeof(r));
	memcpy(&c, at + sizeof(r), sizeof(c));
	if (le32_get(r.magic) != JW_RECORD_MAGIC || le32_get(r.type) != JW_COMMIT ||
	    le64_get(c.epoch) != epoch || le64_get(r.seq) < *seq)
		return 0;
	*seq = le64_get(r.seq);
	return 1;
}

/* What a disk may leave that was writing a batch: its first records, up to the commit of @epoch. */
static int tear_behind(int fd, uint64_t bytes, uint64_t epoch, struct err *err)
{
	static const uint8_t nothing[sizeof(struct jw_record)];
	enum { COMMIT = 2 * JW_RECORD_ALIGN };
	uint8_t *ring = bytes > JW_HEAD ? malloc(bytes) : NULL;
	uint64_t seq = 0, behind = 0;
	int rc = ring && pread(fd, ring, bytes, 0) == (ssize_t)bytes ? 0 : -EIO;

	for (uint64_t at = JW_HEAD; !rc && at + COMMIT <= bytes; at += JW_RECORD_ALIGN)
		if (is_commit(ring + at, epoch, &seq))
			behind = at + COMMIT;
	free(ring);
	if (!rc && !behind)
		rc = -ENOENT;
	if (!rc && behind < bytes &&
	    pwrite(fd, nothing, sizeof(nothing), (off_t)behind) !=
		    (ssize_t)sizeof(nothing))
		rc = -EIO;
	return rc ? err_sys(err, rc, "tearing the journal behind epoch %" PRIu64, epoch)
		  : 0;
}

static int standby(const char *vm, const char *dir, const char *out, const char *epoch,
		   struct err *err)
{
	struct images s = {.fd = {-1, -1, -1}};
	struct diskrep_journal jc = {.vm = vm,
				     .fd = open_in(dir, vm, ".journal", O_RDWR)};
	struct journal_found found = {.whole = -1};
	struct digests g = {.n = 0};
	off_t bytes = jc.fd < 0 ? -1 : lseek(jc.fd, 0, SEEK_END);
	int rc = images_open(&s, dir, err);

	jc.bytes = bytes > 0 ? (uint64_t)bytes : 0;
	if (!rc && epoch)
		rc = tear_behind(jc.fd, jc.bytes, strtoull(epoch, NULL, 10), err);
	if (!rc && jc.fd >= 0)
		rc = diskrep_recover_img(s.img, DISKS, &jc, &found, err);
	if (rc && rc != -EUCLEAN)
		goto out;
	g.at = found.gen;
	rc = digests_make(&s, &g, err);
	rc = rc ? rc : digests_write(&g, out, err);
	if (rc)
		goto out;
	printf("{\"state\":\"%s\",\"whole\":%d,\"epochs\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"why\":\"%s\",",
	       journal_state_name(found.state), found.whole, found.epochs, found.bytes,
	       found.why);
	print_generation(&found.gen);
	printf("}\n");
out:
	images_close(&s);
	if (jc.fd >= 0)
		(void)close(jc.fd); /* likewise */
	free(g.d);
	return rc;
}

/* All that the file says may differ, joined to its bitmap; how many chunks that are. */
static uint64_t marks_of(const struct act_head *h, struct dr_bits *bitmap,
			 const struct images *s)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < h->n; i++) {
		uint32_t disk = h->active[i] >> ACT_EXTENT_SHIFT;
		uint64_t first =
			(uint64_t)(h->active[i] & ((1u << ACT_EXTENT_SHIFT) - 1)) * 64;
		uint64_t left = s->chunks[disk].chunks - first;

		dr_bits_add(&bitmap[disk], first, left < 64 ? left : 64);
	}
	for (int i = 0; i < DISKS; i++)
		n += bitmap[i].count;
	return n;
}

/* How many chunks are not as in @g, and how many of those nobody has marked. */
static void compare(const struct digests *mine, const struct digests *g,
		    const struct images *s, const struct dr_bits *marked,
		    uint64_t *differ, uint64_t *unmarked)
{
	for (uint64_t i = DATA, k = 0; i < DISKS; i++)
		for (uint64_t c = 0; c < s->chunks[i].chunks; c++, k++) {
			if (!memcmp(&mine->d[k], &g->d[k], sizeof(g->d[k])))
				continue;
			(*differ)++;
			*unmarked += !dr_bits_has(&marked[i], c);
		}
}

static int primary(const char *vm, const char *dir, char **known, int n, struct err *err)
{
	struct images s = {.fd = {-1, -1, -1}};
	struct act_head *h = calloc(1, sizeof(*h));
	struct dr_bits marked[DISKS] = {{0}};
	uint64_t capacity[DISKS], differ = 0, unmarked = 0, count = 0;
	struct digests mine = {.n = 0};
	int fd = open_in(dir, vm, ".activity", O_RDONLY), compared = 0, believed;
	int rc = h ? images_open(&s, dir, err) : -ENOMEM;
	const char *why = "";
	struct act_file f;

	for (int i = 0; !rc && i < DISKS; i++) {
		capacity[i] = s.chunks[i].capacity;
		if (dr_bits_init(&marked[i], s.chunks[i].chunks))
			rc = err_set(err, -ENOMEM, "no memory for the marks");
	}
	rc = rc ? rc : digests_make(&s, &mine, err);
	rc = rc ? rc : act_file_init(&f, act_io_of(&fd), capacity, DISKS, err);
	if (rc)
		goto out;
	believed = fd >= 0 && !act_file_load(&f, h, marked, &why);
	if (believed)
		count = marks_of(h, marked, &s);
	for (int i = 0; !rc && believed && i < n; i++) {
		struct digests g = {.n = 0};

		rc = digests_read(&g, &mine, known[i], err);
		if (!rc && h->claim.role != ACT_NONE &&
		    !memcmp(&g.at, &h->claim.at, sizeof(g.at))) {
			compared++;
			compare(&mine, &g, &s, marked, &differ, &unmarked);
		}
		free(g.d);
	}
	printf("{\"believed\":%d,\"why\":\"%s\",\"role\":%d,\"open\":%d,\"marked\":%" PRIu64
	       ",\"compared\":%d,\"differ\":%" PRIu64 ",\"unmarked\":%" PRIu64 ",",
	       believed, why ? why : "", (int)h->claim.role, h->open, count, compared,
	       differ, unmarked);
	print_generation(&h->claim.at);
	printf("}\n");
out:
	for (int i = 0; i < DISKS; i++)
		dr_bits_fini(&marked[i]);
	images_close(&s);
	if (fd >= 0)
		(void)close(fd); /* was only read */
	free(mine.d);
	free(h);
	return rc;
}

int main(int argc, char **argv)
{
	struct err err = {0};
	int rc;

	if ((argc == 5 || argc == 6) && !strcmp(argv[1], "standby"))
		rc = standby(argv[2], argv[3], argv[4], argv[5], &err);
	else if (argc >= 4 && !strcmp(argv[1], "primary"))
		rc = primary(argv[2], argv[3], argv + 4, argc - 4, &err);
	else {
		(void)fprintf(stderr, "usage: cutcheck standby VM DIR DIGESTS [EPOCH] | "
				      "primary VM DIR [DIGESTS...]\n");
		return 2;
	}
	if (rc)
		(void)fprintf(stderr, "cutcheck: %s\n", err.msg);
	return rc ? 1 : 0;
}
