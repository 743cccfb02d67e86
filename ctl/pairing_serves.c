/* SPDX-License-Identifier: Apache-2.0
 * pairing_serves - the side of `rheactl pair` that was called over ssh.
 */
#include "ctl/pairing.h"

#include "ctl/pairing_reach.h"
#include "ctl/staged.h"
#include "hv/base/err.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct serves {
	const struct pairing_io *io;
	struct pairing_self self;
	struct pairing_hello asks;
	struct staged config, key;
	struct pairing_reach reach; /* once it was asked for */
	int reached;
};

static int say_hello(struct serves *s, struct err *err)
{
	char text[PAIRING_HELLO_MAX];
	size_t n = pairing_hello_format(&s->self.hello, text, sizeof(text));

	return pairing_put(s->io, PAIRING_HELLO, text, n, err);
}

/* Checked as this host's before it is written beside the old one. */
static int take_config(struct serves *s, struct pairing_msg *m, struct err *err)
{
	char *text;
	int rc = pairing_self_config(&s->self, (char *)m->body, m->len, err);

	if (!rc)
		rc = staged_undo(&s->config, err);
	if (!rc)
		rc = staged_write(&s->config, s->self.place->config, m->body, m->len,
				  err);
	if (rc)
		return rc;
	text = strndup((char *)m->body, m->len);
	if (!text)
		return err_set(err, -ENOMEM, "out of memory");
	if (s->self.text)
		explicit_bzero(s->self.text, s->self.text_len);
	free(s->self.text);
	s->self.text = text;
	s->self.text_len = m->len;
	return say_hello(s, err);
}

static int tell_outline(struct serves *s, struct err *err)
{
	char *text = s->self.cfg ? config_outline(s->self.text, s->self.text_len) : NULL;
	int rc = pairing_put(s->io, PAIRING_OUTLINE, text, text ? strlen(text) : 0, err);

	free(text);
	return rc;
}

/* The first time how TCP goes, then which datagrams have come. */
static int tell_reach(struct serves *s, struct err *err)
{
	char text[PAIRING_REACH_TEXT_MAX];
	size_t n = 0;
	int result;

	if (!s->reached && s->self.cfg)
		pairing_reach_init(&s->reach, s->self.cfg);
	for (unsigned i = 0; i < s->reach.n; i++) {
		struct pairing_way *w = &s->reach.way[i];

		result = -1;
		if (s->reached)
			result = pairing_way_hear(w);
		else if (!w->udp)
			result = pairing_way_try(w);
		else
			pairing_way_send(w);
		n += pairing_line_put(text + n, sizeof(text) - n, result, w->why);
	}
	s->reached = 1;
	return pairing_put(s->io, PAIRING_REACH, text, n, err);
}

/* Answer questions until the asking side says what it wants. */
static int answer(struct serves *s, struct err *err)
{
	const unsigned want = 1u << PAIRING_HELLO | 1u << PAIRING_CONFIG |
			      1u << PAIRING_OUTLINE | 1u << PAIRING_REACH;
	struct pairing_msg m;
	int rc = 0, last = 0;

	while (!rc && !last) {
		rc = pairing_get(s->io, want, &m, err);
		if (rc)
			return rc;
		last = m.type == PAIRING_HELLO;
		if (last)
			rc = pairing_hello_parse((char *)m.body, m.len, &s->asks, err);
		else if (m.type == PAIRING_CONFIG)
			rc = take_config(s, &m, err);
		else if (m.type == PAIRING_OUTLINE)
			rc = tell_outline(s, err);
		else
			rc = tell_reach(s, err);
		pairing_msg_fini(&m);
	}
	return rc;
}

