/* SPDX-License-Identifier: Apache-2.0
 * image_nbd - runs nbdkit with our plugin over an image that is open here.
 *
 * Theory of operation. nbdkit gets the listening socket as a service manager would give it (descriptor 3, LISTEN_FDS), the
 * image's files as further descriptors, and the end of a pipe on which the plugin reports. It runs as an
 * unprivileged user if there is one to become. We stay its parent, for as long as it lives: to pass
 * on signals, to tell what it served, and to remove the socket in the end. If we are killed, it ends, too
 * (the plugin sees to that).
 */
#include "ctl/image_export.h"
#include "ctl/nbd/report.h"

#include "hv/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	LISTEN_FD = 3, /* where service managers put the first socket */
	FIRST_FD = 64, /* ours begin behind all that nbdkit may have opened */
	NOT_RUN = 127, /* the exit status of a child that is not nbdkit */
	ARGS_MAX = 16,
	GRACE_S = 1, /* for clients, once it is told to end */
};

/* What nbdkit is started with. */
struct start {
	const char *argv[ARGS_MAX];
	unsigned argc;
	char plugin[VHD_PATH_MAX], files[16 * (VHD_CHAIN_MAX + 1)], since[32], report[32];
	char user[32], group[32];
	int fd[VHD_CHAIN_MAX + 1]; /* kept over exec: the pipe's end, then the files */
	unsigned fds;
};

static volatile pid_t child;
static volatile sig_atomic_t told_to_end;

/* nbdkit waits for its clients to go, and one may stay for ever. */
static void pass_on(int sig)
{
	int saved = errno;

	told_to_end = 1;
	if (child > 0)
		kill(child, sig == SIGALRM ? SIGKILL : SIGTERM);
	alarm(GRACE_S);
	errno = saved;
}

static void add(struct start *s, const char *arg)
{
	s->argv[s->argc++] = arg; /* ARGS_MAX is more than all of build() */
	s->argv[s->argc] = NULL;
}

/* A descriptor for nbdkit, of the same open file: with its lock. */
static int hand_on(struct start *s, int fd, struct err *err)
{
	int copy = fcntl(fd, F_DUPFD, FIRST_FD);

	if (copy < 0)
		return err_sys(err, -errno, "a descriptor for nbdkit");
	s->fd[s->fds++] = copy;
	return copy;
}

/* Beside this program, as it was built; else where it was installed. */
static int find_plugin(char *out, size_t room, struct err *err)
{
	static const char name[] = "rhea-nbd.so";
	ssize_t n = readlink("/proc/self/exe", out, room);
	char *slash;

	if (n > 0 && (size_t)n < room) {
		out[n] = 0;
		slash = strrchr(out, '/');
		if (slash && (size_t)(slash + 1 - out) + sizeof(name) <= room) {
			memcpy(slash + 1, name, sizeof(name));
			if (!access(out, R_OK))
				return 0;
		}
	}
	(void)snprintf(out, room, "%s/%s", RHEA_MODULE_DIR, name); /* short */
	return access(out, R_OK)
		       ? err_sys(err, -errno,
				 "%s (built only where nbdkit-plugin-dev is installed)",
				 out)
		       : 0;
}

static void add_user(struct start *s, const struct image_nbd *how)
{
	const struct passwd *pw;

	/* Keys are read for each client, so by who may read them. */
	if (geteuid() != 0 || how->tls_psk)
		return;
	/* Not as rhea-vm: that could send signals to VMs. */
	pw = getpwnam("nobody");
	if (!pw)
		return;
	(void)snprintf(s->user, sizeof(s->user), "--user=%u", pw->pw_uid);    /* fits */
	(void)snprintf(s->group, sizeof(s->group), "--group=%u", pw->pw_gid); /* fits */
	add(s, s->user);
	add(s, s->group);
}

static int add_tls(struct start *s, const struct image_nbd *how, struct err *err)
{
	const char *path = how->tls_psk ? how->tls_psk : how->tls_certificates;

	if (how->tls_certificates && how->tls_psk)
		return err_set(err, -EINVAL, "--tls-certificates or --tls-psk, not both");
	if (!path) {
		add(s, "--tls=off");
		return 0;
	}
	if (access(path, R_OK))
		return err_sys(err, -errno, "%s", path);
	add(s, "--tls=require");
	add(s, how->tls_psk ? "--tls-psk" : "--tls-certificates");
	add(s, path);
	/* A certificate is asked of the client, too: else anybody could read the disk. */
	if (how->tls_certificates)
		add(s, "--tls-verify-peer");
	return 0;
}

static int add_files(struct start *s, const struct image_export *x, struct err *err)
{
	size_t n = (size_t)snprintf(s->files, sizeof(s->files), "files=");
	unsigned count = x->v ? x->chain.n : 1;

	for (unsigned i = 0; i < count; i++) {
		int fd = hand_on(s, x->v ? x->chain.file[i].fd : x->fd, err);

		if (fd < 0)
			return fd;
		n += (size_t)snprintf(s->files + n, sizeof(s->files) - n, "%s%d",
				      i ? "," : "", fd); /* fits: 16 bytes for each */
	}
	add(s, s->files);
	if (!x->v)
		add(s, "raw=true");
	(void)snprintf(s->since, sizeof(s->since), "since=%u", x->since); /* fits */
	if (x->v && x->since < x->chain.n)
		add(s, s->since);
	return 0;
}

