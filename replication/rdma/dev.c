/* SPDX-License-Identifier: Apache-2.0
 * dev - an opened RDMA address, and the events of all links that use it.
 */
#include "replication/rdma/dev.h"

#include "hv/base/err.h"
#include "replication/rdma/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

void dev_address_set(union dev_address *a, uint8_t family, const uint8_t addr[16],
		     uint16_t port)
{
	memset(a, 0, sizeof(*a));
	if (family == 4) {
		a->in.sin_family = AF_INET;
		a->in.sin_port = htons(port);
		memcpy(&a->in.sin_addr, addr, sizeof(a->in.sin_addr));
	} else {
		a->in6.sin6_family = AF_INET6;
		a->in6.sin6_port = htons(port);
		memcpy(&a->in6.sin6_addr, addr, sizeof(a->in6.sin6_addr));
	}
}

int dev_nonblocking(int fd)
{
	int fl = fcntl(fd, F_GETFL);

	return fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0 ? -errno : 0;
}

void dev_add(struct tp_dev *dev, struct link *l)
{
	pthread_mutex_lock(&dev->lock);
	l->next = dev->links;
	dev->links = l;
	pthread_mutex_unlock(&dev->lock);
}

void dev_remove(struct tp_dev *dev, struct link *l)
{
	pthread_mutex_lock(&dev->lock);
	for (struct link **p = &dev->links; *p; p = &(*p)->next)
		if (*p == l) {
			*p = l->next;
			break;
		}
	pthread_mutex_unlock(&dev->lock);
}

void dev_poll_set(const struct tp_dev *dev, struct pollfd fds_out[DEV_FDS])
{
	fds_out[0] = (struct pollfd){.fd = dev->channel->fd, .events = POLLIN};
	fds_out[1] = (struct pollfd){.fd = dev->verbs->async_fd, .events = POLLIN};
}

/* A link that is gone already gets nothing. Locked. */
static struct link *live(const struct tp_dev *dev, const struct link *l)
{
	struct link *i = dev->links;

	while (i && i != l)
		i = i->next;
	return i;
}

static void pump_async(struct tp_dev *dev)
{
	struct ibv_async_event e;

	pthread_mutex_lock(&dev->lock);
	while (!ibv_get_async_event(dev->verbs, &e)) {
		for (struct link *l = dev->links; l; l = l->next)
			link_async_event(l, &e);
		ibv_ack_async_event(&e);
	}
	pthread_mutex_unlock(&dev->lock);
}

/* A connection request makes an id of its own; nobody else knows it if no link takes it. */
static int take_request(struct tp_dev *dev, struct rdma_cm_event *e)
{
	struct link *l = live(dev, e->listen_id->context);

	return l && link_requested(l, e->id, e->param.conn.private_data,
				   e->param.conn.private_data_len);
}

static void pump_cm_one(struct tp_dev *dev, struct rdma_cm_event *e)
{
	struct rdma_cm_id *refused = NULL;
	struct link *l;

	if (e->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
		if (!take_request(dev, e))
			refused = e->id;
	} else {
		l = live(dev, e->id->context);
		if (l)
			link_cm_event(l, e);
	}
	/* Both fail only for an id that the kernel has given up by itself. */
	(void)rdma_ack_cm_event(e);
	if (refused) {
		(void)rdma_reject(refused, NULL, 0);
		(void)rdma_destroy_id(refused);
	}
}

void dev_pump(struct tp_dev *dev)
{
	struct rdma_cm_event *e;

	pump_async(dev);
	pthread_mutex_lock(&dev->lock);
	while (!rdma_get_cm_event(dev->channel, &e))
		pump_cm_one(dev, e);
	pthread_mutex_unlock(&dev->lock);
}

/* librdmacm looks for an address resolver (ibacm) by name, once, when it first needs a
 * route; let it be now. Whether there is one, and what it says, does not matter. */
static void look_for_resolver(const struct hello_args *a)
{
	struct rdma_addrinfo hints = {.ai_flags = RAI_NUMERICHOST | RAI_NOROUTE}, *found;
	char text[INET6_ADDRSTRLEN];

	hints.ai_port_space = RDMA_PS_TCP;
	if (inet_ntop(a->family == 4 ? AF_INET : AF_INET6, a->addr, text, sizeof(text)) &&
	    !rdma_getaddrinfo(text, NULL, &hints, &found))
		rdma_freeaddrinfo(found);
}

static int bind_anchor(struct tp_dev *dev, struct err *err)
{
	union dev_address a;

	dev_address_set(&a, dev->args.family, dev->args.addr, 0);
	if (rdma_create_id(dev->channel, &dev->anchor, NULL, RDMA_PS_TCP))
		return err_sys(err, -errno, "rdma: making a connection id");
	if (rdma_bind_addr(dev->anchor, &a.any))
		return err_sys(err, -errno, "rdma: binding to the configured address");
	if (!dev->anchor->verbs)
		return err_set(
			err, -ENODEV,
			"rdma: the configured address is on no RDMA device: is it "
			"this host's own, and does \"rdma link\" show the device?");
	dev->verbs = dev->anchor->verbs;
	return 0;
}

int dev_open(const char *args, struct tp_dev **dev_out, struct err *err)
{
	struct tp_dev *dev = calloc(1, sizeof(*dev));
	int rc;

	if (!dev)
		return err_set(err, -ENOMEM, "no memory for an rdma device");
	pthread_mutex_init(&dev->lock, NULL); /* cannot fail on Linux */
	rc = hello_args_parse(args, &dev->args, err);
	if (rc)
		goto out;
	dev->devices = rdma_get_devices(NULL);
	dev->channel = dev->devices ? rdma_create_event_channel() : NULL;
	if (!dev->channel) {
		rc = err_sys(
			err, errno ? -errno : -ENODEV,
			"rdma: no device, or none that this process may use (are the "
			"modules rdma_ucm and ib_uverbs loaded?)");
		goto out;
	}
	look_for_resolver(&dev->args);
	rc = bind_anchor(dev, err);
	if (rc)
		goto out;
	rc = dev_nonblocking(dev->channel->fd);
	if (!rc)
		rc = dev_nonblocking(dev->verbs->async_fd);
	if (rc)
		(void)err_sys(err, rc, "rdma: preparing to wait for events");
out:
	if (rc)
		dev_close(dev);
	else
		*dev_out = dev;
	return rc;
}

void dev_close(struct tp_dev *dev)
{
	if (!dev)
		return;
	if (dev->anchor)
		(void)rdma_destroy_id(dev->anchor); /* nothing to be done about it */
	if (dev->channel)
		rdma_destroy_event_channel(dev->channel);
	if (dev->devices)
		rdma_free_devices(dev->devices);
	pthread_mutex_destroy(&dev->lock);
	free(dev);
}
