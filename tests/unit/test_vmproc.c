/* SPDX-License-Identifier: Apache-2.0
 * test_vmproc - a rhea-vm process from birth to death, played by this program itself.
 *
 * Started as "rhea-vm NAME" with a socket at descriptor 3 it is the fake: the name says how it
 * behaves. So fork, exec, descriptors, signals and the parent's death are the real ones.
 */
#include "ctl/vmproc.h"
#include "ctl/vmproto.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the fake ---- */

static void tell(json_t *msg)
{
	if (vmproto_send(VMPROTO_FD, msg, NULL, 0))
		_exit(99);
	json_decref(msg);
}

static int has_fd_3_only_in_messages(int nfds)
{
	return nfds == 1 && fcntl(4, F_GETFD) >= 0;
}

static int fake_main(const char *name)
{
	int fds[8], nfds, quiet = 0;
	const char *op;
	json_t *msg;

	for (;;) {
		nfds = 8;
		if (vmproto_recv(VMPROTO_FD, &msg, fds, &nfds))
			return VMEXIT_ORPHAN;
		op = json_string_value(json_object_get(msg, "op"));
		if (!strcmp(op, "setup")) {
			tell(json_pack("{s:s,s:i,s:b}", "ev", "ready", "fds", nfds,
				       "clean", has_fd_3_only_in_messages(nfds)));
			if (!strcmp(name, "words")) {
				tell(json_pack("{s:s}", "ev", "last"));
				return 3;
			}
		} else if (!strcmp(op, "ping") && !quiet) {
			tell(json_pack("{s:s,s:O,s:i}", "ev", "pong", "seq",
				       json_object_get(msg, "seq"), "epoch", 7));
		} else if (!strcmp(op, "quiet")) {
			quiet = json_is_true(json_object_get(msg, "on"));
		} else if (!strcmp(op, "close")) {
			(void)close(
				VMPROTO_FD); /* like a process that is being torn down */
			(void)pause();	     /* until killed */
		} else if (!strcmp(op, "fence") && strcmp(name, "stubborn") != 0) {
			return VMEXIT_FENCED;
		}
		json_decref(msg);
	}
}

/* ---- the test ---- */

static struct loop *loop;
static char self[4096];

struct seen {
	int ready, pongs, last, hung, revived, exited, status, clean;
	unsigned hung_ms;
};

static void on_event(void *arg, json_t *ev)
{
	const char *what = json_string_value(json_object_get(ev, "ev"));
	struct seen *s = arg;

	s->ready += !strcmp(what, "ready");
	s->pongs += !strcmp(what, "pong");
	s->last += !strcmp(what, "last");
	if (!strcmp(what, "ready"))
		s->clean = json_is_true(json_object_get(ev, "clean"));
}

static void on_hung(void *arg, unsigned ms)
{
	struct seen *s = arg;

	s->hung++;
	s->hung_ms = ms;
}

static void on_revived(void *arg)
{
	struct seen *s = arg;

	s->revived++;
}

static void on_exited(void *arg, int status)
{
	struct seen *s = arg;

	s->exited++;
	s->status = status;
}

static const struct vmproc_ops ops = {on_event, on_hung, on_revived, on_exited};

static void run_until(const int *what)
{
	while (!*what)
		CU_ASSERT_EQUAL_FATAL(event_base_loop(loop_base(loop), EVLOOP_ONCE), 0);
}

static struct vmproc *spawn(const char *name, struct seen *s)
{
	struct vmproc_start st = {
		.program = self, .vm = name, .ping_ms = 10, .hung_ms = 60};
	struct vmproc *p = NULL;
	struct err err = {0};

	memset(s, 0, sizeof(*s));
	st.setup = json_pack("{s:s}", "op", "setup");
	st.fds = 1;
	st.fd[0].name = "kvm";
	st.fd[0].fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CU_ASSERT_EQUAL_FATAL(vmproc_spawn(loop, &st, &ops, s, &p, &err), 0);
	CU_ASSERT_EQUAL(close(st.fd[0].fd), 0);
	json_decref(st.setup);
	run_until(&s->ready);
	return p;
}

static void order(struct vmproc *p, json_t *msg)
{
	CU_ASSERT_EQUAL(vmproc_send(p, msg, -1), 0);
}

static void test_life(void)
{
	struct seen s;
	struct vmproc *p = spawn("good", &s);
	pid_t pid = vmproc_pid(p);

	CU_ASSERT(s.clean);
	run_until(&s.pongs);
	CU_ASSERT_EQUAL(json_integer_value(json_object_get(vmproc_pong(p), "epoch")), 7);
	CU_ASSERT_EQUAL(kill(pid, 0), 0);
	vmproc_destroy(p);
	CU_ASSERT(kill(pid, 0) < 0 && errno == ESRCH); /* killed and reaped */
	CU_ASSERT_EQUAL(s.exited, 0);
	vmproc_destroy(NULL);
}

