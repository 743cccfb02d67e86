/* SPDX-License-Identifier: Apache-2.0
 * tls - the handshake of TLS 1.3 with an external pre-shared key over a connected, non-blocking
 * socket; the records after it are tlsrec.h's.
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

enum { TLS_PSK_LEN = 32, TLS_SECRET_LEN = 32 };

/* One side of one connection. Not locked: one call at a time. */
struct tls {
	SSL *ssl;
	int fd;	      /* borrowed, non-blocking */
	int io_errno; /* what the socket said last, 0: nothing */
	int eof;      /* the socket ended */
	/* Of the client and of the server: what the keys of the records come from. */
	uint8_t secret[2][TLS_SECRET_LEN];
};

/* The handshake, at most @timeout_ms. After it not a byte of the peer's records has been read. 0 or
 * -errno with @err: -EACCES wrong key or pair, -EPROTO not TLS 1.3 at all, -ETIMEDOUT,
 * -ECONNRESET. tls_fini() is due only after success. */
int tls_init(struct tls *t, int fd, int server, const char *identity,
	     const uint8_t psk[TLS_PSK_LEN], unsigned timeout_ms, struct err *err);
void tls_fini(struct tls *t);

/* @len bytes that both ends of this connection can compute and nobody else (RFC 8446, section
 * 7.5), of their own for each @label and @context. 0 or -EIO. */
int tls_export(struct tls *t, const char *label, const void *context, size_t context_len,
	       void *out, size_t len);

#endif
