/* SPDX-License-Identifier: Apache-2.0
 * client - one TCP connection to redis that counts up, reads back and remembers what was acked.
 *
 *   client HOST PORT KEY TRACE STATUS
 * Each turn is INCR KEY, then GET KEY on the same connection; the answers must be the next number
 * and that same number: a smaller one means that something acknowledged was lost. TRACE gets a
 * line for each turn: the wall time of its end in ms, its duration in us, the number. STATUS is
 * rewritten once a second and at the end, as JSON. SIGTERM ends it after the turn under way.
 * Exit status 0: connection and numbers were in order all along; 1: not, and STATUS says why.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REPLY_MAX = 128, ANSWER_MS = 60000, MS_PER_S = 1000 };

struct client {
	int sock;
	const char *key, *status_path;
	FILE *trace;
	char in[REPLY_MAX];
	size_t in_len;
	uint64_t acked, lost, turns;
	uint64_t worst_us;	/* since the last status */
	uint64_t worst_ever_us; /* of all turns */
	char why[160];
};

static volatile sig_atomic_t stop;

static void on_stop(int sig)
{
	stop = 1;
}

static uint64_t now_us(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts))
		abort();
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static int fail(struct client *c, const char *what, int err)
{
	(void)snprintf(c->why, sizeof(c->why), "%s: %s", what,
		       strerror(err)); /* may be cut */
	return -1;
}

static int client_connect(struct client *c, const char *host, const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)atoi(port))};
	int one = 1;

	if (inet_pton(AF_INET, host, &to.sin_addr) != 1)
		return fail(c, host, EINVAL);
	c->sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->sock < 0 ||
	    setsockopt(c->sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    connect(c->sock, (struct sockaddr *)&to, sizeof(to)))
		return fail(c, "connect", errno);
	return 0;
}

static int send_all(struct client *c, const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = send(c->sock, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(c, "send", errno);
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* A line of the answer, without its CR LF, in @line. */
static int read_line(struct client *c, char line[REPLY_MAX])
{
	struct pollfd p = {.fd = c->sock, .events = POLLIN};
	char *end;
	ssize_t n;

	while (!(end = memmem(c->in, c->in_len, "\r\n", 2))) {
		if (c->in_len == sizeof(c->in))
			return fail(c, "answer", EMSGSIZE);
		n = poll(&p, 1, ANSWER_MS);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail(c, "waiting for the answer", n ? errno : ETIMEDOUT);
		n = recv(c->sock, c->in + c->in_len, sizeof(c->in) - c->in_len, 0);
		if (n <= 0)
			return fail(c, "recv", n ? errno : ECONNRESET);
		c->in_len += (size_t)n;
	}
	memcpy(line, c->in, (size_t)(end - c->in));
	line[end - c->in] = 0;
	c->in_len -= (size_t)(end + 2 - c->in);
	memmove(c->in, end + 2, c->in_len);
	return 0;
}

/* @kind: what a line of the answer must begin with, ':' integer or '$' length. */
static int read_number(struct client *c, char kind, uint64_t *number_out)
{
	char line[REPLY_MAX], *end;

	if (read_line(c, line))
		return -1;
	errno = 0;
	*number_out = strtoull(line + 1, &end, 10);
	if (line[0] == kind && end != line + 1 && !*end && !errno)
		return 0;
	(void)snprintf(c->why, sizeof(c->why), "redis said: %s", line); /* may be cut */
	return -1;
}

/* The server must stand at @want; what is missing was acknowledged and lost. */
static void judge(struct client *c, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	c->lost += got < want ? want - got : 0;
	(void)snprintf(c->why, sizeof(c->why),
		       "the counter is %" PRIu64 " instead of %" PRIu64, got,
		       want); /* fits */
}

static int take_turn(struct client *c)
{
	uint64_t began = now_us(CLOCK_MONOTONIC), took, number;
	char text[REPLY_MAX];

	(void)snprintf(text, sizeof(text), "INCR %s\r\n",
		       c->key); /* key is short, see main */
	if (send_all(c, text) || read_number(c, ':', &number))
		return -1;
	judge(c, number, c->acked + 1);
	c->acked = number;
	(void)snprintf(text, sizeof(text), "GET %s\r\n", c->key); /* see above */
	if (send_all(c, text) || read_number(c, '$', &number))
		return -1;
	if (read_line(c, text))
		return -1;
	judge(c, strtoull(text, NULL, 10), c->acked);
	took = now_us(CLOCK_MONOTONIC) - began;
	c->worst_us = took > c->worst_us ? took : c->worst_us;
	c->worst_ever_us = took > c->worst_ever_us ? took : c->worst_ever_us;
	c->turns++;
	if (fprintf(c->trace, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
		    now_us(CLOCK_REALTIME) / 1000, took, c->acked) < 0)
		return fail(c, "trace", errno);
	return c->why[0] ? -1 : 0;
}

/* Written aside and renamed: whoever reads it sees a whole one. */
static int write_status(struct client *c)
{
	json_t *o = json_pack("{s:I,s:I,s:I,s:I,s:I,s:s}", "acked_total",
			      (json_int_t)c->acked, "acked_lost", (json_int_t)c->lost,
			      "turns", (json_int_t)c->turns, "worst_us",
			      (json_int_t)c->worst_us, "worst_ever_us",
			      (json_int_t)c->worst_ever_us, "why", c->why);
	char aside[4096];
	int rc = -1;

	if (o &&
	    snprintf(aside, sizeof(aside), "%s.new", c->status_path) <
		    (int)sizeof(aside) &&
	    !json_dump_file(o, aside, JSON_COMPACT) && !rename(aside, c->status_path))
		rc = 0;
	json_decref(o);
	c->worst_us = 0;
	return rc;
}

static int run(struct client *c)
{
	uint64_t next = now_us(CLOCK_MONOTONIC);

	while (!stop) {
		if (take_turn(c))
			return -1;
		if (now_us(CLOCK_MONOTONIC) < next)
			continue;
		next += MS_PER_S * 1000;
		if (fflush(c->trace) || write_status(c))
			return fail(c, c->status_path, errno);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_stop};
	struct client c = {.sock = -1};
	int rc;

	if (argc != 6 || strlen(argv[3]) > 64) {
		(void)fprintf(stderr, "usage: client HOST PORT KEY TRACE STATUS\n");
		return 2;
	}
	c.key = argv[3];
	c.status_path = argv[5];
	if (sigaction(SIGTERM, &sa, NULL)) {
		perror("SIGTERM");
		return 2;
	}
	c.trace = fopen(argv[4], "we");
	if (!c.trace) {
		perror(argv[4]);
		return 2;
	}
	rc = client_connect(&c, argv[1], argv[2]);
	if (!rc)
		rc = run(&c);
	if (fclose(c.trace))
		rc = fail(&c, argv[4], errno);
	if (write_status(&c))
		rc = -1;
	if (rc)
		(void)fprintf(stderr, "client: %s\n", c.why);
	if (c.sock >= 0)
		close(c.sock);
	return rc ? 1 : 0;
}
