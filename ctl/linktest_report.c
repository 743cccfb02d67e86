/* SPDX-License-Identifier: Apache-2.0
 * linktest_report - what was measured of a path, as JSON, with what it means for a VM.
 *
 * {"index","transport","from","to","ok":true,"in_use","beside_vm","stopped",
 *  "bytes","ns","sent","slices","bytes_per_s",
 *  "small":{"count","p50_us","p99_us"},"page":{...},"loss":{"unit","sent","resent"}|null,
 *  "load":{"bytes_per_page","dirty_p50","dirty_p99","commit_us","commit_tested_us"}|null,
 *  "carries":{"interval_us","bytes_per_epoch","pages_raw","pages_encoded":n|null,
 *             "epoch_1000_raw":{"commit_ms","per_s","limit"},"epoch_1000_encoded":{...}|null},
 *  "verdict":"good"|"late"|"slow"|"unmeasured","verdict_text":s}
 * or {"index","transport","from","to","ok":false,"why":s}
 */
#include "ctl/linktest.h"

#include "ctl/config.h"
#include "ctl/linkcarry.h"

#include <stdio.h>

enum { TEXT = 256, INTERVAL_US = 25000 /* when the config has no VM */ };

static uint64_t number(json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (uint64_t)n : 0;
}

static double real(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static json_t *epoch_json(const struct carry_epoch *e)
{
	return json_pack("{s:f,s:f,s:s}", "commit_ms", e->commit_ms, "per_s", e->per_s,
			 "limit", carry_limit_name(e->limit));
}

static json_t *carries_json(const struct carry_in *in, const struct carry *c)
{
	int known = in->page_bytes > 0;

	if (c->verdict == CARRY_UNMEASURED)
		return json_null();
	return json_pack("{s:i,s:f,s:I,s:o,s:o,s:o}", "interval_us", (int)in->interval_us,
			 "bytes_per_epoch", c->bytes_per_epoch, "pages_raw",
			 (json_int_t)c->pages_raw, "pages_encoded",
			 known ? json_integer((json_int_t)c->pages_encoded) : json_null(),
			 "epoch_1000_raw", epoch_json(&c->raw), "epoch_1000_encoded",
			 known ? epoch_json(&c->encoded) : json_null());
}

static void verdict_text(const struct carry_in *in, const struct carry *c, char *out)
{
	const char *how = c->verdict == CARRY_GOOD   ? "within the interval of"
			  : c->verdict == CARRY_LATE ? "later than the interval of"
						     : "and come every";
	const char *then = c->verdict == CARRY_LATE ? ": output waits so long"
			   : c->verdict == CARRY_SLOW
				   ? ": they pile up, and the guest waits"
				   : "";

	if (c->verdict == CARRY_UNMEASURED)
		(void)snprintf(out, TEXT, "its bandwidth was not measured"); /* fits */
	else if (in->page_bytes > 0)
		(void)snprintf(
			out, TEXT,
			"this VM's large epochs (p99: %llu pages, %.0f KB) commit in "
			"%.2f ms, %s %.1f ms%s",
			(unsigned long long)in->pages,
			(double)in->pages * in->page_bytes / 1e3, c->load.commit_ms, how,
			in->interval_us / 1e3, then); /* fits */
	else if (c->verdict == CARRY_GOOD)
		(void)snprintf(out, TEXT,
			       "no VM's load is known here; epochs of up to %llu pages, "
			       "uncompressed, fit into %.1f ms",
			       (unsigned long long)c->pages_raw,
			       in->interval_us / 1e3); /* fits */
	else
		(void)snprintf(
			out, TEXT, "a single page commits in %.2f ms, %s %.1f ms%s",
			c->load.commit_ms, how, in->interval_us / 1e3, then); /* fits */
}

static json_t *borrow(json_t *msg, const char *key)
{
	json_t *o = json_object_get(msg, key);

	return o ? json_incref(o) : json_null();
}

/* What was measured, put into @o. */
static void add_measured(json_t *o, json_t *msg, const struct carry *c)
{
	static const char *const same[] = {"small", "page",   "bytes",	  "ns",
					   "sent",  "slices", "stopped",  "loss",
					   "load",  "in_use", "beside_vm"};

	for (unsigned i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		json_object_set_new(o, same[i], borrow(msg, same[i]));
	json_object_set_new(o, "bytes_per_s", json_real(c->bytes_per_s));
}

json_t *linktest_report(const struct config *cfg, const struct config_vm *vm, unsigned i,
			json_t *msg, const char *why)
{
	const struct config_path *p = &cfg->paths[i];
	json_t *load = json_object_get(msg, "load");
	json_t *o = json_pack("{s:i,s:s,s:s,s:s,s:b}", "index", (int)i, "transport",
			      p->transport, "from", p->addr[cfg->self].text, "to",
			      p->addr[cfg->peer].text, "ok", why == NULL);
	struct carry_in in = {.interval_us = vm ? vm->interval_us : INTERVAL_US};
	struct carry c;
	char text[TEXT];

	if (why) {
		json_object_set_new(o, "why", json_string(why));
		return o;
	}
	in.bytes = number(msg, "bytes");
	in.ns = number(msg, "ns");
	in.trip_ns = (uint64_t)(real(json_object_get(msg, "page"), "p50_us") * 1e3);
	in.page_bytes = real(load, "bytes_per_page");
	in.pages = number(load, "dirty_p99");
	carry_judge(&in, &c);
	add_measured(o, msg, &c);
	json_object_set_new(o, "carries", carries_json(&in, &c));
	json_object_set_new(o, "verdict", json_string(carry_verdict_name(c.verdict)));
	verdict_text(&in, &c, text);
	json_object_set_new(o, "verdict_text", json_string(text));
	return o;
}
