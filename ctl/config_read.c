/* SPDX-License-Identifier: Apache-2.0
 * config_read - typed, bounded reads from the parsed config.
 */
#include "ctl/config_read.h"

#include "hv/base/err.h"
#include "hv/base/size.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_TEXT_MAX = 192, WORD_MAX = 32 };

static void setting_path(config_setting_t *s, char *out, size_t room)
{
	config_setting_t *parent = config_setting_parent(s);
	const char *name = config_setting_name(s);
	size_t n;

	out[0] = '\0';
	if (!parent)
		return;
	setting_path(parent, out, room);
	n = strlen(out);
	if (name) /* truncation is fine: it is a message */
		(void)snprintf(out + n, room - n, "%s%s", n ? "." : "", name);
	else
		(void)snprintf(out + n, room - n, "[%d]", config_setting_index(s));
}

static int vfail(struct config_reader *r, config_setting_t *s, int code, const char *key,
		 const char *fmt, va_list ap)
{
	char path[PATH_TEXT_MAX], text[ERR_MSG_MAX / 2];
	unsigned line = config_setting_source_line(s); /* 0: the whole file */
	const char *sep;

	setting_path(s, path, sizeof(path));
	sep = path[0] && key ? "." : "";
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* truncation is fine */
	return err_set(r->err, code, "%s:%u: %s%s%s%s%s", r->name, line ? line : 1, path,
		       sep, key ? key : "", path[0] || key ? ": " : "", text);
}

int config_fail(struct config_reader *r, config_setting_t *s, int code, const char *fmt,
		...)
{
	va_list ap;

	va_start(ap, fmt);
	code = vfail(r, s, code, NULL, fmt, ap);
	va_end(ap);
	return code;
}

static int __attribute__((format(printf, 4, 5)))
fail_key(struct config_reader *r, config_setting_t *parent, const char *key,
	 const char *fmt, ...)
{
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vfail(r, parent, -EINVAL, key, fmt, ap);
	va_end(ap);
	return rc;
}

/* Optimal string alignment distance; words longer than WORD_MAX never match. */
static unsigned distance(const char *a, const char *b)
{
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];
	size_t n = strlen(a), m = strlen(b);
	unsigned v, cost;

	if (n > WORD_MAX || m > WORD_MAX)
		return WORD_MAX;
	for (size_t i = 0; i <= n; i++) {
		for (size_t j = 0; j <= m; j++) {
			if (!i || !j) {
				d[i][j] = (unsigned)(i + j);
				continue;
			}
			cost = a[i - 1] != b[j - 1];
			v = d[i - 1][j - 1] + cost;
			if (d[i - 1][j] + 1 < v)
				v = d[i - 1][j] + 1;
			if (d[i][j - 1] + 1 < v)
				v = d[i][j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
			    a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < v)
				v = d[i - 2][j - 2] + 1;
			d[i][j] = v;
		}
	}
	return d[n][m];
}

static const char *nearest(const char *word, const char *const *keys)
{
	const char *best = NULL;
	unsigned least = 4, d;

	for (; *keys; keys++) {
		d = distance(word, *keys);
		if (d < least && d * 2 < strlen(*keys) + 1) {
			least = d;
			best = *keys;
		}
	}
	return best;
}

static int unknown_key(struct config_reader *r, config_setting_t *s,
		       const char *const *keys)
{
	const char *near = nearest(config_setting_name(s), keys);
	char all[160] = "";
	size_t n = 0;

	if (near)
		return config_fail(r, s, -EINVAL, "unknown key; did you mean \"%s\"?",
				   near);
	for (unsigned i = 0; keys[i] && n < sizeof(all); i++)
		n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "",
				      keys[i]);
	return config_fail(r, s, -EINVAL, "unknown key; known here: %s", all);
}

int config_check_keys(struct config_reader *r, config_setting_t *s,
		      const char *const *keys)
{
	config_setting_t *c;
	unsigned k;

	for (int i = 0; i < config_setting_length(s); i++) {
		c = config_setting_get_elem(s, (unsigned)i);
		for (k = 0; keys[k] && strcmp(keys[k], config_setting_name(c)) != 0; k++)
			;
		if (!keys[k])
			return unknown_key(r, c, keys);
	}
	return 0;
}

