/* SPDX-License-Identifier: Apache-2.0
 * events - bounded event history: a ring in memory, mirrored to sqlite3 by a thread.
 */
#include "ctl/events.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Tells our file from any other sqlite3 file. */
enum { APPLICATION_ID = 0x52484541, SCHEMA = 1, RETRY_S = 5 };

struct events {
	sqlite3 *db;
	sqlite3_stmt *insert, *prune;
	pthread_t writer;
	int writer_on;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	int stopping;
	uint64_t last;	  /* id of the newest event */
	uint64_t first;	  /* id of the oldest one in the ring; last + 1: empty */
	uint64_t written; /* the writer has stored all up to here */
	struct event_rec ring[EVENTS_KEEP];
	void (*fn)(void *arg, const struct event_rec *r);
	void *fn_arg;
};

static struct event_rec *slot(struct events *e, uint64_t id)
{
	return &e->ring[id % EVENTS_KEEP];
}

static int store(struct events *e, const struct event_rec *r)
{
	sqlite3_stmt *s = e->insert;
	int ok;

	ok = sqlite3_bind_int64(s, 1, (sqlite3_int64)r->id) == SQLITE_OK &&
	     sqlite3_bind_int64(s, 2, (sqlite3_int64)r->wall_ns) == SQLITE_OK &&
	     sqlite3_bind_text(s, 3, r->vm, -1, SQLITE_STATIC) == SQLITE_OK &&
	     sqlite3_bind_int64(s, 4, (sqlite3_int64)r->term) == SQLITE_OK &&
	     sqlite3_bind_int64(s, 5, (sqlite3_int64)r->epoch) == SQLITE_OK &&
	     sqlite3_bind_text(s, 6, r->text, -1, SQLITE_STATIC) == SQLITE_OK &&
	     sqlite3_step(s) == SQLITE_DONE;
	(void)sqlite3_reset(s); /* repeats the step's error */
	return ok ? 0 : -EIO;
}

static int prune(struct events *e, uint64_t newest)
{
	int ok;

	if (newest <= EVENTS_KEEP)
		return 0;
	ok = sqlite3_bind_int64(e->prune, 1, (sqlite3_int64)(newest - EVENTS_KEEP)) ==
		     SQLITE_OK &&
	     sqlite3_step(e->prune) == SQLITE_DONE;
	(void)sqlite3_reset(e->prune); /* repeats the step's error */
	return ok ? 0 : -EIO;
}

/* One transaction for all that is pending. The lock is held, and let go around the disk.
 */
static int store_pending(struct events *e)
{
	struct event_rec r;
	uint64_t id = e->written + 1, last = e->last;
	int rc;

	if (id < e->first)
		id = e->first; /* overwritten before the disk was ready */
	pthread_mutex_unlock(&e->lock);
	rc = sqlite3_exec(e->db, "BEGIN", NULL, NULL, NULL) == SQLITE_OK ? 0 : -EIO;
	for (; !rc && id <= last; id++) {
		pthread_mutex_lock(&e->lock);
		r = *slot(e, id);
		pthread_mutex_unlock(&e->lock);
		if (r.id == id)
			rc = store(e, &r);
	}
	if (!rc)
		rc = prune(e, last);
	if (sqlite3_exec(e->db, rc ? "ROLLBACK" : "COMMIT", NULL, NULL, NULL) !=
	    SQLITE_OK)
		rc = -EIO;
	if (rc)
		log_ratelimited(LOG_LVL_WARN, 60000,
				"event history is not stored: %s; "
				"look at the disk of the state directory",
				sqlite3_errmsg(e->db));
	pthread_mutex_lock(&e->lock);
	if (!rc)
		e->written = last;
	return rc;
}

