/* SPDX-License-Identifier: Apache-2.0
 * harm - what can happen to one replication network between the two hosts.
 */
#ifndef TESTS_NATIVE_HARM_H
#define TESTS_NATIVE_HARM_H

struct twohosts;

enum harm {
	HARM_DOWN,  /* the cable is pulled */
	HARM_STALL, /* every packet vanishes, and nobody says so */
	HARM_TO_A,  /* only those to host a do */
	HARM_TO_B,
	HARM_RESET, /* each TCP connection is answered by a reset */
	HARM_KINDS,
};

const char *harm_name(enum harm h);
/* On replication network @net, until harm_end(); one at a time on each. Failures end the test. */
void harm_begin(struct twohosts *p, unsigned net, enum harm h);
void harm_end(struct twohosts *p, unsigned net, enum harm h);

#endif
