/* SPDX-License-Identifier: Apache-2.0
 * rheactl_vm - vm start, stop, suspend, resume and console; failover; and waiting with progress.
 */
#include "ctl/rheactl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static double now_s(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int rheactl_wait(struct rc *rc, json_t *req, const char *done)
{
	double began = now_s();
	const char *on, *text;
	int status;
	json_t *o;

	status = rc_send(rc, req);
	if (status)
		return status;
	while ((o = rc_next(rc))) {
		status = rc_check(rc, o);
		text = json_string_value(json_object_get(o, "progress"));
		on = json_string_value(json_object_get(o, "runs_on"));
		if (!status && rc->json)
			rc_print_json(o, 1);
		else if (!status && text)
			printf("%7.2f s  %s\n", now_s() - began, text);
		else if (!status)
			printf("%7.2f s  %s%s%s\n", now_s() - began, done,
			       on ? ", runs on host " : "", on ? on : "");
		(void)fflush(stdout); /* a reader that went away is no error */
		json_decref(o);
		if (status || !text)
			return status;
	}
	(void)fprintf(stderr, "rheactl: rhead hung up; see its log\n");
	return RC_UNREACHABLE;
}

static json_t *request(const char *cmd, const char *vm, int timeout_s)
{
	json_t *o = json_pack("{s:s,s:s}", "cmd", cmd, "vm", vm);

	/* A request without its time-out takes rhead's default. */
	if (timeout_s > 0)
		json_object_set_new(o, "timeout_ms",
				    json_integer((json_int_t)timeout_s * 1000));
	return o;
}

int rheactl_vm(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS,
					      {"force", no_argument, NULL, 'f'},
					      {"discard", no_argument, NULL, 'd'},
					      {"timeout", required_argument, NULL, 't'},
					      {NULL, 0, NULL, 0}};
	static const char how[] =
		"vm start [--discard] VM, or vm stop [--force] VM, or vm suspend|resume|console VM "
		"[--timeout SECONDS]";
	int c, force = 0, discard = 0, timeout = 0;
	const char *what, *vm;
	json_t *req;

	while ((c = getopt_long(argc, argv, "jw::s:hfdt:", longs, NULL)) != -1)
		if (c == 'f')
			force = 1;
		else if (c == 'd')
			discard = 1;
		else if (c == 't' ? sscanf(optarg, "%d", &timeout) != 1 || timeout <= 0
				  : rc_option(rc, c))
			return rc_usage("%s", how);
	if (argc - optind != 2)
		return rc_usage("%s", how);
	what = argv[optind];
	vm = argv[optind + 1];
	if (!strcmp(what, "console"))
		return rheactl_console(rc, vm);
	if (!strcmp(what, "start")) {
		req = request("vm-start", vm, timeout);
		json_object_set_new(req, "discard", json_boolean(discard));
		return rheactl_wait(rc, req, "started");
	}
	if (!strcmp(what, "suspend"))
		return rheactl_wait(rc, request("vm-suspend", vm, timeout), "suspended");
	if (!strcmp(what, "resume"))
		return rheactl_wait(rc, request("vm-resume", vm, timeout), "resumed");
	if (strcmp(what, "stop") != 0)
		return rc_usage("vm %s: no such thing; %s", what, how);
	req = request("vm-stop", vm, timeout);
	json_object_set_new(req, "force", json_boolean(force));
	return rheactl_wait(rc, req, "stopped");
}

int rheactl_failover(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS,
					      {"override", required_argument, NULL, 'o'},
					      {"cold", no_argument, NULL, 'c'},
					      {"timeout", required_argument, NULL, 't'},
					      {NULL, 0, NULL, 0}};
	static const char how[] =
		"failover VM [--override \"the host is off: I pulled its plug\" [--cold]]";
	const char *words = NULL;
	int c, cold = 0, timeout = 0;
	json_t *req;

	while ((c = getopt_long(argc, argv, "jw::s:ho:ct:", longs, NULL)) != -1)
		if (c == 'o')
			words = optarg;
		else if (c == 'c')
			cold = 1;
		else if (c == 't' ? sscanf(optarg, "%d", &timeout) != 1 || timeout <= 0
				  : rc_option(rc, c))
			return rc_usage("%s", how);
	if (argc - optind != 1 || (cold && !words))
		return rc_usage("%s", how);
	req = request("failover", argv[optind], timeout);
	if (words)
		json_object_set_new(req, "override", json_string(words));
	json_object_set_new(req, "cold", json_boolean(cold));
	return rheactl_wait(rc, req, "done");
}
