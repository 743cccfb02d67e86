/* SPDX-License-Identifier: Apache-2.0
 * ctlsock - the Unix control socket: who may ask, lines in, lines out.
 */
#include "ctl/ctlsock.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { GROUPS_MAX = 256, NO_GROUP = -1 };

struct ctl_conn {
	struct ctlsock *s; /* borrowed */
	struct ctl_conn *next;
	struct bufferevent *bev;
	struct event *reap;  /* fired once: the connection must end */
	struct event *again; /* fired when the next request may be read */
	int busy;
	void (*gone)(void *arg);
	void *gone_arg;
};

struct ctlsock {
	struct loop *loop;
	struct evconnlistener *lev;
	ctl_handler_fn *fn;
	void *arg;
	struct ctl_conn *conns;
	unsigned count;
	long group; /* of "rhea", or NO_GROUP */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void conn_free(struct ctl_conn *c)
{
	struct ctl_conn **p = &c->s->conns;
	void (*gone)(void *arg) = c->gone;
	void *arg = c->gone_arg;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	c->s->count--;
	if (c->reap)
		event_free(c->reap);
	if (c->again)
		event_free(c->again);
	if (c->bev)
		bufferevent_free(c->bev);
	free(c);
	if (gone)
		gone(arg);
}

static void on_reap(evutil_socket_t fd, short what, void *arg)
{
	conn_free(arg);
}

void ctl_async(struct ctl_conn *c, void (*gone)(void *arg), void *arg)
{
	c->gone = gone;
	c->gone_arg = arg;
}

void ctl_send(struct ctl_conn *c, json_t *line)
{
	static const char no_memory[] = "{\"error\":\"rhead: out of memory\"}";
	struct evbuffer *out = bufferevent_get_output(c->bev);
	char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	const char *say = text ? text : no_memory;

	if (evbuffer_get_length(out) + strlen(say) > CTLSOCK_BACKLOG_MAX ||
	    evbuffer_add(out, say, strlen(say)) || evbuffer_add(out, "\n", 1)) {
		log_ratelimited(LOG_LVL_WARN, 1000,
				"control client cut off: it does not read");
		event_active(c->reap, EV_TIMEOUT, 0);
	}
	free(text);
	json_decref(line);
}

void ctl_end(struct ctl_conn *c, json_t *line)
{
	if (line)
		ctl_send(c, line);
	c->busy = 0;
	c->gone = NULL;
	/* From the loop, so that a handler which answers at once does not recurse. */
	event_active(c->again, EV_TIMEOUT, 0);
}

void ctl_error(struct ctl_conn *c, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	json_t *say;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cutting is meant */
	va_end(ap);
	say = json_string(text);
	ctl_end(c, json_pack("{s:o}", "error",
			     say ? say : json_string("error (text not UTF-8)")));
}

int ctl_detach(struct ctl_conn *c, json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT);
	int fd = fcntl(bufferevent_getfd(c->bev), F_DUPFD_CLOEXEC, 3);

	json_decref(line);
	if (fd >= 0 && (!text || dprintf(fd, "%s\n", text) < 0)) {
		(void)close(fd); /* the write error is what counts */
		fd = -EIO;
	}
	free(text);
	c->gone = NULL;
	event_active(c->reap, EV_TIMEOUT, 0);
	return fd;
}

json_t *ctl_parse(const char *line, size_t len, struct err *err)
{
	json_error_t je;
	json_t *req;

	if (len > CTLSOCK_LINE_MAX) {
		(void)err_set(err, -E2BIG, "request longer than %d bytes",
			      CTLSOCK_LINE_MAX);
		return NULL;
	}
	req = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	if (!req) {
		(void)err_set(err, -EBADMSG, "request is not JSON: %s", je.text);
		return NULL;
	}
	if (!json_is_object(req) || !json_is_string(json_object_get(req, "cmd"))) {
		json_decref(req);
		(void)err_set(err, -EBADMSG,
			      "request must be an object with a string \"cmd\"");
		return NULL;
	}
	return req;
}

static void handle(struct ctl_conn *c, const char *line, size_t len)
{
	struct err err = {0};
	json_t *req = ctl_parse(line, len, &err);

	c->busy = 1;
	if (!req) {
		ctl_error(c, "%s", err.msg);
		return;
	}
	c->s->fn(c->s->arg, c, req);
	json_decref(req);
}

static void on_read(struct bufferevent *bev, void *arg)
{
	struct ctl_conn *c = arg;
	struct evbuffer *in = bufferevent_get_input(bev);
	size_t len;
	char *line;

	if (c->busy)
		return;
	line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
	if (line) {
		handle(c, line, len);
		free(line);
	} else if (evbuffer_get_length(in) >= CTLSOCK_LINE_MAX) {
		event_active(c->reap, EV_TIMEOUT, 0);
	}
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
	struct ctl_conn *c = arg;

	on_read(c->bev, c);
}

static void on_drained(struct bufferevent *bev, void *arg)
{
	conn_free(arg);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct ctl_conn *c = arg;

	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	/* Who only said that nothing more will be asked still gets the answer. */
	if (what & BEV_EVENT_EOF && !c->busy &&
	    evbuffer_get_length(bufferevent_get_output(bev)))
		bufferevent_setcb(bev, NULL, on_drained, on_event, c);
	else
		conn_free(c);
}

