/* SPDX-License-Identifier: Apache-2.0
 * rheactl_pair - pair HOST: the same key and config on two hosts; pair --check HOST: are they?
 */
#include "ctl/pairing.h"
#include "ctl/rheactl.h"
#include "ctl/rheactl_ssh.h"
#include "hv/base/err.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* People may have to type a password first. */
enum { WAIT_MS = 120000, CLOCK_MAX_MS = 1000 };

#define CONFIG_DEFAULT "/etc/rhea/rhea.conf"

static const char how[] =
	"pair [--check|--replace] [--force] [--config] [-c FILE] [--host NAME]\n"
	"       [--port N] [--ssh-option OPTION]... [--remote-program PATH] HOST";

struct pair_options {
	struct pairing_place place;
	struct pairing_ask ask;
	struct rc_ssh ssh;
	const char *program;
	int receive;
};

static const struct option longs[] = {RC_OPTIONS,
				      {"check", no_argument, NULL, 'k'},
				      {"replace", no_argument, NULL, 'r'},
				      {"force", no_argument, NULL, 'f'},
				      {"config", no_argument, NULL, 'C'},
				      {"host", required_argument, NULL, 'H'},
				      {"port", required_argument, NULL, 'p'},
				      {"ssh-option", required_argument, NULL, 'o'},
				      {"remote-program", required_argument, NULL, 'P'},
				      {"receive", no_argument, NULL, 'R'},
				      {NULL, 0, NULL, 0}};

/* RC_OK, or RC_USAGE for what it does not know. */
static int take_option(struct rc *rc, struct pair_options *o, int c)
{
	switch (c) {
	case 'k':
		o->ask.check = 1;
		return RC_OK;
	case 'r':
		o->ask.replace = 1;
		return RC_OK;
	case 'f':
		o->ask.force = 1;
		return RC_OK;
	case 'C':
		o->ask.copy_config = 1;
		return RC_OK;
	case 'c':
		o->place.config = optarg;
		return RC_OK;
	case 'H':
		o->place.host = optarg;
		return RC_OK;
	case 'p':
		o->ssh.port = optarg;
		return RC_OK;
	case 'o':
		if (o->ssh.n_options == RC_SSH_OPTIONS_MAX)
			return RC_USAGE;
		o->ssh.options[o->ssh.n_options++] = optarg;
		return RC_OK;
	case 'P':
		o->program = optarg;
		return RC_OK;
	case 'R':
		o->receive = 1;
		return RC_OK;
	default:
		return rc_option(rc, c);
	}
}

/* What runs on the other host: the same config path; its own name only if we had to be told ours,
 * since else its host name has to prove that it is the right one. */
static int make_command(const struct pair_options *o, const char *peer, char *cmd,
			size_t room)
{
	const char *args[] = {o->program,
			      "pair",
			      "--receive",
			      "-c",
			      o->place.config,
			      "--socket",
			      o->place.socket,
			      peer ? "--host" : NULL,
			      peer,
			      NULL};
	int rc = 0;

	cmd[0] = '\0';
	for (unsigned i = 0; args[i] && !rc; i++)
		rc = rc_ssh_quote(cmd, room, args[i]);
	return rc;
}

static const char *name_of_peer(const struct pair_options *o, char *buf, struct err *err)
{
	struct config *cfg;

	if (config_load(o->place.config, o->place.host, CONFIG_NO_FILES | CONFIG_NO_KEY,
			&cfg, err))
		return NULL;
	memcpy(buf, config_peer(cfg)->name, CONFIG_NAME_MAX);
	config_free(cfg);
	return buf;
}

static const char *yes_no(int v)
{
	return v < 0 ? "?" : v ? "yes" : "NO";
}

static json_t *maybe(int v)
{
	return v < 0 ? json_null() : json_boolean(v);
}

static int way_fails(const struct pairing_way_report *w)
{
	return !w->out || !w->in;
}

static int all_reached(const struct pairing_report *r)
{
	for (unsigned i = 0; i < r->n_ways; i++)
		if (way_fails(&r->way[i]))
			return 0;
	return r->n_ways > 0;
}

