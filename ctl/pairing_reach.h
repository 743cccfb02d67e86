/* SPDX-License-Identifier: Apache-2.0
 * pairing_reach - can the two hosts reach each other's replication ports?
 *
 * Where rhead does not listen, somebody has to while it is tried: that is pairing_reach_listen().
 * A connection is made and closed, no byte is sent, so a rhead at the other end is not bothered.
 */
#ifndef CTL_PAIRING_REACH_H
#define CTL_PAIRING_REACH_H

#include <stddef.h>

struct config;

enum { PAIRING_REACH_MS = 3000 };

/* Listen on this host's replication address. A descriptor to close, or -1 with the reason in
 * @why ("" when rhead or another has the port: then that is what will be reached). */
int pairing_reach_listen(const struct config *cfg, char *why, size_t room);
/* Connect from this host's replication address to the peer's, within PAIRING_REACH_MS. 1, or 0 with
 * the reason in @why. */
int pairing_reach_try(const struct config *cfg, char *why, size_t room);

#endif
