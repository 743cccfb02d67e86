/* SPDX-License-Identifier: Apache-2.0
 * rheactl_drill - drill run: show the deed and what follows as it happens, then the report.
 */
#include "ctl/rheactl.h"

#include "ctl/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void show_number(const char *what, json_t *ms, const char *unit)
{
	if (json_is_number(ms))
		printf("  %-22s %.1f %s\n", what, json_number_value(ms), unit);
	else
		printf("  %-22s -\n", what);
}

static void show_path_report(json_t *r)
{
	const char *other = rc_str(r, "took_over");
	char text[32];

	printf("  %-22s %s, for %" JSON_INTEGER_FORMAT " ms\n", rc_str(r, "harm"),
	       rc_str(r, "path"), json_integer_value(json_object_get(r, "harm_ms")));
	show_number("output waited for", json_object_get(r, "wait_ms"), "ms at most");
	printf("  %-22s %s\n", "path that took over", other);
	show_number("it did so after", json_object_get(r, "took_over_ms"), "ms");
	printf("  %-22s %s committed meanwhile, ", "epochs",
	       fmt_int(json_object_get(r, "epochs"), text, sizeof(text)));
	printf("%s lost\n",
	       fmt_int(json_object_get(r, "epochs_lost"), text, sizeof(text)));
	show_number("works again after", json_object_get(r, "again_ms"), "ms");
}

static void show_terms(json_t *r)
{
	json_t *after = json_object_get(r, "term_after");

	printf("  %-22s %" JSON_INTEGER_FORMAT " -> ", "term",
	       json_integer_value(json_object_get(r, "term_before")));
	if (json_is_integer(after))
		printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(after));
	else
		printf("-\n");
}

static void show_report(json_t *r)
{
	printf("\ndrill %s on %s: %s%s%s\n", rc_str(r, "drill"), rc_str(r, "vm"),
	       json_is_true(json_object_get(r, "ok")) ? "passed" : "FAILED",
	       rc_str(r, "why")[0] ? ", " : "", rc_str(r, "why"));
	if (!strcmp(rc_str(r, "drill"), "path")) {
		show_path_report(r);
		show_terms(r);
		return;
	}
	printf("  %-22s host %s -> %s\n", "ran on", rc_str(r, "from_host"),
	       rc_str(r, "to_host"));
	show_number("gap", json_object_get(r, "gap_ms"), "ms");
	printf("  %-22s %s\n", "measured by", rc_str(r, "gap_by"));
	show_number("protected again after", json_object_get(r, "protected_ms"), "ms");
	show_terms(r);
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

static const char how[] =
	"drill run kill-vm|stop-vm|cut-link VM [--force]\n"
	"       drill run path VM PATH cut|stall|delay=MS [--for SECONDS] [--force]";

/* 0, or -1: that is no time for a drill. */
static int seconds(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	return *end || !(*out >= 0.001) || *out > 60 ? -1 : 0;
}

/* Owned, or NULL: wrong usage. */
static json_t *make_request(int n, char **arg, int force, double for_s)
{
	json_t *o;
	int path;

	if (n < 3 || strcmp(arg[0], "run") != 0)
		return NULL;
	path = !strcmp(arg[1], "path");
	if (n != (path ? 5 : 3) || (for_s > 0 && !path))
		return NULL;
	o = json_pack("{s:s,s:s,s:s,s:b}", "cmd", "drill", "what", arg[1], "vm", arg[2],
		      "force", force);
	if (path) {
		json_object_set_new(o, "path", json_string(arg[3]));
		json_object_set_new(o, "harm", json_string(arg[4]));
		if (for_s > 0)
			json_object_set_new(o, "for_ms",
					    json_integer((json_int_t)(for_s * 1000)));
	}
	return o;
}

int rheactl_drill(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS,
					      {"force", no_argument, NULL, 'f'},
					      {"for", required_argument, NULL, 'F'},
					      {NULL, 0, NULL, 0}};
	int c, force = 0;
	double for_s = 0;
	json_t *o;

	while ((c = getopt_long(argc, argv, "jw::s:hf", longs, NULL)) != -1)
		if (c == 'f')
			force = 1;
		else if (c == 'F' ? seconds(optarg, &for_s) : rc_option(rc, c))
			return rc_usage("%s", how);
	o = make_request(argc - optind, argv + optind, force, for_s);
	if (!o)
		return rc_usage("%s", how);
	return rc_follow(rc, o, show_line);
}
