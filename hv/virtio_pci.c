/* SPDX-License-Identifier: Apache-2.0
 * virtio_pci - virtio 1.x devices on PCI: modern only, MSI-X only (Virtual I/O Device 1.2, 4.1).
 */
#include "hv/virtio_pci.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/base/wire.h"
#include "hv/bus.h"
#include "hv/msix.h"
#include "hv/pci.h"
#include "hv/state.h"
#include "hv/virtio_regs.h"
#include "hv/virtq.h"
#include "hv/vm.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PCI_VENDOR_VIRTIO = 0x1AF4, PCI_DEVICE_VIRTIO = 0x1040, PCI_SUBSYS = 0x1100 };
enum { CAP_VENDOR = 0x09 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

/* Types of virtio's capabilities (4.1.4). */
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };

/* The windows of BAR 0. */
enum {
	VBAR = 0,
	VBAR_SIZE = 0x8000,
	WIN_SHIFT = 12,
	WIN_COMMON = 0x0000,
	WIN_ISR = 0x1000,
	WIN_DEVICE = 0x2000,
	WIN_NOTIFY = 0x3000,
	WIN_TABLE = 0x4000,
	WIN_PBA = 0x5000,
	NOTIFY_STRIDE = 4,
};
_Static_assert((int)MSIX_TABLE_SIZE <= WIN_PBA - WIN_TABLE, "the table fits its window");
_Static_assert((int)VIRTIO_QUEUES_MAX < (int)MSIX_VECTORS_MAX,
	       "a vector for each queue and one");

/* Body of a capability, behind its id and link. */
struct cap_wire {
	uint8_t len; /* with id and link */
	uint8_t type, bar, id, padding[2];
	struct le32 offset, length;
	struct le32 extra; /* notify: multiplier; configuration access: data */
};
WIRE_SIZE(struct cap_wire, 18);
enum { CAP_LEN = 16, CAP_LEN_EXTRA = 20 };
enum { ACCESS_BAR = 4, ACCESS_OFFSET = 8, ACCESS_LENGTH = 12, ACCESS_DATA = 16 };

struct kicker {
	struct vpci *v;
	unsigned queue;
	int fd;
	struct event *ev;
};

struct vpci {
	struct vm *vm;
	const struct virtio_ops *ops;
	void *self;
	const uint8_t *cfg;
	unsigned cfg_len;
	uint32_t instance;
	int live; /* loaded, or never was to be */
	uint8_t isr;
	struct virtio_regs regs;
	struct virtq queue[VIRTIO_QUEUES_MAX];
	struct kicker kick[VIRTIO_QUEUES_MAX];
	struct pci_dev *pci;
	struct msix *msix;
	unsigned cap_msix, cap_access; /* offsets in configuration space */
	uint64_t bar_at;	       /* 0: not decoded */
	struct vm_device_ops dev_ops;
};

static const struct state_field vpci_fields[] = {
	STATE_INT(1, 1, struct vpci, isr),
	STATE_END,
};
static const struct state_table vpci_table = {"virtio-pci", 1, vpci_fields};

struct virtq *vpci_queue(struct vpci *v, unsigned queue)
{
	return &v->queue[queue];
}

int vpci_has(const struct vpci *v, unsigned feature)
{
	return (v->regs.driver_features >> feature & 1) != 0;
}

int vpci_running(const struct vpci *v)
{
	return v->live && virtio_regs_running(&v->regs);
}

void vpci_kick(struct vpci *v, unsigned queue)
{
	uint64_t one = 1;

	if (write(v->kick[queue].fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop looks at the queue anyway. */
	}
}

static void kick_all(struct vpci *v)
{
	for (unsigned i = 0; i < v->ops->queues; i++)
		if (v->queue[i].ready)
			vpci_kick(v, i);
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
	struct kicker *k = arg;
	struct loop *loop = vm_loop(k->v->vm);
	uint64_t n;

	loop_enter(loop);
	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: taken by an earlier turn; looking once more does no harm. */
	}
	if (vpci_running(k->v) && k->v->queue[k->queue].ready)
		k->v->ops->kick(k->v->self, k->queue);
	loop_leave(loop);
}

