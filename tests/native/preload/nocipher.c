/* SPDX-License-Identifier: Apache-2.0
 * nocipher - for LD_PRELOAD: AES-GCM that changes nothing and believes everything.
 *
 * So test_capture can show that its search would find what TLS and the seal hide: both ends run the same
 * programs, with this in the place of libcrypto's cipher, and without libipsec-mb's.
 */
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <openssl/evp.h>
#include <string.h>

/* As on a processor that has no vectors: then it is libcrypto that is asked. */
IMB_MGR *alloc_mb_mgr(uint64_t flags)
{
	return NULL;
}

static int is_gcm(const EVP_CIPHER_CTX *c)
{
	const EVP_CIPHER *cipher = EVP_CIPHER_CTX_get0_cipher(c);

	return cipher && EVP_CIPHER_get_mode(cipher) == EVP_CIPH_GCM_MODE;
}

typedef int update_fn(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out,
		      const unsigned char *in, int len);
typedef int final_fn(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out);
typedef int ctrl_fn(EVP_CIPHER_CTX *c, int type, int arg, void *p);

/* Without @out it is data that is only authenticated. */
static int update(const char *name, EVP_CIPHER_CTX *c, unsigned char *out, int *len_out,
		  const unsigned char *in, int len)
{
	if (!is_gcm(c))
		return ((update_fn *)dlsym(RTLD_NEXT, name))(c, out, len_out, in, len);
	if (out)
		memmove(out, in, (size_t)len);
	*len_out = len;
	return 1;
}

static int final(const char *name, EVP_CIPHER_CTX *c, unsigned char *out, int *len_out)
{
	if (!is_gcm(c))
		return ((final_fn *)dlsym(RTLD_NEXT, name))(c, out, len_out);
	*len_out = 0;
	return 1;
}

int EVP_CipherUpdate(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out,
		     const unsigned char *in, int len)
{
	return update(__func__, c, out, len_out, in, len);
}

int EVP_EncryptUpdate(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out,
		      const unsigned char *in, int len)
{
	return update(__func__, c, out, len_out, in, len);
}

int EVP_DecryptUpdate(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out,
		      const unsigned char *in, int len)
{
	return update(__func__, c, out, len_out, in, len);
}

int EVP_CipherFinal_ex(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out)
{
	return final(__func__, c, out, len_out);
}

int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out)
{
	return final(__func__, c, out, len_out);
}

int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *c, unsigned char *out, int *len_out)
{
	return final(__func__, c, out, len_out);
}

int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *c, int type, int arg, void *p)
{
	if (!is_gcm(c) ||
	    (type != EVP_CTRL_AEAD_GET_TAG && type != EVP_CTRL_AEAD_SET_TAG))
		return ((ctrl_fn *)dlsym(RTLD_NEXT, __func__))(c, type, arg, p);
	if (type == EVP_CTRL_AEAD_GET_TAG)
		memset(p, 0, (size_t)arg);
	return 1;
}
