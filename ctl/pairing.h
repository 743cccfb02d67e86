/* SPDX-License-Identifier: Apache-2.0
 * pairing - two hosts get the same key, and nobody sees it: the exchange of `rheactl pair`.
 *
 * Theory of operation. The host where somebody types (it asks) runs `rheactl pair --receive` on the
 * other one (it serves) over ssh, which has authenticated the two already. Between them:
 *
 *	asks				serves
 *				   <-	hello: its facts and a nonce
 *	[config, outline, reach    ->]	(answered by hello, outline, reach)
 *	hello: facts, nonce, what	[key: written as <key_file>.new, synced, read again]
 *	[key]			   ->
 *				   <-	proof: HMAC over both nonces with the key as its disk has it
 *	proof: likewise		   ->
 *				   <-	ready: nothing is left but to rename
 *	own file renamed
 *	commit			   ->	own files renamed
 *				   <-	done
 *
 * The asking side writes its own "<key_file>.new" before it sends the key. Whatever fails before
 * its rename leaves the old state on both. A rename that fails on the serving side is told, and
 * the asking side takes its own back. What is left is the moment between the two renames: if a
 * host or ssh dies there, the asking host has the new key and the serving one perhaps not;
 * neither has half a key, and the same command again brings them together (the host that has
 * none gets the other's; two different ones need --replace, which was said before if there were two).
 *
 * Blocking, one thread. Keys are wiped from memory when they were used.
 */
#ifndef CTL_PAIRING_H
#define CTL_PAIRING_H

#include "ctl/pairing_msg.h"
#include "ctl/pairing_reach.h"

struct err;

/* Where this host's things are. All borrowed. */
struct pairing_place {
	const char *config; /* path */
	const char *host;   /* NULL: this machine's host name */
	const char *socket; /* of rhead */
};

/* What this host knows of itself. */
struct pairing_self {
	const struct pairing_place *place;
	char *text; /* of the config; NULL: none */
	size_t text_len;
	struct config *cfg; /* NULL: it cannot be used, hello.why says why */
	uint8_t key[CONFIG_KEY_LEN];
	struct pairing_hello hello;
};

/* Read config and key, and draw a nonce. A config or key that cannot be used is a fact, no error.
 * 0, or -errno with @err; pairing_self_fini() is due in both cases. */
int pairing_self_load(const struct pairing_place *place, struct pairing_self *s,
		      struct err *err);
/* Take @text as the config instead of the file's. 0, or -errno with @err. */
int pairing_self_config(struct pairing_self *s, const char *text, size_t len,
			struct err *err);
void pairing_self_fini(struct pairing_self *s); /* wipes the key; idempotent */

struct staged;
/* Write @key as text for @path (staged.h), and read it again into @key. */
int pairing_stage_key(struct staged *st, const char *path, uint8_t *key, struct err *err);

struct pairing_ask {
	int check;	 /* change nothing */
	int replace;	 /* a key that is there may go */
	int force;	 /* even while rhead runs */
	int copy_config; /* the peer gets our config if it has another */
};

enum pairing_did {
	PAIRING_KEPT,	/* both had the same */
	PAIRING_MADE,	/* both got a new one */
	PAIRING_SHARED, /* the peer got this host's */
};

enum { PAIRING_WHERE_MAX = 256 };

/* One path of the link or of the heartbeats. Both are 1, 0, or -1 for not known. */
struct pairing_way_report {
	char name[PAIRING_WAY_NAME_MAX], addresses[PAIRING_REACH_MAX + 8];
	int udp;
	unsigned path;
	int out, in;			/* from here, to here */
	char why[2][PAIRING_REACH_MAX]; /* why not */
};

/* What was found and done. Booleans are 1, 0, or -1 for not known. */
struct pairing_report {
	struct pairing_hello own, peer;
	int same_config, same_key, same_version;
	char where[PAIRING_WHERE_MAX]; /* the first places where the configs differ */
	int64_t clock_ns; /* the peer's clock is ahead by, one trip's time included */
	unsigned n_ways;
	struct pairing_way_report way[PAIRING_WAYS_MAX];
	enum pairing_did did;
	int config_copied;
	int unsure; /* the peer's answer to "commit" is missing */
};

/* Ask the peer behind @io. 0, or -errno with @err; the report holds what was learnt until then. */
int pairing_asks(const struct pairing_io *io, const struct pairing_place *place,
		 const struct pairing_ask *ask, struct pairing_report *out,
		 struct err *err);
/* Serve who asks behind @io, once. Errors have been told to it where that was possible. */
int pairing_serves(const struct pairing_io *io, const struct pairing_place *place,
		   struct err *err);

/* The first places that differ between two outlines (either may end anywhere), as text. */
void pairing_where(const char *own, const char *peers, char *out, size_t room);

#endif
