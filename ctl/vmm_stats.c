/* SPDX-License-Identifier: Apache-2.0
 * vmm_stats - all counters and histograms of a VM as one JSON object.
 */
#include "ctl/vmm.h"

#include "diskrep/diskrep.h"
#include "netbuf/netbuf.h"
#include "remus/parts.h"
#include "remus/standby.h"
#include "replication/pagecodec.h"

#include <stdlib.h>

/* UINT64_MAX means "none yet" throughout; JSON says null. */
static json_t *count(uint64_t v)
{
	return v == UINT64_MAX ? json_null() : json_integer((json_int_t)v);
}

/* @div: 1000 turns nanoseconds into microseconds. */
static json_t *quantiles(const struct hist *h, uint64_t div)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "count", (json_int_t)h->count,
			 "p50", (json_int_t)(hist_quantile(h, 0.50) / div), "p90",
			 (json_int_t)(hist_quantile(h, 0.90) / div), "p99",
			 (json_int_t)(hist_quantile(h, 0.99) / div), "max",
			 (json_int_t)(h->max / div), "mean",
			 (json_int_t)(h->count ? h->sum / h->count / div : 0));
}

static json_t *of_primary(struct vmm *m, struct primary *p)
{
	static const char *const part_name[] = {"machine", "memory", "netbuf", "disks"};
	struct primary_stats *ps =
		calloc(1, sizeof(*ps)); /* histograms: too large for a stack */
	json_t *o, *parts;

	if (!ps)
		return NULL;
	primary_stats(p, ps);
	o = json_pack(
		"{s:s,s:I,s:I,s:o,s:I,s:I,s:I,s:I,s:I}", "state",
		primary_state_name(ps->state), "term", (json_int_t)ps->term, "epoch",
		(json_int_t)ps->epoch, "acked", count(ps->acked), "bytes_raw",
		(json_int_t)ps->bytes_raw, "bytes_sent", (json_int_t)ps->bytes_sent,
		"pages_sent", (json_int_t)ps->pages_sent, "early_epochs",
		(json_int_t)ps->early_epochs, "sync_left", (json_int_t)ps->sync_left);
	json_object_set_new(o, "ahead_us", quantiles(&ps->ahead, 1000));
	json_object_set_new(o, "pause_us", quantiles(&ps->pause, 1000));
	json_object_set_new(o, "stop_us", quantiles(&ps->stop, 1000));
	json_object_set_new(o, "capture_us", quantiles(&ps->capture, 1000));
	json_object_set_new(o, "resume_us", quantiles(&ps->resume, 1000));
	json_object_set_new(o, "send_us", quantiles(&ps->send, 1000));
	json_object_set_new(o, "commit_us", quantiles(&ps->commit, 1000));
	json_object_set_new(o, "interval_us", quantiles(&ps->interval, 1000));
	json_object_set_new(o, "dirty_pages", quantiles(&ps->dirty_pages, 1));
	parts = json_object();
	for (unsigned i = 0; i < sizeof(part_name) / sizeof(part_name[0]); i++)
		json_object_set_new(parts, part_name[i],
				    quantiles(&ps->capture_part[i], 1000));
	json_object_set_new(o, "capture_part_us", parts);
	free(ps);
	return o;
}

static json_t *of_standby(struct vmm *m)
{
	struct standby_stats *ss = calloc(1, sizeof(*ss));
	struct mem_standby_stats ms;
	json_t *o;

	if (!ss)
		return NULL;
	standby_stats(m->standby, ss);
	mem_standby_stats(m->s_mem, &ms);
	o = json_pack("{s:s,s:I,s:o,s:o,s:I,s:o,s:o,s:I,s:I,s:I}", "state",
		      standby_state_name(ss->state), "term", (json_int_t)ss->term,
		      "acked", count(ss->acked), "applied", count(ss->applied),
		      "bytes_received", (json_int_t)ss->bytes_received, "verify_us",
		      quantiles(&ss->verify, 1000), "apply_us",
		      quantiles(&ss->apply, 1000), "staged_bytes", (json_int_t)ms.staged,
		      "staged_max_bytes", (json_int_t)ms.staged_max, "staged_limit_bytes",
		      (json_int_t)ms.limit);
	free(ss);
	return o;
}

