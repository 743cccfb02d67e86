/* SPDX-License-Identifier: Apache-2.0
 * plain - TCP without TLS, for measurements only: no program of Rhea links it.
 */
#ifndef TESTS_BENCH_PLAIN_H
#define TESTS_BENCH_PLAIN_H

struct err;
struct tp;

/* The tcp transport's sockets without its records. Takes the connected @fd. */
int plain_open(int fd, struct tp **tp_out, struct err *err);

#endif
