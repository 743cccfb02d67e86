/* SPDX-License-Identifier: Apache-2.0
 * fuzz_diskrep - what a hostile primary sends to a standby's disks, and a hostile standby's
 * digests.
 *
 * The input is a row of records: type (low byte), epoch, length (2 bytes), payload. Epoch 255 is
 * pre-copy; types without meaning here ask for check, apply and drop instead.
 */
#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "remus/participant.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum {
	CAPACITY = 3 * DR_CHUNK + 512,
	CAPACITY_MAX =
		1
		<< 30, /* that an input may ask for: what is kept for a disk is as much as it is large */
	TO_PRIMARY = 0x80, /* with a type that both sides may say */
	TYPE_CHECK = 0xf0,
	TYPE_APPLY,
	TYPE_DROP,
	TYPE_HELLO
};

static int fd;
static struct standby_part sb;
static struct part primary;

static void must(int ok)
{
	if (!ok)
		abort();
}

static int no_sink(struct rec_sink *s, uint16_t type, uint64_t epoch,
		   const struct iovec *iov, int n)
{
	return 0;
}

static void no_submit(void *self, struct blk_req *req)
{
	abort();
}

static uint64_t capacity(void *self)
{
	return CAPACITY;
}

static void no_close(void *self)
{
}

static const struct blk_ops image_ops = {
	.name = "none", .submit = no_submit, .capacity = capacity, .close = no_close};

static void setup(void)
{
	static const struct diskrep_journal none = {.fd = -1};
	struct diskrep_standby *s;
	struct diskrep *dr;
	struct loop *loop;
	struct err err = {0};
	struct blk outer;

	fd = memfd_create("image", 0);
	must(fd >= 0 && !ftruncate(fd, CAPACITY));
	must(!diskrep_standby_create(&fd, 1, 64 << 10, &none, &s, &err));
	sb = diskrep_standby_part(s);
	must(!loop_create(&loop, &err));
	must(!diskrep_create(1 << 20, loop, (struct epoch_trigger){0}, &dr, &err));
	must(!diskrep_add(dr, (struct blk){&image_ops, NULL}, fd, &outer, &err));
	must(!diskrep_activity(dr, -1, NULL, NULL, &err));
	diskrep_meet(dr, s);
	primary = diskrep_part(dr);
}

static int too_large(uint8_t type, const uint8_t *p, size_t len)
{
	struct dr_wire_sizes w;
	int large = 0;

	if (type == (DR_REC_GROW & 0xff) && len == sizeof(struct dr_wire_resize))
		return le64_get(((const struct dr_wire_resize *)p)->capacity) >
		       CAPACITY_MAX;
	if (type != (DR_REC_SIZES & 0xff) || len != sizeof(w))
		return 0;
	memcpy(&w, p, sizeof(w));
	for (unsigned i = 0; i < DR_DISKS_MAX; i++)
		large |= le64_get(w.capacity[i]) > CAPACITY_MAX;
	return large;
}

/* Exactly as large as it says, so that a sanitizer sees what reads beyond it. */
static void one(uint8_t type, uint64_t epoch, const uint8_t *p, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct rec_sink sink = {.put = no_sink};
	struct err err = {0};
	int rc = 0;

	memcpy(copy, p, len);
	if (too_large(type, copy, len)) {
		free(copy);
		return;
	}
	if (type == TYPE_CHECK)
		rc = sb.ops->check(sb.self, epoch, &err);
	else if (type == TYPE_APPLY)
		rc = sb.ops->apply(sb.self, epoch, &err);
	else if (type == TYPE_DROP)
		sb.ops->drop(sb.self);
	else if (type == TYPE_HELLO)
		rc = sb.ops->hello(sb.self, &sink, &err);
	else if ((type & 0xf0) == TO_PRIMARY)
		rc = primary.ops->peer_record(primary.self, 0x0400 | (type & 0xf), copy,
					      len, &err);
	else if (type == (DR_REC_DIGESTS & 0xff))
		rc = primary.ops->peer_record(primary.self, DR_REC_DIGESTS, copy, len,
					      &err);
	else
		rc = sb.ops->record(sb.self, 0x0400 | type, epoch, copy, len, &err);
	must(rc <= 0 && rc == err.code);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct dr_wire_sizes own = {.disks = le32_of(1),
					  .capacity = {le64_of(CAPACITY)}};
	struct rec_sink sink = {.put = no_sink};
	struct err err = {0};
	struct stat st;

	if (!primary.ops)
		setup();
	while (len >= 4) {
		size_t n = data[2] | (size_t)data[3] << 8;

		n = n < len - 4 ? n : len - 4;
		one(data[0], data[1] == 255 ? REC_EPOCH_SYNC : data[1], data + 4, n);
		data += 4 + n;
		len -= 4 + n;
	}
	must(!fstat(fd, &st) && st.st_size >= CAPACITY);
	/* A new link forgets all of it, and has a disk of its own size again. */
	must(!sb.ops->record(sb.self, DR_REC_SIZES, REC_EPOCH_SYNC, &own, sizeof(own),
			     &err));
	must(!ftruncate(fd, CAPACITY));
	must(!sb.ops->hello(sb.self, &sink, &err));
	must(((struct diskrep_standby *)sb.self)->applier.staged == 0);
	primary.ops->unlinked(primary.self);
	return 0;
}
