/* SPDX-License-Identifier: Apache-2.0
 * kit_link - two processes on two hosts that make links of a loaded transport, in step.
 *
 * They talk over a TCP connection beside the transport: blobs cross there, and each waits
 * there for the other. Any failure of this kit itself ends the process with a message.
 */
#ifndef TESTS_LAB_KIT_LINK_H
#define TESTS_LAB_KIT_LINK_H

#include "replication/module.h"
#include "replication/transport.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct kit {
	const struct tp_module *mod;
	struct tp_dev *dev;
	int server; /* this side accepts */
	int ctl;    /* to the other side */
};

enum { KIT_CONNECT_MS = 20000 };

_Noreturn void kit_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The server listens at @port, the client connects to @host (NULL: is the server). */
void kit_meet(struct kit *k, const char *host, unsigned port);
void kit_open(struct kit *k, const char *module, const char *args);
/* Both sides get here before either goes on. */
void kit_sync(struct kit *k);
void kit_tell(struct kit *k, const void *p, size_t len);
void kit_hear(struct kit *k, void *p, size_t len);
struct tp *kit_link(struct kit *k);

/* The byte that belongs at @pos of stream @seed. */
uint8_t kit_byte(unsigned seed, size_t pos);

/* Somebody who sends or receives, perhaps on a thread of its own. */
struct kit_worker {
	struct tp *tp;
	unsigned seed;
	size_t total, done, step; /* @step: bytes a call; 0: odd sizes */
	int flush_each, rc;
	size_t wrong;
	pthread_t thread;
};
void *kit_send(void *worker);
void *kit_recv(void *worker);
void kit_start(struct kit_worker *w, void *(*fn)(void *));
void kit_join(struct kit_worker *w);

#endif
