/* SPDX-License-Identifier: Apache-2.0
 * primary_recv - the receiver's thread: what the standby says, and above all its acks.
 *
 * An ack is the only thing that lets output out, so it is believed only if it is exactly the
 * next one that can come: in order, in flight, of this term.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "remus/crashpoint.h"

#include <errno.h>
#include <string.h>

static int on_hello(struct link *l, const struct rec *r, struct err *err)
{
	int seen, rc;

	rc = hello_check(&l->hello, r->payload, r->len, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&l->p->lock);
	seen = l->hello_seen;
	l->hello_seen = 1;
	pthread_mutex_unlock(&l->p->lock);
	return seen ? err_set(err, -EPROTO, "a second HELLO") : 0;
}

/* The standby's participants have said what they have to: pre-copy may begin. */
static int on_sync(struct link *l, const struct rec *r, struct err *err)
{
	int again;

	pthread_mutex_lock(&l->p->lock);
	again = l->peer_ready;
	l->peer_ready = 1;
	pthread_cond_signal(&l->to_sender);
	pthread_mutex_unlock(&l->p->lock);
	return again ? err_set(err, -EPROTO, "a second SYNC") : 0;
}

/* Is it the one ack that may come now? When END(i) has not begun to leave, nobody can have
 * verified i. */
static int ack_admit(struct link *l, uint64_t epoch, struct flight *f, struct err *err)
{
	uint64_t next, ends;

	pthread_mutex_lock(&l->p->lock);
	next = l->acked;
	ends = l->end_begun;
	*f = l->flight[epoch % PRI_INFLIGHT_MAX];
	pthread_mutex_unlock(&l->p->lock);
	if (epoch != next || epoch >= ends)
		return err_set(err, -EPROTO,
			       "ACK of epoch %llu, but %llu is next and %llu were sent",
			       (unsigned long long)epoch, (unsigned long long)next,
			       (unsigned long long)ends);
	return 0;
}

static int on_ack(struct link *l, const struct rec *r, struct err *err)
{
	struct primary *p = l->p;
	uint64_t epoch = r->epoch, took;
	struct flight f;
	int rc;

	rc = ack_admit(l, epoch, &f, err);
	if (rc)
		return rc;
	atomic_store(&p->judged_ns, clock_mono_ns());
	if (link_was_frozen(l))
		return err_set(
			err, -ETIME,
			"ACK of epoch %llu, but this host stood still meanwhile for longer than "
			"its peer waits",
			(unsigned long long)epoch);
	took = clock_mono_ns() - f.captured_ns;
	stats_committed(p, took, epoch);
	crash_at(CRASH_ACK_RECEIVED, epoch);
	for (unsigned i = 0; i < p->n; i++) {
		p->part[i].ops->committed(p->part[i].self, epoch);
		crash_at(CRASH_RELEASING, epoch);
	}
	pthread_mutex_lock(&p->lock);
	control_commit(&p->control, took);
	l->acked = epoch + 1;
	if (l->holding)
		pthread_cond_signal(&l->to_sender);
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	crash_at(CRASH_RELEASED, epoch);
	return 0;
}

static int on_fenced(struct link *l, const struct rec *r, struct err *err)
{
	struct fenced_wire w;
	uint64_t term;

	memcpy(&w, r->payload, sizeof(w));
	term = le64_get(w.term);
	if (term <= l->rs.term)
		return err_set(err, -EPROTO,
			       "FENCED by term %llu, which is not above %llu",
			       (unsigned long long)term, (unsigned long long)l->rs.term);
	link_fenced(l, term);
	return err_set(err, -ECANCELED, "fenced");
}

static int on_bye(struct link *l, const struct rec *r, struct err *err)
{
	struct primary *p = l->p;
	int ok;

	pthread_mutex_lock(&p->lock);
	ok = l->last && l->acked == l->last;
	if (ok)
		l->bye_done = 1;
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	return ok ? 0 : err_set(err, -EPROTO, "BYE before the last epoch was acked");
}