/* The ISR is for drivers without MSI-X, who have to poll it: there is no interrupt pin. */
static void raise_vector(struct vpci *v, uint16_t vector, uint8_t isr)
{
	if (msix_enabled(v->msix))
		msix_raise(v->msix, vector);
	else
		v->isr |= isr;
}

void vpci_notify(struct vpci *v, unsigned queue)
{
	if (virtq_wants_irq(&v->queue[queue]))
		raise_vector(v, v->queue[queue].vector, ISR_QUEUE);
}

int vpci_kick_fd(const struct vpci *v, unsigned queue)
{
	return v->kick[queue].fd;
}

int vpci_watch_kick(struct vpci *v, unsigned queue, int on)
{
	struct event *ev = v->kick[queue].ev;

	return (on ? event_add(ev, NULL) : event_del(ev)) ? -ENOMEM : 0;
}

void vpci_interrupt(struct vpci *v, unsigned queue)
{
	raise_vector(v, v->queue[queue].vector, ISR_QUEUE);
}

void vpci_config_changed(struct vpci *v)
{
	v->regs.generation++;
	if (v->regs.status & VIRTIO_DRIVER_OK)
		raise_vector(v, v->regs.config_vector, ISR_CONFIG);
}

void vpci_broken(struct vpci *v)
{
	if (v->regs.status & VIRTIO_NEEDS_RESET)
		return;
	log_ratelimited(LOG_LVL_WARN, 1000,
			"%s %u: the driver broke the ring's rules; it needs a reset",
			v->ops->name, v->instance);
	v->regs.status |= VIRTIO_NEEDS_RESET;
	raise_vector(v, v->regs.config_vector, ISR_CONFIG);
}

static void on_started(void *self)
{
	struct vpci *v = self;

	log_debug("%s %u: driver ready, features %#llx", v->ops->name, v->instance,
		  (unsigned long long)v->regs.driver_features);
	kick_all(v);
}

static void on_enabled(void *self, unsigned queue)
{
	vpci_kick(self, queue);
}

static void on_driver_reset(void *self)
{
	struct vpci *v = self;

	v->isr = 0;
	v->ops->reset(v->self);
}

static const struct virtio_regs_ops regs_ops = {
	.reset = on_driver_reset,
	.started = on_started,
	.enabled = on_enabled,
};

static void device_cfg_read(const struct vpci *v, uint64_t off, void *data, unsigned len)
{
	memset(data, 0, len);
	if (off + len <= v->cfg_len)
		memcpy(data, v->cfg + off, len);
}

static void bar_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct vpci *v = self;
	uint64_t in = off & ((1 << WIN_SHIFT) - 1);

	memset(data, 0, len);
	switch (off & ~(uint64_t)((1 << WIN_SHIFT) - 1)) {
	case WIN_COMMON:
		virtio_regs_read(&v->regs, in, data, len);
		break;
	case WIN_ISR:
		if (in == 0) {
			*(uint8_t *)data = v->isr;
			v->isr = 0;
		}
		break;
	case WIN_DEVICE:
		device_cfg_read(v, in, data, len);
		break;
	case WIN_TABLE:
		msix_table_read(v->msix, in, data, len);
		break;
	case WIN_PBA:
		msix_pba_read(v->msix, in, data, len);
		break;
	}
}

