/* SPDX-License-Identifier: Apache-2.0
 * heartbeat - the thread that sends and hears heartbeats, and its sockets.
 */
#include "ctl/heartbeat.h"

#include "ctl/heartbeat_track.h"
#include "ctl/mailbox.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	MS = 1000000,
	SPACING_NS = 1 * MS, /* between two rounds, however often somebody asks for one */
	REFUSED_LOG_MS = 10000,
	BATCH = 64, /* datagrams read from one path before the clock is looked at again */
};

struct hb_path {
	int fd;
	struct sockaddr_storage remote;
	socklen_t remote_len;
	uint64_t sent, send_errors;
};

struct heartbeat {
	const struct config *cfg;
	struct hb_events ev;
	struct mailbox *mb;
	uint8_t key[CONFIG_KEY_LEN];
	uint64_t boot_id, seq;
	int wake;
	unsigned n_paths;
	struct hb_path paths[CONFIG_PATHS_MAX];
	pthread_t thread;
	int started;
	/* The thread's own. */
	uint64_t next_send, last_send;
	uint64_t refused_log[HB_NVERDICTS];
	int told_up, told_path[CONFIG_PATHS_MAX];
	struct hb_peer told;
	/* Under the lock. It inherits priority: the thread runs before everybody else. */
	pthread_mutex_t lock;
	int stopping, send_now, realtime;
	struct pair_view vms[CONFIG_VMS_MAX];
	struct hb_track track;
	uint64_t late_max;
	const char *refused_why;
};

enum hb_mail_kind { HB_MAIL_PEER, HB_MAIL_LOST, HB_MAIL_PATH };

struct hb_mail {
	struct mail mail;
	enum hb_mail_kind kind;
	unsigned path;
	int up;
	struct hb_peer peer;
};

static void drop_mail(struct mail *m)
{
	free(m);
}

static void deliver(void *arg, struct mail *mail)
{
	struct heartbeat *hb = arg;
	struct hb_mail *m = (struct hb_mail *)mail;

	if (m->kind == HB_MAIL_PEER)
		hb->ev.peer(hb->ev.arg, &m->peer);
	else if (m->kind == HB_MAIL_LOST)
		hb->ev.lost(hb->ev.arg);
	else
		hb->ev.path(hb->ev.arg, m->path, m->up);
	free(m);
}

/* -ENOMEM: the caller leaves what it told as it is and tries again in the next round. */
static int tell(struct heartbeat *hb, enum hb_mail_kind kind, unsigned path, int up)
{
	struct hb_mail *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->kind = kind;
	m->path = path;
	m->up = up;
	m->peer = hb->track.peer;
	mailbox_put(hb->mb, &m->mail);
	return 0;
}

static int says_other(const struct hb_peer *a, const struct hb_peer *b)
{
	if (a->boot_id != b->boot_id || a->n_vms != b->n_vms)
		return 1;
	for (unsigned i = 0; i < a->n_vms; i++)
		if (a->vms[i].state != b->vms[i].state ||
		    a->vms[i].health != b->vms[i].health ||
		    a->vms[i].flags != b->vms[i].flags ||
		    a->vms[i].term != b->vms[i].term)
			return 1;
	return 0;
}

/* Bring the main loop's knowledge up to ours. By level, so that a lack of memory only delays it. */
static void tell_changes(struct heartbeat *hb)
{
	struct hb_track *t = &hb->track;

	for (unsigned i = 0; i < hb->n_paths; i++)
		if (hb->told_path[i] != t->paths[i].st.up &&
		    !tell(hb, HB_MAIL_PATH, i, t->paths[i].st.up))
			hb->told_path[i] = t->paths[i].st.up;
	if (t->up && (!hb->told_up || says_other(&hb->told, &t->peer)) &&
	    !tell(hb, HB_MAIL_PEER, 0, 1)) {
		hb->told_up = 1;
		hb->told = t->peer;
	}
	if (!t->up && hb->told_up && !tell(hb, HB_MAIL_LOST, 0, 0))
		hb->told_up = 0;
}

static void fill(struct heartbeat *hb, struct hb_msg *m)
{
	const struct config *cfg = hb->cfg;

	memset(m, 0, sizeof(*m));
	memcpy(m->pair, cfg->pair, sizeof(m->pair));
	memcpy(m->host, config_self(cfg)->name, sizeof(m->host));
	memcpy(m->digest, cfg->digest, sizeof(m->digest));
	m->boot_id = hb->boot_id;
	m->seq = ++hb->seq;
	m->interval_us = cfg->heartbeat_interval_ms * 1000;
	m->n_vms = cfg->n_vms;
	pthread_mutex_lock(&hb->lock);
	memcpy(m->vms, hb->vms, sizeof(m->vms));
	pthread_mutex_unlock(&hb->lock);
}

