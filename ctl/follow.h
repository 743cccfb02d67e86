/* SPDX-License-Identifier: Apache-2.0
 * follow - tells each new event to the clients that follow the history.
 */
#ifndef CTL_FOLLOW_H
#define CTL_FOLLOW_H

struct event_rec;

/* For events_on_add(); @arg is the struct host. */
void follow_tell(void *arg, const struct event_rec *r);

#endif
