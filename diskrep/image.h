/* SPDX-License-Identifier: Apache-2.0
 * image - a disk image as chunks: read, digest, find holes, erase (internal to diskrep).
 *
 * Any thread; one image may be read and written by several at once.
 */
#ifndef DISKREP_IMAGE_H
#define DISKREP_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"
#include "diskrep/wire.h"
#include "hv/img.h"

struct dr_image {
	struct img io;	   /* borrowed */
	uint64_t capacity; /* of the disk, bytes; the image may have more */
	uint64_t chunks;
};

struct dr_digest {
	uint8_t b[DR_DIGEST_LEN];
};

struct dr_image dr_image_of(struct img io, uint64_t capacity);
/* Capacity from the image itself, down to whole sectors. 0 or -errno with @err. */
int dr_image_open(struct img io, struct dr_image *img_out, struct err *err);

/* The disk has @capacity bytes from now on, which the image has, too. */
void dr_image_resize(struct dr_image *img, uint64_t capacity);
/* Make the image at least @bytes large, and what it has from @from to there zeroes, durably. No I/O may reach beyond
 * @from meanwhile. -ENXIO: it is a block device that is smaller; or -errno. Blocks on the disk. */
int dr_image_grow(const struct dr_image *img, uint64_t from, uint64_t bytes);
/* What is wrong, in words for the operator. @rc: of dr_image_grow(). */
const char *dr_image_why(int rc);

/* Is [offset, offset + len) inside? Safe for any numbers. */
static inline int dr_image_has(const struct dr_image *img, uint64_t offset, uint64_t len)
{
	return offset <= img->capacity && len <= img->capacity - offset;
}

uint32_t dr_chunk_len(const struct dr_image *img, uint64_t chunk);
/* The first chunk at or after @chunk that may hold data; img->chunks if there is none. */
uint64_t dr_chunk_data(const struct dr_image *img, uint64_t chunk);
/* Read chunk @chunk into @buf (DR_CHUNK bytes, aligned to 4096). 1: it is all zeroes and @buf is
 * undefined; 0; or -errno. A write at the same time may tear what is read. */
int dr_chunk_load(const struct dr_image *img, uint64_t chunk, uint8_t *buf);
struct dr_digest dr_digest_of(const void *p, uint32_t len);
struct dr_digest
dr_digest_zero(uint32_t len); /* of so many zero bytes, at most DR_CHUNK */

/* All of it or -errno. */
int dr_image_write(const struct dr_image *img, const void *p, uint64_t len,
		   uint64_t offset);
/* The range reads as zeroes afterwards, and is a hole where that is possible. */
int dr_image_erase(const struct dr_image *img, uint64_t offset, uint64_t len);
/* What was written before is on stable storage. 0 or -errno: it is not known what the image holds. */
int dr_image_sync(const struct dr_image *img);

#endif
