/* SPDX-License-Identifier: Apache-2.0
 * vmm_snapmem - the guest's memory beside a snapshot's disks, of the same moment.
 *
 * rhead gives an empty file before the snapshot is made. At the cut (vmm_snap.c), within the pause, the moment is
 * taken; then a thread writes the file while the guest runs, and tells rhead when it is whole. The standby does
 * the same when it has applied the cut's epoch. What cannot be saved costs the snapshot its memory, and no more.
 *
 * One file at a time: @next waits for its moment, @now has had it. A standby's @now is freed on the receive thread,
 * which is who tells it of pages, or when there is no link any more.
 */
#include "ctl/vmm.h"

#include "ctl/snapmem.h"
#include "hv/base/log.h"
#include "remus/crashpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vmm_snapmem {
	struct vmm *m;
	pthread_mutex_t lock; /* all below */
	struct snapmem *next, *now;
	uint64_t next_id; /* 0: none is wanted */
	int fd;		  /* of @next */
};

static void tell(struct vmm *m, uint64_t id, int ok, const char *why)
{
	vmm_tell(m, json_pack("{s:s,s:I,s:b,s:s}", "ev", "snap-memory", "id",
			      (json_int_t)id, "ok", ok, "why", why));
}

/* Its thread; without the lock, under which it is waited for. */
static void on_done(void *arg, struct snapmem *mem, int rc, const char *why)
{
	struct vmm_snapmem *s = arg;

	if (rc)
		log_warn("a snapshot's memory could not be saved: %s", why);
	crash_at(CRASH_MEMORY_SAVED, 0);
	tell(s->m, snapmem_id(mem), !rc, why);
}

int vmm_snapmem_create(struct vmm *m, struct err *err)
{
	struct vmm_snapmem *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, -ENOMEM, "snapshots: out of memory");
	s->m = m;
	s->fd = -1;
	pthread_mutex_init(&s->lock, NULL); /* default attributes: cannot fail */
	m->snapmem = s;
	return 0;
}

/* Locked. It had no moment, so nobody knows of it. */
static void forget_next(struct vmm_snapmem *s)
{
	snapmem_free(s->next);
	s->next = NULL;
	s->next_id = 0;
	if (s->fd >= 0)
		(void)close(s->fd); /* nothing was written through it */
	s->fd = -1;
}

void vmm_snapmem_file(struct vmm *m, uint64_t id, int fd)
{
	struct vmm_snapmem *s = m->snapmem;
	struct snapmem_done done = {.fn = on_done, .arg = s, .id = id};
	struct err err = {0};

	pthread_mutex_lock(&s->lock);
	forget_next(s);
	s->fd = fd;
	s->next_id = id;
	/* Without it, its moment will be told to have failed. */
	if (snapmem_create(m, m->started ? SNAPMEM_RUNNING : SNAPMEM_STANDBY, done,
			   &s->next, &err))
		log_warn("a snapshot's memory cannot be saved: %s", err.msg);
	pthread_mutex_unlock(&s->lock);
}

int vmm_snapmem_wanted(struct vmm *m, uint64_t id)
{
	int r;

	pthread_mutex_lock(&m->snapmem->lock);
	r = m->snapmem->next_id == id;
	pthread_mutex_unlock(&m->snapmem->lock);
	return r;
}

/* Locked. The moment of @next; why not, or NULL. */
static const char *take(struct vmm_snapmem *s, uint64_t epoch)
{
	const char *role, *state;
	uint64_t term;
	int rc = s->next ? 0 : -ENOSYS;

	vmm_role(s->m, &role, &state, &term);
	rc = rc ? rc : snapmem_take(s->next, term, epoch);
	if (!rc) {
		s->now = s->next;
		rc = snapmem_start(s->now, s->fd);
		s->next = NULL;
		s->fd = -1;
	}
	return rc ? strerror(-rc) : NULL;
}

/* Locked; @next is over, one way or the other. */
static void take_or_tell(struct vmm_snapmem *s, uint64_t epoch, const char *why)
{
	uint64_t id = s->next_id;

	why = why ? why : take(s, epoch);
	forget_next(s);
	if (why)
		tell(s->m, id, 0, why);
}

void vmm_snapmem_cut(struct vmm *m, uint64_t id, uint64_t epoch, int still)
{
	struct vmm_snapmem *s = m->snapmem;

	pthread_mutex_lock(&s->lock);
	if (s->next_id == id) {
		/* The one before has ended long ago, or is not of this guest's any more. */
		snapmem_free(s->now);
		s->now = NULL;
		take_or_tell(s, epoch,
			     still ? NULL : "the standby was lost at that moment");
	}
	pthread_mutex_unlock(&s->lock);
}

void vmm_snapmem_applied(struct vmm *m, uint64_t id, uint64_t epoch)
{
	vmm_snapmem_cut(m, id, epoch, 1);
}

void vmm_snapmem_drop(struct vmm *m, uint64_t id)
{
	struct vmm_snapmem *s = m->snapmem;

	pthread_mutex_lock(&s->lock);
	if (s->next_id == id)
		forget_next(s);
	else if (s->now && snapmem_id(s->now) == id)
		snapmem_cancel(s->now);
	pthread_mutex_unlock(&s->lock);
}

void vmm_snapmem_cancel(struct vmm *m)
{
	struct vmm_snapmem *s = m->snapmem;

	pthread_mutex_lock(&s->lock);
	if (s->now)
		snapmem_cancel(s->now);
	pthread_mutex_unlock(&s->lock);
}
