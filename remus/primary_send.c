/* SPDX-License-Identifier: Apache-2.0
 * primary_send - the sender's thread: HELLO, pre-copy, then every captured epoch in order.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "remus/crashpoint.h"
#include "remus/schedule.h"

#include <errno.h>
#include <string.h>

/* What a participant is given to write to: only its own kind, only the epoch at hand. */
struct sink {
	struct rec_sink base;
	struct link *link;
	struct tally *tally; /* NULL while syncing */
	uint64_t epoch;
	uint8_t kind;
};

static int sink_put(struct rec_sink *base, uint16_t type, uint64_t epoch,
		    const struct iovec *iov, int n)
{
	struct sink *s = (struct sink *)base;
	int rc;

	if (type >> 8 != s->kind || epoch != s->epoch)
		return -EINVAL;
	rc = rec_send(&s->link->rs, type, epoch, iov, n);
	if (!rc && s->tally)
		rc = tally_add(s->tally, type, iov, n);
	return rc;
}

/* @t: NULL while syncing. */
static struct sink sink_of(struct link *l, const struct part *part, uint64_t epoch,
			   struct tally *t)
{
	return (struct sink){.base.put = sink_put,
			     .link = l,
			     .tally = t,
			     .epoch = epoch,
			     .kind = part->ops->kind};
}

static int send_control(struct link *l, uint16_t type, uint64_t epoch,
			const void *payload, size_t len, struct err *err)
{
	struct iovec v = {.iov_base = (void *)payload, .iov_len = len};
	int rc = rec_send(&l->rs, type, epoch, &v, len ? 1 : 0);

	return rc ? err_sys(err, rc, "sending to the standby") : 0;
}

static int flush(struct link *l, struct err *err)
{
	int rc = rec_flush(&l->rs);

	return rc ? err_sys(err, rc, "sending to the standby") : 0;
}

/* A participant's failure: its own story if it told one. */
static int part_failed(const struct part *part, int rc, const char *doing,
		       struct err *err)
{
	if (!err->code)
		return err_sys(err, rc, "%s: %s", part->ops->name, doing);
	err_ctx(err, "%s: %s", part->ops->name, doing);
	return rc;
}

static int greet(struct link *l, struct err *err)
{
	struct sync_wire all_said = {0};

	for (unsigned i = 0; i < l->p->n; i++) {
		const struct part *part = &l->p->part[i];
		struct sink s = sink_of(l, part, REC_EPOCH_SYNC, NULL);
		int rc = part->ops->greet(part->self, &s.base, err);

		if (rc)
			return part_failed(part, rc, "greeting the standby", err);
	}
	return send_control(l, CTL_SYNC, REC_EPOCH_SYNC, &all_said, sizeof(all_said),
			    err);
}

