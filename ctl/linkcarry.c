/* SPDX-License-Identifier: Apache-2.0
 * linkcarry - the arithmetic of rates.
 */
#include "ctl/linkcarry.h"

#include <string.h>

const char *carry_limit_name(enum carry_limit l)
{
	return l == CARRY_BY_LATENCY ? "latency" : "bandwidth";
}

const char *carry_verdict_name(enum carry_verdict v)
{
	static const char *const name[] = {[CARRY_UNMEASURED] = "unmeasured",
					   [CARRY_GOOD] = "good",
					   [CARRY_LATE] = "late",
					   [CARRY_SLOW] = "slow"};

	return name[v];
}

/* What is sent before the last page, and then that page's round trip. */
static struct carry_epoch epoch_of(const struct carry_in *in, double bytes_per_s,
				   uint64_t pages, double page_bytes)
{
	double before = pages > 1 ? (double)(pages - 1) * page_bytes : 0;
	double send_ms = before / bytes_per_s * 1e3, trip_ms = (double)in->trip_ns / 1e6;
	struct carry_epoch e = {.commit_ms = send_ms + trip_ms,
				.limit = trip_ms > send_ms ? CARRY_BY_LATENCY
							   : CARRY_BY_BANDWIDTH};

	e.per_s = e.commit_ms > 0 ? 1e3 / e.commit_ms : 0;
	return e;
}

void carry_judge(const struct carry_in *in, struct carry *out)
{
	double interval_ms = in->interval_us / 1e3, bytes, send_ms;
	int known = in->page_bytes > 0;

	memset(out, 0, sizeof(*out));
	out->verdict = CARRY_UNMEASURED;
	if (!in->bytes || !in->ns)
		return;
	out->bytes_per_s = (double)in->bytes / (double)in->ns * 1e9;
	out->bytes_per_epoch = out->bytes_per_s * in->interval_us / 1e6;
	out->pages_raw = (uint64_t)(out->bytes_per_epoch / CARRY_PAGE);
	out->raw = epoch_of(in, out->bytes_per_s, CARRY_EPOCH, CARRY_PAGE);
	out->load = epoch_of(in, out->bytes_per_s, 1, CARRY_PAGE);
	bytes = CARRY_PAGE;
	if (known) {
		out->pages_encoded = (uint64_t)(out->bytes_per_epoch / in->page_bytes);
		out->encoded =
			epoch_of(in, out->bytes_per_s, CARRY_EPOCH, in->page_bytes);
		out->load = epoch_of(in, out->bytes_per_s, in->pages, in->page_bytes);
		bytes = (double)in->pages * in->page_bytes;
	}
	send_ms = bytes / out->bytes_per_s * 1e3;
	if (send_ms > interval_ms)
		out->verdict = CARRY_SLOW;
	else
		out->verdict =
			out->load.commit_ms > interval_ms ? CARRY_LATE : CARRY_GOOD;
}
