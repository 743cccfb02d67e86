/* SPDX-License-Identifier: Apache-2.0
 * dev - an opened RDMA address, and the events of all links that use it.
 *
 * Everything that opens a file by name is done in dev_open(): the devices themselves, the
 * providers' libraries, the connection manager's channel. That one channel serves all
 * links, and so does a device's queue of asynchronous events. So whoever waits, for
 * whichever link, reads both and hands each event to its link (dev_pump()).
 */
#ifndef REPLICATION_RDMA_DEV_H
#define REPLICATION_RDMA_DEV_H

#include "replication/rdma/hello.h"

#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>

struct err;
struct link;

struct tp_dev {
	struct hello_args args;
	struct rdma_event_channel *channel;
	struct ibv_context **devices; /* held open: later ones are found, not opened */
	struct ibv_context *verbs;    /* the one that has the address; of @devices */
	struct rdma_cm_id *anchor; /* bound to the address: it is ours from the start */
	pthread_mutex_t lock;	   /* taken before any link's */
	struct link *links;	   /* who gets events; under the lock */
};

union dev_address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

int dev_open(const char *args, struct tp_dev **dev_out, struct err *err);
void dev_close(struct tp_dev *dev);

/* @family, @addr as in hello_blob. */
void dev_address_set(union dev_address *a, uint8_t family, const uint8_t addr[16],
		     uint16_t port);

/* 0 or -errno. */
int dev_nonblocking(int fd);

void dev_add(struct tp_dev *dev, struct link *l);
void dev_remove(struct tp_dev *dev, struct link *l);

enum { DEV_FDS = 2 };
/* What to poll for dev_pump() to be of use. */
void dev_poll_set(const struct tp_dev *dev, struct pollfd fds_out[DEV_FDS]);
/* Hands out what has happened; does not wait. Any thread, no link's lock held. */
void dev_pump(struct tp_dev *dev);

#endif
