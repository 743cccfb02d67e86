/* SPDX-License-Identifier: Apache-2.0
 * pairing_hello - one host's facts as text, and back: strict, because the peer may be anybody's.
 */
#include "ctl/pairing_msg.h"

#include "hv/base/err.h"
#include "hv/base/hex.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const key_words[PAIRING_NKEYS] = {
	[PAIRING_KEY_NONE] = "none",
	[PAIRING_KEY_FILE] = "file",
	[PAIRING_KEY_INLINE] = "inline",
	[PAIRING_KEY_BAD] = "bad",
};
static const char *const want_words[PAIRING_NWANTS] = {
	[PAIRING_SERVE] = "serve",
	[PAIRING_CHECK] = "check",
	[PAIRING_ADD] = "add",
	[PAIRING_REPLACE] = "replace",
};
static const char *const up_words[] = {"down", "up"};
static const char *const config_words[] = {"none", "read"};

size_t pairing_hello_format(const struct pairing_hello *h, char *out, size_t room)
{
	char digest[2 * CONFIG_DIGEST_LEN + 1], nonce[2 * PAIRING_NONCE_LEN + 1];
	int n;

	hex_put(digest, h->digest, sizeof(h->digest));
	hex_put(nonce, h->nonce, sizeof(h->nonce));
	n = snprintf(out, room,
		     "rhea-pair %d\nversion %s\nwant %s\nhost %s\npair %s\nconfig %s\n"
		     "digest %s\nkey %s\nrhead %s\nwall %" PRIu64 "\nnonce %s\nwhy %s\n",
		     PAIRING_PROTOCOL, h->version, want_words[h->want], h->host, h->pair,
		     config_words[h->has_config], digest, key_words[h->key],
		     up_words[h->rhead_up], h->wall_ns, nonce, h->why);
	return (size_t)n < room ? (size_t)n : room - 1;
}

/* A walk over the lines; @failed sticks. */
struct lines {
	const char *at, *end;
	int failed;
};

/* The value of the next line, which must be called @name, into @out. */
static void take(struct lines *l, const char *name, char *out, size_t room)
{
	const char *nl = memchr(l->at, '\n', (size_t)(l->end - l->at));
	size_t n = strlen(name), len;

	out[0] = '\0';
	if (l->failed || !nl || (size_t)(nl - l->at) < n + 1 ||
	    memcmp(l->at, name, n) != 0 || l->at[n] != ' ') {
		l->failed = 1;
		return;
	}
	len = (size_t)(nl - l->at) - n - 1;
	if (len >= room) {
		l->failed = 1;
		return;
	}
	memcpy(out, l->at + n + 1, len);
	out[len] = '\0';
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)out[i] < ' ' || (unsigned char)out[i] >= 0x7f)
			l->failed = 1;
	l->at = nl + 1;
}

static unsigned take_word(struct lines *l, const char *name, const char *const *words,
			  unsigned n)
{
	char t[16];

	take(l, name, t, sizeof(t));
	for (unsigned i = 0; i < n && !l->failed; i++)
		if (!strcmp(t, words[i]))
			return i;
	l->failed = 1;
	return 0;
}

static void take_hex(struct lines *l, const char *name, uint8_t *out, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	char t[2 * 32 + 1];
	const char *hi, *lo;

	take(l, name, t, sizeof(t));
	if (strlen(t) != 2 * len)
		l->failed = 1;
	for (size_t i = 0; i < len && !l->failed; i++) {
		hi = strchr(digits, t[2 * i]);
		lo = strchr(digits, t[2 * i + 1]);
		if (hi && lo)
			out[i] = (uint8_t)((hi - digits) << 4 | (lo - digits));
		else
			l->failed = 1;
	}
}

static uint64_t take_number(struct lines *l, const char *name)
{
	char t[24], again[24];
	uint64_t v;

	take(l, name, t, sizeof(t));
	v = strtoull(t, NULL, 10);
	(void)snprintf(again, sizeof(again), "%" PRIu64, v); /* fits */
	if (strcmp(t, again) != 0)
		l->failed = 1; /* signs, blanks, overflow: nothing that we would write */
	return v;
}

static int is_name(const char *t)
{
	for (; *t; t++)
		if (!isalnum((unsigned char)*t) && !strchr("-_.+~", *t))
			return 0;
	return 1;
}

int pairing_hello_parse(const char *text, size_t len, struct pairing_hello *h,
			struct err *err)
{
	struct lines l = {.at = text, .end = text + len};
	char protocol[12];

	*h = (struct pairing_hello){0};
	take(&l, "rhea-pair", protocol, sizeof(protocol));
	if (!l.failed && strcmp(protocol, "1") != 0)
		return err_set(
			err, -EPROTONOSUPPORT,
			"it pairs by protocol %s, this host by %d; install the same "
			"version of Rhea on both",
			protocol, PAIRING_PROTOCOL);
	take(&l, "version", h->version, sizeof(h->version));
	h->want = take_word(&l, "want", want_words, PAIRING_NWANTS);
	take(&l, "host", h->host, sizeof(h->host));
	take(&l, "pair", h->pair, sizeof(h->pair));
	h->has_config = (int)take_word(&l, "config", config_words, 2);
	take_hex(&l, "digest", h->digest, sizeof(h->digest));
	h->key = take_word(&l, "key", key_words, PAIRING_NKEYS);
	h->rhead_up = (int)take_word(&l, "rhead", up_words, 2);
	h->wall_ns = take_number(&l, "wall");
	take_hex(&l, "nonce", h->nonce, sizeof(h->nonce));
	take(&l, "why", h->why, sizeof(h->why));
	if (l.failed || l.at != l.end || !is_name(h->host) || !is_name(h->pair) ||
	    !is_name(h->version) || !h->version[0] ||
	    (h->has_config && (!h->host[0] || !h->pair[0])))
		return err_set(err, -EPROTO,
			       "its facts make no sense (a bug, or a stranger)");
	return 0;
}
