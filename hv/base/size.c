/* SPDX-License-Identifier: Apache-2.0
 * size - how people write an amount of bytes.
 */
#include "hv/base/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int size_parse(const char *text, uint64_t *bytes_out)
{
	static const char units[] = "KMGT";
	unsigned long long n;
	const char *u;
	int shift;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	n = strtoull(text, &end, 10); /* saturates at ULLONG_MAX */
	u = *end ? strchr(units, *end) : NULL;
	if (*end && (!u || end[1]))
		return -EINVAL;
	shift = u ? 10 * (int)(u - units + 1) : 0;
	*bytes_out = n > UINT64_MAX >> shift ? UINT64_MAX : (uint64_t)n << shift;
	return 0;
}
