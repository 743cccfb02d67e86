/* SPDX-License-Identifier: Apache-2.0
 * tap - tap devices through /dev/net/tun, and their place in a bridge through netlink.
 */
#include "ctl/tap.h"

#include "ctl/tap_plug.h"

#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/route/link/inet6.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int make_tap(const char *name, int *fd_out, struct err *err)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd, len = TAP_HDR_LEN, rc;

	*fd_out = -1;
	if (!name[0] || strlen(name) > TAP_NAME_MAX)
		return err_set(err, -EINVAL, "tap \"%s\": a name has 1 to %d characters",
			       name, TAP_NAME_MAX);
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name); /* was measured */
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno,
			       "open /dev/net/tun (is the tun module loaded?)");
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		rc = errno == EBUSY ? err_set(err, -EBUSY,
					      "tap %s: another program has it open", name)
				    : err_sys(err, -errno, "make tap %s", name);
	else if (ioctl(fd, TUNSETVNETHDRSZ, &len) < 0)
		rc = err_sys(err, -errno, "tap %s: 12-byte headers", name);
	else
		rc = 0;
	if (rc)
		(void)close(fd); /* nothing was written through it */
	else
		*fd_out = fd;
	return rc;
}

/* libnl's own error numbers become errnos where they have one. */
static int nl_errno(int r)
{
	switch (-r) {
	case NLE_OBJ_NOTFOUND:
	case NLE_NODEV:
		return -ENODEV;
	case NLE_PERM:
	case NLE_NOACCESS:
		return -EPERM;
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_BUSY:
		return -EBUSY;
	default:
		return -EIO;
	}
}

static int get_link(struct nl_sock *nl, const char *name, struct rtnl_link **link_out,
		    struct err *err)
{
	int r = rtnl_link_get_kernel(nl, 0, name, link_out);

	if (r < 0)
		return err_set(err, nl_errno(r), "network interface %s: %s", name,
			       nl_geterror(r));
	return 0;
}

static int find_bridge(struct nl_sock *nl, const char *bridge, int *index_out,
		       struct err *err)
{
	struct rtnl_link *link = NULL;
	const char *type;
	int rc = get_link(nl, bridge, &link, err);

	if (rc)
		return err_ctx(err,
			       "bridge %s (make it with: ip link add %s type bridge)",
			       bridge, bridge);
	*index_out = rtnl_link_get_ifindex(link);
	type = rtnl_link_get_type(link);
	if (!type || strcmp(type, "bridge") != 0)
		rc = err_set(err, -EINVAL, "%s is a network interface, but no bridge",
			     bridge);
	rtnl_link_put(link);
	return rc;
}

/* Up, in the bridge, and without an IPv6 address of its own: the host has nothing to say
 * on the guest's wire. */
static int configure(struct nl_sock *nl, const char *name, int master, unsigned mtu,
		     struct err *err)
{
	struct rtnl_link *link = NULL, *change = rtnl_link_alloc();
	int rc, r;

	if (!change)
		return err_set(err, -ENOMEM, "tap %s: out of memory", name);
	rc = get_link(nl, name, &link, err);
	if (rc)
		goto out;
	/* Without IPv6 in the kernel there is nothing to switch off: that failure is
	 * fine. */
	r = rtnl_link_inet6_set_addr_gen_mode(change,
					      rtnl_link_inet6_str2addrgenmode("none"));
	if (r == 0)
		(void)rtnl_link_change(nl, link, change, 0); /* as said above */
	rtnl_link_put(change);
	change = rtnl_link_alloc();
	if (!change) {
		rc = err_set(err, -ENOMEM, "tap %s: out of memory", name);
		goto out;
	}
	rtnl_link_set_flags(change, IFF_UP);
	if (mtu)
		rtnl_link_set_mtu(change, mtu);
	if (master)
		rtnl_link_set_master(change, master);
	r = rtnl_link_change(nl, link, change, 0);
	if (r < 0)
		rc = err_set(err, nl_errno(r), "tap %s: set it up: %s", name,
			     nl_geterror(r));
out:
	rtnl_link_put(link);
	rtnl_link_put(change);
	return rc;
}

static int redirect(struct nl_sock *nl, const char *name, int fd, int to, int room,
		    struct err *err)
{
	int rc = tap_plug_redirect(nl, (int)if_nametoindex(name), to, err);

	if (!rc && ioctl(fd, TUNSETSNDBUF, &room) < 0)
		rc = err_sys(err, -errno, "room for %d bytes of frames", room);
	return rc ? err_ctx(err, "tap %s", name) : 0;
}

int tap_open(const char *name, const char *bridge, unsigned mtu, struct err *err)
{
	return tap_open_redirected(name, bridge, mtu, 0, 0, err);
}

int tap_open_redirected(const char *name, const char *bridge, unsigned mtu, int to,
			int room, struct err *err)
{
	struct nl_sock *nl = nl_socket_alloc();
	int fd = -1, master = 0, rc = 0, r;

	if (!nl)
		return err_set(err, -ENOMEM, "tap %s: out of memory", name);
	r = nl_connect(nl, NETLINK_ROUTE);
	if (r < 0) {
		rc = err_set(err, nl_errno(r), "netlink: %s", nl_geterror(r));
		goto out;
	}
	if (bridge && bridge[0])
		rc = find_bridge(nl, bridge, &master, err);
	if (!rc)
		rc = make_tap(name, &fd, err);
	if (!rc && to)
		rc = redirect(nl, name, fd, to, room, err);
	if (!rc)
		rc = configure(nl, name, master, mtu, err);
	if (rc && fd >= 0)
		(void)close(fd); /* nothing was written through it */
out:
	nl_socket_free(nl);
	return rc ? rc : fd;
}