/* @pipe: the end that the plugin writes to. */
static int build(struct start *s, const struct image_export *x,
		 const struct image_nbd *how, int pipe, struct err *err)
{
	int fd, rc = find_plugin(s->plugin, sizeof(s->plugin), err);

	if (rc)
		return rc;
	add(s, "nbdkit");
	add(s, "--readonly");
	add_user(s, how);
	rc = add_tls(s, how, err);
	if (rc)
		return rc;
	if (how->once)
		add(s, "--filter=exitlast");
	add(s, s->plugin);
	fd = hand_on(s, pipe, err);
	if (fd < 0)
		return fd;
	(void)snprintf(s->report, sizeof(s->report), "report=%d", fd); /* fits */
	add(s, s->report);
	return add_files(s, x, err);
}

/* In the child. Other descriptors of ours are closed by exec. */
static void become_nbdkit(const struct start *s, int listener)
{
	char pid[16];

	(void)snprintf(pid, sizeof(pid), "%d", (int)getpid()); /* fits */
	if (listener == LISTEN_FD ? fcntl(LISTEN_FD, F_SETFD, 0) < 0
				  : dup2(listener, LISTEN_FD) < 0)
		_exit(NOT_RUN);
	if (setenv("LISTEN_PID", pid, 1) || setenv("LISTEN_FDS", "1", 1))
		_exit(NOT_RUN);
	execvp(s->argv[0], (char *const *)s->argv);
	_exit(NOT_RUN);
}

static int start_child(const struct start *s, int listener, struct err *err)
{
	struct sigaction sa = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
	static const int sigs[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM};
	sigset_t block, old;
	pid_t pid;

	sigemptyset(&block);
	for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
		sigaddset(&block, sigs[i]);
	/* A signal between the two is passed on as soon as there is somebody to pass it to. */
	if (sigprocmask(SIG_BLOCK, &block, &old))
		return err_sys(err, -errno, "signals");
	pid = fork();
	if (!pid) {
		if (sigprocmask(SIG_SETMASK, &old, NULL))
			_exit(NOT_RUN);
		become_nbdkit(s, listener);
	}
	child = pid;
	for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
		if (sigaction(sigs[i], &sa, NULL))
			abort(); /* only for numbers that are none */
	if (sigprocmask(SIG_SETMASK, &old, NULL))
		abort();
	return pid < 0 ? err_sys(err, -errno, "nbdkit") : 0;
}

/* What the plugin tells, to its end. 0, or 1: it never served. */
static int listen_to(FILE *f, void (*ready)(void *arg, const struct image_uri *uri),
		     void *arg, const struct image_uri *uri, struct image_served *served)
{
	char line[128];
	int never = 1;

	while (fgets(line, sizeof(line), f))
		if (!strcmp(line, NBD_READY)) {
			never = 0;
			ready(arg, uri);
		} else if (sscanf(line, NBD_SERVED_SCAN, &served->clients, &served->reads,
				  &served->bytes) != 3) {
			break;
		}
	return never;
}

static int wait_child(int never, struct err *err)
{
	int status = 0;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, -errno, "nbdkit");
	child = 0;
	alarm(0);
	if (told_to_end)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_RUN)
		return err_set(err, -ENOENT,
			       "nbdkit does not run here; Debian's nbdkit has it");
	if (WIFSIGNALED(status))
		return err_set(err, -EIO, "nbdkit was ended by signal %d",
			       WTERMSIG(status));
	return WEXITSTATUS(status) || never
		       ? err_set(err, -EIO, "nbdkit failed; it said why before")
		       : 0;
}

int image_export_serve(const struct image_export *x, const struct image_nbd *how,
		       void (*ready)(void *arg, const struct image_uri *uri), void *arg,
		       struct image_served *served_out, struct err *err)
{
	struct start s = {.argc = 0};
	struct image_uri uri;
	int p[2] = {-1, -1}, listener = -1, rc;
	FILE *f = NULL;

	*served_out = (struct image_served){0};
	if (pipe2(p, O_CLOEXEC))
		return err_sys(err, -errno, "a pipe");
	f = fdopen(p[0], "r");
	rc = f ? build(&s, x, how, p[1], err) : err_sys(err, -ENOMEM, "a pipe");
	if (!rc) {
		listener = image_listen(how, &uri, err);
		rc = listener < 0 ? listener : 0;
	}
	rc = rc ? rc : start_child(&s, listener, err);
	/* Only the child writes, so its end is the pipe's. */
	(void)close(p[1]); /* nothing was written through any of them */
	while (s.fds)
		(void)close(s.fd[--s.fds]);
	if (listener >= 0)
		(void)close(listener);
	if (!rc)
		rc = wait_child(listen_to(f, ready, arg, &uri, served_out), err);
	if (listener >= 0 && strchr(how->where, '/') && unlink(how->where) && !rc)
		rc = err_sys(err, -errno, "%s", how->where);
	if (f)
		(void)fclose(f); /* it was only read */
	else
		(void)close(p[0]);
	return rc;
}
