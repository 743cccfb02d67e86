/* SPDX-License-Identifier: Apache-2.0
 * deltapack - a page's sparse delta as an LZ4 block, written without LZ4's search.
 */
#ifndef REPLICATION_DELTAPACK_H
#define REPLICATION_DELTAPACK_H

#include <stddef.h>
#include <stdint.h>

enum {
	PC_DELTA_SLACK =
		16, /* bytes after the delta and after @room that may be touched */
};

/* Pack @delta (4096 bytes, and readable PC_DELTA_SLACK beyond) into @dst (@room bytes, and
 * writable PC_DELTA_SLACK beyond). The size, or 0 when @room is too small. Any LZ4 decoder
 * unpacks it. */
unsigned pc_delta_pack(uint8_t *dst, size_t room, const uint64_t *delta);

#endif
