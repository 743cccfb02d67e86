/* SPDX-License-Identifier: Apache-2.0
 * log - one line an event on stderr.
 */
#include "hv/base/log.h"

#include "hv/base/clock.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const lvl_name[] = {"err", "warn", "info", "debug"};

static struct {
	pthread_mutex_t lock;
	char program[32];
	char vm[80];
	enum log_level max;
	_Atomic uint64_t term, epoch;
	void (*sink)(void *arg, enum log_level, const char *line);
	void *sink_arg;
} lg = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.program = "rhea",
	.max = LOG_LVL_INFO,
	.term = UINT64_MAX,
	.epoch = UINT64_MAX,
};

void log_init(const char *program, const char *vm, enum log_level max)
{
	(void)snprintf(lg.program, sizeof(lg.program), "%s", program);
	(void)snprintf(lg.vm, sizeof(lg.vm), "%s%s", vm ? " vm=" : "", vm ? vm : "");
	lg.max = max;
}

void log_set_term(uint64_t term)
{
	atomic_store_explicit(&lg.term, term, memory_order_relaxed);
}

void log_set_epoch(uint64_t epoch)
{
	atomic_store_explicit(&lg.epoch, epoch, memory_order_relaxed);
}

void log_set_sink(void (*fn)(void *, enum log_level, const char *), void *arg)
{
	pthread_mutex_lock(&lg.lock);
	lg.sink = fn;
	lg.sink_arg = arg;
	pthread_mutex_unlock(&lg.lock);
}

static size_t put_counter(char *p, size_t room, const char *name, uint64_t v)
{
	int n;

	if (v == UINT64_MAX)
		return 0;
	n = snprintf(p, room, " %s=%llu", name, (unsigned long long)v);
	return n < 0 || (size_t)n >= room ? 0 : (size_t)n;
}

void log_at(enum log_level lvl, const char *fmt, ...)
{
	char line[1024];
	struct timespec ts;
	struct tm tm;
	size_t n;
	va_list ap;

	if (lvl > lg.max)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, sizeof(line) - n, ".%06ldZ %s %s%s",
			      ts.tv_nsec / 1000, lg.program, lvl_name[lvl], lg.vm);
	n += put_counter(line + n, sizeof(line) - n, "term", atomic_load(&lg.term));
	n += put_counter(line + n, sizeof(line) - n, "epoch", atomic_load(&lg.epoch));
	n += (size_t)snprintf(line + n, sizeof(line) - n, ": ");
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap); /* truncation is fine */
	va_end(ap);
	n = strlen(line);
	pthread_mutex_lock(&lg.lock);
	if (lg.sink)
		lg.sink(lg.sink_arg, lvl, line);
	line[n] = '\n';
	if (write(STDERR_FILENO, line, n + 1) < 0) {
		/* Nobody reads the log: the VM matters more. */
	}
	pthread_mutex_unlock(&lg.lock);
}

int log_ratelimit_ok(uint64_t *last, unsigned ms)
{
	uint64_t now = clock_mono_ns();
	uint64_t was = __atomic_load_n(last, __ATOMIC_RELAXED);

	if (was && now - was < (uint64_t)ms * 1000000u)
		return 0;
	return __atomic_compare_exchange_n(last, &was, now, 0, __ATOMIC_RELAXED,
					   __ATOMIC_RELAXED);
}
