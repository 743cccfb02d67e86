/* SPDX-License-Identifier: Apache-2.0
 * conform - runs the suite's cases on two sides of a link, in step.
 */
#include "tests/native/conform.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void conform_check(struct conform *c, int ok, const char *what, const char *file,
		   int line)
{
	if (ok)
		return;
	c->failed++;
	(void)fprintf(stderr, "side %d, %s:%d: not so: %s\n", c->side, file, line, what);
}

void conform_result(struct conform *c, int got, int want, const char *what,
		    const char *file, int line)
{
	if (got == want)
		return;
	c->failed++;
	(void)fprintf(stderr, "side %d, %s:%d: %s is %d, not %d\n", c->side, file, line,
		      what, got, want);
}

void conform_die(const char *what)
{
	(void)fprintf(stderr, "conform: %s: %s\n", what, strerror(errno));
	exit(2);
}

void conform_put(struct conform *c, const void *p, size_t len)
{
	if (send(c->sock, p, len, MSG_NOSIGNAL) != (ssize_t)len)
		conform_die("the other side");
}

void conform_get(struct conform *c, void *p, size_t len)
{
	for (size_t n = 0; n < len;) {
		ssize_t got = recv(c->sock, (uint8_t *)p + n, len - n, 0);

		if (got <= 0)
			conform_die("the other side");
		n += (size_t)got;
	}
}

void conform_meet(struct conform *c)
{
	char b = 'm';

	conform_put(c, &b, 1);
	conform_get(c, &b, 1);
	if (b != 'm') {
		errno = EPROTO;
		conform_die("the two sides are out of step");
	}
}

struct tp *conform_link(struct conform *c)
{
	struct err err = {0};
	struct tp *tp;

	if (c->connect(c, &tp, &err)) {
		(void)fprintf(stderr, "side %d: no link: %s\n", c->side, err.msg);
		exit(2); /* the other side sees the end of this one */
	}
	return tp;
}

static int is_last(const struct conform_case *t)
{
	return !t->fn && !t->alone;
}

static int run_case(struct conform *c, const struct conform_case *t)
{
	const uint64_t began = clock_mono_ns();

	c->failed = 0;
	if (t->fn)
		t->fn(c, conform_link(c));
	else
		t->alone(c);
	if (c->failed || !c->side)
		(void)fprintf(stderr, "%s %s (side %d), %.2f s\n",
			      c->failed ? "FAILED:" : "ok:    ", t->name, c->side,
			      (double)(clock_mono_ns() - began) / 1e9);
	return !!c->failed;
}

int conform_group(struct conform *c, const char *group, int *run)
{
	static const struct {
		const char *name;
		const struct conform_case *cases;
	} groups[] = {{"whole", conform_whole},	  {"harm", conform_harm},
		      {"wire", conform_wire},	  {"flips", conform_flips},
		      {"silent", conform_silent}, {"blobs", conform_blobs},
		      {"hello", conform_hello}};
	int failed = 0;

	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		if (strcmp(groups[i].name, group) != 0)
			continue;
		for (const struct conform_case *t = groups[i].cases; !is_last(t); t++) {
			if (t->no_session && c->end_by_receiver)
				continue;
			failed += run_case(c, t);
			++*run;
		}
		return failed;
	}
	errno = EINVAL;
	conform_die(group);
}

int conform_run(struct conform *c, int *run_out)
{
	int failed;

	*run_out = 0;
	failed = conform_group(c, "whole", run_out) + conform_group(c, "harm", run_out);
	if (c->module)
		failed += conform_group(c, "blobs", run_out);
	if (c->address)
		failed += conform_group(c, "hello", run_out);
	return failed;
}
