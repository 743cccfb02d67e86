/* SPDX-License-Identifier: Apache-2.0
 * fuzz_pair - what the other end of `rheactl pair` may say: headers, facts, an outline, and
 * whole conversations.
 *
 * The first byte chooses. Facts that were understood say the same again.
 */
#include "ctl/pairing.h"
#include "hv/base/err.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(int ok)
{
	if (!ok)
		abort();
}

static void try_header(const char *p, size_t len)
{
	enum pairing_type type;
	struct err err = {0};
	size_t n;

	if (!pairing_header_parse(p, len, &type, &n, &err))
		must((unsigned)type < PAIRING_NTYPES && n <= CONFIG_FILE_MAX);
	else
		must(err.code < 0 && err.msg[0]);
}

static void try_hello(const char *p, size_t len)
{
	char again[PAIRING_HELLO_MAX];
	struct pairing_hello h;
	struct err err = {0};

	if (len > PAIRING_HELLO_MAX)
		return; /* the header's limit */
	if (pairing_hello_parse(p, len, &h, &err)) {
		must(err.code < 0 && err.msg[0]);
		return;
	}
	must(memchr(h.host, 0, sizeof(h.host)) && memchr(h.why, 0, sizeof(h.why)));
	must(pairing_hello_format(&h, again, sizeof(again)) == len);
	must(!memcmp(again, p, len));
}

static void try_outline(const char *p)
{
	static const char own[] = "a.b 1\na.c 2\nvms[0].memory 3\n";
	char where[PAIRING_WHERE_MAX];

	pairing_where(own, p, where, sizeof(where));
	must(strlen(where) < sizeof(where) && !strchr(where, '\n'));
}

/* A row of messages, as from a pipe. */
static void try_stream(const char *p, size_t len)
{
	struct pairing_io io = {.out = -1, .wait_ms = 1000};
	struct pairing_msg m;
	struct err err = {0};

	io.in = memfd_create("peer", MFD_CLOEXEC);
	must(io.in >= 0 && write(io.in, p, len) == (ssize_t)len &&
	     !lseek(io.in, 0, SEEK_SET));
	while (!pairing_get(&io, ~0u, &m, &err)) {
		must(m.len <= CONFIG_FILE_MAX && !m.body[m.len]);
		pairing_msg_fini(&m);
	}
	must(err.code < 0 && err.msg[0]);
	must(!close(io.in));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text;

	if (!len)
		return 0;
	text = strndup((const char *)data + 1, len - 1);
	if (!text)
		return 0;
	switch (data[0] & 3) {
	case 0:
		try_header((const char *)data + 1, len - 1);
		break;
	case 1:
		try_hello(text, strlen(text));
		break;
	case 2:
		try_outline(text);
		break;
	default:
		try_stream((const char *)data + 1, len - 1);
	}
	free(text);
	return 0;
}