static int on_saved(struct link *l, const struct rec *r, struct err *err)
{
	struct primary *p = l->p;
	struct saved_wire w;
	int ok;

	memcpy(&w, r->payload, sizeof(w));
	pthread_mutex_lock(&p->lock);
	/* The answer to a question that was called off is of no interest. */
	ok = l->save_sent || r->epoch + 1 <= l->acked;
	if (l->save_sent && l->last == r->epoch + 1)
		l->peer_saved = le32_get(w.failed) ? -1 : 1;
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	return ok ? 0 : err_set(err, -EPROTO, "SAVED, and nobody asked");
}

static const struct record {
	uint16_t type;
	uint32_t len; /* of the payload, exactly */
	int (*fn)(struct link *l, const struct rec *r, struct err *err);
} controls[] = {
	{CTL_SYNC, sizeof(struct sync_wire), on_sync},	     {CTL_ACK, 0, on_ack},
	{CTL_FENCED, sizeof(struct fenced_wire), on_fenced}, {CTL_BYE, 0, on_bye},
	{CTL_SAVED, sizeof(struct saved_wire), on_saved},
};

static int unknown(const struct rec *r, struct err *err)
{
	return err_set(err, -EPROTO, "record type 0x%04x of %u bytes is not expected",
		       r->type, r->len);
}

static int on_control(struct link *l, const struct rec *r, struct err *err)
{
	for (unsigned i = 0; i < sizeof(controls) / sizeof(controls[0]); i++)
		if (controls[i].type == r->type && controls[i].len == r->len)
			return controls[i].fn(l, r, err);
	return unknown(r, err);
}

static int on_part(struct link *l, const struct rec *r, struct err *err)
{
	struct primary *p = l->p;
	const struct part *part;
	int rc;

	for (unsigned i = 0; i < p->n; i++) {
		part = &p->part[i];
		if (part->ops->kind != r->type >> 8)
			continue;
		rc = part->ops->peer_record(part->self, r->type, r->payload, r->len, err);
		if (rc)
			err_ctx(err, "%s", part->ops->name);
		return rc;
	}
	return unknown(r, err);
}

/* Every record shows the peer's term. */
static int term_check(struct link *l, const struct rec *r, struct err *err)
{
	if (r->term > l->rs.term) {
		link_fenced(l, r->term);
		return err_set(err, -ECANCELED, "fenced");
	}
	if (r->term < l->rs.term)
		return err_set(
			err, -EPROTO, "a record of term %llu on a link of term %llu",
			(unsigned long long)r->term, (unsigned long long)l->rs.term);
	return 0;
}

static int on_record(struct link *l, const struct rec *r, struct err *err)
{
	int rc = term_check(l, r, err);

	if (rc)
		return rc;
	if (r->type == CTL_HELLO)
		return on_hello(l, r, err);
	/* Only this thread writes hello_seen; a standby that fences may do so at once. */
	if (!l->hello_seen && r->type != CTL_FENCED)
		return unknown(r, err);
	if (r->type >> 8 == REC_KIND_CONTROL)
		return on_control(l, r, err);
	return on_part(l, r, err);
}

uint64_t primary_judged_ns(const struct primary *p)
{
	return atomic_load(&p->judged_ns);
}

void *link_receiver(void *arg)
{
	struct link *l = arg;
	struct err err = {0};
	struct rec r;
	int rc;

	do {
		rc = rec_recv(&l->rs, &r, &err);
		if (!rc)
			rc = on_record(l, &r, &err);
	} while (!rc);
	link_fail(l, err.code ? err.msg : "the standby's record was refused");
	pthread_mutex_lock(&l->p->lock);
	l->receiver_done = 1;
	pthread_cond_broadcast(&l->p->done);
	pthread_mutex_unlock(&l->p->lock);
	return NULL;
}
