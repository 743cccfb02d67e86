/* SPDX-License-Identifier: Apache-2.0
 * devices - how the paravirtual devices and the serial port are made and wired to the outside.
 *
 * Each *_create adds the device to the VM, which owns it from then on. PCI slots go by order
 * of creation, so both hosts must create the same devices in the same order.
 */
#ifndef HV_DEVICES_H
#define HV_DEVICES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/blk.h"

struct err;
struct serial;
struct vblk;
struct vconsole;
struct vhost_sys;
struct vm;
struct vnet;

/* Where a net device's frames go. Each starts with a 12-byte struct virtio_net_hdr_v1.
 * Called on the I/O thread. 0: taken (copied or sent). -EAGAIN: no room now; the device
 * stops its transmit queue until vnet_tx_resume(). Other errors drop the frame. */
struct net_out {
	int (*frame)(void *self, const struct iovec *iov, int n);
	void *self;
};

/* @tap_fd is taken: non-blocking, IFF_VNET_HDR with 12-byte headers; -1: input comes from
 * nowhere. Frames from the tap go to the guest at once. With @out NULL frames go to the tap. */
int vnet_create(struct vm *vm, int tap_fd, const uint8_t mac[6], struct vnet **dev_out,
		struct err *err);
void vnet_set_out(struct vnet *d,
		  const struct net_out *out); /* copied; before vm_start */
/* Have the queues served by the kernel's vhost-net from the first kick on: @vhost_fd, an open
 * /dev/vhost-net, is taken also on failure. Frames then do not pass through @out; whoever wants to hold
 * them does it behind the tap. The saved state is the same. @sys: NULL, but in tests (vhost.h).
 * Before vm_start. */
int vnet_use_vhost(struct vnet *d, struct vm *vm, int vhost_fd,
		   const struct vhost_sys *sys, struct err *err);
void vnet_tx_resume(struct vnet *d); /* I/O thread */
int vnet_tap_fd(struct vnet *d);     /* borrowed */
/* Write one frame with its header to the tap. Any thread. 0 or -errno. */
int vnet_tap_write(struct vnet *d, const struct iovec *iov, int n);

/* Takes @blk. @serial: at most 20 characters, seen by the guest. */
int vblk_create(struct vm *vm, struct blk blk, const char *serial, int read_only,
		struct vblk **dev_out, struct err *err);
/* The disk has @bytes from now on, which its backend has, too; the driver is told. Before any request beyond the
 * old end is accepted. Device lock. */
void vblk_resize(struct vblk *d, uint64_t bytes);
uint64_t vblk_bytes(const struct vblk *d); /* what the guest sees; device lock */

/* Where console bytes go; called under the device lock; must take them all. */
struct con_out {
	void (*bytes)(void *self, const void *p, size_t len);
	void *self;
};
int vconsole_create(struct vm *vm, const struct con_out *out, struct vconsole **dev_out,
		    struct err *err);
size_t vconsole_input(struct vconsole *d, const void *p,
		      size_t len); /* taken; I/O thread */
int serial_create(struct vm *vm, const struct con_out *out, struct serial **dev_out,
		  struct err *err);
size_t serial_input(struct serial *d, const void *p, size_t len); /* taken; I/O thread */
int vrng_create(struct vm *vm, struct err *err);

#endif
