/* SPDX-License-Identifier: Apache-2.0
 * test_tlsrec - records of TLS 1.3: what OpenSSL sends and takes, and what no attacker gets through;
 * AES-GCM by each code that there is.
 */
#include "hv/base/err.h"
#include "replication/aead.h"
#include "replication/tlsrec.h"
#include "replication/transport.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>

static const uint8_t secret[TLSREC_SECRET] = "a secret of thirty-two bytes...";

/* The same key, nonce and bytes by both codes, in pieces of all sizes: the same result, which the other
 * one opens. On a processor without vectors both are OpenSSL. */
static void test_codes(void)
{
	static uint8_t in[20000], sealed[2][sizeof(in) + AEAD_TAG_LEN], back[sizeof(in)];
	static const uint8_t key[32] = "key";
	struct aead_head h = {.nonce = "nonce", .aad = "head.", .aad_len = 5};
	struct aead *a[2][2];

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7);
	for (size_t kl = 16; kl <= 32; kl += 16) {
		for (int seal = 0; seal < 2; seal++) {
			CU_ASSERT_EQUAL_FATAL(
				aead_create(key, kl, seal, AEAD_OPENSSL, &a[0][seal]), 0);
			CU_ASSERT_EQUAL_FATAL(
				aead_create(key, kl, seal, AEAD_BEST, &a[1][seal]), 0);
		}
		for (size_t len = 0; len <= sizeof(in); len += 1 + len / 3) {
			size_t cut = len / 3;
			struct iovec v[3] = {
				{in, cut}, {in + cut, 0}, {in + cut, len - cut}};
			struct iovec w[2] = {{back, cut}, {back + cut, len - cut}};

			for (int by = 0; by < 2; by++)
				CU_ASSERT_EQUAL(aead_seal(a[by][1], &h, v, 3, sealed[by]),
						0);
			CU_ASSERT_EQUAL(memcmp(sealed[0], sealed[1], len + AEAD_TAG_LEN),
					0);
			for (int by = 0; by < 2; by++) {
				memset(back, 0, len);
				CU_ASSERT_EQUAL(
					aead_open(a[by][0], &h, sealed[!by], w, 2), 0);
				CU_ASSERT_EQUAL(memcmp(back, in, len), 0);
				sealed[!by][len / 2] ^= 1;
				CU_ASSERT_EQUAL(
					aead_open(a[by][0], &h, sealed[!by], w, 2),
					-EBADMSG);
				sealed[!by][len / 2] ^= 1;
			}
		}
		for (int i = 0; i < 4; i++)
			aead_destroy(a[i / 2][i % 2]);
	}
}

static void pair_of(struct tlsrec r[2])
{
	for (int seal = 0; seal < 2; seal++)
		CU_ASSERT_EQUAL_FATAL(tlsrec_init(&r[seal], secret, seal), 0);
}

static long seal_text(struct tlsrec *r, enum tlsrec_type type, const char *text,
		      uint8_t *out)
{
	struct iovec v = {.iov_base = (void *)text, .iov_len = strlen(text)};

	return tlsrec_seal(r, type, &v, 1, v.iov_len, out);
}

