/* SPDX-License-Identifier: Apache-2.0
 * test_path_wire - somebody on the wire changes, cuts or adds something at each place of what two ends
 * say until they have a path: TLS's handshake, both HELLOs, and the first words behind them.
 *
 * Nobody comes to a link that is not what both said, and nobody is left with half a link.
 */
#include "hv/base/err.h"
#include "replication/path.h"
#include "replication/transport.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

enum { STEP = 7, LONG_MS = 60000, QUIET_MS = 200, WORDS = 32, ENOUGH = 3000, BYE = 24 };
enum deed { FLIP, CUT, ADD, DEEDS };

/* Between the two; side 0 of everything is the client. */
struct wire {
	int fd[2]; /* towards each */
	int from;  /* whose bytes are harmed */
	size_t at, seen[2];
	enum deed deed;
	int done;
	pthread_t thread;
};

/* Returns 0 when it is over. */
static int forward(struct wire *w, int from)
{
	static const char garbage[] = "what does not belong there";
	char b[4096];
	ssize_t n = recv(w->fd[from], b, sizeof(b), 0), pass = 0;

	if (n <= 0)
		return 0;
	if (from == w->from && !w->done && w->at < w->seen[from] + (size_t)n) {
		w->done = 1;
		pass = (ssize_t)(w->at - w->seen[from]);
		if (send(w->fd[!from], b, (size_t)pass, MSG_NOSIGNAL) != pass ||
		    w->deed == CUT)
			return 0;
		if (w->deed == FLIP)
			b[pass] ^= 0x04;
		else
			(void)send(w->fd[!from], garbage, sizeof(garbage),
				   MSG_NOSIGNAL); /* an end that left is fine */
	}
	w->seen[from] += (size_t)n;
	return send(w->fd[!from], b + pass, (size_t)(n - pass), MSG_NOSIGNAL) == n - pass;
}

static void *wire_run(void *arg)
{
	struct wire *w = arg;
	struct pollfd p[2] = {{.fd = w->fd[0], .events = POLLIN},
			      {.fd = w->fd[1], .events = POLLIN}};
	int on = 1;

	/* Ends that wait for each other after the harm have their time-outs; tests of those are elsewhere. */
	while (on && poll(p, 2, w->done ? QUIET_MS : -1) > 0)
		for (int i = 0; i < 2 && on; i++)
			if (p[i].revents)
				on = forward(w, i);
	(void)close(w->fd[0]); /* both ends hear of it */
	(void)close(w->fd[1]);
	return NULL;
}

struct side {
	int fd, server, rc, words_rc;
	struct tp *tp;
	struct err err;
	char heard[WORDS];
	pthread_t thread;
};

static const struct path_key key = {
	.pair = "pair", .psk = link_psk, .timeout_ms = LONG_MS};
static const struct path_terms terms = {
	.purpose = PATH_ALONE, .paths = 1, .term = 5, .vm = "web", .transport = "tcp"};

static int admit(void *arg, struct path_terms *offer, struct err *err)
{
	if (offer->term != terms.term || strcmp(offer->vm, "web") != 0)
		return err_set(err, -EPERM, "that is not what was agreed");
	return 0;
}

static void words_of(int server, char words[WORDS])
{
	(void)snprintf(words, WORDS, "the first words of side %d", server); /* fits */
}

/* Who has a link says something and listens; who has none leaves. */
static void *side_run(void *arg)
{
	struct side *s = arg;
	struct path_terms got;
	char words[WORDS] = {0};
	struct iovec v = {.iov_base = words, .iov_len = WORDS};

	if (s->server)
		s->rc = path_accept(s->fd, &key, admit, NULL, &got, &s->tp, &s->err);
	else
		s->rc = path_connect(s->fd, &key, &terms, &s->tp, &s->err);
	if (s->rc)
		return NULL;
	words_of(s->server, words);
	s->words_rc = tp_send(s->tp, &v, 1);
	if (!s->words_rc)
		s->words_rc = tp_flush(s->tp);
	tp_tcp_set_recv_timeout(s->tp, LONG_MS);
	if (!s->words_rc)
		s->words_rc = tp_recv(s->tp, s->heard, WORDS);
	if (s->words_rc)
		tp_shutdown(s->tp);
	return NULL;
}

static void judge(const struct side *s, int harmed, int peer_ok)
{
	char want[WORDS] = {0};

	words_of(!s->server, want);
	if (s->rc) {
		CU_ASSERT(s->rc < 0 && s->err.msg[0] && !strchr(s->err.msg, '\n'));
		CU_ASSERT_PTR_NULL(s->tp);
	} else if (!s->words_rc) {
		CU_ASSERT_EQUAL(memcmp(s->heard, want, WORDS), 0);
		CU_ASSERT(peer_ok);
	}
	if (!harmed)
		CU_ASSERT(!s->rc && !s->words_rc);
}

/* One try. Returns whether there was a place @at in what @from said; *harmless_out: both came through
 * with every word right. */
static int attempt(enum deed deed, int from, size_t at, int *harmless_out)
{
	struct wire w = {.deed = deed, .from = from, .at = at};
	struct side side[2] = {0};
	int left[2], right[2];

	link_sockets(left);
	link_sockets(right);
	w.fd[0] = left[1];
	w.fd[1] = right[0];
	side[0].fd = left[0];
	side[1].fd = right[1];
	side[1].server = 1;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w.thread, NULL, wire_run, &w), 0);
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(
			pthread_create(&side[i].thread, NULL, side_run, &side[i]), 0);
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL(pthread_join(side[i].thread, NULL), 0);
	for (int i = 0; i < 2; i++)
		tp_close(side[i].tp);
	CU_ASSERT_EQUAL(pthread_join(w.thread, NULL), 0);
	for (int i = 0; i < 2; i++)
		judge(&side[i], w.done, !side[!i].rc);
	*harmless_out =
		!side[0].rc && !side[1].rc && !side[0].words_rc && !side[1].words_rc;
	return w.done;
}

static void everywhere(enum deed deed)
{
	unsigned harmless = 0, harmed = 0;
	size_t at;
	int none;

	for (int from = 0; from < 2; from++) {
		for (at = deed; at < ENOUGH && attempt(deed, from, at, &none);
		     at += STEP) {
			harmed++;
			harmless += none != 0;
		}
		/* TLS's hello, the end of its handshake, HELLO, the first words. */
		CU_ASSERT(at > sizeof(struct path_hello_wire) + 300 && at < ENOUGH);
	}
	/* What comes behind the last word, TLS's good-bye, is of no consequence here; and TLS 1.3 does not
	 * look at the version of a record in the clear. */
	CU_ASSERT(harmless <= 2 * (BYE / STEP + 1) + 2);
	(void)fprintf(stderr, "%u tries, %u harmless\n", harmed, harmless);
}

static void test_flip(void)
{
	everywhere(FLIP);
}

static void test_cut(void)
{
	everywhere(CUT);
}

static void test_add(void)
{
	everywhere(ADD);
}

static const struct unit_test tests[] = {
	{"a bit is flipped", test_flip},
	{"the wire is cut", test_cut},
	{"garbage is added", test_add},
};

int main(void)
{
	return UNIT_MAIN("path_wire", tests);
}
