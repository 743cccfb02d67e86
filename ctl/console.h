/* SPDX-License-Identifier: Apache-2.0
 * console - a guest's console: its last output kept in a ring, and people attached to it.
 *
 * Theory of operation. The source is rhead's end of the stream socket whose other end
 * rhea-vm writes to (what it writes was committed already: netbuf holds it until then).
 * Each attached client first gets the ring, then all that comes; what it types goes to
 * the source. Whoever reads too slowly loses bytes, is told so, and never holds up the
 * guest or the others. The ring outlives the source: it shows a dead VM's last words.
 *
 * All calls on the loop's thread.
 */
#ifndef CTL_CONSOLE_H
#define CTL_CONSOLE_H

#include <stddef.h>

struct console;
struct err;
struct loop;

enum { CONSOLE_RING = 64 << 10, CONSOLE_CLIENT_MAX = 256 << 10, CONSOLE_CLIENTS = 8 };

/* Returns owned. No source yet. @loop is borrowed. */
int console_create(struct loop *loop, struct console **c_out, struct err *err);
void console_destroy(struct console *c); /* closes source and clients; NULL is fine */

/* Listen to @fd (taken, a stream socket) from now on instead of what was; -1: none. */
int console_source(struct console *c, int fd, struct err *err);
/* Attach a client's stream socket: taken, also on error. -EBUSY when CONSOLE_CLIENTS are
 * there. */
int console_attach(struct console *c, int fd, struct err *err);
unsigned console_clients(const struct console *c);

/* Copy the newest bytes of the ring, at most @room; returns how many. */
size_t console_tail(const struct console *c, void *dst, size_t room);

#endif
