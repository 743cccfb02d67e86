/* SPDX-License-Identifier: Apache-2.0
 * tls - TLS 1.3 with an external pre-shared key (RFC 8446, section 4.2.11; OpenSSL 3).
 *
 * Theory of operation. The raw key is put into a session object, as if an earlier
 * connection had left it behind; the client offers it under the pair's name, and the
 * server answers only to that name. There are no certificates: a server that would not
 * use the key fails at the client's verification, and a client that does not prove it
 * ends in an alert.
 *
 * When it is done, the secrets of both directions are taken out by the callback that OpenSSL
 * has for key logs, and OpenSSL sees no more of the connection. It reads record by record, so
 * nothing of what follows is lost in its buffers.
 *
 * OpenSSL gets the socket through a BIO of ours, because its own one would raise SIGPIPE
 * when the peer is gone, and hides what the socket said.
 */
#include "replication/tls.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#define CIPHER_NAME "TLS_AES_128_GCM_SHA256"
static const unsigned char cipher_id[2] = {0x13, 0x01};

/* What the callbacks need while the handshake runs. */
struct creds {
	const char *identity;
	const uint8_t *psk;
	int other_identity; /* the client named another pair */
	struct tls *tls;
	int secrets; /* bits: which have come */
};

static int bio_write(BIO *b, const char *p, int len)
{
	struct tls *t = BIO_get_data(b);
	ssize_t n = send(t->fd, p, (size_t)len, MSG_NOSIGNAL);

	BIO_clear_retry_flags(b);
	if (n >= 0)
		return (int)n;
	if (errno == EAGAIN || errno == EINTR)
		BIO_set_retry_write(b);
	else
		t->io_errno = errno;
	return -1;
}

static int bio_read(BIO *b, char *p, int len)
{
	struct tls *t = BIO_get_data(b);
	ssize_t n = recv(t->fd, p, (size_t)len, 0);

	BIO_clear_retry_flags(b);
	if (n > 0)
		return (int)n;
	if (n == 0)
		t->eof = 1;
	else if (errno == EAGAIN || errno == EINTR)
		BIO_set_retry_read(b);
	else
		t->io_errno = errno;
	return n == 0 ? 0 : -1;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	const struct tls *t = BIO_get_data(b);

	(void)num; /* BIO's signature */
	(void)ptr;
	if (cmd == BIO_CTRL_EOF)
		return t->eof;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;

static void bio_method_make(void)
{
	BIO_METHOD *m =
		BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "rhea socket");

	if (m && BIO_meth_set_write(m, bio_write) && BIO_meth_set_read(m, bio_read) &&
	    BIO_meth_set_ctrl(m, bio_ctrl))
		bio_method = m;
	else
		BIO_meth_free(m);
}

static SSL_SESSION *session_of(SSL *ssl, const struct creds *c)
{
	SSL_SESSION *s = SSL_SESSION_new();
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, cipher_id);

	if (s && cipher && SSL_SESSION_set1_master_key(s, c->psk, TLS_PSK_LEN) &&
	    SSL_SESSION_set_cipher(s, cipher) &&
	    SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
		return s;
	SSL_SESSION_free(s);
	return NULL;
}

/* The client's offer. */
static int use_session(SSL *ssl, const EVP_MD *md, const unsigned char **id,
		       size_t *id_len, SSL_SESSION **session_out)
{
	const struct creds *c = SSL_get_app_data(ssl);

	(void)md; /* there is one cipher, so one hash */
	*id = (const unsigned char *)c->identity;
	*id_len = strlen(c->identity);
	*session_out = session_of(ssl, c);
	return *session_out != NULL;
}

/* The server's answer. No session means "go on without", which fails for want of anything
 * else to go on with. */
static int find_session(SSL *ssl, const unsigned char *id, size_t id_len,
			SSL_SESSION **session_out)
{
	struct creds *c = SSL_get_app_data(ssl);

	*session_out = NULL;
	if (id_len != strlen(c->identity) || memcmp(id, c->identity, id_len) != 0) {
		c->other_identity = 1;
		return 1;
	}
	*session_out = session_of(ssl, c);
	return *session_out != NULL;
}

/* A line of NSS's key log format: label, client's random number, secret. */
static void keep_secret(const SSL *ssl, const char *line)
{
	static const char *const label[2] = {"CLIENT_TRAFFIC_SECRET_0 ",
					     "SERVER_TRAFFIC_SECRET_0 "};
	struct creds *c = SSL_get_app_data(ssl);
	const char *hex = strrchr(line, ' ');
	size_t n = 0;

	for (int i = 0; i < 2 && hex; i++)
		if (!strncmp(line, label[i], strlen(label[i])) &&
		    OPENSSL_hexstr2buf_ex(c->tls->secret[i], TLS_SECRET_LEN, &n, hex + 1,
					  0) == 1 &&
		    n == TLS_SECRET_LEN)
			c->secrets |= 1 << i;
}

static SSL_CTX *context_make(int server)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	if (!ctx)
		return NULL;
	if (!SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, CIPHER_NAME) ||
	    !SSL_CTX_set1_groups_list(ctx, "X25519:P-256") ||
	    (server && !SSL_CTX_set_num_tickets(ctx, 0))) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	(void)SSL_CTX_set_session_cache_mode(
		ctx, SSL_SESS_CACHE_OFF); /* returns the old mode */
	if (server) {
		SSL_CTX_set_psk_find_session_callback(ctx, find_session);
	} else {
		SSL_CTX_set_psk_use_session_callback(ctx, use_session);
		/* No certificate is trusted, so only the key can pass. */
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	}
	SSL_CTX_set_keylog_callback(ctx, keep_secret);
	return ctx;
}

