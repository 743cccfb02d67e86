/* SPDX-License-Identifier: Apache-2.0
 * pairing_msg - messages of `rheactl pair`: framing, sending, receiving.
 */
#include "ctl/pairing_msg.h"

#include "ctl/pairing_reach.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	size_t min, max;
} types[PAIRING_NTYPES] = {
	[PAIRING_HELLO] = {"hello", 1, PAIRING_HELLO_MAX},
	[PAIRING_CONFIG] = {"config", 1, CONFIG_FILE_MAX},
	[PAIRING_OUTLINE] = {"outline", 0, CONFIG_FILE_MAX},
	[PAIRING_REACH] = {"reach", 0, PAIRING_REACH_TEXT_MAX},
	[PAIRING_KEY] = {"key", CONFIG_KEY_LEN, CONFIG_KEY_LEN},
	[PAIRING_PROOF] = {"proof", PAIRING_PROOF_LEN, PAIRING_PROOF_LEN},
	[PAIRING_READY] = {"ready", 0, 0},
	[PAIRING_COMMIT] = {"commit", 0, 0},
	[PAIRING_DONE] = {"done", 0, 0},
	[PAIRING_ERROR] = {"error", 1, ERR_MSG_MAX},
};

void pairing_tame(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
			*text = '?';
}

int pairing_header_parse(const char *line, size_t len, enum pairing_type *type_out,
			 size_t *len_out, struct err *err)
{
	size_t n, at, v = 0;

	for (unsigned i = 0; i < PAIRING_NTYPES; i++) {
		n = strlen(types[i].name);
		if (len <= n + 1 || memcmp(line, types[i].name, n) != 0 || line[n] != ' ')
			continue;
		for (at = n + 1; at < len && line[at] >= '0' && line[at] <= '9' &&
				 v <= CONFIG_FILE_MAX;
		     at++)
			v = v * 10 + (size_t)(line[at] - '0');
		if (at < len && v <= CONFIG_FILE_MAX)
			break;
		if (v < types[i].min || v > types[i].max)
			return err_set(
				err, -E2BIG, "it sent a message \"%s\" of %s length",
				types[i].name, v > types[i].max ? "too great a" : "no");
		*type_out = (enum pairing_type)i;
		*len_out = v;
		return 0;
	}
	return err_set(err, -EPROTO, "it did not speak the language of rheactl pair");
}

