/* SPDX-License-Identifier: Apache-2.0
 * part_machine_standby - keeps the machine's state of the last applied checkpoint, and loads it
 * when this host takes over.
 */
#include "remus/parts.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/vm.h"
#include "remus/stream.h"
#include "replication/record.h"

#include <errno.h>
#include <stdlib.h>

enum { STATE_MAX = 64 << 20 }; /* bytes of state in one checkpoint, at most */

struct mach_standby {
	struct vm *vm;
	struct buf staged, applied;
	uint64_t epoch; /* of what is staged */
};

static int machs_record(void *self, uint16_t type, uint64_t epoch, const void *p,
			size_t len, struct err *err)
{
	struct mach_standby *m = self;

	if (type != MACH_STATE || epoch == REC_EPOCH_SYNC)
		return err_set(err, -EPROTO, "record type 0x%04x is not expected here",
			       type);
	if (m->staged.len && m->epoch != epoch)
		return err_set(err, -EPROTO, "state of epoch %llu while %llu is staged",
			       (unsigned long long)epoch, (unsigned long long)m->epoch);
	if (len > STATE_MAX - m->staged.len)
		return err_set(err, -EPROTO, "more than %d MiB of machine state",
			       STATE_MAX >> 20);
	m->epoch = epoch;
	if (buf_add(&m->staged, p, len))
		return err_set(err, -ENOMEM, "no memory for the machine's state");
	return 0;
}

static int machs_check(void *self, uint64_t epoch, struct err *err)
{
	struct mach_standby *m = self;

	if (!m->staged.len || m->epoch != epoch)
		return err_set(err, -EPROTO, "no machine state of epoch %llu",
			       (unsigned long long)epoch);
	/* Found out now, while the primary lives, and not when it is dead. */
	return vm_check(m->vm, m->staged.data, m->staged.len, err);
}

static int machs_apply(void *self, uint64_t epoch, struct err *err)
{
	struct mach_standby *m = self;
	struct buf old = m->applied;

	m->applied = m->staged;
	m->staged = old;
	buf_reset(&m->staged);
	return 0;
}

static void machs_drop(void *self)
{
	struct mach_standby *m = self;

	buf_reset(&m->staged);
}

static int machs_activate(void *self, struct err *err)
{
	struct mach_standby *m = self;

	return vm_load(m->vm, m->applied.data, m->applied.len, err);
}

static const struct standby_part_ops machs_ops = {
	.name = "machine",
	.kind = REC_KIND_MACHINE,
	.hello = spart_no_hello,
	.room = spart_no_room,
	.record = machs_record,
	.check = machs_check,
	.report = spart_no_report,
	.apply = machs_apply,
	.drop = machs_drop,
	.activate = machs_activate,
	.teardown = part_no_teardown,
};

struct standby_part mach_standby(struct mach_standby *m)
{
	return (struct standby_part){.ops = &machs_ops, .self = m};
}

const void *mach_standby_state(const struct mach_standby *m, size_t *len_out)
{
	*len_out = m->applied.len;
	return m->applied.data;
}

int mach_standby_create(struct vm *vm, struct mach_standby **m_out, struct err *err)
{
	struct mach_standby *m = calloc(1, sizeof(*m));

	*m_out = m;
	if (!m)
		return err_set(err, -ENOMEM, "the standby's machine: out of memory");
	m->vm = vm;
	return 0;
}

void mach_standby_destroy(struct mach_standby *m)
{
	if (!m)
		return;
	buf_fini(&m->staged);
	buf_fini(&m->applied);
	free(m);
}
