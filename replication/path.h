/* SPDX-License-Identifier: Apache-2.0
 * path - from a TCP connection between two hosts to a secured transport of the kind agreed.
 *
 * Theory of operation. TLS 1.3 first proves who is there. Over it the client says what the
 * connection is for (HELLO: which VM, term, path, transport, session), the server takes
 * or refuses it. "tcp" then goes on over the very connection, and over further ones if both want
 * several streams (path_streams.h). A module's transport is set up beside
 * it: each HELLO carries the module's blob, and its bytes are sealed (seal.h) with keys that the
 * TLS connection exports, with both HELLOs whole as the context. Who would change a word of
 * what was agreed would have to be inside TLS; who would answer in the module's place does not
 * have the keys. Nobody falls back to another transport: that is another path, and asked for by
 * its own number. The format is in STREAM.md, "Paths".
 */
#ifndef REPLICATION_PATH_H
#define REPLICATION_PATH_H

#include <stdint.h>

#include "hv/base/wire.h"
#include "replication/module.h"

struct err;
struct path_hall;
struct tp;
struct tp_dev;
struct tp_module;

enum {
	PATH_VERSION = 2,
	PATH_SESSION_LEN = 16,
	PATH_TRANSPORT_MAX = 16,
	PATH_VM_MAX = 32,
	PATH_WHY_MAX = 128,
};

enum path_purpose {
	PATH_ALONE = 1, /* one path, which is the link */
	PATH_FIRST = 2, /* the first one of a new session */
	PATH_JOIN = 3,	/* a further one of a session that exists */
	PATH_TEST = 4,	/* no link, but a measurement (meter.h) */
};

struct path_hello_wire {
	char magic[8]; /* "RHEAPATH" */
	struct le16 version;
	uint8_t server;
	uint8_t purpose;
	uint8_t index;	    /* of the path in the config of both hosts */
	uint8_t paths;	    /* how many there are */
	struct le16 status; /* of an answer: 0, or it is refused */
	struct le64 term;
	uint8_t session[PATH_SESSION_LEN];
	char transport[PATH_TRANSPORT_MAX];
	char vm[PATH_VM_MAX];
	struct le16 blob_len;
	uint8_t streams; /* of tcp: asked for, then agreed on, at least 1; else 1 */
	uint8_t zero[5];
	uint8_t blob[TP_BLOB_MAX];
	char why[PATH_WHY_MAX]; /* of a refusal, for people */
};
WIRE_SIZE(struct path_hello_wire, 480);

/* What a connection is to be, from one end's point of view. All borrowed. */
struct path_terms {
	enum path_purpose purpose;
	unsigned index, paths;
	uint64_t term;
	const char *vm;
	uint8_t session[PATH_SESSION_LEN];
	const char *transport; /* of this path: "tcp" or a module's name */
	const struct tp_module *module;
	struct tp_dev *dev; /* of the module, open; both NULL for tcp */
	unsigned
		streams; /* of tcp: how many this end would like; the fewer count. 0: one */
};

struct path_key {
	const char *pair;
	const uint8_t *psk;
	unsigned timeout_ms; /* of each step: TLS, HELLO, the module's connect */
	/* For several streams. The client's: @n more connections to the peer, which is told that they are
	 * streams, into @fds, owned by the caller. 0 or -errno with @err. The server's: where they
	 * come. NULL: one stream is all there is. */
	int (*more)(void *arg, unsigned n, int *fds, struct err *err);
	void *more_arg;
	struct path_hall *hall;
};

/* The client's side. Takes @fd. 0 or -errno with @err: as tp_tcp_open(), -ECONNREFUSED
 * with the server's words, -EPROTO, or what the module says. */
int path_connect(int fd, const struct path_key *key, const struct path_terms *t,
		 struct tp **tp_out, struct err *err);

/* May the connection be what the peer says? @offer: purpose, index, paths, term, vm, session and
 * transport as the client said them, none believed yet but that the client has the key. Fills
 * in module and dev. 0 or -errno with the reason, which the client gets to read. */
typedef int path_admit_fn(void *arg, struct path_terms *offer, struct err *err);

/* The server's side. Takes @fd. *terms_out is what was agreed (vm and transport point nowhere). */
int path_accept(int fd, const struct path_key *key, path_admit_fn *admit, void *arg,
		struct path_terms *terms_out, struct tp **tp_out, struct err *err);

/* By themselves: for this module and its fuzzer. Is @h, from whom it comes, a HELLO at all? 0 or -EPROTO
 * with @err. Hostile input. */
int path_hello_check(const struct path_hello_wire *h, int from_server, struct err *err);
/* Is @a the answer to @q, word for word? Both are checked. 0, -ECONNREFUSED with the server's words, or
 * -EPROTO. */
int path_hello_answers(const struct path_hello_wire *q, const struct path_hello_wire *a,
		       struct err *err);

#endif
