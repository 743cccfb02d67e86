/* SPDX-License-Identifier: Apache-2.0
 * seal - secrecy and authenticity over any transport: AES-256-GCM on every record.
 *
 * The format is in STREAM.md, "Sealed records". Keys come from a connection that has already
 * proven who the peer is; they are used for one transport connection only, so its counters
 * begin at 0 and no record of another connection can ever fit.
 */
#ifndef REPLICATION_SEAL_H
#define REPLICATION_SEAL_H

#include <stdint.h>

#include "hv/base/wire.h"

struct err;
struct tp;

enum {
	SEAL_SECRET_LEN = 32,
	SEAL_TAG_LEN = 16,
	SEAL_CONTENT_MAX = 64 << 10,
	SEAL_TYPE_DATA = 0,
	SEAL_TYPE_CLOSE = 1,
};

/* In the clear, and authenticated with the content. Content and tag follow. */
struct seal_wire {
	struct le32 len; /* of the content */
	uint8_t type;
	uint8_t zero[3];
};
WIRE_SIZE(struct seal_wire, 8);

/* One secret for each direction, known to both ends and to nobody else. */
struct seal_secrets {
	uint8_t client[SEAL_SECRET_LEN]; /* what the client sends */
	uint8_t server[SEAL_SECRET_LEN];
};

/* New keys in each direction after so many records: 2^20 of 64 KiB are the 2^36 bytes after
 * which tcp takes new ones. */
#define SEAL_REKEY_RECORDS (1ull << 20)

/* Takes @inner, whatever comes of it; @secrets are copied. A record that is not exactly the next
 * one that the peer sealed ends the receiving direction with -EBADMSG. 0 or -errno with @err. */
int tp_seal_wrap(struct tp *inner, int server, const struct seal_secrets *secrets,
		 struct tp **tp_out, struct err *err);
/* Changed by tests, alike on both ends and before the first byte. @tp is from tp_seal_wrap(). */
void tp_seal_set_rekey(struct tp *tp, uint64_t records);
/* How often new keys were taken in each direction; for tests. The threads of both are at rest. */
void tp_seal_renewals(struct tp *tp, uint64_t *sent_out, uint64_t *received_out);

#endif
