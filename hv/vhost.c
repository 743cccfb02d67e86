/* SPDX-License-Identifier: Apache-2.0
 * vhost - the virtqueues of one network card, served by the kernel's vhost-net.
 */
#include "hv/vhost.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/gm.h"
#include "hv/virtq.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES_A_WORD = 64, NO_TAP = -1 };

struct vhost {
	int fd, paused;
	struct gm *gm;
	struct vhost_sys sys;
	uint64_t *
		log; /* a bit for each page of guest-physical memory; the kernel's to set */
	uint64_t log_words;
	struct {
		int on;
		struct vhost_queue w;
	} queue[VHOST_QUEUES];
};

static int real_ioctl(void *arg, int fd, unsigned long request, void *p)
{
	return ioctl(fd, request, p) ? -errno : 0;
}

static int call(struct vhost *vh, unsigned long request, void *p)
{
	return vh->sys.ioctl(vh->sys.arg, vh->fd, request, p);
}

uint64_t vhost_features(void)
{
	return 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
	       1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_NET_F_MRG_RXBUF;
}

static int log_create(struct vhost *vh, const struct gm_region *r, unsigned n,
		      struct err *err)
{
	uint64_t end = r[n - 1].gpa + r[n - 1].bytes;

	vh->log_words = (end / GM_PAGE + PAGES_A_WORD - 1) / PAGES_A_WORD;
	vh->log = mmap(NULL, vh->log_words * sizeof(*vh->log), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vh->log == MAP_FAILED) {
		vh->log = NULL;
		return err_sys(err, -errno, "vhost-net: memory for its log");
	}
	return 0;
}

static int tell_memory(struct vhost *vh, const struct gm_region *r, unsigned n,
		       struct err *err)
{
	struct {
		struct vhost_memory head;
		struct vhost_memory_region region[GM_REGIONS_MAX];
	} m = {.head.nregions = n};
	uint64_t log = (uintptr_t)vh->log;
	int rc;

	for (unsigned i = 0; i < n; i++)
		m.region[i] = (struct vhost_memory_region){
			.guest_phys_addr = r[i].gpa,
			.memory_size = r[i].bytes,
			.userspace_addr = (uintptr_t)r[i].host,
		};
	rc = call(vh, VHOST_SET_MEM_TABLE, &m);
	if (rc)
		return err_sys(err, rc, "vhost-net: the guest's memory");
	rc = call(vh, VHOST_SET_LOG_BASE, &log);
	return rc ? err_sys(err, rc, "vhost-net: its log of written pages") : 0;
}

static int set_up(struct vhost *vh, struct err *err)
{
	const uint64_t need = vhost_features() | 1ull << VHOST_F_LOG_ALL;
	struct gm_region r[GM_REGIONS_MAX];
	unsigned n = gm_regions(vh->gm, r);
	uint64_t has = 0;
	int rc = call(vh, VHOST_SET_OWNER, NULL);

	if (rc)
		return err_sys(err, rc, "vhost-net: becoming its owner");
	rc = call(vh, VHOST_GET_FEATURES, &has);
	if (rc)
		return err_sys(err, rc, "vhost-net: asking for its features");
	if ((has & need) != need)
		return err_set(err, -EOPNOTSUPP,
			       "vhost-net: this kernel's lacks features %#llx",
			       (unsigned long long)(need & ~has));
	rc = log_create(vh, r, n, err);
	return rc ? rc : tell_memory(vh, r, n, err);
}

int vhost_create(int fd, struct gm *gm, const struct vhost_sys *sys,
		 struct vhost **vh_out, struct err *err)
{
	struct vhost *vh = calloc(1, sizeof(*vh));
	int rc;

	*vh_out = NULL;
	if (!vh) {
		close(fd);
		return err_set(err, -ENOMEM, "vhost-net: out of memory");
	}
	vh->fd = fd;
	vh->gm = gm;
	vh->sys = sys ? *sys : (struct vhost_sys){.ioctl = real_ioctl};
	rc = set_up(vh, err);
	if (rc)
		vhost_destroy(vh);
	else
		*vh_out = vh;
	return rc;
}

void vhost_destroy(struct vhost *vh)
{
	if (!vh)
		return;
	/* Ends the kernel's thread, and with it all use of memory, log and tap. */
	close(vh->fd);
	if (vh->log)
		(void)munmap(vh->log,
			     vh->log_words *
				     sizeof(*vh->log)); /* fails only for a bad range */
	free(vh);
}

static int set_tap(struct vhost *vh, unsigned queue, int tap)
{
	struct vhost_vring_file f = {.index = queue, .fd = tap};

	return call(vh, VHOST_NET_SET_BACKEND, &f);
}

static int set_fd(struct vhost *vh, unsigned long request, unsigned queue, int fd)
{
	struct vhost_vring_file f = {.index = queue, .fd = fd};

	return call(vh, request, &f);
}

