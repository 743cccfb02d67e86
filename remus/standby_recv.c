/* SPDX-License-Identifier: Apache-2.0
 * standby_recv - the receive thread: stage, verify, acknowledge, apply, in the stream's order.
 */
#include "remus/standby_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "remus/crashpoint.h"
#include "replication/transport.h"

#include <errno.h>
#include <string.h>

static int send_control(struct standby *s, uint16_t type, uint64_t epoch,
			const void *payload, size_t len, struct err *err)
{
	struct iovec v = {.iov_base = (void *)payload, .iov_len = len};
	int rc;

	pthread_mutex_lock(&s->send_lock);
	rc = rec_send(&s->rs, type, epoch, &v, len ? 1 : 0);
	if (!rc)
		rc = rec_flush(&s->rs);
	pthread_mutex_unlock(&s->send_lock);
	return rc ? err_sys(err, rc, "answering the primary") : 0;
}

struct hello_sink {
	struct rec_sink base;
	struct standby *s;
	uint8_t kind;
};

static int hello_put(struct rec_sink *base, uint16_t type, uint64_t epoch,
		     const struct iovec *iov, int n)
{
	struct hello_sink *h = (struct hello_sink *)base;
	int rc;

	if (type >> 8 != h->kind)
		return -EINVAL;
	pthread_mutex_lock(&h->s->send_lock);
	rc = rec_send(&h->s->rs, type, epoch, iov, n);
	pthread_mutex_unlock(&h->s->send_lock);
	return rc;
}

static int say_all_hello(struct standby *s, struct err *err)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct standby_part *part = &s->part[i];
		struct hello_sink sink = {
			.base.put = hello_put, .s = s, .kind = part->ops->kind};
		int rc = part->ops->hello(part->self, &sink.base, err);

		if (rc) {
			if (!err->code)
				err_sys(err, rc, "%s: greeting the primary",
					part->ops->name);
			return rc;
		}
	}
	return 0;
}

/* Our own HELLO goes out before theirs is judged, so that both can say what does not fit. */
static int on_hello(struct standby *s, const struct rec *r, struct err *err)
{
	int rc;

	if (s->hello_seen)
		return err_set(err, -EPROTO, "a second HELLO");
	s->hello_seen = 1;
	rc = send_control(s, CTL_HELLO, 0, &s->hello, sizeof(s->hello), err);
	if (!rc)
		rc = hello_check(&s->hello, r->payload, r->len, err);
	return rc;
}

static int precopy_admit(const struct standby *s, struct err *err)
{
	return s->in_epochs ? err_set(err, -EPROTO, "pre-copy after epoch 0 began") : 0;
}

/* The first one ends what the primary greets with; the others end a round each. */
static int on_sync(struct standby *s, const struct rec *r, struct err *err)
{
	struct sync_wire ready = {0};
	int rc = precopy_admit(s, err);

	if (rc || s->greeted)
		return rc;
	s->greeted = 1;
	rc = say_all_hello(s, err);
	return rc ? rc
		  : send_control(s, CTL_SYNC, REC_EPOCH_SYNC, &ready, sizeof(ready), err);
}

static int on_armed(struct standby *s, const struct rec *r, struct err *err)
{
	if (s->armed || r->epoch != 0)
		return err_set(err, -EPROTO, "ARMED twice or not for epoch 0");
	if (!s->greeted)
		return err_set(err, -EPROTO, "ARMED before the greeting's end");
	s->armed = s->in_epochs = 1;
	return 0;
}

/* Whatever was acknowledged before: this is no standby any more. */
static void is_broken(struct standby *s)
{
	pthread_mutex_lock(&s->lock);
	s->broken = 1;
	pthread_mutex_unlock(&s->lock);
}

/* Whole, or not: no effect outside this process's staging. */
static int verify(struct standby *s, const struct rec *r, struct err *err)
{
	uint64_t start = clock_mono_ns();
	int rc = tally_check(&s->tally, r->payload, r->len, err);

	for (unsigned i = 0; !rc && i < s->n; i++) {
		rc = s->part[i].ops->check(s->part[i].self, r->epoch, err);
		if (rc)
			err_ctx(err, "checking %s", s->part[i].ops->name);
	}
	pthread_mutex_lock(&s->lock);
	if (rc == -EIO)
		s->broken = 1;
	hist_add(&s->verify, clock_mono_ns() - start);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* This host was granted: whatever the old term still says is answered with FENCED. Before the
 * transport is shut down, or the activation's own farewell could come too late. */
static int granted_away(struct standby *s, uint64_t term, struct err *err)
{
	if (standby_say_fenced(s, term))
		log_debug("%s: the old primary could not be told", s->vm);
	return err_set(err, -ECANCELED, "granted: this host does not listen any more");
}

/* The one place where a commit is decided. After a grant to this host there is none: the
 * primary of the old term must not release anything more. */
static int decide_ack(struct standby *s, uint64_t epoch, struct err *err)
{
	uint64_t granted;

	pthread_mutex_lock(&s->lock);
	granted = s->granted > s->term ? s->granted : 0;
	if (!granted)
		s->acked = epoch + 1;
	pthread_mutex_unlock(&s->lock);
	if (granted)
		return granted_away(s, granted, err);
	if (epoch == 0)
		standby_set_state(s, SB_READY, 0,
				  "checkpoint 0 is here and the primary holds");
	return 0;
}

/* Goes out with the ack. */
static int say_reports(struct standby *s, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++) {
		const struct standby_part *part = &s->part[i];
		struct hello_sink sink = {
			.base.put = hello_put, .s = s, .kind = part->ops->kind};

		rc = part->ops->report(part->self, &sink.base);
	}
	return rc ? err_sys(err, rc, "reporting to the primary") : 0;
}

