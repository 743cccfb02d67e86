/* SPDX-License-Identifier: Apache-2.0
 * stream - HELLO and END: making and judging them.
 */
#include "remus/stream.h"

#include "hv/base/err.h"
#include "hv/base/xxh.h"
#include "replication/record.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

void hello_make(struct hello_wire *h, enum stream_role role, const char *vm,
		const uint8_t *kind, unsigned n)
{
	assert(strlen(vm) <= STREAM_VM_MAX && n <= STREAM_PARTS_MAX);
	*h = (struct hello_wire){
		.version = le16_of(STREAM_VERSION),
		.role = le16_of((uint16_t)role),
		.parts = le16_of((uint16_t)n),
	};
	memcpy(h->kind, kind, n);
	memcpy(h->vm, vm, strlen(vm));
}

/* The peer's text goes into our log: only what prints. */
static void printable(char out[STREAM_VM_MAX + 1], const char in[STREAM_VM_MAX + 1])
{
	memcpy(out, in, STREAM_VM_MAX + 1);
	out[STREAM_VM_MAX] = 0;
	for (char *c = out; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

/* Names of @n kinds, or "none": "machine, memory". */
enum { KINDS_TEXT_MAX = STREAM_PARTS_MAX * sizeof("kind 255, ") };
static void list_kinds(char out[KINDS_TEXT_MAX], const uint8_t *kind, unsigned n)
{
	static const char *const name[] = {
		[REC_KIND_MEMORY] = "memory",
		[REC_KIND_MACHINE] = "machine",
		[REC_KIND_NETBUF] = "netbuf",
		[REC_KIND_DISK] = "disk",
	};
	size_t at = 0;

	(void)snprintf(out, KINDS_TEXT_MAX,
		       "none"); /* all of it fits, by the array's size */
	for (unsigned i = 0; i < n; i++) {
		const char *sep = i ? ", " : "";

		if (kind[i] < sizeof(name) / sizeof(name[0]) && name[kind[i]])
			at += (size_t)snprintf(out + at, KINDS_TEXT_MAX - at, "%s%s", sep,
					       name[kind[i]]);
		else
			at += (size_t)snprintf(out + at, KINDS_TEXT_MAX - at, "%skind %u",
					       sep, kind[i]);
	}
}

/* Are they the same kinds, in whatever order? */
static int same_set(const uint8_t *a, const uint8_t *b, unsigned n)
{
	int balance[UINT8_MAX + 1] = {0};

	for (unsigned i = 0; i < n; i++) {
		balance[a[i]]++;
		balance[b[i]]--;
	}
	for (unsigned k = 0; k <= UINT8_MAX; k++)
		if (balance[k])
			return 0;
	return 1;
}

static int parts_check(const struct hello_wire *ours, const struct hello_wire *h,
		       struct err *err)
{
	unsigned n = le16_get(h->parts), n_ours = le16_get(ours->parts);
	char theirs[KINDS_TEXT_MAX], here[KINDS_TEXT_MAX];
	const char *what = "number";

	if (n > STREAM_PARTS_MAX)
		return err_set(err, -EPROTO,
			       "HELLO of %u participants; at most %d can be", n,
			       STREAM_PARTS_MAX);
	for (unsigned i = n; i < STREAM_PARTS_MAX; i++)
		if (h->kind[i])
			return err_set(err, -EPROTO,
				       "HELLO counts %u participants, but names more", n);
	if (n == n_ours) {
		if (!memcmp(h->kind, ours->kind, sizeof(h->kind)))
			return 0;
		what = same_set(h->kind, ours->kind, n) ? "order" : "kind";
	}
	list_kinds(theirs, h->kind, n);
	list_kinds(here, ours->kind, n_ours);
	return err_set(
		err, -EPROTO,
		"VM \"%s\": participants differ in %s: %u (%s) on the peer, %u (%s) on "
		"this host; both need the same version of Rhea and the same "
		"configuration",
		ours->vm, what, n, theirs, n_ours, here);
}

int hello_check(const struct hello_wire *ours, const void *p, size_t len, struct err *err)
{
	char vm[STREAM_VM_MAX + 1];
	struct hello_wire h;
	unsigned v, role;

	if (len < sizeof(h.version))
		return err_set(err, -EPROTO, "HELLO of %zu bytes", len);
	memcpy(&h, p, len < sizeof(h) ? len : sizeof(h));
	v = le16_get(h.version);
	if (v != STREAM_VERSION)
		return err_set(
			err, -EPROTO,
			"the peer speaks stream version %u, this host %u: run the same "
			"version of Rhea on both",
			v, STREAM_VERSION);
	if (len != sizeof(h))
		return err_set(err, -EPROTO, "HELLO of %zu bytes", len);
	role = le16_get(h.role);
	if (role + le16_get(ours->role) != STREAM_PRIMARY + STREAM_STANDBY)
		return err_set(err, -EPROTO, "both ends of the link have role %u", role);
	printable(vm, h.vm);
	if (memcmp(h.vm, ours->vm, sizeof(h.vm)) != 0)
		return err_set(err, -EPROTO,
			       "the peer speaks of VM \"%s\", this host of \"%s\"", vm,
			       ours->vm);
	return parts_check(ours, &h, err);
}

void tally_init(struct tally *t, const uint8_t *kind, unsigned n)
{
	assert(n <= STREAM_PARTS_MAX);
	*t = (struct tally){.n = n};
	for (unsigned i = 0; i < n; i++)
		t->k[i].kind = kind[i];
}

void tally_reset(struct tally *t)
{
	for (unsigned i = 0; i < t->n; i++)
		t->k[i] = (struct tally_kind){.kind = t->k[i].kind};
}

/* The chain starts each record from the sum so far, so that order counts too. However the
 * payload is cut into pieces, the sum is the same. */
static uint64_t chain(uint64_t sum, uint16_t type, const struct iovec *iov, int n)
{
	uint64_t seed = sum ^ ((uint64_t)type << 48);
	XXH3_state_t st;

	if (n == 1)
		return XXH3_64bits_withSeed(iov[0].iov_base, iov[0].iov_len, seed);
	XXH3_INITSTATE(&st);
	/* Inlined, with a state of our own and no NULL input, these cannot fail. */
	(void)XXH3_64bits_reset_withSeed(&st, seed);
	for (int i = 0; i < n; i++)
		if (iov[i].iov_len)
			(void)XXH3_64bits_update(&st, iov[i].iov_base, iov[i].iov_len);
	return XXH3_64bits_digest(&st);
}

int tally_add(struct tally *t, uint16_t type, const struct iovec *iov, int n)
{
	for (unsigned i = 0; i < t->n; i++) {
		struct tally_kind *k = &t->k[i];

		if (k->kind != type >> 8)
			continue;
		k->records++;
		for (int j = 0; j < n; j++)
			k->bytes += iov[j].iov_len;
		k->sum = chain(k->sum, type, iov, n);
		return 0;
	}
	return -EPROTO;
}

uint64_t tally_bytes(const struct tally *t, unsigned i)
{
	return t->k[i].bytes;
}

size_t tally_end(const struct tally *t, struct end_wire out[STREAM_PARTS_MAX])
{
	for (unsigned i = 0; i < t->n; i++)
		out[i] = (struct end_wire){
			.kind = le16_of(t->k[i].kind),
			.records = le32_of(t->k[i].records),
			.bytes = le64_of(t->k[i].bytes),
			.sum = le64_of(t->k[i].sum),
		};
	return t->n * sizeof(out[0]);
}

int tally_check(const struct tally *t, const void *p, size_t len, struct err *err)
{
	struct end_wire e;

	if (len != t->n * sizeof(e))
		return err_set(err, -EPROTO, "END of %zu bytes for %u participants", len,
			       t->n);
	for (unsigned i = 0; i < t->n; i++) {
		const struct tally_kind *k = &t->k[i];

		memcpy(&e, (const uint8_t *)p + i * sizeof(e), sizeof(e));
		if (le16_get(e.kind) != k->kind || le32_get(e.records) != k->records ||
		    le64_get(e.bytes) != k->bytes || le64_get(e.sum) != k->sum)
			return err_set(
				err, -EPROTO,
				"END promises %u records (%llu bytes) of kind %u, but %u "
				"(%llu bytes) of kind %u came or their content differs",
				le32_get(e.records),
				(unsigned long long)le64_get(e.bytes), le16_get(e.kind),
				k->records, (unsigned long long)k->bytes, k->kind);
	}
	return 0;
}
