/* SPDX-License-Identifier: Apache-2.0
 * pairing_asks - the side of `rheactl pair` where somebody types.
 */
#include "ctl/pairing.h"

#include "ctl/pairing_reach.h"
#include "ctl/staged.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct asks {
	const struct pairing_io *io;
	const struct pairing_ask *ask;
	struct pairing_self self;
	struct pairing_report *r;
	struct staged key;
	enum pairing_want want;
	int make; /* a new key, not the one that is there */
};

static int hear_hello(struct asks *a, struct err *err)
{
	struct pairing_msg m;
	int rc = pairing_get(a->io, 1u << PAIRING_HELLO, &m, err);

	if (rc)
		return rc;
	rc = pairing_hello_parse((char *)m.body, m.len, &a->r->peer, err);
	pairing_msg_fini(&m);
	return rc;
}

static int same_config(const struct asks *a)
{
	return a->r->peer.has_config &&
	       !memcmp(a->r->peer.digest, a->self.hello.digest, CONFIG_DIGEST_LEN);
}

static int find_where(struct asks *a, struct err *err)
{
	char *own = config_outline(a->self.text, a->self.text_len);
	struct pairing_msg m = {0};
	int rc = own ? pairing_put(a->io, PAIRING_OUTLINE, NULL, 0, err)
		     : err_set(err, -ENOMEM, "out of memory");

	if (!rc)
		rc = pairing_get(a->io, 1u << PAIRING_OUTLINE, &m, err);
	if (!rc)
		pairing_where(own, (char *)m.body, a->r->where, sizeof(a->r->where));
	pairing_msg_fini(&m);
	free(own);
	return rc;
}

/* Afterwards the two have the same config, or the report says where not. */
static int settle_config(struct asks *a, struct err *err)
{
	int rc = 0;

	if (!same_config(a) && a->ask->copy_config && !a->ask->check) {
		rc = pairing_put(a->io, PAIRING_CONFIG, a->self.text, a->self.text_len,
				 err);
		if (!rc)
			rc = hear_hello(a, err);
		a->r->config_copied = !rc;
	}
	if (!rc && !same_config(a) && a->r->peer.has_config)
		rc = find_where(a, err);
	a->r->same_config = same_config(a);
	if (rc || a->r->same_config || a->ask->check)
		return rc;
	if (!a->r->peer.has_config)
		return err_set(
			err, -ENOENT,
			"it cannot use its config (%s); --config copies this host's",
			a->r->peer.why);
	return err_set(err, -EINVAL,
		       "its config differs in %s; --config copies this host's over it",
		       a->r->where);
}

static int check_names(struct asks *a, struct err *err)
{
	const struct pairing_hello *own = &a->self.hello, *peer = &a->r->peer;

	if (!peer->has_config)
		return 0;
	if (!strcmp(peer->host, own->host))
		return err_set(err, -EINVAL,
			       "it is host %s, as this one is; name the other host",
			       peer->host);
	if (strcmp(peer->host, config_peer(a->self.cfg)->name) != 0 ||
	    strcmp(peer->pair, own->pair) != 0)
		return err_set(err, -EINVAL,
			       "it is host %s of pair %s, and this host's peer is %s of "
			       "pair %s",
			       peer->host, peer->pair, config_peer(a->self.cfg)->name,
			       own->pair);
	return 0;
}

static int refuse_key(enum pairing_key_state own, enum pairing_key_state peers,
		      struct err *err)
{
	if (own == PAIRING_KEY_NONE)
		return err_set(
			err, -EEXIST,
			"it has a key and this host has none; run rheactl pair there to "
			"give it to this host, or --replace makes a new one for both");
	return err_set(
		err, -EEXIST,
		"%s host's key file is there and cannot be used; --replace makes a new key "
		"for both",
		own == PAIRING_KEY_BAD ? "this" : "that");
}

/* What is to be done about the key? */
static int decide(struct asks *a, struct err *err)
{
	enum pairing_key_state own = a->self.hello.key, peers = a->r->peer.key;
	int up = a->self.hello.rhead_up || a->r->peer.rhead_up;

	a->want = PAIRING_CHECK;
	if (a->ask->check)
		return 0;
	if ((own == PAIRING_KEY_INLINE || peers == PAIRING_KEY_INLINE) &&
	    (a->ask->replace || own != peers))
		return err_set(
			err, -EINVAL,
			"the config of %s host holds a key itself; write key_file = "
			"\"/etc/rhea/key\" there instead, and pair again",
			own == PAIRING_KEY_INLINE ? "this" : "that");
	if (a->ask->replace) {
		a->want = PAIRING_REPLACE;
		a->make = 1;
		if (up && !a->ask->force)
			return err_set(
				err, -EBUSY,
				"rhead runs on %s and reads its key at its start only; "
				"stop both, or say --force and restart both",
				a->self.hello.rhead_up ? "this host" : "that host");
		return 0;
	}
	if (own == PAIRING_KEY_NONE && peers == PAIRING_KEY_NONE)
		a->make = 1;
	else if (own == PAIRING_KEY_NONE || own == PAIRING_KEY_BAD ||
		 peers == PAIRING_KEY_BAD)
		return refuse_key(own, peers, err);
	if (peers == PAIRING_KEY_NONE)
		a->want = PAIRING_ADD;
	return 0;
}

