/* SPDX-License-Identifier: Apache-2.0
 * filework - what rhead has to wait for on a file system, done on a thread of its own, one job after the other.
 */
#ifndef CTL_FILEWORK_H
#define CTL_FILEWORK_H

struct err;
struct filework;
struct loop;

/* Owned by who gives it, and untouched until done() was called. */
struct filework_job {
	void (*run)(struct filework_job *j);  /* the thread */
	void (*done)(struct filework_job *j); /* the loop's thread */
	struct filework_job *next;
};

/* @loop is borrowed. Returns owned. */
int filework_create(struct loop *loop, struct filework **out, struct err *err);
/* Finishes what was given; done() is not called any more. The loop's thread, or after it ended. NULL is fine. */
void filework_destroy(struct filework *w);
/* The loop's thread. */
void filework_give(struct filework *w, struct filework_job *j);

#endif
