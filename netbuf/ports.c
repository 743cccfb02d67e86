/* SPDX-License-Identifier: Apache-2.0
 * ports - a netbuf's ways out: taps of net devices, and descriptors of consoles.
 */
#include "netbuf/netbuf.h"

#include "hv/base/err.h"
#include "netbuf/nb.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

static void wait_fd(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	(void)poll(&p, 1, ms); /* the write that follows tells whether it helped */
}

static int tap_write(void *self, const struct iovec *iov, int n)
{
	return vnet_tap_write(self, iov, n);
}

static void tap_wait(void *self, int ms)
{
	wait_fd(vnet_tap_fd(self), ms);
}

static void tap_resume(void *self)
{
	vnet_tx_resume(self);
}

static const struct nb_port_ops tap_ops = {
	.write = tap_write,
	.wait = tap_wait,
	.resume = tap_resume,
};

static int console_write(void *self, const struct iovec *iov, int n)
{
	const struct nb_port *p = self;
	size_t len = 0;
	ssize_t r;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	do
		r = writev(p->fd, iov, n);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		/* Nobody reads: dropped, and no time is spent on waiting. */
		return errno == EAGAIN ? (int)len : -errno;
	return (int)(len - (size_t)r);
}

static void console_wait(void *self, int ms)
{
}

static void console_resume(void *self)
{
}

static const struct nb_port_ops console_ops = {
	.write = console_write,
	.wait = console_wait,
	.resume = console_resume,
};

static int add_net(struct netbuf *nb, struct vnet *dev, struct nb_port **p_out,
		   struct err *err)
{
	if (nb_add_port(nb, &tap_ops, dev, 1, p_out))
		return err_set(err, -ENOSPC, "output buffer: more than %d devices",
			       NB_PORTS_MAX);
	vnet_set_out(dev, &(struct net_out){.frame = nb_guest_frame, .self = *p_out});
	return 0;
}

int netbuf_add_net(struct netbuf *nb, struct vnet *dev, struct err *err)
{
	struct nb_port *p;

	return add_net(nb, dev, &p, err);
}

int netbuf_add_plugged(struct netbuf *nb, struct vnet *dev, int sniff_fd,
		       const struct plug_kernel *kernel, struct err *err)
{
	struct nb_port *p;
	int rc = add_net(nb, dev, &p, err);

	if (rc) {
		close(sniff_fd);
		return rc;
	}
	nb->plug.kernel = kernel;
	return nb_sniff_start(p, sniff_fd, err);
}

int netbuf_add_console(struct netbuf *nb, int fd, struct con_out *out, struct err *err)
{
	struct nb_port *p;

	if (nb_add_port(nb, &console_ops, NULL, 0, &p))
		return err_set(err, -ENOSPC, "output buffer: more than %d devices",
			       NB_PORTS_MAX);
	p->self = p;
	p->fd = fd;
	*out = (struct con_out){.bytes = nb_bytes, .self = p};
	return 0;
}