static int set_ring(struct vhost *vh, unsigned queue, const struct virtq *q)
{
	struct vhost_vring_state size = {.index = queue, .num = q->size};
	struct vhost_vring_state base = {.index = queue, .num = q->avail_next};
	struct vhost_vring_addr at = {
		.index = queue,
		.flags = 1 << VHOST_VRING_F_LOG,
		.desc_user_addr = (uintptr_t)q->desc_p,
		.avail_user_addr = (uintptr_t)q->avail_p,
		.used_user_addr = (uintptr_t)q->used_p,
		.log_guest_addr = q->used,
	};
	int rc = call(vh, VHOST_SET_VRING_NUM, &size);

	rc = rc ? rc : call(vh, VHOST_SET_VRING_BASE, &base);
	return rc ? rc : call(vh, VHOST_SET_VRING_ADDR, &at);
}

static void kick(const struct vhost_queue *w)
{
	uint64_t one = 1;

	if (write(w->kick, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full; then the kernel was told often enough. */
	}
}

int vhost_start(struct vhost *vh, unsigned queue, const struct vhost_queue *w,
		uint64_t features)
{
	uint64_t f = (features & vhost_features()) | 1ull << VHOST_F_LOG_ALL;
	int rc;

	if (queue >= VHOST_QUEUES || vh->queue[queue].on || vh->paused)
		return -EBUSY;
	rc = call(vh, VHOST_SET_FEATURES, &f);
	rc = rc ? rc : set_ring(vh, queue, w->q);
	rc = rc ? rc : set_fd(vh, VHOST_SET_VRING_CALL, queue, w->call);
	rc = rc ? rc : set_fd(vh, VHOST_SET_VRING_ERR, queue, w->broken);
	rc = rc ? rc : set_fd(vh, VHOST_SET_VRING_KICK, queue, w->kick);
	rc = rc ? rc : set_tap(vh, queue, w->tap);
	if (rc)
		return rc;
	vh->queue[queue].w = *w;
	vh->queue[queue].on = 1;
	/* What was kicked before there was a tap was looked at in vain. */
	kick(w);
	return 0;
}

int vhost_serves(const struct vhost *vh, unsigned queue)
{
	return queue < VHOST_QUEUES && vh->queue[queue].on;
}

/* No queue has a tap, so nobody sets a bit while this looks. */
static void take_log(struct vhost *vh)
{
	for (uint64_t i = 0; i < vh->log_words; i++) {
		uint64_t bits = vh->log[i];

		if (!bits)
			continue;
		vh->log[i] = 0;
		for (; bits; bits &= bits - 1)
			gm_mark(vh->gm,
				(i * PAGES_A_WORD + (uint64_t)__builtin_ctzll(bits)) *
					GM_PAGE,
				GM_PAGE);
	}
}

static int take_tap(struct vhost *vh, unsigned queue)
{
	return set_tap(vh, queue, NO_TAP);
}

/* Take the tap away, and go on where the kernel was. */
static int take_over(struct vhost *vh, unsigned queue)
{
	struct vhost_vring_state base = {.index = queue};
	int rc = set_tap(vh, queue, NO_TAP);

	rc = rc ? rc : call(vh, VHOST_GET_VRING_BASE, &base);
	if (!rc)
		virtq_taken_over(vh->queue[queue].w.q, (uint16_t)base.num);
	return rc;
}

static int halt_all(struct vhost *vh, int (*halt)(struct vhost *, unsigned))
{
	int rc = 0;

	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		int r = vh->queue[i].on ? halt(vh, i) : 0;

		rc = rc ? rc : r;
	}
	take_log(vh);
	return rc;
}

int vhost_pause(struct vhost *vh)
{
	int rc = vh->paused ? 0 : halt_all(vh, take_over);

	vh->paused = 1;
	return rc;
}

int vhost_resume(struct vhost *vh)
{
	int rc = 0;

	vh->paused = 0;
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		int r;

		if (!vh->queue[i].on)
			continue;
		r = set_tap(vh, i, vh->queue[i].w.tap);
		if (r)
			vh->queue[i].on = 0;
		else
			kick(&vh->queue[i].w);
		rc = rc ? rc : r;
	}
	return rc;
}

static void stop(struct vhost *vh, int (*halt)(struct vhost *, unsigned))
{
	int rc = vh->paused ? 0 : halt_all(vh, halt);

	if (rc)
		log_err("vhost-net: a queue could not be stopped: %s", strerror(-rc));
	for (unsigned i = 0; i < VHOST_QUEUES; i++)
		vh->queue[i].on = 0;
}

void vhost_stop(struct vhost *vh)
{
	stop(vh, take_over);
}

void vhost_forget(struct vhost *vh)
{
	stop(vh, take_tap);
}
