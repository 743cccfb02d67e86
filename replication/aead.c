/* SPDX-License-Identifier: Apache-2.0
 * aead - AES-GCM (NIST SP 800-38D) by libipsec-mb or by OpenSSL, with the same results.
 *
 * A manager of libipsec-mb is a table of functions for this processor; nothing in it
 * changes once it is made, so all keys share one.
 */
#include "replication/aead.h"

#include <errno.h>
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VECTOR_ALIGN = 64 };

struct aead {
	int seal, wide;	     /* wide: 32 bytes of key */
	EVP_CIPHER_CTX *evp; /* NULL: by vectors */
	struct gcm_key_data *key;
	struct gcm_context_data ctx;
};

static IMB_MGR *vectors; /* NULL: this processor has none */

static void vectors_find(void)
{
	const uint64_t need =
		IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ | IMB_FEATURE_AVX512_SKX;
	IMB_MGR *m = alloc_mb_mgr(0);

	if (!m)
		return;
	if ((m->features & need) != need) {
		free_mb_mgr(m);
		return;
	}
	init_mb_mgr_avx512(m);
	vectors = m;
}

static IMB_MGR *vectors_get(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	return pthread_once(&once, vectors_find) ? NULL : vectors;
}

const char *aead_name(void)
{
	return vectors_get() ? "vector AES" : "OpenSSL";
}

static int create_vector(struct aead *a, const uint8_t *key)
{
	IMB_MGR *m = vectors_get();

	if (!m)
		return -ENOTSUP;
	if (posix_memalign((void **)&a->key, VECTOR_ALIGN, sizeof(*a->key))) {
		a->key = NULL;
		return -ENOMEM;
	}
	if (a->wide)
		IMB_AES256_GCM_PRE(m, key, a->key);
	else
		IMB_AES128_GCM_PRE(m, key, a->key);
	return 0;
}

static int create_openssl(struct aead *a, const uint8_t *key)
{
	const EVP_CIPHER *c = a->wide ? EVP_aes_256_gcm() : EVP_aes_128_gcm();

	a->evp = EVP_CIPHER_CTX_new();
	if (!a->evp)
		return -ENOMEM;
	return EVP_CipherInit_ex(a->evp, c, NULL, key, NULL, a->seal) == 1 ? 0 : -EIO;
}

int aead_create(const uint8_t *key, size_t key_len, int seal, enum aead_by by,
		struct aead **a_out)
{
	struct aead *a;
	int rc;

	if (posix_memalign((void **)&a, VECTOR_ALIGN, sizeof(*a)))
		return -ENOMEM;
	*a = (struct aead){.seal = seal, .wide = key_len == 32};
	if (by == AEAD_OPENSSL || (by == AEAD_BEST && !vectors_get()))
		rc = create_openssl(a, key);
	else
		rc = create_vector(a, key);
	if (rc) {
		aead_destroy(a);
		return rc;
	}
	*a_out = a;
	return 0;
}

void aead_destroy(struct aead *a)
{
	if (!a)
		return;
	EVP_CIPHER_CTX_free(a->evp);
	if (a->key)
		OPENSSL_cleanse(a->key, sizeof(*a->key));
	free(a->key);
	OPENSSL_cleanse(&a->ctx, sizeof(a->ctx));
	free(a);
}

static int openssl_begin(struct aead *a, const struct aead_head *h)
{
	int n;

	return EVP_CipherInit_ex(a->evp, NULL, NULL, NULL, h->nonce, a->seal) == 1 &&
			       EVP_CipherUpdate(a->evp, NULL, &n, h->aad,
						(int)h->aad_len) == 1
		       ? 0
		       : -EIO;
}

static int openssl_seal(struct aead *a, const struct aead_head *h, const struct iovec *in,
			int n, uint8_t *out)
{
	int rc = openssl_begin(a, h), did = 0;

	for (int i = 0; i < n && !rc; i++) {
		if (in[i].iov_len && EVP_EncryptUpdate(a->evp, out, &did, in[i].iov_base,
						       (int)in[i].iov_len) != 1)
			rc = -EIO;
		out += in[i].iov_len;
	}
	if (!rc &&
	    (EVP_EncryptFinal_ex(a->evp, out, &did) != 1 ||
	     EVP_CIPHER_CTX_ctrl(a->evp, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_LEN, out) != 1))
		rc = -EIO;
	return rc;
}