static void send_on(struct heartbeat *hb, unsigned i, struct hb_msg *m)
{
	const struct hb_track_path *tp =
		&hb->track.paths[i]; /* written by this thread only */
	uint8_t out[HB_DATAGRAM_MAX];
	struct hb_path *p = &hb->paths[i];
	ssize_t n;

	m->path = (uint8_t)i;
	m->mono_ns = clock_mono_ns();
	m->wall_ns = clock_real_ns();
	m->echo_boot_id = tp->echo_boot_id;
	m->echo_mono_ns = tp->echo_mono;
	m->echo_delay_ns = tp->echo_boot_id ? m->mono_ns - tp->echo_at : 0;
	n = hb_encode(m, hb->key, out, sizeof(out));
	if (n > 0)
		n = sendto(p->fd, out, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL,
			   (struct sockaddr *)&p->remote, p->remote_len);
	pthread_mutex_lock(&hb->lock);
	if (n > 0)
		p->sent++;
	else
		p->send_errors++; /* no route now: the next round tries again */
	pthread_mutex_unlock(&hb->lock);
}

static void send_round(struct heartbeat *hb, uint64_t now)
{
	uint64_t interval = (uint64_t)hb->cfg->heartbeat_interval_ms * MS;
	struct hb_msg m;

	pthread_mutex_lock(&hb->lock);
	hb->send_now = 0;
	if (hb->seq && now > hb->next_send && now - hb->next_send > hb->late_max)
		hb->late_max = now - hb->next_send;
	pthread_mutex_unlock(&hb->lock);
	fill(hb, &m);
	for (unsigned i = 0; i < hb->n_paths; i++)
		send_on(hb, i, &m);
	hb->last_send = now;
	hb->next_send = now + interval;
}

static void log_refused(struct heartbeat *hb, unsigned path, enum hb_verdict v)
{
	const struct config_host *peer = config_peer(hb->cfg);

	if (v == HB_REPLAY || !log_ratelimit_ok(&hb->refused_log[v], REFUSED_LOG_MS))
		return; /* a replay also is what a slow path or a start look like: counted only */
	log_warn("heartbeat of %s on path %u (%s) refused: %s", peer->name, path,
		 config_self(hb->cfg)->heartbeat[path].text, hb_verdict_text(v));
}

static void heard(struct heartbeat *hb, unsigned path, const uint8_t *p, size_t len)
{
	struct hb_msg m;
	enum hb_verdict v = hb_decode(p, len, hb->key, &m);

	pthread_mutex_lock(&hb->lock);
	if (v == HB_OK)
		v = hb_track_heard(&hb->track, path, &m, clock_mono_ns(),
				   clock_real_ns());
	else
		hb_track_refused(&hb->track, path);
	if (v != HB_OK && v != HB_REPLAY)
		hb->refused_why = hb_verdict_text(v);
	pthread_mutex_unlock(&hb->lock);
	if (v != HB_OK)
		log_refused(hb, path, v);
}

static void receive(struct heartbeat *hb, unsigned path)
{
	uint8_t in[HB_DATAGRAM_MAX + 1]; /* one more: a longer datagram is noticed */
	ssize_t n;

	for (unsigned i = 0; i < BATCH; i++) {
		n = recv(hb->paths[path].fd, in, sizeof(in), MSG_DONTWAIT);
		if (n < 0)
			return; /* none left; or an ICMP error for something that we sent */
		heard(hb, path, in, (size_t)n);
	}
}