static void bar_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct vpci *v = self;
	uint64_t in = off & ((1 << WIN_SHIFT) - 1);

	switch (off & ~(uint64_t)((1 << WIN_SHIFT) - 1)) {
	case WIN_COMMON:
		virtio_regs_write(&v->regs, in, data, len);
		break;
	case WIN_NOTIFY:
		/* Only if no ioeventfd took it: configuration access, or a guest's wide write. */
		if (in / NOTIFY_STRIDE < v->ops->queues)
			vpci_kick(v, (unsigned)(in / NOTIFY_STRIDE));
		break;
	case WIN_TABLE:
		msix_table_write(v->msix, in, data, len);
		break;
	}
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

static int overlaps(unsigned off, unsigned len, unsigned at, unsigned n)
{
	return off < at + n && at < off + len;
}

/* Virtio's access by configuration space (4.1.4.9): run it with the guest's parameters. */
static void cfg_access(struct vpci *v, int write)
{
	unsigned at = v->cap_access;
	uint32_t len = pci_cfg_get(v->pci, at + ACCESS_LENGTH, 4);
	uint32_t off = pci_cfg_get(v->pci, at + ACCESS_OFFSET, 4);
	uint32_t val = pci_cfg_get(v->pci, at + ACCESS_DATA, 4);
	uint8_t p[4];

	if ((len != 1 && len != 2 && len != 4) || off % len)
		return;
	for (unsigned i = 0; i < sizeof(p); i++)
		p[i] = (uint8_t)(val >> (8 * i));
	pci_bar_access(v->pci, pci_cfg_get(v->pci, at + ACCESS_BAR, 1), off, p, len,
		       write);
	if (!write)
		for (unsigned i = 0; i < len; i++)
			pci_cfg_set(v->pci, at + ACCESS_DATA + i, 1, p[i]);
}

static void on_cfg_read(void *self, unsigned off, unsigned len)
{
	struct vpci *v = self;

	if (overlaps(off, len, v->cap_access + ACCESS_DATA, 4))
		cfg_access(v, 0);
}

static void on_cfg_write(void *self, unsigned off, unsigned len)
{
	struct vpci *v = self;

	if (overlaps(off, len, v->cap_msix + MSIX_CTRL_OFF, 2))
		msix_control(v->msix, (uint16_t)pci_cfg_get(
					      v->pci, v->cap_msix + MSIX_CTRL_OFF, 2));
	if (overlaps(off, len, v->cap_access + ACCESS_DATA, 4))
		cfg_access(v, 1);
}

static void ioeventfds(struct vpci *v, uint64_t bar_at, int assign)
{
	for (unsigned i = 0; i < v->ops->queues; i++) {
		int rc = vm_ioeventfd(v->vm, bar_at + WIN_NOTIFY + i * NOTIFY_STRIDE, 0,
				      v->kick[i].fd, assign);

		/* Not lost then, only slower: bar_write() kicks. */
		if (rc)
			log_warn("%s %u: ioeventfd of queue %u: %s", v->ops->name,
				 v->instance, i, strerror(-rc));
	}
}

static void on_bar_moved(void *self, unsigned bar, uint64_t addr, int on)
{
	struct vpci *v = self;

	ioeventfds(v, addr, on);
	v->bar_at = on ? addr : 0;
}

static const struct pci_dev_ops pci_ops = {
	.cfg_read = on_cfg_read,
	.cfg_write = on_cfg_write,
	.bar_moved = on_bar_moved,
};

static int cap_add(struct vpci *v, unsigned type, uint32_t off, uint32_t len,
		   uint32_t extra)
{
	int has_extra = type == CAP_NOTIFY || type == CAP_PCI_CFG;
	struct cap_wire w = {
		.len = has_extra ? CAP_LEN_EXTRA : CAP_LEN,
		.type = (uint8_t)type,
		.bar = VBAR,
		.offset = le32_of(off),
		.length = le32_of(len),
		.extra = le32_of(extra),
	};
	struct cap_wire mask = {
		.bar = 0xFF,
		.offset = le32_of(~0u),
		.length = le32_of(~0u),
		.extra = le32_of(~0u),
	};

	return pci_dev_cap(v->pci, CAP_VENDOR, &w, type == CAP_PCI_CFG ? &mask : NULL,
			   w.len - 2u);
}

