/* SPDX-License-Identifier: Apache-2.0
 * activity_file - ACTIVITY.md as code.
 */
#include "diskrep/activity_file.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/wire.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
	PART = ACT_SECTOR - 16,
	PARTS = ACT_HEAD / ACT_SECTOR,
	BITMAPS_AT = 2 * ACT_HEAD,
	GROUP = 8, /* sectors of one bitmap that lie together */
};

static const char magic[8] = "RHEAACT2";

struct head_sector {
	struct le64 seq, sum;
	uint8_t part[PART];
};
WIRE_SIZE(struct head_sector, ACT_SECTOR);

struct head_wire {
	char magic[8];
	struct le32 role, open;
	uint8_t base[DR_BASE_LEN];
	struct le64 epoch;
	struct le32 disks, n;
	struct le64 capacity[DR_DISKS_MAX];
	struct le32 active[ACT_SLOTS];
	struct le64 identity[DR_DISKS_MAX];
	uint8_t zero[PARTS * PART - 112 - 4 * ACT_SLOTS - 8 * DR_DISKS_MAX];
};
WIRE_SIZE(struct head_wire, PARTS *PART);

struct bitmap_sector {
	struct le64 sum;
	struct le64 word[ACT_WORDS];
};
WIRE_SIZE(struct bitmap_sector, ACT_SECTOR);