/* Returns 0 when the thread is to end. */
static int wait_and_receive(struct heartbeat *hb, uint64_t until)
{
	struct pollfd fds[CONFIG_PATHS_MAX + 1];
	uint64_t now = clock_mono_ns(), left = until > now ? until - now : 0;
	struct timespec ts = {.tv_sec = (time_t)(left / 1000000000u),
			      .tv_nsec = (long)(left % 1000000000u)};
	uint64_t woken;
	int stopping;

	for (unsigned i = 0; i < hb->n_paths; i++)
		fds[i] = (struct pollfd){.fd = hb->paths[i].fd, .events = POLLIN};
	fds[hb->n_paths] = (struct pollfd){.fd = hb->wake, .events = POLLIN};
	if (ppoll(fds, hb->n_paths + 1, &ts, NULL) > 0) {
		for (unsigned i = 0; i < hb->n_paths; i++)
			if (fds[i].revents)
				receive(hb, i);
		if (fds[hb->n_paths].revents &&
		    read(hb->wake, &woken, sizeof(woken)) < 0) {
			/* EAGAIN: taken already. */
		}
	}
	pthread_mutex_lock(&hb->lock);
	stopping = hb->stopping;
	if (hb->send_now && hb->last_send + SPACING_NS < hb->next_send)
		hb->next_send = hb->last_send + SPACING_NS;
	pthread_mutex_unlock(&hb->lock);
	return !stopping;
}

static void go_realtime(struct heartbeat *hb)
{
	struct sched_param sp = {.sched_priority = sched_get_priority_min(SCHED_RR) + 9};
	int rc = pthread_setschedparam(pthread_self(), SCHED_RR, &sp);

	pthread_mutex_lock(&hb->lock);
	hb->realtime = !rc;
	pthread_mutex_unlock(&hb->lock);
	if (rc)
		log_warn(
			"heartbeats run without real-time priority (%s): under load they may be late",
			strerror(rc));
}

static void *hb_main(void *arg)
{
	struct heartbeat *hb = arg;
	uint64_t now, until, quiet;

	go_realtime(hb);
	for (hb->next_send = clock_mono_ns();;) {
		now = clock_mono_ns();
		if (now >= hb->next_send)
			send_round(hb, now);
		quiet = hb_track_deadline(&hb->track);
		until = quiet < hb->next_send ? quiet : hb->next_send;
		if (!wait_and_receive(hb, until))
			return NULL;
		/* After receiving: a thread that was stopped for long first hears what came
		 * meanwhile, and only then judges the silence. */
		pthread_mutex_lock(&hb->lock);
		hb_track_time(&hb->track, clock_mono_ns());
		pthread_mutex_unlock(&hb->lock);
		tell_changes(hb);
	}
}

static int open_path(struct heartbeat *hb, unsigned i, struct err *err)
{
	const struct config_addr *own = &config_self(hb->cfg)->heartbeat[i];
	const struct config_addr *other = &config_peer(hb->cfg)->heartbeat[i];
	struct hb_path *p = &hb->paths[i];
	int one = 1, tos = IPTOS_LOWDELAY;

	memcpy(&p->remote, &other->ss, other->len);
	p->remote_len = other->len;
	p->fd = socket(own->ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->fd < 0)
		return err_sys(err, -errno, "heartbeat path %u: no socket", i);
	if (own->ss.ss_family == AF_INET6 &&
	    setsockopt(p->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)))
		return err_sys(err, -errno, "heartbeat path %u: IPV6_V6ONLY", i);
	if (own->ss.ss_family == AF_INET)
		/* A hint to switches; without it heartbeats are ordinary traffic. */
		(void)setsockopt(p->fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	if (bind(p->fd, (const struct sockaddr *)&own->ss, own->len))
		return err_sys(
			err, -errno,
			"heartbeat path %u: cannot listen on %s; is it an address of this "
			"host, and is no other rhead running?",
			i, own->text);
	return 0;
}

static int init_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;
	int rc = pthread_mutexattr_init(&attr);

	if (rc)
		return -rc;
	rc = pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	if (!rc)
		rc = pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
	return -rc;
}

static int random_id(uint64_t *out)
{
	do
		if (getrandom(out, sizeof(*out), 0) != sizeof(*out))
			return -errno;
	while (!*out);
	return 0;
}

int hb_create(const struct config *cfg, struct loop *loop, const struct hb_events *ev,
	      struct heartbeat **hb_out, struct err *err)
{
	struct heartbeat *hb = calloc(1, sizeof(*hb));
	int rc;

