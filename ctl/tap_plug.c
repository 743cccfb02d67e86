/* SPDX-License-Identifier: Apache-2.0
 * tap_plug - a tap whose guest's frames all wait in a plug qdisc, for a card that vhost-net serves.
 */
#include "ctl/tap_plug.h"

#include "ctl/plugqueue.h"
#include "ctl/tap.h"
#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/action.h>
#include <netlink/route/classifier.h>
#include <netlink/route/cls/matchall.h>
#include <netlink/route/link.h>
#include <netlink/route/link/inet6.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PREFIX	 "rp-"
#define INGRESS	 0xFFFF0000u /* the handle of an ingress qdisc */
#define ZEROCOPY "/sys/module/vhost_net/parameters/experimental_zcopytx"

enum {
	IFB_QUEUE = 4096, /* frames that a release may pass on before it pauses */
	HEAD_BYTES = 128, /* of a frame, for who looks at it */
	SNIFF_ROOM = 64 << 10,
};
_Static_assert((int)TAP_PLUG_NAME_MAX + sizeof(PREFIX) - 1 == TAP_NAME_MAX,
	       "the ifb's name fits");

static int nl_failed(struct err *err, int r, const char *what, const char *name)
{
	return err_set(err, r == -NLE_NOMEM ? -ENOMEM : -EIO, "%s: %s: %s", name, what,
		       nl_geterror(r));
}

static int nl_open(struct nl_sock **nl_out, struct err *err)
{
	struct nl_sock *nl = nl_socket_alloc();
	int r = nl ? nl_connect(nl, NETLINK_ROUTE) : -NLE_NOMEM;

	*nl_out = nl;
	return r < 0 ? nl_failed(err, r, "netlink", "plug") : 0;
}

static void ifb_name(const char *tap, char out[IFNAMSIZ])
{
	(void)snprintf(out, IFNAMSIZ, PREFIX "%s", tap); /* longer ones are refused */
}

static int remove_ifb(struct nl_sock *nl, const char *name, struct err *err)
{
	struct rtnl_link *link = rtnl_link_alloc();
	int r;

	if (!link)
		return err_set(err, -ENOMEM, "%s: out of memory", name);
	rtnl_link_set_name(link, name);
	r = rtnl_link_delete(nl, link);
	rtnl_link_put(link);
	if (r < 0 && r != -NLE_OBJ_NOTFOUND && r != -NLE_NODEV)
		return nl_failed(err, r, "remove it", name);
	return 0;
}

/* Closed and down: nothing passes yet. */
static int make_ifb(struct nl_sock *nl, const char *name, struct err *err)
{
	struct rtnl_link *link = rtnl_link_alloc();
	int r = link ? rtnl_link_set_type(link, "ifb") : -NLE_NOMEM;

	if (!r) {
		rtnl_link_set_name(link, name);
		rtnl_link_set_txqlen(link, IFB_QUEUE);
		r = rtnl_link_add(nl, link, NLM_F_CREATE | NLM_F_EXCL);
	}
	rtnl_link_put(link);
	return r < 0 ? nl_failed(err, r, "make it (is there the ifb module?)", name) : 0;
}

