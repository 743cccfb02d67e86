/* SPDX-License-Identifier: Apache-2.0
 * err - an error with its story: what was tried, on what, what to do about it.
 */
#ifndef HV_BASE_ERR_H
#define HV_BASE_ERR_H

enum { ERR_MSG_MAX = 512 };

/* Lives on the caller's stack; zero-initialised means "no error". */
struct err {
	int code; /* negative errno, 0 = none */
	char msg[ERR_MSG_MAX];
};

/* Record an error; @code is a negative errno. Replaces what was there. @e may be NULL.
 * Returns @code, so that a function can end in "return err_set(...)". */
int err_set(struct err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Like err_set(), with ": <text of errno>" appended; @code is a negative errno. */
int err_sys(struct err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put "<context>: " before the message that is there. Returns e->code (-EIO if e is
 * NULL). */
int err_ctx(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
