/* SPDX-License-Identifier: Apache-2.0
 * path - agrees over TLS on what a connection is, and makes it that.
 */
#include "replication/path.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "replication/aead.h"
#include "replication/path_streams.h"
#include "replication/seal.h"
#include "replication/transport.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = {'R', 'H', 'E', 'A', 'P', 'A', 'T', 'H'};
#define SEAL_LABEL "EXPORTER-rhea-seal"

/* One connection on its way. */
struct setup {
	struct tp *ctl; /* TLS over TCP */
	int server;
	const struct path_key *key;
	unsigned timeout_ms;
	struct path_party party; /* of several streams */
	struct tp_end *end;	 /* of the module, not yet connected */
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

int path_hello_check(const struct path_hello_wire *h, int from_server, struct err *err)
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
	    h->purpose > PATH_TEST || h->index >= h->paths ||
	    memcmp(h->zero, zero, sizeof(zero)) != 0 || !h->streams ||
	    h->streams > TP_TCP_STREAMS_MAX || le16_get(h->blob_len) > TP_BLOB_MAX ||
	    !is_text(h->vm, sizeof(h->vm)) ||
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
	return path_hello_check(h, !s->server, err);
}

/* How many streams this end says: the server not more than the client. */
static unsigned streams_of(const struct setup *s, const struct path_terms *t)
{
	unsigned n = t->streams,
		 most = s->server ? s->said[0].streams : TP_TCP_STREAMS_MAX;

	if (t->module || !n || !(s->server ? s->key->hall != NULL : s->key->more != NULL))
		n = 1;
	return n < most ? n : most;
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
				      .streams = (uint8_t)streams_of(s, t),
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

/* The client's further streams, one after the other. */
static int connect_streams(struct setup *s, struct err *err)
{
	struct path_party *p = &s->party;
	int fds[TP_TCP_STREAMS_MAX];
	int rc = s->key->more(s->key->more_arg, p->n - 1, fds, err);

	if (rc)
		return rc;
	for (unsigned i = 1; i < p->n; i++) {
		if (!rc)
			rc = path_stream_connect(fds[i - 1], s->key, p, i, err);
		else
			(void)close(fds[i - 1]); /* nothing was written through it */
	}
	return rc;
}

static int wait_streams(struct setup *s, struct err *err)
{
	int rc = path_hall_wait(s->key->hall, &s->party, s->timeout_ms);

	return rc ? err_set(err, rc, "%u of the peer's %u streams did not come",
			    s->party.missing, s->party.n)
		  : 0;
}

/* Several streams were agreed on. Takes s->ctl if it succeeds. */
static int join_streams(struct setup *s, struct tp **tp_out, struct err *err)
{
	int rc = s->server ? wait_streams(s, err) : connect_streams(s, err);

	if (rc)
		return rc;
	s->ctl = NULL; /* taken with the others */
	log_info("path %u: %u streams, AES by %s", s->said[0].index, s->party.n,
		 aead_name());
	rc = tp_tcp_join(s->party.tp, s->party.n, tp_out, err);
	s->party.n = 0;
	return rc;
}

/* Tickets for the streams, and at the server's a place for who brings them. */
static int expect_streams(struct setup *s, unsigned n, struct err *err)
{
	if (n < 2)
		return 0;
	if (path_party_init(&s->party, s->ctl, n, s->said, sizeof(s->said)))
		return err_set(err, -EIO, "TLS gave no tickets for streams");
	if (s->server)
		path_hall_expect(s->key->hall, &s->party);
	return 0;
}

/* Both have said their HELLO. */
static int finish(struct setup *s, const struct path_terms *t, struct tp **tp_out,
		  struct err *err)
{
	const struct path_hello_wire *peer = &s->said[!s->server];
	struct tp_end *end = s->end;
	struct tp *inner;
	int rc;

	if (s->party.n)
		return join_streams(s, tp_out, err);
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
	if (s->server && s->party.n)
		path_hall_leave(s->key->hall, &s->party);
	path_party_fini(&s->party);
	tp_close(s->ctl);
}

static int begin(struct setup *s, int fd, const struct path_key *key, int server,
		 struct err *err)
{
	*s = (struct setup){.server = server, .key = key, .timeout_ms = key->timeout_ms};
	return tp_tcp_open(fd, server, key->pair, key->psk, key->timeout_ms, &s->ctl,
			   err);
}

int path_hello_answers(const struct path_hello_wire *q, const struct path_hello_wire *a,
		       struct err *err)
{
	if (le16_get(a->status))
		return err_set(err, -ECONNREFUSED, "the peer refused this path: %s",
			       a->why);
	if (a->purpose != q->purpose || a->index != q->index || a->paths != q->paths ||
	    memcmp(&a->term, &q->term, sizeof(a->term)) != 0 ||
	    memcmp(a->session, q->session, sizeof(a->session)) != 0 ||
	    memcmp(a->transport, q->transport, sizeof(a->transport)) != 0 ||
	    memcmp(a->vm, q->vm, sizeof(a->vm)) != 0 || a->streams > q->streams)
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
	rc = rc ? rc : path_hello_answers(&s.said[0], &s.said[1], err);
	rc = rc ? rc : expect_streams(&s, s.said[1].streams, err);
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
	rc = expect_streams(&s, s.said[1].streams, err);
	if (!rc && say(&s, &s.said[1]))
		rc = err_set(err, -ECONNRESET,
			     "the peer went away before a path's answer");
	rc = rc ? rc : finish(&s, &t, tp_out, err);
out:
	end(&s, &t);
	t.vm = t.transport = NULL;
	*terms_out = t;
	return rc;
}
