/* SPDX-License-Identifier: Apache-2.0
 * kit_slow - a disk of a known speed: requests take as long as they would there, whatever is below.
 *
 * One request is served after the other, in order; a request takes @us at least, and as long as its bytes need
 * at @bytes_s. It is done when both that and the image below are.
 */
#ifndef TESTS_BENCH_KIT_SLOW_H
#define TESTS_BENCH_KIT_SLOW_H

#include <stdint.h>

#include "hv/blk.h"

struct loop;

/* Takes @inner. */
struct blk kit_slow(struct blk inner, struct loop *loop, unsigned us, uint64_t bytes_s);

#endif
