/* SPDX-License-Identifier: Apache-2.0
 * plugkeeper - the process that may tell the kernel to hold and release a VM's plugged cards.
 */
#include "ctl/plugkeeper.h"

#include "ctl/plugqueue.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/netlink.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { KERNEL_WAIT_S = 1, KEEPER_WAIT_S = 2, SEQ_MASK = 0x7fffffff };

struct request {
	uint32_t op, seq;
	uint64_t not_after_ns;
};

struct answer {
	uint32_t seq;
	int32_t rc;
	struct plug_counts counts;
};

struct plugkeeper {
	int sock, pidfd;
	uint32_t seq;
	struct plug_kernel kernel;
};

/* ---- in the keeper ---- */

struct keeper {
	int sock;
	struct plugqueue_link link;
	struct plugqueue queue[PLUGKEEPER_DEVICES_MAX];
	unsigned n;
};

static int (*const deed[PLUG_OPS])(struct plugqueue *q, struct plugqueue_link *l) = {
	[PLUG_HOLD] = plugqueue_hold,	[PLUG_RELEASE] = plugqueue_release,
	[PLUG_OPEN] = plugqueue_open,	[PLUG_DROP] = plugqueue_drop,
	[PLUG_COUNT] = plugqueue_count,
};

/* To all devices, whatever one says; the first error counts. */
static int obey(struct keeper *k, const struct request *r)
{
	int rc = 0;

	if (r->op >= PLUG_OPS)
		return -EINVAL;
	if (r->op == PLUG_RELEASE && r->not_after_ns && clock_mono_ns() > r->not_after_ns)
		return -ESTALE;
	for (unsigned i = 0; i < k->n; i++) {
		int one = deed[r->op](&k->queue[i], &k->link);

		rc = rc ? rc : one;
	}
	return rc;
}

static struct plug_counts count(const struct keeper *k)
{
	struct plug_counts c = {0};

	for (unsigned i = 0; i < k->n; i++) {
		const struct plugqueue *q = &k->queue[i];

		c.held_frames += q->queued;
		c.held_bytes += q->backlog;
		c.sent_frames += q->sent;
		c.dropped_frames += q->drops;
		c.late += q->late;
	}
	return c;
}

static void serve(struct keeper *k)
{
	struct request r;
	struct answer a;
	ssize_t n;

	for (;;) {
		n = recv(k->sock, &r, sizeof(r), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(r))
			return;
		memset(&a, 0, sizeof(a));
		a.seq = r.seq;
		a.rc = obey(k, &r);
		a.counts = count(k);
		if (send(k->sock, &a, sizeof(a), MSG_NOSIGNAL) < 0)
			return;
	}
}

static int filter_calls(void)
{
	static const int allowed[] = {
		SCMP_SYS(recvfrom),	 SCMP_SYS(sendto),
		SCMP_SYS(nanosleep),	 SCMP_SYS(clock_nanosleep),
		SCMP_SYS(clock_gettime), SCMP_SYS(restart_syscall),
		SCMP_SYS(rt_sigreturn),	 SCMP_SYS(exit_group),
	};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < sizeof(allowed) / sizeof(allowed[0]); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!rc)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	return rc;
}

/* CAP_NET_ADMIN is all that is left. */
static int drop_rights(unsigned uid, unsigned gid)
{
	/* Its answer is waited for while the guest stands still. It runs for microseconds at a time, so
	 * without this privilege it is only slower. */
	(void)sched_setscheduler(0, SCHED_RR, &(struct sched_param){.sched_priority = 1});
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_ADMIN))
		return -EPERM;
	if (uid ? capng_change_id((int)uid, (int)gid,
				  CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING)
		: capng_apply(CAPNG_SELECT_BOTH))
		return -EPERM;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

static int close_others(int a, int b)
{
	int low = a < b ? a : b, high = a < b ? b : a;

	if (low > 0 && syscall(SYS_close_range, 0, low - 1, 0))
		return -errno;
	if (high - low > 1 && syscall(SYS_close_range, low + 1, high - 1, 0))
		return -errno;
	return syscall(SYS_close_range, high + 1, UINT_MAX, 0) ? -errno : 0;
}

static int open_kernel(void)
{
	const struct timeval wait = {.tv_sec = KERNEL_WAIT_S};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), rc;
	struct sockaddr_nl any = {.nl_family = AF_NETLINK};

	if (fd < 0)
		return -errno;
	/* Connected to the kernel by default: nobody else's message comes in between. */
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) ||
	    connect(fd, (struct sockaddr *)&any, sizeof(any)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait))) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

