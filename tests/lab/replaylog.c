/* SPDX-License-Identifier: Apache-2.0
 * replaylog - brings a disk to the state of a moment at which its power might have been cut.
 *
 *   replaylog list LOG                   a line for each entry: number, flags (or -), sector, sectors, mark
 *   replaylog flushes LOG [marked]       of each flush, the number of the entry behind it; or only of those between
 *                                        the first mark and the last one
 *   replaylog apply LOG DISK FROM TO     write the entries from FROM to before TO
 *   replaylog tear LOG DISK FROM TO SEED write some of them, in no order, and of one not all sectors
 *
 * LOG is what the kernel's dm-log-writes has written (its format: Documentation/admin-guide/device-mapper/
 * log-writes.rst and drivers/md/dm-log-writes.c): sector 0 says how many entries there are; then each has a
 * sector of its own and behind it its data. A write is logged when a flush has made it durable, or when it is done if
 * it is itself durable (FUA). So after all entries up to one with the flag F the disk is as that flush
 * promises; and between two of them it may hold any of what is logged, and all FUA writes: others may have been
 * begun because those were done (a journal's commit comes as one), and the log does not tell which.
 */
#include "hv/base/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	SECTOR = 512,
	MAGIC_VERSION = 1,
	FLUSH = 1,
	FUA = 2,
	DISCARD = 4,
	MARK = 8,
	ENTRIES_MAX = 1 << 22,
	DATA_MAX = 64 << 20, /* of one write; the kernel's are far smaller */
};
#define LOG_MAGIC UINT64_C(0x6a736677736872)

struct log_super {
	struct le64 magic, version, entries;
	struct le32 sector_bytes;
};
WIRE_SIZE(struct log_super, 28);

struct log_entry {
	struct le64 sector, sectors, flags, data_len;
};
WIRE_SIZE(struct log_entry, 32);

struct entry {
	uint64_t sector, sectors, flags;
	uint64_t data; /* where in the log, bytes */
	char mark[SECTOR - sizeof(struct log_entry) + 1];
};

struct log {
	int fd;
	uint64_t n, at; /* entries; where the next one is read, bytes */
	uint32_t sector_bytes;
};

static int fail(const char *what, int code)
{
	(void)fprintf(stderr, "replaylog: %s: %s\n", what, strerror(-code));
	return code;
}

static int read_all(int fd, void *p, size_t len, uint64_t at)
{
	ssize_t r = pread(fd, p, len, (off_t)at);

	return r < 0 ? -errno : (size_t)r == len ? 0 : -EBADMSG;
}

static int log_open(struct log *l, const char *path)
{
	struct log_super s;
	int rc;

	l->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (l->fd < 0)
		return fail(path, -errno);
	rc = read_all(l->fd, &s, sizeof(s), 0);
	l->n = le64_get(s.entries);
	l->sector_bytes = le32_get(s.sector_bytes);
	l->at = l->sector_bytes;
	if (!rc &&
	    (le64_get(s.magic) != LOG_MAGIC || le64_get(s.version) != MAGIC_VERSION ||
	     l->sector_bytes != SECTOR || l->n > ENTRIES_MAX))
		rc = -EBADMSG;
	return rc ? fail(path, rc) : 0;
}

static int log_next(struct log *l, struct entry *e)
{
	uint8_t sector[SECTOR];
	struct log_entry raw;
	uint64_t data_len;
	int rc = read_all(l->fd, sector, sizeof(sector), l->at);

	if (rc)
		return fail("an entry", rc);
	memcpy(&raw, sector, sizeof(raw));
	*e = (struct entry){.sector = le64_get(raw.sector),
			    .sectors = le64_get(raw.sectors),
			    .flags = le64_get(raw.flags),
			    .data = l->at + SECTOR};
	data_len = le64_get(raw.data_len);
	if (e->sectors > UINT32_MAX || (e->flags & MARK && data_len >= sizeof(e->mark)) ||
	    (!(e->flags & DISCARD) && e->sectors > DATA_MAX / SECTOR))
		return fail("an entry", -EBADMSG);
	if (e->flags & MARK)
		memcpy(e->mark, sector + sizeof(raw), data_len);
	l->at = e->data + (e->flags & DISCARD ? 0 : e->sectors * SECTOR);
	return 0;
}

static int list(struct log *l)
{
	struct entry e = {0};

	for (uint64_t i = 0; i < l->n; i++) {
		if (log_next(l, &e))
			return 1;
		printf("%" PRIu64 " %s%s%s%s%s %" PRIu64 " %" PRIu64 " %s\n", i,
		       e.flags & FLUSH ? "F" : "", e.flags & FUA ? "U" : "",
		       e.flags & DISCARD ? "D" : "", e.flags & MARK ? "M" : "",
		       e.flags & (FLUSH | FUA | DISCARD | MARK) ? "" : "-", e.sector,
		       e.sectors, e.mark);
	}
	return 0;
}

