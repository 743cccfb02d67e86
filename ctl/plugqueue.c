/* SPDX-License-Identifier: Apache-2.0
 * plugqueue - one plug qdisc, told by netlink.
 */
#include "ctl/plugqueue.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <linux/gen_stats.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { REPLY_MAX = 8192, POLL_US = 20, POLLS_AT_ONCE = 4 };

/* Takes @msg. */
static int keep(struct nl_msg *msg, uint16_t flags, struct plugqueue_msg *out)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	int rc = h->nlmsg_len <= sizeof(out->bytes) ? 0 : -EMSGSIZE;

	h->nlmsg_flags = NLM_F_REQUEST | flags;
	if (!rc) {
		memcpy(out->bytes, h, h->nlmsg_len);
		out->len = h->nlmsg_len;
	}
	nlmsg_free(msg);
	return rc;
}

static int make_change(int ifindex, int (*what)(struct rtnl_qdisc *), uint16_t flags,
		       struct plugqueue_msg *out)
{
	struct rtnl_qdisc *q = rtnl_qdisc_alloc();
	struct nl_msg *msg = NULL;
	int rc = -ENOMEM;

	if (!q)
		return rc;
	rtnl_tc_set_ifindex(TC_CAST(q), ifindex);
	rtnl_tc_set_parent(TC_CAST(q), TC_H_ROOT);
	rtnl_tc_set_handle(TC_CAST(q), PLUGQUEUE_HANDLE);
	if (!rtnl_tc_set_kind(TC_CAST(q), "plug") && !what(q) &&
	    !rtnl_qdisc_build_add_request(q, 0, &msg))
		rc = keep(msg, flags, out);
	rtnl_qdisc_put(q);
	return rc;
}

static int make_count(int ifindex, struct plugqueue_msg *out)
{
	struct tcmsg tc = {.tcm_family = AF_UNSPEC,
			   .tcm_ifindex = ifindex,
			   .tcm_parent = TC_H_ROOT,
			   .tcm_handle = PLUGQUEUE_HANDLE};
	struct nl_msg *msg = nlmsg_alloc_simple(RTM_GETQDISC, 0);

	if (!msg)
		return -ENOMEM;
	if (nlmsg_append(msg, &tc, sizeof(tc), NLMSG_ALIGNTO)) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	/* The kernel answers only with what it would tell everybody, which is sent back on NLM_F_ECHO. */
	return keep(msg, NLM_F_ECHO, out);
}

static int make_down(int ifindex, struct plugqueue_msg *out)
{
	struct ifinfomsg ifi = {
		.ifi_family = AF_UNSPEC, .ifi_index = ifindex, .ifi_change = IFF_UP};
	struct nl_msg *msg = nlmsg_alloc_simple(RTM_NEWLINK, 0);

	if (!msg)
		return -ENOMEM;
	if (nlmsg_append(msg, &ifi, sizeof(ifi), NLMSG_ALIGNTO)) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return keep(msg, NLM_F_ACK, out);
}

int plugqueue_init(struct plugqueue *q, int ifindex, struct err *err)
{
	int rc;

	*q = (struct plugqueue){.ifindex = ifindex};
	rc = make_change(ifindex, rtnl_qdisc_plug_buffer, NLM_F_ACK | NLM_F_ECHO,
			 &q->hold);
	if (!rc)
		rc = make_change(ifindex, rtnl_qdisc_plug_release_one, NLM_F_ACK,
				 &q->release);
	if (!rc)
		rc = make_change(ifindex, rtnl_qdisc_plug_release_indefinite, NLM_F_ACK,
				 &q->open);
	if (!rc)
		rc = make_count(ifindex, &q->count);
	if (!rc)
		rc = make_down(ifindex, &q->down);
	return rc ? err_sys(err, rc, "plug: the messages for device %d", ifindex) : 0;
}

/* The qdisc's statistics out of its description. 1: they were there. */
static int read_stats(struct plugqueue *q, struct nlmsghdr *h)
{
	struct nlattr *all, *basic, *queue;
	struct gnet_stats_basic b;
	struct gnet_stats_queue s;

	if (h->nlmsg_type != RTM_NEWQDISC ||
	    h->nlmsg_len < NLMSG_LENGTH(sizeof(struct tcmsg)) ||
	    ((const struct tcmsg *)NLMSG_DATA(h))->tcm_ifindex != q->ifindex)
		return 0;
	all = nlmsg_find_attr(h, sizeof(struct tcmsg), TCA_STATS2);
	basic = all ? nla_find(nla_data(all), nla_len(all), TCA_STATS_BASIC) : NULL;
	queue = all ? nla_find(nla_data(all), nla_len(all), TCA_STATS_QUEUE) : NULL;
	/* The kernel pads the first at its end, so its length is not the struct's everywhere. */
	if (!basic || !queue ||
	    nla_len(basic) < (int)(sizeof(b.bytes) + sizeof(b.packets)) ||
	    nla_len(queue) < (int)sizeof(s))
		return 0;
	memcpy(&b, nla_data(basic), sizeof(b.bytes) + sizeof(b.packets));
	memcpy(&s, nla_data(queue), sizeof(s));
	q->sent = b.packets;
	q->queued = s.qlen;
	q->backlog = s.backlog;
	q->drops = s.drops;
	return 1;
}

