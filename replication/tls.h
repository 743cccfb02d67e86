/* SPDX-License-Identifier: Apache-2.0
 * tls - TLS 1.3 with an external pre-shared key over a connected, non-blocking socket.
 *
 * Both hosts hold one 32-byte key. It authenticates both; the keys of the session come
 * from a Diffie-Hellman exchange besides, so that a key stolen later opens nothing
 * recorded earlier.
 */
#ifndef REPLICATION_TLS_H
#define REPLICATION_TLS_H

#include <openssl/ssl.h>
#include <stdint.h>

struct err;

enum { TLS_PSK_LEN = 32 };

/* One side of one connection. Not locked: one call at a time. */
struct tls {
	SSL *ssl;
	int fd;	      /* borrowed, non-blocking */
	int io_errno; /* what the socket said last, 0: nothing */
	int eof;      /* the socket ended */
};

/* The handshake, at most @timeout_ms. 0 or -errno with @err: -EACCES wrong key or pair,
 * -EPROTO not TLS 1.3 at all, -ETIMEDOUT, -ECONNRESET. tls_fini() is due only after
 * success. */
int tls_init(struct tls *t, int fd, int server, const char *identity,
	     const uint8_t psk[TLS_PSK_LEN], unsigned timeout_ms, struct err *err);
void tls_fini(struct tls *t);

/* One step that never blocks. Positive: so many bytes. 0: poll for *events_out, then call
 * again with the same arguments. Negative: an error as in transport.h. */
long tls_write(struct tls *t, const void *p, size_t len, short *events_out);
long tls_read(struct tls *t, void *p, size_t len, short *events_out);
/* Change the keys of the outgoing direction before the next write. Not between a write
 * that returned 0 and its repetition. 0 or -EIO. */
int tls_rekey(struct tls *t);
/* @len bytes that both ends of this connection can compute and nobody else (RFC 8446, section
 * 7.5), of their own for each @label and @context. 0 or -EIO. */
int tls_export(struct tls *t, const char *label, const void *context, size_t context_len,
	       void *out, size_t len);
/* Tell the peer that this is the end in good order, if the socket takes it at once. */
void tls_bye(struct tls *t);

#endif