int config_group(struct config_reader *r, config_setting_t *parent, const char *key,
		 config_setting_t **out)
{
	*out = config_setting_get_member(parent, key);
	if (!*out)
		return fail_key(r, parent, key, "missing; add %s = { ... };", key);
	if (!config_setting_is_group(*out))
		return config_fail(r, *out, -EINVAL, "must be a group: %s = { ... };",
				   key);
	return 0;
}

int config_list(struct config_reader *r, config_setting_t *parent, const char *key,
		unsigned min, unsigned max, config_setting_t **out)
{
	unsigned n;

	*out = config_setting_get_member(parent, key);
	if (!*out)
		return min ? fail_key(r, parent, key, "missing; add %s = ( ... );", key)
			   : 0;
	if (!config_setting_is_list(*out) && !config_setting_is_array(*out))
		return config_fail(r, *out, -EINVAL, "must be a list: %s = ( ... );",
				   key);
	n = (unsigned)config_setting_length(*out);
	if (n < min || n > max)
		return config_fail(r, *out, -EINVAL, "has %u entries; give %u to %u", n,
				   min, max);
	return 0;
}

int config_elem_group(struct config_reader *r, config_setting_t *list, unsigned i,
		      const char *const *keys, config_setting_t **out)
{
	*out = config_setting_get_elem(list, i);
	if (!config_setting_is_group(*out))
		return config_fail(r, *out, -EINVAL, "must be a group: { ... }");
	return config_check_keys(r, *out, keys);
}

int config_text_of(struct config_reader *r, config_setting_t *s, char *out, size_t room)
{
	const char *t;
	size_t n;

	if (config_setting_type(s) != CONFIG_TYPE_STRING)
		return config_fail(r, s, -EINVAL, "must be text in double quotes");
	t = config_setting_get_string(s);
	n = strlen(t);
	if (n >= room)
		return config_fail(r, s, -EINVAL, "has %zu characters; at most %zu fit",
				   n, room - 1);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)t[i] < 0x20 || t[i] == 0x7f)
			return config_fail(r, s, -EINVAL,
					   "has a control character; remove it");
	memcpy(out, t, n + 1);
	return 0;
}

int config_text(struct config_reader *r, config_setting_t *parent, const char *key,
		const char *dflt, char *out, size_t room)
{
	config_setting_t *s = config_setting_get_member(parent, key);

	if (s)
		return config_text_of(r, s, out, room);
	if (!dflt)
		return fail_key(r, parent, key, "missing; add %s = \"...\";", key);
	(void)snprintf(out, room, "%s", dflt); /* defaults are ours and fit */
	return 0;
}

int config_host_text(struct config_reader *r, config_setting_t *parent, const char *key,
		     const char *dflt, char *out, size_t room)
{
	const struct config_host *h = r->cfg->hosts;
	const char *names[CONFIG_HOSTS + 1] = {h[0].name, h[1].name, NULL};
	config_setting_t *s = config_setting_get_member(parent, key);
	char other[PATH_MAX];
	int rc;

	if (!s || !config_setting_is_group(s))
		return config_text(r, parent, key, dflt, out, room);
	rc = config_check_keys(r, s, names);
	if (!rc)
		rc = config_text(r, s, names[r->cfg->self], NULL, out, room);
	if (!rc) /* the same file must be good on the other host too */
		rc = config_text(r, s, names[r->cfg->peer], NULL, other,
				 room < sizeof(other) ? room : sizeof(other));
	return rc;
}

