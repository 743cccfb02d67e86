/* SPDX-License-Identifier: Apache-2.0
 * rheactl_ssh - rheactl on another host, at the end of two pipes.
 *
 * What ssh and the remote program print on standard error is kept and shown at the end, so that
 * the cause of a failure can be told in plain words. ssh itself asks for passwords and unknown host
 * keys on the terminal, if there is one.
 */
#ifndef CTL_RHEACTL_SSH_H
#define CTL_RHEACTL_SSH_H

#include <stddef.h>
#include <sys/types.h>

struct err;

enum { RC_SSH_OPTIONS_MAX = 16, RC_SSH_COMMAND_MAX = 8192 };

struct rc_ssh {
	const char *host, *port;		 /* port NULL: ssh's own choice */
	const char *options[RC_SSH_OPTIONS_MAX]; /* each as for ssh -o */
	unsigned n_options;
	pid_t pid;
	int in, out; /* from and to the remote program; -1: not open */
	int said;    /* a file with what came on standard error */
};

/* Put @arg behind @cmd, with a blank between, quoted for a POSIX shell. 0 or -E2BIG. */
int rc_ssh_quote(char *cmd, size_t room, const char *arg);
/* Start @command on s->host. 0, or -errno with @err. */
int rc_ssh_start(struct rc_ssh *s, const char *command, struct err *err);
/* Hang up, wait for the end, show what was said. Returns ssh's exit status (255: ssh itself failed),
 * and puts into *hint_out what to do about a failure that it knows, or NULL. */
int rc_ssh_end(struct rc_ssh *s, const char **hint_out);

#endif
