/* SPDX-License-Identifier: Apache-2.0
 * rheactl_client - rheactl's end of the control socket.
 */
#include "ctl/rheactl.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 16 << 20, CHUNK = 16 << 10 };

int rc_usage(const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "rheactl: "); /* nowhere else to say it, here and below */
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "; see rheactl help\n");
	return RC_USAGE;
}

int rc_option(struct rc *rc, int c)
{
	char *end;

	switch (c) {
	case 'j':
		rc->json = 1;
		return RC_OK;
	case 's':
		rc->socket = optarg;
		return RC_OK;
	case 'w':
		rc->watch_s = optarg ? strtod(optarg, &end) : 1.0;
		if (optarg && (*end || !(rc->watch_s >= 0.05 && rc->watch_s <= 86400)))
			return rc_usage("--watch=%s: seconds, 0.05 to 86400", optarg);
		return RC_OK;
	default:
		return RC_USAGE;
	}
}

static int rc_connect(struct rc *rc)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	if (rc->fd >= 0)
		return RC_OK;
	if (strlen(rc->socket) >= sizeof(sa.sun_path))
		return rc_usage("--socket %s: too long a path", rc->socket);
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s",
		       rc->socket); /* was measured */
	rc->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (rc->fd >= 0 && !connect(rc->fd, (struct sockaddr *)&sa, sizeof(sa)))
		return RC_OK;
	(void)fprintf(stderr, "rheactl: %s: %s; %s\n", rc->socket, strerror(errno),
		      errno == EACCES ? "only root and the group rhea may ask"
				      : "is rhead running? (systemctl status rhead)");
	rc_close(rc);
	return RC_UNREACHABLE;
}

void rc_close(struct rc *rc)
{
	if (rc->fd >= 0)
		(void)close(rc->fd); /* requests were answered or are given up */
	rc->fd = -1;
	free(rc->in);
	rc->in = NULL;
	rc->in_len = rc->in_cap = 0;
}

int rc_send(struct rc *rc, json_t *req)
{
	char *text = json_dumps(req, JSON_COMPACT);
	int status = rc_connect(rc);
	size_t len, at = 0;
	ssize_t n = 1;

	json_decref(req);
	if (!status && text) {
		len = strlen(text);
		text[len] = '\n'; /* in place of the NUL: what is sent is a line */
		while (at <= len && n > 0) {
			n = send(rc->fd, text + at, len + 1 - at, MSG_NOSIGNAL);
			at += n > 0 ? (size_t)n : 0;
		}
	}
	free(text);
	if (!status && (!text || n <= 0)) {
		(void)fprintf(stderr, "rheactl: rhead could not be asked: %s\n",
			      strerror(errno));
		status = RC_UNREACHABLE;
	}
	return status;
}

static json_t *take_line(struct rc *rc)
{
	char *nl = rc->in_len ? memchr(rc->in, '\n', rc->in_len) : NULL;
	json_t *o;
	size_t used;

	if (!nl)
		return NULL;
	o = json_loadb(rc->in, (size_t)(nl - rc->in), 0, NULL);
	used = (size_t)(nl - rc->in) + 1;
	memmove(rc->in, rc->in + used, rc->in_len - used);
	rc->in_len -= used;
	return o ? o : json_pack("{s:s}", "error", "rhead sent what is not JSON");
}

json_t *rc_next(struct rc *rc)
{
	json_t *o;
	ssize_t n;
	char *p;

	while (!(o = take_line(rc))) {
		if (rc->in_cap - rc->in_len < CHUNK) {
			p = rc->in_len < LINE_MAX_BYTES
				    ? realloc(rc->in, rc->in_cap + CHUNK)
				    : NULL;
			if (!p)
				return NULL;
			rc->in = p;
			rc->in_cap += CHUNK;
		}
		do
			n = read(rc->fd, rc->in + rc->in_len, rc->in_cap - rc->in_len);
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			return NULL;
		rc->in_len += (size_t)n;
	}
	return o;
}

int rc_follow(struct rc *rc, json_t *req,
	      int (*show)(struct rc *rc, json_t *line, int *status))
{
	int status = rc_send(rc, req), last = 0;
	json_t *o;

	if (status)
		return status;
	while (!last && (o = rc_next(rc))) {
		last = show(rc, o, &status);
		json_decref(o);
	}
	if (last)
		return status;
	(void)fprintf(stderr, "rheactl: rhead hung up; see its log\n");
	return RC_UNREACHABLE;
}

json_t *rc_ask(struct rc *rc, json_t *req, int *status_out)
{
	json_t *o = NULL;

	*status_out = rc_send(rc, req);
	if (*status_out)
		return NULL;
	o = rc_next(rc);
	if (!o) {
		(void)fprintf(stderr, "rheactl: rhead hung up; see its log\n");
		*status_out = RC_UNREACHABLE;
		return NULL;
	}
	*status_out = rc_check(rc, o);
	if (*status_out) {
		json_decref(o);
		o = NULL;
	}
	return o;
}

int rc_check(struct rc *rc, json_t *answer)
{
	const char *why = json_string_value(json_object_get(answer, "error"));

	if (!why)
		return RC_OK;
	if (rc->json)
		rc_print_json(answer, 1);
	(void)fprintf(stderr, "rheactl: %s\n", why);
	return RC_FAILED;
}

void rc_print_json(json_t *answer, int line)
{
	if (json_dumpf(answer, stdout, line ? JSON_COMPACT : JSON_INDENT(2)))
		(void)fprintf(stderr, "rheactl: the answer could not be printed\n");
	(void)printf("\n");
	(void)fflush(stdout); /* a reader that went away is no error */
}

static void pause_s(double s)
{
	struct timespec ts = {.tv_sec = (time_t)s};

	ts.tv_nsec = (long)((s - (double)ts.tv_sec) * 1e9);
	(void)nanosleep(&ts, NULL); /* woken early is fine */
}

int rc_watch(struct rc *rc, int (*show)(struct rc *rc))
{
	int status, clear = !rc->json && isatty(STDOUT_FILENO);

	if (rc->watch_s <= 0)
		return show(rc);
	for (;;) {
		if (clear)
			(void)printf("\033[H\033[2J\033[3J");
		status = show(rc);
		if (status == RC_USAGE || (status == RC_UNREACHABLE && !clear))
			return status;
		if (status == RC_UNREACHABLE)
			rc_close(rc); /* it may come back */
		if (fflush(stdout))
			return RC_FAILED;
		pause_s(rc->watch_s);
	}
}

const char *rc_str(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "-";
}

json_t *rc_at(json_t *o, const char *key, const char *key2)
{
	return json_object_get(json_object_get(o, key), key2);
}
