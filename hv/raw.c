/* SPDX-License-Identifier: Apache-2.0
 * raw - a raw image or block device over io_uring, its completions on the I/O thread's loop.
 *
 * Theory of operation. Each request becomes one operation of the ring; a short read or write is
 * continued where it stopped. Requests that the ring has no room for wait in a list, in order.
 * Zeroes are a range operation of the file system where it has one, else written from a buffer of
 * zeroes. A flush is fdatasync, which covers every write that was completed before it.
 */
#include "hv/blk.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RING_ENTRIES = 128, SECTOR = 512, ZEROES = 64 << 10, RETRY_MS = 1 };

struct raw {
	int fd, event_fd;
	uint64_t bytes;
	struct loop *loop;
	struct io_uring ring;
	int ring_ok;
	struct event *ev, *retry;
	unsigned in_ring;
	struct blk_req *head, **tail; /* wait for room in the ring */
	uint8_t *zeroes;
};

/* What is known of a request on its way, in its backend_priv: bytes done, and whether zeroes
 * have to be written one by one. */
enum { PRIV_WRITE_ZEROES = 1 };

static uint32_t req_done(const struct blk_req *r)
{
	return (uint32_t)((uintptr_t)r->backend_priv >> 1);
}

static int req_plain_zeroes(const struct blk_req *r)
{
	return (uintptr_t)r->backend_priv & PRIV_WRITE_ZEROES;
}

static void req_set(struct blk_req *r, uint32_t done, int plain_zeroes)
{
	r->backend_priv =
		(void *)((uintptr_t)done << 1 | (plain_zeroes ? PRIV_WRITE_ZEROES : 0));
}

static void prep(struct raw *w, struct io_uring_sqe *sqe, struct blk_req *r)
{
	uint32_t done = req_done(r), left = r->len - done;
	uint64_t off = r->offset + done;
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	switch (r->op) {
	case BLK_READ:
		io_uring_prep_read(sqe, w->fd, r->data->bytes + done, left, off);
		break;
	case BLK_WRITE:
		io_uring_prep_write(sqe, w->fd, r->data->bytes + done, left, off);
		sqe->rw_flags = r->fua ? RWF_DSYNC : 0;
		break;
	case BLK_FLUSH:
		io_uring_prep_fsync(sqe, w->fd, IORING_FSYNC_DATASYNC);
		break;
	case BLK_DISCARD:
		io_uring_prep_fallocate(sqe, w->fd, punch, (off_t)off, left);
		break;
	case BLK_ZEROES:
		if (req_plain_zeroes(r))
			io_uring_prep_write(sqe, w->fd, w->zeroes,
					    left < ZEROES ? left : ZEROES, off);
		else
			io_uring_prep_fallocate(
				sqe, w->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				(off_t)off, left);
		break;
	}
	io_uring_sqe_set_data(sqe, r);
}

static void retry_soon(struct raw *w)
{
	struct timeval tv = {.tv_usec = RETRY_MS * 1000};

	if (event_add(w->retry, &tv))
		log_err("raw: a timer could not be set: requests wait for the next completion");
}

/* Give the ring what it has room for. */
static void push(struct raw *w)
{
	struct io_uring_sqe *sqe;
	int r;

	while (w->head && w->in_ring < RING_ENTRIES &&
	       (sqe = io_uring_get_sqe(&w->ring))) {
		struct blk_req *req = w->head;

		w->head = req->next;
		if (!w->head)
			w->tail = &w->head;
		prep(w, sqe, req);
		w->in_ring++;
	}
	r = io_uring_submit(&w->ring);
	/* The kernel is short of something for a moment; the entries stay in the ring. */
	if (r < 0 || io_uring_sq_ready(&w->ring))
		retry_soon(w);
}

static void enqueue(struct raw *w, struct blk_req *r)
{
	r->next = NULL;
	*w->tail = r;
	w->tail = &r->next;
}

/* Whether the request is not over: the rest of it has to go to the ring again. */
static int more_to_do(struct blk_req *r, int res, int *status_out)
{
	uint32_t done = req_done(r);

	*status_out = 0;
	/* Nobody here cancels. The kernel may, when the thread that submitted has ended: after a
	 * takeover a short-lived one starts again what was under way. (Not seen to happen.) */
	if (res == -EINTR || res == -EAGAIN || res == -ECANCELED)
		return 1;
	if (r->op == BLK_ZEROES && !req_plain_zeroes(r) && res == -EOPNOTSUPP) {
		req_set(r, done, 1);
		return 1;
	}
	/* What was discarded may hold anything, also what it held: a device that cannot discard has
	 * done it. (The standby, which can, then differs in bytes that mean nothing.) */
	if (r->op == BLK_DISCARD && res == -EOPNOTSUPP)
		return 0;
	if (res < 0) {
		*status_out = res;
		return 0;
	}
	if (r->op != BLK_READ && r->op != BLK_WRITE && !req_plain_zeroes(r))
		return 0;
	/* An end of file inside the capacity: somebody cut the image. */
	if (res == 0) {
		*status_out = -EIO;
		return 0;
	}
	done += (uint32_t)res;
	req_set(r, done, req_plain_zeroes(r));
	return done < r->len;
}

