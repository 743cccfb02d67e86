/* SPDX-License-Identifier: Apache-2.0
 * console - a guest console's ring buffer and attached clients.
 */
#include "ctl/console.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/util.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Typed bytes kept for a guest that does not read; more are dropped. */
enum { INPUT_MAX = 4096 };

struct client {
	struct console *con;	 /* borrowed */
	struct bufferevent *bev; /* NULL: the slot is free */
	int skipping;
};

struct console {
	struct loop *loop;
	struct bufferevent *source; /* NULL: none */
	struct client client[CONSOLE_CLIENTS];
	size_t end, fill; /* next byte to write; bytes that count */
	char ring[CONSOLE_RING];
};

static void ring_put(struct console *c, const char *p, size_t len)
{
	size_t n;

	if (len > CONSOLE_RING) {
		p += len - CONSOLE_RING;
		len = CONSOLE_RING;
	}
	c->fill = c->fill + len > CONSOLE_RING ? CONSOLE_RING : c->fill + len;
	for (; len; len -= n, p += n) {
		n = CONSOLE_RING - c->end < len ? CONSOLE_RING - c->end : len;
		memcpy(c->ring + c->end, p, n);
		c->end = (c->end + n) % CONSOLE_RING;
	}
}

size_t console_tail(const struct console *c, void *dst, size_t room)
{
	size_t n = room < c->fill ? room : c->fill;
	size_t start = (c->end + CONSOLE_RING - n) % CONSOLE_RING;
	size_t first = CONSOLE_RING - start < n ? CONSOLE_RING - start : n;

	memcpy(dst, c->ring + start, first);
	memcpy((char *)dst + first, c->ring, n - first);
	return n;
}

static void client_drop(struct client *cl)
{
	if (cl->bev)
		bufferevent_free(cl->bev);
	cl->bev = NULL;
}

/* Never more than CONSOLE_CLIENT_MAX waits for one client. */
static void client_put(struct client *cl, const void *p, size_t len)
{
	static const char note[] =
		"\r\n[output skipped: this terminal reads too slowly]\r\n";
	size_t waiting = evbuffer_get_length(bufferevent_get_output(cl->bev));

	if (waiting + len > CONSOLE_CLIENT_MAX) {
		cl->skipping = 1;
		return;
	}
	if (cl->skipping && waiting)
		return;
	if (cl->skipping && bufferevent_write(cl->bev, note, sizeof(note) - 1))
		return; /* no memory: it stays in the skipping state */
	cl->skipping = bufferevent_write(cl->bev, p, len) != 0;
}

static void on_source_read(struct bufferevent *bev, void *arg)
{
	struct console *c = arg;
	char chunk[4096];
	size_t n;

	while ((n = bufferevent_read(bev, chunk, sizeof(chunk))) > 0) {
		ring_put(c, chunk, n);
		for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
			if (c->client[i].bev)
				client_put(&c->client[i], chunk, n);
	}
}

static void on_source_event(struct bufferevent *bev, short what, void *arg)
{
	struct console *c = arg;

	on_source_read(bev, arg); /* the last words came before the end */
	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	bufferevent_free(bev);
	c->source = NULL;
}

static void on_client_read(struct bufferevent *bev, void *arg)
{
	struct client *cl = arg;
	struct evbuffer *in = bufferevent_get_input(bev), *to;

	to = cl->con->source ? bufferevent_get_output(cl->con->source) : NULL;
	if (to && evbuffer_get_length(to) < INPUT_MAX) {
		if (evbuffer_add_buffer(to, in))
			log_ratelimited(LOG_LVL_WARN, 10000,
					"console: no memory for input");
		return;
	}
	if (evbuffer_drain(in, evbuffer_get_length(in)))
		log_ratelimited(LOG_LVL_WARN, 10000, "console: input is stuck");
}

static void on_client_event(struct bufferevent *bev, short what, void *arg)
{
	if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
		client_drop(arg);
}

/* Takes @fd, also on error. */
static struct bufferevent *stream(struct console *c, int fd, bufferevent_data_cb rd,
				  bufferevent_event_cb ev, void *arg)
{
	struct bufferevent *b = NULL;

	if (evutil_make_socket_nonblocking(fd) == 0)
		b = bufferevent_socket_new(loop_base(c->loop), fd, BEV_OPT_CLOSE_ON_FREE);
	if (!b) {
		(void)close(fd); /* nothing was written through it */
		return NULL;
	}
	bufferevent_setcb(b, rd, NULL, ev, arg);
	bufferevent_setwatermark(b, EV_READ, 0, INPUT_MAX);
	if (bufferevent_enable(b, EV_READ | EV_WRITE)) {
		bufferevent_free(b);
		return NULL;
	}
	return b;
}

int console_create(struct loop *loop, struct console **c_out, struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));

	*c_out = c;
	if (!c)
		return err_set(err, -ENOMEM, "console: out of memory");
	c->loop = loop;
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		c->client[i].con = c;
	return 0;
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	if (c->source)
		bufferevent_free(c->source);
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		client_drop(&c->client[i]);
	free(c);
}

int console_source(struct console *c, int fd, struct err *err)
{
	if (c->source)
		bufferevent_free(c->source);
	c->source = NULL;
	if (fd < 0)
		return 0;
	c->source = stream(c, fd, on_source_read, on_source_event, c);
	return c->source ? 0 : err_set(err, -ENOMEM, "console: out of memory");
}

static struct client *free_slot(struct console *c)
{
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		if (!c->client[i].bev)
			return &c->client[i];
	return NULL;
}

static int send_ring(struct console *c, struct bufferevent *bev)
{
	size_t start = (c->end + CONSOLE_RING - c->fill) % CONSOLE_RING;
	size_t first = CONSOLE_RING - start < c->fill ? CONSOLE_RING - start : c->fill;

	if (bufferevent_write(bev, c->ring + start, first) ||
	    bufferevent_write(bev, c->ring, c->fill - first))
		return -ENOMEM;
	return 0;
}

int console_attach(struct console *c, int fd, struct err *err)
{
	struct client *cl = free_slot(c);

	if (!cl) {
		(void)close(fd); /* nothing was written through it */
		return err_set(err, -EBUSY,
			       "console: %d people are attached already; let one leave",
			       CONSOLE_CLIENTS);
	}
	cl->skipping = 0;
	cl->bev = stream(c, fd, on_client_read, on_client_event, cl);
	if (!cl->bev)
		return err_set(err, -ENOMEM, "console: out of memory");
	if (send_ring(c, cl->bev)) {
		client_drop(cl);
		return err_set(err, -ENOMEM, "console: out of memory");
	}
	return 0;
}

unsigned console_clients(const struct console *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		n += c->client[i].bev != NULL;
	return n;
}
