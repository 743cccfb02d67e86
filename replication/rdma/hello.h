/* SPDX-License-Identifier: Apache-2.0
 * hello - what the two ends tell each other before the first byte: blob and private data.
 *
 * The blob crosses over a connection that has proven who the peer is, so its nonce does
 * too; the private data cross in the clear with the connection request and its answer,
 * and carry the nonce that the *other* end's blob brought. RDMA.md has the layouts.
 */
#ifndef REPLICATION_RDMA_HELLO_H
#define REPLICATION_RDMA_HELLO_H

#include <stddef.h>
#include <stdint.h>

struct err;

enum {
	HELLO_VERSION = 1,
	HELLO_CAPS = 0, /* none yet; both ends use what both have */
	HELLO_NONCE_LEN = 16,
	HELLO_BLOB_LEN = 44,
	HELLO_PRIVATE_LEN = 44,
	HELLO_RING_MIN = 64 << 10,
	HELLO_RING_MAX = 512 << 20, /* an announcement must hold the size in 30 bits */
};

struct hello_blob {
	uint16_t caps;
	uint8_t nonce[HELLO_NONCE_LEN];
	/* Where the server listens; all 0 from a client. */
	uint8_t family; /* 4 or 6 */
	uint16_t port;
	uint8_t addr[16]; /* network order; 4 bytes are used of it for family 4 */
};

struct hello_private {
	uint16_t caps;
	uint8_t nonce[HELLO_NONCE_LEN];
	uint32_t ring; /* bytes that may be written from addr on, under rkey */
	uint32_t rkey;
	uint64_t addr;
	uint16_t marks; /* announcements that may be under way */
};

void hello_blob_encode(const struct hello_blob *b, uint8_t out[HELLO_BLOB_LEN]);
/* @from_server: who it must be from. -EPROTO or -EBADMSG with @err. */
int hello_blob_parse(const uint8_t *p, size_t len, int from_server,
		     struct hello_blob *b_out, struct err *err);

void hello_private_encode(const struct hello_private *h, uint8_t out[HELLO_PRIVATE_LEN]);
/* The fabric pads private data, so more than HELLO_PRIVATE_LEN bytes are fine. */
int hello_private_parse(const uint8_t *p, size_t len, struct hello_private *h_out,
			struct err *err);
/* In a time that does not tell how much of it was right. */
int hello_nonce_equal(const uint8_t a[HELLO_NONCE_LEN], const uint8_t b[HELLO_NONCE_LEN]);

/* The config's words for a device. */
struct hello_args {
	uint8_t family, addr[16]; /* as in the blob: ours, of the port to use */
	uint32_t ring;		  /* bytes that the peer may write ahead */
	uint32_t send;		  /* bytes that can wait here for the device */
	unsigned silence_ms;	  /* a path that is silent for so long is dead */
	unsigned spin_us;	  /* a wait that is usually shorter does not sleep */
};

/* "address=A [ring=BYTES] [send=BYTES] [silence=MS] [spin=US]", in any order; BYTES may end in K or
 * M. -EINVAL with @err. */
int hello_args_parse(const char *text, struct hello_args *a_out, struct err *err);

/* InfiniBand's local ack time-out, an exponent: with HELLO_RETRIES repetitions it has run
 * out after about @silence_ms. (7, the highest number, means "for ever" to rxe.) */
enum { HELLO_RETRIES = 6 };
unsigned hello_ack_timeout(unsigned silence_ms);

#endif
