/* SPDX-License-Identifier: Apache-2.0
 * kit_shut - a process as narrow as rhea-vm is, for a module to show that it can live in it.
 */
#include "tests/lab/kit_shut.h"

#include "tests/lab/kit_link.h"

#include <errno.h>
#include <grp.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { NOBODY = 65534 };

void kit_be_nobody(unsigned long pinned_bytes)
{
	struct rlimit r = {.rlim_cur = pinned_bytes, .rlim_max = pinned_bytes};

	if (setrlimit(RLIMIT_MEMLOCK, &r) || setgroups(0, NULL) ||
	    setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		kit_die("becoming nobody: %s", strerror(errno));
}

void kit_shut_in(void)
{
	static const int calls[] = {
		/* the module's */
		SCMP_SYS(ioctl),
		SCMP_SYS(write),
		SCMP_SYS(read),
		SCMP_SYS(poll),
		SCMP_SYS(eventfd2),
		SCMP_SYS(fcntl),
		SCMP_SYS(close),
		SCMP_SYS(mmap),
		SCMP_SYS(munmap),
		SCMP_SYS(madvise),
		SCMP_SYS(getrandom),
		SCMP_SYS(futex),
		SCMP_SYS(clock_gettime),
		/* this program's: threads, memory, the way to the other side, the end */
		SCMP_SYS(clone3),
		SCMP_SYS(clone),
		SCMP_SYS(set_robust_list),
		SCMP_SYS(rseq),
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(rt_sigaction),
		SCMP_SYS(mprotect),
		SCMP_SYS(brk),
		SCMP_SYS(sendto),
		SCMP_SYS(recvfrom),
		SCMP_SYS(exit),
		SCMP_SYS(exit_group),
	};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < sizeof(calls) / sizeof(calls[0]); i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (!rc)
		rc = seccomp_load(ctx);
	if (rc)
		kit_die("shutting in: %s", strerror(-rc));
	seccomp_release(ctx);
}
