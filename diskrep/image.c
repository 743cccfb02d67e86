/* SPDX-License-Identifier: Apache-2.0
 * image - a disk image as chunks: read, digest, find holes, erase.
 */
#include "diskrep/image.h"

#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SECTOR = 512 };

static const uint8_t zeroes[DR_CHUNK] __attribute__((aligned(4096)));

struct dr_image dr_image_of(int fd, uint64_t capacity)
{
	return (struct dr_image){
		.fd = fd,
		.capacity = capacity,
		.chunks = capacity / DR_CHUNK + (capacity % DR_CHUNK != 0),
	};
}

int dr_image_open(int fd, struct dr_image *img_out, struct err *err)
{
	struct stat st;
	uint64_t bytes;

	if (fstat(fd, &st))
		return err_sys(err, -errno, "disk image");
	bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes))
		return err_sys(err, -errno, "size of the block device");
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL,
			       "disk image: neither a file nor a block device");
	*img_out = dr_image_of(fd, bytes - bytes % SECTOR);
	return 0;
}

uint32_t dr_chunk_len(const struct dr_image *img, uint64_t chunk)
{
	uint64_t left = img->capacity - chunk * DR_CHUNK;

	return left < DR_CHUNK ? (uint32_t)left : DR_CHUNK;
}

uint64_t dr_chunk_data(const struct dr_image *img, uint64_t chunk)
{
	off_t at = lseek(img->fd, (off_t)(chunk * DR_CHUNK), SEEK_DATA);

	if (at < 0)
		/* ENXIO: nothing but a hole to the end. Else holes are not known here. */
		return errno == ENXIO ? img->chunks : chunk;
	return (uint64_t)at / DR_CHUNK < img->chunks ? (uint64_t)at / DR_CHUNK
						     : img->chunks;
}

int dr_chunk_load(const struct dr_image *img, uint64_t chunk, uint8_t *buf)
{
	uint32_t len = dr_chunk_len(img, chunk), done = 0;

	if (dr_chunk_data(img, chunk) > chunk)
		return 1;
	while (done < len) {
		ssize_t r = pread(img->fd, buf + done, len - done,
				  (off_t)(chunk * DR_CHUNK + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		done += (uint32_t)r;
	}
	return !memcmp(buf, zeroes, len);
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
	const uint8_t *from = p;

	while (len) {
		ssize_t r = pwrite(img->fd, from, len, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		from += r;
		len -= (uint64_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

int dr_image_erase(const struct dr_image *img, uint64_t offset, uint64_t len)
{
	int r, rc = 0;

	do
		r = fallocate(img->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)offset, (off_t)len);
	while (r && errno == EINTR);
	if (!r)
		return 0;
	/* No holes here, or not of this alignment: zeroes do the same. */
	if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENODEV && errno != ENOSYS)
		return -errno;
	while (len && !rc) {
		uint64_t part = len < sizeof(zeroes) ? len : sizeof(zeroes);

		rc = dr_image_write(img, zeroes, part, offset);
		offset += part;
		len -= part;
	}
	return rc;
}
