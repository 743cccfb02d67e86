/* SPDX-License-Identifier: Apache-2.0
 * log - one line an event on stderr, with vm, term and epoch where they are known.
 *
 * Levels: err (something promised is not kept), warn (it soon may not be), info (each
 * change of state, once), debug. Any thread may log; lines do not interleave.
 */
#ifndef HV_BASE_LOG_H
#define HV_BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_LVL_ERR, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

/* Who speaks: "rhead", or "rhea-vm" with the VM's name (NULL: none). Borrows neither:
 * both are copied. Call once, before other threads exist. */
void log_init(const char *program, const char *vm, enum log_level max);

/* The term and epoch that later lines carry; ~0 = not known. Any thread. */
void log_set_term(uint64_t term);
void log_set_epoch(uint64_t epoch);

/* Also hand each line (without newline, level in front) to @fn; used to forward lines and
 * by tests. NULL takes it away. @fn is called on the logging thread, under the log's
 * lock: it must not log. */
void log_set_sink(void (*fn)(void *arg, enum log_level, const char *line), void *arg);

void log_at(enum log_level lvl, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_err(...)   log_at(LOG_LVL_ERR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_LVL_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_LVL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LVL_DEBUG, __VA_ARGS__)

/* At most one line in @ms milliseconds from this place in the code. */
#define log_ratelimited(lvl, ms, ...)                     \
	do {                                              \
		static uint64_t log_rl_last;              \
		if (log_ratelimit_ok(&log_rl_last, (ms))) \
			log_at((lvl), __VA_ARGS__);       \
	} while (0)
int log_ratelimit_ok(uint64_t *last, unsigned ms);

#endif