static void *writer_main(void *arg)
{
	struct events *e = arg;
	struct timespec later;
	int rc = 0;

	pthread_mutex_lock(&e->lock);
	while (!e->stopping || (!rc && e->written < e->last)) {
		if (rc) {
			(void)clock_gettime(CLOCK_REALTIME,
					    &later); /* cannot fail here */
			later.tv_sec += RETRY_S;
			pthread_cond_timedwait(&e->wake, &e->lock, &later);
		} else if (e->written == e->last) {
			pthread_cond_wait(&e->wake, &e->lock);
		}
		rc = e->written < e->last ? store_pending(e) : 0;
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

static int int_pragma(sqlite3 *db, const char *sql, int *out)
{
	sqlite3_stmt *s = NULL;
	int rc = -EIO;

	if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK &&
	    sqlite3_step(s) == SQLITE_ROW) {
		*out = sqlite3_column_int(s, 0);
		rc = 0;
	}
	(void)sqlite3_finalize(s); /* repeats the step's error */
	return rc;
}

static int db_prepare(struct events *e, const char *path, struct err *err)
{
	static const char tune[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;";
	static const char make[] = "CREATE TABLE IF NOT EXISTS event(id INTEGER PRIMARY "
				   "KEY, wall_ns INTEGER NOT NULL,"
				   " vm TEXT NOT NULL, term INTEGER NOT NULL, epoch "
				   "INTEGER NOT NULL, text TEXT NOT NULL);";
	char sql[96];
	int app = 0, tables = 0, version = 0;

	if (int_pragma(e->db, "PRAGMA application_id", &app) ||
	    int_pragma(e->db, "SELECT count(*) FROM sqlite_master", &tables) ||
	    int_pragma(e->db, "PRAGMA user_version", &version))
		return err_set(err, -EBADMSG,
			       "%s: %s; move it away to start a new history", path,
			       sqlite3_errmsg(e->db));
	if (tables && (app != APPLICATION_ID || version != SCHEMA))
		return err_set(err, -EBADMSG,
			       "%s: not an event history of this version; move it away",
			       path);
	(void)snprintf(sql, sizeof(sql),
		       "PRAGMA application_id=%d; PRAGMA user_version=%d;",
		       APPLICATION_ID, SCHEMA); /* fits */
	if (sqlite3_exec(e->db, tune, NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_exec(e->db, sql, NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_exec(e->db, make, NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(e->db, "INSERT OR REPLACE INTO event VALUES(?,?,?,?,?,?)",
			       -1, &e->insert, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(e->db, "DELETE FROM event WHERE id <= ?", -1, &e->prune,
			       NULL) != SQLITE_OK)
		return err_set(err, -EIO, "%s: %s", path, sqlite3_errmsg(e->db));
	return 0;
}

static void copy_text(char *dst, size_t room, const unsigned char *src)
{
	(void)snprintf(dst, room, "%s",
		       src ? (const char *)src : ""); /* cutting is meant */
}

static int read_back(struct events *e, const char *path, struct err *err)
{
	sqlite3_stmt *s = NULL;
	struct event_rec r;
	int step = SQLITE_ERROR;

	e->first = 1;
	if (sqlite3_prepare_v2(
		    e->db,
		    "SELECT * FROM (SELECT id, wall_ns, vm, term, epoch, text FROM event"
		    " WHERE id > 0 ORDER BY id DESC LIMIT ?) ORDER BY id",
		    -1, &s, NULL) == SQLITE_OK &&
	    sqlite3_bind_int(s, 1, EVENTS_KEEP) == SQLITE_OK)
		while ((step = sqlite3_step(s)) == SQLITE_ROW) {
			r.id = (uint64_t)sqlite3_column_int64(s, 0);
			r.wall_ns = (uint64_t)sqlite3_column_int64(s, 1);
			copy_text(r.vm, sizeof(r.vm), sqlite3_column_text(s, 2));
			r.term = (uint64_t)sqlite3_column_int64(s, 3);
			r.epoch = (uint64_t)sqlite3_column_int64(s, 4);
			copy_text(r.text, sizeof(r.text), sqlite3_column_text(s, 5));
			*slot(e, r.id) = r;
			e->last = r.id;
		}
	if (step != SQLITE_DONE)
		(void)err_set(err, -EIO, "%s: %s", path,
			      sqlite3_errmsg(e->db)); /* below */
	(void)sqlite3_finalize(s);		      /* repeats the step's error */
	e->first = e->last >= EVENTS_KEEP ? e->last - EVENTS_KEEP + 1 : 1;
	e->written = e->last;
	return step == SQLITE_DONE ? 0 : -EIO;
}

int events_open(const char *path, struct events **e_out, struct err *err)
{
	struct events *e = calloc(1, sizeof(*e));
	int rc;

	*e_out = NULL;
	if (!e)
		return err_set(err, -ENOMEM, "event history: out of memory");
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->wake, NULL);
	if (sqlite3_open(path, &e->db) != SQLITE_OK) {
		rc = err_set(err, -EIO, "%s: %s", path,
			     e->db ? sqlite3_errmsg(e->db) : "no memory");
		goto out;
	}
	(void)sqlite3_busy_timeout(e->db, 2000); /* only fails on a closed handle */
	rc = db_prepare(e, path, err);
	if (!rc)
		rc = read_back(e, path, err);
	if (!rc) {
		rc = -pthread_create(&e->writer, NULL, writer_main, e);
		e->writer_on = !rc;
		if (rc)
			(void)err_sys(err, rc,
				      "event history: thread"); /* rc is returned */
	}
out:
	if (rc)
		events_close(e);
	else
		*e_out = e;
	return rc;
}

void events_close(struct events *e)
{
	if (!e)
		return;
	pthread_mutex_lock(&e->lock);
	e->stopping = 1;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	if (e->writer_on)
		pthread_join(e->writer, NULL);
	(void)sqlite3_finalize(e->insert); /* repeats an error that was told */
	(void)sqlite3_finalize(e->prune);  /* likewise */
	if (sqlite3_close(e->db) != SQLITE_OK)
		log_warn("event history: close: %s", sqlite3_errmsg(e->db));
	pthread_cond_destroy(&e->wake);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

void events_add(struct events *e, const char *vm, uint64_t term, uint64_t epoch,
		const char *fmt, ...)
{
	struct event_rec *r;
	va_list ap;

	pthread_mutex_lock(&e->lock);
	r = slot(e, ++e->last);
	if (e->last - e->first >= EVENTS_KEEP)
		e->first = e->last - EVENTS_KEEP + 1;
	*r = (struct event_rec){
		.id = e->last, .wall_ns = clock_real_ns(), .term = term, .epoch = epoch};
	(void)snprintf(r->vm, sizeof(r->vm), "%s", vm ? vm : ""); /* cutting is meant */
	va_start(ap, fmt);
	(void)vsnprintf(r->text, sizeof(r->text), fmt, ap); /* cutting is meant */
	va_end(ap);
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	if (e->fn)
		e->fn(e->fn_arg, r);
}

/* Ids may have gaps (a history that was not stored for a while), so look for the next
 * one. */
const struct event_rec *events_next(const struct events *e, uint64_t after)
{
	for (uint64_t id = after + 1 < e->first ? e->first : after + 1; id <= e->last;
	     id++)
		if (e->ring[id % EVENTS_KEEP].id == id)
			return &e->ring[id % EVENTS_KEEP];
	return NULL;
}

uint64_t events_last_id(const struct events *e)
{
	return e->last;
}

void events_on_add(struct events *e, void (*fn)(void *arg, const struct event_rec *r),
		   void *arg)
{
	e->fn = fn;
	e->fn_arg = arg;
}

/* A text that was cut inside a character is no UTF-8 any more. */
static json_t *text_json(const char *text)
{
	json_t *s = json_string(text);

	return s ? s : json_string("(not UTF-8)");
}

static json_t *number_or_null(uint64_t v)
{
	return v == UINT64_MAX ? json_null() : json_integer((json_int_t)v);
}

json_t *event_json(const struct event_rec *r)
{
	time_t sec = (time_t)(r->wall_ns / 1000000000u);
	char day[32] = "", when[48];
	struct tm tm;

	if (gmtime_r(&sec, &tm))
		(void)strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm); /* fits */
	(void)snprintf(when, sizeof(when), "%s.%03uZ", day,
		       (unsigned)(r->wall_ns / 1000000u % 1000u)); /* fits */
	return json_pack("{s:I, s:s, s:I, s:o, s:o, s:o, s:o}", "id", (json_int_t)r->id,
			 "time", when, "wall_ns", (json_int_t)r->wall_ns, "vm",
			 r->vm[0] ? json_string(r->vm) : json_null(), "term",
			 number_or_null(r->term), "epoch", number_or_null(r->epoch),
			 "text", text_json(r->text));
}
