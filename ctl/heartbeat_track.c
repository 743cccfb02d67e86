/* SPDX-License-Identifier: Apache-2.0
 * heartbeat_track - what the datagrams heard so far add up to.
 */
#include "ctl/heartbeat_track.h"

#include <string.h>

/* Not a failure: the first datagrams of a life wait for the echo, or come late. */
static enum hb_verdict check_life(struct hb_track *t, const struct hb_msg *m)
{
	int echoes_us = m->echo_boot_id == t->own_boot_id;

	if (m->boot_id == t->peer.boot_id)
		return HB_OK;
	if (!echoes_us || m->echo_mono_ns <= t->echoed)
		return HB_REPLAY;
	t->peer.boot_id = m->boot_id;
	t->seq = 0;
	for (unsigned i = 0; i < CONFIG_PATHS_MAX; i++)
		t->paths[i].seq = 0;
	return HB_OK;
}

static void note_echo(struct hb_track *t, struct hb_track_path *p, const struct hb_msg *m,
		      uint64_t now)
{
	struct hb_path_stats *st = &p->st;
	uint64_t then = m->echo_mono_ns + m->echo_delay_ns;

	if (m->echo_boot_id != t->own_boot_id || then < m->echo_mono_ns || then > now)
		return;
	if (m->echo_mono_ns > t->echoed)
		t->echoed = m->echo_mono_ns;
	st->rtt_ns = now - then;
	if (!p->rtt_count || st->rtt_ns < st->rtt_min_ns)
		st->rtt_min_ns = st->rtt_ns;
	if (st->rtt_ns > st->rtt_max_ns)
		st->rtt_max_ns = st->rtt_ns;
	p->rtt_sum += st->rtt_ns;
	st->rtt_avg_ns = p->rtt_sum / ++p->rtt_count;
}

static void note_spacing(struct hb_track_path *p, const struct hb_msg *m, uint64_t now)
{
	struct hb_path_stats *st = &p->st;
	uint64_t here, there, d;

	if (p->seq) {
		st->lost += m->seq - p->seq - 1;
		if (now - p->good_at > st->late_max_ns)
			st->late_max_ns = now - p->good_at;
		here = now - p->good_at;
		there = m->mono_ns - p->sent_mono; /* whatever the peer likes to say */
		d = here > there ? here - there : there - here;
		if (d > st->jitter_ns)
			st->jitter_ns += (d - st->jitter_ns) / 16;
		else
			st->jitter_ns -= (st->jitter_ns - d) / 16;
	}
	p->seq = m->seq;
	p->good_at = now;
	p->sent_mono = m->mono_ns;
	st->received++;
	st->up = 1;
}

static void note_peer(struct hb_track *t, const struct hb_track_path *p,
		      const struct hb_msg *m, uint64_t now, uint64_t wall)
{
	t->good_at = now;
	if (!t->up) {
		t->up = 1;
		t->up_since = now;
	}
	if (m->seq <= t->seq)
		return; /* the same round came on another path, or a later one did */
	t->seq = m->seq;
	t->peer.wall_ns = m->wall_ns;
	t->peer.wall_delta_ns = (int64_t)(m->wall_ns + p->st.rtt_ns / 2 - wall);
	t->peer.n_vms = m->n_vms;
	memcpy(t->peer.vms, m->vms, sizeof(t->peer.vms));
}

static enum hb_verdict check_origin(const struct hb_track *t, const struct hb_msg *m)
{
	if (strcmp(m->pair, t->cfg->pair) != 0 ||
	    strcmp(m->host, config_peer(t->cfg)->name) != 0)
		return HB_PAIR;
	if (memcmp(m->digest, t->cfg->digest, sizeof(m->digest)) != 0)
		return HB_CONFIG;
	return m->n_vms == t->cfg->n_vms ? HB_OK : HB_MALFORMED;
}

enum hb_verdict hb_track_heard(struct hb_track *t, unsigned path, const struct hb_msg *m,
			       uint64_t now, uint64_t wall)
{
	struct hb_track_path *p = &t->paths[path];
	enum hb_verdict v = check_origin(t, m);

	if (v == HB_OK) {
		v = check_life(t, m);
		/* An old number of the present life tells nothing to echo either. */
		if (v != HB_OK || m->seq > p->seq) {
			p->echo_boot_id = m->boot_id;
			p->echo_mono = m->mono_ns;
			p->echo_at = now;
		}
	}
	if (v == HB_OK && m->seq <= p->seq)
		v = HB_REPLAY;
	if (v != HB_OK) {
		p->st.refused++;
		return v;
	}
	note_echo(t, p, m, now);
	note_spacing(p, m, now);
	note_peer(t, p, m, now, wall);
	return HB_OK;
}

void hb_track_refused(struct hb_track *t, unsigned path)
{
	t->paths[path].st.refused++;
}

static uint64_t patience(const struct hb_track *t)
{
	return (uint64_t)t->cfg->heartbeat_interval_ms * t->cfg->heartbeat_missed *
	       1000000u;
}

void hb_track_time(struct hb_track *t, uint64_t now)
{
	for (unsigned i = 0; i < CONFIG_PATHS_MAX; i++)
		if (t->paths[i].st.up && now - t->paths[i].good_at > patience(t))
			t->paths[i].st.up = 0;
	if (t->up && now - t->good_at > patience(t)) {
		t->up = 0;
		t->losses++;
	}
}

uint64_t hb_track_deadline(const struct hb_track *t)
{
	uint64_t best = UINT64_MAX, at;

	for (unsigned i = 0; i < CONFIG_PATHS_MAX; i++) {
		at = t->paths[i].good_at + patience(t) + 1;
		if (t->paths[i].st.up && at < best)
			best = at;
	}
	return best;
}
