/* SPDX-License-Identifier: Apache-2.0
 * img - a disk image for threads that may wait: read, write, erase, find data, make durable.
 *
 * The virtual disk of a chain of images offers it, and so does the plain file under each of them; a
 * test can put a recorder between the two. All calls return 0 or -errno and may be made on any
 * thread, several at once; what overlapping calls at one time leave behind is any mixture.
 */
#ifndef HV_IMG_H
#define HV_IMG_H

#include <stddef.h>
#include <stdint.h>

struct err;

struct img_ops {
	const char *name;
	/* All @len bytes, or an error; -EIO: the end came before. */
	int (*read)(void *self, void *p, uint64_t len, uint64_t offset);
	/* A file grows as it is written, a virtual disk does not. */
	int (*write)(void *self, const void *p, uint64_t len, uint64_t offset);
	/* The range reads as zeroes afterwards, and takes no room where that is possible. */
	int (*erase)(void *self, uint64_t offset, uint64_t len);
	/* The first offset from @offset on that may hold data; UINT64_MAX: there is none. */
	uint64_t (*data)(void *self, uint64_t offset);
	/* The first offset from @offset on that may be in a hole; UINT64_MAX: no hole is known. */
	uint64_t (*hole)(void *self, uint64_t offset);
	/* What was written before is on stable storage afterwards. */
	int (*sync)(void *self);
	int (*size)(void *self, uint64_t *bytes_out);
	/* New bytes are zeroes; of a virtual disk those that no parent has. A disk never gets smaller. */
	int (*resize)(void *self, uint64_t bytes);
};

struct img {
	const struct img_ops *ops;
	void *self;
};

/* The file or block device @fd (borrowed) as it is. */
struct img img_of_fd(int fd);

static inline int img_read(struct img i, void *p, uint64_t len, uint64_t offset)
{
	return i.ops->read(i.self, p, len, offset);
}
static inline int img_write(struct img i, const void *p, uint64_t len, uint64_t offset)
{
	return i.ops->write(i.self, p, len, offset);
}
static inline int img_erase(struct img i, uint64_t offset, uint64_t len)
{
	return i.ops->erase(i.self, offset, len);
}
static inline uint64_t img_data(struct img i, uint64_t offset)
{
	return i.ops->data(i.self, offset);
}
static inline uint64_t img_hole(struct img i, uint64_t offset)
{
	return i.ops->hole(i.self, offset);
}
static inline int img_sync(struct img i)
{
	return i.ops->sync(i.self);
}
static inline int img_size(struct img i, uint64_t *bytes_out)
{
	return i.ops->size(i.self, bytes_out);
}
static inline int img_resize(struct img i, uint64_t bytes)
{
	return i.ops->resize(i.self, bytes);
}

#endif
