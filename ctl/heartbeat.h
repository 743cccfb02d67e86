/* SPDX-License-Identifier: Apache-2.0
 * heartbeat - "I am here, and this is how my VMs are", several times a second on every
 * path.
 *
 * Theory of operation. A thread of its own sends one UDP datagram every interval on every
 * path and receives the peer's; it shares no lock with anything slow, so heartbeats go on
 * while epochs, disks or the main loop stand still. A datagram is authenticated
 * (HMAC-SHA256 with a key derived from the pair's key), numbered (a number seen before,
 * or one from an earlier life of the peer, is refused) and says version, pair, host,
 * config digest, wall time and one line for each VM. It echoes the last number and time
 * heard on the path, which gives the round trip.
 *
 * The peer is up while any path brings a good datagram at least every interval * missed;
 * a datagram that is refused does not count. Changes are posted to the main loop in
 * order. The layout is in ctl/HEARTBEAT.md.
 */
#ifndef CTL_HEARTBEAT_H
#define CTL_HEARTBEAT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "ctl/config.h"
#include "ctl/pair.h"

struct err;
struct heartbeat;
struct loop;

enum { HB_VERSION = 1, HB_DATAGRAM_MAX = 1200, HB_REASON_MAX = 160 };

/* What the peer said last. */
struct hb_peer {
	uint64_t boot_id;      /* another one: the peer's rhead started anew */
	uint64_t wall_ns;      /* its CLOCK_REALTIME when it sent */
	int64_t wall_delta_ns; /* its wall clock minus ours, half the round trip
				  considered */
	unsigned n_vms;	       /* as in the config */
	struct pair_view vms[CONFIG_VMS_MAX]; /* by the VM's index in the config */
};

/* All are called on the loop's thread. */
struct hb_events {
	/* The peer is up: on its first good datagram, and whenever what it says of a VM
	 * changed. */
	void (*peer)(void *arg, const struct hb_peer *peer);
	void (*lost)(void *arg); /* all paths silent; not called before a first peer() */
	void (*path)(void *arg, unsigned path, int up);
	void *arg;
};

struct hb_path_stats {
	int up;
	uint64_t sent, received, send_errors;
	uint64_t refused;   /* bad size, version, key, pair, config, or played again */
	uint64_t lost;	    /* numbers that never came */
	uint64_t silent_ns; /* since the last good datagram, UINT64_MAX: never one */
	uint64_t rtt_ns, rtt_min_ns, rtt_max_ns, rtt_avg_ns; /* 0: not known yet */
	uint64_t jitter_ns;   /* smoothed deviation of the time between two (RFC
				 3550, 6.4.1) */
	uint64_t late_max_ns; /* longest time between two good ones */
};

struct hb_stats {
	int peer_up;
	uint64_t up_since_ns,
		losses; /* CLOCK_MONOTONIC; how often all paths fell silent */
	uint64_t sender_late_max_ns;	 /* our own thread, behind its schedule */
	int realtime;			 /* it runs under SCHED_RR */
	char refused_why[HB_REASON_MAX]; /* why the last refused datagram was, "" = none
					  */
	unsigned n_paths;
	struct hb_path_stats paths[CONFIG_PATHS_MAX];
};

/* Open and bind the sockets of all paths. @cfg and @loop are borrowed; @ev is copied.
 * Nothing is sent before hb_start(). A port 0 in the config binds any free one. */
int hb_create(const struct config *cfg, struct loop *loop, const struct hb_events *ev,
	      struct heartbeat **hb_out, struct err *err);
/* Start the thread. */
int hb_start(struct heartbeat *hb, struct err *err);
/* End the thread and free. On the loop's thread, or after it ended; no event comes after
 * it. NULL is fine. */
void hb_destroy(struct heartbeat *hb);

/* What to say about VM @index from now on; also sends at once when something other than
 * the epoch changed. Any thread; takes a short lock only. */
void hb_set_vm(struct heartbeat *hb, unsigned index, const struct pair_view *v);
/* What the peer said last, epochs included; 0, or -ENODATA when it is not up. Any thread. */
int hb_peer_last(struct heartbeat *hb, struct hb_peer *out);
/* Any thread. */
void hb_stats(struct heartbeat *hb, struct hb_stats *out);

/* The port that path @i is bound to, and another address for its other end (before
 * hb_start()): for tests that bind port 0. */
uint16_t hb_port(const struct heartbeat *hb, unsigned i);
int hb_set_remote(struct heartbeat *hb, unsigned i, const struct sockaddr *sa,
		  socklen_t len);

/* ---- The datagram by itself: pure, for the module, its tests and the fuzzer. ---- */

enum hb_verdict {
	HB_OK,
	HB_SHORT,    /* size does not fit */
	HB_NOT_OURS, /* no Rhea heartbeat at all */
	HB_VERSION_OTHER,
	HB_KEY,	      /* authentication failed: another key, or damaged */
	HB_PAIR,      /* another pair's, or our own come back */
	HB_CONFIG,    /* the peer's config differs */
	HB_MALFORMED, /* authentic and still wrong: a bug on the other side */
	HB_REPLAY,    /* a number heard before */
	HB_NVERDICTS
};
const char *hb_verdict_text(enum hb_verdict v); /* what, and what to do about it */

struct hb_msg {
	char host[CONFIG_NAME_MAX], pair[CONFIG_NAME_MAX];
	uint64_t boot_id, seq;
	uint64_t mono_ns, wall_ns;	      /* the sender's clocks when it sent */
	uint64_t echo_mono_ns, echo_delay_ns; /* the receiver's mono_ns heard last, and
					       * how long ago; 0: none */
	uint64_t echo_boot_id;		      /* whose life the echo belongs to */
	uint32_t interval_us;
	uint8_t path;
	uint8_t digest[CONFIG_DIGEST_LEN];
	unsigned n_vms;
	struct pair_view vms[CONFIG_VMS_MAX];
};

/* @key has CONFIG_KEY_LEN bytes. Returns the datagram's length, or -E2BIG or -EIO. */
int hb_encode(const struct hb_msg *m, const uint8_t *key, uint8_t *out, size_t room);
/* Checks everything that does not need to know what came before. */
enum hb_verdict hb_decode(const uint8_t *p, size_t len, const uint8_t *key,
			  struct hb_msg *m);

#endif
