/* SPDX-License-Identifier: Apache-2.0
 * rheactl_ssh - rheactl on another host, at the end of two pipes.
 */
#include "ctl/rheactl_ssh.h"

#include "ctl/pairing_msg.h"
#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	SAID_MAX = 64 << 10,
	SAID_FILE_MAX = 16 << 20,
	EXIT_NO_EXEC = 127,
	EXIT_SSH = 255
};

int rc_ssh_quote(char *cmd, size_t room, const char *arg)
{
	size_t n = strlen(cmd), k;

	if (n + 4 > room)
		return -E2BIG;
	if (n)
		cmd[n++] = ' ';
	cmd[n++] = '\'';
	for (; *arg; arg++) {
		k = *arg == '\'' ? 4 : 1;
		if (n + k + 2 > room)
			return -E2BIG;
		memcpy(cmd + n, k == 4 ? "'\\''" : arg, k);
		n += k;
	}
	memcpy(cmd + n, "'", 2);
	return 0;
}

/* A lost network ends it within half a minute; nothing is forwarded that is not needed. */
static const char *const fixed[] = {"ssh",
				    "-T",
				    "-a",
				    "-x",
				    "-oClearAllForwardings=yes",
				    "-oPermitLocalCommand=no",
				    "-oConnectTimeout=15",
				    "-oServerAliveInterval=5",
				    "-oServerAliveCountMax=3"};

enum { N_FIXED = sizeof(fixed) / sizeof(fixed[0]) };

/* In the child: never returns. */
static void __attribute__((noreturn))
run_ssh(const struct rc_ssh *s, const char *command, int in, int out)
{
	static const struct rlimit most = {SAID_FILE_MAX, SAID_FILE_MAX};
	const char *argv[N_FIXED + 2 * RC_SSH_OPTIONS_MAX + 6];
	unsigned n = 0;

	/* ssh takes the first of two values: the user's own options go before ours. */
	argv[n++] = fixed[0];
	for (unsigned i = 0; i < s->n_options; i++) {
		argv[n++] = "-o";
		argv[n++] = s->options[i];
	}
	for (unsigned i = 1; i < N_FIXED; i++)
		argv[n++] = fixed[i];
	if (s->port) {
		argv[n++] = "-p";
		argv[n++] = s->port;
	}
	argv[n++] = "--";
	argv[n++] = s->host;
	argv[n++] = command;
	argv[n] = NULL;
	if (!setrlimit(RLIMIT_FSIZE, &most) && dup2(in, STDIN_FILENO) >= 0 &&
	    dup2(out, STDOUT_FILENO) >= 0 && dup2(s->said, STDERR_FILENO) >= 0)
		execvp(argv[0], (char *const *)argv);
	dprintf(s->said, "ssh cannot be run: %s\n", strerror(errno));
	_exit(EXIT_SSH);
}

static void close_all(int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (fds[i] >= 0)
			(void)close(fds[i]); /* pipes: nothing to be lost */
}

int rc_ssh_start(struct rc_ssh *s, const char *command, struct err *err)
{
	int to[2] = {-1, -1}, from[2] = {-1, -1}, rc = 0;

	s->in = s->out = -1;
	s->pid = -1;
	s->said = memfd_create("said", MFD_CLOEXEC);
	if (s->said < 0 || pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		rc = -errno;
	if (!rc) {
		s->pid = fork();
		if (!s->pid)
			run_ssh(s, command, to[0], from[1]);
		rc = s->pid < 0 ? -errno : 0;
	}
	if (rc) {
		close_all(to, 2);
		close_all(from, 2);
		return err_sys(err, rc, "start ssh");
	}
	close_all((int[]){to[0], from[1]}, 2);
	s->in = from[0];
	s->out = to[1];
	return 0;
}

static const struct {
	const char *said, *hint;
} hints[] = {
	{"Host key verification failed",
	 "its host key is not known here, or not the one that is known; run \"ssh\" to it once and "
	 "compare the fingerprint"},
	{"Permission denied", "ssh may not log in there; try it by hand, as root"},
	{"Could not resolve", "there is no host of that name"},
	{"onnection refused", "no ssh server answers there"},
	{"onnection timed out", "no ssh server answers there"},
	{"No route to host", "no ssh server answers there"},
};

static const char *find_hint(const char *said, int status)
{
	if (status == EXIT_NO_EXEC)
		return "rheactl is not found there: install Rhea, or give its path with "
		       "--remote-program";
	for (unsigned i = 0; status == EXIT_SSH && i < sizeof(hints) / sizeof(hints[0]);
	     i++)
		if (strstr(said, hints[i].said))
			return hints[i].hint;
	return status == EXIT_SSH ? "ssh failed; try it by hand" : NULL;
}

/* Everything that the remote side says is shown tamed, line by line. */
static void show(char *said)
{
	char *line, *save = NULL;

	for (line = strtok_r(said, "\r\n", &save); line;
	     line = strtok_r(NULL, "\r\n", &save)) {
		pairing_tame(line);
		(void)fprintf(stderr, "  %s\n", line); /* nowhere else to say it */
	}
}

int rc_ssh_end(struct rc_ssh *s, const char **hint_out)
{
	char said[SAID_MAX + 1];
	int status = 0;
	off_t end;
	ssize_t n;

	*hint_out = NULL;
	close_all((int[]){s->in, s->out}, 2);
	s->in = s->out = -1;
	if (s->pid > 0)
		while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
			;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_SSH;
	end = lseek(s->said, 0, SEEK_END);
	n = pread(s->said, said, SAID_MAX, end > SAID_MAX ? end - SAID_MAX : 0);
	said[n > 0 ? n : 0] = '\0';
	*hint_out = find_hint(said, status);
	show(said);
	close_all(&s->said, 1);
	s->said = s->pid = -1;
	return status;
}
