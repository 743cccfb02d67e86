/* SPDX-License-Identifier: Apache-2.0
 * part - the output buffer as a participant in checkpoints.
 *
 * The table of learned addresses is captured with the epoch and sent beside the guest, so that
 * a standby never announces an address from an epoch that did not happen.
 */
#include "netbuf/netbuf.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "netbuf/nb.h"

#include "hv/base/clock.h"
#include "netbuf/wire.h"

#include <errno.h>
#include <stdlib.h>

struct nb_snap {
	struct nb_snap *next;
	uint64_t epoch;
	struct buf payload;
};

static void snap_free(struct nb_snap *s)
{
	buf_fini(&s->payload);
	free(s);
}

void nb_snaps_free(struct netbuf *nb)
{
	struct nb_snap *s;

	while ((s = nb->snaps)) {
		nb->snaps = s->next;
		snap_free(s);
	}
}

static int nb_sync_begin(void *self, struct rec_sink *sink, struct err *err)
{
	struct netbuf *nb = self;

	pthread_mutex_lock(&nb->lock);
	nb_snaps_free(nb);
	nb->table_sent = UINT64_MAX;
	/* What an owner without authority held so far is older than checkpoint 0. */
	nbq_retag(&nb->q, 0);
	nb->open = 0;
	pthread_mutex_unlock(&nb->lock);
	return 0;
}

/* Under lock. */
static int snap_take(struct netbuf *nb, uint64_t epoch)
{
	struct nb_snap *s;

	if (nb->table_sent == nb->table.version)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->epoch = epoch;
	nb_table_encode(&nb->table, &s->payload);
	if (s->payload.failed) {
		snap_free(s);
		return -ENOMEM;
	}
	s->next = nb->snaps;
	nb->snaps = s;
	nb->table_sent = nb->table.version;
	return 0;
}

static int nb_capture(void *self, uint64_t epoch, struct err *err)
{
	struct netbuf *nb = self;
	int rc;

	pthread_mutex_lock(&nb->lock);
	/* Before the guest resumes: from here on nothing leaves unless it is committed. */
	nb->holding = 1;
	nb->open = epoch + 1;
	nb->said = 0;
	rc = snap_take(nb, epoch);
	pthread_mutex_unlock(&nb->lock);
	if (rc)
		return err_set(err, rc, "output buffer: no memory for the address table");
	return nb_plug_capture(&nb->plug, epoch, err);
}

/* The next epoch's first frame is to be seen. */
static void nb_resume(void *self)
{
	struct netbuf *nb = self;

	if (nb->plug.kernel)
		nb_wake(nb);
}

static struct nb_snap *snap_get(struct netbuf *nb, uint64_t epoch)
{
	struct nb_snap *s, **at;

	pthread_mutex_lock(&nb->lock);
	for (at = &nb->snaps; *at && (*at)->epoch != epoch; at = &(*at)->next)
		;
	s = *at;
	if (s)
		*at = s->next;
	pthread_mutex_unlock(&nb->lock);
	return s;
}

static int nb_send(void *self, uint64_t epoch, struct rec_sink *sink, struct err *err)
{
	struct nb_snap *s = snap_get(self, epoch);
	int rc;

	if (!s)
		return 0;
	rc = rec_put(sink, NB_REC_ADDRS, epoch, s->payload.data, s->payload.len);
	snap_free(s);
	return rc ? err_sys(err, rc, "output buffer: sending the address table") : 0;
}

/* The ack of @epoch came: memory, machine and disks of it are safe on the other host. */
/* How long the plug may still let go of what was just committed, in ns; 0: for ever. */
static uint64_t stale_left(const struct netbuf *nb)
{
	uint64_t passed = nb->stale_ns && nb->judged_ns
				  ? clock_mono_ns() - nb->judged_ns(nb->judged_arg)
				  : 0;

	return passed < nb->stale_ns ? nb->stale_ns - passed : nb->stale_ns != 0;
}

static void nb_committed(void *self, uint64_t epoch)
{
	struct netbuf *nb = self;
	uint64_t open;

	pthread_mutex_lock(&nb->lock);
	open = nb->open;
	pthread_mutex_unlock(&nb->lock);
	if (epoch >= open) {
		log_err("output of epoch %llu is not released: it was never captured",
			(unsigned long long)epoch);
		return;
	}
	/* First the kernel's, which is one call; a full tap may keep the other up. */
	nb_plug_committed(&nb->plug, epoch, stale_left(nb));
	nb_release(nb, epoch);
}

static void nb_unlinked(void *self)
{
	struct netbuf *nb = self;

	/* What is held stays held: only a grant (alone) or an ack lets it out. */
	pthread_mutex_lock(&nb->lock);
	nb_snaps_free(nb);
	nb->table_sent = UINT64_MAX;
	pthread_mutex_unlock(&nb->lock);
}

static void nb_alone(void *self)
{
	struct netbuf *nb = self;

	nb_plug_alone(&nb->plug);
	nb_release_all(nb);
}

static void nb_teardown(void *self)
{
	struct netbuf *nb = self;

	nb_plug_drop(&nb->plug);
	nb_drop_all(nb);
}

static const struct part_ops part_ops = {
	.name = "output",
	.kind = NB_REC_KIND,
	.setup = part_no_setup,
	.greet = part_no_greet,
	.sync_begin = nb_sync_begin,
	.sync_round = part_no_sync_round,
	.ahead = part_no_ahead,
	.pause = part_no_pause,
	.capture = nb_capture,
	.resume = nb_resume,
	.send = nb_send,
	.committed = nb_committed,
	.peer_record = part_no_peer_record,
	.unlinked = nb_unlinked,
	.alone = nb_alone,
	.teardown = nb_teardown,
};

int netbuf_said(struct netbuf *nb, struct buf *b)
{
	pthread_mutex_lock(&nb->lock);
	nb_table_encode(&nb->table, b);
	pthread_mutex_unlock(&nb->lock);
	return b->failed ? -ENOMEM : 0;
}

struct part netbuf_part(struct netbuf *nb)
{
	return (struct part){.ops = &part_ops, .self = nb};
}
