/* SPDX-License-Identifier: Apache-2.0
 * vmm_drill - harm to one path of the link, for a time, while the guest's longest wait is measured.
 *
 * The end of the harm is this process's own doing: it comes also when who asked for it is gone, and when
 * rhead stands still. If rhead dies, this process ends, and the harm with it.
 */
#include "ctl/vmm.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "replication/session.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>

enum { LOOK_US = 1000, FOR_MAX_MS = 60000 };

struct vmm_drill {
	struct event *look;
	struct session *s; /* the link that is harmed; held */
	unsigned path;
	uint64_t until_ns, acked_ns, longest_ns;
	uint64_t acked; /* the last epoch before the deed */
};

static uint64_t last_acked(struct vmm *m)
{
	struct primary *p = atomic_load(&m->primary);
	struct primary_stats *ps =
		calloc(1, sizeof(*ps)); /* histograms: too large for a stack */
	uint64_t acked = UINT64_MAX;

	if (p && ps) {
		primary_stats(p, ps);
		acked = ps->acked;
	}
	free(ps);
	return acked;
}

int vmm_drill_path(const struct vmm *m)
{
	return m->drill ? (int)m->drill->path : -1;
}

void vmm_drill_end(struct vmm *m)
{
	static const struct tp_fault none = {0};
	struct vmm_drill *d = m->drill;

	if (!d)
		return;
	m->drill = NULL;
	session_fault(d->s, d->path, &none);
	session_put(d->s);
	if (d->look)
		event_free(d->look);
	free(d);
}

/* Between two acknowledgements everything that the guest says waits. */
static void note_wait(struct vmm_drill *d, uint64_t acked_ns)
{
	uint64_t wait = acked_ns > d->acked_ns ? acked_ns - d->acked_ns : 0;

	d->longest_ns = wait > d->longest_ns ? wait : d->longest_ns;
	d->acked_ns = acked_ns > d->acked_ns ? acked_ns : d->acked_ns;
}

static void finish(struct vmm *m, uint64_t now)
{
	struct vmm_drill *d = m->drill;
	uint64_t acked = last_acked(m);
	json_t *ev;

	/* One that is not over yet counts as far as it has come. */
	note_wait(d, now);
	ev = json_pack("{s:s,s:i,s:I,s:I}", "ev", "path-drill", "path", (int)d->path,
		       "wait_us", (json_int_t)(d->longest_ns / 1000), "epochs",
		       acked == UINT64_MAX ? 0 : (json_int_t)(acked - d->acked));
	log_info("path %u: the drill's harm has ended", d->path);
	vmm_drill_end(m);
	vmm_tell(m, ev);
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
	struct vmm *m = arg;
	uint64_t now = clock_mono_ns();

	note_wait(m->drill, primary_judged_ns(atomic_load(&m->primary)));
	if (now >= m->drill->until_ns)
		finish(m, now);
}

int vmm_drill_begin(struct vmm *m, unsigned path, const struct tp_fault *f,
		    unsigned for_ms)
{
	static const struct timeval turn = {.tv_usec = LOOK_US};
	struct primary *p = atomic_load(&m->primary);
	struct vmm_drill *d;

	vmm_drill_end(m);
	if (!p || path >= m->set.n_paths || !for_ms || for_ms > FOR_MAX_MS)
		return -EINVAL;
	d = m->drill = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->s = vmm_session_hold(m);
	d->look = event_new(loop_base(m->ctl), -1, EV_PERSIST, on_look, m);
	if (!d->s || !d->look || event_add(d->look, &turn)) {
		vmm_drill_end(m);
		return -ENOMEM;
	}
	d->path = path;
	d->acked = last_acked(m);
	d->acked_ns = primary_judged_ns(p);
	d->until_ns = clock_mono_ns() + for_ms * UINT64_C(1000000);
	session_fault(d->s, path, f);
	log_info("path %u: harmed for a drill, for %u ms", path, for_ms);
	return 0;
}
