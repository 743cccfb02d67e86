/* SPDX-License-Identifier: Apache-2.0
 * pairingrig - two hosts' directories, a thread that serves, and a wire between that the test
 * can cut, change, and watch.
 *
 * The wire is a thread between two socket pairs. Way 0 is from who asks to who serves.
 */
#ifndef TESTS_UNIT_PAIRINGRIG_H
#define TESTS_UNIT_PAIRINGRIG_H

#include "ctl/pairing.h"
#include "hv/base/err.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_A_HEX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define KEY_A	  KEY_A_HEX "\n"
#define KEY_B	  "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"

struct rig_host {
	char dir[64], config_path[96], key_path[96];
	struct pairing_place place;
	char key[128], was[128];     /* the file's text; "": none */
	char config[4096], sock[96]; /* likewise */
};

struct rig {
	char dir[48], shared_key[96];
	unsigned port;
	struct rig_host h[2];
	struct pairing_report report;
	struct err err;
	int served; /* what pairing_serves() returned */
	/* The wire. */
	size_t cut[2];	  /* after so many bytes; SIZE_MAX: never */
	size_t passed[2]; /* of the last run */
	int flip_way, flipped;
	const char *flip_after; /* change a bit behind this text, once; NULL: never */
	void (*on_commit)(struct rig *g);
	int fd[2]; /* the wire's ends, to who asks and to who serves */
	int serve_fd;
};

static inline void rig_read(const char *path, char *out, size_t room)
{
	FILE *f = fopen(path, "r");

	memset(out, 0, room);
	if (!f)
		return;
	if (fread(out, 1, room - 1, f) == 0)
		out[0] = '\0'; /* a directory, or empty */
	(void)fclose(f);       /* only read */
}

static inline void rig_look(struct rig *g)
{
	for (int i = 0; i < 2; i++) {
		rig_read(g->h[i].key_path, g->h[i].key, sizeof(g->h[i].key));
		rig_read(g->h[i].config_path, g->h[i].config, sizeof(g->h[i].config));
	}
}

static inline void rig_remember(struct rig *g)
{
	rig_look(g);
	for (int i = 0; i < 2; i++)
		memcpy(g->h[i].was, g->h[i].key, sizeof(g->h[i].was));
}

static inline void rig_write(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	if (!f || fputs(text, f) < 0 || fclose(f) || chmod(path, 0600))
		abort();
}

static inline void rig_key(struct rig *g, int i, const char *text)
{
	if (text)
		rig_write(g->h[i].key_path, text);
	else
		(void)unlink(g->h[i].key_path); /* there may be none */
	rig_remember(g);
}

/* @key: the line that gives the key, or NULL: this host's own file. */
static inline void rig_config(struct rig *g, int i, const char *key, const char *more)
{
	char text[2048], file[128];

	(void)snprintf(file, sizeof(file), "key_file = \"%s\"", g->h[i].key_path);
	(void)snprintf(
		text, sizeof(text),
		"pair = { name = \"p\"; %s; };\n"
		"hosts = ( { name = \"a\"; replication = \"127.0.0.1:%u\";\n"
		"heartbeat = ( \"127.0.0.1:%u\" ); },\n"
		"{ name = \"b\"; replication = \"127.0.0.2:%u\";\n"
		"heartbeat = ( \"127.0.0.2:%u\" ); } );\n"
		"arbiter = { kind = \"manual\"; };\n%s"
		"vms = ( { name = \"v\"; memory = \"64M\"; kernel = \"/k\"; } );\n",
		key ? key : file, g->port, g->port + 1, g->port, g->port + 1, more);
	rig_write(g->h[i].config_path, text);
	rig_remember(g);
}

static inline unsigned rig_free_port(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) || close(fd))
		abort();
	return ntohs(sa.sin_port) < 65535 ? ntohs(sa.sin_port) : 65534;
}

