/* SPDX-License-Identifier: Apache-2.0
 * preface - the first 64 bytes on a replication connection: which VM is it for?
 *
 *   offset  size  what
 *        0     8  magic, "RHEALINK"
 *        8     2  version of this preface, 1
 *       10     2  flags: 1 a further path of the link that there is, 2 a link test, 3 a further
 *                stream of a path; else 0
 *       12     4  reserved, 0
 *       16     8  term of the primary that connects
 *       24    32  name of the VM, NUL-padded, at least one NUL
 *       56     8  reserved, 0
 *
 * It only routes the connection to a process and proves nothing: TLS, which follows at
 * once, does. All integers are little-endian. Other versions, set reserved bits and odd
 * names are refused, so that a port scanner or a wrong peer costs no more than the read.
 */
#ifndef CTL_PREFACE_H
#define CTL_PREFACE_H

#include <stdint.h>

#include "hv/base/wire.h"

struct err;

enum { PREFACE_LEN = 64, PREFACE_VERSION = 1, PREFACE_VM_MAX = 31 };

/* What the connection is for; one of these. */
enum preface_kind {
	PREFACE_LINK = 0,
	PREFACE_FURTHER = 1,
	PREFACE_TEST = 2,
	PREFACE_STREAM = 3,
};

struct preface_wire {
	char magic[8];
	struct le16 version, flags;
	struct le32 reserved;
	struct le64 term;
	char vm[PREFACE_VM_MAX + 1];
	struct le64 reserved2;
};
WIRE_SIZE(struct preface_wire, PREFACE_LEN);

struct preface {
	uint64_t term;
	enum preface_kind kind;
	char vm[PREFACE_VM_MAX + 1];
};

/* -ENAMETOOLONG when @vm has no room. Any thread. */
int preface_encode(const char *vm, uint64_t term, enum preface_kind kind,
		   struct preface_wire *out);
/* 0, or -EBADMSG with what is wrong in @err. Hostile input. Any thread. */
int preface_parse(const void *bytes, struct preface *out, struct err *err);

#endif