int config_name(struct config_reader *r, config_setting_t *parent, const char *key,
		char *out, size_t room)
{
	config_setting_t *s = config_setting_get_member(parent, key);
	int rc = config_text(r, parent, key, NULL, out, room);

	if (rc)
		return rc;
	if (!isalnum((unsigned char)out[0]))
		return config_fail(r, s, -EINVAL,
				   "\"%s\" is no name; begin with a letter or digit",
				   out);
	for (const char *c = out; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_')
			return config_fail(
				r, s, -EINVAL,
				"\"%s\" is no name; use letters, digits, - and _", out);
	return 0;
}

static int int_of(config_setting_t *s, uint64_t *out)
{
	int t = config_setting_type(s);
	long long v = 0;

	if (t == CONFIG_TYPE_INT)
		v = config_setting_get_int(s);
	else if (t == CONFIG_TYPE_INT64)
		v = config_setting_get_int64(s);
	else
		return -EINVAL;
	if (v < 0)
		return -ERANGE;
	*out = (uint64_t)v;
	return 0;
}

int config_uint(struct config_reader *r, config_setting_t *parent, const char *key,
		uint64_t dflt, uint64_t min, uint64_t max, uint64_t *out)
{
	config_setting_t *s = config_setting_get_member(parent, key);
	int rc;

	*out = dflt;
	if (!s)
		return 0;
	rc = int_of(s, out);
	if (rc == -EINVAL)
		return config_fail(r, s, -EINVAL,
				   "must be a whole number, without quotes");
	if (rc || *out < min || *out > max)
		return config_fail(r, s, -ERANGE, "out of range; give %llu to %llu",
				   (unsigned long long)min, (unsigned long long)max);
	return 0;
}

int config_bool(struct config_reader *r, config_setting_t *parent, const char *key,
		int dflt, int *out)
{
	config_setting_t *s = config_setting_get_member(parent, key);

	*out = dflt;
	if (!s)
		return 0;
	if (config_setting_type(s) != CONFIG_TYPE_BOOL)
		return config_fail(r, s, -EINVAL,
				   "must be true or false, without quotes");
	*out = config_setting_get_bool(s);
	return 0;
}

static const char *size_text(uint64_t v, char *out, size_t room)
{
	static const char suffix[] = {0, 'K', 'M', 'G'};
	unsigned i = 0;

	while (i < 3 && v && !(v & 1023)) {
		v >>= 10;
		i++;
	}
	(void)snprintf(out, room, "%llu%.1s", (unsigned long long)v,
		       &suffix[i]); /* fits */
	return out;
}

int config_size(struct config_reader *r, config_setting_t *parent, const char *key,
		uint64_t dflt, uint64_t min, uint64_t max, uint64_t *out)
{
	config_setting_t *s = config_setting_get_member(parent, key);
	char lo[32], hi[32];
	int rc;

	*out = dflt;
	if (!s)
		return dflt != UINT64_MAX ? 0
					  : fail_key(r, parent, key,
						     "missing; add %s = \"512M\";", key);
	if (config_setting_type(s) == CONFIG_TYPE_STRING)
		rc = size_parse(config_setting_get_string(s), out);
	else
		rc = int_of(s, out);
	if (rc == -EINVAL)
		return config_fail(r, s, -EINVAL,
				   "is no size; write it like \"512M\" (K, M or G)");
	if (rc || *out < min || *out > max)
		return config_fail(r, s, -ERANGE, "out of range; give %s to %s",
				   size_text(min, lo, sizeof(lo)),
				   size_text(max, hi, sizeof(hi)));
	return 0;
}

/* Cut "host:port" or "[host]:port" in two, in place. */
static int split_addr(char *t, const char **host, const char **port)
{
	char *colon = strrchr(t, ':');

	if (!colon || colon == t || !isdigit((unsigned char)colon[1]))
		return -EINVAL;
	*colon = '\0';
	*host = t;
	*port = colon + 1;
	if (t[0] == '[') {
		if (colon[-1] != ']')
			return -EINVAL;
		colon[-1] = '\0';
		*host = t + 1;
		return 0;
	}
	return strchr(t, ':') ? -EINVAL : 0;
}

int config_addr(struct config_reader *r, config_setting_t *s, struct config_addr *out)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				 .ai_socktype = SOCK_DGRAM};
	struct addrinfo *ai = NULL;
	const char *host, *port;
	char t[CONFIG_ADDR_MAX];
	unsigned long n;
	int rc;

	rc = config_text_of(r, s, out->text, sizeof(out->text));
	if (rc)
		return rc;
	memcpy(t, out->text, sizeof(t));
	if (split_addr(t, &host, &port) || strlen(port) > 5 ||
	    getaddrinfo(host, port, &hints, &ai))
		return config_fail(
			r, s, -EINVAL,
			"\"%s\" is no address; write it like \"10.0.0.1:7000\" or "
			"\"[fd00::1]:7000\" (numbers, no names)",
			out->text);
	n = strtoul(port, NULL, 10);
	if (n > 65535 || (!n && !(r->flags & CONFIG_ANY_PORT)))
		rc = config_fail(r, s, -ERANGE, "port out of range; give 1 to 65535");
	memcpy(&out->ss, ai->ai_addr, ai->ai_addrlen);
	out->len = ai->ai_addrlen;
	freeaddrinfo(ai);
	return rc;
}