static void test_records(void)
{
	uint8_t wire[3][TLSREC_MAX], out[TLSREC_CIPHER_MAX];
	struct tlsrec r[2];
	long len[3];
	int type;

	pair_of(r);
	len[0] = seal_text(&r[1], TLSREC_DATA, "one", wire[0]);
	len[1] = seal_text(&r[1], TLSREC_ALERT, "", wire[1]);
	CU_ASSERT_EQUAL(tlsrec_update(&r[1]), 0);
	len[2] = seal_text(&r[1], TLSREC_DATA, "two", wire[2]);
	for (int i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(tlsrec_length(wire[i]), len[i]);
	CU_ASSERT_EQUAL(len[0], TLSREC_HEAD + 3 + TLSREC_MORE);
	CU_ASSERT_EQUAL(tlsrec_open(&r[0], wire[0], out, &type), 3);
	CU_ASSERT(!memcmp(out, "one", 3) && type == TLSREC_DATA);
	CU_ASSERT_EQUAL(tlsrec_open(&r[0], wire[1], out, &type), 0);
	CU_ASSERT_EQUAL(type, TLSREC_ALERT);
	CU_ASSERT_EQUAL(tlsrec_update(&r[0]), 0);
	CU_ASSERT_EQUAL(tlsrec_open(&r[0], wire[2], out, &type), 3);
	CU_ASSERT(!memcmp(out, "two", 3) && type == TLSREC_DATA);
	tlsrec_fini(&r[0]);
	tlsrec_fini(&r[1]);
}

/* Each bit of a record, a record twice, left out, or under the keys before. */
static void test_attacks(void)
{
	uint8_t wire[2][TLSREC_MAX], out[TLSREC_CIPHER_MAX];
	struct tlsrec r[2];
	int type;
	long len;

	for (long bit = 0, more = 1; more; bit++) {
		pair_of(r);
		len = seal_text(&r[1], TLSREC_DATA, "content", wire[0]);
		/* Length bytes apart: whoever reads takes more or less from the wire then. */
		if (bit / 8 != 3 && bit / 8 != 4) {
			wire[0][bit / 8] ^= (uint8_t)(1 << bit % 8);
			CU_ASSERT_EQUAL(tlsrec_open(&r[0], wire[0], out, &type),
					-EBADMSG);
		}
		more = bit + 1 < 8 * len;
		tlsrec_fini(&r[0]);
		tlsrec_fini(&r[1]);
	}
	for (int how = 0; how < 3; how++) {
		pair_of(r);
		CU_ASSERT(seal_text(&r[1], TLSREC_DATA, "content", wire[0]) > 0);
		CU_ASSERT(seal_text(&r[1], TLSREC_DATA, "content", wire[1]) > 0);
		if (how == 2)
			CU_ASSERT_EQUAL(tlsrec_update(&r[0]), 0);
		if (how == 0)
			CU_ASSERT_EQUAL(tlsrec_open(&r[0], wire[0], out, &type), 7);
		CU_ASSERT_EQUAL(tlsrec_open(&r[0], wire[how == 1], out, &type), -EBADMSG);
		tlsrec_fini(&r[0]);
		tlsrec_fini(&r[1]);
	}
}

static void test_lengths(void)
{
	static const struct {
		uint8_t head[TLSREC_HEAD];
		long want;
	} row[] = {{{23, 3, 3, 0, 17}, 22},
		   {{23, 3, 3, 0, 16}, -EBADMSG},
		   {{23, 3, 3, 0x41, 0}, 5 + TLSREC_CIPHER_MAX},
		   {{23, 3, 3, 0x41, 1}, -EBADMSG},
		   {{23, 3, 1, 0, 17}, -EBADMSG},
		   {{21, 3, 3, 0, 17}, -EBADMSG}};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		CU_ASSERT_EQUAL(tlsrec_length(row[i].head), row[i].want);
}

/* An OpenSSL that does its own records, at either end. */
struct other {
	int fd, server;
	int updates; /* of our keys, as it hears of them */
	const char *wrong;
	pthread_t thread;
};

static SSL_SESSION *other_session(SSL *ssl)
{
	static const unsigned char id[2] = {0x13, 0x01};
	SSL_SESSION *s = SSL_SESSION_new();

	CU_ASSERT_FATAL(s && SSL_SESSION_set1_master_key(s, link_psk, TP_PSK_LEN) &&
			SSL_SESSION_set_cipher(s, SSL_CIPHER_find(ssl, id)) &&
			SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION));
	return s;
}

static int use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *len,
	       SSL_SESSION **out)
{
	*id = (const unsigned char *)"p";
	*len = 1;
	*out = other_session(ssl);
	return 1;
}

static int find(SSL *ssl, const unsigned char *id, size_t len, SSL_SESSION **out)
{
	*out = other_session(ssl);
	return 1;
}

enum { BULK = 300000 };

enum { ROUNDS = 3 };

