/* SPDX-License-Identifier: Apache-2.0
 * test_plugkeeper - what the kernel is told to hold and release, by whom, and when it does not do it.
 */
#include "ctl/plugkeeper.h"
#include "ctl/plugqueue.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <linux/gen_stats.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IFINDEX = 7 };

/* sch_plug behind a netlink socket: it takes and answers messages as the kernel does. A frame that may leave
 * does so at the next question for the counts, @slow of them at a time. */
static struct qdisc {
	int fd, error, mute;
	unsigned queued, sent, drops;
	unsigned now, last, may_leave, slow, stuck;
	int open, down;
	unsigned told[TCQ_PLUG_LIMIT + 1];
	unsigned overlaps; /* releases while the one before was not done */
	pthread_t thread;
} q;

static void put_attr(uint8_t *msg, uint32_t *len, uint16_t type, const void *p, size_t n)
{
	struct rtattr a = {.rta_type = type, .rta_len = (uint16_t)RTA_LENGTH(n)};

	memcpy(msg + *len, &a, sizeof(a));
	memcpy(msg + *len + RTA_LENGTH(0), p, n);
	*len += (uint32_t)RTA_SPACE(n);
}

static void answer_counts(const struct nlmsghdr *ask)
{
	struct gnet_stats_basic basic = {.packets = q.sent};
	struct gnet_stats_queue queue = {
		.qlen = q.queued, .backlog = q.queued * 100, .drops = q.drops};
	struct tcmsg tc = {.tcm_ifindex = IFINDEX};
	uint8_t stats[128] = {0}, msg[512] = {0};
	uint32_t in = 0, len = NLMSG_LENGTH(sizeof(tc));
	struct nlmsghdr h = {.nlmsg_type = RTM_NEWQDISC, .nlmsg_seq = ask->nlmsg_seq};

	put_attr(stats, &in, TCA_STATS_BASIC, &basic, sizeof(basic));
	put_attr(stats, &in, TCA_STATS_QUEUE, &queue, sizeof(queue));
	memcpy(msg + NLMSG_LENGTH(0), &tc, sizeof(tc));
	put_attr(msg, &len, TCA_KIND, "plug", 5);
	put_attr(msg, &len, TCA_STATS2, stats, in);
	h.nlmsg_len = len;
	memcpy(msg, &h, sizeof(h));
	CU_ASSERT_EQUAL(send(q.fd, msg, len, 0), (ssize_t)len);
}

static void answer_error(const struct nlmsghdr *ask, int error)
{
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
	} m = {.h = {.nlmsg_len = sizeof(m),
		     .nlmsg_type = NLMSG_ERROR,
		     .nlmsg_seq = ask->nlmsg_seq},
	       .e = {.error = error, .msg = *ask}};

	CU_ASSERT_EQUAL(send(q.fd, &m, sizeof(m), 0), sizeof(m));
}

static void drain(void)
{
	unsigned n = q.slow ? q.slow : q.queued;

	while (q.queued && !q.stuck && n-- && (q.open || q.may_leave)) {
		q.may_leave -= !q.open;
		q.queued--;
		q.sent++;
	}
}

static void change(const struct tc_plug_qopt *o)
{
	q.told[o->action]++;
	if (o->action == TCQ_PLUG_BUFFER) {
		q.last = q.now;
		q.now = 0;
		q.open = 0;
	} else if (o->action == TCQ_PLUG_RELEASE_ONE) {
		q.overlaps += q.may_leave > 0;
		q.may_leave += q.last;
		q.last = 0;
		q.stuck -= q.stuck > 0;
	} else {
		q.open = 1;
		q.now = q.last = q.may_leave = 0;
	}
}

static const struct tc_plug_qopt *options(struct nlmsghdr *h)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)NLMSG_DATA(h) +
					     NLMSG_ALIGN(sizeof(struct tcmsg)));
	int left = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(struct tcmsg)));

	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		if ((a->rta_type & NLA_TYPE_MASK) == TCA_OPTIONS)
			return RTA_DATA(a);
	return NULL;
}

