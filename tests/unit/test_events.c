/* SPDX-License-Identifier: Apache-2.0
 * test_events - the history keeps order and bounds, survives a restart and refuses a wrong file.
 */
#include "ctl/events.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/rhea-events-XXXXXX";
static char path[64];

static void fresh(void)
{
	char cmd[128];

	(void)snprintf(cmd, sizeof(cmd), "rm -f %s/*", dir);
	CU_ASSERT_EQUAL(system(cmd), 0);
	(void)snprintf(path, sizeof(path), "%s/events.db", dir);
}

static struct events *open_or_die(void)
{
	struct events *e = NULL;
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(events_open(path, &e, &err), 0);
	return e;
}

static void test_order(void)
{
	const struct event_rec *r;
	struct events *e;

	fresh();
	e = open_or_die();
	CU_ASSERT_EQUAL(events_last_id(e), 0);
	CU_ASSERT_PTR_NULL(events_next(e, 0));
	events_add(e, "v", 3, 9, "number %d", 1);
	CU_ASSERT_EQUAL(events_last_id(e), 1);
	events_add(e, NULL, UINT64_MAX, UINT64_MAX, "number %d", 2);
	CU_ASSERT_EQUAL(events_last_id(e), 2);
	r = events_next(e, 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	CU_ASSERT_STRING_EQUAL(r->text, "number 1");
	CU_ASSERT_STRING_EQUAL(r->vm, "v");
	CU_ASSERT(r->term == 3 && r->epoch == 9 && r->wall_ns > 0);
	r = events_next(e, 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	CU_ASSERT_STRING_EQUAL(r->vm, "");
	CU_ASSERT_PTR_NULL(events_next(e, 2));
	events_close(e);
}

static void test_restart(void)
{
	const struct event_rec *r;
	struct events *e;

	fresh();
	e = open_or_die();
	for (int i = 0; i < 10; i++)
		events_add(e, "v", 1, UINT64_MAX, "%d", i);
	events_close(e);
	e = open_or_die();
	CU_ASSERT_EQUAL(events_last_id(e), 10);
	r = events_next(e, 3);
	CU_ASSERT_PTR_NOT_NULL_FATAL(r);
	CU_ASSERT_EQUAL(r->id, 4);
	CU_ASSERT_STRING_EQUAL(r->text, "3");
	CU_ASSERT_EQUAL(r->epoch, UINT64_MAX);
	events_add(e, "v", 1, 1, "next");
	CU_ASSERT_EQUAL(events_last_id(e), 11);
	events_close(e);
}

static unsigned count(const struct events *e, uint64_t *first_out)
{
	const struct event_rec *r = events_next(e, 0);
	unsigned n = 0;

	*first_out = r ? r->id : 0;
	for (; r; r = events_next(e, r->id))
		n++;
	return n;
}

static void test_bound(void)
{
	struct events *e;
	uint64_t first;

	fresh();
	e = open_or_die();
	for (int i = 0; i < EVENTS_KEEP + 100; i++)
		events_add(e, "v", 1, 1, "%d", i);
	CU_ASSERT_EQUAL(count(e, &first), EVENTS_KEEP);
	CU_ASSERT_EQUAL(first, 101);
	events_close(e);
	e = open_or_die();
	CU_ASSERT_EQUAL(count(e, &first), EVENTS_KEEP);
	CU_ASSERT_EQUAL(first, 101);
	events_close(e);
}

static void test_long_text(void)
{
	char text[2 * EVENTS_TEXT_MAX];
	struct events *e;
	json_t *o;

	fresh();
	e = open_or_die();
	/* Two-byte characters: the cut may fall into one. */
	for (size_t i = 0; i + 1 < sizeof(text); i += 2)
		memcpy(text + i, "\xc3\xa4", 2);
	text[sizeof(text) - 1] = 0;
	events_add(e, "v", 1, 1, "x%s", text);
	o = event_json(events_next(e, 0));
	CU_ASSERT_PTR_NOT_NULL(o);
	CU_ASSERT(json_is_string(json_object_get(o, "text")));
	json_decref(o);
	events_close(e);
}

static void test_json(void)
{
	struct event_rec r = {.id = 7,
			      .wall_ns = 1500000000123456789ull,
			      .term = 2,
			      .epoch = UINT64_MAX,
			      .text = "hello"};
	json_t *o = event_json(&r);

	CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(o, "time")),
			       "2017-07-14T02:40:00.123Z");
	CU_ASSERT(json_is_null(json_object_get(o, "vm")));
	CU_ASSERT(json_is_null(json_object_get(o, "epoch")));
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(o, "term")), 2);
	json_decref(o);
}

static void test_wrong_file(void)
{
	static const char text[] =
		"this is somebody's letter, not a history, and longer than a header "
		"of one hundred bytes, so that it cannot be taken for an empty one";
	struct events *e = NULL;
	char back[256] = "";
	struct err err = {0};
	FILE *f;

	fresh();
	f = fopen(path, "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	CU_ASSERT(fputs(text, f) >= 0 && fclose(f) == 0);
	CU_ASSERT(events_open(path, &e, &err) < 0);
	CU_ASSERT_PTR_NULL(e);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, path));
	f = fopen(path, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	CU_ASSERT_PTR_NOT_NULL(fgets(back, sizeof(back), f));
	CU_ASSERT_EQUAL(fclose(f), 0);
	CU_ASSERT_STRING_EQUAL(back, text);
	CU_ASSERT(events_open("/nonexistent/events.db", &e, &err) < 0);
}

static void on_add(void *arg, const struct event_rec *r)
{
	*(uint64_t *)arg = r->id;
}

static void test_told(void)
{
	struct events *e;
	uint64_t seen = 0;

	fresh();
	e = open_or_die();
	events_on_add(e, on_add, &seen);
	events_add(e, "v", 1, 1, "x");
	CU_ASSERT_EQUAL(events_last_id(e), seen);
	events_on_add(e, NULL, NULL);
	events_add(e, "v", 1, 1, "x");
	CU_ASSERT_NOT_EQUAL(events_last_id(e), seen);
	events_close(e);
	events_close(NULL);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"order", test_order}, {"restart", test_restart},
		{"bound", test_bound}, {"long text", test_long_text},
		{"json", test_json},   {"wrong file", test_wrong_file},
		{"told", test_told},
	};
	char cmd[64];
	int rc;

	if (!mkdtemp(dir))
		return 2;
	rc = UNIT_MAIN("events", tests);
	(void)snprintf(cmd, sizeof(cmd), "rm -r %s", dir); /* fits */
	return system(cmd) || rc;
}
