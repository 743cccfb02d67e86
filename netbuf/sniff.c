/* SPDX-License-Identifier: Apache-2.0
 * sniff - the heads of frames that pass by this process: who speaks, and that output waits.
 *
 * Theory of operation. What a plugged card sends never comes here, but two things must be known of
 * it: that the epoch has output, so that it may end early, and the addresses that it is sent from, for
 * the announcements after a failover. A packet socket on the tap tells both: it sees what the guest
 * sends, before that is held, cut off behind the headers. It is only a hint, so it may lose frames: we
 * look at some in each epoch and then not until the next, or for a while, so that a guest that sends
 * much costs no more than one that sends little.
 */
#include "netbuf/nb.h"

#include "hv/base/err.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	BATCH = 64,
	REST_US = 20000, /* until the next look when no epoch ends */
	MACS = 12,
	TAG = 4,
	HEAD = NB_LEARN_BYTES - TAG, /* a tag that the kernel took away comes back */
};

struct seen {
	uint8_t bytes[NB_LEARN_BYTES];
	size_t len;
};

/* The kernel has taken the outer VLAN tag out of the frame: put it back. */
static void put_tag(struct seen *s, const struct tpacket_auxdata *aux)
{
	unsigned tpid =
		aux->tp_status & TP_STATUS_VLAN_TPID_VALID ? aux->tp_vlan_tpid : 0x8100;

	if (!(aux->tp_status & TP_STATUS_VLAN_VALID) || s->len < MACS)
		return;
	memmove(s->bytes + MACS + TAG, s->bytes + MACS, s->len - MACS);
	s->bytes[MACS] = (uint8_t)(tpid >> 8);
	s->bytes[MACS + 1] = (uint8_t)tpid;
	s->bytes[MACS + 2] = (uint8_t)(aux->tp_vlan_tci >> 8);
	s->bytes[MACS + 3] = (uint8_t)aux->tp_vlan_tci;
	s->len += TAG;
}

/* 1: one frame's head; 0: there is none. */
static int look(int fd, struct seen *s)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
	} ctl;
	struct iovec iov = {.iov_base = s->bytes, .iov_len = HEAD};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = ctl.room,
			    .msg_controllen = sizeof(ctl.room)};
	struct tpacket_auxdata aux;
	ssize_t n;

	do
		n = recvmsg(fd, &mh, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return 0;
	s->len = (size_t)n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
		if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA ||
		    c->cmsg_len < CMSG_LEN(sizeof(aux)))
			continue;
		memcpy(&aux, CMSG_DATA(c), sizeof(aux));
		put_tag(s, &aux);
	}
	return 1;
}

/* Returns whether the epoch that is open has its first output. */
static int learn(struct nb_port *p, const struct seen *s)
{
	struct netbuf *nb = p->nb;
	struct nb_addr addr;
	int known = nb_learn_parse(s->bytes, s->len, (uint8_t)p->index, &addr), first;

	pthread_mutex_lock(&nb->lock);
	if (known)
		nb_table_add(&nb->table, &addr);
	first = nb->holding && !nb->said;
	nb->said |= first;
	pthread_mutex_unlock(&nb->lock);
	return first;
}

static void on_frames(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval rest = {.tv_usec = REST_US};
	struct nb_port *p = arg;
	struct netbuf *nb = p->nb;
	struct seen s = {.len = 0};
	int first = 0;

	loop_enter(nb->loop);
	for (unsigned n = 0; n < BATCH && look(p->fd, &s); n++)
		first |= learn(p, &s);
	if (first)
		nb->trigger.request(nb->trigger.arg, "output waits");
	/* Without a timer there is still the end of the epoch. */
	(void)event_del(p->sniff);
	(void)event_add(p->rest, &rest);
	loop_leave(nb->loop);
}

static void on_rested(evutil_socket_t fd, short what, void *arg)
{
	struct nb_port *p = arg;

	/* The worst that a failure does is that epochs do not end early. */
	(void)event_add(p->sniff, NULL);
}

void nb_sniff_again(struct netbuf *nb)
{
	for (uint32_t i = 0; i < nb->ports; i++)
		if (nb->port[i].sniff)
			(void)event_add(nb->port[i].sniff, NULL); /* as above */
}

int nb_sniff_start(struct nb_port *p, int fd, struct err *err)
{
	struct event_base *base = loop_base(p->nb->loop);

	p->fd = fd;
	p->sniff = event_new(base, fd, EV_READ | EV_PERSIST, on_frames, p);
	p->rest = evtimer_new(base, on_rested, p);
	if (!p->sniff || !p->rest || event_add(p->sniff, NULL))
		return err_set(err, -ENOMEM, "looking at frames: out of memory");
	return 0;
}

void nb_sniff_stop(struct nb_port *p)
{
	if (!p->sniff)
		return;
	event_free(p->sniff);
	if (p->rest)
		event_free(p->rest);
	close(p->fd);
}