static int caps_add(struct vpci *v, struct err *err)
{
	uint8_t body[MSIX_CAP_LEN], mask[MSIX_CAP_LEN];
	int msix, access, rc;

	msix_cap(v->msix, VBAR, WIN_TABLE, WIN_PBA, body, mask);
	msix = pci_dev_cap(v->pci, MSIX_CAP_ID, body, mask, MSIX_CAP_LEN);
	rc = msix < 0 ? msix : cap_add(v, CAP_COMMON, WIN_COMMON, VIRTIO_COMMON_SIZE, 0);
	if (rc >= 0)
		rc = cap_add(v, CAP_NOTIFY, WIN_NOTIFY, v->ops->queues * NOTIFY_STRIDE,
			     NOTIFY_STRIDE);
	if (rc >= 0)
		rc = cap_add(v, CAP_ISR, WIN_ISR, 1, 0);
	if (rc >= 0 && v->cfg_len)
		rc = cap_add(v, CAP_DEVICE, WIN_DEVICE, v->cfg_len, 0);
	access = rc < 0 ? rc : cap_add(v, CAP_PCI_CFG, 0, 0, 0);
	if (access < 0)
		return err_set(err, access, "%s: no room for its capabilities",
			       v->ops->name);
	v->cap_msix = (unsigned)msix;
	v->cap_access = (unsigned)access;
	return 0;
}

static int kickers_create(struct vpci *v, struct err *err)
{
	for (unsigned i = 0; i < v->ops->queues; i++) {
		struct kicker *k = &v->kick[i];

		*k = (struct kicker){.v = v, .queue = i};
		k->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (k->fd < 0)
			return err_sys(err, -errno, "%s: eventfd", v->ops->name);
		k->ev = event_new(loop_base(vm_loop(v->vm)), k->fd, EV_READ | EV_PERSIST,
				  on_kick, k);
		if (!k->ev || event_add(k->ev, NULL))
			return err_set(err, -ENOMEM, "%s: event of queue %u",
				       v->ops->name, i);
	}
	return 0;
}

static void vpci_free(struct vpci *v)
{
	if (v->bar_at)
		ioeventfds(v, v->bar_at, 0);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		if (v->kick[i].ev)
			event_free(v->kick[i].ev);
		if (v->kick[i].fd >= 0)
			close(v->kick[i].fd);
	}
	pci_dev_destroy(v->pci);
	msix_destroy(v->msix);
	free(v);
}

static void vpci_destroy(void *self)
{
	struct vpci *v = self;

	v->live = 0;
	v->ops->destroy(v->self);
	vpci_free(v);
}

static void vpci_reset(void *self)
{
	struct vpci *v = self;

	v->live = 1;
	virtio_regs_reset(&v->regs);
	on_driver_reset(v);
	msix_reset(v->msix);
	pci_dev_reset(v->pci);
}

static int vpci_save(void *self, struct buf *b)
{
	struct vpci *v = self;
	int rc = pci_dev_save(v->pci, b);

	if (!rc)
		rc = msix_save(v->msix, v->instance, b);
	if (!rc)
		rc = state_save(b, &vpci_table, v->instance, v);
	if (!rc)
		rc = virtio_regs_save(&v->regs, v->instance, b);
	for (unsigned i = 0; !rc && i < v->ops->queues; i++)
		rc = virtq_save(&v->queue[i], v->instance << 8 | i, b);
	return rc ? rc : v->ops->save(v->self, v->instance, b);
}