/* A host may be writing @l: its last entries may come later. */
static int list_flushes(struct log *l, int marked)
{
	uint64_t *at = calloc(l->n + 1, sizeof(*at)), n = 0, last = 0, marks = 0;
	struct entry e = {0};
	int rc = at ? 0 : -ENOMEM;

	for (uint64_t i = 0; !rc && i < l->n; i++) {
		rc = log_next(l, &e);
		if (!rc && e.flags & FLUSH && (marks || !marked))
			at[n++] = i + 1;
		if (!rc && e.flags & MARK) {
			marks++;
			last = n;
		}
	}
	for (uint64_t i = 0; !rc && i < (marked ? last : n); i++)
		printf("%" PRIu64 "\n", at[i]);
	free(at);
	return rc;
}

/* The sectors of @e from @first on, @count of them. */
static int put(const struct log *l, int disk, const struct entry *e, uint64_t first,
	       uint64_t count)
{
	size_t len = count * SECTOR;
	uint8_t *buf;
	int rc;

	if (!count || e->flags & MARK)
		return 0;
	if (e->flags & DISCARD)
		return fallocate(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)((e->sector + first) * SECTOR), (off_t)len)
			       ? -errno
			       : 0;
	buf = malloc(len);
	rc = buf ? read_all(l->fd, buf, len, e->data + first * SECTOR) : -ENOMEM;
	if (!rc &&
	    pwrite(disk, buf, len, (off_t)((e->sector + first) * SECTOR)) != (ssize_t)len)
		rc = -EIO;
	free(buf);
	return rc;
}

static int skip_to(struct log *l, uint64_t from)
{
	struct entry e = {0};

	for (uint64_t i = 0; i < from; i++)
		if (log_next(l, &e))
			return -1;
	return 0;
}

static int apply(struct log *l, int disk, uint64_t from, uint64_t to)
{
	struct entry e = {0};
	int rc = skip_to(l, from);

	for (uint64_t i = from; !rc && i < to; i++) {
		rc = log_next(l, &e);
		rc = rc ? rc : put(l, disk, &e, 0, e.sectors);
	}
	return rc ? fail("writing", rc) : 0;
}

/* A disk that lost its power may have any of what it was not told to flush. */
static int tear(struct log *l, int disk, uint64_t from, uint64_t to)
{
	uint64_t torn = from + (uint64_t)random() % (to > from ? to - from : 1);
	int rc = skip_to(l, from);
	struct entry e = {0};

	for (uint64_t i = from; !rc && i < to; i++) {
		int take = random() & 1, fua;

		rc = log_next(l, &e);
		fua = !rc && e.flags & FUA;
		if (!rc && take && !fua && i == torn)
			rc = put(l, disk, &e, 0, (uint64_t)random() % (e.sectors + 1));
		else if (!rc && (take || fua))
			rc = put(l, disk, &e, 0, e.sectors);
	}
	return rc ? fail("writing", rc) : 0;
}

int main(int argc, char **argv)
{
	struct log l = {0};
	int disk, rc;

	if (argc == 3 && !strcmp(argv[1], "list"))
		return log_open(&l, argv[2]) || list(&l) ? 1 : 0;
	if ((argc == 3 || (argc == 4 && !strcmp(argv[3], "marked"))) &&
	    !strcmp(argv[1], "flushes"))
		return log_open(&l, argv[2]) || list_flushes(&l, argc == 4) ? 1 : 0;
	if ((argc != 6 || strcmp(argv[1], "apply") != 0) &&
	    (argc != 7 || strcmp(argv[1], "tear") != 0)) {
		(void)fprintf(stderr,
			      "usage: replaylog list LOG | flushes LOG [marked] | "
			      "apply LOG DISK FROM TO | tear LOG DISK FROM TO SEED\n");
		return 2;
	}
	disk = open(argv[3], O_WRONLY | O_CLOEXEC);
	if (disk < 0)
		return fail(argv[3], -errno) ? 1 : 0;
	srandom((unsigned)strtoul(argv[argc - 1], NULL, 10));
	rc = log_open(&l, argv[2]);
	if (!rc)
		rc = (argc == 7 ? tear : apply)(&l, disk, strtoull(argv[4], NULL, 10),
						strtoull(argv[5], NULL, 10));
	if (close(disk))
		rc = fail(argv[3], -errno);
	return rc ? 1 : 0;
}