/* What one datagram of the kernel's says to request @seq: *acked and *counted are set as it comes. */
static int take_answer(struct plugqueue *q, uint32_t seq, void *bytes, int len,
		       int *acked, int *counted)
{
	struct nlmsghdr *h = bytes;

	for (; nlmsg_ok(h, len); h = nlmsg_next(h, &len)) {
		const struct nlmsgerr *e = NLMSG_DATA(h);

		if (h->nlmsg_seq != seq)
			continue; /* of a request that was given up */
		if (h->nlmsg_type == NLMSG_ERROR) {
			if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
				return -EBADMSG;
			if (e->error)
				return e->error;
			*acked = 1;
		} else {
			*counted |= read_stats(q, h);
		}
	}
	return 0;
}

/* Send one message and take what it asks for: an ack, the statistics, or both. */
static int ask(struct plugqueue *q, struct plugqueue_link *l, struct plugqueue_msg *m)
{
	struct nlmsghdr *h = (struct nlmsghdr *)m->bytes;
	int acked = !(h->nlmsg_flags & NLM_F_ACK);
	int counted = !(h->nlmsg_flags & NLM_F_ECHO);
	_Alignas(struct nlmsghdr) uint8_t reply[REPLY_MAX];
	int rc = 0;

	h->nlmsg_seq = ++l->seq;
	if (send(l->fd, m->bytes, m->len, 0) != (ssize_t)m->len)
		return -errno;
	while (!rc && (!acked || !counted)) {
		ssize_t n = recv(l->fd, reply, sizeof(reply), 0);

		if (n < 0 && errno == EINTR)
			continue;
		rc = n <= 0 ? (n ? -errno : -EPIPE)
			    : take_answer(q, l->seq, reply, (int)n, &acked, &counted);
		/* The ack is the last word. */
		if (!rc && !counted && acked && h->nlmsg_flags & NLM_F_ACK)
			rc = -EBADMSG;
	}
	return rc;
}

int plugqueue_count(struct plugqueue *q, struct plugqueue_link *l)
{
	return ask(q, l, &q->count);
}

/* Wait until @done, asking again and again: the kernel empties the queue on a thread or interrupt of its
 * own, which may need this processor. 1: done. 0: not, and nothing moves or the time is up. */
static int await(struct plugqueue *q, struct plugqueue_link *l,
		 int (*done)(const struct plugqueue *q))
{
	static const struct timespec nap = {.tv_nsec = POLL_US * 1000};
	uint64_t began = clock_mono_ns(), moved = began, now;
	uint32_t last = q->sent;
	int rc;

	for (unsigned i = 0;; i++) {
		rc = plugqueue_count(q, l);
		if (rc)
			return rc;
		if (done(q))
			return 1;
		now = clock_mono_ns();
		if (q->sent != last)
			moved = now;
		last = q->sent;
		if (now - began > PLUGQUEUE_WAIT_US * 1000ull ||
		    now - moved > PLUGQUEUE_STUCK_US * 1000ull)
			return 0;
		if (i >= POLLS_AT_ONCE)
			(void)nanosleep(&nap, NULL); /* shorter is fine */
	}
}

static int is_empty(const struct plugqueue *q)
{
	return !q->queued;
}

static int has_left(const struct plugqueue *q)
{
	return q->sent == q->released_at;
}

int plugqueue_hold(struct plugqueue *q, struct plugqueue_link *l)
{
	int rc = 1;

	if (q->is_open)
		rc = await(q, l, is_empty);
	if (rc <= 0)
		return rc ? rc : -EBUSY;
	rc = ask(q, l, &q->hold);
	if (rc)
		return rc;
	/* Nobody enqueues now, and each frame is either counted as sent or in the queue. */
	q->closed_at = q->sent + q->queued;
	if (q->is_open)
		q->released_at = q->sent;
	q->is_open = 0;
	return 0;
}

int plugqueue_release(struct plugqueue *q, struct plugqueue_link *l)
{
	/* If the one before is stuck nobody writes the kernel's counter, and this one frees both. */
	int rc = await(q, l, has_left);

	if (rc >= 0)
		rc = ask(q, l, &q->release);
	if (rc)
		return rc;
	q->released_at = q->closed_at;
	rc = await(q, l, has_left);
	if (rc < 0)
		return rc;
	q->late += !rc;
	return 0;
}

int plugqueue_open(struct plugqueue *q, struct plugqueue_link *l)
{
	int rc = ask(q, l, &q->open);

	q->is_open |= !rc;
	return rc;
}

int plugqueue_drop(struct plugqueue *q, struct plugqueue_link *l)
{
	return ask(q, l, &q->down);
}
