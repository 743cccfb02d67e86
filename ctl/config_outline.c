/* SPDX-License-Identifier: Apache-2.0
 * config_outline - the config as a list of places and digests, to find where two of them differ.
 *
 * A value's digest is cut to 8 bytes: the list serves people, the decision is config_digest()'s.
 */
#include "ctl/config_read.h"

#include "hv/base/buf.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLACE_MAX = 192, SHORT = 8, DEPTH_MAX = 16 };

static int is_secret(const char *name)
{
	return name && (!strcmp(name, "key") || !strcmp(name, "key_file"));
}

static int by_name(const void *a, const void *b)
{
	config_setting_t *const *x = a, *const *y = b;

	return strcmp(config_setting_name(*x), config_setting_name(*y));
}

/* The value as text, its type in front: 1 and "1" differ. */
static int value_of(config_setting_t *s, char *num, size_t room, const char **out)
{
	*out = num;
	switch (config_setting_type(s)) {
	case CONFIG_TYPE_STRING:
		*out = config_setting_get_string(s);
		return 's';
	case CONFIG_TYPE_BOOL:
		*out = config_setting_get_bool(s) ? "true" : "false";
		return 'b';
	case CONFIG_TYPE_FLOAT:
		(void)snprintf(num, room, "%.17g",
			       config_setting_get_float(s)); /* fits */
		return 'f';
	default:
		(void)snprintf(num, room, "%lld", config_setting_get_int64(s)); /* fits */
		return 'i';
	}
}

static int add_value(struct buf *b, const char *place, config_setting_t *s)
{
	unsigned char md[EVP_MAX_MD_SIZE];
	char num[64], line[PLACE_MAX + 2 * SHORT + 4];
	struct buf t = {0};
	const char *v;
	uint8_t type = (uint8_t)value_of(s, num, sizeof(num), &v);
	int n, rc = buf_add(&t, &type, 1) ?: buf_add(&t, v, strlen(v));

	if (!rc && EVP_Digest(t.data, t.len, md, NULL, EVP_sha256(), NULL) != 1)
		rc = -EIO;
	buf_fini(&t);
	if (rc)
		return rc;
	n = snprintf(line, sizeof(line), "%s ", place);
	for (unsigned i = 0; i < SHORT; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", md[i]);
	line[n++] = '\n';
	return buf_add(b, line, (size_t)n);
}

static int add_setting(struct buf *b, const char *place, config_setting_t *s, int depth)
{
	int n = config_setting_length(s), group = config_setting_is_group(s), rc = 0;
	char inner[PLACE_MAX];
	config_setting_t **c;

	if (!config_setting_is_aggregate(s))
		return add_value(b, place, s);
	if (depth == DEPTH_MAX)
		return -ELOOP;
	c = calloc((size_t)n + 1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	for (int i = 0; i < n; i++)
		c[i] = config_setting_get_elem(s, (unsigned)i);
	if (group && n)
		qsort(c, (size_t)n, sizeof(*c), by_name);
	for (int i = 0; i < n && !rc; i++) {
		if (group && is_secret(config_setting_name(c[i])))
			continue;
		/* A place that does not fit is cut: it is for people. */
		if (group)
			(void)snprintf(inner, sizeof(inner), "%s%s%s", place,
				       place[0] ? "." : "", config_setting_name(c[i]));
		else
			(void)snprintf(inner, sizeof(inner), "%s[%d]", place, i);
		rc = add_setting(b, inner, c[i], depth + 1);
	}
	free(c);
	return rc;
}

char *config_outline(const char *text, size_t len)
{
	char *copy = strndup(text, len);
	struct buf b = {0};
	config_t tree;
	int rc = -EINVAL;

	config_init(&tree);
	if (copy && config_read_string(&tree, copy) == CONFIG_TRUE)
		rc = add_setting(&b, "", config_root_setting(&tree), 0)
			     ?: buf_add(&b, "", 1);
	config_destroy(&tree);
	if (copy)
		explicit_bzero(copy, strlen(copy));
	free(copy);
	if (rc)
		buf_fini(&b);
	return (char *)b.data;
}
