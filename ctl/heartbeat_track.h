/* SPDX-License-Identifier: Apache-2.0
 * heartbeat_track - what the datagrams heard so far add up to. Internal to ctl/heartbeat*.c.
 *
 * Pure: clocks come as arguments. All times are CLOCK_MONOTONIC nanoseconds of this host unless
 * named otherwise.
 */
#ifndef CTL_HEARTBEAT_TRACK_H
#define CTL_HEARTBEAT_TRACK_H

#include "ctl/heartbeat.h"

struct hb_track_path {
	struct hb_path_stats st;
	uint64_t seq;	    /* highest heard in this life of the peer, 0: none */
	uint64_t good_at;   /* last good one, 0: never */
	uint64_t sent_mono; /* the peer's clock in it */
	uint64_t rtt_count, rtt_sum;
	/* To echo: from any authentic datagram of this path, believed or not. */
	uint64_t echo_boot_id, echo_mono, echo_at;
};

struct hb_track {
	const struct config *cfg;
	uint64_t own_boot_id;
	int up;
	uint64_t seq, good_at; /* highest of all paths; last good one on any */
	uint64_t echoed; /* latest time of ours that this life of the peer has echoed */
	struct hb_peer peer;
	uint64_t up_since, losses;
	struct hb_track_path paths[CONFIG_PATHS_MAX];
};

/* An authentic datagram @m (hb_decode() said HB_OK) came on @path. HB_OK: it counts. */
enum hb_verdict hb_track_heard(struct hb_track *t, unsigned path, const struct hb_msg *m,
			       uint64_t now, uint64_t wall);
/* Anything that was refused before: counted. */
void hb_track_refused(struct hb_track *t, unsigned path);
/* Time passes: paths and peer fall silent. */
void hb_track_time(struct hb_track *t, uint64_t now);
/* When hb_track_time() may next change something; UINT64_MAX: never. */
uint64_t hb_track_deadline(const struct hb_track *t);

#endif
