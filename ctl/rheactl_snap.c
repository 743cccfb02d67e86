/* SPDX-License-Identifier: Apache-2.0
 * rheactl_snap - snapshot create, delete, revert, list: a VM's disks at one moment, while it runs.
 */
#include "ctl/rheactl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static json_int_t number(json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static int create(struct rc *rc, const char *vm, const char *name, int memory)
{
	json_t *o, *r;
	int status;

	o = rc_ask(rc,
		   json_pack("{s:s,s:s,s:s,s:b}", "cmd", "snapshot-create", "vm", vm,
			     "name", name, "memory", memory),
		   &status);
	if (!o)
		return status;
	r = json_object_get(o, "snapshot");
	if (rc->json)
		rc_print_json(r, 0);
	else if (!strcmp(rc_str(r, "peer"), "complete"))
		printf("%s: snapshot %s, on both hosts\n", vm, name);
	else
		printf("%s: snapshot %s, on this host only%s%s\n", vm, name,
		       rc_str(r, "peer_why")[0] ? ": " : "", rc_str(r, "peer_why"));
	if (!rc->json && memory && !json_is_true(json_object_get(r, "memory")))
		printf("%s: snapshot %s is WITHOUT memory: %s\n", vm, name,
		       rc_str(r, "memory_why"));
	json_decref(o);
	return RC_OK;
}

static int delete (struct rc *rc, const char *vm, const char *name)
{
	json_t *o, *r;
	int status, failed;

	o = rc_ask(rc,
		   json_pack("{s:s,s:s,s:s}", "cmd", "snapshot-delete", "vm", vm, "name",
			     name),
		   &status);
	if (!o)
		return status;
	r = json_object_get(o, "snapshot");
	failed = !strcmp(rc_str(r, "peer"), "failed");
	if (rc->json)
		rc_print_json(r, 0);
	else
		printf("%s: snapshot %s is deleted%s%s\n", vm, name,
		       failed ? " here, but not on the other host: " : "",
		       failed ? rc_str(r, "peer_why") : "");
	json_decref(o);
	return failed ? RC_FAILED : RC_OK;
}

/* Stopped if it is on, and started when its disks are back at @name. */
static int revert(struct rc *rc, const char *vm, const char *name, int force, int start)
{
	int status = rheactl_wait(
		rc,
		json_pack("{s:s,s:s,s:b}", "cmd", "vm-stop", "vm", vm, "force", force),
		"stopped");

	int memory;
	json_t *o;

	if (status)
		return status;
	o = rc_ask(rc,
		   json_pack("{s:s,s:s,s:s}", "cmd", "snapshot-revert", "vm", vm, "name",
			     name),
		   &status);
	memory = json_is_true(json_object_get(o, "memory"));
	json_decref(o);
	if (status || !start)
		return status;
	return rheactl_wait(rc,
			    json_pack("{s:s,s:s}", "cmd",
				      memory ? "vm-resume" : "vm-start", "vm", vm),
			    memory ? "goes on from the snapshot"
				   : "started from the snapshot");
}

/* "812M": with one unit, as little as says it. */
static void print_bytes(json_int_t n)
{
	static const char units[] = "BKMGT";
	unsigned u = 0;

	for (; n >= 10240 && u + 2 < sizeof(units); u++)
		n /= 1024;
	printf(" %8lld%c", (long long)n, units[u]);
}

static json_t *find(json_t *list, json_t *like)
{
	json_t *s;
	size_t i;

	json_array_foreach(list, i, s) if (number(s, "id") == number(like, "id") &&
					   !strcmp(rc_str(s, "name"),
						   rc_str(like, "name"))) return s;
	return NULL;
}

static int is_complete(json_t *s)
{
	return json_is_true(json_object_get(s, "complete"));
}

/* @there may be NULL: not there; @known: it was asked. */
static void show(json_t *s, const char *host, json_t *there, const char *peer, int known)
{
	time_t t = (time_t)(number(s, "created_ms") / 1000);
	char when[32] = "-", epoch[24] = "-";
	struct tm tm;

	if (localtime_r(&t, &tm))
		(void)strftime(when, sizeof(when), "%F %T", &tm); /* fits */
	if (json_is_integer(json_object_get(s, "epoch")))
		(void)snprintf(epoch, sizeof(epoch), "%lld",
			       (long long)number(s, "epoch")); /* fits */
	printf("%-20s %s %5lld %9s", rc_str(s, "name"), when,
	       (long long)number(s, "term"), epoch);
	print_bytes(number(s, "size"));
	print_bytes(number(s, "bytes"));
	printf(" %-6s", json_is_true(json_object_get(s, "memory")) ? "yes" : "no");
	if (is_complete(s) && is_complete(there))
		printf(" both\n");
	else if (is_complete(s))
		printf(known ? " only on %s%s%s\n" : " %s%s%s\n", host,
		       there ? ", incomplete on " : "", there ? peer : "");
	else if (is_complete(there))
		printf(" only on %s, incomplete on %s\n", peer, host);
	else
		printf(" incomplete on %s (%s)\n", host, rc_str(s, "state"));
}

static void show_all(json_t *o)
{
	json_t *here = json_object_get(o, "snapshots"), *s;
	json_t *there = json_object_get(o, "peer_snapshots");
	const char *host = rc_str(o, "host"), *peer = rc_str(o, "peer");
	size_t i;

	printf("%-20s %-19s %5s %9s %9s %9s %-6s %s\n", "name", "time", "term", "epoch",
	       "disks", "own", "memory", "complete");
	json_array_foreach(here, i, s)
		show(s, host, find(there, s), peer, json_is_array(there));
	json_array_foreach(there, i, s) if (!find(here, s)) show(s, peer, NULL, host, 1);
	if (!json_is_array(there))
		printf("host %s was not asked: it is no standby in step\n", peer);
}

static int list(struct rc *rc, const char *vm)
{
	int status;
	json_t *o = rc_ask(rc, json_pack("{s:s,s:s}", "cmd", "snapshot-list", "vm", vm),
			   &status);

	if (!o)
		return status;
	if (rc->json)
		rc_print_json(o, 0);
	else
		show_all(o);
	json_decref(o);
	return RC_OK;
}

int rheactl_snapshot(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS,
					      {"memory", no_argument, NULL, 'm'},
					      {"force", no_argument, NULL, 'f'},
					      {"no-start", no_argument, NULL, 'n'},
					      {NULL, 0, NULL, 0}};
	static const char how[] =
		"snapshot create VM NAME [--memory], snapshot delete VM NAME, "
		"snapshot revert VM NAME [--force] [--no-start], or "
		"snapshot list VM";
	int c, memory = 0, force = 0, start = 1;

	while ((c = getopt_long(argc, argv, "jw::s:hmfn", longs, NULL)) != -1)
		if (c == 'm')
			memory = 1;
		else if (c == 'f')
			force = 1;
		else if (c == 'n')
			start = 0;
		else if (rc_option(rc, c))
			return rc_usage("%s", how);
	if (argc - optind == 3 && !strcmp(argv[optind], "create"))
		return create(rc, argv[optind + 1], argv[optind + 2], memory);
	if (argc - optind == 3 && !strcmp(argv[optind], "delete"))
		return delete (rc, argv[optind + 1], argv[optind + 2]);
	if (argc - optind == 3 && !strcmp(argv[optind], "revert"))
		return revert(rc, argv[optind + 1], argv[optind + 2], force, start);
	if (argc - optind == 2 && !strcmp(argv[optind], "list"))
		return list(rc, argv[optind + 1]);
	return rc_usage("%s", how);
}
