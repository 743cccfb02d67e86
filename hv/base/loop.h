/* SPDX-License-Identifier: Apache-2.0
 * loop - an event loop (libevent) on one thread, and work posted to it from others.
 */
#ifndef HV_BASE_LOOP_H
#define HV_BASE_LOOP_H

struct err;
struct event_base;
struct loop;

/* Returns owned; free with loop_destroy() after its thread left loop_run(). */
int loop_create(struct loop **loop_out, struct err *err);
void loop_destroy(struct loop *l); /* NULL is fine; work still posted is dropped */

/* The libevent base, for events of one's own. Add and delete them on the loop's thread,
 * or before it runs. */
struct event_base *loop_base(struct loop *l);

/* Run until loop_stop(). 0, or a negative errno if the loop itself failed. */
int loop_run(struct loop *l);
/* Any thread, and signal handlers' threads; not from a signal handler. */
void loop_stop(struct loop *l);

/* Run fn(arg) once on the loop's thread, in the order posted. Any thread. 0 or -ENOMEM.
 */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

/* If set, every callback of the caller's own events should run between enter and leave;
 * the loop brackets posted work with them by itself. Used by rhea-vm to keep device work
 * out of a checkpoint. */
void loop_set_guard(struct loop *l, void (*enter)(void *), void (*leave)(void *),
		    void *arg);
void loop_enter(struct loop *l);
void loop_leave(struct loop *l);

#endif
