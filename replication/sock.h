/* SPDX-License-Identifier: Apache-2.0
 * sock - a connected TCP socket of the link: waiting for it, and leaving it at once.
 *
 * One thread sends, one receives, any may shut it down. The errors are those of transport.h.
 */
#ifndef REPLICATION_SOCK_H
#define REPLICATION_SOCK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct tp_loss;

struct sock {
	int fd;
	atomic_int down; /* sock_shutdown() was called */
};

/* Takes @fd (also a Unix stream socket): closed on failure. 0 or -errno with @err. */
int sock_init(struct sock *s, int fd, struct err *err);
void sock_fini(struct sock *s);

/* All of it. Fails with -ETIMEDOUT when the peer's end has taken nothing for @timeout_ms; that is found
 * out after twice as long at most. */
int sock_send(struct sock *s, const void *p, size_t len, unsigned timeout_ms);
/* What can be sent without waiting; the peer's view decides what became of it. */
void sock_send_last(struct sock *s, const void *p, size_t len);
/* Something, at most @room bytes; @timeout_ms -1: as long as it takes. An end of the stream is
 * -ECONNRESET: what its good order is, the layer above knows. */
long sock_recv(struct sock *s, void *p, size_t room, int timeout_ms);

void sock_shutdown(struct sock *s);
/* What has come can still be received, then the stream ends. Any thread. */
void sock_no_more(struct sock *s);
/* The same, and nothing more is sent: the peer sees a broken link. */
void sock_break(struct sock *s);
/* When its peer's kernel last sent anything, a bare acknowledgement included, ns; 0: not known. Any
 * thread. */
uint64_t sock_heard(const struct sock *s);
/* Adds the segments that were sent, and sent again. A Unix socket loses nothing and knows no such
 * number. */
void sock_loss(struct sock *s, struct tp_loss *sum);

#endif
