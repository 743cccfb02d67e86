/* SPDX-License-Identifier: Apache-2.0
 * fuzz_preface - what strangers can send to rhead: the preface, and lines of the control socket.
 *
 * The first byte chooses. Whatever is accepted must mean the same when said again.
 */
#include "ctl/ctlsock.h"
#include "ctl/preface.h"
#include "hv/base/err.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_preface(const uint8_t *data, size_t size)
{
	unsigned char bytes[PREFACE_LEN] = {0};
	struct preface_wire again;
	struct preface p;
	struct err err = {0};

	memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	if (preface_parse(bytes, &p, &err)) {
		assert(err.code < 0 && err.msg[0]);
		return;
	}
	assert(memchr(p.vm, 0, sizeof(p.vm)) && p.vm[0]);
	assert(!preface_encode(p.vm, p.term, p.kind, &again));
	assert(!memcmp(&again, bytes, sizeof(bytes)));
}

static void try_line(const uint8_t *data, size_t size)
{
	struct err err = {0};
	json_t *req = ctl_parse((const char *)data, size, &err), *again;
	char *text;

	if (!req) {
		assert(err.code < 0 && err.msg[0]);
		return;
	}
	assert(json_is_string(json_object_get(req, "cmd")));
	text = json_dumps(req, JSON_COMPACT);
	if (text && strlen(text) <= CTLSOCK_LINE_MAX) {
		again = ctl_parse(text, strlen(text), &err);
		assert(again && json_equal(req, again));
		json_decref(again);
	}
	free(text);
	json_decref(req);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && data[0] & 1)
		try_preface(data + 1, size - 1);
	else if (size)
		try_line(data + 1, size - 1);
	return 0;
}
