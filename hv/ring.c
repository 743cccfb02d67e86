/* SPDX-License-Identifier: Apache-2.0
 * ring - io_uring on the I/O thread's loop.
 */
#include "hv/ring.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { RING_ENTRIES = 128, ZEROES = 64 << 10, RETRY_MS = 1 };

struct ring {
	int event_fd;
	struct loop *loop;
	struct io_uring uring;
	int uring_ok;
	struct event *ev, *retry, *submit;
	int soon; /* @submit is on its way */
	unsigned in_ring;
	struct ring_op *head, **tail; /* wait for room in the ring */
	uint8_t *zeroes;
};

static void prep(struct ring *w, struct io_uring_sqe *sqe, struct ring_op *r)
{
	uint32_t left = r->len - r->did;
	uint64_t off = r->offset + r->did;
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	switch (r->op) {
	case BLK_READ:
		io_uring_prep_read(sqe, r->fd, r->bytes + r->did, left, off);
		break;
	case BLK_WRITE:
		io_uring_prep_write(sqe, r->fd, r->bytes + r->did, left, off);
		sqe->rw_flags = r->fua ? RWF_DSYNC : 0;
		break;
	case BLK_FLUSH:
		io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
		break;
	case BLK_DISCARD:
		io_uring_prep_fallocate(sqe, r->fd, punch, (off_t)off, left);
		break;
	case BLK_ZEROES:
		if (r->plain_zeroes)
			io_uring_prep_write(sqe, r->fd, w->zeroes,
					    left < ZEROES ? left : ZEROES, off);
		else
			io_uring_prep_fallocate(
				sqe, r->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				(off_t)off, left);
		break;
	}
	io_uring_sqe_set_data(sqe, r);
}

static void retry_soon(struct ring *w)
{
	struct timeval tv = {.tv_usec = RETRY_MS * 1000};

	if (event_add(w->retry, &tv))
		log_err("ring: a timer could not be set: requests wait for the next completion");
}

/* Give the ring what it has room for. */
static void push(struct ring *w)
{
	struct io_uring_sqe *sqe;
	int r;

	while (w->head && w->in_ring < RING_ENTRIES &&
	       (sqe = io_uring_get_sqe(&w->uring))) {
		struct ring_op *op = w->head;

		w->head = op->next;
		if (!w->head)
			w->tail = &w->head;
		prep(w, sqe, op);
		w->in_ring++;
	}
	r = io_uring_submit(&w->uring);
	/* The kernel is short of something for a moment; the entries stay in the ring. */
	if (r < 0 || io_uring_sq_ready(&w->uring))
		retry_soon(w);
}

static void enqueue(struct ring *w, struct ring_op *r)
{
	r->next = NULL;
	*w->tail = r;
	w->tail = &r->next;
}

/* Whether the request is not over: the rest of it has to go to the ring again. */
static int more_to_do(struct ring_op *r, int res, int *status_out)
{
	*status_out = 0;
	/* Nobody here cancels. The kernel may, when the thread that submitted has ended: after a
	 * takeover a short-lived one starts again what was under way. (Not seen to happen.) */
	if (res == -EINTR || res == -EAGAIN || res == -ECANCELED)
		return 1;
	if (r->op == BLK_ZEROES && !r->plain_zeroes && res == -EOPNOTSUPP) {
		r->plain_zeroes = 1;
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
	if (r->op != BLK_READ && r->op != BLK_WRITE && !r->plain_zeroes)
		return 0;
	/* An end of file inside the capacity: somebody cut the image. */
	if (res == 0) {
		*status_out = -EIO;
		return 0;
	}
	r->did += (uint32_t)res;
	return r->did < r->len;
}

static void complete(struct ring *w, struct ring_op *r, int res)
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

static void reap(struct ring *w)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&w->uring, &cqe) == 0) {
		struct ring_op *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&w->uring, cqe);
		complete(w, r, res);
	}
}

static void on_completion(evutil_socket_t fd, short what, void *arg)
{
	struct ring *w = arg;

	/* Each completion after this one is an edge of its own: nothing has to be read. */
	loop_enter(w->loop);
	reap(w);
	if (w->head)
		push(w);
	loop_leave(w->loop);
}

/* Every request that is under way ends before its buffer and the ring go. */
void ring_drain(struct ring *w)
{
	struct io_uring_cqe *cqe;

	while (w->in_ring || w->head) {
		push(w);
		if (!io_uring_wait_cqe(&w->uring, &cqe))
			reap(w);
	}
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct ring *w = arg;

	loop_enter(w->loop);
	w->soon = 0;
	push(w);
	loop_leave(w->loop);
}

void ring_submit(struct ring *w, struct ring_op *op)
{
	op->did = 0;
	op->plain_zeroes = 0;
	enqueue(w, op);
	if (!w->soon)
		event_active(w->submit, 0, 0);
	w->soon = 1;
}

void ring_close(struct ring *w)
{
	if (!w)
		return;
	if (w->ev)
		event_free(w->ev);
	if (w->retry)
		event_free(w->retry);
	if (w->submit)
		event_free(w->submit);
	if (w->uring_ok)
		io_uring_queue_exit(&w->uring);
	if (w->event_fd >= 0)
		close(w->event_fd);
	free(w->zeroes);
	free(w);
}

static int create(struct ring *w, struct err *err)
{
	/* The I/O thread looks at completions when it comes to the kernel the next time, and need not
	 * be interrupted for each; a kernel before 5.19 does not know that. */
	int r = io_uring_queue_init(RING_ENTRIES, &w->uring, IORING_SETUP_COOP_TASKRUN);

	if (r == -EINVAL)
		r = io_uring_queue_init(RING_ENTRIES, &w->uring, 0);
	if (r)
		return err_sys(err, r, "disk image: io_uring");
	w->uring_ok = 1;
	w->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (w->event_fd < 0)
		return err_sys(err, -errno, "disk image: eventfd");
	r = io_uring_register_eventfd(&w->uring, w->event_fd);
	if (r)
		return err_sys(err, r, "disk image: eventfd of the ring");
	w->ev = event_new(loop_base(w->loop), w->event_fd, EV_READ | EV_PERSIST | EV_ET,
			  on_completion, w);
	w->retry = evtimer_new(loop_base(w->loop), on_retry, w);
	w->submit = event_new(loop_base(w->loop), -1, 0, on_retry, w);
	if (!w->ev || !w->retry || !w->submit || event_add(w->ev, NULL))
		return err_set(err, -ENOMEM, "disk image: events");
	return 0;
}

int ring_open(struct loop *loop, struct ring **r_out, struct err *err)
{
	struct ring *w = calloc(1, sizeof(*w));
	int rc = -ENOMEM;

	*r_out = NULL;
	if (!w)
		return err_set(err, rc, "disk image: out of memory");
	*w = (struct ring){.event_fd = -1, .loop = loop};
	w->tail = &w->head;
	w->zeroes = calloc(1, ZEROES);
	rc = w->zeroes ? create(w, err) : err_set(err, rc, "disk image: out of memory");
	if (rc)
		ring_close(w);
	else
		*r_out = w;
	return rc;
}