/* Acked: from here it only goes forward. A failure leaves memory and disks at no epoch at
 * all, so this standby will never run. */
static int apply(struct standby *s, uint64_t epoch, struct err *err)
{
	uint64_t start = clock_mono_ns();
	int rc = 0;

	for (unsigned i = 0; !rc && i < s->n; i++) {
		rc = s->part[i].ops->apply(s->part[i].self, epoch, err);
		if (rc)
			err_ctx(err, "applying %s", s->part[i].ops->name);
		crash_at(CRASH_APPLYING, epoch);
	}
	pthread_mutex_lock(&s->lock);
	if (rc)
		s->broken = 1;
	else
		s->applied = epoch + 1;
	hist_add(&s->apply, clock_mono_ns() - start);
	pthread_mutex_unlock(&s->lock);
	crash_at(CRASH_APPLIED, epoch);
	return rc;
}

static int on_end(struct standby *s, const struct rec *r, struct err *err)
{
	struct err send_err = {0};
	int rc, sent;

	if (!s->armed)
		return err_set(err, -EPROTO, "END before ARMED");
	rc = verify(s, r, err);
	if (rc)
		return rc;
	crash_at(CRASH_VERIFIED, r->epoch);
	rc = decide_ack(s, r->epoch, err);
	if (rc)
		return rc;
	sent = say_reports(s, &send_err);
	if (!sent)
		sent = send_control(s, CTL_ACK, r->epoch, NULL, 0, &send_err);
	crash_at(CRASH_ACK_SENT, r->epoch);
	/* Even when the ack did not get out: nobody can tell how much of it did. */
	rc = apply(s, r->epoch, err);
	tally_reset(&s->tally);
	log_set_epoch(r->epoch);
	if (!rc && sent)
		*err = send_err;
	return rc ? rc : sent;
}

static int on_save(struct standby *s, const struct rec *r, struct err *err)
{
	int rc;

	if (r->epoch + 1 != s->acked || !s->acked)
		return err_set(err, -EPROTO,
			       "SAVE of epoch %llu, which is not the last acked",
			       (unsigned long long)r->epoch);
	rc = s->cfg.on_save ? s->cfg.on_save(s->cfg.arg, r->epoch) : -ENOSYS;
	if (rc)
		rc = standby_say_saved(s, r->epoch, rc);
	return rc ? err_sys(err, rc, "answering the primary") : 0;
}