static inline void rig_init(struct rig *g)
{
	*g = (struct rig){.dir = "/dev/shm/pairing.XXXXXX", .cut = {SIZE_MAX, SIZE_MAX}};
	(void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
	if (!mkdtemp(g->dir))
		abort();
	g->port = rig_free_port();
	for (int i = 0; i < 2; i++) {
		struct rig_host *h = &g->h[i];

		(void)snprintf(h->dir, sizeof(h->dir), "%s/%c", g->dir, 'a' + i);
		(void)snprintf(h->config_path, sizeof(h->config_path), "%s/rhea.conf",
			       h->dir);
		(void)snprintf(h->key_path, sizeof(h->key_path), "%s/key", h->dir);
		(void)snprintf(h->sock, sizeof(h->sock), "%s/none.sock", h->dir);
		h->place = (struct pairing_place){.config = h->config_path,
						  .host = i ? "b" : "a",
						  .socket = h->sock};
		if (mkdir(h->dir, 0700))
			abort();
		rig_config(g, i, NULL, "");
	}
	(void)snprintf(g->shared_key, sizeof(g->shared_key), "key_file = \"%s/b/key\"",
		       g->dir);
}

static inline void rig_fini(struct rig *g)
{
	char cmd[80];

	(void)snprintf(cmd, sizeof(cmd), "rm -r %s", g->dir);
	if (system(cmd))
		abort();
}

static inline int rig_same(const struct rig *g)
{
	return g->h[0].key[0] && !strcmp(g->h[0].key, g->h[1].key);
}

static inline int rig_unchanged(const struct rig *g)
{
	return !strcmp(g->h[0].key, g->h[0].was) && !strcmp(g->h[1].key, g->h[1].was);
}

/* How many ".new" files are left. */
static inline int rig_litter(struct rig *g)
{
	int n = 0;

	for (int i = 0; i < 2; i++) {
		DIR *d = opendir(g->h[i].dir);
		struct dirent *e;

		if (!d)
			abort();
		while ((e = readdir(d)))
			n += strstr(e->d_name, ".new") != NULL;
		(void)closedir(d); /* only read */
	}
	return n;
}

/* Bytes on their way: perhaps changed. */
static inline void rig_meddle(struct rig *g, int way, char *p, size_t n)
{
	char *at =
		g->flip_after ? memmem(p, n, g->flip_after, strlen(g->flip_after)) : NULL;

	if (at && way == g->flip_way && !g->flipped &&
	    at + strlen(g->flip_after) < p + n) {
		at[strlen(g->flip_after)] ^= 1;
		g->flipped = 1;
	}
	if (g->on_commit && memmem(p, n, "commit 0\n", 9))
		g->on_commit(g);
}

/* One way's bytes, whole messages at a time where they come so. 0: the end, or the cut. */
static inline int rig_pass(struct rig *g, int way)
{
	char p[8192];
	ssize_t n;
	size_t part;

	usleep(g->flip_after ? 20000
			     : 0); /* a header and its body, one piece to look at */
	n = recv(g->fd[way], p, sizeof(p), 0);
	if (n <= 0)
		return 0;
	rig_meddle(g, way, p, (size_t)n);
	part = g->cut[way] - g->passed[way];
	part = part < (size_t)n ? part : (size_t)n;
	if (send(g->fd[!way], p, part, MSG_NOSIGNAL) != (ssize_t)part)
		return 0;
	g->passed[way] += part;
	return part == (size_t)n;
}

static inline void *rig_wire(void *arg)
{
	struct rig *g = arg;
	struct pollfd pfd[2] = {{.fd = g->fd[0], .events = POLLIN},
				{.fd = g->fd[1], .events = POLLIN}};

	for (int go = 1; go;) {
		if (poll(pfd, 2, -1) < 0)
			abort();
		for (int way = 0; way < 2 && go; way++)
			if (pfd[way].revents)
				go = rig_pass(g, way);
	}
	/* What was sent before is still read: this is the end of a stream, no reset. */
	(void)close(g->fd[0]);
	(void)close(g->fd[1]);
	return NULL;
}

static inline void *rig_serve(void *arg)
{
	struct rig *g = arg;
	struct err err = {0};

	g->served = pairing_serves(&(struct pairing_io){.in = g->serve_fd,
							.out = g->serve_fd,
							.wait_ms = 20000},
				   &g->h[1].place, &err);
	(void)close(g->serve_fd); /* the end is told by it */
	return NULL;
}

static inline int rig_ask(struct rig *g, int fd, const struct pairing_ask *ask)
{
	int rc;

	g->err = (struct err){0};
	rc = pairing_asks(&(struct pairing_io){.in = fd, .out = fd, .wait_ms = 20000},
			  &g->h[0].place, ask, &g->report, &g->err);
	(void)close(fd);
	return rc;
}

/* One pairing over the wire. Returns what the asking side did. */
static inline int rig_run(struct rig *g, const struct pairing_ask *ask)
{
	pthread_t wire, serve;
	int a[2], b[2], rc;

	rig_remember(g);
	g->flipped = 0;
	g->passed[0] = g->passed[1] = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, a) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, b))
		abort();
	g->fd[0] = a[1];
	g->fd[1] = b[0];
	g->serve_fd = b[1];
	if (pthread_create(&wire, NULL, rig_wire, g) ||
	    pthread_create(&serve, NULL, rig_serve, g))
		abort();
	rc = rig_ask(g, a[0], ask);
	if (pthread_join(wire, NULL) || pthread_join(serve, NULL))
		abort();
	rig_look(g);
	return rc;
}

/* Somebody who says @p and no more, to who asks (@to_server 0) or serves. Returns what that did. */
static inline int rig_stranger(struct rig *g, const char *p, size_t n, int to_server,
			       const struct pairing_ask *ask)
{
	int s[2], rc;

	rig_remember(g);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) ||
	    send(s[1], p, n, MSG_NOSIGNAL) != (ssize_t)n || shutdown(s[1], SHUT_WR))
		abort();
	g->serve_fd = s[0];
	if (to_server)
		(void)rig_serve(g);
	rc = to_server ? g->served : rig_ask(g, s[0], ask);
	(void)close(s[1]);
	rig_look(g);
	return rc;
}

#endif
