/* SPDX-License-Identifier: Apache-2.0
 * rheactl_drill - drill run: show the deed and what follows as it happens, then the report.
 */
#include "ctl/rheactl.h"

#include <stdio.h>
#include <string.h>

static void show_number(const char *what, json_t *ms, const char *unit)
{
	if (json_is_number(ms))
		printf("  %-22s %.1f %s\n", what, json_number_value(ms), unit);
	else
		printf("  %-22s -\n", what);
}

static void show_report(json_t *r)
{
	json_t *after = json_object_get(r, "term_after");

	printf("\ndrill %s on %s: %s%s%s\n", rc_str(r, "drill"), rc_str(r, "vm"),
	       json_is_true(json_object_get(r, "ok")) ? "passed" : "FAILED",
	       rc_str(r, "why")[0] ? ", " : "", rc_str(r, "why"));
	printf("  %-22s host %s -> %s\n", "ran on", rc_str(r, "from_host"),
	       rc_str(r, "to_host"));
	show_number("gap", json_object_get(r, "gap_ms"), "ms");
	printf("  %-22s %s\n", "measured by", rc_str(r, "gap_by"));
	show_number("protected again after", json_object_get(r, "protected_ms"), "ms");
	printf("  %-22s %" JSON_INTEGER_FORMAT " -> ", "term",
	       json_integer_value(json_object_get(r, "term_before")));
	if (json_is_integer(after))
		printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(after));
	else
		printf("-\n");
	if (json_is_string(json_object_get(r, "stopped_vm")))
		printf("  %-22s %s\n", "the stopped process", rc_str(r, "stopped_vm"));
}

/* One line of rhead's answer; 1: it was the last. */
static int show_line(struct rc *rc, json_t *o, int *status)
{
	json_t *r = json_object_get(o, "report");

	*status = rc_check(rc, o);
	if (*status)
		return 1;
	if (rc->json)
		rc_print_json(r ? r : o, 1);
	else if (r)
		show_report(r);
	else
		printf("%8.1f ms  %s\n", json_number_value(json_object_get(o, "at_ms")),
		       rc_str(o, "progress"));
	(void)fflush(stdout); /* a reader that went away is no error */
	if (r && !json_is_true(json_object_get(r, "ok")))
		*status = RC_FAILED;
	return r != NULL;
}

int rheactl_drill(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {
		RC_OPTIONS, {"force", no_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
	static const char how[] = "drill run kill-vm|stop-vm|cut-link VM [--force]";
	int c, force = 0, status, last = 0;
	json_t *o;

	while ((c = getopt_long(argc, argv, "jw::s:hf", longs, NULL)) != -1)
		if (c == 'f')
			force = 1;
		else if (rc_option(rc, c))
			return rc_usage("%s", how);
	if (argc - optind != 3 || strcmp(argv[optind], "run") != 0)
		return rc_usage("%s", how);
	status = rc_send(rc, json_pack("{s:s,s:s,s:s,s:b}", "cmd", "drill", "what",
				       argv[optind + 1], "vm", argv[optind + 2], "force",
				       force));
	if (status)
		return status;
	while (!last && (o = rc_next(rc))) {
		last = show_line(rc, o, &status);
		json_decref(o);
	}
	if (last)
		return status;
	(void)fprintf(stderr, "rheactl: rhead hung up; see its log\n");
	return RC_UNREACHABLE;
}