/* Says 0 or what went wrong as its first answer, then serves. Does not return. */
static void keeper_main(struct keeper *k, pid_t parent, unsigned uid, unsigned gid)
{
	struct answer a = {0};

	k->link.fd = open_kernel();
	(void)prctl(PR_SET_NAME, "rhea-plug"); /* for people who look at processes */
	a.rc = k->link.fd < 0 ? k->link.fd : close_others(k->sock, k->link.fd);
	if (!a.rc)
		a.rc = drop_rights(uid, gid);
	/* A change of user clears it, so not before. */
	if (!a.rc && prctl(PR_SET_PDEATHSIG, SIGKILL))
		a.rc = -errno;
	if (!a.rc && getppid() != parent)
		a.rc = -ESRCH;
	if (!a.rc)
		a.rc = filter_calls();
	if (send(k->sock, &a, sizeof(a), MSG_NOSIGNAL) > 0 && !a.rc)
		serve(k);
	_exit(a.rc != 0);
}

/* ---- in rhea-vm ---- */

/* The answer to @seq; older ones belong to requests that were given up. */
static int take_answer(int sock, uint32_t seq, struct answer *a)
{
	ssize_t n;

	do {
		n = recv(sock, a, sizeof(*a), 0);
		if (n < 0 && errno != EINTR)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n >= 0 && n != sizeof(*a))
			return n ? -EBADMSG : -EPIPE;
	} while (n < 0 || a->seq != seq);
	return 0;
}

static int tell(void *self, enum plug_op op, uint64_t not_after_ns,
		struct plug_counts *out)
{
	struct plugkeeper *k = self;
	struct request r = {.op = op, .not_after_ns = not_after_ns};
	struct answer a;
	int rc;

	k->seq = (k->seq + 1) & SEQ_MASK;
	r.seq = k->seq;
	if (send(k->sock, &r, sizeof(r), MSG_NOSIGNAL) != sizeof(r))
		return -errno;
	rc = take_answer(k->sock, r.seq, &a);
	if (rc)
		return rc;
	*out = a.counts;
	return a.rc;
}

static int fork_keeper(struct plugkeeper *k, struct keeper *child, unsigned uid,
		       unsigned gid)
{
	const struct timeval wait = {.tv_sec = KEEPER_WAIT_S};
	pid_t parent = getpid(), pid;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -errno;
	child->sock = sv[1];
	pid = fork();
	if (pid == 0)
		keeper_main(child, parent, uid, gid);
	k->sock = sv[0];
	close(sv[1]);
	if (pid < 0)
		return -errno;
	k->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (k->pidfd < 0 ||
	    setsockopt(k->sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)))
		return -errno;
	return 0;
}

int plugkeeper_start(const int *ifindex, unsigned n, unsigned uid, unsigned gid,
		     struct plugkeeper **k_out, struct err *err)
{
	struct plugkeeper *k = calloc(1, sizeof(*k));
	struct keeper *child = calloc(1, sizeof(*child));
	struct answer first = {0};
	int rc = 0;

	*k_out = NULL;
	if (!k || !child || n > PLUGKEEPER_DEVICES_MAX) {
		rc = err_set(err, -ENOMEM, "plug: %u devices, or out of memory", n);
		goto out;
	}
	k->sock = k->pidfd = -1;
	k->kernel = (struct plug_kernel){.tell = tell, .self = k};
	child->n = n;
	for (unsigned i = 0; i < n && !rc; i++)
		rc = plugqueue_init(&child->queue[i], ifindex[i], err);
	if (rc)
		goto out;
	rc = fork_keeper(k, child, uid, gid);
	if (!rc)
		rc = take_answer(k->sock, 0, &first);
	rc = rc ? rc : first.rc;
	if (rc)
		err_sys(err, rc, "plug: starting its keeper");
out:
	free(child);
	if (rc)
		plugkeeper_stop(k);
	else
		*k_out = k;
	return rc;
}

int plugkeeper_pidfd(const struct plugkeeper *k)
{
	return k->pidfd;
}

const struct plug_kernel *plugkeeper_kernel(const struct plugkeeper *k)
{
	return &k->kernel;
}

void plugkeeper_stop(struct plugkeeper *k)
{
	if (!k)
		return;
	if (k->sock >= 0)
		close(k->sock); /* the keeper sees it, and ends */
	if (k->pidfd >= 0)
		close(k->pidfd);
	free(k);
}