static int say_hello(struct link *l, struct err *err)
{
	struct primary *p = l->p;
	int rc;

	rc = send_control(l, CTL_HELLO, 0, &l->hello, sizeof(l->hello), err);
	rc = rc ? rc : greet(l, err);
	if (!rc)
		rc = flush(l, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&p->lock);
	while (!l->peer_ready && !l->ended)
		pthread_cond_wait(&l->to_sender, &p->lock);
	rc = l->ended ? -ECANCELED : 0;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

static int sync_begin(struct link *l, struct err *err)
{
	for (unsigned i = 0; i < l->p->n; i++) {
		const struct part *part = &l->p->part[i];
		struct sink s = sink_of(l, part, REC_EPOCH_SYNC, NULL);
		int rc = part->ops->sync_begin(part->self, &s.base, err);

		if (rc)
			return part_failed(part, rc, "beginning to sync", err);
	}
	return 0;
}

static int sync_round(struct link *l, unsigned round, uint64_t *left_out, struct err *err)
{
	struct sync_wire w = {.round = le32_of(round)};
	uint64_t left;
	int rc;

	*left_out = 0;
	for (unsigned i = 0; i < l->p->n; i++) {
		const struct part *part = &l->p->part[i];
		struct sink s = sink_of(l, part, REC_EPOCH_SYNC, NULL);

		left = 0;
		rc = part->ops->sync_round(part->self, &s.base, &left, err);
		if (rc)
			return part_failed(part, rc, "syncing", err);
		*left_out += left;
	}
	w.left = le64_of(*left_out);
	rc = send_control(l, CTL_SYNC, REC_EPOCH_SYNC, &w, sizeof(w), err);
	return rc ? rc : flush(l, err);
}

int link_say(struct link *l, uint16_t type, uint64_t epoch, struct err *err)
{
	int rc = send_control(l, type, epoch, NULL, 0, err);

	return rc ? rc : flush(l, err);
}

static int ended(struct link *l)
{
	int r;

	pthread_mutex_lock(&l->p->lock);
	r = l->ended;
	pthread_mutex_unlock(&l->p->lock);
	return r;
}

static int precopy(struct link *l, struct err *err)
{
	struct sync_progress progress = {.best = UINT64_MAX};
	uint64_t left;
	int rc = sync_begin(l, err);

	for (unsigned round = 0; !rc; round++) {
		rc = sync_round(l, round, &left, err);
		if (!rc)
			stats_sync_left(l->p, left);
		if (!rc && ended(l))
			rc = -ECANCELED;
		if (!rc && sync_enough(&progress, left))
			break;
	}
	if (rc)
		return rc;
	pthread_mutex_lock(&l->p->lock);
	l->synced = 1;
	pthread_cond_signal(&l->p->wake);
	pthread_mutex_unlock(&l->p->lock);
	return 0;
}

/* What follows an epoch. */
enum last { LAST_NOT, LAST_BYE, LAST_HELD };

/* 1 once epoch @epoch is captured; 0 when there is nothing more to send. */
static int wait_captured(struct link *l, uint64_t epoch, uint64_t *pages_out,
			 enum last *last_out)
{
	struct primary *p = l->p;
	int go;

	pthread_mutex_lock(&p->lock);
	while (l->captured <= epoch && !l->ended)
		pthread_cond_wait(&l->to_sender, &p->lock);
	*pages_out = l->flight[epoch % PRI_INFLIGHT_MAX].pages;
	*last_out = l->last != epoch + 1 ? LAST_NOT : l->holding ? LAST_HELD : LAST_BYE;
	go = !l->ended;
	pthread_mutex_unlock(&p->lock);
	return go;
}

static int send_parts(struct link *l, uint64_t epoch, struct tally *t, uint64_t *saved,
		      struct err *err)
{
	for (unsigned i = 0; i < l->p->n; i++) {
		const struct part *part = &l->p->part[i];
		struct sink s = sink_of(l, part, epoch, t);
		int rc = part->ops->send(part->self, epoch, &s.base, err);

		*saved += s.base.saved;
		if (rc)
			return part_failed(part, rc, "sending", err);
		crash_at(CRASH_SENDING, epoch);
	}
	return 0;
}

/* Output is held since capture(0). From here on only a grant may free it: noted before the
 * first byte can leave. */
static int send_armed(struct link *l, struct err *err)
{
	pthread_mutex_lock(&l->p->lock);
	l->armed_maybe = 1;
	pthread_mutex_unlock(&l->p->lock);
	return send_control(l, CTL_ARMED, 0, NULL, 0, err);
}

/* The ack can be here before rec_send() is back, so END counts as sent before it is. */
static int send_end(struct link *l, uint64_t epoch, const struct tally *t, enum last last,
		    struct err *err)
{
	struct end_wire end[STREAM_PARTS_MAX];
	size_t len = tally_end(t, end);
	int rc;

	pthread_mutex_lock(&l->p->lock);
	l->end_begun = epoch + 1;
	pthread_mutex_unlock(&l->p->lock);
	rc = send_control(l, CTL_END, epoch, end, len, err);
	if (!rc && last == LAST_BYE)
		rc = send_control(l, CTL_BYE, epoch, NULL, 0, err);
	return rc ? rc : flush(l, err);
}

/* What the epoch would have cost as it is: changed pages in full, other participants' records
 * without compression. */
static uint64_t raw_bytes(const struct primary *p, const struct tally *t, uint64_t pages,
			  uint64_t saved)
{
	uint64_t raw = pages * 4096 + saved;

	for (unsigned i = 0; i < p->n; i++)
		if (p->kind[i] != REC_KIND_MEMORY)
			raw += tally_bytes(t, i);
	return raw;
}

static int send_epoch(struct link *l, uint64_t epoch, struct tally *t, uint64_t pages,
		      enum last last, struct err *err)
{
	uint64_t start = clock_mono_ns(), bytes = 0, saved = 0;
	int rc;

	tally_reset(t);
	rc = send_parts(l, epoch, t, &saved, err);
	if (!rc && epoch == 0)
		rc = send_armed(l, err);
	if (!rc)
		rc = send_end(l, epoch, t, last, err);
	if (rc)
		return rc;
	crash_at(CRASH_END_SENT, epoch);
	for (unsigned i = 0; i < l->p->n; i++)
		bytes += tally_bytes(t, i);
	stats_sent(l->p, clock_mono_ns() - start, pages, raw_bytes(l->p, t, pages, saved),
		   bytes);
	return 0;
}

static int send_all(struct link *l, struct err *err)
{
	struct tally tally;
	uint64_t epoch = 0, pages;
	enum last last = LAST_NOT;
	int rc, more = 1;

	rc = say_hello(l, err);
	if (!rc)
		rc = precopy(l, err);
	tally_init(&tally, l->p->kind, l->p->n);
	for (; !rc && more && wait_captured(l, epoch, &pages, &last); epoch++) {
		rc = send_epoch(l, epoch, &tally, pages, last, err);
		more = last == LAST_NOT;
		if (!rc && last == LAST_HELD)
			more = rc = hold_serve(l, epoch, err);
		rc = rc < 0 ? rc : 0;
	}
	return rc;
}

void *link_sender(void *arg)
{
	struct link *l = arg;
	struct err err = {0};
	int rc = send_all(l, &err);

	if (rc == -ECONNRESET || rc == -EPIPE)
		link_peer_gone(l, err.msg);
	else if (rc)
		link_fail(l, err.msg);
	return NULL;
}
