/* SPDX-License-Identifier: Apache-2.0
 * part_machine - stops and resumes the guest and carries the state of its machine.
 *
 * First in the array of participants: its pause stops the vCPUs and keeps the devices' thread
 * out, so that all others capture a machine that stands still.
 *
 * Threads: pause, capture and resume are the epoch thread's, send the sender's; the queue of
 * saved states stands between them.
 */
#include "remus/parts.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/vm.h"
#include "remus/stream.h"
#include "replication/record.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { PIECE_BYTES = 1 << 20 }; /* of state in one record, at most */

struct saved {
	uint64_t epoch;
	struct buf state; /* keeps its memory from epoch to epoch */
	struct saved *next;
};

struct mach_part {
	struct vm *vm;
	pthread_mutex_t lock;
	struct saved *head, **tail, *free;
};

static struct saved *saved_get(struct mach_part *m)
{
	struct saved *s;

	pthread_mutex_lock(&m->lock);
	s = m->free;
	if (s)
		m->free = s->next;
	pthread_mutex_unlock(&m->lock);
	return s ? s : calloc(1, sizeof(*s));
}

static void saved_put(struct mach_part *m, struct saved *s)
{
	buf_reset(&s->state);
	pthread_mutex_lock(&m->lock);
	s->next = m->free;
	m->free = s;
	pthread_mutex_unlock(&m->lock);
}

static void saved_queue(struct mach_part *m, struct saved *s)
{
	s->next = NULL;
	pthread_mutex_lock(&m->lock);
	*m->tail = s;
	m->tail = &s->next;
	pthread_mutex_unlock(&m->lock);
}

static struct saved *saved_next(struct mach_part *m)
{
	struct saved *s;

	pthread_mutex_lock(&m->lock);
	s = m->head;
	if (s) {
		m->head = s->next;
		if (!m->head)
			m->tail = &m->head;
	}
	pthread_mutex_unlock(&m->lock);
	return s;
}

static int mach_pause(void *self)
{
	struct mach_part *m = self;

	return vm_pause(m->vm);
}

static void mach_resume(void *self)
{
	struct mach_part *m = self;

	vm_resume(m->vm);
}

static int mach_capture(void *self, uint64_t epoch, struct err *err)
{
	struct mach_part *m = self;
	struct saved *s = saved_get(m);
	int rc;

	if (!s)
		return err_set(err, -ENOMEM, "no memory for the machine's state");
	rc = vm_save(m->vm, &s->state);
	if (!rc && s->state.failed)
		rc = -ENOMEM;
	if (rc) {
		saved_put(m, s);
		return err_sys(err, rc, "saving vCPUs and devices");
	}
	s->epoch = epoch;
	saved_queue(m, s);
	return 0;
}

static int mach_send(void *self, uint64_t epoch, struct rec_sink *sink, struct err *err)
{
	struct mach_part *m = self;
	struct saved *s = saved_next(m);
	size_t at, n;
	int rc = 0;

	if (!s || s->epoch != epoch) {
		if (s)
			saved_put(m, s);
		return err_set(err, -EINVAL, "no state of epoch %llu",
			       (unsigned long long)epoch);
	}
	for (at = 0; at < s->state.len && !rc; at += n) {
		n = s->state.len - at < PIECE_BYTES ? s->state.len - at : PIECE_BYTES;
		rc = rec_put(sink, MACH_STATE, epoch, s->state.data + at, n);
	}
	saved_put(m, s);
	return rc ? err_sys(err, rc, "sending the machine's state") : 0;
}

static void mach_unlinked(void *self)
{
	struct mach_part *m = self;
	struct saved *s;

	while ((s = saved_next(m)))
		saved_put(m, s);
}

static const struct part_ops mach_ops = {
	.name = "machine",
	.kind = REC_KIND_MACHINE,
	.setup = part_no_setup,
	.greet = part_no_greet,
	.sync_begin = part_no_sync_begin,
	.sync_round = part_no_sync_round,
	.ahead = part_no_ahead,
	.pause = mach_pause,
	.capture = mach_capture,
	.resume = mach_resume,
	.send = mach_send,
	.committed = part_no_committed,
	.peer_record = part_no_peer_record,
	.unlinked = mach_unlinked,
	.alone = part_no_event,
	.teardown = part_no_teardown,
};

struct part mach_part(struct mach_part *m)
{
	return (struct part){.ops = &mach_ops, .self = m};
}

int mach_part_create(struct vm *vm, struct mach_part **m_out, struct err *err)
{
	struct mach_part *m = calloc(1, sizeof(*m));

	*m_out = m;
	if (!m)
		return err_set(err, -ENOMEM, "the machine's participant: out of memory");
	m->vm = vm;
	m->tail = &m->head;
	pthread_mutex_init(&m->lock, NULL); /* default attributes: cannot fail */
	return 0;
}

void mach_part_destroy(struct mach_part *m)
{
	struct saved *s;

	if (!m)
		return;
	mach_unlinked(m);
	while ((s = m->free)) {
		m->free = s->next;
		buf_fini(&s->state);
		free(s);
	}
	pthread_mutex_destroy(&m->lock);
	free(m);
}
