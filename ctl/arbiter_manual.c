/* SPDX-License-Identifier: Apache-2.0
 * arbiter_manual - no third party: nothing is granted until an operator types an override.
 */
#include "ctl/arbiter.h"

#include <stdio.h>

static int manual_open(const struct config *cfg, uint64_t nonce, void **worker_out,
		       struct err *err)
{
	(void)cfg;   /* there is nothing to reach */
	(void)nonce; /* and nothing to recognise */
	(void)err;
	*worker_out = NULL;
	return 0;
}

static void manual_close(void *worker)
{
	(void)worker; /* nothing was opened */
}

static void manual_answer(void *worker, const struct arb_request *rq,
			  struct arb_answer *ans)
{
	(void)worker; /* none */
	ans->result = ARB_UNREACHABLE;
	/* VM names are short: it fits. */
	(void)snprintf(
		ans->why, sizeof(ans->why),
		"the arbiter is manual: make sure that the other host is off, then type "
		"rheactl failover --override %.32s",
		rq->vm);
}

const struct arbiter_ops arbiter_manual = {
	.name = "manual",
	.worker_open = manual_open,
	.worker_close = manual_close,
	.read = manual_answer,
	.cas = manual_answer,
};
