/* SPDX-License-Identifier: Apache-2.0
 * drill_note - the steps of a drill, as they are shown while it runs and again in its report.
 */
#ifndef CTL_DRILL_NOTE_H
#define CTL_DRILL_NOTE_H

#include <jansson.h>
#include <stdint.h>

struct ctl_conn;
struct vmrun;

/* Append {"at_ms","what"} to @steps, with the time since @began_ns (CLOCK_MONOTONIC), and send a progress
 * line about @v to @c (NULL: the client has left). On the loop's thread. */
void drill_note(struct ctl_conn *c, struct vmrun *v, json_t *steps, uint64_t began_ns,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#endif
