/* SPDX-License-Identifier: Apache-2.0
 * tlsrec - seals and opens the records of TLS 1.3 (RFC 8446, sections 5 and 7).
 */
#include "replication/tlsrec.h"

#include "replication/aead.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdio.h>
#include <string.h>

enum { KEY_LEN = 16, VERSION = 0x0303, LABEL_MAX = 32 };

/* HKDF-Expand-Label (section 7.1) with an empty context. */
static int expand(const uint8_t *secret, const char *label, uint8_t *out, size_t len)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	char info[4 + LABEL_MAX] = {0, (char)len, (char)(6 + strlen(label))};
	size_t info_len = 4 + 6 + strlen(label);
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, ok;
	OSSL_PARAM p[] = {
		OSSL_PARAM_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret,
					TLSREC_SECRET),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_INFO, info, info_len),
		OSSL_PARAM_END,
	};

	/* The zero behind it is an empty context's length. */
	(void)snprintf(info + 3, sizeof(info) - 3, "tls13 %s", label); /* fits */
	ok = ctx && EVP_KDF_derive(ctx, out, len, p) == 1;
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return ok ? 0 : -EIO;
}

static int take_keys(struct tlsrec *r)
{
	uint8_t key[KEY_LEN];
	int rc = expand(r->secret, "key", key, sizeof(key));

	aead_destroy(r->aead);
	r->aead = NULL;
	r->number = 0;
	if (!rc)
		rc = expand(r->secret, "iv", r->fixed, sizeof(r->fixed));
	if (!rc)
		rc = aead_create(key, sizeof(key), r->seal, AEAD_BEST, &r->aead);
	OPENSSL_cleanse(key, sizeof(key));
	return rc;
}

int tlsrec_init(struct tlsrec *r, const uint8_t secret[TLSREC_SECRET], int seal)
{
	*r = (struct tlsrec){.seal = seal};
	memcpy(r->secret, secret, sizeof(r->secret));
	return take_keys(r);
}

void tlsrec_fini(struct tlsrec *r)
{
	aead_destroy(r->aead);
	OPENSSL_cleanse(r, sizeof(*r));
}

int tlsrec_update(struct tlsrec *r)
{
	uint8_t next[TLSREC_SECRET];
	int rc = expand(r->secret, "traffic upd", next, sizeof(next));

	memcpy(r->secret, next, sizeof(next));
	OPENSSL_cleanse(next, sizeof(next));
	return rc ? rc : take_keys(r);
}

/* What the next record is sealed with, its header @head authenticated. */
static int begin(struct tlsrec *r, const uint8_t *head, struct aead_head *h)
{
	if (r->number == UINT64_MAX || !r->aead)
		return -EIO;
	*h = (struct aead_head){.aad = head, .aad_len = TLSREC_HEAD};
	memcpy(h->nonce, r->fixed, sizeof(h->nonce));
	for (int i = 0; i < 8; i++)
		h->nonce[AEAD_NONCE_LEN - 1 - i] ^= (uint8_t)(r->number >> 8 * i);
	r->number++;
	return 0;
}

long tlsrec_seal(struct tlsrec *r, enum tlsrec_type type, const struct iovec *in, int n,
		 size_t len, uint8_t *out)
{
	uint8_t inner = (uint8_t)type;
	struct iovec v[TLSREC_PIECES];
	size_t cipher = len + TLSREC_MORE;
	struct aead_head h;

	if (n >= TLSREC_PIECES || len > TLSREC_CONTENT_MAX)
		return -EIO;
	memcpy(v, in, (size_t)n * sizeof(*in));
	v[n] = (struct iovec){.iov_base = &inner, .iov_len = 1};
	out[0] = TLSREC_DATA;
	out[1] = VERSION >> 8;
	out[2] = VERSION & 255;
	out[3] = (uint8_t)(cipher >> 8);
	out[4] = (uint8_t)cipher;
	if (begin(r, out, &h) || aead_seal(r->aead, &h, v, n + 1, out + TLSREC_HEAD))
		return -EIO;
	return (long)(TLSREC_HEAD + cipher);
}

long tlsrec_length(const uint8_t *head)
{
	long cipher = head[3] << 8 | head[4];

	if (head[0] != TLSREC_DATA || (head[1] << 8 | head[2]) != VERSION ||
	    cipher < TLSREC_MORE || cipher > TLSREC_CIPHER_MAX)
		return -EBADMSG;
	return TLSREC_HEAD + cipher;
}

long tlsrec_open(struct tlsrec *r, const uint8_t *in, uint8_t *out, int *type_out)
{
	long len = tlsrec_length(in), rc;
	uint8_t last;
	struct iovec v[2];
	struct aead_head h;

	if (len < 0)
		return len;
	len -= TLSREC_HEAD + TLSREC_MORE;
	v[0] = (struct iovec){.iov_base = out, .iov_len = (size_t)len};
	v[1] = (struct iovec){.iov_base = &last, .iov_len = 1};
	rc = begin(r, in, &h);
	if (!rc)
		rc = aead_open(r->aead, &h, in + TLSREC_HEAD, v, 2);
	if (rc)
		return rc;
	/* The type is the last byte that is not zero: a peer may fill a record up. */
	while (!last && len > 0)
		last = out[--len];
	*type_out = last;
	return last && len <= TLSREC_CONTENT_MAX ? len : -EBADMSG;
}
