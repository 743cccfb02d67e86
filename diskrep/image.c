/* SPDX-License-Identifier: Apache-2.0
 * image - a disk image as chunks: read, digest, find holes, erase.
 */
#include "diskrep/image.h"

#include "hv/base/err.h"
#include "hv/base/xxh.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { SECTOR = 512 };

static const uint8_t zeroes[DR_CHUNK] __attribute__((aligned(4096)));

struct dr_image dr_image_of(struct img io, uint64_t capacity)
{
	return (struct dr_image){
		.io = io,
		.capacity = capacity,
		.chunks = capacity / DR_CHUNK + (capacity % DR_CHUNK != 0),
	};
}

int dr_image_open(struct img io, struct dr_image *img_out, struct err *err)
{
	uint64_t bytes;
	int rc = img_size(io, &bytes);

	if (rc == -EINVAL)
		return err_set(err, rc, "disk image: neither a file nor a block device");
	if (rc)
		return err_sys(err, rc, "disk image: its size");
	*img_out = dr_image_of(io, bytes - bytes % SECTOR);
	return 0;
}

void dr_image_resize(struct dr_image *img, uint64_t capacity)
{
	img->capacity = capacity;
	img->chunks = dr_image_of(img->io, capacity).chunks;
}

/* Size, zeroes, flush: until that is done nobody says anything of what is new, so a power cut in between leaves a
 * larger image with the old disk in it. */
int dr_image_grow(const struct dr_image *img, uint64_t from, uint64_t bytes)
{
	uint64_t has;
	int rc = img_size(img->io, &has);

	if (!rc && has < bytes) {
		rc = img_resize(img->io, bytes);
		/* What a block device says to that. */
		rc = rc == -EINVAL ? -ENXIO : rc;
	}
	if (!rc && from < bytes)
		rc = img_erase(img->io, from, bytes - from);
	return rc ? rc : img_sync(img->io);
}

const char *dr_image_why(int rc)
{
	return rc == -ENXIO   ? "its block device is smaller; make that larger first"
	       : rc == -EFBIG ? "neither its format nor its file system allows that size"
			      : strerror(-rc);
}

uint32_t dr_chunk_len(const struct dr_image *img, uint64_t chunk)
{
	uint64_t left = img->capacity - chunk * DR_CHUNK;

	return left < DR_CHUNK ? (uint32_t)left : DR_CHUNK;
}

uint64_t dr_chunk_data(const struct dr_image *img, uint64_t chunk)
{
	uint64_t at = img_data(img->io, chunk * DR_CHUNK) / DR_CHUNK;

	return at < img->chunks ? at : img->chunks;
}

int dr_chunk_load(const struct dr_image *img, uint64_t chunk, uint8_t *buf)
{
	uint32_t len = dr_chunk_len(img, chunk);
	int rc;

	if (dr_chunk_data(img, chunk) > chunk)
		return 1;
	rc = img_read(img->io, buf, len, chunk * DR_CHUNK);
	return rc ? rc : !memcmp(buf, zeroes, len);
}

struct dr_digest dr_digest_of(const void *p, uint32_t len)
{
	struct dr_digest d;
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, XXH3_128bits(p, len));
	memcpy(d.b, c.digest, sizeof(d.b));
	return d;
}

static struct dr_digest full_zero;

static void make_full_zero(void)
{
	full_zero = dr_digest_of(zeroes, DR_CHUNK);
}

/* Asked for each chunk of a sparse disk. */
struct dr_digest dr_digest_zero(uint32_t len)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (len != DR_CHUNK)
		return dr_digest_of(zeroes, len);
	pthread_once(&once, make_full_zero); /* cannot fail */
	return full_zero;
}

int dr_image_write(const struct dr_image *img, const void *p, uint64_t len,
		   uint64_t offset)
{
	return img_write(img->io, p, len, offset);
}

int dr_image_erase(const struct dr_image *img, uint64_t offset, uint64_t len)
{
	return img_erase(img->io, offset, len);
}

int dr_image_sync(const struct dr_image *img)
{
	int rc = img_sync(img->io);

	/* Nothing was written there, or it cannot be cached. */
	return rc == -EROFS || rc == -EINVAL ? 0 : rc;
}
