/* SPDX-License-Identifier: Apache-2.0
 * harm - pulls cables and misleads packets of one replication network.
 */
#include "tests/native/harm.h"

#include "tests/native/twohosts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
	const char *name;
	int pulled, reset;
	int deaf; /* bits of the hosts that what is sent to does not reach */
} kinds[HARM_KINDS] = {
	[HARM_DOWN] = {.name = "down", .pulled = 1},
	[HARM_STALL] = {.name = "stall", .deaf = 3},
	[HARM_TO_A] = {.name = "to-a", .deaf = 1},
	[HARM_TO_B] = {.name = "to-b", .deaf = 2},
	[HARM_RESET] = {.name = "reset", .reset = 1},
};

const char *harm_name(enum harm h)
{
	return kinds[h].name;
}

__attribute__((format(printf, 2, 3))) static void run(struct twohosts *p, const char *fmt,
						      ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(cmd, sizeof(cmd), fmt, ap); /* all commands here are short */
	va_end(ap);
	if (system(cmd))
		th_fail(p, "failed: %s", cmd);
}

/* What the other host sends to @host goes to a card that nobody has: quicker done than any filter. */
static void mislead(struct twohosts *p, int host, unsigned net, int on)
{
	char to[16];

	(void)snprintf(to, sizeof(to), "10.%u.0.%d", 78 + net, 1 + host); /* fits */
	if (on)
		run(p,
		    "ip -n %s neigh replace %s dev repl%u lladdr 02:de:ad:00:00:01 nud "
		    "permanent",
		    p->host[!host].ns, to, net);
	else
		run(p, "ip -n %s neigh del %s dev repl%u", p->host[!host].ns, to, net);
}

static void reset(struct twohosts *p, int host, unsigned net, int on)
{
	/* A reset itself is let through: it is the answer. */
	if (on)
		run(p,
		    "ip netns exec %s nft 'table inet harm%u { chain in { type filter hook "
		    "input priority 0; tcp flags & rst == rst accept; iifname \"repl%u\" meta "
		    "l4proto tcp reject with tcp reset; }; }'",
		    p->host[host].ns, net, net);
	else
		run(p, "ip netns exec %s nft delete table inet harm%u", p->host[host].ns,
		    net);
}

static void set(struct twohosts *p, unsigned net, enum harm h, int on)
{
	if (kinds[h].pulled)
		th_cut_path(p, net, on);
	for (int i = 0; i < 2; i++) {
		if (kinds[h].deaf & 1 << i)
			mislead(p, i, net, on);
		if (kinds[h].reset)
			reset(p, i, net, on);
	}
}

void harm_begin(struct twohosts *p, unsigned net, enum harm h)
{
	set(p, net, h, 1);
}

void harm_end(struct twohosts *p, unsigned net, enum harm h)
{
	set(p, net, h, 0);
}
