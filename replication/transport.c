/* SPDX-License-Identifier: Apache-2.0
 * transport - what all transports share.
 */
#include "replication/transport.h"

void tp_close(struct tp *tp)
{
	if (tp)
		tp->ops->close(tp);
}
