/* SPDX-License-Identifier: Apache-2.0
 * seal_key - the keys of one direction of a sealed transport, and what they do to a record.
 */
#ifndef REPLICATION_SEAL_KEY_H
#define REPLICATION_SEAL_KEY_H

#include <stdint.h>
#include <sys/uio.h>

#include "replication/seal.h"

struct aead;

enum { SEAL_KEY_LEN = 32, SEAL_NONCE_LEN = 12 };

/* Not locked: one call at a time. */
struct seal_key {
	struct aead *aead;
	uint8_t secret[SEAL_SECRET_LEN];
	uint8_t fixed[SEAL_NONCE_LEN]; /* the counter is XORed into its end */
	uint64_t counter; /* of records in this direction; never begins anew */
	uint64_t rekey_every, rekey_left;
	uint64_t renewed; /* times */
	int encrypt;
};

/* 0 or -EIO. seal_key_fini() is due in any case. */
int seal_key_init(struct seal_key *k, const uint8_t secret[SEAL_SECRET_LEN], int encrypt);
void seal_key_fini(struct seal_key *k);

/* Seal the @n pieces, which are @len bytes together, as one record into @out, which has room for
 * header, content and tag. 0 or -EIO. */
int seal_key_put(struct seal_key *k, uint8_t type, const struct iovec *iov, int n,
		 uint32_t len, uint8_t *out);
/* Open the record with header @h: h->len bytes of content at @in with the tag behind, into
 * @out (which may be @in). 0; -EBADMSG: it is not the record that is next, and @out is not to be
 * looked at; -EIO. */
int seal_key_get(struct seal_key *k, const struct seal_wire *h, const uint8_t *in,
		 uint8_t *out);

#endif
