/* SPDX-License-Identifier: Apache-2.0
 * virtio_net_vhost - a network card whose queues vhost-net serves (internal to virtio_net.c).
 *
 * Theory of operation. A queue is given to vhost when it is kicked for the first time: the driver is
 * ready then, or the state of a checkpoint is loaded. From there on kicks go from KVM to vhost and this
 * process does not look at them. Interrupts come back through the I/O loop, because only
 * we know which vectors the guest has masked. If vhost refuses a queue, the card is served by
 * this process as if there was no vhost.
 */
#ifndef HV_VIRTIO_NET_VHOST_H
#define HV_VIRTIO_NET_VHOST_H

struct err;
struct vhost_sys;
struct vm;
struct vnet_vhost;
struct vpci;

/* @fd: an open /dev/vhost-net, taken also on failure. @tap is borrowed. Before vm_start. */
int vnet_vhost_create(struct vm *vm, struct vpci *v, int tap, int fd,
		      const struct vhost_sys *sys, struct vnet_vhost **h_out,
		      struct err *err);
void vnet_vhost_destroy(struct vnet_vhost *h); /* NULL is fine */
/* I/O thread. 1: vhost serves @queue. 0: do it yourself. */
int vnet_vhost_kick(struct vnet_vhost *h, unsigned queue);
void vnet_vhost_reset(struct vnet_vhost *h); /* under the device lock */

#endif
