/* SPDX-License-Identifier: Apache-2.0
 * io - the real files of a standby: images by dr_image_*, the journal by its descriptor.
 */
#include "diskrep/io.h"

#include "diskrep/image.h"

#include <errno.h>
#include <unistd.h>

static int journal_read(int fd, void *p, size_t len, uint64_t offset)
{
	uint8_t *to = p;

	while (len) {
		ssize_t r = pread(fd, to, len, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		to += r;
		len -= (size_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

static int journal_write(int fd, const void *p, size_t len, uint64_t offset)
{
	const uint8_t *from = p;

	while (len) {
		ssize_t r = pwrite(fd, from, len, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		from += r;
		len -= (size_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

static int files_read(void *self, unsigned file, void *p, size_t len, uint64_t offset)
{
	const struct dr_files *f = self;

	return file == DR_IO_JOURNAL ? journal_read(f->journal, p, len, offset)
				     : img_read(f->img[file].io, p, len, offset);
}

static int files_write(void *self, unsigned file, const void *p, size_t len,
		       uint64_t offset)
{
	const struct dr_files *f = self;

	return file == DR_IO_JOURNAL ? journal_write(f->journal, p, len, offset)
				     : dr_image_write(&f->img[file], p, len, offset);
}

static int files_erase(void *self, unsigned file, uint64_t offset, uint64_t len)
{
	const struct dr_files *f = self;

	return file == DR_IO_JOURNAL ? -EINVAL
				     : dr_image_erase(&f->img[file], offset, len);
}

static int files_sync(void *self, unsigned file)
{
	const struct dr_files *f = self;

	if (file != DR_IO_JOURNAL)
		return dr_image_sync(&f->img[file]);
	return fdatasync(f->journal) ? -errno : 0;
}

static const struct dr_io_ops files_ops = {
	.read = files_read,
	.write = files_write,
	.erase = files_erase,
	.sync = files_sync,
};

struct dr_io dr_files_io(struct dr_files *f)
{
	return (struct dr_io){.ops = &files_ops, .self = f};
}
