/* SPDX-License-Identifier: Apache-2.0
 * drill_note - one step, noted and shown.
 */
#include "ctl/drill_note.h"

#include "ctl/cmd.h"
#include "ctl/ctlsock.h"
#include "hv/base/clock.h"

#include <stdarg.h>
#include <stdio.h>

void drill_note(struct ctl_conn *c, struct vmrun *v, json_t *steps, uint64_t began_ns,
		const char *fmt, ...)
{
	double at = (double)(clock_mono_ns() - began_ns) / 1e6;
	char text[256];
	json_t *line;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cutting is meant */
	va_end(ap);
	json_array_append_new(steps, json_pack("{s:f,s:s}", "at_ms", at, "what", text));
	if (!c)
		return;
	line = cmd_progress(v, "%s", text);
	json_object_set_new(line, "at_ms", json_real(at));
	ctl_send(c, line);
}