static json_t *ways_json(const struct pairing_report *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->n_ways; i++) {
		const struct pairing_way_report *w = &r->way[i];

		json_array_append_new(list, json_pack("{s:s,s:s,s:o,s:o,s:s,s:s}", "name",
						      w->name, "addresses", w->addresses,
						      "out", maybe(w->out), "in",
						      maybe(w->in), "out_why", w->why[0],
						      "in_why", w->why[1]));
	}
	return list;
}

static int all_well(const struct pairing_report *r)
{
	return r->same_key == 1 && r->same_config == 1 && r->same_version == 1 &&
	       all_reached(r) && llabs(r->clock_ns) < CLOCK_MAX_MS * 1000000LL;
}

static void print_check_json(const struct pairing_report *r)
{
	json_t *o = json_pack(
		"{s:b,s:s,s:s,s:o,s:o,s:s,s:o,s:s,s:f,s:o}", "ok", all_well(r), "host",
		r->own.host, "peer", r->peer.host, "same_key", maybe(r->same_key),
		"same_config", maybe(r->same_config), "differs_in", r->where,
		"same_version", maybe(r->same_version), "peer_version", r->peer.version,
		"clock_ahead_ms", (double)r->clock_ns / 1e6, "ways", ways_json(r));

	rc_print_json(o, 0);
	json_decref(o);
}

static const char *key_words(const struct pairing_report *r)
{
	if (r->same_key >= 0)
		return r->same_key ? "" : "two different ones: pair with --replace";
	if (r->own.key == PAIRING_KEY_NONE && r->peer.key == PAIRING_KEY_NONE)
		return "none yet: rheactl pair makes one";
	if (r->own.key == PAIRING_KEY_NONE)
		return "none on this host: pair from the other one";
	if (r->peer.key == PAIRING_KEY_NONE)
		return "none on the other host: rheactl pair gives it this host's";
	return r->own.why[0] ? r->own.why : r->peer.why;
}

/* A line like "path 0 (tcp)  yes  10.0.0.1:7700 - 10.0.0.2:7700". */
static void print_way(const struct pairing_way_report *w)
{
	int ok = way_fails(w) ? 0 : w->out < 0 || w->in < 0 ? -1 : 1;

	printf("%-22s %-4s %s", w->name, yes_no(ok), w->addresses);
	if (!w->out)
		printf("; from here: %s",
		       w->why[0][0] ? w->why[0] : "nothing came there");
	if (!w->in)
		printf("; to here: %s", w->why[1][0] ? w->why[1] : "nothing came here");
	if (ok < 0)
		printf("; rhead has the port: see rheactl heartbeat");
	printf("\n");
}

static void print_check(const struct pairing_report *r)
{
	printf("%-22s %-4s %s\n", "same key", yes_no(r->same_key), key_words(r));
	printf("%-22s %-4s %s\n", "same config", yes_no(r->same_config),
	       r->peer.has_config ? r->where : r->peer.why);
	printf("%-22s %-4s %s here, %s there\n", "same version", yes_no(r->same_version),
	       r->own.version, r->peer.version);
	printf("%-22s %-4s that one is %.0f ms %s\n", "same time",
	       yes_no(llabs(r->clock_ns) < CLOCK_MAX_MS * 1000000LL),
	       (double)llabs(r->clock_ns) / 1e6, r->clock_ns < 0 ? "behind" : "ahead");
	for (unsigned i = 0; i < r->n_ways; i++)
		print_way(&r->way[i]);
}

static void print_done(const struct pairing_report *r)
{
	int up = r->own.rhead_up || r->peer.rhead_up;

	if (r->did == PAIRING_KEPT)
		printf("hosts %s and %s have the same key already\n", r->own.host,
		       r->peer.host);
	else if (r->did == PAIRING_MADE)
		printf("hosts %s and %s have a new key\n", r->own.host, r->peer.host);
	else
		printf("host %s has the key of host %s now\n", r->peer.host, r->own.host);
	if (r->config_copied)
		printf("host %s has this host's config now\n", r->peer.host);
	if (up && (r->did == PAIRING_MADE || r->config_copied))
		printf("restart rhead on both, the standby's host first: until then they work "
		       "with what they read when they started\n");
}

