/* SPDX-License-Identifier: Apache-2.0
 * gang - a few threads that share a piece of work and then wait for the next one.
 *
 * Whoever owns a gang starts and waits; it is not to be used by two threads at once. Signals are
 * blocked in the gang's threads.
 */
#ifndef HV_BASE_GANG_H
#define HV_BASE_GANG_H

struct gang;

/* @k: which of the threads, from 0. */
typedef void gang_fn(void *arg, unsigned k);

/* @n threads, 0 as well: then nothing is ever done. 0 or -errno. Returns owned. */
int gang_create(unsigned n, struct gang **g_out);
void gang_destroy(struct gang *g); /* waits first; NULL is fine */
unsigned gang_size(const struct gang *g);

/* Each thread calls @fn once. Returns at once. What the caller wrote before is seen there. Waits
 * first if something is still under way. */
void gang_start(struct gang *g, gang_fn *fn, void *arg);
/* Until all have returned; what they wrote is seen here. At once if nothing is under way. */
void gang_wait(struct gang *g);

#endif
