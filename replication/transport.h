/* SPDX-License-Identifier: Apache-2.0
 * transport - an ordered, reliable, authenticated stream of bytes to the peer.
 *
 * One thread sends, one thread receives, at the same time; shutdown comes from any
 * thread. Nothing here waits for ever on a dead peer: tp_shutdown() ends both, and each
 * transport has a send time-out of its own. After an error every later call in that
 * direction fails; what came before the error can still be received, so that a peer's
 * last word is not lost.
 *
 * Errors: -EPIPE the peer closed in good order, between two calls of recv; -ECONNRESET it
 * went away in any other manner; -ESHUTDOWN tp_shutdown() was called here; -ETIMEDOUT it
 * took nothing for too long; -EBADMSG the bytes were tampered with.
 */
#ifndef REPLICATION_TRANSPORT_H
#define REPLICATION_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct tp;

/* How much of what was sent had to be sent again, as far as the transport can tell. */
struct tp_loss {
	const char *unit; /* what is counted; NULL: this transport does not see it */
	uint64_t sent, resent;
};

struct tp_ops {
	const char *name;
	/* All of it or a negative errno. May keep bytes back until flush. */
	int (*send)(struct tp *tp, const struct iovec *iov, int n);
	/* All that was sent is on its way. No error because the peer, which may have all of it by then, has
	 * closed in good order. */
	int (*flush)(struct tp *tp);
	/* Exactly @len bytes, or -errno; -EPIPE when the peer closed in good order. */
	int (*recv)(struct tp *tp, void *p, size_t len);
	void (*shutdown)(struct tp *tp);
	/* When the peer's end was last heard of, ns of the monotonic clock, whether recv can return for it
	 * or not. 0: not known. NULL: as the head says. Any thread. */
	uint64_t (*heard)(struct tp *tp);
	/* Since the connection began. The sender's thread. */
	void (*loss)(struct tp *tp, struct tp_loss *out);
	/* Frees; no other call may be under way. What was not flushed may be lost. */
	void (*close)(struct tp *tp);
};

/* The head of every transport's own struct. */
struct tp {
	const struct tp_ops *ops;
	uint64_t bytes_sent, bytes_received; /* payload; written by one thread each */
	unsigned send_timeout_ms; /* without any progress; may be changed before the first
				     send */
	_Atomic uint64_t heard_ns; /* as the op; written by whoever takes bytes in */
};
enum { TP_SEND_TIMEOUT_MS = 10000 };

static inline int tp_send(struct tp *tp, const struct iovec *iov, int n)
{
	return tp->ops->send(tp, iov, n);
}
static inline int tp_flush(struct tp *tp)
{
	return tp->ops->flush(tp);
}
static inline int tp_recv(struct tp *tp, void *p, size_t len)
{
	return tp->ops->recv(tp, p, len);
}
static inline void tp_shutdown(struct tp *tp)
{
	tp->ops->shutdown(tp);
}
static inline uint64_t tp_heard(struct tp *tp)
{
	return tp->ops->heard ? tp->ops->heard(tp) : tp->heard_ns;
}
static inline void tp_loss(struct tp *tp, struct tp_loss *out)
{
	tp->ops->loss(tp, out);
}
/* For a transport that cannot tell. */
static inline void tp_loss_unseen(struct tp *tp, struct tp_loss *out)
{
	*out = (struct tp_loss){.unit = NULL};
}
void tp_close(struct tp *tp); /* NULL is fine */

enum { TP_PSK_LEN = 32 };

/* TLS 1.3 with a pre-shared key over a connected TCP (or Unix stream) socket. Takes @fd. Does the
 * handshake before it returns, at most @timeout_ms; a peer without the key is refused
 * there. @server: who accepted. @identity names the pair. */
int tp_tcp_open(int fd, int server, const char *identity, const uint8_t psk[TP_PSK_LEN],
		unsigned timeout_ms, struct tp **tp_out, struct err *err);

/* One transport of @n (2 to TP_TCP_STREAMS_MAX) from tp_tcp_open(), over which nothing is under way: what is
 * sent is spread over them by threads of their own, and arrives in order. Takes all of them, also on
 * failure. The peer does the same with the other ends. 0 or -errno with @err. */
enum { TP_TCP_STREAMS_MAX = 8 };
int tp_tcp_join(struct tp *const *tps, unsigned n, struct tp **tp_out, struct err *err);

/* The sending side takes new keys each time that so many bytes have gone out, long before
 * the limit of AES-GCM (RFC 8446, section 5.5). Changed by tests, before the first send.
 */
#define TP_TCP_REKEY_BYTES (1ull << 36)
void tp_tcp_set_rekey(struct tp *tp, uint64_t bytes);

/* Keys that both ends of this TLS connection can compute and nobody else (RFC 8446, section 7.5),
 * of their own for each @label and @context. @tp is from tp_tcp_open(). 0 or -EIO. Any thread. */
int tp_tcp_export(struct tp *tp, const char *label, const void *context,
		  size_t context_len, void *out, size_t len);
/* Let a recv that gets nothing for so long fail with -ETIMEDOUT, 0: wait for ever. The receiver's
 * thread. */
void tp_tcp_set_recv_timeout(struct tp *tp, unsigned ms);

/* Two ends in one process, with a bounded buffer (@bytes) in each direction. */
int tp_loop_pair(size_t bytes, struct tp *ends_out[2], struct err *err);

/* A layer over any transport that does harm on purpose. Counts are of bytes sent through
 * this end since it was made; 0 = never. A count that is passed already takes effect at
 * once. */
struct tp_fault {
	unsigned delay_us;    /* each send is held back by so much */
	uint64_t cut_after;   /* both ends see an error after n bytes */
	uint64_t flip_after;  /* one bit of the byte after n bytes is flipped, once */
	uint64_t stall_after; /* a pulled cable: what is sent after n bytes vanishes, and
			       * from then on nothing comes in; no error on either side. When
			       * that is over, what lost bytes is cut */
};
/* Takes @inner. */
int tp_fault_wrap(struct tp *inner, const struct tp_fault *f, struct tp **tp_out,
		  struct err *err);
/* Change it while it runs. Any thread. @tp is from tp_fault_wrap(). */
void tp_fault_set(struct tp *tp, const struct tp_fault *f);

#endif
