/* SPDX-License-Identifier: Apache-2.0
 * snapmem - the machine's state, the memory, the addresses: taken at once, written by and by.
 */
#include "ctl/snapmem.h"

#include "ctl/vmm.h"
#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/gm.h"
#include "netbuf/netbuf.h"
#include "remus/memsave.h"
#include "remus/parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* Of memory: what is copied ahead of the disk, at most. */
enum { COPIES_PART = 4 };

struct snapmem {
	struct vmm *m;
	enum snapmem_where where;
	struct snapmem_done done;
	struct saved_info info;
	struct buf state, said;
	struct memsave *mem;
	int taken, fd, has_thread;
	pthread_t thread;
};

int snapmem_can_run(const struct vmm *m)
{
	return m->uffd >= 0;
}

void snapmem_init(struct vmm *m)
{
	int fd = memsave_uffd();

	m->uffd = fd < 0 ? -1 : fd;
	if (fd < 0)
		log_info("a snapshot with memory will stop the guest: userfaultfd: %s",
			 strerror(-fd));
}

int snapmem_create(struct vmm *m, enum snapmem_where where, struct snapmem_done done,
		   struct snapmem **s_out, struct err *err)
{
	static const enum memsave_how how[] = {[SNAPMEM_RUNNING] = MEMSAVE_PROTECTED,
					       [SNAPMEM_HELD] = MEMSAVE_STILL,
					       [SNAPMEM_STANDBY] = MEMSAVE_TOLD};
	struct snapmem *s = calloc(1, sizeof(*s));
	struct gm *gm = vm_gm(m->vm);
	int rc;

	*s_out = NULL;
	if (!s)
		return err_set(err, -ENOMEM, "saving the guest: out of memory");
	s->m = m;
	s->where = where;
	s->done = done;
	s->fd = -1;
	s->info.ram = gm_bytes(gm);
	(void)snprintf(s->info.vm, sizeof(s->info.vm), "%s", m->set.vm); /* fits */
	if (getrandom(s->info.id, sizeof(s->info.id), 0) != sizeof(s->info.id))
		rc = err_sys(err, -EIO, "saving the guest: no random number");
	else if (where == SNAPMEM_RUNNING && !snapmem_can_run(m))
		rc = err_set(err, -ENOSYS, "this kernel cannot save a guest that runs");
	else
		rc = memsave_create(gm, how[where], m->uffd, gm_bytes(gm) / COPIES_PART,
				    &s->mem, err);
	if (rc) {
		snapmem_free(s);
		return rc;
	}
	*s_out = s;
	return 0;
}

static int take_standby(struct snapmem *s)
{
	struct vmm *m = s->m;
	size_t len;
	const void *state = mach_standby_state(m->s_mach, &len);
	int rc = buf_add(&s->state, state, len);

	rc = rc ? rc : netbuf_standby_said(m->s_net, &s->said);
	rc = rc ? rc : memsave_arm(s->mem);
	if (!rc)
		mem_standby_save(m->s_mem, s->mem);
	return rc;
}

static int take_primary(struct snapmem *s)
{
	struct vmm *m = s->m;
	int rc = vm_save(m->vm, &s->state);

	rc = rc ? rc : s->state.failed ? -ENOMEM : 0;
	rc = rc ? rc : netbuf_said(m->netbuf, &s->said);
	return rc ? rc : memsave_arm(s->mem);
}

int snapmem_take(struct snapmem *s, uint64_t term, uint64_t epoch)
{
	int rc = s->where == SNAPMEM_STANDBY ? take_standby(s) : take_primary(s);

	s->info.term = term;
	s->info.epoch = epoch;
	s->info.wall_ns = clock_real_ns();
	s->taken = !rc;
	return rc;
}

static int write_all(struct snapmem *s, struct err *err)
{
	struct saved_writer *w;
	int rc = saved_create(s->fd, &s->info, &w, err);

	if (rc)
		return rc;
	rc = saved_put_state(w, s->state.data, s->state.len);
	rc = rc ? rc : saved_put_said(w, s->said.data, s->said.len);
	if (rc) {
		memsave_cancel(s->mem);
		err_sys(err, rc, "saving the guest");
	}
	rc = rc ? rc : memsave_run(s->mem, w, err);
	rc = rc ? rc : saved_finish(w, err);
	if (!rc)
		log_info("the guest is saved: %llu MiB of memory in %llu MiB",
			 (unsigned long long)s->info.ram >> 20,
			 (unsigned long long)saved_bytes(w) >> 20);
	saved_free(w);
	return rc;
}

static void *save_main(void *arg)
{
	struct snapmem *s = arg;
	struct err err = {0};
	int rc = write_all(s, &err);

	(void)close(s->fd); /* what counts was made durable, or is worth nothing */
	s->fd = -1;
	s->done.fn(s->done.arg, s, rc, err.msg);
	return NULL;
}

int snapmem_start(struct snapmem *s, int fd)
{
	int rc = s->taken && !s->has_thread ? 0 : -EINVAL;

	s->fd = fd;
	rc = rc ? rc : -pthread_create(&s->thread, NULL, save_main, s);
	s->has_thread |= !rc;
	if (rc) {
		(void)close(fd); /* nothing was written through it */
		snapmem_cancel(s);
	}
	return rc;
}

void snapmem_cancel(struct snapmem *s)
{
	memsave_cancel(s->mem);
}

uint64_t snapmem_epoch(const struct snapmem *s)
{
	return s->info.epoch;
}

void snapmem_free(struct snapmem *s)
{
	if (!s)
		return;
	if (s->mem)
		snapmem_cancel(s);
	if (s->has_thread)
		pthread_join(s->thread, NULL); /* ours, and joined by nobody else */
	if (s->where == SNAPMEM_STANDBY && s->taken)
		mem_standby_forget(s->m->s_mem, s->mem);
	memsave_destroy(s->mem);
	buf_fini(&s->state);
	buf_fini(&s->said);
	free(s);
}

uint64_t snapmem_id(const struct snapmem *s)
{
	return s->done.id;
}

/* A file of this VM whose guest has not run; all of it into memory. */
static int load_file(struct vmm *m, int fd, struct buf *state, struct buf *said,
		     int *used_out, struct err *err)
{
	struct saved_info info;
	int rc = saved_head(fd, &info, err);

	*used_out = !rc && info.used;
	if (rc || info.used)
		return rc;
	if (strcmp(info.vm, m->set.vm) != 0)
		return err_set(err, -EBADMSG, "the saved guest is %s, not %s", info.vm,
			       m->set.vm);
	return saved_load(fd, vm_gm(m->vm), state, said, &info, err);
}

int snapmem_load(struct vmm *m, int fd, int *used_out, struct err *err)
{
	struct buf state = {0}, said = {0};
	int rc = load_file(m, fd, &state, &said, used_out, err);

	if (!rc && !*used_out) {
		rc = netbuf_standby_create(&m->s_net, err);
		if (!rc && said.len)
			rc = netbuf_standby_hear(m->s_net, said.data, said.len, err);
		rc = rc ? rc : vm_load(m->vm, state.data, state.len, err);
	}
	buf_fini(&state);
	buf_fini(&said);
	return rc;
}
