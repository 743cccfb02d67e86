/* SPDX-License-Identifier: Apache-2.0
 * xxh - XXH3 by the widest instructions that this processor has, found at run time.
 *
 * The same sums as of <xxhash.h>, and on a processor with AVX2 three times as fast as what a compiler makes of
 * that for any x86-64: for sums over much, as of records and journals.
 */
#ifndef HV_BASE_XXH_H
#define HV_BASE_XXH_H

#define XXH_STATIC_LINKING_ONLY /* states on the stack */
#include <xxh_x86dispatch.h>

#endif
