/* SPDX-License-Identifier: Apache-2.0
 * fuzz_tlsrec - records of TLS from an enemy, and from a peer with the key that sends nonsense.
 */
#include "replication/tlsrec.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t secret[TLSREC_SECRET] = "fuzz";
	static uint8_t in[TLSREC_HEAD + TLSREC_CIPHER_MAX], out[TLSREC_CIPHER_MAX];
	struct tlsrec tx, rx;
	struct iovec v = {.iov_base = (void *)data, .iov_len = size};
	long len;
	int type;

	if (size > TLSREC_CONTENT_MAX || tlsrec_init(&tx, secret, 1) ||
	    tlsrec_init(&rx, secret, 0))
		return 0;
	/* As it came: without the key nothing opens. */
	memset(in, 0, sizeof(in)); /* nothing that was sealed in the turn before */
	memcpy(in, data, size);
	if (size >= TLSREC_HEAD && (len = tlsrec_length(in)) > 0)
		assert((size_t)len <= sizeof(in) &&
		       tlsrec_open(&rx, in, out, &type) == -EBADMSG);
	tlsrec_fini(&rx);
	/* Sealed: the same comes out. */
	assert(!tlsrec_init(&rx, secret, 0));
	len = tlsrec_seal(&tx, TLSREC_DATA, &v, 1, size, in);
	assert(len == tlsrec_length(in));
	assert(tlsrec_open(&rx, in, out, &type) == (long)size && type == TLSREC_DATA);
	assert(!memcmp(out, data, size));
	tlsrec_fini(&tx);
	tlsrec_fini(&rx);
	return 0;
}