static int fd_read(void *self, void *p, size_t len, uint64_t at)
{
	uint8_t *to = p;

	while (len) {
		ssize_t r = pread(*(const int *)self, to, len, (off_t)at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (!r) { /* beyond the end: never written */
			memset(to, 0, len);
			return 0;
		}
		to += r;
		at += (uint64_t)r;
		len -= (size_t)r;
	}
	return 0;
}

static int fd_write(void *self, const void *p, size_t len, uint64_t at)
{
	const uint8_t *from = p;

	while (len) {
		ssize_t r = pwrite(*(const int *)self, from, len, (off_t)at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		from += r;
		at += (uint64_t)r;
		len -= (size_t)r;
	}
	return 0;
}

static int fd_sync(void *self)
{
	return fdatasync(*(const int *)self) ? -errno : 0;
}

struct act_io act_io_of(const int *fd)
{
	static const struct act_io_ops ops = {
		.read = fd_read,
		.write = fd_write,
		.sync = fd_sync,
	};

	return (struct act_io){.ops = &ops, .self = (void *)fd};
}

static uint64_t words_of(uint64_t capacity)
{
	uint64_t chunks = capacity / DR_CHUNK + (capacity % DR_CHUNK != 0);

	return (chunks + 63) / 64;
}

uint64_t act_file_sectors(uint64_t capacity)
{
	return (words_of(capacity) + ACT_WORDS - 1) / ACT_WORDS;
}

/* Bitmaps lie in turn, so that each has room to grow; those of disks that are not there are holes. */
static uint64_t place_of(unsigned disk, uint64_t sector)
{
	uint64_t group = sector / GROUP * DR_DISKS_MAX + disk;

	return BITMAPS_AT + (group * GROUP + sector % GROUP) * ACT_SECTOR;
}

int act_file_init(struct act_file *f, struct act_io io, const uint64_t *capacity,
		  unsigned disks, struct err *err)
{
	*f = (struct act_file){.io = io, .disks = disks};
	for (unsigned i = 0; i < disks; i++) {
		if (capacity[i] > ACT_CAPACITY_MAX)
			return err_set(err, -EFBIG,
				       "disk %u is too large for the activity log", i);
		f->capacity[i] = capacity[i];
	}
	return 0;
}

static uint64_t head_sum(const struct head_sector *s, unsigned place, unsigned i)
{
	struct head_sector copy = *s;

	copy.sum = le64_of(0);
	return XXH3_64bits_withSeed(&copy, sizeof(copy), 1 + place * PARTS + i);
}

/* What one place holds. */
struct place {
	int sound;	    /* each sector is what was once written there */
	uint64_t low, high; /* of their seq; equal: whole */
	struct head_wire w;
};

static int read_place(struct act_file *f, unsigned place, struct place *p)
{
	struct head_sector s[PARTS];
	int rc = f->io.ops->read(f->io.self, s, sizeof(s), (uint64_t)place * ACT_HEAD);

	*p = (struct place){.sound = 1, .low = UINT64_MAX};
	for (unsigned i = 0; !rc && i < PARTS; i++) {
		uint64_t seq = le64_get(s[i].seq);

		if (le64_get(s[i].sum) != head_sum(&s[i], place, i))
			p->sound = 0;
		p->low = seq < p->low ? seq : p->low;
		p->high = seq > p->high ? seq : p->high;
		memcpy((uint8_t *)&p->w + (size_t)i * PART, s[i].part, PART);
	}
	return rc;
}

static int whole(const struct place *p, unsigned place)
{
	return p->sound && p->low == p->high && (p->low & 1) == place;
}

/* Which of the two holds; NULL: doubt. */
static const struct place *choose(const struct place p[2])
{
	int w[2] = {whole(&p[0], 0), whole(&p[1], 1)};
	const struct place *a = w[0] ? &p[0] : &p[1], *b = w[0] ? &p[1] : &p[0];

	if (!p[0].sound || !p[1].sound || (!w[0] && !w[1]))
		return NULL;
	if (w[0] && w[1])
		return a->low == b->low + 1 ? a : b->low == a->low + 1 ? b : NULL;
	return b->high == a->low + 1 && b->low == a->low - 1 ? a : NULL;
}

static int parse_active(const struct act_file *f, const struct head_wire *w,
			struct act_head *h)
{
	uint32_t n = le32_get(w->n);

	if (n > ACT_SLOTS)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = le32_get(w->active[i]), disk = id >> ACT_EXTENT_SHIFT;

		if (disk >= f->disks ||
		    (id & ((1u << ACT_EXTENT_SHIFT) - 1)) >= words_of(h->capacity[disk]))
			return 0;
		h->active[i] = id;
	}
	h->n = n;
	return 1;
}

static int parse_head(const struct act_file *f, const struct head_wire *w,
		      struct act_head *h, const char **why)
{
	static const uint8_t none[DR_BASE_LEN];
	uint32_t role = le32_get(w->role), open = le32_get(w->open);
	int based = memcmp(w->base, none, DR_BASE_LEN) != 0;

	*h = (struct act_head){0};
	*why = "the activity log is of another version or damaged";
	if (memcmp(w->magic, magic, sizeof(magic)) != 0 || role > ACT_FOLLOWER ||
	    open > 1 || based != (role != ACT_NONE))
		return 1;
	for (unsigned i = 0; i < f->disks; i++)
		if (f->identity[i] && le64_get(w->identity[i]) &&
		    le64_get(w->identity[i]) != f->identity[i]) {
			*why = "an image is not the file that it was";
			log_warn("disk %u: another file is in the place of its image", i);
			return 1;
		}
	for (unsigned i = 0; i < DR_DISKS_MAX; i++) {
		h->capacity[i] = le64_get(w->capacity[i]);
		if (h->capacity[i] > (i < f->disks ? f->capacity[i] : 0) ||
		    le32_get(w->disks) != f->disks) {
			*why = "the disks' number has changed, or one is smaller now";
			return 1;
		}
	}
	if (!parse_active(f, w, h))
		return 1;
	h->claim.role = (enum act_role)role;
	h->open = (int)open;
	memcpy(h->claim.at.base, w->base, DR_BASE_LEN);
	h->claim.at.epoch = le64_get(w->epoch);
	*why = NULL;
	return 0;
}

static uint64_t bitmap_sum(const struct bitmap_sector *s, unsigned disk, uint64_t sector)
{
	return XXH3_64bits_withSeed(s->word, sizeof(s->word),
				    ((uint64_t)(1 + disk) << 32) + sector);
}

static int load_bitmap(struct act_file *f, unsigned disk, uint64_t capacity,
		       struct dr_bits *bits)
{
	uint64_t words = words_of(capacity);
	struct bitmap_sector s;
	int rc = 0;

	for (uint64_t n = 0; !rc && n < act_file_sectors(capacity); n++) {
		rc = f->io.ops->read(f->io.self, &s, sizeof(s), place_of(disk, n));
		int sound = le64_get(s.sum) == bitmap_sum(&s, disk, n);

		for (uint64_t i = 0; !rc && i < ACT_WORDS; i++) {
			uint64_t w = n * ACT_WORDS + i;
			uint64_t v = sound ? le64_get(s.word[i]) : UINT64_MAX;

			if (w < words && w < bits->words)
				dr_bits_set_word(bits, w, v & dr_bits_mask(bits, w));
		}
	}
	return rc;
}

int act_file_load(struct act_file *f, struct act_head *h, struct dr_bits *bitmap,
		  const char **why_out)
{
	const struct place *chosen;
	struct place p[2];
	int rc = read_place(f, 0, &p[0]);

	*h = (struct act_head){0};
	*why_out = "the activity log is new or damaged";
	rc = rc ? rc : read_place(f, 1, &p[1]);
	if (rc)
		return rc;
	chosen = choose(p);
	if (!chosen || parse_head(f, &chosen->w, h, why_out))
		return 1;
	f->seq = chosen->low;
	for (unsigned i = 0; !rc && i < f->disks; i++)
		rc = load_bitmap(f, i, h->capacity[i], &bitmap[i]);
	return rc;
}

int act_file_head(struct act_file *f, const struct act_head *h)
{
	struct head_wire w = {
		.role = le32_of(h->claim.role),
		.open = le32_of((uint32_t)h->open),
		.epoch = le64_of(h->claim.at.epoch),
		.disks = le32_of(f->disks),
		.n = le32_of(h->n),
	};
	struct head_sector s[PARTS];
	uint64_t seq = f->seq + 1;
	unsigned place = seq & 1;
	int rc;

	memcpy(w.magic, magic, sizeof(magic));
	if (h->claim.role != ACT_NONE)
		memcpy(w.base, h->claim.at.base, DR_BASE_LEN);
	for (unsigned i = 0; i < f->disks; i++)
		w.capacity[i] = le64_of(h->capacity[i]);
	for (unsigned i = 0; i < f->disks; i++)
		w.identity[i] = le64_of(f->identity[i]);
	for (uint32_t i = 0; i < h->n; i++)
		w.active[i] = le32_of(h->active[i]);
	for (unsigned i = 0; i < PARTS; i++) {
		s[i].seq = le64_of(seq);
		memcpy(s[i].part, (uint8_t *)&w + (size_t)i * PART, PART);
		s[i].sum = le64_of(head_sum(&s[i], place, i));
	}
	rc = f->io.ops->write(f->io.self, s, sizeof(s), (uint64_t)place * ACT_HEAD);
	if (!rc)
		f->seq = seq;
	return rc;
}

int act_file_words(struct act_file *f, unsigned disk, uint64_t sector,
		   const uint64_t words[ACT_WORDS])
{
	struct bitmap_sector s;

	for (unsigned i = 0; i < ACT_WORDS; i++)
		s.word[i] = le64_of(words[i]);
	s.sum = le64_of(bitmap_sum(&s, disk, sector));
	return f->io.ops->write(f->io.self, &s, sizeof(s), place_of(disk, sector));
}

int act_file_sync(struct act_file *f)
{
	return f->io.ops->sync(f->io.self);
}

/* The old heads go first: a bitmap that is half new must not be read with one of them. */
int act_file_format(struct act_file *f)
{
	static const uint64_t none[ACT_WORDS];
	struct act_head empty = {.open = 1};
	int rc;

	memcpy(empty.capacity, f->capacity, sizeof(empty.capacity));
	f->seq = 0;
	rc = act_file_spoil(f);
	for (unsigned i = 0; i < f->disks; i++)
		for (uint64_t n = 0; !rc && n < act_file_sectors(f->capacity[i]); n++)
			rc = act_file_words(f, i, n, none);
	rc = rc ? rc : act_file_sync(f);
	for (int i = 0; i < 2; i++) {
		rc = rc ? rc : act_file_head(f, &empty);
		rc = rc ? rc : act_file_sync(f);
	}
	return rc;
}

int act_file_spoil(struct act_file *f)
{
	static const uint8_t zero[2 * ACT_HEAD];
	int rc = f->io.ops->write(f->io.self, zero, sizeof(zero), 0);

	return rc ? rc : act_file_sync(f);
}
