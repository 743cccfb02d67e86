/* SPDX-License-Identifier: Apache-2.0
 * rheactl_console - the guest's console on this terminal, until Ctrl-].
 */
#include "ctl/rheactl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum { ESCAPE = 0x1d }; /* Ctrl-] */

static int write_all(int fd, const char *p, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Both ways until the user leaves (0) or rhead does (1). When stdin is no terminal, its end
 * is not the user's wish to leave: output goes on. */
static int relay(int sock)
{
	struct pollfd pfd[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
				{.fd = sock, .events = POLLIN}};
	char chunk[4096], *esc;
	ssize_t n;

	for (;;) {
		if (poll(pfd, 2, -1) < 0 && errno != EINTR)
			return 1;
		if (pfd[1].revents) {
			n = read(sock, chunk, sizeof(chunk));
			if (n <= 0 || write_all(STDOUT_FILENO, chunk, (size_t)n))
				return n <= 0;
		}
		if (!pfd[0].revents)
			continue;
		n = read(STDIN_FILENO, chunk, sizeof(chunk));
		if (n <= 0) {
			pfd[0].fd = -1;
			continue;
		}
		esc = memchr(chunk, ESCAPE, (size_t)n);
		if (write_all(sock, chunk, esc ? (size_t)(esc - chunk) : (size_t)n))
			return 1;
		if (esc)
			return 0;
	}
}

int rheactl_console(struct rc *rc, const char *vm)
{
	int tty = isatty(STDIN_FILENO), status, left;
	struct termios old, raw;
	json_t *o;

	o = rc_ask(rc, json_pack("{s:s,s:s}", "cmd", "console", "vm", vm), &status);
	if (!o)
		return status;
	(void)fprintf(stderr, "console of %s%s; Ctrl-] leaves\n", vm,
		      json_is_true(json_object_get(o, "running"))
			      ? ""
			      : " (does not run on this host)");
	json_decref(o);
	if (tty && tcgetattr(STDIN_FILENO, &old) == 0) {
		raw = old;
		cfmakeraw(&raw);
		tty = tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw) == 0;
	} else {
		tty = 0;
	}
	/* What came with the answer's packet is console already. */
	left = write_all(STDOUT_FILENO, rc->in, rc->in_len) ? 0 : relay(rc->fd);
	if (tty && tcsetattr(STDIN_FILENO, TCSAFLUSH, &old))
		(void)fprintf(
			stderr,
			"rheactl: the terminal could not be set back: try \"reset\"\n");
	(void)fprintf(stderr, "\n%s\n",
		      left ? "rheactl: the console was closed by rhead" : "left");
	return left ? RC_UNREACHABLE : RC_OK;
}
