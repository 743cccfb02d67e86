/* SPDX-License-Identifier: Apache-2.0
 * fuzz_path - HELLOs of a path's two ends, from a peer that has the key and is mad.
 *
 * The input is the client's HELLO and then the server's. What passes must be safe to use: names that
 * end, text for a terminal, an index among the paths.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/path.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_text(const char *t, size_t room)
{
	size_t n = strnlen(t, room);

	assert(n && n < room);
	for (size_t i = 0; i < n; i++)
		assert(t[i] > ' ' && t[i] <= '~');
}

static int take(const struct path_hello_wire *h, int from_server)
{
	struct err err = {0};

	if (path_hello_check(h, from_server, &err)) {
		assert(err.code == -EPROTO && err.msg[0] && !strchr(err.msg, '\n'));
		return -1;
	}
	assert(h->server == from_server && h->index < h->paths);
	assert(h->purpose >= PATH_ALONE && h->purpose <= PATH_JOIN);
	assert(le16_get(h->blob_len) <= TP_BLOB_MAX);
	assert(strnlen(h->why, sizeof(h->why)) < sizeof(h->why));
	expect_text(h->vm, sizeof(h->vm));
	expect_text(h->transport, sizeof(h->transport));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct path_hello_wire said[2] = {0};
	struct err err = {0};
	int rc;

	memcpy(said, data, size < sizeof(said) ? size : sizeof(said));
	if (take(&said[0], 0) | take(&said[1], 1))
		return 0;
	rc = path_hello_answers(&said[0], &said[1], &err);
	if (rc)
		assert(err.code == rc && err.msg[0] && !strchr(err.msg, '\n'));
	else
		assert(!memcmp(said[0].vm, said[1].vm, sizeof(said[0].vm)) &&
		       !memcmp(said[0].transport, said[1].transport,
			       sizeof(said[0].transport)) &&
		       said[0].index == said[1].index &&
		       !memcmp(&said[0].term, &said[1].term, sizeof(said[0].term)));
	return 0;
}
