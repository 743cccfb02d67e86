/* SPDX-License-Identifier: Apache-2.0
 * kit_cpu - processor time of a process's threads.
 */
#include "tests/bench/kit_cpu.h"

#include "tests/bench/kit.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first word of a file in /proc. 0: the thread has ended. */
static int first_word(pid_t pid, const char *tid, const char *name, char word[32])
{
	char path[80];
	FILE *f;
	int got;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%.20s/%s", (int)pid, tid,
		       name); /* fits */
	f = fopen(path, "re");
	if (!f)
		return 0;
	got = fscanf(f, "%31s", word) == 1;
	(void)fclose(f); /* only read */
	return got;
}

static struct kit_thread *thread_of(struct kit_cpu *c, pid_t tid)
{
	for (unsigned i = 0; i < c->n; i++)
		if (c->thread[i].tid == tid)
			return &c->thread[i];
	if (c->n == KIT_THREADS_MAX)
		return NULL;
	c->thread[c->n] = (struct kit_thread){.tid = tid};
	return &c->thread[c->n++];
}

static void add(struct kit_cpu *c, pid_t pid, const char *tid)
{
	char comm[32], ns[32];
	struct kit_thread *t;

	if (!first_word(pid, tid, "comm", comm) ||
	    !first_word(pid, tid, "schedstat", ns) || !strncmp(comm, "vcpu", 4))
		return;
	t = thread_of(c, strncmp(comm, "iou-wrk", 7) ? (pid_t)atoi(tid) : 0);
	if (t)
		t->ns += strtoull(ns, NULL, 10);
}

void kit_cpu_now(pid_t pid, struct kit_cpu *out)
{
	char path[40];
	struct dirent *e;
	DIR *d;

	*out = (struct kit_cpu){0};
	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid); /* fits */
	d = opendir(path);
	if (!d)
		kit_die(path, NULL);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			add(out, pid, e->d_name);
	(void)closedir(d); /* only read */
}

/* A worker that has ended took its time along: less than before counts as none. */
static uint64_t used(const struct kit_cpu *before, const struct kit_thread *t)
{
	for (unsigned i = 0; i < before->n; i++)
		if (before->thread[i].tid == t->tid)
			return t->ns > before->thread[i].ns ? t->ns - before->thread[i].ns
							    : 0;
	return t->ns;
}

uint64_t kit_cpu_busiest(const struct kit_cpu *before, const struct kit_cpu *now)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < now->n; i++) {
		uint64_t ns = used(before, &now->thread[i]);

		most = ns > most ? ns : most;
	}
	return most;
}

uint64_t kit_cpu_sum(const struct kit_cpu *before, const struct kit_cpu *now)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < now->n; i++)
		sum += used(before, &now->thread[i]);
	return sum;
}