static int in_group(int fd, long group)
{
	gid_t groups[GROUPS_MAX];
	socklen_t len = sizeof(groups);

	/* More groups than fit is an error of the call, and no permission. */
	if (group == NO_GROUP || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
		return 0;
	for (unsigned i = 0; i < len / sizeof(gid_t); i++)
		if (groups[i] == (gid_t)group)
			return 1;
	return 0;
}

static int may_ask(const struct ctlsock *s, int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len))
		return 0;
	return who.uid == 0 || who.uid == geteuid() ||
	       (s->group != NO_GROUP && who.gid == (gid_t)s->group) ||
	       in_group(fd, s->group);
}

static void refuse(int fd, const char *why)
{
	(void)dprintf(fd, "{\"error\":\"%s\"}\n", why); /* a courtesy */
	(void)close(fd);				/* likewise */
}

static struct ctl_conn *conn_new(struct ctlsock *s, int fd)
{
	struct ctl_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->s = s;
	c->next = s->conns;
	s->conns = c;
	s->count++;
	c->reap = evtimer_new(loop_base(s->loop), on_reap, c);
	c->again = evtimer_new(loop_base(s->loop), on_again, c);
	c->bev = bufferevent_socket_new(loop_base(s->loop), fd, BEV_OPT_CLOSE_ON_FREE);
	if (!c->reap || !c->again || !c->bev) {
		conn_free(c);
		return NULL;
	}
	return c;
}

static void on_accept(struct evconnlistener *lev, evutil_socket_t fd, struct sockaddr *sa,
		      int len, void *arg)
{
	struct ctlsock *s = arg;
	struct ctl_conn *c;

	if (!may_ask(s, fd)) {
		refuse(fd, "permission denied: only root and members of the group rhea "
			   "may ask");
		return;
	}
	if (s->count >= CTLSOCK_CLIENTS_MAX) {
		refuse(fd, "rhead has too many clients; try again when some have left");
		return;
	}
	c = conn_new(s, fd);
	if (!c) {
		refuse(fd, "rhead: out of memory");
		return;
	}
	bufferevent_setcb(c->bev, on_read, NULL, on_event, c);
	bufferevent_setwatermark(c->bev, EV_READ, 0, CTLSOCK_LINE_MAX);
	if (bufferevent_enable(c->bev, EV_READ | EV_WRITE))
		conn_free(c);
}

/* A socket that nobody answers is left from a crash; one that somebody answers is not
 * ours. */
static int clear_stale(const struct sockaddr_un *sa, struct err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	if (fd < 0)
		return err_sys(err, -errno, "control socket");
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0)
		rc = err_set(err, -EADDRINUSE, "%s: another rhead answers there already",
			     sa->sun_path);
	else if (errno == ECONNREFUSED && unlink(sa->sun_path))
		rc = err_sys(err, -errno, "%s: remove the stale socket", sa->sun_path);
	(void)close(fd); /* nothing was written through it */
	return rc;
}

static int set_access(struct ctlsock *s, struct err *err)
{
	struct group *g = getgrnam("rhea");

	s->group = g ? (long)g->gr_gid : NO_GROUP;
	if (chmod(s->path, g ? 0660 : 0600) ||
	    (g && chown(s->path, (uid_t)-1, g->gr_gid)))
		return err_sys(err, -errno, "%s: set who may use it", s->path);
	return 0;
}

int ctlsock_create(struct loop *loop, const char *path, ctl_handler_fn *fn, void *arg,
		   struct ctlsock **s_out, struct err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct ctlsock *s;
	mode_t old;
	int rc;

	*s_out = NULL;
	if (strlen(path) >= sizeof(sa.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: a socket's path has at most %zu characters", path,
			       sizeof(sa.sun_path) - 1);
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path); /* was measured */
	rc = clear_stale(&sa, err);
	if (rc)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, -ENOMEM, "control socket: out of memory");
	*s = (struct ctlsock){.loop = loop, .fn = fn, .arg = arg};
	old = umask(0177); /* nobody slips in between bind and chmod */
	s->lev = evconnlistener_new_bind(loop_base(loop), on_accept, s,
					 LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
					 CTLSOCK_CLIENTS_MAX, (struct sockaddr *)&sa,
					 sizeof(sa));
	rc = s->lev ? 0 : -errno;
	(void)umask(old); /* cannot fail */
	if (rc) {
		free(s);
		return err_sys(err, rc, "%s: listen", path);
	}
	memcpy(s->path, sa.sun_path, sizeof(s->path));
	rc = set_access(s, err);
	if (rc)
		ctlsock_destroy(s);
	else
		*s_out = s;
	return rc;
}

void ctlsock_destroy(struct ctlsock *s)
{
	if (!s)
		return;
	while (s->conns)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it takes itself off the list */
		conn_free(s->conns);
	evconnlistener_free(s->lev);
	if (unlink(s->path) && errno != ENOENT)
		log_warn("%s: remove: %s", s->path, strerror(errno));
	free(s);
}
