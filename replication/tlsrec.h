/* SPDX-License-Identifier: Apache-2.0
 * tlsrec - the records of TLS 1.3 (RFC 8446, section 5) in one direction, without a socket.
 *
 * After the handshake, which is OpenSSL's, records are sealed straight from where the bytes are, and
 * opened straight to where they are to be.
 */
#ifndef REPLICATION_TLSREC_H
#define REPLICATION_TLSREC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct aead;

enum {
	TLSREC_HEAD = 5,
	TLSREC_CONTENT_MAX = 16 << 10,
	TLSREC_MORE = 17, /* behind the content: its type, the tag */
	TLSREC_CIPHER_MAX = TLSREC_CONTENT_MAX + 256, /* what a peer may send */
	TLSREC_MAX = TLSREC_HEAD + TLSREC_CONTENT_MAX + TLSREC_MORE, /* what we send */
	TLSREC_SECRET = 32,
};

enum tlsrec_type { TLSREC_ALERT = 21, TLSREC_HANDSHAKE = 22, TLSREC_DATA = 23 };

/* One direction. Not locked: one call at a time. */
struct tlsrec {
	struct aead *aead;
	uint8_t secret[TLSREC_SECRET], fixed[12];
	uint64_t number; /* of the next record under these keys */
	int seal;
};

/* @secret: the application traffic secret (RFC 8446, section 7.1), with SHA-256 and AES-128. 0 or
 * -errno. tlsrec_fini() is due in any case. */
int tlsrec_init(struct tlsrec *r, const uint8_t secret[TLSREC_SECRET], int seal);
void tlsrec_fini(struct tlsrec *r);
/* The next keys of this direction (section 7.2). 0 or -errno. */
int tlsrec_update(struct tlsrec *r);

/* Seal the @n pieces (fewer than TLSREC_PIECES), which are @len bytes together, at most
 * TLSREC_CONTENT_MAX, as one record into @out. Returns its length, or -EIO. */
enum { TLSREC_PIECES = 8 };
long tlsrec_seal(struct tlsrec *r, enum tlsrec_type type, const struct iovec *in, int n,
		 size_t len, uint8_t *out);
/* How long the record is that begins with these TLSREC_HEAD bytes, or -EBADMSG. */
long tlsrec_length(const uint8_t *head);
/* Open the whole record at @in. Its content goes to @out, which has room for all between header and
 * TLSREC_MORE. Returns the length of the content, *type_out is not checked; or -EBADMSG, -EIO. */
long tlsrec_open(struct tlsrec *r, const uint8_t *in, uint8_t *out, int *type_out);

#endif