static void complete(struct raw *w, struct blk_req *r, int res)
{
	int status;

	w->in_ring--;
	if (more_to_do(r, res, &status)) {
		enqueue(w, r);
		return;
	}
	/* A file system without holes is told to the guest, not to the operator. */
	if (status && status != -EOPNOTSUPP)
		log_ratelimited(LOG_LVL_ERR, 1000,
				"disk: operation %d at %llu, %u bytes: error %d",
				(int)r->op, (unsigned long long)r->offset, r->len,
				-status);
	r->done(r, status);
}

static void reap(struct raw *w)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&w->ring, &cqe) == 0) {
		struct blk_req *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&w->ring, cqe);
		complete(w, r, res);
	}
}

static void on_completion(evutil_socket_t fd, short what, void *arg)
{
	struct raw *w = arg;
	eventfd_t n;

	loop_enter(w->loop);
	if (eventfd_read(fd, &n)) {
		/* EAGAIN: an earlier turn took it; the ring is looked at all the same. */
	}
	reap(w);
	if (w->head)
		push(w);
	loop_leave(w->loop);
}

/* Every request that is under way ends before its buffer and the ring go. */
static void drain(struct raw *w)
{
	struct io_uring_cqe *cqe;

	while (w->in_ring || w->head) {
		push(w);
		if (!io_uring_wait_cqe(&w->ring, &cqe))
			reap(w);
	}
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct raw *w = arg;

	loop_enter(w->loop);
	push(w);
	loop_leave(w->loop);
}

static void raw_submit(void *self, struct blk_req *r)
{
	struct raw *w = self;

	req_set(r, 0, 0);
	if (!r->len && r->op != BLK_FLUSH) {
		r->done(r, 0);
		return;
	}
	enqueue(w, r);
	push(w);
}

static uint64_t raw_capacity(void *self)
{
	return ((struct raw *)self)->bytes;
}

static void raw_close(void *self)
{
	struct raw *w = self;

	if (w->ring_ok)
		drain(w);
	if (w->ev)
		event_free(w->ev);
	if (w->retry)
		event_free(w->retry);
	if (w->ring_ok)
		io_uring_queue_exit(&w->ring);
	if (w->event_fd >= 0)
		close(w->event_fd);
	if (w->fd >= 0)
		close(w->fd);
	free(w->zeroes);
	free(w);
}

static const struct blk_ops raw_ops = {
	.name = "raw",
	.submit = raw_submit,
	.capacity = raw_capacity,
	.close = raw_close,
};

static int find_size(struct raw *w, struct err *err)
{
	struct stat st;
	uint64_t n;

	if (fstat(w->fd, &st))
		return err_sys(err, -errno, "disk image: fstat");
	if (S_ISREG(st.st_mode))
		n = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return err_set(err, -EINVAL,
			       "disk image: neither a file nor a block device");
	else if (ioctl(w->fd, BLKGETSIZE64, &n))
		return err_sys(err, -errno, "disk image: size of the block device");
	w->bytes = n & ~(uint64_t)(SECTOR - 1);
	if (!w->bytes)
		return err_set(err, -EINVAL, "disk image: it is empty");
	return 0;
}

static int ring_create(struct raw *w, struct err *err)
{
	int r = io_uring_queue_init(RING_ENTRIES, &w->ring, 0);

	if (r)
		return err_sys(err, r, "disk image: io_uring");
	w->ring_ok = 1;
	w->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (w->event_fd < 0)
		return err_sys(err, -errno, "disk image: eventfd");
	r = io_uring_register_eventfd(&w->ring, w->event_fd);
	if (r)
		return err_sys(err, r, "disk image: eventfd of the ring");
	w->ev = event_new(loop_base(w->loop), w->event_fd, EV_READ | EV_PERSIST,
			  on_completion, w);
	w->retry = evtimer_new(loop_base(w->loop), on_retry, w);
	if (!w->ev || !w->retry || event_add(w->ev, NULL))
		return err_set(err, -ENOMEM, "disk image: events");
	return 0;
}

int raw_open(int fd, struct loop *loop, struct blk *blk_out, struct err *err)
{
	struct raw *w = calloc(1, sizeof(*w));
	int rc = -ENOMEM;

	*blk_out = (struct blk){0};
	if (!w) {
		close(fd);
		return err_set(err, rc, "disk image: out of memory");
	}
	*w = (struct raw){.fd = fd, .event_fd = -1, .loop = loop};
	w->tail = &w->head;
	w->zeroes = calloc(1, ZEROES);
	if (!w->zeroes)
		err_set(err, rc, "disk image: out of memory");
	else
		rc = find_size(w, err);
	if (!rc)
		rc = ring_create(w, err);
	if (rc) {
		raw_close(w);
		return rc;
	}
	*blk_out = (struct blk){.ops = &raw_ops, .self = w};
	return 0;
}
