/* SPDX-License-Identifier: Apache-2.0
 * module - what rhea-vm finds when it loads rhea-tp-rdma.so.
 *
 * The kernel serves an RDMA device's file only to the very identity that opened it, and so
 * it does the connection manager's (they say "Permission denied" otherwise). So a process
 * changes its users and rights first, calls open() then, and shuts itself in after that;
 * threads come last, as those that exist when rights change have an identity each. The
 * files are open to all in Debian (mode 0666); RLIMIT_MEMLOCK has to be raised as root.
 *
 * After open() nothing is opened by name, and these system calls are enough (the lab's test
 * runs with no others):
 *   ioctl (uverbs), write (rdma_cm, uverbs, eventfd), read (events of all three, eventfd),
 *   poll, eventfd2, fcntl, close, mmap, munmap, madvise, getrandom, futex, clock_gettime;
 *   sendto and recvfrom as well where the resolver ibacm runs.
 * Memory that is pinned, against RLIMIT_MEMLOCK, for each link: ring plus send (36 MiB as
 * set up), and less than 1 MiB for queues on devices that pin those.
 */
#include "replication/module.h"

#include "replication/rdma/dev.h"
#include "replication/rdma/link.h"

_Static_assert((int)HELLO_BLOB_LEN <= (int)TP_BLOB_MAX, "the blob fits");

static struct link *of(struct tp_end *end)
{
	return (struct link *)end;
}

static int prepare(struct tp_dev *dev, int server, struct tp_end **end_out,
		   uint8_t blob_out[TP_BLOB_MAX], size_t *len_out, struct err *err)
{
	struct link *l;
	int rc = link_prepare(dev, server, &l, blob_out, err);

	if (rc)
		return rc;
	*end_out = (struct tp_end *)l;
	*len_out = HELLO_BLOB_LEN;
	return 0;
}

static void discard(struct tp_end *end)
{
	link_free(of(end));
}

static int connect_end(struct tp_end *end, const uint8_t *blob, size_t len,
		       unsigned timeout_ms, struct tp **tp_out, struct err *err)
{
	int rc = link_connect(of(end), blob, len, timeout_ms, err);

	if (rc)
		link_free(of(end));
	else
		*tp_out = &of(end)->tp;
	return rc;
}

extern const struct tp_module rhea_tp_module;
__attribute__((visibility("default"))) const struct tp_module rhea_tp_module = {
	.version = TP_MODULE_VERSION,
	.as_user = 1,
	.name = "rdma",
	.open = dev_open,
	.close = dev_close,
	.prepare = prepare,
	.connect = connect_end,
	.discard = discard,
};
