/* SPDX-License-Identifier: Apache-2.0
 * pairing_msg - the messages by which `rheactl pair` talks to itself on the other host.
 *
 * A message is a line "<type> <length>\n" and so many bytes of body. Each type has a greatest
 * length, and nothing is allocated before the length was held against it. Bodies: hello is text (see
 * struct pairing_hello); config is a config file; outline is config_outline()'s text; key and
 * proof are 32 bytes; reach asks for and tells reachability (pairing_reach.h); error is one line
 * of text; ready, commit and done are empty.
 *
 * One thread; blocking, with a limit for each wait.
 */
#ifndef CTL_PAIRING_MSG_H
#define CTL_PAIRING_MSG_H

#include <stddef.h>
#include <stdint.h>

#include "ctl/config.h"

struct err;

enum {
	PAIRING_PROTOCOL = 1,
	PAIRING_HEADER_MAX = 24, /* with its newline */
	PAIRING_NONCE_LEN = 32,
	PAIRING_WHY_MAX = 400,
	PAIRING_VERSION_MAX = 32,
};

enum pairing_type {
	PAIRING_HELLO,
	PAIRING_CONFIG,
	PAIRING_OUTLINE,
	PAIRING_REACH,
	PAIRING_KEY,
	PAIRING_PROOF,
	PAIRING_READY,
	PAIRING_COMMIT,
	PAIRING_DONE,
	PAIRING_ERROR,
	PAIRING_NTYPES
};

struct pairing_io {
	int in, out;
	unsigned wait_ms; /* for each message */
};

struct pairing_msg {
	enum pairing_type type;
	size_t len;
	uint8_t *body; /* owned; a NUL behind it */
};

/* Send one message. A key's bytes are not copied. 0, or -errno with @err. */
int pairing_put(const struct pairing_io *io, enum pairing_type type, const void *body,
		size_t len, struct err *err);
/* Receive one, which must be of a type in the bit mask @want. An error message from the peer is
 * -EREMOTEIO, with its text. -EPIPE: the peer is gone. @m is owned by the caller only on 0. */
int pairing_get(const struct pairing_io *io, unsigned want, struct pairing_msg *m,
		struct err *err);
void pairing_msg_fini(struct pairing_msg *m); /* wipes it; idempotent */

/* What is in a key file. */
enum pairing_key_state {
	PAIRING_KEY_NONE,
	PAIRING_KEY_FILE,
	PAIRING_KEY_INLINE, /* the config holds it */
	PAIRING_KEY_BAD,    /* there is something, and it is no key */
	PAIRING_NKEYS
};

/* What the asking side wants of the other; the other side says "serve". */
enum pairing_want {
	PAIRING_SERVE,
	PAIRING_CHECK,	 /* prove that you have my key */
	PAIRING_ADD,	 /* take a key, you have none */
	PAIRING_REPLACE, /* take a key in the place of yours */
	PAIRING_NWANTS
};

/* One host's facts. Its text is a line "<name> <value>\n" for each, all there, in this order. */
struct pairing_hello {
	char version[PAIRING_VERSION_MAX]; /* of Rhea */
	enum pairing_want want;
	char host[CONFIG_NAME_MAX], pair[CONFIG_NAME_MAX]; /* "" without a config */
	int has_config;
	uint8_t digest[CONFIG_DIGEST_LEN];
	enum pairing_key_state key;
	int rhead_up;
	uint64_t wall_ns;
	uint8_t nonce[PAIRING_NONCE_LEN];
	char why[PAIRING_WHY_MAX]; /* config or key cannot be used; "" = no fault */
};

/* ---- By themselves: pure, for the module, its tests and the fuzzer. ---- */

/* A header without its newline. 0, or -EPROTO or -E2BIG with @err. */
int pairing_header_parse(const char *line, size_t len, enum pairing_type *type_out,
			 size_t *len_out, struct err *err);
/* Returns the length; @room PAIRING_HELLO_MAX is always enough. */
size_t pairing_hello_format(const struct pairing_hello *h, char *out, size_t room);
/* @text has @len bytes and a NUL behind them. 0, -EPROTONOSUPPORT (another version of it) or
 * -EPROTO, with @err. */
int pairing_hello_parse(const char *text, size_t len, struct pairing_hello *h,
			struct err *err);
/* Make text from elsewhere fit for a terminal and one line: in place. */
void pairing_tame(char *text);
enum { PAIRING_HELLO_MAX = 1024 };

/* ---- The proof. ---- */

enum { PAIRING_PROOF_LEN = 32 };
/* What @who ("asks" or "serves") sends to show that it has @key:
 * HMAC-SHA256(HMAC-SHA256(@key, "rhea pair 1"), @who ":" nonce of the asking side, nonce of the
 * serving side, host of the asking side, host of the serving side). Nonces are fresh: an old proof
 * is worth nothing; and @who: neither side's can be sent back to it. 0 or -EIO. */
int pairing_proof(const uint8_t *key, const char *who, const struct pairing_hello *asks,
		  const struct pairing_hello *serves, uint8_t *out);

#endif