static int openssl_open(struct aead *a, const struct aead_head *h, const uint8_t *in,
			const struct iovec *out, int n)
{
	uint8_t none[AEAD_TAG_LEN];
	int rc = openssl_begin(a, h), did = 0;

	for (int i = 0; i < n && !rc; i++) {
		if (out[i].iov_len && EVP_DecryptUpdate(a->evp, out[i].iov_base, &did, in,
							(int)out[i].iov_len) != 1)
			rc = -EIO;
		in += out[i].iov_len;
	}
	if (rc || EVP_CIPHER_CTX_ctrl(a->evp, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_LEN,
				      (void *)in) != 1)
		return -EIO;
	return EVP_DecryptFinal_ex(a->evp, none, &did) == 1 ? 0 : -EBADMSG;
}

static void vector_begin(struct aead *a, const struct aead_head *h)
{
	if (a->wide)
		IMB_AES256_GCM_INIT(vectors, a->key, &a->ctx, h->nonce, h->aad,
				    h->aad_len);
	else
		IMB_AES128_GCM_INIT(vectors, a->key, &a->ctx, h->nonce, h->aad,
				    h->aad_len);
}

static void vector_seal(struct aead *a, const struct iovec *in, int n, uint8_t *out)
{
	for (int i = 0; i < n; i++) {
		if (!in[i].iov_len)
			continue;
		if (a->wide)
			IMB_AES256_GCM_ENC_UPDATE(vectors, a->key, &a->ctx, out,
						  in[i].iov_base, in[i].iov_len);
		else
			IMB_AES128_GCM_ENC_UPDATE(vectors, a->key, &a->ctx, out,
						  in[i].iov_base, in[i].iov_len);
		out += in[i].iov_len;
	}
	if (a->wide)
		IMB_AES256_GCM_ENC_FINALIZE(vectors, a->key, &a->ctx, out, AEAD_TAG_LEN);
	else
		IMB_AES128_GCM_ENC_FINALIZE(vectors, a->key, &a->ctx, out, AEAD_TAG_LEN);
}

static int vector_open(struct aead *a, const uint8_t *in, const struct iovec *out, int n)
{
	uint8_t tag[AEAD_TAG_LEN];

	for (int i = 0; i < n; i++) {
		if (!out[i].iov_len)
			continue;
		if (a->wide)
			IMB_AES256_GCM_DEC_UPDATE(vectors, a->key, &a->ctx,
						  out[i].iov_base, in, out[i].iov_len);
		else
			IMB_AES128_GCM_DEC_UPDATE(vectors, a->key, &a->ctx,
						  out[i].iov_base, in, out[i].iov_len);
		in += out[i].iov_len;
	}
	if (a->wide)
		IMB_AES256_GCM_DEC_FINALIZE(vectors, a->key, &a->ctx, tag, AEAD_TAG_LEN);
	else
		IMB_AES128_GCM_DEC_FINALIZE(vectors, a->key, &a->ctx, tag, AEAD_TAG_LEN);
	return CRYPTO_memcmp(tag, in, AEAD_TAG_LEN) ? -EBADMSG : 0;
}

int aead_seal(struct aead *a, const struct aead_head *h, const struct iovec *in, int n,
	      uint8_t *out)
{
	if (a->evp)
		return openssl_seal(a, h, in, n, out);
	vector_begin(a, h);
	vector_seal(a, in, n, out);
	return 0;
}

int aead_open(struct aead *a, const struct aead_head *h, const uint8_t *in,
	      const struct iovec *out, int n)
{
	if (a->evp)
		return openssl_open(a, h, in, out, n);
	vector_begin(a, h);
	return vector_open(a, in, out, n);
}
