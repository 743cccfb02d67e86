/* SPDX-License-Identifier: Apache-2.0
 * fuzz_netbuf - the guest's frames that are learned from, and the peer's ADDRS records.
 *
 * The first byte chooses: even, the rest is a frame; odd, it is a record's payload.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "netbuf/announce.h"
#include "netbuf/learn.h"
#include "netbuf/nb.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(int ok)
{
	if (!ok)
		abort();
}

/* Whatever table came to be can be announced, and goes through a record unchanged. */
static void use(const struct nb_table *t)
{
	uint8_t out[NB_ANN_MAX];
	struct nb_table back;
	struct err err = {0};
	struct buf b = {0};

	must(t->n <= NB_ADDRS_MAX);
	for (unsigned i = 0; i < t->n; i++)
		for (int kind = 0; kind < NB_ANN_KINDS; kind++)
			must(nb_announce_build(&t->addr[i], (enum nb_announcement)kind,
					       out) <= NB_ANN_MAX);
	nb_table_encode(t, &b);
	must(!b.failed);
	must(!nb_table_decode(&back, b.data, b.len, &err));
	must(back.n == t->n && !memcmp(back.addr, t->addr, t->n * sizeof(t->addr[0])));
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct nb_table heard; /* grows from input to input, as with a guest */
	struct nb_table told;
	struct nb_addr a;
	struct err err = {0};

	if (!len)
		return 0;
	if (data[0] & 1) {
		if (!nb_table_decode(&told, data + 1, len - 1, &err))
			use(&told);
	} else if (nb_learn_parse(data + 1, len - 1, data[0] % NB_PORTS_MAX, &a)) {
		nb_table_add(&heard, &a);
		use(&heard);
	}
	return 0;
}