static int is_saved(struct standby *s, uint64_t epoch)
{
	int r;

	pthread_mutex_lock(&s->lock);
	r = s->saved == epoch + 1;
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* The state is EMPTY from here on; the thread only stays to let the answer get out. */
static int on_bye(struct standby *s, const struct rec *r, struct err *err)
{
	int rc;

	if (r->epoch + 1 != s->acked || !s->acked)
		return err_set(err, -EPROTO,
			       "BYE after epoch %llu, which is not the last acked",
			       (unsigned long long)r->epoch);
	s->bye = 1;
	if (is_saved(s, r->epoch))
		standby_set_state(s, SB_EMPTY, STANDBY_BYE_SAVED, "the guest is saved");
	else
		standby_set_state(s, SB_EMPTY, 1, "the guest ended in good order");
	rc = send_control(s, CTL_BYE, r->epoch, NULL, 0, err);
	return rc;
}

enum { NEXT = 1, ANY = 0 };

static const struct record {
	uint16_t type;
	int epoch; /* NEXT: must be the epoch that is expected */
	int (*fn)(struct standby *s, const struct rec *r, struct err *err);
	uint32_t len; /* of the payload, exactly; UINT32_MAX: fn looks at it */
} controls[] = {
	{CTL_SYNC, ANY, on_sync, sizeof(struct sync_wire)},
	{CTL_ARMED, ANY, on_armed, 0},
	{CTL_END, NEXT, on_end, UINT32_MAX},
	{CTL_BYE, ANY, on_bye, 0},
	{CTL_SAVE, ANY, on_save, 0},
};

static int unknown(const struct rec *r, struct err *err)
{
	return err_set(err, -EPROTO, "record type 0x%04x of %u bytes is not expected",
		       r->type, r->len);
}

/* Only the receive thread writes @acked, so it may read it without the lock. */
static int is_next(struct standby *s, const struct rec *r, struct err *err)
{
	if (r->epoch == s->acked)
		return 0;
	return err_set(err, -EPROTO, "a record of epoch %llu, but %llu is next",
		       (unsigned long long)r->epoch, (unsigned long long)s->acked);
}

static int on_control(struct standby *s, const struct rec *r, struct err *err)
{
	const struct record *c = NULL;
	int rc;

	for (unsigned i = 0; i < sizeof(controls) / sizeof(controls[0]); i++)
		if (controls[i].type == r->type)
			c = &controls[i];
	if (!c || (c->len != UINT32_MAX && c->len != r->len))
		return unknown(r, err);
	rc = c->epoch == NEXT ? is_next(s, r, err) : 0;
	return rc ? rc : c->fn(s, r, err);
}

/* A participant's record: of pre-copy, which may go straight into memory and so is refused
 * for ever once an epoch began, or of exactly the epoch that is next. */
static int part_admit(struct standby *s, const struct rec *r, struct err *err)
{
	struct iovec v = {.iov_base = (void *)r->payload, .iov_len = r->len};
	int rc;

	if (r->epoch == REC_EPOCH_SYNC)
		return precopy_admit(s, err);
	/* The participants begin anew with their hello. */
	if (!s->greeted)
		return err_set(err, -EPROTO, "a checkpoint before the greeting's end");
	rc = is_next(s, r, err);
	if (rc)
		return rc;
	s->in_epochs = 1;
	return tally_add(&s->tally, r->type, &v, 1) ? unknown(r, err) : 0;
}

static int on_part(struct standby *s, const struct rec *r, struct err *err)
{
	const struct standby_part *part;
	int rc = part_admit(s, r, err);

	if (rc)
		return rc;
	for (unsigned i = 0; i < s->n; i++) {
		part = &s->part[i];
		if (part->ops->kind != r->type >> 8)
			continue;
		rc = part->ops->record(part->self, r->type, r->epoch, r->payload, r->len,
				       err);
		if (rc)
			err_ctx(err, "%s", part->ops->name);
		if (rc == -EIO)
			is_broken(s);
		return rc;
	}
	return unknown(r, err);
}

/* An older term is over: its primary is told, and never acked. */
static int term_check(struct standby *s, const struct rec *r, struct err *err)
{
	if (r->term == s->term)
		return 0;
	if (r->term < s->term && standby_say_fenced(s, s->term))
		log_debug("%s: the peer of term %llu could not be told", s->vm,
			  (unsigned long long)r->term);
	return err_set(err, -EPROTO, "a record of term %llu on a link of term %llu",
		       (unsigned long long)r->term, (unsigned long long)s->term);
}

static int on_record(struct standby *s, const struct rec *r, struct err *err)
{
	uint64_t granted;
	int rc;

	pthread_mutex_lock(&s->lock);
	s->bytes_received += sizeof(struct rec_wire) + r->len;
	granted = s->granted > s->term ? s->granted : 0;
	pthread_mutex_unlock(&s->lock);
	if (granted)
		return granted_away(s, granted, err);
	rc = term_check(s, r, err);
	if (rc)
		return rc;
	if (r->type == CTL_HELLO)
		return on_hello(s, r, err);
	if (!s->hello_seen || s->bye)
		return unknown(r, err);
	return r->type >> 8 == REC_KIND_CONTROL ? on_control(s, r, err)
						: on_part(s, r, err);
}

/* What was acked is applied by now; the rest is forgotten. */
static void link_lost(struct standby *s, const char *how)
{
	enum standby_state next = SB_EMPTY;
	char why[ERR_MSG_MAX];

	tp_shutdown(s->tp);
	for (unsigned i = 0; i < s->n; i++)
		s->part[i].ops->drop(s->part[i].self);
	pthread_mutex_lock(&s->lock);
	memcpy(why, s->why, sizeof(why));
	if (s->state == SB_READY && !s->broken)
		next = SB_LOST;
	pthread_mutex_unlock(&s->lock);
	if (s->state != SB_EMPTY)
		standby_set_state(s, next, 0, why[0] ? why : how);
}

static void *room_of_part(void *arg, uint16_t type, uint64_t epoch, size_t len)
{
	struct standby *s = arg;

	for (unsigned i = 0; i < s->n; i++)
		if (s->part[i].ops->kind == type >> 8)
			return s->part[i].ops->room(s->part[i].self, type, epoch, len);
	return NULL;
}

void *standby_receiver(void *arg)
{
	struct standby *s = arg;
	struct err err = {0};
	struct rec r;
	int rc;

	s->rs.room = room_of_part;
	s->rs.room_arg = s;
	do {
		rc = rec_recv(&s->rs, &r, &err);
		if (!rc)
			rc = on_record(s, &r, &err);
	} while (!rc);
	link_lost(s, err.code ? err.msg : "the primary's record was refused");
	return NULL;
}
