/* SPDX-License-Identifier: Apache-2.0
 * path - agrees over TLS on what a connection is, and makes it that.
 */
#include "replication/path.h"

#include "hv/base/err.h"
#include "replication/seal.h"
#include "replication/transport.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

static const char magic[8] = {'R', 'H', 'E', 'A', 'P', 'A', 'T', 'H'};
#define SEAL_LABEL "EXPORTER-rhea-seal"

/* One connection on its way. */
struct setup {
	struct tp *ctl; /* TLS over TCP */
	int server;
	unsigned timeout_ms;
	struct tp_end *end; /* of the module, not yet connected */
	/* What was said: the client's, then the server's. All of it is the context of the keys. */
	struct path_hello_wire said[2];
};

static int say(struct setup *s, const struct path_hello_wire *h)
{
	struct iovec v = {.iov_base = (void *)h, .iov_len = sizeof(*h)};
	int rc = tp_send(s->ctl, &v, 1);

	return rc ? rc : tp_flush(s->ctl);
}

static int is_text(const char *t, size_t room)
{
	size_t n = strnlen(t, room);

	if (!n || n == room)
		return 0;
	for (size_t i = 0; i < room; i++)
		if (i < n ? t[i] <= ' ' || t[i] > '~' : t[i] != 0)
			return 0;
	return 1;
}

static int check(const struct path_hello_wire *h, int from_server, struct err *err)
{
	static const uint8_t zero[sizeof(h->zero)];

	if (memcmp(h->magic, magic, sizeof(magic)) != 0)
		return err_set(err, -EPROTO,
			       "the peer said something else than a path's HELLO");
	if (le16_get(h->version) != PATH_VERSION)
		return err_set(
			err, -EPROTO,
			"the peer speaks version %u of paths, this host version %d: install "
			"the same release on both hosts",
			le16_get(h->version), PATH_VERSION);
	if (h->server != from_server || h->purpose < PATH_ALONE ||
	    h->purpose > PATH_JOIN || h->index >= h->paths ||
	    memcmp(h->zero, zero, sizeof(zero)) != 0 ||
	    le16_get(h->blob_len) > TP_BLOB_MAX || !is_text(h->vm, sizeof(h->vm)) ||
	    !is_text(h->transport, sizeof(h->transport)) ||
	    strnlen(h->why, sizeof(h->why)) == sizeof(h->why))
		return err_set(err, -EPROTO, "the peer's HELLO of a path makes no sense");
	return 0;
}

static int hear(struct setup *s, struct err *err)
{
	struct path_hello_wire *h = &s->said[!s->server];
	int rc;

	tp_tcp_set_recv_timeout(s->ctl, s->timeout_ms);
	rc = tp_recv(s->ctl, h, sizeof(*h));
	tp_tcp_set_recv_timeout(s->ctl, 0);
	if (rc)
		return err_sys(err, rc, "the peer's HELLO of a path");
	return check(h, !s->server, err);
}

static int fill(struct setup *s, const struct path_terms *t, struct err *err)
{
	struct path_hello_wire *h = &s->said[s->server];
	size_t len = 0;
	int rc = 0;

	*h = (struct path_hello_wire){.version = le16_of(PATH_VERSION),
				      .server = (uint8_t)s->server,
				      .purpose = (uint8_t)t->purpose,
				      .index = (uint8_t)t->index,
				      .paths = (uint8_t)t->paths,
				      .term = le64_of(t->term)};
	memcpy(h->magic, magic, sizeof(magic));
	memcpy(h->session, t->session, sizeof(h->session));
	if (strlen(t->vm) >= sizeof(h->vm) ||
	    strlen(t->transport) >= sizeof(h->transport))
		return err_set(err, -ENAMETOOLONG, "a path's names are too long");
	memcpy(h->vm, t->vm, strlen(t->vm));
	memcpy(h->transport, t->transport, strlen(t->transport));
	if (t->module)
		rc = t->module->prepare(t->dev, s->server, &s->end, h->blob, &len, err);
	if (!rc && len > TP_BLOB_MAX)
		rc = err_set(err, -E2BIG, "%s: its description is too long",
			     t->module->name);
	h->blob_len = le16_of((uint16_t)len);
	return rc;
}

static int seal(struct setup *s, struct tp *inner, struct tp **tp_out, struct err *err)
{
	struct seal_secrets secrets;
	int rc = tp_tcp_export(s->ctl, SEAL_LABEL, s->said, sizeof(s->said), &secrets,
			       sizeof(secrets));

	if (rc) {
		tp_close(inner);
		return err_set(err, rc, "TLS gave no keys for the %s transport",
			       inner->ops->name);
	}
	rc = tp_seal_wrap(inner, s->server, &secrets, tp_out, err);
	OPENSSL_cleanse(&secrets, sizeof(secrets));
	return rc;
}