static void take(struct nlmsghdr *h)
{
	const struct tcmsg *tc = NLMSG_DATA(h);
	const struct tc_plug_qopt *o = options(h);

	if (q.error) {
		answer_error(h, q.error);
		return;
	}
	if (h->nlmsg_type == RTM_NEWLINK) {
		q.down = 1;
	} else {
		CU_ASSERT_EQUAL(tc->tcm_ifindex, IFINDEX);
		CU_ASSERT_EQUAL(tc->tcm_handle, PLUGQUEUE_HANDLE);
		CU_ASSERT_EQUAL(tc->tcm_parent, TC_H_ROOT);
	}
	if (h->nlmsg_type == RTM_NEWQDISC) {
		/* A change, never a new one. */
		CU_ASSERT_EQUAL(h->nlmsg_flags & (NLM_F_CREATE | NLM_F_REPLACE), 0);
		CU_ASSERT_PTR_NOT_NULL_FATAL(o);
		change(o);
	} else if (h->nlmsg_type == RTM_GETQDISC) {
		drain();
	}
	if (h->nlmsg_flags & NLM_F_ECHO && !q.mute)
		answer_counts(h);
	if (h->nlmsg_flags & NLM_F_ACK)
		answer_error(h, 0);
}

static void *kernel_main(void *arg)
{
	_Alignas(struct nlmsghdr) uint8_t msg[512];

	while (recv(q.fd, msg, sizeof(msg), 0) >= (ssize_t)sizeof(struct nlmsghdr))
		take((struct nlmsghdr *)msg);
	return NULL;
}

static void frames(unsigned n)
{
	q.queued += n;
	q.now += q.open ? 0 : n;
}

static void start(struct plugqueue *p, struct plugqueue_link *l)
{
	struct err err = {0};
	int sv[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv),
			      0);
	q = (struct qdisc){.fd = sv[1]};
	*l = (struct plugqueue_link){.fd = sv[0]};
	CU_ASSERT_EQUAL_FATAL(plugqueue_init(p, IFINDEX, &err), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&q.thread, NULL, kernel_main, NULL), 0);
}

static void end(struct plugqueue_link *l)
{
	close(l->fd);
	pthread_join(q.thread, NULL);
	close(q.fd);
}

static void an_epoch_leaves_by_its_release(void)
{
	struct plugqueue_link l;
	struct plugqueue p;

	start(&p, &l);
	CU_ASSERT_EQUAL(plugqueue_open(&p, &l), 0);
	frames(3);
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0); /* waits for them: they had passed */
	CU_ASSERT_EQUAL(q.sent, 3);
	frames(5);
	CU_ASSERT_EQUAL(plugqueue_release(&p, &l), 0); /* epoch 0 had none */
	CU_ASSERT_EQUAL(q.sent, 3);
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0);
	frames(2);
	CU_ASSERT_EQUAL(plugqueue_count(&p, &l), 0);
	CU_ASSERT_EQUAL(p.queued, 7);
	CU_ASSERT_EQUAL(p.backlog, 700);
	CU_ASSERT_EQUAL(plugqueue_release(&p, &l), 0);
	CU_ASSERT_EQUAL(q.sent, 8);
	CU_ASSERT_EQUAL(p.queued, 2);
	CU_ASSERT_EQUAL(p.late, 0);
	CU_ASSERT_EQUAL(plugqueue_drop(&p, &l), 0);
	CU_ASSERT_EQUAL(q.down, 1);
	end(&l);
}

static void a_release_waits_for_the_one_before(void)
{
	struct plugqueue_link l;
	struct plugqueue p;

	start(&p, &l);
	q.slow = 1;
	for (unsigned i = 0; i < 20; i++) {
		frames(10);
		CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0);
		frames(3);
		CU_ASSERT_EQUAL(plugqueue_release(&p, &l), 0);
		CU_ASSERT_EQUAL(p.queued, 3);
	}
	CU_ASSERT_EQUAL(q.overlaps, 0);
	CU_ASSERT_EQUAL(p.late, 0);
	end(&l);
}

/* The kernel closed the queue over a release: the next one frees both, and is not refused. */
static void a_stuck_release_is_late(void)
{
	struct plugqueue_link l;
	struct plugqueue p;

	start(&p, &l);
	frames(2);
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0);
	q.stuck = 2;
	CU_ASSERT_EQUAL(plugqueue_release(&p, &l), 0);
	CU_ASSERT_EQUAL(p.late, 1);
	CU_ASSERT_EQUAL(q.sent, 0);
	frames(3);
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0);
	CU_ASSERT_EQUAL(plugqueue_release(&p, &l), 0);
	CU_ASSERT_EQUAL(p.late, 1);
	CU_ASSERT_EQUAL(q.sent, 5);
	end(&l);
}

static void holding_waits_until_nothing_passes(void)
{
	struct plugqueue_link l;
	struct plugqueue p;

	start(&p, &l);
	CU_ASSERT_EQUAL(plugqueue_open(&p, &l), 0);
	frames(1);
	q.stuck = 1;
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), -EBUSY);
	CU_ASSERT_EQUAL(q.told[TCQ_PLUG_BUFFER], 0);
	q.stuck = 0;
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0);
	end(&l);
}