static SSL *ssl_make(struct tls *t, int server)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	SSL_CTX *ctx = context_make(server);
	SSL *ssl = ctx ? SSL_new(ctx) : NULL;
	BIO *bio = NULL;

	SSL_CTX_free(ctx); /* the SSL holds it */
	if (!ssl)
		return NULL;
	if (!pthread_once(&once, bio_method_make) && bio_method)
		bio = BIO_new(bio_method);
	if (!bio) {
		SSL_free(ssl);
		return NULL;
	}
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(ssl, bio, bio);
	if (server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return ssl;
}

/* What to poll for after @r, or 0 when it was an error. */
static short want(SSL *ssl, int r)
{
	switch (SSL_get_error(ssl, r)) {
	case SSL_ERROR_WANT_READ:
		return POLLIN;
	case SSL_ERROR_WANT_WRITE:
		return POLLOUT;
	default:
		return 0;
	}
}

/* What a failed step means in transport.h's words. */
static int io_error(struct tls *t, int r)
{
	int e = SSL_get_error(t->ssl, r);

	if (e == SSL_ERROR_ZERO_RETURN)
		return -EPIPE;
	if (t->io_errno)
		return t->io_errno == EPIPE ? -ECONNRESET : -t->io_errno;
	if (t->eof)
		return -ECONNRESET;
	return -EBADMSG;
}

static int is_not_tls(int reason)
{
	switch (reason) {
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_UNKNOWN_PROTOCOL:
	case SSL_R_PACKET_LENGTH_TOO_LONG:
	case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
	case SSL_R_BAD_RECORD_TYPE:
	case SSL_R_UNEXPECTED_MESSAGE:
	case SSL_R_UNEXPECTED_RECORD:
	case SSL_R_RECORD_LENGTH_MISMATCH:
		return 1;
	default:
		return 0;
	}
}

#define SAME_CONFIG "the pair's name and key must be the same in the config of both hosts"

static int handshake_error(struct tls *t, const struct creds *c, int r, struct err *err)
{
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
	int rc;

	if (c->other_identity)
		return err_set(err, -EACCES, "the peer names another pair: " SAME_CONFIG);
	if (reason == SSL_R_BINDER_DOES_NOT_VERIFY)
		return err_set(err, -EACCES, "the peer has another key: " SAME_CONFIG);
	if (is_not_tls(reason))
		return err_set(err, -EPROTO,
			       "the peer does not speak TLS 1.3: is it a Rhea "
			       "host, and the right port?");
	if (reason >= SSL_AD_REASON_OFFSET)
		return err_set(err, -EACCES, "the peer refused us (%s): " SAME_CONFIG,
			       ERR_reason_error_string(code));
	rc = io_error(t, r);
	if (rc != -EBADMSG)
		return err_sys(err, rc, "the peer went away during the TLS handshake");
	return err_set(err, -EACCES,
		       "the peer did not prove that it has the key (%s): " SAME_CONFIG,
		       code ? ERR_reason_error_string(code) : "no reason given");
}

static int handshake(struct tls *t, const struct creds *c, unsigned timeout_ms,
		     struct err *err)
{
	uint64_t until = clock_mono_ns() + timeout_ms * 1000000ull, now;
	struct pollfd p = {.fd = t->fd};
	int r;

	for (;;) {
		ERR_clear_error();
		r = SSL_do_handshake(t->ssl);
		if (r == 1)
			break;
		p.events = want(t->ssl, r);
		if (!p.events)
			return handshake_error(t, c, r, err);
		now = clock_mono_ns();
		if (now >= until)
			return err_set(
				err, -ETIMEDOUT,
				"the peer did not finish the TLS handshake in %u ms",
				timeout_ms);
		r = poll(&p, 1, (int)((until - now) / 1000000 + 1));
		if (r < 0 && errno != EINTR)
			return err_sys(err, -errno, "waiting for the TLS handshake");
	}
	if (!SSL_session_reused(t->ssl))
		return err_set(err, -EACCES, "the peer did not use the pair's key");
	if (c->secrets != 3 || SSL_has_pending(t->ssl))
		return err_set(err, -EPROTO, "the TLS handshake left no clean end");
	return 0;
}

int tls_init(struct tls *t, int fd, int server, const char *identity,
	     const uint8_t psk[TLS_PSK_LEN], unsigned timeout_ms, struct err *err)
{
	struct creds c = {.identity = identity, .psk = psk, .tls = t};
	int rc;

	*t = (struct tls){.fd = fd};
	t->ssl = ssl_make(t, server);
	if (!t->ssl || !SSL_set_app_data(t->ssl, &c)) {
		rc = err_set(err, -ENOMEM, "setting up TLS failed (%s)",
			     ERR_reason_error_string(ERR_peek_error()));
		goto out;
	}
	rc = handshake(t, &c, timeout_ms, err);
	if (!rc)
		(void)SSL_set_app_data(t->ssl,
				       NULL); /* c ends here; clearing cannot fail */
out:
	ERR_clear_error();
	if (rc)
		tls_fini(t);
	return rc;
}

void tls_fini(struct tls *t)
{
	SSL_free(t->ssl);
	t->ssl = NULL;
	OPENSSL_cleanse(t->secret, sizeof(t->secret));
}

int tls_export(struct tls *t, const char *label, const void *context, size_t context_len,
	       void *out, size_t len)
{
	ERR_clear_error();
	return SSL_export_keying_material(t->ssl, out, len, label, strlen(label), context,
					  context_len, 1) == 1
		       ? 0
		       : -EIO;
}
