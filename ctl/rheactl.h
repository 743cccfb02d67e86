/* SPDX-License-Identifier: Apache-2.0
 * rheactl - what the commands of rheactl share: options, the connection to rhead, printing.
 *
 * One thread; blocking.
 */
#ifndef CTL_RHEACTL_H
#define CTL_RHEACTL_H

#include <getopt.h>
#include <jansson.h>

/* Exit statuses, as promised in rheactl(8). */
enum { RC_OK = 0, RC_FAILED = 1, RC_USAGE = 2, RC_UNREACHABLE = 3 };

#define RC_SOCKET_DEFAULT "/run/rhea/rhead.sock"

/* Options that every command takes, before or after its name. */
struct rc {
	const char *socket;
	int json;
	double watch_s; /* 0: once */
	int fd;		/* to rhead; -1: not connected */
	char *in;	/* bytes read and not yet returned as lines */
	size_t in_len, in_cap;
};

/* For a command's getopt_long() table: the shared options, and how they are handled. */
#define RC_OPTIONS                                                                 \
	{"json", no_argument, NULL, 'j'}, {"watch", optional_argument, NULL, 'w'}, \
		{"socket", required_argument, NULL, 's'},                          \
	{                                                                          \
		"help", no_argument, NULL, 'h'                                     \
	}
/* RC_OK, or RC_USAGE for what is none of them (getopt has told the user). */
int rc_option(struct rc *rc, int c);
/* "rheactl: ...; see ..." on stderr; returns RC_USAGE. */
int rc_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Send @req (taken). RC_OK, or RC_UNREACHABLE with the reason told. Connects when needed. */
int rc_send(struct rc *rc, json_t *req);
/* The next line as an object (owned), or NULL when the connection ended. */
json_t *rc_next(struct rc *rc);
void rc_close(struct rc *rc); /* idempotent */
/* Send @req (taken) and give each line that comes to @show, until that says 1: it was the last. The
 * exit status is what @show has put into *status; RC_UNREACHABLE, and the reason told, if none came. */
int rc_follow(struct rc *rc, json_t *req,
	      int (*show)(struct rc *rc, json_t *line, int *status));
/* One question, one answer (owned), or NULL with *status_out set and the reason told. */
json_t *rc_ask(struct rc *rc, json_t *req, int *status_out);
/* RC_FAILED, and the reason told, if @answer is an error; else RC_OK. */
int rc_check(struct rc *rc, json_t *answer);
/* Show @answer as JSON: for people with indentation, in a stream a line each. */
void rc_print_json(json_t *answer, int line);

/* Repeat @show every rc->watch_s seconds, on a cleared screen when that is a terminal; once
 * without --watch. */
int rc_watch(struct rc *rc, int (*show)(struct rc *rc));

/* Members of an object, safe for what is missing. */
const char *rc_str(json_t *o, const char *key); /* "-" if it is no string */
json_t *rc_at(json_t *o, const char *key, const char *key2);

/* The commands: argv[0] is the command's name. Each returns an exit status. */
int rheactl_status(struct rc *rc, int argc, char **argv);
int rheactl_heartbeat(struct rc *rc, int argc, char **argv);
int rheactl_vm(struct rc *rc, int argc, char **argv);
int rheactl_console(struct rc *rc, const char *vm);
int rheactl_events(struct rc *rc, int argc, char **argv);
int rheactl_failover(struct rc *rc, int argc, char **argv);
int rheactl_disk(struct rc *rc, int argc, char **argv);
int rheactl_drill(struct rc *rc, int argc, char **argv);
int rheactl_link(struct rc *rc, int argc, char **argv);
int rheactl_pair(struct rc *rc, int argc, char **argv);
int rheactl_image(struct rc *rc, int argc, char **argv);
int rheactl_snapshot(struct rc *rc, int argc, char **argv);
int rheactl_stats(struct rc *rc, int argc, char **argv);
/* Send @req (taken) and show progress lines until the last one. */
int rheactl_wait(struct rc *rc, json_t *req, const char *done);

#endif