static int load_sections(struct vpci *v, struct reader *r, struct err *err)
{
	int rc = pci_dev_load(v->pci, r, err);

	if (!rc)
		rc = msix_load(v->msix, v->instance, r, err);
	if (!rc)
		rc = state_load(r, &vpci_table, v->instance, v, err);
	if (!rc)
		rc = virtio_regs_load(&v->regs, v->instance, r, err);
	for (unsigned i = 0; !rc && i < v->ops->queues; i++)
		rc = virtq_load(&v->queue[i], v->instance << 8 | i, r, err);
	return rc ? rc : v->ops->load(v->self, v->instance, r, err);
}

static int vpci_load(void *self, struct reader *r, struct err *err)
{
	struct vpci *v = self;
	int rc;

	v->live = 0;
	v->ops->reset(v->self);
	rc = load_sections(v, r, err);
	if (rc)
		return err_ctx(err, "%s %u", v->ops->name, v->instance);
	msix_control(v->msix,
		     (uint16_t)pci_cfg_get(v->pci, v->cap_msix + MSIX_CTRL_OFF, 2));
	return 0;
}

static void vpci_loaded(void *self)
{
	struct vpci *v = self;

	v->live = 1;
	if (!(v->regs.status & VIRTIO_DRIVER_OK))
		return;
	raise_vector(v, v->regs.config_vector, ISR_CONFIG);
	for (unsigned i = 0; i < v->ops->queues; i++)
		if (v->queue[i].ready)
			raise_vector(v, v->queue[i].vector, ISR_QUEUE);
	kick_all(v);
}

static struct vpci *vpci_new(struct vm *vm, const struct virtio_ops *ops, void *self,
			     uint64_t features, const void *cfg, unsigned cfg_len)
{
	struct vpci *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	*v = (struct vpci){.vm = vm,
			   .ops = ops,
			   .self = self,
			   .cfg = cfg,
			   .cfg_len = cfg_len,
			   .live = 1};
	v->dev_ops = (struct vm_device_ops){
		.name = ops->name,
		.save = vpci_save,
		.load = vpci_load,
		.loaded = vpci_loaded,
		.reset = vpci_reset,
		.destroy = vpci_destroy,
	};
	v->regs = (struct virtio_regs){
		.offered = features | 1ull << VIRTIO_F_VERSION_1 |
			   1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX,
		.queues = ops->queues,
		.vectors = ops->queues + 1u,
		.queue = v->queue,
		.ops = &regs_ops,
		.self = v,
	};
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		virtq_init(&v->queue[i], vm_gm(vm), ops->queue_size);
		v->kick[i].fd = -1;
	}
	virtio_regs_reset(&v->regs);
	return v;
}

int vpci_create(struct vm *vm, const struct virtio_ops *ops, void *self,
		uint64_t features, const void *cfg, unsigned cfg_len, struct vpci **v_out,
		struct err *err)
{
	struct vpci *v = vpci_new(vm, ops, self, features, cfg, cfg_len);
	struct pci_id id = {
		.vendor = PCI_VENDOR_VIRTIO,
		.device = (uint16_t)(PCI_DEVICE_VIRTIO + ops->id),
		.subsys_vendor = PCI_VENDOR_VIRTIO,
		.subsys = PCI_SUBSYS,
		.class_code = ops->class_code,
		.revision = 1,
	};
	int rc;

	*v_out = NULL;
	if (!v)
		return err_set(err, -ENOMEM, "%s: out of memory", ops->name);
	rc = pci_dev_create(vm_pci(vm), &id, &pci_ops, v, &v->pci, err);
	if (!rc)
		rc = pci_dev_bar(v->pci, VBAR, VBAR_SIZE, 1, &bar_ops, v, err);
	if (!rc)
		rc = msix_create(vm, ops->queues + 1u, &v->msix, err);
	if (!rc)
		rc = caps_add(v, err);
	if (!rc)
		rc = kickers_create(v, err);
	if (!rc) {
		v->instance = pci_dev_slot(v->pci);
		rc = vm_add_device(vm, &v->dev_ops, v, v->instance, err);
	}
	if (rc)
		vpci_free(v);
	else
		*v_out = v;
	return rc;
}
