/* SPDX-License-Identifier: Apache-2.0
 * vmm_snap - snapshots in rhea-vm: all disks get new leaves at one moment, which is the end of an epoch if a standby is in
 * step, and then on both hosts.
 *
 * Theory of operation. rhead has made an empty child for each disk and gives them to us before. On the primary a
 * thread of its own flushes what there is, then asks for a cut (diskrep.h). In it, which is within the
 * checkpoint's pause, each disk's backend is held: writes that come from now on wait, the guest runs. When those before have
 * ended, the images stand at the cut; they are flushed, rhead gives the files their names, the children become the
 * leaves and the writes that waited go on into them. So the order on this host's disk is: all up to the cut; names; all
 * later. If anything before the names fails, the writes go on into the old leaves and nothing has happened.
 *
 * On the standby the applier does the same when the cut's epoch is in its images; later epochs wait in memory.
 *
 * What happens when names were given and the child cannot be taken: the disks are not written any more and the process ends.
 */
#include "ctl/vmm.h"

#include "ctl/vmproto.h"
#include "diskrep/diskrep.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/base/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct vmm_snap {
	struct vmm *m;
	pthread_mutex_t lock;
	pthread_cond_t news;
	uint64_t id; /* that the children are for */
	struct vhd *child[VMM_DISKS_MAX];
	int fd[VMM_DISKS_MAX];
	char why[640]; /* a child cannot be used */
	int busy;      /* being made, by the primary's thread or the applier */
	/* Of the one that is being made: */
	int cut, answered, ok, committed, lost;
	unsigned holding; /* disks that are not drained */
	int still;	  /* the guest stands, without a checkpoint; epoch thread */
	uint64_t epoch;
};

/* Lock held, not busy. */
static void drop_children(struct vmm_snap *s)
{
	for (unsigned i = 0; i < VMM_DISKS_MAX; i++) {
		if (!s->child[i])
			continue;
		vhd_child_close(s->child[i]);
		close(s->fd[i]);
		s->child[i] = NULL;
	}
	s->id = 0;
	s->why[0] = 0;
}

void vmm_snap_child(struct vmm *m, uint64_t id, unsigned disk, int fd)
{
	struct vhd_part part = {.io = img_of_fd(fd), .fd = fd};
	struct vmm_snap *s = m->snap;
	struct err err = {0};
	int rc = -EINVAL;

	pthread_mutex_lock(&s->lock);
	if (!s->busy && s->id != id)
		drop_children(s);
	if (!s->busy) {
		s->id = id;
		if (disk < VMM_DISKS_MAX && m->vhd[disk] && !s->child[disk])
			rc = vhd_child_open(m->vhd[disk], &part, &s->child[disk], &err);
		if (rc)
			(void)snprintf(s->why, sizeof(s->why), "disk %u: %s", disk,
				       err.code ? err.msg
						: "no such VHD image"); /* cut */
		else
			s->fd[disk] = fd;
	}
	pthread_mutex_unlock(&s->lock);
	if (rc)
		close(fd);
}

void vmm_snap_drop(struct vmm *m)
{
	pthread_mutex_lock(&m->snap->lock);
	if (!m->snap->busy)
		drop_children(m->snap);
	pthread_mutex_unlock(&m->snap->lock);
}

void vmm_snap_switched(struct vmm *m, uint64_t id, int ok)
{
	struct vmm_snap *s = m->snap;

	pthread_mutex_lock(&s->lock);
	if (s->busy && s->id == id) {
		s->answered = 1;
		s->ok = ok;
		pthread_cond_broadcast(&s->news);
	}
	pthread_mutex_unlock(&s->lock);
}

static void tell_over(struct vmm_snap *s, uint64_t id, int ok, int sure, const char *why)
{
	vmm_tell(s->m, json_pack("{s:s,s:I,s:b,s:s,s:b}", "ev", "snap-over", "id",
				 (json_int_t)id, "ok", ok, "why", why, "sure", sure));
}

