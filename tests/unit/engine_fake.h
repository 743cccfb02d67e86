/* SPDX-License-Identifier: Apache-2.0
 * engine_fake - a guest that is one number, participants that keep a diary, and both engines
 * around them, for tests.
 *
 * The number grows by one in each resume, so that checkpoint i of a link has value(i) by
 * construction and everything that is staged, applied or released can be checked against it.
 */
#ifndef TESTS_UNIT_ENGINE_FAKE_H
#define TESTS_UNIT_ENGINE_FAKE_H

#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "remus/primary.h"
#include "remus/standby.h"
#include "replication/record.h"
#include "replication/transport.h"

#include <CUnit/CUnit.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FAKES = 3, DIARY_MAX = 1 << 16, AWAIT_S = 60 };

/* Where a fake can be told to fail. */
enum fake_op {
	OP_SETUP,
	OP_SYNC_BEGIN,
	OP_SYNC_ROUND,
	OP_PAUSE,
	OP_CAPTURE,
	OP_RESUME,
	OP_SEND,
	OP_COMMITTED,
	OP_PEER_RECORD,
	OP_UNLINKED,
	OP_ALONE,
	OP_TEARDOWN,
	OP_HELLO,
	OP_RECORD,
	OP_CHECK,
	OP_APPLY,
	OP_DROP,
	OP_ACTIVATE,
	OP_END,
	OPS
};

struct entry {
	enum fake_op op;
	int who;
	uint64_t epoch;
};

/* Everything the fakes share; one for each test. */
struct world {
	pthread_mutex_t lock;
	pthread_cond_t news;
	struct entry diary[DIARY_MAX];
	int n;
	int depth;		     /* pauses without their resumes */
	uint64_t guest;		     /* the number */
	uint64_t captured, released; /* counts */
	uint64_t in_flight_max;
	int held;	       /* output is held, as the third fake sees it */
	int fail_op, fail_who; /* -1: nobody */
	uint64_t fail_epoch;
	int fail_rc;		 /* 0: what is usual for the operation */
	uint64_t value_of[4096]; /* by epoch, of the link at hand */
	uint64_t applied_value;	 /* of the standby's second fake */
	uint64_t staged_value;
	int staged;
	enum primary_state pstate;
	enum standby_state sstate;
	uint64_t pterm, sterm;
	int bye;
	char pwhy[ERR_MSG_MAX], swhy[ERR_MSG_MAX];
};

struct fake {
	struct world *w;
	int who;
};

static const uint8_t fake_kind[FAKES] = {REC_KIND_MACHINE, REC_KIND_MEMORY,
					 REC_KIND_NETBUF};

static inline void world_init(struct world *w)
{
	pthread_condattr_t at;

	memset(w, 0, sizeof(*w));
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&w->news, &at);
	pthread_condattr_destroy(&at);
	w->fail_op = w->fail_who = -1;
	w->fail_epoch = UINT64_MAX;
}

static inline void world_fini(struct world *w)
{
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->news);
}

/* Wait until @cond holds, or fail the test: nothing here takes a minute. */
#define AWAIT(w, cond)                                                                \
	do {                                                                          \
		struct timespec until_;                                               \
		int r_ = 0;                                                           \
		(void)clock_gettime(CLOCK_MONOTONIC, &until_);                        \
		until_.tv_sec += AWAIT_S;                                             \
		pthread_mutex_lock(&(w)->lock);                                       \
		while (!(cond) && !r_)                                                \
			r_ = pthread_cond_timedwait(&(w)->news, &(w)->lock, &until_); \
		pthread_mutex_unlock(&(w)->lock);                                     \
		CU_ASSERT_EQUAL_FATAL(r_, 0);                                         \
	} while (0)

/* Locked read of an expression. */
#define PEEK(w, expr)                             \
	({                                        \
		pthread_mutex_lock(&(w)->lock);   \
		__auto_type v_ = (expr);          \
		pthread_mutex_unlock(&(w)->lock); \
		v_;                               \
	})