static int add_qdisc(struct nl_sock *nl, int ifindex, const char *kind, uint32_t parent,
		     uint32_t handle, uint64_t plug_limit)
{
	struct rtnl_qdisc *q = rtnl_qdisc_alloc();
	int r = -NLE_NOMEM;

	if (!q)
		return r;
	rtnl_tc_set_ifindex(TC_CAST(q), ifindex);
	rtnl_tc_set_parent(TC_CAST(q), parent);
	rtnl_tc_set_handle(TC_CAST(q), handle);
	r = rtnl_tc_set_kind(TC_CAST(q), kind);
	if (!r && plug_limit)
		r = rtnl_qdisc_plug_set_limit(q, (int)plug_limit);
	if (!r)
		r = rtnl_qdisc_add(nl, q, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_qdisc_put(q);
	return r;
}

static int change_link(struct nl_sock *nl, int ifindex, struct rtnl_link *change)
{
	struct rtnl_link *link = rtnl_link_alloc();
	int r = -NLE_NOMEM;

	if (link && change) {
		rtnl_link_set_ifindex(link, ifindex);
		r = rtnl_link_change(nl, link, change, 0);
	}
	rtnl_link_put(link);
	rtnl_link_put(change);
	return r;
}

/* Without an IPv6 address: what this host itself said there would be queued at any time, also while
 * the boundary of an epoch is set. */
static int set_up(struct nl_sock *nl, int ifindex)
{
	struct rtnl_link *quiet = rtnl_link_alloc(), *up = rtnl_link_alloc();

	if (quiet)
		rtnl_link_inet6_set_addr_gen_mode(
			quiet, rtnl_link_inet6_str2addrgenmode("none"));
	/* Without IPv6 in the kernel there is nothing to switch off: that failure is fine. */
	(void)change_link(nl, ifindex, quiet);
	if (up)
		rtnl_link_set_flags(up, IFF_UP);
	return change_link(nl, ifindex, up);
}

/* The queue itself must never be what is full: the tap gives nothing more well before (frames cost more
 * memory than they have bytes), and a queue that is full drops. */
static uint64_t queue_limit(uint64_t limit)
{
	return limit < INT_MAX / 2 ? 2 * limit : INT_MAX;
}

static int make_plug(struct nl_sock *nl, const char *name, uint64_t limit,
		     int *ifindex_out, struct err *err)
{
	int rc = remove_ifb(nl, name, err), r;

	rc = rc ? rc : make_ifb(nl, name, err);
	if (rc)
		return rc;
	*ifindex_out = (int)if_nametoindex(name);
	if (!*ifindex_out)
		return err_sys(err, -errno, "%s", name);
	r = add_qdisc(nl, *ifindex_out, "plug", TC_H_ROOT, PLUGQUEUE_HANDLE,
		      queue_limit(limit));
	if (r < 0)
		return nl_failed(err, r, "its plug (is there the sch_plug module?)",
				 name);
	r = set_up(nl, *ifindex_out);
	return r < 0 ? nl_failed(err, r, "set it up", name) : 0;
}

static int add_filter(struct nl_sock *nl, int from, int to)
{
	struct rtnl_cls *cls = rtnl_cls_alloc();
	struct rtnl_act *act = rtnl_act_alloc();
	int r = cls && act ? rtnl_tc_set_kind(TC_CAST(act), "mirred") : -NLE_NOMEM;

	r = r ? r : rtnl_mirred_set_action(act, TCA_EGRESS_REDIR);
	r = r ? r : rtnl_mirred_set_policy(act, TC_ACT_STOLEN);
	r = r ? r : rtnl_mirred_set_ifindex(act, (uint32_t)to);
	if (!r) {
		rtnl_tc_set_ifindex(TC_CAST(cls), from);
		rtnl_tc_set_parent(TC_CAST(cls), INGRESS);
		r = rtnl_tc_set_kind(TC_CAST(cls), "matchall");
	}
	if (!r) {
		rtnl_cls_set_prio(cls, 1);
		/* Not one for each protocol that comes to mind: what is forgotten would pass. */
		rtnl_cls_set_protocol(cls, ETH_P_ALL);
		r = rtnl_mall_append_action(cls, act);
	}
	if (!r)
		r = rtnl_cls_add(nl, cls, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_act_put(act);
	rtnl_cls_put(cls);
	return r;
}

int tap_plug_redirect(struct nl_sock *nl, int from, int to, struct err *err)
{
	int r = add_qdisc(nl, from, "ingress", TC_H_INGRESS, INGRESS, 0);

	if (!r)
		r = add_filter(nl, from, to);
	return r < 0 ? nl_failed(err, r, "its input to the plug", "tap") : 0;
}

/* With zero copy a held frame is the guest's own page, which it may write to meanwhile; and vhost waits
 * for all of them when it is stopped, which is before they can be released. */
static int refuse_zero_copy(struct err *err)
{
	int fd = open(ZEROCOPY, O_RDONLY | O_CLOEXEC);
	char c = '0';

	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, -errno, "%s", ZEROCOPY);
	if (read(fd, &c, 1) < 0)
		c = '?';
	(void)close(fd); /* nothing was written through it */
	if (c == '0' || c == 'N')
		return 0;
	return err_set(err, -EINVAL,
		       "vhost-net sends without copying: load vhost_net with "
		       "experimental_zcopytx=0");
}

static int open_vhost(int *fd_out, struct err *err)
{
	*fd_out = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
	if (*fd_out < 0)
		return err_sys(err, -errno,
			       "open /dev/vhost-net (is the vhost_net module loaded?)");
	return refuse_zero_copy(err);
}

int tap_sniff(const char *tap, int *fd_out, struct err *err)
{
	struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, HEAD_BYTES)};
	struct sock_fprog head = {.len = 1, .filter = code};
	struct sockaddr_ll at = {.sll_family = AF_PACKET,
				 .sll_protocol = __builtin_bswap16(ETH_P_ALL),
				 .sll_ifindex = (int)if_nametoindex(tap)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1,
	    room = SNIFF_ROOM;

	*fd_out = fd;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &head, sizeof(head)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)))
		return err_sys(err, -errno, "tap %s: a socket that sees its frames", tap);
	return 0;
}

static void close_all(struct tap_plug *p)
{
	const int fd[] = {p->tap, p->vhost, p->sniff};

	for (size_t i = 0; i < sizeof(fd) / sizeof(fd[0]); i++)
		if (fd[i] >= 0)
			(void)close(fd[i]); /* nothing was written through it */
}

int tap_plug_open(const char *name, const char *bridge, unsigned mtu, uint64_t limit,
		  struct tap_plug *out, struct err *err)
{
	struct nl_sock *nl = NULL;
	char ifb[IFNAMSIZ];
	int rc;

	*out = (struct tap_plug){.tap = -1, .vhost = -1, .sniff = -1};
	if (strlen(name) > TAP_PLUG_NAME_MAX)
		return err_set(err, -EINVAL,
			       "tap \"%s\": with vhost a name has 1 to %d characters",
			       name, TAP_PLUG_NAME_MAX);
	ifb_name(name, ifb);
	rc = nl_open(&nl, err);
	rc = rc ? rc : open_vhost(&out->vhost, err);
	rc = rc ? rc : make_plug(nl, ifb, limit, &out->ifindex, err);
	if (!rc) {
		out->tap = tap_open_redirected(name, bridge, mtu, out->ifindex,
					       limit < INT_MAX ? (int)limit : INT_MAX - 1,
					       err);
		rc = out->tap < 0 ? out->tap : tap_sniff(name, &out->sniff, err);
	}
	nl_socket_free(nl);
	if (rc) {
		close_all(out);
		/* Not to cover the error; the next opening tries again. */
		(void)tap_plug_remove(name, NULL);
	}
	return rc;
}

int tap_plug_remove(const char *name, struct err *err)
{
	struct nl_sock *nl = NULL;
	char ifb[IFNAMSIZ];
	int rc = nl_open(&nl, err);

	ifb_name(name, ifb);
	rc = rc ? rc : remove_ifb(nl, ifb, err);
	nl_socket_free(nl);
	return rc;
}