/* Begin one, with the children of @id: 0, or why not in @err. */
static int take(struct vmm_snap *s, uint64_t id, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (s->busy)
		rc = err_set(err, -EBUSY, "a snapshot is being made");
	else if (s->id != id)
		rc = err_set(err, -ENOENT, "it was not prepared here");
	else if (s->why[0])
		rc = err_set(err, -EINVAL, "%s", s->why);
	for (unsigned i = 0; !rc && i < s->m->set.disks; i++)
		if (!s->child[i] && !s->m->set.read_only[i])
			rc = err_set(err, -EINVAL, "disk %u has no child", i);
	if (!rc) {
		s->busy = 1;
		s->cut = s->answered = s->ok = s->committed = s->lost = 0;
		s->epoch = UINT64_MAX;
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static void give_back(struct vmm_snap *s)
{
	pthread_mutex_lock(&s->lock);
	s->busy = 0;
	drop_children(s);
	pthread_mutex_unlock(&s->lock);
}

static int flush_all(struct vmm_snap *s, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < VMM_DISKS_MAX; i++)
		if (s->child[i]) {
			rc = img_sync(s->m->disk[i]);
			rc = rc ? err_sys(err, rc, "disk %u: flushing it", i) : 0;
		}
	return rc;
}

/* The names are on the disk when this returns 0. */
static int have_named(struct vmm_snap *s, struct err *err)
{
	json_t *epoch =
		s->epoch == UINT64_MAX ? json_null() : json_integer((json_int_t)s->epoch);
	int ok;

	vmm_tell(s->m, json_pack("{s:s,s:I,s:o}", "ev", "snap-switch", "id",
				 (json_int_t)s->id, "epoch", epoch));
	pthread_mutex_lock(&s->lock);
	while (!s->answered)
		pthread_cond_wait(&s->news, &s->lock);
	ok = s->ok;
	pthread_mutex_unlock(&s->lock);
	return ok ? 0 : err_set(err, -EIO, "the files could not be given their names");
}

/* The old leaves are read from now on, by others, too. */
static int push_all(struct vmm_snap *s, struct err *err)
{
	int rc = 0, old;

	for (unsigned i = 0; !rc && i < VMM_DISKS_MAX; i++) {
		if (!s->child[i])
			continue;
		old = vhd_leaf_fd(s->m->vhd[i]);
		rc = vhd_push(s->m->vhd[i], s->child[i], err);
		if (rc)
			break;
		s->child[i] = NULL; /* and its descriptor, which is kept */
		if (flock(old, LOCK_SH | LOCK_NB))
			log_warn("disk %u: the snapshot stays locked: %s", i,
				 strerror(errno));
	}
	return rc;
}

static void end_process(void *arg)
{
	vmm_end(arg, VMEXIT_ERROR);
}

/* The files say one thing and this process another. */
static void give_up(struct vmm_snap *s, const struct err *err)
{
	log_err("snapshot: %s; this process ends, as its disks must not be written",
		err->msg);
	vmm_tell(s->m, json_pack("{s:s,s:s}", "ev", "error", "why", err->msg));
	if (loop_post(s->m->ctl, end_process, s->m))
		log_err("out of memory");
}

static void on_drained(void *arg)
{
	struct vmm_snap *s = arg;

	pthread_mutex_lock(&s->lock);
	s->holding--;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
}

/* In the pause, or on the I/O thread. */
static void on_cut(void *arg, uint64_t epoch)
{
	struct vmm_snap *s = arg;

	pthread_mutex_lock(&s->lock);
	s->holding = 0;
	for (unsigned i = 0; i < VMM_DISKS_MAX; i++)
		s->holding += s->child[i] != NULL;
	s->epoch = epoch;
	s->committed = epoch == UINT64_MAX;
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < VMM_DISKS_MAX; i++)
		if (s->child[i])
			vhd_blk_hold(s->m->vhd_blk[i], on_drained, s);
	vmm_snapmem_cut(s->m, s->id, epoch, s->still || epoch != UINT64_MAX);
	pthread_mutex_lock(&s->lock);
	s->cut = 1;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
}

static void set_flag(struct vmm_snap *s, int *flag)
{
	pthread_mutex_lock(&s->lock);
	*flag = 1;
	pthread_cond_broadcast(&s->news);
	pthread_mutex_unlock(&s->lock);
}

static void on_committed(void *arg)
{
	struct vmm_snap *s = arg;

	set_flag(s, &s->committed);
}

static void on_lost(void *arg)
{
	struct vmm_snap *s = arg;

	set_flag(s, &s->lost);
}

/* Without a standby there is no checkpoint to stop the guest. */
static int cut_still(void *arg)
{
	struct vmm_snap *s = arg;
	int rc;

	s->still = 1;
	rc = diskrep_cut_still(s->m->diskrep);
	s->still = 0;
	return rc;
}

static int cut(struct vmm_snap *s)
{
	struct le64 id = le64_of(s->id);
	int rc = -EAGAIN;

	if (vmm_snapmem_wanted(s->m, s->id))
		rc = primary_between(atomic_load(&s->m->primary), cut_still, s);
	return rc == -EAGAIN ? diskrep_cut(s->m->diskrep, &id, sizeof(id)) : rc;
}

