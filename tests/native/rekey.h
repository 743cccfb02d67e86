/* SPDX-License-Identifier: Apache-2.0
 * rekey - new keys under way: what sealing promises, over a real wire, with traffic in both directions.
 */
#ifndef TESTS_NATIVE_REKEY_H
#define TESTS_NATIVE_REKEY_H

struct tp;

/* Both sides (0 and 1) call it, each with its end of one link, which it takes. @meet(@arg) returns when
 * both sides have called it. How much was not so here; each of it is told on stderr. */
int rekey_run(struct tp *tp, int side, void (*meet)(void *arg), void *arg);

#endif
