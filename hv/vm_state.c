/* SPDX-License-Identifier: Apache-2.0
 * vm_state - a whole machine as one state stream, and back (format: STATE.md).
 */
#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "hv/gm.h"
#include "hv/irq.h"
#include "hv/state.h"
#include "hv/vm_clock.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <xxhash.h>

enum { STREAM_MAGIC = 0x534D5652, /* "RVMS" */ STREAM_VERSION = 1 };

struct stream_wire {
	struct le32 magic;
	struct le16 version;
	struct le16 reserved; /* 0 */
	struct le64 len;      /* of what follows this head */
	struct le64 sum;      /* XXH3-64 of it */
};
WIRE_SIZE(struct stream_wire, 24);

/* What both hosts must have configured alike. */
struct shape {
	uint64_t ram_bytes;
	uint32_t vcpus, devices;
};
static const struct state_field shape_fields[] = {
	STATE_INT(1, 1, struct shape, ram_bytes),
	STATE_INT(2, 1, struct shape, vcpus),
	STATE_INT(3, 1, struct shape, devices),
	STATE_END,
};
static const struct state_table shape_table = {"machine", 1, shape_fields};

enum { CHIPS = 3, PIC_BYTES = sizeof(struct kvm_pic_state) };

/* The interrupt controllers, out of KVM's unions. */
struct chips {
	uint8_t pic[2][PIC_BYTES];
	struct kvm_ioapic_state ioapic;
	uint64_t redir[KVM_IOAPIC_NUM_PINS];
};
static const struct state_field chip_fields[] = {
	STATE_BYTES(1, 1, struct chips, pic),
	STATE_INT(2, 1, struct chips, ioapic.base_address),
	STATE_INT(3, 1, struct chips, ioapic.ioregsel),
	STATE_INT(4, 1, struct chips, ioapic.id),
	STATE_INT(5, 1, struct chips, ioapic.irr),
	STATE_INTS(6, 1, struct chips, redir),
	STATE_END,
};
static const struct state_table chip_table = {"irqchip", 1, chip_fields};

int vm_chips_get(struct vm *vm, struct kvm_irqchip chip[CHIPS])
{
	for (uint32_t i = 0; i < CHIPS; i++) {
		memset(&chip[i], 0, sizeof(chip[i]));
		chip[i].chip_id = i;
		if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip[i]))
			return -errno;
	}
	return 0;
}

int vm_chips_set(struct vm *vm, const struct kvm_irqchip chip[CHIPS])
{
	for (unsigned i = 0; i < CHIPS; i++)
		if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip[i]))
			return -errno;
	return 0;
}

static int save_chips(struct vm *vm, struct buf *b)
{
	struct kvm_irqchip k[CHIPS];
	struct chips c = {0};
	int rc = vm_chips_get(vm, k);

	if (rc)
		return rc;
	memcpy(c.pic[0], &k[KVM_IRQCHIP_PIC_MASTER].chip.pic, PIC_BYTES);
	memcpy(c.pic[1], &k[KVM_IRQCHIP_PIC_SLAVE].chip.pic, PIC_BYTES);
	c.ioapic = k[KVM_IRQCHIP_IOAPIC].chip.ioapic;
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		c.redir[i] = c.ioapic.redirtbl[i].bits;
	return state_save(b, &chip_table, 0, &c);
}

static int load_chips(struct vm *vm, struct reader *r, struct err *err)
{
	struct kvm_irqchip k[CHIPS] = {{.chip_id = 0}, {.chip_id = 1}, {.chip_id = 2}};
	struct chips c = {0};
	int rc = state_load(r, &chip_table, 0, &c, err);

	if (rc)
		return rc;
	memcpy(&k[KVM_IRQCHIP_PIC_MASTER].chip.pic, c.pic[0], PIC_BYTES);
	memcpy(&k[KVM_IRQCHIP_PIC_SLAVE].chip.pic, c.pic[1], PIC_BYTES);
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		c.ioapic.redirtbl[i].bits = c.redir[i];
	k[KVM_IRQCHIP_IOAPIC].chip.ioapic = c.ioapic;
	rc = vm_chips_set(vm, k);
	return rc ? err_sys(err, rc, "interrupt controllers: KVM refuses their state")
		  : 0;
}

static int save_all(struct vm *vm, struct buf *b)
{
	struct shape shape = {gm_bytes(vm->gm), vm->cfg.vcpus, vm->ndev};
	struct vm_clock clock;
	int rc = vm_clock_get(vm, &clock);

	if (!rc)
		rc = state_save(b, &shape_table, 0, &shape);
	if (!rc)
		rc = cpuid_save(&vm->kind.cpuid, b);
	if (!rc)
		rc = vm_clock_save(&clock, b);
	if (!rc)
		rc = save_chips(vm, b);
	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++) {
		rc = vcpu_get(vm->vcpu[i], &vm->vcpu[i]->state);
		if (!rc)
			rc = vcpu_save(vm->vcpu[i], b);
	}
	for (unsigned i = 0; i < vm->ndev && !rc; i++)
		rc = vm->dev[i].ops->save(vm->dev[i].self, b);
	return rc;
}