static int cut_off(struct vmm_snap *s, struct err *err)
{
	int rc = flush_all(s, err); /* so that there is little to flush in the hold */

	if (rc)
		return rc;
	rc = cut(s);
	if (rc)
		return err_sys(err, rc,
			       rc == -EAGAIN ? "what was taken over is being written"
					     : "no moment can be chosen");
	pthread_mutex_lock(&s->lock);
	while (!s->cut || s->holding)
		pthread_cond_wait(&s->news, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void release_all(struct vmm_snap *s)
{
	loop_enter(s->m->io);
	for (unsigned i = 0; i < s->m->set.disks; i++)
		if (s->m->vhd[i])
			vhd_blk_release(s->m->vhd_blk[i]);
	loop_leave(s->m->io);
}

static int await_commit(struct vmm_snap *s)
{
	int sure;

	pthread_mutex_lock(&s->lock);
	while (!s->committed && !s->lost)
		pthread_cond_wait(&s->news, &s->lock);
	sure = s->committed;
	pthread_mutex_unlock(&s->lock);
	return sure;
}

static void *snap_main(void *arg)
{
	struct vmm_snap *s = arg;
	uint64_t id = s->id;
	struct err err = {0};
	int rc = cut_off(s, &err), sure;

	rc = rc ? rc : flush_all(s, &err);
	rc = rc ? rc : have_named(s, &err);
	if (!rc && push_all(s, &err)) {
		give_up(s, &err);
		return NULL;
	}
	release_all(s);
	/* One that was not made is over when its moment is. */
	sure = s->cut ? await_commit(s) : 0;
	if (rc)
		vmm_snapmem_drop(s->m, id);
	give_back(s);
	tell_over(s, id, !rc, sure, err.msg);
	return NULL;
}

void vmm_snap_begin(struct vmm *m, uint64_t id)
{
	struct vmm_snap *s = m->snap;
	struct err err = {0};
	pthread_t t;
	int rc = m->started ? take(s, id, &err)
			    : err_set(&err, -EPERM, "no guest runs here");

	if (!rc) {
		rc = -pthread_create(&t, NULL, snap_main, s);
		if (rc)
			give_back(s);
		else
			(void)pthread_detach(t); /* just made: cannot fail */
	}
	if (rc)
		tell_over(s, id, 0, 0, err.code ? err.msg : "no thread can be started");
}

/* The standby's applier. */
static int on_standby_cut(void *arg, uint64_t epoch, const void *p, size_t len)
{
	struct vmm_snap *s = arg;
	struct err err = {0};
	struct le64 id = {0};
	int rc = 0;

	if (len == sizeof(id))
		memcpy(&id, p, sizeof(id));
	if (take(s, le64_get(id), &err)) {
		vmm_snapmem_drop(s->m, le64_get(id));
		tell_over(s, le64_get(id), 0, 1, err.msg);
		return 0;
	}
	s->epoch = epoch;
	if (!have_named(s, &err))
		rc = push_all(s, &err);
	if (rc)
		give_up(s, &err);
	give_back(s);
	tell_over(s, le64_get(id), !err.code, 1, err.msg);
	return rc;
}

/* Before the applier comes to it: memory does not wait for the disks. */
static void on_standby_applied(void *arg, uint64_t epoch, const void *p, size_t len)
{
	struct vmm_snap *s = arg;
	struct le64 id = {0};

	if (len == sizeof(id))
		memcpy(&id, p, sizeof(id));
	vmm_snapmem_applied(s->m, le64_get(id), epoch);
}

static void tell_note(void *arg, const void *p, size_t len)
{
	struct vmm_snap *s = arg;
	json_error_t at;
	json_t *note = json_loadb(p, len, JSON_REJECT_DUPLICATES, &at);

	if (json_is_object(note))
		vmm_tell(s->m, json_pack("{s:s,s:O}", "ev", "peer-note", "note", note));
	else
		log_ratelimited(LOG_LVL_WARN, 1000, "a note of the peer's is no object");
	json_decref(note);
}

void vmm_peer_note(struct vmm *m, json_t *note)
{
	char *text = json_dumps(note, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;
	int rc = !text			    ? -ENOMEM
		 : m->started || !m->s_disk ? diskrep_note(m->diskrep, text, len)
					    : diskrep_standby_note(m->s_disk, text, len);

	/* rhead waits no longer than for any other answer of a peer. */
	if (rc)
		log_info("a note to the peer was not sent: %s", strerror(-rc));
	free(text);
}

void vmm_snap_standby(struct vmm *m)
{
	const struct diskrep_standby_notes to = {.peer = tell_note,
						 .cut = on_standby_cut,
						 .applied = on_standby_applied,
						 .arg = m->snap};

	diskrep_standby_on_notes(m->s_disk, &to);
}

int vmm_snap_create(struct vmm *m, struct err *err)
{
	struct vmm_snap *s = calloc(1, sizeof(*s));
	struct diskrep_notes to = {.peer = tell_note,
				   .cut = on_cut,
				   .committed = on_committed,
				   .lost = on_lost,
				   .arg = s};

	if (!s)
		return err_set(err, -ENOMEM, "snapshots: out of memory");
	s->m = m;
	pthread_mutex_init(&s->lock, NULL); /* default attributes: cannot fail */
	pthread_cond_init(&s->news, NULL);
	diskrep_on_notes(m->diskrep, &to);
	m->snap = s;
	return vmm_snapmem_create(m, err);
}