/* Write it down; the errno if this is where to fail. Locked. */
static inline int note(struct fake *f, enum fake_op op, uint64_t epoch)
{
	struct world *w = f->w;

	if (w->n < DIARY_MAX)
		w->diary[w->n++] = (struct entry){op, f->who, epoch};
	pthread_cond_broadcast(&w->news);
	if (w->fail_op != (int)op || w->fail_who != f->who)
		return 0;
	if (w->fail_epoch != UINT64_MAX && w->fail_epoch != epoch)
		return 0;
	if (w->fail_rc)
		return w->fail_rc;
	/* From these -EIO would mean that the standby's own storage or memory failed. */
	return op == OP_CHECK || op == OP_RECORD ? -EBADMSG : -EIO;
}

static inline int noted(struct fake *f, enum fake_op op, uint64_t epoch)
{
	int rc;

	pthread_mutex_lock(&f->w->lock);
	rc = note(f, op, epoch);
	pthread_mutex_unlock(&f->w->lock);
	return rc;
}

static inline int fk_setup(void *self, struct err *err)
{
	int rc = noted(self, OP_SETUP, 0);

	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline int fk_sync_begin(void *self, struct rec_sink *s, struct err *err)
{
	struct fake *f = self;
	int rc = noted(f, OP_SYNC_BEGIN, 0);

	if (rc)
		return err_set(err, rc, "told to fail");
	return rec_put(s, (uint16_t)(fake_kind[f->who] << 8 | 1), REC_EPOCH_SYNC, "sync",
		       4);
}

static inline int fk_sync_round(void *self, struct rec_sink *s, uint64_t *left,
				struct err *err)
{
	int rc = noted(self, OP_SYNC_ROUND, 0);

	*left = 0;
	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline int fk_pause(void *self)
{
	struct fake *f = self;
	int rc;

	pthread_mutex_lock(&f->w->lock);
	f->w->depth++;
	rc = note(f, OP_PAUSE, 0);
	pthread_mutex_unlock(&f->w->lock);
	return rc;
}

static inline int fk_capture(void *self, uint64_t epoch, struct err *err)
{
	struct fake *f = self;
	struct world *w = f->w;
	int rc;

	pthread_mutex_lock(&w->lock);
	CU_ASSERT_EQUAL(w->depth, FAKES);
	rc = note(f, OP_CAPTURE, epoch);
	if (f->who == FAKES - 1 && !rc) {
		w->held = 1;
		w->value_of[epoch % 4096] = w->guest;
		w->captured = epoch + 1;
		if (w->captured - w->released > w->in_flight_max)
			w->in_flight_max = w->captured - w->released;
	}
	pthread_mutex_unlock(&w->lock);
	return rc ? err_set(err, rc, "told to fail") : f->who == 1 ? 5 : 0;
}

static inline void fk_resume(void *self)
{
	struct fake *f = self;

	pthread_mutex_lock(&f->w->lock);
	f->w->depth--;
	f->w->guest++;
	(void)note(f, OP_RESUME, 0); /* resume cannot fail */
	pthread_mutex_unlock(&f->w->lock);
}

/* Two records of the memory's kind, one of the others. */
static inline int fk_send(void *self, uint64_t epoch, struct rec_sink *s, struct err *err)
{
	struct fake *f = self;
	uint16_t type = (uint16_t)(fake_kind[f->who] << 8 | 2);
	struct le64 v;
	int rc = noted(f, OP_SEND, epoch);

	if (rc)
		return err_set(err, rc, "told to fail");
	v = le64_of(PEEK(f->w, f->w->value_of[epoch % 4096]));
	rc = rec_put(s, type, epoch, &v, sizeof(v));
	if (!rc && f->who == 1)
		rc = rec_put(s, type, epoch, &v, sizeof(v));
	return rc ? err_sys(err, rc, "fake send") : 0;
}

static inline void fk_committed(void *self, uint64_t epoch)
{
	struct fake *f = self;
	struct world *w = f->w;

	pthread_mutex_lock(&w->lock);
	if (f->who == FAKES - 1) {
		CU_ASSERT_EQUAL(epoch, w->released);
		w->released = epoch + 1;
	}
	(void)note(f, OP_COMMITTED, epoch); /* cannot fail */
	pthread_mutex_unlock(&w->lock);
}

static inline int fk_peer_record(void *self, uint16_t type, const void *p, size_t len,
				 struct err *err)
{
	int rc = noted(self, OP_PEER_RECORD, 0);

	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline void fk_event(void *self, enum fake_op op)
{
	struct fake *f = self;

	pthread_mutex_lock(&f->w->lock);
	if (op == OP_ALONE && f->who == FAKES - 1)
		f->w->held = 0;
	(void)note(f, op, 0); /* cannot fail */
	pthread_mutex_unlock(&f->w->lock);
}

static inline void fk_unlinked(void *self)
{
	fk_event(self, OP_UNLINKED);
}

static inline void fk_alone(void *self)
{
	fk_event(self, OP_ALONE);
}

static inline void fk_teardown(void *self)
{
	fk_event(self, OP_TEARDOWN);
}

#define FAKE_OPS(name_, kind_)                                                          \
	{                                                                               \
		.name = (name_), .kind = (kind_), .setup = fk_setup,                    \
		.greet = part_no_greet, .sync_begin = fk_sync_begin,                    \
		.sync_round = fk_sync_round, .ahead = part_no_ahead, .pause = fk_pause, \
		.capture = fk_capture, .resume = fk_resume, .send = fk_send,            \
		.committed = fk_committed, .peer_record = fk_peer_record,               \
		.unlinked = fk_unlinked, .alone = fk_alone, .teardown = fk_teardown     \
	}
static const struct part_ops fake_ops[FAKES] = {
	FAKE_OPS("machine", REC_KIND_MACHINE),
	FAKE_OPS("memory", REC_KIND_MEMORY),
	FAKE_OPS("output", REC_KIND_NETBUF),
};

/* -- the standby's fakes; the second one keeps the number -- */

static inline int fs_hello(void *self, struct rec_sink *s, struct err *err)
{
	struct fake *f = self;
	int rc = noted(f, OP_HELLO, 0);

	if (rc)
		return err_set(err, rc, "told to fail");
	return rec_put(s, (uint16_t)(fake_kind[f->who] << 8 | 3), REC_EPOCH_SYNC, "hi",
		       2);
}

static inline int fs_record(void *self, uint16_t type, uint64_t epoch, const void *p,
			    size_t len, struct err *err)
{
	struct fake *f = self;
	struct le64 v;
	int rc;

	pthread_mutex_lock(&f->w->lock);
	rc = note(f, OP_RECORD, epoch);
	if (f->who == 1 && epoch != REC_EPOCH_SYNC && len == sizeof(v)) {
		memcpy(&v, p, sizeof(v));
		f->w->staged_value = le64_get(v);
		f->w->staged++;
	}
	pthread_mutex_unlock(&f->w->lock);
	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline int fs_check(void *self, uint64_t epoch, struct err *err)
{
	struct fake *f = self;
	int rc = noted(f, OP_CHECK, epoch);

	if (!rc && f->who == 1 && PEEK(f->w, f->w->staged) != 2)
		rc = -EPROTO;
	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline int fs_apply(void *self, uint64_t epoch, struct err *err)
{
	struct fake *f = self;
	int rc;

	pthread_mutex_lock(&f->w->lock);
	rc = note(f, OP_APPLY, epoch);
	if (f->who == 1 && !rc) {
		f->w->applied_value = f->w->staged_value;
		f->w->staged = 0;
	}
	pthread_mutex_unlock(&f->w->lock);
	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline void fs_drop(void *self)
{
	struct fake *f = self;

	pthread_mutex_lock(&f->w->lock);
	if (f->who == 1)
		f->w->staged = 0;
	(void)note(f, OP_DROP, 0); /* cannot fail */
	pthread_mutex_unlock(&f->w->lock);
}

static inline int fs_activate(void *self, struct err *err)
{
	int rc = noted(self, OP_ACTIVATE, 0);

	return rc ? err_set(err, rc, "told to fail") : 0;
}

static inline void fs_teardown(void *self)
{
	fk_event(self, OP_END);
}

#define SFAKE_OPS(name_, kind_)                                                        \
	{                                                                              \
		.name = (name_), .kind = (kind_), .hello = fs_hello,                   \
		.report = spart_no_report, .room = spart_no_room, .record = fs_record, \
		.check = fs_check, .apply = fs_apply, .drop = fs_drop,                 \
		.activate = fs_activate, .teardown = fs_teardown                       \
	}
static const struct standby_part_ops sfake_ops[FAKES] = {
	SFAKE_OPS("machine", REC_KIND_MACHINE),
	SFAKE_OPS("memory", REC_KIND_MEMORY),
	SFAKE_OPS("output", REC_KIND_NETBUF),
};

/* -- both engines -- */

static inline void on_primary(void *arg, enum primary_state s, uint64_t term,
			      const char *why)
{
	struct world *w = arg;

	pthread_mutex_lock(&w->lock);
	w->pstate = s;
	w->pterm = term;
	(void)snprintf(w->pwhy, sizeof(w->pwhy), "%s", why); /* truncation is fine */
	pthread_cond_broadcast(&w->news);
	pthread_mutex_unlock(&w->lock);
}

static inline void on_standby(void *arg, enum standby_state s, uint64_t term, int bye,
			      const char *why)
{
	struct world *w = arg;

	pthread_mutex_lock(&w->lock);
	w->sstate = s;
	w->sterm = term;
	w->bye |= bye;
	(void)snprintf(w->swhy, sizeof(w->swhy), "%s", why); /* truncation is fine */
	pthread_cond_broadcast(&w->news);
	pthread_mutex_unlock(&w->lock);
}

struct rig {
	struct world w;
	struct fake f[FAKES];
	struct primary *p;
	struct standby *s;
	struct tp *end[2]; /* of the link last made; the engines own them once attached */
};

static inline void rig_primary(struct rig *r, unsigned interval_us, unsigned inflight)
{
	struct primary_config cfg = {.vm = "web",
				     .interval_us = interval_us,
				     .min_interval_us = 1,
				     .max_inflight = inflight,
				     .on_state = on_primary,
				     .arg = &r->w};
	struct part part[FAKES];
	struct err err = {0};

	for (int i = 0; i < FAKES; i++)
		part[i] = (struct part){&fake_ops[i], &r->f[i]};
	CU_ASSERT_EQUAL_FATAL(primary_create(&cfg, part, FAKES, &r->p, &err), 0);
}

static inline void rig_standby(struct rig *r)
{
	struct standby_config cfg = {.vm = "web", .on_state = on_standby, .arg = &r->w};
	struct standby_part part[FAKES];
	struct err err = {0};

	for (int i = 0; i < FAKES; i++)
		part[i] = (struct standby_part){&sfake_ops[i], &r->f[i]};
	CU_ASSERT_EQUAL_FATAL(standby_create(&cfg, part, FAKES, &r->s, &err), 0);
}

static inline void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	world_init(&r->w);
	for (int i = 0; i < FAKES; i++)
		r->f[i] = (struct fake){&r->w, i};
}

/* A loop pair; @fault goes onto end @side (-1: none). */
static inline void rig_link(struct rig *r, size_t bytes, int side,
			    const struct tp_fault *fault)
{
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(bytes, r->end, &err), 0);
	if (side >= 0)
		CU_ASSERT_EQUAL_FATAL(
			tp_fault_wrap(r->end[side], fault, &r->end[side], &err), 0);
}

static inline void rig_attach(struct rig *r, uint64_t term)
{
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(standby_attach(r->s, r->end[1], term, &err), 0);
	CU_ASSERT_EQUAL_FATAL(primary_attach(r->p, r->end[0], term, &err), 0);
}

/* Both engines, in step, in term 1. */
static inline void rig_up(struct rig *r, unsigned interval_us, unsigned inflight)
{
	rig_init(r);
	rig_primary(r, interval_us, inflight);
	rig_standby(r);
	rig_link(r, 1 << 16, -1, NULL);
	rig_attach(r, 1);
}

static inline void rig_down(struct rig *r)
{
	primary_destroy(r->p);
	standby_destroy(r->s);
	world_fini(&r->w);
}

/* Position in the diary of the first such entry, or -1. */
static inline int find(const struct world *w, enum fake_op op, int who, uint64_t epoch)
{
	for (int i = 0; i < w->n; i++)
		if (w->diary[i].op == op && w->diary[i].who == who &&
		    w->diary[i].epoch == epoch)
			return i;
	return -1;
}

static inline int count(const struct world *w, enum fake_op op)
{
	int n = 0;

	for (int i = 0; i < w->n; i++)
		n += w->diary[i].op == op;
	return n;
}

#endif