/* Echoes all of it, changes its keys and asks for ours to be changed. */
static const char *echo(SSL *ssl)
{
	static uint8_t b[BULK];
	size_t n, did;

	for (int round = 0; round < ROUNDS; round++) {
		for (n = 0; n < BULK; n += did)
			if (!SSL_read_ex(ssl, b + n, BULK - n, &did))
				return "read";
		if (!SSL_key_update(ssl, round ? SSL_KEY_UPDATE_REQUESTED
					       : SSL_KEY_UPDATE_NOT_REQUESTED))
			return "key update";
		for (n = 0; n < BULK; n += did)
			if (!SSL_write_ex(ssl, b + n, n < BULK / 2 ? 1 + n : BULK - n,
					  &did))
				return "write";
	}
	return NULL;
}

static void on_message(int sent, int version, int type, const void *p, size_t len,
		       SSL *ssl, void *arg)
{
	if (!sent && type == SSL3_RT_HANDSHAKE &&
	    *(const uint8_t *)p == SSL3_MT_KEY_UPDATE)
		++*(int *)arg;
}

static void *other_main(void *arg)
{
	struct other *o = arg;
	SSL_CTX *ctx = SSL_CTX_new(o->server ? TLS_server_method() : TLS_client_method());
	SSL *ssl;

	SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
	SSL_CTX_set_block_padding(ctx, 512);
	SSL_CTX_set_psk_use_session_callback(ctx, use);
	SSL_CTX_set_psk_find_session_callback(ctx, find);
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, o->fd);
	SSL_set_msg_callback(ssl, on_message);
	SSL_set_msg_callback_arg(ssl, &o->updates);
	o->wrong = (o->server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1 ? echo(ssl)
									 : "handshake";
	(void)SSL_shutdown(ssl); /* half of it is enough */
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return NULL;
}

/* @rekey: our keys change by themselves after so many bytes. Asked to, they change in any case; what the last
 * round asks for has no bytes to go before. */
static void with_openssl(int server, uint64_t rekey, int updates)
{
	static uint8_t out[BULK], in[BULK];
	struct iovec v = {.iov_base = out, .iov_len = BULK};
	struct other o = {.server = !server};
	struct err err = {0};
	struct tp *tp = NULL;
	int fd[2];

	link_sockets(fd);
	o.fd = fd[0];
	CU_ASSERT_EQUAL_FATAL(pthread_create(&o.thread, NULL, other_main, &o), 0);
	CU_ASSERT_EQUAL(tp_tcp_open(fd[1], server, "p", link_psk, 20000, &tp, &err), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(tp);
	tp_tcp_set_rekey(tp, rekey);
	for (int round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < BULK; i++)
			out[i] = (uint8_t)(i * 31 + (size_t)round);
		memset(in, 0, sizeof(in));
		CU_ASSERT(!tp_send(tp, &v, 1) && !tp_flush(tp));
		CU_ASSERT_EQUAL(tp_recv(tp, in, BULK), 0);
		CU_ASSERT_EQUAL(memcmp(in, out, BULK), 0);
	}
	CU_ASSERT_EQUAL(tp_recv(tp, in, 1), -EPIPE);
	CU_ASSERT_EQUAL(pthread_join(o.thread, NULL), 0);
	CU_ASSERT_PTR_NULL(o.wrong);
	CU_ASSERT_EQUAL(o.updates, updates);
	tp_close(tp);
	CU_ASSERT_EQUAL(close(fd[0]), 0);
}

static void test_openssl_client(void)
{
	with_openssl(1, 1 << 30, 1);
	with_openssl(1, 100000, 8);
}

static void test_openssl_server(void)
{
	with_openssl(0, 1 << 30, 1);
	with_openssl(0, 100000, 8);
}

static const struct unit_test tests[] = {
	{"AES-GCM by each code", test_codes},
	{"records", test_records},
	{"no record but the next one", test_attacks},
	{"lengths", test_lengths},
	{"with OpenSSL as the client", test_openssl_client},
	{"with OpenSSL as the server", test_openssl_server},
};

int main(void)
{
	return UNIT_MAIN("tlsrec", tests);
}