static void errors_and_silence_are_told(void)
{
	struct plugqueue_link l;
	struct plugqueue p;

	start(&p, &l);
	q.error = -ENOENT;
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), -ENOENT);
	CU_ASSERT_EQUAL(plugqueue_release(&p, &l), -ENOENT);
	CU_ASSERT_EQUAL(plugqueue_open(&p, &l), -ENOENT);
	CU_ASSERT_EQUAL(plugqueue_drop(&p, &l), -ENOENT);
	q.error = 0;
	q.mute = 1;
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), -EBADMSG);
	q.mute = 0;
	CU_ASSERT_EQUAL(plugqueue_hold(&p, &l), 0);
	end(&l);
}

/* The process that @pidfd stands for. */
static int pid_of(int pidfd)
{
	char path[64], line[128];
	int pid = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid: %d", &pid) == 1)
			break;
	(void)fclose(f); /* was only read */
	return pid;
}

static void expect_status(int pid, const char *want)
{
	char path[64], line[256];
	int found = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while (fgets(line, sizeof(line), f))
		found |= !strncmp(line, want, strlen(want));
	(void)fclose(f); /* was only read */
	CU_ASSERT(found);
}

/* A real keeper. This network namespace has no such device, which is what the kernel then says. */
static void the_keeper_has_one_right(void)
{
	const int ifindex[] = {4711};
	struct plug_counts c = {0};
	const struct plug_kernel *kernel;
	struct plugkeeper *k;
	struct err err = {0};
	struct pollfd p = {.events = POLLIN};
	int pid;

	CU_ASSERT_EQUAL_FATAL(plugkeeper_start(ifindex, 1, 65534, 65534, &k, &err), 0);
	pid = pid_of(plugkeeper_pidfd(k));
	expect_status(pid, "CapEff:\t0000000000001000\n");
	expect_status(pid, "CapPrm:\t0000000000001000\n");
	expect_status(pid, "CapBnd:\t0000000000000000\n");
	expect_status(pid, "NoNewPrivs:\t1\n");
	expect_status(pid, "Seccomp:\t2\n");
	expect_status(pid, "Uid:\t65534\t65534\t65534\t65534\n");
	kernel = plugkeeper_kernel(k);
	CU_ASSERT_EQUAL(kernel->tell(kernel->self, PLUG_HOLD, 0, &c), -ENODEV);
	CU_ASSERT_EQUAL(kernel->tell(kernel->self, PLUG_COUNT, 0, &c), -ENODEV);
	CU_ASSERT_EQUAL(kernel->tell(kernel->self, PLUG_RELEASE, 1, &c), -ESTALE);
	CU_ASSERT_EQUAL(kernel->tell(kernel->self, PLUG_OPS, 0, &c), -EINVAL);
	p.fd = dup(plugkeeper_pidfd(k));
	CU_ASSERT_EQUAL(poll(&p, 1, 0), 0);
	plugkeeper_stop(k);
	CU_ASSERT_EQUAL(poll(&p, 1, 10000), 1); /* it ends with us */
	close(p.fd);
}

static void a_dead_keeper_is_an_error(void)
{
	const int ifindex[] = {4711};
	struct plug_counts c = {0};
	const struct plug_kernel *kernel;
	struct plugkeeper *k;
	struct err err = {0};
	struct pollfd p = {.events = POLLIN};

	CU_ASSERT_EQUAL_FATAL(plugkeeper_start(ifindex, 1, 0, 0, &k, &err), 0);
	kernel = plugkeeper_kernel(k);
	p.fd = plugkeeper_pidfd(k);
	CU_ASSERT_EQUAL(kill(pid_of(p.fd), SIGKILL), 0);
	CU_ASSERT_EQUAL(poll(&p, 1, 10000), 1);
	CU_ASSERT_EQUAL(kernel->tell(kernel->self, PLUG_HOLD, 0, &c), -EPIPE);
	plugkeeper_stop(k);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"an epoch leaves by its release", an_epoch_leaves_by_its_release},
		{"a release waits for the one before",
		 a_release_waits_for_the_one_before},
		{"a stuck release is late", a_stuck_release_is_late},
		{"holding waits until nothing passes",
		 holding_waits_until_nothing_passes},
		{"errors and silence are told", errors_and_silence_are_told},
		{"the keeper has one right", the_keeper_has_one_right},
		{"a dead keeper is an error", a_dead_keeper_is_an_error},
	};

	if (unshare(CLONE_NEWNET)) {
		(void)fprintf(stderr, "test_plugkeeper needs root: %s\n",
			      strerror(errno));
		return 2;
	}
	return UNIT_MAIN("plugkeeper", tests);
}