/* Both have said their HELLO. */
static int finish(struct setup *s, const struct path_terms *t, struct tp **tp_out,
		  struct err *err)
{
	const struct path_hello_wire *peer = &s->said[!s->server];
	struct tp_end *end = s->end;
	struct tp *inner;
	int rc;

	if (!t->module) {
		*tp_out = s->ctl;
		s->ctl = NULL;
		return 0;
	}
	s->end = NULL; /* taken by connect */
	rc = t->module->connect(end, peer->blob, le16_get(peer->blob_len), s->timeout_ms,
				&inner, err);
	if (rc)
		return err_ctx(err, "%s", t->module->name);
	return seal(s, inner, tp_out, err);
}

/* The control connection of a module's path has done its service; that of a failed one, too. */
static void end(struct setup *s, const struct path_terms *t)
{
	if (s->end && t->module)
		t->module->discard(s->end);
	tp_close(s->ctl);
}

static int begin(struct setup *s, int fd, const struct path_key *key, int server,
		 struct err *err)
{
	*s = (struct setup){.server = server, .timeout_ms = key->timeout_ms};
	return tp_tcp_open(fd, server, key->pair, key->psk, key->timeout_ms, &s->ctl,
			   err);
}

/* The answer must be to what was asked, word for word. */
static int judge_answer(const struct setup *s, struct err *err)
{
	const struct path_hello_wire *q = &s->said[0], *a = &s->said[1];

	if (le16_get(a->status))
		return err_set(err, -ECONNREFUSED, "the peer refused this path: %s",
			       a->why);
	if (a->purpose != q->purpose || a->index != q->index || a->paths != q->paths ||
	    memcmp(&a->term, &q->term, sizeof(a->term)) != 0 ||
	    memcmp(a->session, q->session, sizeof(a->session)) != 0 ||
	    memcmp(a->transport, q->transport, sizeof(a->transport)) != 0 ||
	    memcmp(a->vm, q->vm, sizeof(a->vm)) != 0)
		return err_set(err, -EPROTO,
			       "the peer agreed to another path than was asked for");
	return 0;
}

int path_connect(int fd, const struct path_key *key, const struct path_terms *t,
		 struct tp **tp_out, struct err *err)
{
	struct setup s;
	int rc = begin(&s, fd, key, 0, err);

	if (rc)
		return rc;
	rc = fill(&s, t, err);
	if (!rc && say(&s, &s.said[0]))
		rc = err_set(err, -ECONNRESET,
			     "the peer went away before a path's HELLO");
	rc = rc ? rc : hear(&s, err);
	rc = rc ? rc : judge_answer(&s, err);
	rc = rc ? rc : finish(&s, t, tp_out, err);
	end(&s, t);
	return rc;
}

static void read_offer(const struct path_hello_wire *h, struct path_terms *t)
{
	*t = (struct path_terms){.purpose = h->purpose,
				 .index = h->index,
				 .paths = h->paths,
				 .term = le64_get(h->term),
				 .vm = h->vm,
				 .transport = h->transport};
	memcpy(t->session, h->session, sizeof(t->session));
}

/* Tell the client why not, as well as it can be told. */
static void refuse(struct setup *s, const struct err *why)
{
	struct path_hello_wire h = s->said[0];

	h.server = 1;
	h.status = le16_of(1);
	h.blob_len = le16_of(0);
	memset(h.blob, 0, sizeof(h.blob));
	memset(h.why, 0, sizeof(h.why));
	(void)snprintf(h.why, sizeof(h.why), "%.*s", (int)sizeof(h.why) - 1,
		       why->msg); /* cutting is fine */
	(void)say(s, &h); /* a client that does not hear it sees the connection end */
}

int path_accept(int fd, const struct path_key *key, path_admit_fn *admit, void *arg,
		struct path_terms *terms_out, struct tp **tp_out, struct err *err)
{
	struct path_terms t = {0};
	struct setup s;
	int rc = begin(&s, fd, key, 1, err);

	if (rc)
		return rc;
	rc = hear(&s, err);
	if (rc)
		goto out;
	read_offer(&s.said[0], &t);
	rc = admit(arg, &t, err);
	rc = rc ? rc : fill(&s, &t, err);
	if (rc) {
		refuse(&s, err);
		goto out;
	}
	if (say(&s, &s.said[1]))
		rc = err_set(err, -ECONNRESET,
			     "the peer went away before a path's answer");
	rc = rc ? rc : finish(&s, &t, tp_out, err);
out:
	end(&s, &t);
	t.vm = t.transport = NULL;
	*terms_out = t;
	return rc;
}