static json_t *of_plug(const struct plug_counts *c)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "held_bytes", (json_int_t)c->held_bytes,
			 "held_frames", (json_int_t)c->held_frames, "released_frames",
			 (json_int_t)c->sent_frames, "dropped_frames",
			 (json_int_t)c->dropped_frames, "late", (json_int_t)c->late);
}

static json_t *of_netbuf(struct netbuf *nb)
{
	struct netbuf_stats st;
	json_t *o;

	netbuf_stats(nb, &st);
	st.held_bytes += st.plug.held_bytes;
	st.held_frames += st.plug.held_frames;
	o = json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:I}", "holding", st.holding,
		      "held_bytes", (json_int_t)st.held_bytes, "held_frames",
		      (json_int_t)st.held_frames, "released_bytes",
		      (json_int_t)st.released_bytes, "released_frames",
		      (json_int_t)st.released_frames, "dropped_bytes",
		      (json_int_t)st.dropped_bytes, "refused", (json_int_t)st.refused);
	if (st.plugged)
		json_object_set_new(o, "plug", of_plug(&st.plug));
	return o;
}

static json_t *of_disks(struct diskrep *dr)
{
	struct diskrep_stats st;

	diskrep_stats(dr, &st);
	return json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I}", "epoch_bytes", (json_int_t)st.epoch_bytes,
		"queued_bytes", (json_int_t)st.queued_bytes, "sent_bytes",
		(json_int_t)st.sent_bytes, "sync_left_bytes",
		(json_int_t)st.sync_left_bytes, "chunks_sent", (json_int_t)st.chunks_sent,
		"chunks_same", (json_int_t)st.chunks_same);
}

static json_t *of_disk_sync(struct diskrep *dr)
{
	struct diskrep_sync_stats s;
	json_t *o, *log;

	diskrep_sync_stats(dr, &s);
	log = json_pack("{s:i,s:I,s:I,s:I,s:I}", "state", s.log, "marked_bytes",
			(json_int_t)s.marked_chunks * DR_CHUNK, "active_extents",
			(json_int_t)s.active_extents, "writes", (json_int_t)s.log_writes,
			"waited", (json_int_t)s.waited_writes);
	o = json_pack("{s:s,s:b,s:s,s:I,s:I,s:I,s:I,s:o,s:o,s:I,s:o}", "state", s.state,
		      "partial", s.partial, "why", s.why, "look_bytes",
		      (json_int_t)s.look_bytes, "looked_bytes",
		      (json_int_t)s.looked_bytes, "sent_bytes", (json_int_t)s.sent_bytes,
		      "left_bytes", (json_int_t)s.left_bytes, "rate", count(s.rate),
		      "eta_s", count(s.eta_s), "limit", (json_int_t)s.limit, "log", log);
	return o;
}

static json_t *of_pages(struct mem_part *mem)
{
	struct pc_stats st;

	mem_part_stats(mem, &st);
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "pages",
			 (json_int_t)st.pages, "unchanged", (json_int_t)st.unchanged,
			 "zero", (json_int_t)st.zero, "raw", (json_int_t)st.raw, "lz4",
			 (json_int_t)st.lz4, "xor_lz4", (json_int_t)st.xor_lz4, "words",
			 (json_int_t)st.words, "same", (json_int_t)st.same, "bytes_raw",
			 (json_int_t)st.bytes_raw, "bytes_out", (json_int_t)st.bytes_out);
}

json_t *vmm_stats(struct vmm *m)
{
	struct primary *p = atomic_load(&m->primary);
	json_t *o = json_object();

	if (p)
		json_object_set_new(o, "primary", of_primary(m, p));
	if (m->standby && !m->started)
		json_object_set_new(o, "standby", of_standby(m));
	if (m->netbuf)
		json_object_set_new(o, "netbuf", of_netbuf(m->netbuf));
	if (m->diskrep) {
		json_object_set_new(o, "disks", of_disks(m->diskrep));
		json_object_set_new(o, "disk_sync", of_disk_sync(m->diskrep));
		json_object_set_new(o, "disk_list", vmm_disks_json(m));
	}
	json_object_set_new(o, "durable", vmm_durable_json(m));
	json_object_set_new(o, "disk_faults", vmm_faults_json(m));
	json_object_set_new(o, "paths", vmm_paths_json(m));
	if (m->mem)
		json_object_set_new(o, "pages", of_pages(m->mem));
	return o;
}
