/* SPDX-License-Identifier: Apache-2.0
 * seal_key - derives, renews and uses the keys of one direction (HKDF, RFC 5869; AES-256-GCM,
 * NIST SP 800-38D).
 */
#include "replication/seal_key.h"

#include "replication/aead.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

/* HKDF-Expand with SHA-256. The secret is uniformly random already, so there is no Extract. */
static int expand(const uint8_t *secret, const char *label, uint8_t *out, size_t len)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, ok;
	OSSL_PARAM p[] = {
		OSSL_PARAM_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret,
					SEAL_SECRET_LEN),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_INFO, (void *)label,
					strlen(label)),
		OSSL_PARAM_END,
	};

	ok = ctx && EVP_KDF_derive(ctx, out, len, p) == 1;
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return ok ? 0 : -EIO;
}

static int take_keys(struct seal_key *k)
{
	uint8_t key[SEAL_KEY_LEN];
	int rc = expand(k->secret, "rhea seal key", key, sizeof(key));

	if (!rc)
		rc = expand(k->secret, "rhea seal nonce", k->fixed, sizeof(k->fixed));
	aead_destroy(k->aead);
	k->aead = NULL;
	if (!rc)
		rc = aead_create(key, sizeof(key), k->encrypt, AEAD_BEST, &k->aead);
	OPENSSL_cleanse(key, sizeof(key));
	k->rekey_left = k->rekey_every;
	return rc;
}

int seal_key_init(struct seal_key *k, const uint8_t secret[SEAL_SECRET_LEN], int encrypt)
{
	*k = (struct seal_key){.encrypt = encrypt, .rekey_every = SEAL_REKEY_RECORDS};
	memcpy(k->secret, secret, sizeof(k->secret));
	return take_keys(k) ? -EIO : 0;
}

void seal_key_fini(struct seal_key *k)
{
	aead_destroy(k->aead);
	OPENSSL_cleanse(k, sizeof(*k));
}

/* A key that is stolen after this opens nothing that was recorded before. */
static int renew(struct seal_key *k)
{
	uint8_t next[SEAL_SECRET_LEN];
	int rc = expand(k->secret, "rhea seal next", next, sizeof(next));

	memcpy(k->secret, next, sizeof(next));
	k->renewed++;
	OPENSSL_cleanse(next, sizeof(next));
	return rc ? rc : take_keys(k);
}

/* What the record with the next number is sealed with. Both ends count, so nothing has to be said
 * about new keys. */
static int begin(struct seal_key *k, const struct seal_wire *h, struct aead_head *a)
{
	int rc = 0;

	if (!k->rekey_left)
		rc = renew(k);
	if (rc || !k->aead || k->counter == UINT64_MAX)
		return -EIO;
	*a = (struct aead_head){.aad = h, .aad_len = sizeof(*h)};
	memcpy(a->nonce, k->fixed, sizeof(a->nonce));
	for (int i = 0; i < 8; i++)
		a->nonce[SEAL_NONCE_LEN - 1 - i] ^= (uint8_t)(k->counter >> 8 * i);
	k->counter++;
	k->rekey_left--;
	return 0;
}

int seal_key_put(struct seal_key *k, uint8_t type, const struct iovec *iov, int n,
		 uint32_t len, uint8_t *out)
{
	struct seal_wire h = {.len = le32_of(len), .type = type};
	struct aead_head a;
	int rc = begin(k, &h, &a);

	memcpy(out, &h, sizeof(h));
	return rc ? rc : aead_seal(k->aead, &a, iov, n, out + sizeof(h));
}

int seal_key_get(struct seal_key *k, const struct seal_wire *h, const uint8_t *in,
		 uint8_t *out)
{
	struct iovec v = {.iov_base = out, .iov_len = le32_get(h->len)};
	struct aead_head a;
	int rc = begin(k, h, &a);

	return rc ? rc : aead_open(k->aead, &a, in, &v, 1);
}
