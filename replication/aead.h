/* SPDX-License-Identifier: Apache-2.0
 * aead - AES-GCM for records, by the fastest code that this processor has.
 *
 * The arithmetic is never our own: it is Intel's libipsec-mb where the processor has vector AES
 * (VAES with AVX-512: three times as fast as the OpenSSL of Debian 12), else OpenSSL.
 */
#ifndef REPLICATION_AEAD_H
#define REPLICATION_AEAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct aead;

enum { AEAD_NONCE_LEN = 12, AEAD_TAG_LEN = 16 };
enum aead_by { AEAD_BEST, AEAD_OPENSSL, AEAD_VECTOR };

/* For one key of 16 or 32 bytes and one direction (@seal: to seal, else to open), copied. One call at a
 * time. @by: AEAD_BEST but in tests. Returns owned; -ENOTSUP: this processor has no such code; -ENOMEM, -EIO. */
int aead_create(const uint8_t *key, size_t key_len, int seal, enum aead_by by,
		struct aead **a_out);
void aead_destroy(struct aead *a); /* cleanses; NULL is fine */
/* Which code AEAD_BEST is, for people. Any thread. */
const char *aead_name(void);

/* What is sealed or opened with one nonce, which is never used twice with a key. */
struct aead_head {
	uint8_t nonce[AEAD_NONCE_LEN];
	const void *aad; /* authenticated with it, in the clear */
	size_t aad_len;
};

/* Encrypt the @n pieces of @in one after the other to @out, the tag behind. 0 or -EIO. */
int aead_seal(struct aead *a, const struct aead_head *h, const struct iovec *in, int n,
	      uint8_t *out);
/* Decrypt what is at @in, with the tag behind, into the @n pieces of @out, which tell the length (a
 * single one may be @in itself). 0; -EBADMSG: it is not genuine, and what is in @out is not to be looked at;
 * -EIO. */
int aead_open(struct aead *a, const struct aead_head *h, const uint8_t *in,
	      const struct iovec *out, int n);

#endif
