/* SPDX-License-Identifier: Apache-2.0
 * say - text for people: on the serial port, and on virtio-console when there is one.
 */
#ifndef TESTS_GUEST_SAY_H
#define TESTS_GUEST_SAY_H

#include <stdint.h>

/* On the serial port. */
void say(const char *text);
void say_number(const char *before, uint64_t n, const char *after);

/* Find virtio-console; 0: there is none. Then one line "n=N" goes out by it. */
int console_open(void);
void console_number(uint64_t n);

/* A self-check failed: tell it by the serial port and, if there is a network, by a frame, and
 * stop. */
void fail(const char *why) __attribute__((noreturn));

#endif