int vm_save(struct vm *vm, struct buf *b)
{
	size_t start = b->len;
	struct stream_wire head = {.magic = le32_of(STREAM_MAGIC),
				   .version = le16_of(STREAM_VERSION)};
	size_t len;
	int rc;

	if (!buf_grow(b, sizeof(head)))
		return -ENOMEM;
	rc = save_all(vm, b);
	if (rc || b->failed)
		return rc ? rc : -ENOMEM;
	len = b->len - start - sizeof(head);
	head.len = le64_of(len);
	head.sum = le64_of(XXH3_64bits(b->data + start + sizeof(head), len));
	memcpy(b->data + start, &head, sizeof(head));
	return 0;
}

static int check_head(struct reader *r, struct err *err)
{
	struct stream_wire h;
	uint64_t len;

	if (rd_bytes(r, &h, sizeof(h)) || le32_get(h.magic) != STREAM_MAGIC)
		return err_set(err, -EBADMSG, "state: this is no machine state");
	if (le16_get(h.version) != STREAM_VERSION || le16_get(h.reserved))
		return err_set(err, -EBADMSG,
			       "state: format version %u, this program reads %d",
			       le16_get(h.version), STREAM_VERSION);
	len = le64_get(h.len);
	if (len != rd_left(r))
		return err_set(err, -EBADMSG,
			       "state: %" PRIu64 " bytes announced, %zu are there", len,
			       rd_left(r));
	if (XXH3_64bits(r->p, len) != le64_get(h.sum))
		return err_set(err, -EBADMSG, "state: wrong checksum");
	return 0;
}

static int check_shape(struct vm *vm, struct reader *r, struct err *err)
{
	struct shape s = {0};
	int rc = state_load(r, &shape_table, 0, &s, err);

	if (rc)
		return rc;
	if (s.ram_bytes != gm_bytes(vm->gm) || s.vcpus != vm->cfg.vcpus ||
	    s.devices != vm->ndev)
		return err_set(err, -EBADMSG,
			       "state: of a machine with %" PRIu64
			       " MiB, %u vCPUs, %u devices; "
			       "this one has %" PRIu64 ", %u, %u",
			       s.ram_bytes >> 20, s.vcpus, s.devices,
			       gm_bytes(vm->gm) >> 20, vm->cfg.vcpus, vm->ndev);
	return 0;
}

/* Everything is read before KVM is told: what is only half there changes no vCPU. */
static int load_vcpus(struct vm *vm, struct reader *r, const struct vm_clock *clock,
		      struct err *err)
{
	uint64_t step;
	int rc = 0;

	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++)
		rc = vcpu_load(vm->vcpu[i], r, err);
	if (rc)
		return rc;
	step = vm_clock_step(clock, clock_real_ns());
	rc = vm_clock_set(vm, clock, step, err);
	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++)
		rc = vcpu_set(vm->vcpu[i], &vm->vcpu[i]->state, err);
	if (rc)
		return rc;
	/* That a pause was told to the old host's KVM does not come with the memory. */
	rc = vm_tell_paused(vm);
	return rc ? err_sys(err, rc, "telling the guest of its pause") : 0;
}

static int load_devices(struct vm *vm, struct reader *r, struct err *err)
{
	int rc = 0, rc2;

	irq_batch_begin(vm->irq);
	for (unsigned i = 0; i < vm->ndev && !rc; i++) {
		const struct vm_device *d = &vm->dev[i];

		rc = d->ops->load(d->self, r, err);
		if (rc)
			err_ctx(err, "device %s.%u", d->ops->name, d->instance);
	}
	rc2 = irq_batch_end(vm->irq);
	if (rc)
		return rc;
	if (rc2)
		return err_sys(err, rc2, "interrupt routing");
	if (r->failed || rd_left(r))
		return err_set(err, -EBADMSG, "state: %zu bytes are left over",
			       rd_left(r));
	for (unsigned i = 0; i < vm->ndev; i++)
		vm->dev[i].ops->loaded(vm->dev[i].self);
	return 0;
}

/* All that can be said without touching the machine. */
static int check(struct vm *vm, struct reader *r, struct err *err)
{
	int rc = check_head(r, err);

	if (!rc)
		rc = check_shape(vm, r, err);
	return rc ? rc : cpuid_load(&vm->kind.cpuid, r, err);
}

int vm_check(struct vm *vm, const void *data, size_t len, struct err *err)
{
	struct reader r = reader_of(data, len);

	return check(vm, &r, err);
}

static int load_all(struct vm *vm, struct reader *r, struct err *err)
{
	struct vm_clock clock = {0};
	int rc = check(vm, r, err);

	if (!rc)
		rc = vm_clock_load(&clock, r, err);
	if (!rc)
		rc = load_chips(vm, r, err);
	if (!rc)
		rc = load_vcpus(vm, r, &clock, err);
	return rc ? rc : load_devices(vm, r, err);
}

int vm_load(struct vm *vm, const void *data, size_t len, struct err *err)
{
	struct reader r = reader_of(data, len);
	int locked = vm->paused, rc;

	/* A VM that was never started is not paused, but its I/O thread may run. */
	if (!locked)
		vm_lock(vm);
	for (unsigned i = 0; i < vm->cfg.vcpus; i++) {
		vm->vcpu[i]->told = 0;
		vm->vcpu[i]->asked = VCPU_ASKED_NOTHING;
	}
	rc = load_all(vm, &r, err);
	if (!locked)
		vm_unlock(vm);
	return rc;
}
