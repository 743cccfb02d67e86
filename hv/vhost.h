/* SPDX-License-Identifier: Apache-2.0
 * vhost - the virtqueues of one network card, served by the kernel's vhost-net.
 *
 * Theory of operation. vhost-net copies frames between a tap and the guest's rings on a thread of its
 * own; we only say where rings and memory are, and which eventfds mean a kick and an interrupt.
 * A checkpoint must find rings that stand still: vhost_pause() takes the tap away from each queue.
 * The kernel does that between two batches, waits for the batch under way, and hands every frame of
 * it on before it returns; so what was taken from a ring has been sent and given back, and each
 * frame that the guest has sent is where the tap leads to. Then
 *
 *   - the indices go back into the struct virtq, as if this process had served the queue, so the
 *     state that is saved is the same with vhost and without;
 *   - the log of pages that the kernel wrote to is emptied into gm_mark(). It is kept all the time
 *     (VHOST_F_LOG_ALL), used rings included, and read only here, when nobody writes to it.
 *
 * vhost_resume() gives the tap back and kicks each queue: a kick that came while there was no tap
 * found nothing to do.
 */
#ifndef HV_VHOST_H
#define HV_VHOST_H

#include <stdint.h>

struct err;
struct gm;
struct vhost;
struct virtq;

enum { VHOST_QUEUES = 2 };

/* The kernel's side, for tests to stand in for. -errno or 0. */
struct vhost_sys {
	int (*ioctl)(void *arg, int fd, unsigned long request, void *p);
	void *arg;
};

/* Features of virtio that vhost must know of; vhost_start() passes on which of them were negotiated. */
uint64_t vhost_features(void);

/* Make this process the owner of @fd (an open /dev/vhost-net; taken, also on failure) for the memory
 * @gm (borrowed). @sys: NULL for the real one, else borrowed. Returns owned. */
int vhost_create(int fd, struct gm *gm, const struct vhost_sys *sys,
		 struct vhost **vh_out, struct err *err);
void vhost_destroy(struct vhost *vh); /* NULL is fine; closes the descriptor */

/* What one queue needs: all borrowed, and good until it is stopped. */
struct vhost_queue {
	struct virtq *q;	/* ready */
	int kick, call, broken; /* eventfds */
	int tap;
};
/* Under the device lock, all of them. 0 or -errno; after an error the queue is not served. */
int vhost_start(struct vhost *vh, unsigned queue, const struct vhost_queue *vq,
		uint64_t features);
int vhost_serves(const struct vhost *vh, unsigned queue);
/* Stop all queues for good: their indices are in the struct virtq, its log is with the memory. Also
 * while paused. */
void vhost_stop(struct vhost *vh);
/* The same when the driver is gone: the struct virtq are not looked at, they were reset already. */
void vhost_forget(struct vhost *vh);
/* As described above. -errno: a queue may still move, the checkpoint must not be taken. */
int vhost_pause(struct vhost *vh);
/* Go on. -errno: some queue did not, and is not served any more. */
int vhost_resume(struct vhost *vh);

#endif
