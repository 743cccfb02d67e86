/* SPDX-License-Identifier: Apache-2.0
 * test_watch - a process that was stopped knows it; one that is only busy does not think so.
 */
#include "tests/unit/unit.h"

#include "hv/base/clock.h"
#include "remus/watch.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_MS = 1000, LONGER_MS = 1500 };

static void count(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void nap(unsigned ms)
{
	usleep(ms * 1000); /* no signals are caught here */
}

/* In a child: says when it watches, waits for a byte, says how many gaps there were. */
static void watch_and_tell(int in, int out)
{
	atomic_int told = 0;
	struct watch w;
	char c = 0, answer[2];

	if (watch_start(&w, LIMIT_MS * 1000000ull, count, &told) ||
	    write(out, &c, 1) != 1 || read(in, &c, 1) != 1)
		_exit(1);
	answer[0] = (char)watch_gaps(&w);
	watch_stop(&w);
	answer[1] = (char)told;
	_exit(write(out, answer, 2) == 2 ? 0 : 1);
}

static void stopped(void)
{
	int to[2], from[2], status;
	char answer[2];
	pid_t pid;

	CU_ASSERT_FATAL(!pipe(to) && !pipe(from));
	pid = fork();
	CU_ASSERT_FATAL(pid >= 0);
	if (!pid)
		watch_and_tell(to[0], from[1]);
	CU_ASSERT_FATAL(read(from[0], answer, 1) == 1);
	CU_ASSERT(!kill(pid, SIGSTOP));
	CU_ASSERT(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	nap(LONGER_MS);
	/* The question is there before it runs again: whichever thread is first must know. */
	CU_ASSERT(write(to[1], answer, 1) == 1);
	CU_ASSERT(!kill(pid, SIGCONT));
	CU_ASSERT_FATAL(read(from[0], answer, 2) == 2);
	CU_ASSERT(answer[0] >= 1);
	CU_ASSERT(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
		  WEXITSTATUS(status) == 0);
	for (int i = 0; i < 2; i++) {
		close(to[i]);
		close(from[i]);
	}
}

static void busy(void)
{
	uint64_t until = clock_mono_ns() + LONGER_MS * 1000000ull;
	atomic_int told = 0;
	struct watch w;

	CU_ASSERT_FATAL(!watch_start(&w, LIMIT_MS * 1000000ull, count, &told));
	while (clock_mono_ns() < until)
		;
	CU_ASSERT_EQUAL(watch_gaps(&w), 0);
	watch_stop(&w);
	CU_ASSERT_EQUAL(told, 0);
}

static void off(void)
{
	atomic_int told = 0;
	struct watch w;

	CU_ASSERT_FATAL(!watch_start(&w, 0, count, &told));
	nap(1);
	CU_ASSERT_EQUAL(watch_gaps(&w), 0);
	watch_stop(&w);
	watch_stop(&w);
	CU_ASSERT_EQUAL(told, 0);
}

static const struct unit_test tests[] = {
	{"stopped for longer than the limit", stopped},
	{"busy for longer than the limit", busy},
	{"switched off", off},
};

int main(void)
{
	return UNIT_MAIN("watch", tests);
}