static int put_all(int fd, const char *p, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(fd, p, len);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

int pairing_put(const struct pairing_io *io, enum pairing_type type, const void *body,
		size_t len, struct err *err)
{
	char line[PAIRING_HEADER_MAX];
	int n = snprintf(line, sizeof(line), "%s %zu\n", types[type].name, len);
	int rc = put_all(io->out, line, (size_t)n);

	if (!rc)
		rc = put_all(io->out, body, len);
	return rc ? err_sys(err, rc, "send \"%s\"", types[type].name) : 0;
}

/* Some bytes before @until. The count, or -errno; the end of the stream is -EPIPE. */
static ssize_t get_some(int fd, void *p, size_t len, uint64_t until)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	uint64_t now;
	ssize_t n;
	int rc;

	for (;;) {
		now = clock_mono_ns();
		rc = now < until ? poll(&pfd, 1, (int)((until - now) / 1000000 + 1)) : 0;
		if (!rc)
			return -ETIMEDOUT;
		n = rc < 0 ? -1 : read(fd, p, len);
		if (n > 0)
			return n;
		if (!n)
			return -EPIPE;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
}

/* Byte by byte: what comes behind the header may be a key, and must not stay in a buffer. */
static int get_header(const struct pairing_io *io, uint64_t until, char *line,
		      size_t *len)
{
	ssize_t n;

	for (*len = 0; *len < PAIRING_HEADER_MAX; ++*len) {
		n = get_some(io->in, line + *len, 1, until);
		if (n < 0)
			return (int)n;
		if (line[*len] == '\n')
			return 0;
	}
	return 0; /* too long: the parser refuses it */
}

static int get_body(const struct pairing_io *io, uint64_t until, struct pairing_msg *m)
{
	size_t got = 0;
	ssize_t n = 0;

	m->body = calloc(1, m->len + 1);
	if (!m->body)
		return -ENOMEM;
	while (got < m->len) {
		n = get_some(io->in, m->body + got, m->len - got, until);
		if (n < 0)
			return (int)n;
		got += (size_t)n;
	}
	return 0;
}

static int refuse_header(const char *line, size_t len, struct err *err)
{
	char said[PAIRING_HEADER_MAX + 1] = "";

	if (err->code != -EPROTO)
		return err->code;
	memcpy(said, line, len);
	pairing_tame(said);
	return err_set(
		err, -EPROTO,
		"it said \"%s\", which rheactl pair does not: has it another version, or "
		"does a login script there print something?",
		said);
}

static int get_msg(const struct pairing_io *io, struct pairing_msg *m, struct err *err)
{
	uint64_t until = clock_mono_ns() + (uint64_t)io->wait_ms * 1000000;
	char line[PAIRING_HEADER_MAX] = "";
	size_t len;
	int rc = get_header(io, until, line, &len);

	if (!rc && pairing_header_parse(line, len, &m->type, &m->len, err))
		return refuse_header(line, len, err);
	if (!rc)
		rc = get_body(io, until, m);
	if (rc == -EPIPE)
		return err_set(err, rc, "it hung up");
	if (rc)
		return err_sys(err, rc, "no answer");
	return 0;
}

int pairing_get(const struct pairing_io *io, unsigned want, struct pairing_msg *m,
		struct err *err)
{
	int rc;

	*m = (struct pairing_msg){0};
	rc = get_msg(io, m, err);
	if (!rc && m->type == PAIRING_ERROR) {
		pairing_tame((char *)m->body);
		rc = err_set(err, -EREMOTEIO, "%s",
			     m->body[0] ? (char *)m->body : "it does not say why");
	} else if (!rc && !(want >> m->type & 1)) {
		rc = err_set(err, -EPROTO, "it sent \"%s\" out of turn",
			     types[m->type].name);
	}
	if (rc)
		pairing_msg_fini(m);
	return rc;
}

void pairing_msg_fini(struct pairing_msg *m)
{
	if (m->body)
		explicit_bzero(m->body, m->len);
	free(m->body);
	m->body = NULL;
	m->len = 0;
}

static void add_host(uint8_t *p, const struct pairing_hello *h)
{
	memcpy(p, h->host, strlen(h->host)); /* zeroes behind it: fixed length */
}

int pairing_proof(const uint8_t *key, const char *who, const struct pairing_hello *asks,
		  const struct pairing_hello *serves, uint8_t *out)
{
	static const char label[] = "rhea pair 1";
	uint8_t said[16 + 2 * PAIRING_NONCE_LEN + 2 * CONFIG_NAME_MAX] = {0};
	uint8_t own[CONFIG_KEY_LEN], *p = said + 16;
	unsigned n = sizeof(own), m = PAIRING_PROOF_LEN;
	int ok;

	(void)snprintf((char *)said, 16, "%s:", who); /* fits: two words */
	memcpy(p, asks->nonce, PAIRING_NONCE_LEN);
	memcpy(p + PAIRING_NONCE_LEN, serves->nonce, PAIRING_NONCE_LEN);
	add_host(p + (size_t)2 * PAIRING_NONCE_LEN, asks);
	add_host(p + (size_t)2 * PAIRING_NONCE_LEN + CONFIG_NAME_MAX, serves);
	ok = HMAC(EVP_sha256(), key, CONFIG_KEY_LEN, (const uint8_t *)label,
		  sizeof(label) - 1, own, &n) &&
	     HMAC(EVP_sha256(), own, sizeof(own), said, sizeof(said), out, &m);
	explicit_bzero(own, sizeof(own));
	return ok ? 0 : -EIO;
}