static int say_hello(struct asks *a, struct err *err)
{
	char text[PAIRING_HELLO_MAX];
	size_t n;

	a->self.hello.want = a->want;
	n = pairing_hello_format(&a->self.hello, text, sizeof(text));
	return pairing_put(a->io, PAIRING_HELLO, text, n, err);
}

static int send_key(struct asks *a, struct err *err)
{
	int rc = 0;

	if (a->make) {
		if (getrandom(a->self.key, CONFIG_KEY_LEN, 0) != CONFIG_KEY_LEN)
			return err_sys(err, -errno, "get random bytes");
		rc = pairing_stage_key(&a->key, a->self.cfg->key_file, a->self.key, err);
	}
	if (!rc)
		rc = say_hello(a, err);
	if (!rc)
		rc = pairing_put(a->io, PAIRING_KEY, a->self.key, CONFIG_KEY_LEN, err);
	return rc;
}

/* Has the peer the same key? Into the report. */
static int hear_proof(struct asks *a, struct err *err)
{
	uint8_t want[PAIRING_PROOF_LEN];
	struct pairing_msg m;
	int rc = pairing_get(a->io, 1u << PAIRING_PROOF, &m, err);

	if (rc)
		return rc;
	if (pairing_proof(a->self.key, "serves", &a->self.hello, &a->r->peer, want))
		rc = err_set(err, -EIO, "the proof failed (OpenSSL)");
	else
		a->r->same_key = !CRYPTO_memcmp(m.body, want, sizeof(want));
	pairing_msg_fini(&m);
	return rc;
}

static int hear(struct asks *a, enum pairing_type type, struct err *err)
{
	struct pairing_msg m;
	int rc = pairing_get(a->io, 1u << type, &m, err);

	if (!rc)
		pairing_msg_fini(&m);
	return rc;
}

/* Ours, and the peer's word that all is on its disk. */
static int prove(struct asks *a, struct err *err)
{
	uint8_t own[PAIRING_PROOF_LEN];
	int rc;

	if (pairing_proof(a->self.key, "asks", &a->self.hello, &a->r->peer, own))
		return err_set(err, -EIO, "the proof failed (OpenSSL)");
	rc = pairing_put(a->io, PAIRING_PROOF, own, sizeof(own), err);
	return rc ? rc : hear(a, PAIRING_READY, err);
}

/* From our rename on only the peer's "no" brings the old key back: when it is silent, it may have
 * renamed as well. */
static int commit(struct asks *a, struct err *err)
{
	int rc = a->make ? staged_commit(&a->key, err) : 0;
	struct err why = {0};

	if (rc)
		return rc;
	rc = pairing_put(a->io, PAIRING_COMMIT, NULL, 0, err);
	if (!rc)
		rc = hear(a, PAIRING_DONE, err);
	if (rc == -EREMOTEIO) {
		if (staged_undo(&a->key, &why))
			return err_ctx(err, "%s; and then", why.msg);
		return rc;
	}
	a->r->unsure = rc != 0;
	staged_finish(&a->key);
	return rc;
}

/* Ask the peer what it found; its lines are taken into the report by @take. */
static int hear_reach(struct asks *a,
		      void (*take)(struct pairing_way_report *w, int result,
				   const char *why),
		      struct err *err)
{
	char why[PAIRING_REACH_MAX];
	struct pairing_msg m;
	const char *at;
	int result, rc = pairing_put(a->io, PAIRING_REACH, NULL, 0, err);

	if (!rc)
		rc = pairing_get(a->io, 1u << PAIRING_REACH, &m, err);
	if (rc)
		return rc;
	at = (char *)m.body;
	for (unsigned i = 0; i < a->r->n_ways; i++) {
		at = pairing_line_get(at, &result, why, sizeof(why));
		take(&a->r->way[i], result, why);
	}
	pairing_msg_fini(&m);
	return 0;
}

static void take_tried(struct pairing_way_report *w, int result, const char *why)
{
	if (w->udp)
		return;
	w->in = result;
	memcpy(w->why[1], why, sizeof(w->why[1]));
}

static void take_heard(struct pairing_way_report *w, int result, const char *why)
{
	if (w->udp)
		w->out = result;
}

