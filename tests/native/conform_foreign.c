/* SPDX-License-Identifier: Apache-2.0
 * conform_foreign - peers of another version, and garbage in the place of every word that makes a
 * link: each is refused with one clear line, in bounded time, and the next link is as good as ever.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/path.h"
#include "replication/transport.h"
#include "tests/native/conform_case.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SHORT_MS = 1000, VERSION_AT = 4, GARBAGE = 8 };

static void good_link(struct conform *c)
{
	struct tp *tp = conform_link(c);

	CONFORM(c, conform_send(tp, 1, 1000) == 0);
	CONFORM(c, conform_recv(tp, 1, 1000) == 0);
	conform_meet(c);
	tp_close(tp);
}

/* One line for people, and about @word. */
static int is_told(const struct err *err, const char *word)
{
	return err->msg[0] && !strchr(err->msg, '\n') && strstr(err->msg, word);
}

static void bad_blob(struct conform *c, const uint8_t *blob, size_t len, const char *word)
{
	uint8_t own[TP_BLOB_MAX];
	struct err err = {0};
	struct tp *tp = NULL;
	struct tp_end *end;
	size_t own_len;
	int rc = c->module->prepare(c->dev, conform_is_server(c), &end, own, &own_len,
				    &err);

	CONFORM(c, rc == 0);
	if (rc)
		return;
	rc = c->module->connect(end, blob, len, SHORT_MS, &tp, &err);
	/* Garbage may be told from another version's words; those say so. */
	CONFORM(c, rc == -EPROTO || (rc == -EBADMSG && !word[0]));
	CONFORM(c, is_told(&err, word));
	CONFORM(c, !tp);
}

/* A description that is the peer's, but for what is done to it here. */
static void blobs(struct conform *c)
{
	uint8_t own[TP_BLOB_MAX], blob[TP_BLOB_MAX] = {0}, bad[TP_BLOB_MAX];
	struct err err = {0};
	struct tp_end *end;
	unsigned seed = 1;
	size_t len;

	if (c->module->prepare(c->dev, conform_is_server(c), &end, own, &len, &err))
		conform_die(err.msg);
	conform_put(c, own, len);
	conform_get(c, blob, len);
	c->module->discard(end);
	for (size_t n = 0; n < len; n += n + 1 < len ? 1 + n / 2 : 1)
		bad_blob(c, blob, n, "");
	memset(bad, 0, sizeof(bad));
	bad_blob(c, bad, len, "");
	memset(bad, 0xff, sizeof(bad));
	bad_blob(c, bad, len, "");
	for (int i = 0; i < GARBAGE; i++) {
		for (size_t k = 0; k < sizeof(bad); k++) {
			seed = seed * 1103515245 + 12345;
			bad[k] = (uint8_t)(seed >> 16);
		}
		bad_blob(c, bad, i & 1 ? len : sizeof(bad), "");
	}
	memcpy(bad, blob, len);
	bad[VERSION_AT]--;
	bad_blob(c, bad, len, "version");
	bad[VERSION_AT] += 2;
	bad_blob(c, bad, len, "version");
	good_link(c);
}

const struct conform_case conform_blobs[] = {
	{"false descriptions", NULL, blobs, 0},
	{0},
};

/* What a peer does that is not what it should be, and what the other end says to that. */
enum mad {
	MAD_LEAVES,	   /* connects, and goes */
	MAD_GARBAGE,	   /* no TLS */
	MAD_NO_HELLO,	   /* TLS with the pair's key, and goes */
	MAD_HALF_HELLO,	   /* and goes within HELLO */
	MAD_SILENT,	   /* and says nothing more */
	MAD_GARBAGE_HELLO, /* and says something else */
	MAD_OLDER,
	MAD_NEWER,
	MAD_OTHER_ROLE, /* as a host that is connected to itself */
	MAD_N,
};

