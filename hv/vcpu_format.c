/* SPDX-License-Identifier: Apache-2.0
 * vcpu_format - the sections of the state stream that hold a vCPU (STATE.md).
 */
#include "hv/vcpu.h"

#include "hv/base/err.h"
#include "hv/state.h"

#include <errno.h>

#define INT(id, member) STATE_INT(id, 1, struct vcpu_state, member)

static const struct state_field mp_fields[] = {
	INT(1, mp.mp_state),
	STATE_END,
};

static const struct state_field event_fields[] = {
	INT(1, events.exception.injected),
	INT(2, events.exception.nr),
	INT(3, events.exception.has_error_code),
	INT(4, events.exception.pending),
	INT(5, events.exception.error_code),
	INT(6, events.exception_has_payload),
	INT(7, events.exception_payload),
	INT(8, events.interrupt.injected),
	INT(9, events.interrupt.nr),
	INT(10, events.interrupt.soft),
	INT(11, events.interrupt.shadow),
	INT(12, events.nmi.injected),
	INT(13, events.nmi.pending),
	INT(14, events.nmi.masked),
	INT(15, events.sipi_vector),
	INT(16, events.flags),
	INT(17, events.smi.smm),
	INT(18, events.smi.pending),
	INT(19, events.smi.smm_inside_nmi),
	INT(20, events.smi.latched_init),
	INT(21, events.triple_fault.pending),
	STATE_END,
};

static const struct state_field reg_fields[] = {
	INT(1, regs.rax),  INT(2, regs.rbx),	 INT(3, regs.rcx),  INT(4, regs.rdx),
	INT(5, regs.rsi),  INT(6, regs.rdi),	 INT(7, regs.rsp),  INT(8, regs.rbp),
	INT(9, regs.r8),   INT(10, regs.r9),	 INT(11, regs.r10), INT(12, regs.r11),
	INT(13, regs.r12), INT(14, regs.r13),	 INT(15, regs.r14), INT(16, regs.r15),
	INT(17, regs.rip), INT(18, regs.rflags), STATE_END,
};

/* Ids of a segment's fields follow each other from @id on. */
#define SEGMENT(id, seg)                                                          \
	INT((id), sregs.seg.base), INT((id) + 1, sregs.seg.limit),                \
		INT((id) + 2, sregs.seg.selector), INT((id) + 3, sregs.seg.type), \
		INT((id) + 4, sregs.seg.present), INT((id) + 5, sregs.seg.dpl),   \
		INT((id) + 6, sregs.seg.db), INT((id) + 7, sregs.seg.s),          \
		INT((id) + 8, sregs.seg.l), INT((id) + 9, sregs.seg.g),           \
		INT((id) + 10, sregs.seg.avl), INT((id) + 11, sregs.seg.unusable)

static const struct state_field sreg_fields[] = {
	SEGMENT(0x10, cs),
	SEGMENT(0x20, ds),
	SEGMENT(0x30, es),
	SEGMENT(0x40, fs),
	SEGMENT(0x50, gs),
	SEGMENT(0x60, ss),
	SEGMENT(0x70, tr),
	SEGMENT(0x80, ldt),
	INT(0x90, sregs.gdt.base),
	INT(0x91, sregs.gdt.limit),
	INT(0x92, sregs.idt.base),
	INT(0x93, sregs.idt.limit),
	INT(0x94, sregs.cr0),
	INT(0x95, sregs.cr2),
	INT(0x96, sregs.cr3),
	INT(0x97, sregs.cr4),
	INT(0x98, sregs.cr8),
	INT(0x99, sregs.efer),
	INT(0x9A, sregs.apic_base),
	INT(0x9B, sregs.flags),
	STATE_INTS(0x9C, 1, struct vcpu_state, sregs.pdptrs),
	STATE_END,
};

static const struct state_field debug_fields[] = {
	STATE_INTS(1, 1, struct vcpu_state, debug.db),
	INT(2, debug.dr6),
	INT(3, debug.dr7),
	INT(4, debug.flags),
	STATE_END,
};

static const struct state_field lapic_fields[] = {
	STATE_BYTES(1, 1, struct vcpu_state, lapic.regs),
	STATE_END,
};

static const struct state_field xsave_fields[] = {
	STATE_BYTES(1, 1, struct vcpu_state, xsave),
	INT(2, xcrs),
	STATE_INTS(3, 1, struct vcpu_state, xcr_id),
	STATE_INTS(4, 1, struct vcpu_state, xcr),
	STATE_END,
};

static const struct state_field msr_fields[] = {
	INT(1, msrs),
	STATE_INTS(2, 1, struct vcpu_state, msr_id),
	STATE_INTS(3, 1, struct vcpu_state, msr),
	STATE_END,
};

static const struct state_table tables[] = {
	{"vcpu.mp", 1, mp_fields},	 {"vcpu.events", 1, event_fields},
	{"vcpu.regs", 1, reg_fields},	 {"vcpu.sregs", 1, sreg_fields},
	{"vcpu.debug", 1, debug_fields}, {"vcpu.lapic", 1, lapic_fields},
	{"vcpu.xsave", 1, xsave_fields}, {"vcpu.msrs", 1, msr_fields},
};
enum { TABLES = sizeof(tables) / sizeof(tables[0]) };

int vcpu_save(struct vcpu *v, struct buf *b)
{
	int rc = 0;

	for (unsigned i = 0; i < TABLES && !rc; i++)
		rc = state_save(b, &tables[i], v->id, &v->state);
	return rc;
}

int vcpu_load(struct vcpu *v, struct reader *r, struct err *err)
{
	struct vcpu_state *s = &v->state;
	int rc = 0;

	for (unsigned i = 0; i < TABLES && !rc; i++)
		rc = state_load(r, &tables[i], v->id, s, err);
	if (rc)
		return rc;
	if (s->msrs > VCPU_MSRS_MAX || s->xcrs > VCPU_XCRS_MAX)
		return err_set(err, -EBADMSG, "state: vCPU %u has %u MSRs and %u XCRs",
			       v->id, s->msrs, s->xcrs);
	return 0;
}
