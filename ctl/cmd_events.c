/* SPDX-License-Identifier: Apache-2.0
 * cmd_events - the event history, and what is added to it while a client follows.
 */
#include "ctl/cmd.h"

#include "ctl/ctlsock.h"
#include "ctl/events.h"
#include "ctl/follow.h"
#include "ctl/host.h"

#include <stdlib.h>
#include <string.h>

enum { COUNT_DEFAULT = 40 };

/* One client that follows. */
struct follower {
	struct follower *next;
	struct host *h;
	struct ctl_conn *c;
	char vm[EVENTS_VM_MAX]; /* "": all */
};

static int wanted(const char *vm, const struct event_rec *r)
{
	return !vm[0] || !strcmp(vm, r->vm);
}

static void on_gone(void *arg)
{
	struct follower *f = arg, **p = &f->h->followers;

	while (*p != f)
		p = &(*p)->next;
	*p = f->next;
	free(f);
}

void follow_tell(void *arg, const struct event_rec *r)
{
	struct host *h = arg;

	/* A client that reads too slowly leaves from the loop, never from in here. */
	for (struct follower *f = h->followers; f; f = f->next)
		if (wanted(f->vm, r))
			ctl_send(f->c, event_json(r));
}

/* Where to begin so that @count events match. */
static uint64_t count_back(const struct events *e, const char *vm, json_int_t count)
{
	const struct event_rec *r;
	json_int_t all = 0;
	uint64_t id = 0;

	for (r = events_next(e, 0); r; r = events_next(e, r->id))
		all += wanted(vm, r);
	for (r = events_next(e, 0); r && all > count; r = events_next(e, r->id)) {
		all -= wanted(vm, r);
		id = r->id;
	}
	return id;
}

static void follow(struct host *h, struct ctl_conn *c, const char *vm)
{
	struct follower *f = calloc(1, sizeof(*f));

	if (!f) {
		ctl_error(c, "rhead: out of memory");
		return;
	}
	f->h = h;
	f->c = c;
	memcpy(f->vm, vm, sizeof(f->vm));
	f->next = h->followers;
	h->followers = f;
	ctl_async(c, on_gone, f);
}

void cmd_events(struct host *h, struct ctl_conn *c, json_t *req)
{
	json_int_t after = cmd_int(req, "after", 0, INT64_MAX, -1);
	json_int_t count = cmd_int(req, "count", 0, EVENTS_KEEP, COUNT_DEFAULT);
	const char *name = json_string_value(json_object_get(req, "vm"));
	char vm[EVENTS_VM_MAX] = "";
	uint64_t id;

	if (name && strlen(name) < sizeof(vm))
		memcpy(vm, name, strlen(name) + 1);
	id = after >= 0 ? (uint64_t)after : count_back(h->events, vm, count);
	for (const struct event_rec *r = events_next(h->events, id); r;
	     r = events_next(h->events, id)) {
		if (wanted(vm, r))
			ctl_send(c, event_json(r));
		id = r->id;
	}
	if (json_is_true(json_object_get(req, "follow")))
		follow(h, c, vm);
	else
		ctl_end(c, json_pack("{s:b,s:I}", "ok", 1, "last",
				     (json_int_t)events_last_id(h->events)));
}
