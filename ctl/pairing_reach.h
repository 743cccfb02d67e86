/* SPDX-License-Identifier: Apache-2.0
 * pairing_reach - can the two hosts reach each other on every path of the config?
 *
 * Theory of operation. There are the paths of the replication link, for each of which TCP is tried in both
 * directions (every transport is set up over a TCP connection), and those of the heartbeats, over each
 * of which each host sends the other one datagram. Where rhead does not listen, somebody has to meanwhile:
 * both hosts take what ports are free. A TCP connection is made and closed without a byte, so a rhead at the
 * other end is not bothered; what a rhead holds for heartbeats is not tried, but asked of it.
 *
 *	asks					serves
 *	takes its ports			   ->	takes its ports, tries TCP, sends datagrams
 *	tries TCP, hears, sends datagrams  <-	a line for each way: how TCP went
 *	asks again			   ->	hears
 *				   <-	a line for each way: what was heard
 *
 * A line is '1', '0' or '?' (not tried), a blank, and words for people. One thread; blocking.
 */
#ifndef CTL_PAIRING_REACH_H
#define CTL_PAIRING_REACH_H

#include <stddef.h>

#include "ctl/config.h"

enum {
	PAIRING_REACH_MS = 3000, /* for a TCP connection */
	PAIRING_HEAR_MS = 500,	 /* for a datagram that was sent before */
	PAIRING_WAYS_MAX = CONFIG_LINKS_MAX + CONFIG_PATHS_MAX,
	PAIRING_WAY_NAME_MAX = 96,
	PAIRING_REACH_MAX = 128, /* of the words on a line */
	PAIRING_REACH_TEXT_MAX = PAIRING_WAYS_MAX * (PAIRING_REACH_MAX + 3),
};

struct pairing_way {
	int udp;
	unsigned path; /* of the link's or the heartbeats' */
	const struct config_addr *own, *peer;
	int fd; /* listens, or is bound; -1: another has the port, or see why */
	char why[PAIRING_REACH_MAX];
};

struct pairing_reach {
	unsigned n;
	struct pairing_way way[PAIRING_WAYS_MAX];
};

/* All ways of @cfg, which is borrowed, and the ports that are free. Ends with pairing_reach_fini(). */
void pairing_reach_init(struct pairing_reach *r, const struct config *cfg);
void pairing_reach_fini(
	struct pairing_reach *r); /* idempotent; fine on what is all zero */
/* "path 0 (tcp)", "heartbeat 1". */
void pairing_way_name(const struct config *cfg, const struct pairing_way *w, char *out,
		      size_t room);

/* TCP from our address to the peer's, within PAIRING_REACH_MS. 1, or 0 with the reason in @w->why. */
int pairing_way_try(struct pairing_way *w);
/* A datagram to the peer. */
void pairing_way_send(struct pairing_way *w);
/* 1: one of the peer's has come; 0: none within PAIRING_HEAR_MS; -1: the port is not ours. */
int pairing_way_hear(struct pairing_way *w);

/* The line for one way; returns its length. */
size_t pairing_line_put(char *out, size_t room, int result, const char *why);
/* The next line of @text: its result, its words into @why. -1 and "" when there is none, or no sense in it.
 * Returns where the one after begins. */
const char *pairing_line_get(const char *text, int *result_out, char *why, size_t room);

#endif