/* The asking side has refused all this before; here it is for one that did not. */
static int check_wish(struct serves *s, struct err *err)
{
	const struct pairing_hello *own = &s->self.hello, *asks = &s->asks;
	int has_key = own->key == PAIRING_KEY_FILE || own->key == PAIRING_KEY_INLINE;

	if (!s->self.cfg)
		return err_set(err, -ENOENT, "%s", own->why);
	if (asks->want == PAIRING_SERVE ||
	    strcmp(asks->host, config_peer(s->self.cfg)->name) != 0 ||
	    strcmp(asks->pair, own->pair) != 0)
		return err_set(err, -EPERM,
			       "host %s of pair %s is not the peer of host %s of pair %s",
			       asks->host, asks->pair, own->host, own->pair);
	if (asks->want == PAIRING_CHECK)
		return has_key ? 0 : err_set(err, -ENOENT, "there is no key");
	if (own->key == PAIRING_KEY_INLINE)
		return err_set(
			err, -EINVAL,
			"%s holds the key itself; write key_file = \"/etc/rhea/key\" "
			"instead",
			s->self.place->config);
	if (asks->want == PAIRING_ADD && own->key != PAIRING_KEY_NONE)
		return err_set(err, -EEXIST, "%s is there already",
			       s->self.cfg->key_file);
	return 0;
}

static int take_key(struct serves *s, struct err *err)
{
	struct pairing_msg m;
	int rc = pairing_get(s->io, 1u << PAIRING_KEY, &m, err);

	if (rc)
		return rc;
	memcpy(s->self.key, m.body, CONFIG_KEY_LEN);
	pairing_msg_fini(&m);
	return pairing_stage_key(&s->key, s->self.cfg->key_file, s->self.key, err);
}

/* Ours first. Who only checks hangs up then, and that is no fault. */
static int prove(struct serves *s, int *checked, struct err *err)
{
	uint8_t own[PAIRING_PROOF_LEN], peers[PAIRING_PROOF_LEN];
	struct pairing_msg m;
	int rc;

	if (pairing_proof(s->self.key, "serves", &s->asks, &s->self.hello, own) ||
	    pairing_proof(s->self.key, "asks", &s->asks, &s->self.hello, peers))
		return err_set(err, -EIO, "the proof failed (OpenSSL)");
	rc = pairing_put(s->io, PAIRING_PROOF, own, sizeof(own), err);
	if (!rc)
		rc = pairing_get(s->io, 1u << PAIRING_PROOF, &m, err);
	*checked = rc == -EPIPE && s->asks.want == PAIRING_CHECK;
	if (rc)
		return rc;
	if (CRYPTO_memcmp(m.body, peers, sizeof(peers)) != 0)
		rc = err_set(err, -EKEYREJECTED,
			     "the host that asks did not prove to have the same key");
	pairing_msg_fini(&m);
	return rc;
}

/* The config first: a key without its config is no use, and both can still be taken back. */
static int commit(struct serves *s, struct err *err)
{
	struct pairing_msg m;
	int rc = pairing_put(s->io, PAIRING_READY, NULL, 0, err);

	if (!rc)
		rc = pairing_get(s->io, 1u << PAIRING_COMMIT, &m, err);
	if (rc)
		return rc;
	pairing_msg_fini(&m);
	if (s->config.state == STAGED_WRITTEN)
		rc = staged_commit(&s->config, err);
	if (!rc && s->key.state == STAGED_WRITTEN)
		rc = staged_commit(&s->key, err);
	if (rc)
		return rc;
	staged_finish(&s->config);
	staged_finish(&s->key);
	return pairing_put(s->io, PAIRING_DONE, NULL, 0, err);
}

static int serve(struct serves *s, const struct pairing_place *place, int *checked,
		 struct err *err)
{
	int rc = pairing_self_load(place, &s->self, err);

	if (!rc)
		rc = say_hello(s, err);
	if (!rc)
		rc = answer(s, err);
	if (!rc)
		rc = check_wish(s, err);
	if (!rc && s->asks.want != PAIRING_CHECK)
		rc = take_key(s, err);
	if (!rc)
		rc = prove(s, checked, err);
	return rc ? rc : commit(s, err);
}

int pairing_serves(const struct pairing_io *io, const struct pairing_place *place,
		   struct err *err)
{
	struct serves s = {.io = io};
	struct err ignored = {0};
	int checked = 0, rc = serve(&s, place, &checked, err);

	/* What cannot be taken back or told any more is overwritten by the next pairing. */
	(void)staged_undo(&s.key, &ignored);
	(void)staged_undo(&s.config, &ignored);
	if (rc && !checked && rc != -EPIPE && rc != -EREMOTEIO)
		(void)pairing_put(io, PAIRING_ERROR, err->msg, strlen(err->msg),
				  &ignored);
	pairing_reach_fini(&s.reach);
	pairing_self_fini(&s.self);
	return checked ? 0 : rc;
}
