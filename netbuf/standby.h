/* SPDX-License-Identifier: Apache-2.0
 * standby - the inside of a netbuf_standby (internal).
 */
#ifndef NETBUF_STANDBY_H
#define NETBUF_STANDBY_H

#include "netbuf/learn.h"
#include "netbuf/netbuf.h"

enum { NB_STAGED_MAX = 64 }; /* epochs received and not applied */

struct nb_staged {
	struct nb_staged *next;
	uint64_t epoch;
	struct nb_table table;
};

struct netbuf_standby {
	struct nb_table table;	  /* of the last applied epoch */
	struct nb_staged *staged; /* in order of epochs */
	unsigned count;
	int any;	  /* @checked means something */
	uint64_t checked; /* the last epoch that was whole */
};

#endif