static const struct {
	int rc;
	const char *word;
} answer[MAD_N] = {
	[MAD_LEAVES] = {-ECONNRESET, "went away"},
	[MAD_GARBAGE] = {-EPROTO, "TLS"},
	[MAD_NO_HELLO] = {-EPIPE, "HELLO"},
	[MAD_HALF_HELLO] = {-ECONNRESET, "HELLO"},
	[MAD_SILENT] = {-ETIMEDOUT, "HELLO"},
	[MAD_GARBAGE_HELLO] = {-EPROTO, "something else"},
	[MAD_OLDER] = {-EPROTO, "speaks version"},
	[MAD_NEWER] = {-EPROTO, "speaks version"},
	[MAD_OTHER_ROLE] = {-EPROTO, "no sense"},
};

static struct path_hello_wire hello_of(const struct conform *c, enum mad what)
{
	const struct path_terms t = conform_terms(c);
	struct path_hello_wire h = {.magic = {'R', 'H', 'E', 'A', 'P', 'A', 'T', 'H'},
				    .version = le16_of(PATH_VERSION),
				    .server = (uint8_t)conform_is_server(c),
				    .purpose = PATH_ALONE,
				    .paths = 1,
				    .term = le64_of(t.term)};

	memcpy(h.vm, t.vm, strlen(t.vm));
	memcpy(h.transport, t.transport, strlen(t.transport));
	if (what == MAD_GARBAGE_HELLO)
		memset(&h, 0xa5, sizeof(h));
	if (what == MAD_OLDER)
		h.version = le16_of(PATH_VERSION - 1);
	if (what == MAD_NEWER)
		h.version = le16_of(PATH_VERSION + 1);
	if (what == MAD_OTHER_ROLE)
		h.server ^= 1;
	return h;
}

/* The mad one knows the key. Stays until the other end has left, if that is what it does. */
static void say_hello(struct conform *c, struct tp *tp, enum mad what)
{
	struct path_hello_wire h = hello_of(c, what);
	struct iovec v = {.iov_base = &h, .iov_len = sizeof(h)};
	uint8_t theirs[sizeof(h)];

	if (what == MAD_HALF_HELLO)
		v.iov_len /= 2;
	if (what != MAD_NO_HELLO && what != MAD_SILENT)
		CONFORM(c, !tp_send(tp, &v, 1) && !tp_flush(tp));
	while (what >= MAD_SILENT && !tp_recv(tp, theirs, 1))
		;
	tp_close(tp);
}

static void be_mad(struct conform *c, int fd, enum mad what)
{
	static const uint8_t garbage[600] = "\x07 what the cat wrote on the keyboard";
	const struct path_key key = conform_key(CONFORM_CONNECT_MS);
	struct err err = {0};
	struct tp *tp;
	char b;

	if (what == MAD_LEAVES) {
		(void)close(fd); /* that is all it does */
	} else if (what == MAD_GARBAGE) {
		CONFORM(c, send(fd, garbage, sizeof(garbage), MSG_NOSIGNAL) > 0);
		while (recv(fd, &b, 1, 0) > 0)
			;
		(void)close(fd); /* the other end has left */
	} else if (tp_tcp_open(fd, conform_is_server(c), key.pair, key.psk,
			       key.timeout_ms, &tp, &err)) {
		conform_die(err.msg);
	} else {
		say_hello(c, tp, what);
	}
}

static void meet_madness(struct conform *c, int fd, enum mad what)
{
	struct err err = {0};
	struct tp *tp;
	int rc = conform_path(c, fd, what == MAD_SILENT ? SHORT_MS : CONFORM_CONNECT_MS,
			      &tp, &err);

	CONFORM(c, !tp);
	if (rc != answer[what].rc || !is_told(&err, answer[what].word)) {
		(void)fprintf(stderr, "side %d, madness %d: %d, \"%s\"\n", c->side, what,
			      rc, err.msg);
		c->failed++;
	}
}

static void hellos(struct conform *c)
{
	for (int mad = 0; mad < 2; mad++) {
		for (enum mad what = 0; what < MAD_N; what++) {
			int fd = conform_socket(c);

			if (c->side == mad)
				be_mad(c, fd, what);
			else
				meet_madness(c, fd, what);
			conform_meet(c);
		}
		good_link(c);
	}
}

const struct conform_case conform_hello[] = {
	{"mad peers", NULL, hellos, 0},
	{0},
};
