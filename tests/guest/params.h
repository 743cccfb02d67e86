/* SPDX-License-Identifier: Apache-2.0
 * params - what the guest is to do, from its command line: "key=value" with blanks between.
 */
#ifndef TESTS_GUEST_PARAMS_H
#define TESTS_GUEST_PARAMS_H

#include <stdint.h>

enum mode { MODE_COUNTER, MODE_DIRTY, MODE_SERVE, MODE_LOAD };

struct params {
	enum mode mode; /* mode=counter|dirty|serve|load */
	uint64_t dirty; /* pages written each turn */
	uint64_t
		set; /* pages among which they go round; rounded up to a multiple of dirty */
	uint64_t words;	   /* mode=dirty: 8-byte words changed in each page, 1 to 512 */
	uint64_t pace_us;  /* pace=: from the start of one turn to that of the next */
	uint64_t think_us; /* think=: busy in each turn */
	uint64_t compute;  /* mode=dirty: rounds of arithmetic in each turn */
	unsigned disk;	   /* how many of them are used */
	uint64_t scatter; /* of a disk's last blocks each turn writes one, by the clock */
	int grow;	  /* what a disk gets while the guest runs is used as well */
	int net, console;
	uint64_t flush; /* each so many turns, 0: never */
	/* mode=counter: after so many turns it does what end=off|reset says; 0: never. */
	uint64_t turns;
	int reset;
	/* mode=load: what the disk is asked for; bytes= of each request, depth= of them at a time */
	int write, random;
	uint64_t bytes, depth;
	int button; /* mode=counter: it goes off when the power button is pressed */
};

/* Also tells how far RAM reaches, without a hole, from address 0. */
void params_read(struct params *p, uint64_t *ram_end_out);

#endif
