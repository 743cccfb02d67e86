/* SPDX-License-Identifier: Apache-2.0
 * kit_cpu - processor time of a process's threads: what each stage of a pipeline costs.
 *
 * A vCPU's thread is left out: a guest that waits by polling uses all that it gets. The kernel's workers
 * for io_uring count as one, because they take turns at one file.
 */
#ifndef TESTS_BENCH_KIT_CPU_H
#define TESTS_BENCH_KIT_CPU_H

#include <stdint.h>
#include <sys/types.h>

enum { KIT_THREADS_MAX = 64 };

struct kit_cpu {
	unsigned n;
	struct kit_thread {
		pid_t tid; /* 0: the kernel's workers */
		uint64_t ns;
	} thread[KIT_THREADS_MAX];
};

/* Of process @pid up to now. Threads beyond KIT_THREADS_MAX are left out. */
void kit_cpu_now(pid_t pid, struct kit_cpu *out);
/* Of the thread that used most since @before, in ns. */
uint64_t kit_cpu_busiest(const struct kit_cpu *before, const struct kit_cpu *now);
/* Of all of them. */
uint64_t kit_cpu_sum(const struct kit_cpu *before, const struct kit_cpu *now);

#endif
