/* SPDX-License-Identifier: Apache-2.0
 * blk - the shared bytes of a disk request.
 */
#include "hv/blk.h"

#include <stdlib.h>

struct blk_data *blk_data_new(uint32_t len)
{
	struct blk_data *d = malloc(sizeof(*d) + len);

	if (!d)
		return NULL;
	atomic_init(&d->refs, 1);
	d->len = len;
	return d;
}

struct blk_data *blk_data_get(struct blk_data *d)
{
	atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	return d;
}

void blk_data_put(struct blk_data *d)
{
	/* Release: what this holder did to the bytes comes before the free. Acquire: of all. */
	if (d && atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) == 1)
		free(d);
}