static void test_hung(void)
{
	struct seen s;
	struct vmproc *p = spawn("good", &s);

	order(p, json_pack("{s:s,s:b}", "op", "quiet", "on", 1));
	run_until(&s.hung);
	CU_ASSERT(s.hung_ms >= 60);
	CU_ASSERT(vmproc_is_hung(p));
	order(p, json_pack("{s:s,s:b}", "op", "quiet", "on", 0));
	run_until(&s.revived);
	CU_ASSERT_FALSE(vmproc_is_hung(p));
	CU_ASSERT_EQUAL(vmproc_signal(p, SIGSTOP), 0); /* stopped is not dead */
	s.hung = 0;
	run_until(&s.hung);
	CU_ASSERT_EQUAL(s.exited, 0);
	s.revived = 0;
	CU_ASSERT_EQUAL(vmproc_signal(p, SIGCONT), 0);
	run_until(&s.revived);
	vmproc_destroy(p);
}

/* The last words come before the end, and the end tells how. */
static void test_last_words(void)
{
	struct seen s;
	struct vmproc *p = spawn("words", &s);

	run_until(&s.exited);
	CU_ASSERT_EQUAL(s.last, 1);
	CU_ASSERT(WIFEXITED(s.status) && WEXITSTATUS(s.status) == 3);
	CU_ASSERT_EQUAL(vmproc_signal(p, SIGKILL), -ESRCH);
	vmproc_destroy(p);
}

static void test_dying(void)
{
	struct seen s;
	struct vmproc *p = spawn("good", &s);

	order(p, json_pack("{s:s}", "op", "close"));
	run_until(&s.hung);
	CU_ASSERT_EQUAL(s.hung_ms, 0); /* known at once, not after silence */
	CU_ASSERT_EQUAL(vmproc_signal(p, SIGKILL), 0);
	run_until(&s.exited);
	CU_ASSERT(WIFSIGNALED(s.status) && WTERMSIG(s.status) == SIGKILL);
	vmproc_destroy(p);
}

static void test_fence(void)
{
	struct seen s;
	struct vmproc *p = spawn("good", &s);

	vmproc_fence(p, 9, 5000);
	run_until(&s.exited);
	CU_ASSERT(WIFEXITED(s.status) && WEXITSTATUS(s.status) == VMEXIT_FENCED);
	vmproc_destroy(p);
	p = spawn("stubborn", &s);
	vmproc_fence(p, 9, 20);
	run_until(&s.exited);
	CU_ASSERT(WIFSIGNALED(s.status) && WTERMSIG(s.status) == SIGKILL);
	vmproc_destroy(p);
	p = spawn("good", &s); /* one that is stopped cannot obey: it is killed at once */
	CU_ASSERT_EQUAL(vmproc_signal(p, SIGSTOP), 0);
	run_until(&s.hung);
	vmproc_fence(p, 9, 1000000);
	run_until(&s.exited);
	CU_ASSERT(WIFSIGNALED(s.status));
	vmproc_destroy(p);
}

static void test_no_program(void)
{
	struct vmproc_start st = {.program = "/nonexistent/rhea-vm", .vm = "v"};
	struct vmproc *p = NULL;
	struct err err = {0};
	struct seen s;

	CU_ASSERT_EQUAL(vmproc_spawn(loop, &st, &ops, &s, &p, &err), -ENOENT);
	CU_ASSERT_PTR_NULL(p);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "/nonexistent/rhea-vm"));
}

/* A child plays rhead, starts a VM process, stops it so that it cannot see any socket, and is
 * killed: the VM process must die with it. The pipe closes when both have. */
static void test_parent_death(void)
{
	int pfd[2];
	struct pollfd poll_in;
	pid_t pid;

	CU_ASSERT_EQUAL_FATAL(pipe(pfd), 0);
	pid = fork();
	if (pid == 0) {
		struct seen s;
		struct vmproc *p;
		struct err err = {0};

		/* A forked loop is not usable: a new one. */
		if (loop_create(&loop, &err))
			_exit(1);
		p = spawn("good", &s);
		if (vmproc_signal(p, SIGSTOP))
			_exit(1);
		(void)kill(getpid(), SIGKILL); /* does not return */
	}
	CU_ASSERT_EQUAL(close(pfd[1]), 0);
	CU_ASSERT_EQUAL(waitpid(pid, NULL, 0), pid);
	poll_in = (struct pollfd){.fd = pfd[0], .events = POLLIN};
	CU_ASSERT_EQUAL(poll(&poll_in, 1, 20000), 1);
	CU_ASSERT(poll_in.revents & POLLHUP);
	CU_ASSERT_EQUAL(close(pfd[0]), 0);
}

int main(int argc, char **argv)
{
	static const struct unit_test tests[] = {
		{"life", test_life},
		{"hung", test_hung},
		{"last words", test_last_words},
		{"dying", test_dying},
		{"fence", test_fence},
		{"no program", test_no_program},
		{"parent's death", test_parent_death},
	};
	struct err err = {0};
	ssize_t n;
	int rc;

	if (!strcmp(argv[0], "rhea-vm"))
		_exit(fake_main(argc > 1 ? argv[1]
					 : "")); /* leaks nothing that matters */
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n <= 0 || loop_create(&loop, &err))
		return 2;
	rc = UNIT_MAIN("vmproc", tests);
	loop_destroy(loop);
	return rc;
}
