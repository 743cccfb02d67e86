/* SPDX-License-Identifier: Apache-2.0
 * rheactl_heartbeat - the paths to the peer, one line each.
 */
#include "ctl/rheactl.h"

#include "ctl/table.h"

#include <stdio.h>
#include <string.h>

enum { NUM = 32 };

static void path_row(struct table *t, json_t *p)
{
	static const char *const times[] = {"rtt_us", "rtt_avg_us", "rtt_max_us",
					    "jitter_us", "late_max_us"};
	static const char *const counts[] = {"sent", "received", "lost", "refused",
					     "send_errors"};
	char num[NUM];

	table_row(t);
	table_add(t, "%s", rc_str(p, "from"));
	table_add(t, "%s", rc_str(p, "to"));
	table_add(t, "%s", json_is_true(json_object_get(p, "up")) ? "up" : "DOWN");
	table_add(t, "%s", fmt_int(json_object_get(p, "silent_ms"), num, sizeof(num)));
	for (unsigned i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		table_add(t, "%s",
			  fmt_us(json_object_get(p, times[i]), num, sizeof(num)));
	for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		table_add(t, "%s",
			  fmt_int(json_object_get(p, counts[i]), num, sizeof(num)));
}

static void show_paths(json_t *hb)
{
	static const char *const head[] = {"PATH", "TO",   "IS",      "SILENT ms", "RTT",
					   "AVG",  "MAX",  "JITTER",  "LATEST",	   "SENT",
					   "GOT",  "LOST", "REFUSED", "ERRORS"};
	static struct table t;
	json_t *p;
	size_t i;

	memset(&t, 0, sizeof(t));
	for (i = 0; i < sizeof(head) / sizeof(head[0]); i++)
		table_head(&t, head[i], i > 2);
	json_array_foreach(json_object_get(hb, "paths"), i, p) path_row(&t, p);
	table_print(&t);
}

static int show(struct rc *rc)
{
	const char *why;
	int status;
	json_t *hb = rc_ask(rc, json_pack("{s:s}", "cmd", "heartbeat"), &status);

	if (!hb)
		return status;
	if (rc->json) {
		rc_print_json(hb, rc->watch_s > 0);
	} else {
		printf("peer %s: %s; every %d ms, lost after %d missed; fell silent %d times\n",
		       rc_str(hb, "peer"),
		       json_is_true(json_object_get(hb, "peer_up")) ? "up" : "NOT HEARD",
		       (int)json_integer_value(json_object_get(hb, "interval_ms")),
		       (int)json_integer_value(json_object_get(hb, "missed")),
		       (int)json_integer_value(json_object_get(hb, "losses")));
		show_paths(hb);
		why = rc_str(hb, "refused_why");
		if (*why)
			printf("last refused: %s\n", why);
	}
	json_decref(hb);
	return RC_OK;
}

int rheactl_heartbeat(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS, {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "jw::s:h", longs, NULL)) != -1)
		if (rc_option(rc, c))
			return rc_usage("heartbeat [--watch[=SECONDS]]");
	if (optind != argc)
		return rc_usage("heartbeat takes no arguments");
	return rc_watch(rc, show);
}
