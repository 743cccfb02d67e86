/* SPDX-License-Identifier: Apache-2.0
 * preface - encode and check the first 64 bytes of a replication connection.
 */
#include "ctl/preface.h"

#include "hv/base/err.h"

#include <errno.h>
#include <string.h>

static const char magic[8] = {'R', 'H', 'E', 'A', 'L', 'I', 'N', 'K'};

int preface_encode(const char *vm, uint64_t term, enum preface_kind kind,
		   struct preface_wire *out)
{
	size_t len = strlen(vm);

	if (len > PREFACE_VM_MAX)
		return -ENAMETOOLONG;
	memset(out, 0, sizeof(*out));
	memcpy(out->magic, magic, sizeof(magic));
	out->version = le16_of(PREFACE_VERSION);
	out->flags = le16_of((uint16_t)kind);
	out->term = le64_of(term);
	memcpy(out->vm, vm, len);
	return 0;
}

/* The name goes into logs, so only what a config may hold passes; the rest must be NUL,
 * so that a name has one encoding. */
static int name_ok(const char *vm, size_t room)
{
	size_t len = strnlen(vm, room);

	if (!len || len == room)
		return 0;
	for (size_t i = 0; i < room; i++) {
		char c = vm[i];
		int word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			   (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';

		if (i < len ? !word : c != 0)
			return 0;
	}
	return 1;
}

static int kind_ok(unsigned kind)
{
	return kind == PREFACE_LINK || kind == PREFACE_FURTHER || kind == PREFACE_TEST ||
	       kind == PREFACE_STREAM;
}

int preface_parse(const void *bytes, struct preface *out, struct err *err)
{
	struct preface_wire w;

	memcpy(&w, bytes, sizeof(w));
	if (memcmp(w.magic, magic, sizeof(magic)) != 0)
		return err_set(err, -EBADMSG, "not a replication link of Rhea");
	if (le16_get(w.version) != PREFACE_VERSION)
		return err_set(err, -EBADMSG,
			       "preface version %u, this side speaks %d; install the "
			       "same version "
			       "of Rhea on both hosts",
			       le16_get(w.version), PREFACE_VERSION);
	if (!kind_ok(le16_get(w.flags)) || le32_get(w.reserved) || le64_get(w.reserved2))
		return err_set(err, -EBADMSG, "preface with reserved bits set");
	if (!name_ok(w.vm, sizeof(w.vm)))
		return err_set(err, -EBADMSG, "preface with an impossible VM name");
	out->kind = (enum preface_kind)le16_get(w.flags);
	out->term = le64_get(w.term);
	memcpy(out->vm, w.vm, sizeof(out->vm));
	return 0;
}
