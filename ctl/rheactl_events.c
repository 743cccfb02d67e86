/* SPDX-License-Identifier: Apache-2.0
 * rheactl_events - the history, and what is added to it.
 */
#include "ctl/rheactl.h"

#include <stdio.h>

static void show_event(json_t *e)
{
	json_t *term = json_object_get(e, "term"), *epoch = json_object_get(e, "epoch");

	printf("%s  %-8s", rc_str(e, "time"), rc_str(e, "vm"));
	if (json_is_integer(term))
		printf("  t%-3" JSON_INTEGER_FORMAT, json_integer_value(term));
	else
		printf("  %-4s", "");
	if (json_is_integer(epoch))
		printf(" e%-7" JSON_INTEGER_FORMAT, json_integer_value(epoch));
	else
		printf(" %-8s", "");
	printf("  %s\n", rc_str(e, "text"));
}

static int show_all(struct rc *rc, json_t *req)
{
	int status = rc_send(rc, req), last;
	json_t *o;

	if (status)
		return status;
	while ((o = rc_next(rc))) {
		status = rc_check(rc, o);
		last = !json_object_get(o, "text");
		if (!status && !last && rc->json)
			rc_print_json(o, 1);
		else if (!status && !last)
			show_event(o);
		(void)fflush(stdout); /* a reader that went away is no error */
		json_decref(o);
		if (status || last)
			return status;
	}
	(void)fprintf(stderr, "rheactl: rhead hung up; see its log\n");
	return RC_UNREACHABLE;
}

int rheactl_events(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS,
					      {"follow", no_argument, NULL, 'f'},
					      {"after", required_argument, NULL, 'a'},
					      {"count", required_argument, NULL, 'n'},
					      {NULL, 0, NULL, 0}};
	static const char how[] = "events [--follow] [--count N] [--after ID] [VM]";
	int c, follow = 0;
	long long after = -1, count = -1;
	json_t *req;

	while ((c = getopt_long(argc, argv, "jw::s:hfa:n:", longs, NULL)) != -1)
		if (c == 'f')
			follow = 1;
		else if (c == 'a' || c == 'n') {
			if (sscanf(optarg, "%lld", c == 'a' ? &after : &count) != 1)
				return rc_usage("%s", how);
		} else if (rc_option(rc, c)) {
			return rc_usage("%s", how);
		}
	if (argc - optind > 1)
		return rc_usage("%s", how);
	req = json_pack("{s:s,s:b}", "cmd", "events", "follow",
			follow || rc->watch_s > 0);
	/* A member that could not be added leaves rhead's default. */
	if (after >= 0)
		json_object_set_new(req, "after", json_integer(after));
	if (count >= 0)
		json_object_set_new(req, "count", json_integer(count));
	if (optind < argc)
		json_object_set_new(req, "vm", json_string(argv[optind]));
	return show_all(rc, req);
}