static void print_result(struct rc *rc, const struct pair_options *o,
			 const struct pairing_report *r)
{
	static const char *const words[] = {[PAIRING_KEPT] = "kept",
					    [PAIRING_MADE] = "made",
					    [PAIRING_SHARED] = "shared"};
	json_t *j;

	if (o->ask.check && rc->json) {
		print_check_json(r);
	} else if (o->ask.check) {
		print_check(r);
	} else if (rc->json) {
		j = json_pack("{s:b,s:s,s:s,s:s,s:b}", "ok", 1, "host", r->own.host,
			      "peer", r->peer.host, "key", words[r->did], "config_copied",
			      r->config_copied);
		rc_print_json(j, 0);
		json_decref(j);
	} else {
		print_done(r);
	}
}

/* One line: what failed, on which host, what to do. */
static void tell(const struct pair_options *o, const struct err *err, int rc,
		 const char *hint, int unsure)
{
	int dead = rc == -EPIPE || rc == -ETIMEDOUT || rc == -EPROTO;

	/* Nowhere else to say it, here and below. */
	(void)fprintf(stderr, "rheactl: %s: %s\n", o->ssh.host,
		      dead && hint ? hint : err->msg);
	if (unsure)
		(void)fprintf(stderr,
			      "rheactl: this host has the key; whether %s took it is not "
			      "known. Run the same command again, or first: rheactl pair "
			      "--check %s\n",
			      o->ssh.host, o->ssh.host);
}

static int ask(struct rc *rc, struct pair_options *o)
{
	struct pairing_report r = {0};
	char cmd[RC_SSH_COMMAND_MAX], name[CONFIG_NAME_MAX];
	const char *hint = NULL, *peer = NULL;
	struct err err = {0};
	int res = 0;

	if (!(peer = name_of_peer(o, name, &err)))
		res = err.code;
	else if (make_command(o, o->place.host ? peer : NULL, cmd, sizeof(cmd)))
		return rc_usage("too long arguments");
	else
		res = rc_ssh_start(&o->ssh, cmd, &err);
	if (res) {
		(void)fprintf(stderr, "rheactl: %s\n", err.msg);
		return RC_FAILED;
	}
	res = pairing_asks(&(struct pairing_io){.in = o->ssh.in,
						.out = o->ssh.out,
						.wait_ms = WAIT_MS},
			   &o->place, &o->ask, &r, &err);
	(void)rc_ssh_end(&o->ssh,
			 &hint); /* what it says counts only when the exchange failed */
	if (res) {
		tell(o, &err, res, hint, r.unsure);
		return RC_FAILED;
	}
	print_result(rc, o, &r);
	return o->ask.check && !all_well(&r) ? RC_FAILED : RC_OK;
}

/* Standard output is the exchange's: whatever has to be said goes through it. */
static int receive(struct pair_options *o)
{
	struct err err = {0};

	if (isatty(STDIN_FILENO))
		return rc_usage("--receive is for rheactl pair on the other host");
	return pairing_serves(&(struct pairing_io){.in = STDIN_FILENO,
						   .out = STDOUT_FILENO,
						   .wait_ms = WAIT_MS},
			      &o->place, &err)
		       ? RC_FAILED
		       : RC_OK;
}

/* No core file and no debugger of another user gets at the key. */
static void hide_memory(void)
{
	static const struct rlimit none = {0, 0};

	/* Best effort: the key is wiped as soon as it was used. */
	(void)setrlimit(RLIMIT_CORE, &none);
	(void)prctl(PR_SET_DUMPABLE, 0);
}

int rheactl_pair(struct rc *rc, int argc, char **argv)
{
	struct pair_options o = {.place = {.config = CONFIG_DEFAULT},
				 .program = "rheactl"};
	int c;

	while ((c = getopt_long(argc, argv, "jw::s:hc:p:o:", longs, NULL)) != -1)
		if (take_option(rc, &o, c))
			return rc_usage("%s", how);
	o.place.socket = rc->socket;
	if (argc - optind != !o.receive ||
	    (o.ask.check && (o.ask.replace || o.ask.copy_config)))
		return rc_usage("%s", how);
	(void)signal(SIGPIPE, SIG_IGN); /* cannot fail; a write then says EPIPE */
	hide_memory();
	if (o.receive)
		return receive(&o);
	o.ssh.host = argv[optind];
	if (o.ssh.host[0] == '-' || !o.ssh.host[0])
		return rc_usage("\"%s\" is no host", o.ssh.host);
	return ask(rc, &o);
}
