/* SPDX-License-Identifier: Apache-2.0
 * virtio_pci - virtio 1.x devices on PCI: modern only, MSI-X only (Virtual I/O Device 1.2, 4.1).
 *
 * Theory of operation. One 64-bit BAR holds all windows: common configuration, ISR, device
 * configuration, notification, MSI-X table and pending bits. A notification of queue i is a write
 * at i * 4 of its window; an ioeventfd turns it into an event on the I/O thread's loop, so no vCPU
 * waits for it. Devices consume queues only there, inside the loop's guard.
 *
 * Checkpoints. State is complete whenever the device lock is free. What state does not hold is
 * made good by the loaded() step: kicks that were under way (every queue is looked at again) and
 * interrupts that were under way (every vector of a running queue is raised; drivers must cope
 * with spurious ones). Between a load and loaded() vpci_running() is 0, and devices stand still.
 */
#ifndef HV_VIRTIO_PCI_H
#define HV_VIRTIO_PCI_H

#include <stdint.h>

struct buf;
struct err;
struct reader;
struct virtq;
struct vm;
struct vpci;

/* One kind of device. All must be there but where it says so. Under the device lock. */
struct virtio_ops {
	const char *name;
	uint16_t id;	     /* virtio's device type */
	uint32_t class_code; /* PCI's */
	uint16_t queues, queue_size;
	/* Queue @queue was kicked, or has to be looked at again. On the I/O thread, and only while
	 * vpci_running(). */
	void (*kick)(void *self, unsigned queue);
	/* Forget the driver: requests under way may end, but not touch guest memory any more. Any
	 * thread. */
	void (*reset)(void *self);
	/* The device's own sections after those of the transport; load comes after reset. */
	int (*save)(void *self, uint32_t instance, struct buf *b);
	int (*load)(void *self, uint32_t instance, struct reader *r, struct err *err);
	void (*destroy)(void *self);
};

/* Add a device to the VM. @features: what is offered beyond VERSION_1, INDIRECT_DESC and EVENT_IDX,
 * which the transport serves. @cfg: @cfg_len bytes of read-only device configuration, borrowed.
 * On success the VM owns *v_out and, through ops->destroy, @self. */
int vpci_create(struct vm *vm, const struct virtio_ops *ops, void *self,
		uint64_t features, const void *cfg, unsigned cfg_len, struct vpci **v_out,
		struct err *err);

struct virtq *vpci_queue(struct vpci *v, unsigned queue);
int vpci_has(const struct vpci *v, unsigned feature); /* was it negotiated? */
int vpci_running(const struct vpci *v);
/* Call ops->kick for @queue from the loop soon. Any thread. */
void vpci_kick(struct vpci *v, unsigned queue);
/* Raise @queue's interrupt if the driver waits for one. */
void vpci_notify(struct vpci *v, unsigned queue);
/* For a queue that somebody else serves (vhost): the eventfd that the guest's kicks go to (borrowed);
 * whether this process looks at it (on the loop's thread only); and an interrupt that he asks for. */
int vpci_kick_fd(const struct vpci *v, unsigned queue);
int vpci_watch_kick(struct vpci *v, unsigned queue, int on);
void vpci_interrupt(struct vpci *v, unsigned queue);
/* The device configuration has changed: a driver that reads it meanwhile reads it again, and one that is ready
 * is told. */
void vpci_config_changed(struct vpci *v);
/* The driver broke the rules: tell it that only a reset helps. */
void vpci_broken(struct vpci *v);

#endif
