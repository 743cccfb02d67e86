/* SPDX-License-Identifier: Apache-2.0
 * rheactl_link - "link test": what each path between the hosts carries, for people.
 */
#include "ctl/rheactl.h"

#include "ctl/linktest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char how[] = "link test [VM] [--path NUMBER|TRANSPORT] [--seconds N]";

static double num(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static void show_trip(json_t *t, const char *what)
{
	printf("  %-10s %s: p50 %.0f us, p99 %.0f us (%.0f times)\n", "latency", what,
	       num(t, "p50_us"), num(t, "p99_us"), num(t, "count"));
}

static void show_loss(json_t *loss)
{
	if (json_is_object(loss))
		printf("  %-10s %.0f of %.0f %s sent again\n", "loss",
		       num(loss, "resent"), num(loss, "sent"), rc_str(loss, "unit"));
	else
		printf("  %-10s not seen by this transport\n", "loss");
}

static void show_epoch(json_t *e, const char *as)
{
	if (json_is_object(e))
		printf("  %-10s an epoch of 1,000 pages %s commits in about %.2f ms: up to %.0f "
		       "checkpoints/s; %s limits\n",
		       "", as, num(e, "commit_ms"), num(e, "per_s"), rc_str(e, "limit"));
}

static void show_carries(json_t *p)
{
	json_t *c = json_object_get(p, "carries"), *load = json_object_get(p, "load");

	if (!json_is_object(c))
		return;
	printf("  %-10s at %.1f ms epochs up to %.2f MB of changed pages an epoch as they travel "
	       "(%.1f MB/s) = %.0f pages uncompressed",
	       "carries", num(c, "interval_us") / 1e3, num(c, "bytes_per_epoch") / 1e6,
	       num(p, "bytes_per_s") / 1e6, num(c, "pages_raw"));
	if (json_is_object(load))
		printf(", or %.0f as this VM's are encoded now (%.0f bytes a page)\n",
		       num(c, "pages_encoded"), num(load, "bytes_per_page"));
	else
		printf("; how a VM's are encoded is not known here\n");
	show_epoch(json_object_get(c, "epoch_1000_raw"), "uncompressed");
	show_epoch(json_object_get(c, "epoch_1000_encoded"), "as encoded now");
}

static void show_path(json_t *p)
{
	json_t *load = json_object_get(p, "load");
	const char *stopped = rc_str(p, "stopped");

	printf("path %.0f: %s, %s -> %s%s\n", num(p, "index"), rc_str(p, "transport"),
	       rc_str(p, "from"), rc_str(p, "to"),
	       json_is_true(json_object_get(p, "in_use"))
		       ? ", in use: measured beside the VM's checkpoints"
		       : "");
	if (!json_is_true(json_object_get(p, "ok"))) {
		printf("  %-10s %s\n", "FAILED", rc_str(p, "why"));
		return;
	}
	printf("  %-10s %.1f MB/s (%.1f Mbit/s): %.1f MB in %.0f slices\n", "bandwidth",
	       num(p, "bytes_per_s") / 1e6, num(p, "bytes_per_s") * 8 / 1e6,
	       num(p, "bytes") / 1e6, num(p, "slices"));
	show_trip(json_object_get(p, "small"), "64 bytes and their answer");
	show_trip(json_object_get(p, "page"), "4 KiB and their answer");
	show_loss(json_object_get(p, "loss"));
	show_carries(p);
	if (json_is_object(load))
		printf("  %-10s commits took %.2f ms meanwhile, %.2f before\n", "the VM",
		       num(load, "commit_tested_us") / 1e3, num(load, "commit_us") / 1e3);
	if (stopped[0] && strcmp(stopped, "-") != 0)
		printf("  %-10s %s\n", "STOPPED", stopped);
	printf("  %-10s %s: %s\n", "verdict", rc_str(p, "verdict"),
	       rc_str(p, "verdict_text"));
}

static void show_heartbeats(json_t *list)
{
	json_t *p;
	size_t i;

	json_array_foreach(list, i, p)
		printf("heartbeats %s - %s: %.0f of %.0f lost since rhead began\n",
		       rc_str(p, "from"), rc_str(p, "to"), num(p, "lost"),
		       num(p, "received") + num(p, "lost"));
}

static void show_report(json_t *o)
{
	json_t *p;
	size_t i;

	printf("link test from host %s to host %s", rc_str(o, "from"), rc_str(o, "to"));
	if (json_is_true(json_object_get(o, "by_vm")))
		printf(", by %s's rhea-vm", rc_str(o, "vm"));
	printf("\n");
	json_array_foreach(json_object_get(o, "paths"), i, p) show_path(p);
	show_heartbeats(json_object_get(o, "heartbeat"));
	if (json_is_true(json_object_get(o, "other_way")))
		printf("%s's checkpoints go the other way now: the same on host %s measures that\n",
		       rc_str(o, "vm"), rc_str(o, "to"));
}

/* RC_FAILED if a path could not be measured. */
static int status_of(json_t *o)
{
	json_t *p;
	size_t i;

	json_array_foreach(
		json_object_get(o, "paths"), i,
		p) if (!json_is_true(json_object_get(p, "ok"))) return RC_FAILED;
	return RC_OK;
}

/* One line of rhead's answer; 1: it was the last. */
static int show_line(struct rc *rc, json_t *o, int *status)
{
	*status = rc_check(rc, o);
	if (*status)
		return 1;
	if (json_object_get(o, "progress")) {
		if (!rc->json)
			(void)fprintf(stderr, "measuring path %.0f (%s)\n",
				      num(o, "path"), rc_str(o, "transport"));
		return 0;
	}
	if (rc->json)
		rc_print_json(o, 0);
	else
		show_report(o);
	*status = status_of(o);
	return 1;
}

static int test(struct rc *rc, const char *vm, const char *path, int seconds)
{
	json_t *o = json_pack("{s:s,s:i}", "cmd", "link-test", "seconds", seconds);

	/* A request without a member that could not be added takes rhead's default. */
	if (vm)
		json_object_set_new(o, "vm", json_string(vm));
	if (path)
		json_object_set_new(o, "path", json_string(path));
	return rc_follow(rc, o, show_line);
}

int rheactl_link(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS,
					      {"path", required_argument, NULL, 'p'},
					      {"seconds", required_argument, NULL, 'n'},
					      {NULL, 0, NULL, 0}};
	const char *path = NULL;
	int c, seconds = 1, end = 0;

	while ((c = getopt_long(argc, argv, "jw::s:hp:n:", longs, NULL)) != -1)
		if (c == 'p')
			path = optarg;
		else if (c == 'n' ? sscanf(optarg, "%d%n", &seconds, &end) != 1 ||
					    optarg[end] || seconds < 1 ||
					    seconds > LINKTEST_SECONDS_MAX
				  : rc_option(rc, c))
			return rc_usage("%s (N: 1 to %d)", how, LINKTEST_SECONDS_MAX);
	if (argc - optind < 1 || argc - optind > 2 || strcmp(argv[optind], "test") != 0)
		return rc_usage("%s", how);
	return test(rc, argc - optind > 1 ? argv[optind + 1] : NULL, path, seconds);
}
