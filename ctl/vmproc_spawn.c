/* SPDX-License-Identifier: Apache-2.0
 * vmproc_spawn - fork, exec and set up a rhea-vm.
 */
#include "ctl/vmproc_spawn.h"

#include "ctl/vmproc.h"
#include "ctl/vmproto.h"
#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXIT_NO_EXEC = 127 };

/* In the child of a process with threads: only calls that are safe after fork. */
static void child(const char *program, const char *vm, int sock, pid_t parent)
{
	char *const argv[] = {"rhea-vm", (char *)vm, NULL};
	sigset_t none;
	int null;

	(void)sigemptyset(&none); /* cannot fail */
	(void)sigprocmask(SIG_SETMASK, &none,
			  NULL); /* cannot fail with these arguments */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		_exit(EXIT_NO_EXEC);
	null = open("/dev/null", O_RDONLY);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0)
		_exit(EXIT_NO_EXEC);
	/* dup2 onto itself would leave close-on-exec set. */
	if (sock == VMPROTO_FD ? fcntl(sock, F_SETFD, 0) : dup2(sock, VMPROTO_FD) < 0)
		_exit(EXIT_NO_EXEC);
	/* execv only returns when it failed; rhead sees the exit status. */
	execv(program, argv);
	_exit(EXIT_NO_EXEC);
}

int vmproc_fork(const char *program, const char *vm, pid_t *pid_out, int *sock_out,
		struct err *err)
{
	pid_t parent = getpid(), pid;
	int sv[2], flags;

	if (access(program, X_OK))
		return err_sys(err, -errno, "%s (--libexec says where rhea-vm is)",
			       program);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return err_sys(err, -errno, "socket pair for rhea-vm");
	flags = fcntl(sv[0], F_GETFL);
	if (flags < 0 || fcntl(sv[0], F_SETFL, flags | O_NONBLOCK) < 0)
		pid = -1;
	else
		pid = fork();
	if (pid == 0)
		child(program, vm, sv[1], parent);
	if (pid < 0)
		(void)err_sys(err, -errno, "start %s", program); /* returned below */
	(void)close(sv[1]);					 /* the child's end */
	if (pid < 0) {
		(void)close(sv[0]); /* nothing was written through it */
		return err->code;
	}
	*pid_out = pid;
	*sock_out = sv[0];
	return 0;
}

int vmproc_send_setup(int sock, const struct vmproc_start *st, struct err *err)
{
	json_t *names = json_array();
	int fds[VMPROC_FDS_MAX], rc = names ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && i < st->fds; i++) {
		fds[i] = st->fd[i].fd;
		rc = json_array_append_new(names, json_string(st->fd[i].name)) ? -ENOMEM
									       : 0;
	}
	if (json_object_set_new(st->setup, "fds", names))
		rc = -ENOMEM;
	if (!rc)
		rc = vmproto_send(sock, st->setup, fds, (int)st->fds);
	return rc ? err_sys(err, rc, "set up rhea-vm") : 0;
}