static void name_ways(struct asks *a, const struct pairing_reach *r)
{
	a->r->n_ways = r->n;
	for (unsigned i = 0; i < r->n; i++) {
		struct pairing_way_report *to = &a->r->way[i];
		const struct pairing_way *w = &r->way[i];

		*to = (struct pairing_way_report){
			.udp = w->udp, .path = w->path, .out = -1, .in = -1};
		pairing_way_name(a->self.cfg, w, to->name, sizeof(to->name));
		(void)snprintf(to->addresses, sizeof(to->addresses), "%s - %s",
			       w->own->text, w->peer->text); /* fits */
	}
}

static void try_ways(struct asks *a, struct pairing_reach *r)
{
	/* A rhead takes our datagrams for a stranger's, and nobody would say that they came. */
	int silent = a->r->peer.rhead_up;

	for (unsigned i = 0; i < r->n; i++) {
		struct pairing_way_report *to = &a->r->way[i];

		if (!r->way[i].udp)
			to->out = pairing_way_try(&r->way[i]);
		else if (!silent)
			to->in = pairing_way_hear(&r->way[i]);
		if (!silent)
			pairing_way_send(&r->way[i]);
		memcpy(to->why[0], r->way[i].why, sizeof(to->why[0]));
	}
}

static int reach(struct asks *a, struct err *err)
{
	struct pairing_reach r;
	int rc;

	if (!a->r->peer.has_config)
		return 0;
	pairing_reach_init(&r, a->self.cfg);
	name_ways(a, &r);
	rc = hear_reach(a, take_tried, err);
	if (!rc) {
		try_ways(a, &r);
		rc = hear_reach(a, take_heard, err);
	}
	pairing_reach_fini(&r);
	return rc;
}

static int check(struct asks *a, struct err *err)
{
	enum pairing_key_state own = a->self.hello.key, peers = a->r->peer.key;
	int has = own == PAIRING_KEY_FILE || own == PAIRING_KEY_INLINE;
	int rc = reach(a, err);

	if (rc || !a->r->peer.has_config)
		return rc;
	if (!has || (peers != PAIRING_KEY_FILE && peers != PAIRING_KEY_INLINE))
		return 0;
	rc = say_hello(a, err);
	return rc ? rc : hear_proof(a, err);
}

static int change(struct asks *a, struct err *err)
{
	int rc = a->want == PAIRING_CHECK ? say_hello(a, err) : send_key(a, err);

	if (!rc)
		rc = hear_proof(a, err);
	if (rc)
		return rc;
	if (!a->r->same_key)
		return err_set(
			err, -EKEYREJECTED,
			a->want == PAIRING_CHECK
				? "it has another key than this host; --replace makes a "
				  "new one for both"
				: "it did not prove to have the key that it was sent; "
				  "nothing was changed");
	if (a->want == PAIRING_CHECK && !a->r->config_copied)
		return 0;
	rc = prove(a, err);
	if (!rc)
		rc = commit(a, err);
	if (!rc)
		a->r->did = a->make		       ? PAIRING_MADE
			    : a->want == PAIRING_CHECK ? PAIRING_KEPT
						       : PAIRING_SHARED;
	return rc;
}

static int run(struct asks *a, struct err *err)
{
	int rc = hear_hello(a, err);

	if (rc)
		return rc;
	a->r->clock_ns = (int64_t)(a->r->peer.wall_ns - clock_real_ns());
	a->r->same_version = !strcmp(a->r->peer.version, a->self.hello.version);
	rc = check_names(a, err);
	if (!rc)
		rc = settle_config(a, err);
	if (!rc)
		rc = check_names(a, err);
	if (!rc)
		rc = decide(a, err);
	if (rc)
		return rc;
	return a->ask->check ? check(a, err) : change(a, err);
}

int pairing_asks(const struct pairing_io *io, const struct pairing_place *place,
		 const struct pairing_ask *ask, struct pairing_report *out,
		 struct err *err)
{
	struct asks a = {.io = io, .ask = ask, .r = out};
	struct err ignored = {0};
	int rc = pairing_self_load(place, &a.self, err);

	*out = (struct pairing_report){.own = a.self.hello,
				       .same_config = -1,
				       .same_key = -1,
				       .same_version = -1};
	if (!rc && !a.self.cfg)
		rc = err_set(err, -EINVAL, "%s", a.self.hello.why);
	else if (!rc)
		rc = run(&a, err);
	/* It has told us of its own; ours it has to hear, or it sees us hang up. */
	if (rc && rc != -EPIPE && rc != -EREMOTEIO)
		(void)pairing_put(io, PAIRING_ERROR, err->msg, strlen(err->msg),
				  &ignored);
	(void)staged_undo(&a.key, &ignored); /* the next pairing overwrites what stays */
	pairing_self_fini(&a.self);
	return rc;
}