	*hb_out = NULL;
	if (!hb || init_lock(&hb->lock)) {
		free(hb);
		return err_set(err, -ENOMEM, "heartbeat: out of memory");
	}
	hb->cfg = cfg;
	hb->ev = *ev;
	hb->n_paths = config_self(cfg)->n_heartbeat;
	for (unsigned i = 0; i < CONFIG_PATHS_MAX; i++)
		hb->paths[i].fd = -1;
	for (unsigned i = 0; i < CONFIG_VMS_MAX; i++)
		hb->vms[i].epoch = UINT64_MAX;
	hb->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = hb->wake < 0 ? -errno : random_id(&hb->boot_id);
	if (!rc)
		rc = config_derive_key(cfg, "rhea heartbeat", hb->key);
	if (rc)
		err_sys(err, rc, "heartbeat: cannot start");
	hb->track.cfg = cfg;
	hb->track.own_boot_id = hb->boot_id;
	if (!rc)
		rc = mailbox_create(loop, deliver, drop_mail, hb, &hb->mb, err);
	for (unsigned i = 0; i < hb->n_paths && !rc; i++)
		rc = open_path(hb, i, err);
	if (rc)
		hb_destroy(hb);
	else
		*hb_out = hb;
	return rc;
}

int hb_start(struct heartbeat *hb, struct err *err)
{
	int rc = pthread_create(&hb->thread, NULL, hb_main, hb);

	if (rc)
		return err_sys(err, -rc, "heartbeat: no thread");
	hb->started = 1;
	return 0;
}

static void wake(struct heartbeat *hb)
{
	uint64_t one = 1;

	if (write(hb->wake, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the thread wakes anyway. */
	}
}

void hb_destroy(struct heartbeat *hb)
{
	if (!hb)
		return;
	if (hb->started) {
		pthread_mutex_lock(&hb->lock);
		hb->stopping = 1;
		pthread_mutex_unlock(&hb->lock);
		wake(hb);
		pthread_join(hb->thread, NULL);
	}
	mailbox_destroy(hb->mb);
	for (unsigned i = 0; i < hb->n_paths; i++)
		if (hb->paths[i].fd >= 0)
			close(hb->paths[i].fd);
	if (hb->wake >= 0)
		close(hb->wake);
	pthread_mutex_destroy(&hb->lock);
	OPENSSL_cleanse(hb->key, sizeof(hb->key));
	free(hb);
}

void hb_set_vm(struct heartbeat *hb, unsigned index, const struct pair_view *v)
{
	struct pair_view *was = &hb->vms[index];
	int changed;

	pthread_mutex_lock(&hb->lock);
	changed = was->state != v->state || was->health != v->health ||
		  was->flags != v->flags || was->term != v->term;
	*was = *v;
	hb->send_now |= changed;
	pthread_mutex_unlock(&hb->lock);
	if (changed)
		wake(hb);
}

int hb_peer_last(struct heartbeat *hb, struct hb_peer *out)
{
	int up;

	pthread_mutex_lock(&hb->lock);
	up = hb->track.up;
	*out = hb->track.peer;
	pthread_mutex_unlock(&hb->lock);
	return up ? 0 : -ENODATA;
}

void hb_stats(struct heartbeat *hb, struct hb_stats *out)
{
	uint64_t now = clock_mono_ns();
	size_t n;

	memset(out, 0, sizeof(*out));
	pthread_mutex_lock(&hb->lock);
	out->peer_up = hb->track.up;
	out->up_since_ns = hb->track.up_since;
	out->losses = hb->track.losses;
	out->sender_late_max_ns = hb->late_max;
	out->realtime = hb->realtime;
	out->n_paths = hb->n_paths;
	if (hb->refused_why) {
		n = strnlen(hb->refused_why, HB_REASON_MAX - 1);
		memcpy(out->refused_why, hb->refused_why, n);
	}
	for (unsigned i = 0; i < hb->n_paths; i++) {
		out->paths[i] = hb->track.paths[i].st;
		out->paths[i].sent = hb->paths[i].sent;
		out->paths[i].send_errors = hb->paths[i].send_errors;
		out->paths[i].silent_ns = hb->track.paths[i].good_at
						  ? now - hb->track.paths[i].good_at
						  : UINT64_MAX;
	}
	pthread_mutex_unlock(&hb->lock);
}

uint16_t hb_port(const struct heartbeat *hb, unsigned i)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} sa = {0};
	socklen_t len = sizeof(sa);

	if (i >= hb->n_paths || getsockname(hb->paths[i].fd, &sa.any, &len))
		return 0;
	return ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port);
}

int hb_set_remote(struct heartbeat *hb, unsigned i, const struct sockaddr *sa,
		  socklen_t len)
{
	if (i >= hb->n_paths || len > sizeof(hb->paths[i].remote))
		return -EINVAL;
	memcpy(&hb->paths[i].remote, sa, len);
	hb->paths[i].remote_len = len;
	return 0;
}
