/* SPDX-License-Identifier: Apache-2.0
 * ctlsock - rhead's Unix socket: one JSON object a line in, one or more a line out.
 *
 * Theory of operation. A client sends {"cmd":...} and gets one line, or for commands that
 * stream, many; then it may ask again. While a command runs, the next one waits. An error
 * is {"error":"what, on what, what to do about it"}. The socket's directory and mode let
 * in root and the group "rhea" (when there is one), and each client's credentials are
 * asked for again when it connects. A client that sends more than CTLSOCK_LINE_MAX in a
 * line, or does not read CTLSOCK_BACKLOG_MAX bytes of answers, is cut off.
 *
 * All calls and callbacks on the loop's thread.
 */
#ifndef CTL_CTLSOCK_H
#define CTL_CTLSOCK_H

#include <jansson.h>

struct ctl_conn;
struct ctlsock;
struct err;
struct loop;

enum {
	CTLSOCK_LINE_MAX = 64 << 10,
	CTLSOCK_BACKLOG_MAX = 4 << 20,
	CTLSOCK_CLIENTS_MAX = 64
};

/* Called for each request, a JSON object (borrowed). Either ends it with ctl_end() or
 * ctl_error() before it returns, or calls ctl_async() and ends it later. */
typedef void ctl_handler_fn(void *arg, struct ctl_conn *c, json_t *req);

/* Listen at @path; a stale socket there is replaced, a live one is -EADDRINUSE. Owned. */
int ctlsock_create(struct loop *loop, const char *path, ctl_handler_fn *fn, void *arg,
		   struct ctlsock **s_out, struct err *err);
/* Cuts all clients off (calling their gone functions) and removes the socket. NULL is
 * fine. */
void ctlsock_destroy(struct ctlsock *s);

/* Keep the request open. @gone is called if the client leaves first; the connection must
 * not be used from then on. */
void ctl_async(struct ctl_conn *c, void (*gone)(void *arg), void *arg);
/* Send one line of the answer. Takes @line (NULL: out of memory, the client is told so).
 * May find that the client reads too slowly: then @gone comes from the loop, not from
 * here. */
void ctl_send(struct ctl_conn *c, json_t *line);
/* The last line; NULL: none. The request is over. */
void ctl_end(struct ctl_conn *c, json_t *line);
void ctl_error(struct ctl_conn *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Give the client's socket away, after @line (taken) went out: returns it, owned, or a
 * negative errno. The connection is gone either way. */
int ctl_detach(struct ctl_conn *c, json_t *line);

/* One line of input as a request: an owned object, or NULL with @err. Hostile input. */
json_t *ctl_parse(const char *line, size_t len, struct err *err);

#endif
