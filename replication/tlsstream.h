/* SPDX-License-Identifier: Apache-2.0
 * tlsstream - one TCP connection with TLS 1.3: bytes in, records out, and back.
 *
 * One thread sends, one receives, any may shut it down. The errors are those of transport.h.
 */
#ifndef REPLICATION_TLSSTREAM_H
#define REPLICATION_TLSSTREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct tlsstream;
struct tp_loss;

/* Takes @fd. The handshake is done when it returns, as tls_init(). Returns owned. */
int tlsstream_open(int fd, int server, const char *identity, const uint8_t *psk,
		   unsigned timeout_ms, struct tlsstream **s_out, struct err *err);
/* Says good-bye if it can at once. No other call may be under way. */
void tlsstream_close(struct tlsstream *s);
void tlsstream_shutdown(struct tlsstream *s);
void tlsstream_no_more(struct tlsstream *s); /* as sock_no_more() */
void tlsstream_break(struct tlsstream *s);   /* as sock_break() */

/* The sender's. All of it or the first error, for ever. @timeout_ms: without any progress. */
int tlsstream_send(struct tlsstream *s, const struct iovec *iov, int n,
		   unsigned timeout_ms);
int tlsstream_flush(struct tlsstream *s, unsigned timeout_ms);
void tlsstream_set_rekey(struct tlsstream *s, uint64_t bytes);

/* The receiver's. Exactly @len bytes, or what is wrong; *done_out: how many came. */
int tlsstream_recv(struct tlsstream *s, void *p, size_t len, size_t *done_out);
void tlsstream_set_recv_timeout(struct tlsstream *s, unsigned ms); /* 0: none */

/* As tls_export(). One call at a time. */
int tlsstream_export(struct tlsstream *s, const char *label, const void *context,
		     size_t context_len, void *out, size_t len);
/* As sock_heard(). */
uint64_t tlsstream_heard(const struct tlsstream *s);
/* Adds what this one's connection has sent, and sent again. Any thread. */
void tlsstream_loss(struct tlsstream *s, struct tp_loss *sum);

#endif
