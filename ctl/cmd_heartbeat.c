/* SPDX-License-Identifier: Apache-2.0
 * cmd_heartbeat - the paths to the peer and how they do, as JSON.
 *
 * {"peer","peer_up","up_since_s","losses","sender_late_max_us","realtime","refused_why",
 *  "interval_ms","missed",
 *  "paths":[{"from","to","up","sent","received","lost","refused","send_errors","silent_ms",
 *            "rtt_us","rtt_min_us","rtt_max_us","rtt_avg_us","jitter_us","late_max_us"}]}
 */
#include "ctl/cmd.h"

#include "ctl/cmd_heartbeat.h"
#include "ctl/ctlsock.h"
#include "ctl/host.h"
#include "hv/base/clock.h"

static json_t *us(uint64_t ns)
{
	return ns ? json_real((double)ns / 1e3) : json_null();
}

static json_t *path_json(const struct host *h, unsigned i, const struct hb_path_stats *p)
{
	return json_pack("{s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o}",
			 "from", config_self(h->cfg)->heartbeat[i].text, "to",
			 config_peer(h->cfg)->heartbeat[i].text, "up", p->up, "sent",
			 (json_int_t)p->sent, "received", (json_int_t)p->received, "lost",
			 (json_int_t)p->lost, "refused", (json_int_t)p->refused,
			 "send_errors", (json_int_t)p->send_errors, "silent_ms",
			 p->silent_ns == UINT64_MAX
				 ? json_null()
				 : json_integer((json_int_t)(p->silent_ns / 1000000)),
			 "rtt_us", us(p->rtt_ns), "rtt_min_us", us(p->rtt_min_ns),
			 "rtt_max_us", us(p->rtt_max_ns), "rtt_avg_us", us(p->rtt_avg_ns),
			 "jitter_us", us(p->jitter_ns), "late_max_us",
			 us(p->late_max_ns));
}

static json_t *paths_json(const struct host *h, const struct hb_stats *st)
{
	json_t *paths = json_array();

	for (unsigned i = 0; i < st->n_paths; i++)
		if (json_array_append_new(paths, path_json(h, i, &st->paths[i]))) {
			json_decref(paths);
			return NULL;
		}
	return paths;
}

json_t *cmd_heartbeat_paths(const struct host *h)
{
	struct hb_stats st;

	hb_stats(h->hb, &st);
	return paths_json(h, &st);
}

void cmd_heartbeat(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct hb_stats st;

	hb_stats(h->hb, &st);
	ctl_end(c,
		json_pack("{s:s,s:b,s:o,s:I,s:o,s:b,s:s,s:i,s:i,s:o}", "peer",
			  config_peer(h->cfg)->name, "peer_up", st.peer_up, "up_since_s",
			  st.peer_up ? json_integer((json_int_t)((clock_mono_ns() -
								  st.up_since_ns) /
								 1000000000u))
				     : json_null(),
			  "losses", (json_int_t)st.losses, "sender_late_max_us",
			  us(st.sender_late_max_ns), "realtime", st.realtime,
			  "refused_why", st.refused_why, "interval_ms",
			  (int)h->cfg->heartbeat_interval_ms, "missed",
			  (int)h->cfg->heartbeat_missed, "paths", paths_json(h, &st)));
}
