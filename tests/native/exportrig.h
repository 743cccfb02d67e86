/* SPDX-License-Identifier: Apache-2.0
 * exportrig - images in a folder of their own, served by rheactl image export, and clients run by the shell.
 */
#ifndef TESTS_NATIVE_EXPORTRIG_H
#define TESTS_NATIVE_EXPORTRIG_H

#include "tests/unit/vhdrig.h"

#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>

static char rheactl[512];

/* Run it by the shell in the folder, its words in the file "log" there; its exit status. */
static inline int sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline int sh(const char *fmt, ...)
{
	char words[3000], cmd[4096];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	CU_ASSERT_FATAL(n > 0 && (size_t)n < sizeof(words));
	(void)snprintf(cmd, sizeof(cmd), "cd %s && { %s; } >log 2>&1", rig_dir,
		       words); /* fits */
	n = system(cmd);
	return WIFEXITED(n) ? WEXITSTATUS(n) : -1;
}

/* Is that in what the last program said, and is it one line? */
static inline int said(const char *what)
{
	char text[2000] = "";
	FILE *f = fopen(rig_path("log"), "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (f)
		(void)fclose(f); /* it was only read */
	if (n && strstr(text, what) && strchr(text, '\n') == text + n - 1)
		return 1;
	printf("\nnot \"%s\" but: %s\n", what, text);
	return 0;
}

/* A running rheactl image export. */
struct export
{
	pid_t pid;
	FILE *out;
	char uri[600], changed[600];
	json_int_t connections, read_bytes;
};

static inline json_t *next_line(struct export *e)
{
	char line[2000];

	return fgets(line, sizeof(line), e->out) ? json_loads(line, 0, NULL) : NULL;
}

static inline int end_status(struct export *e)
{
	int status = -1;

	(void)fclose(e->out); /* it was only read */
	CU_ASSERT_EQUAL_FATAL(waitpid(e->pid, &status, 0), e->pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* With these words. 0: clients are served; or its exit status, and it is over. */
static inline int export_start(struct export *e, const char *words)
{
	char cmd[2000];
	int p[2];
	json_t *o;

	*e = (struct export){0};
	(void)snprintf(cmd, sizeof(cmd),
		       "cd %s && exec %s image --json export %s 2>log.export", rig_dir,
		       rheactl, words); /* fits */
	CU_ASSERT_EQUAL_FATAL(pipe2(p, O_CLOEXEC), 0);
	e->pid = fork();
	CU_ASSERT_FATAL(e->pid >= 0);
	if (!e->pid) {
		/* Nobody survives a test that was broken off. */
		if (!prctl(PR_SET_PDEATHSIG, SIGKILL) && dup2(p[1], STDOUT_FILENO) >= 0)
			execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	(void)close(p[1]); /* the child's alone */
	e->out = fdopen(p[0], "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(e->out);
	o = next_line(e);
	if (!o)
		return end_status(e);
	(void)snprintf(e->uri, sizeof(e->uri), "%s",
		       json_string_value(json_object_get(o, "uri"))); /* fits */
	if (json_object_get(o, "changed_uri"))
		(void)snprintf(
			e->changed, sizeof(e->changed), "%s",
			json_string_value(json_object_get(o, "changed_uri"))); /* fits */
	json_decref(o);
	return 0;
}

/* @sig: 0: it ends by itself. Its exit status. */
static inline int export_end(struct export *e, int sig)
{
	json_t *o;

	if (sig)
		CU_ASSERT_EQUAL(kill(e->pid, sig), 0);
	o = next_line(e);
	e->connections = json_integer_value(json_object_get(o, "connections"));
	e->read_bytes = json_integer_value(json_object_get(o, "read_bytes"));
	json_decref(o);
	return end_status(e);
}

/* Where it was built. */
static inline int rig_find_rheactl(void)
{
	const char *b = getenv("B"), *out = b ? b : "build/out";
	char cwd[200] = "";

	if (out[0] != '/' && !getcwd(cwd, sizeof(cwd)))
		return -1;
	(void)snprintf(rheactl, sizeof(rheactl), "%s%s%s/rheactl", cwd, cwd[0] ? "/" : "",
		       out); /* fits */
	return 0;
}

#endif
