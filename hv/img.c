/* SPDX-License-Identifier: Apache-2.0
 * img - a file or block device as a disk image.
 */
#include "hv/img.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t zeroes[64 << 10] __attribute__((aligned(4096)));

static int fd_of(void *self)
{
	return (int)(intptr_t)self;
}

static int fd_read(void *self, void *p, uint64_t len, uint64_t offset)
{
	uint8_t *to = p;

	while (len) {
		ssize_t r = pread(fd_of(self), to, len, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		to += r;
		len -= (uint64_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

static int fd_write(void *self, const void *p, uint64_t len, uint64_t offset)
{
	const uint8_t *from = p;

	while (len) {
		ssize_t r = pwrite(fd_of(self), from, len, (off_t)offset);

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

static int fd_erase(void *self, uint64_t offset, uint64_t len)
{
	int r, rc = 0;

	do
		r = fallocate(fd_of(self), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)offset, (off_t)len);
	while (r && errno == EINTR);
	if (!r)
		return 0;
	/* No holes here, or not of this alignment: zeroes do the same. */
	if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENODEV && errno != ENOSYS)
		return -errno;
	while (len && !rc) {
		uint64_t part = len < sizeof(zeroes) ? len : sizeof(zeroes);

		rc = fd_write(self, zeroes, part, offset);
		offset += part;
		len -= part;
	}
	return rc;
}

static uint64_t fd_data(void *self, uint64_t offset)
{
	off_t at = lseek(fd_of(self), (off_t)offset, SEEK_DATA);

	if (at < 0)
		/* ENXIO: nothing but a hole to the end. Else holes are not known here. */
		return errno == ENXIO ? UINT64_MAX : offset;
	return (uint64_t)at;
}

static uint64_t fd_hole(void *self, uint64_t offset)
{
	off_t at = lseek(fd_of(self), (off_t)offset, SEEK_HOLE);

	return at < 0 ? UINT64_MAX : (uint64_t)at;
}

static int fd_sync(void *self)
{
	return fdatasync(fd_of(self)) ? -errno : 0;
}

static int fd_size(void *self, uint64_t *bytes_out)
{
	struct stat st;

	*bytes_out = 0;
	if (fstat(fd_of(self), &st))
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd_of(self), BLKGETSIZE64, bytes_out) ? -errno : 0;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*bytes_out = (uint64_t)st.st_size;
	return 0;
}

static int fd_resize(void *self, uint64_t bytes)
{
	return ftruncate(fd_of(self), (off_t)bytes) ? -errno : 0;
}

static const struct img_ops fd_ops = {
	.name = "file",
	.read = fd_read,
	.write = fd_write,
	.erase = fd_erase,
	.data = fd_data,
	.hole = fd_hole,
	.sync = fd_sync,
	.size = fd_size,
	.resize = fd_resize,
};

struct img img_of_fd(int fd)
{
	return (struct img){.ops = &fd_ops, .self = (void *)(intptr_t)fd};
}
