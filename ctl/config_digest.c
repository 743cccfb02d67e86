/* SPDX-License-Identifier: Apache-2.0
 * config_digest - one number for all of a config that both hosts must share.
 *
 * It is taken over the parsed tree, so comments, white space and the order of keys do not count,
 * and a key added later counts by itself. The pair's key is left out: the digest travels in
 * clear, and another key is found out by the authentication anyway.
 */
#include "ctl/config_read.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b)
{
	config_setting_t *const *x = a, *const *y = b;

	return strcmp(config_setting_name(*x), config_setting_name(*y));
}

/* Each item is preceded by its length: no two trees run together into the same bytes. */
static int add(EVP_MD_CTX *md, const char *text)
{
	char len[24];
	int n = snprintf(len, sizeof(len), "%zu:", strlen(text));

	if (EVP_DigestUpdate(md, len, (size_t)n) != 1 ||
	    EVP_DigestUpdate(md, text, strlen(text)) != 1)
		return -EIO;
	return 0;
}

static int add_scalar(EVP_MD_CTX *md, config_setting_t *s)
{
	char t[64];

	switch (config_setting_type(s)) {
	case CONFIG_TYPE_STRING:
		return add(md, "s") ?: add(md, config_setting_get_string(s));
	case CONFIG_TYPE_BOOL:
		return add(md, config_setting_get_bool(s) ? "true" : "false");
	case CONFIG_TYPE_FLOAT:
		(void)snprintf(t, sizeof(t), "f%.17g",
			       config_setting_get_float(s)); /* fits */
		return add(md, t);
	default:
		(void)snprintf(t, sizeof(t), "i%lld",
			       config_setting_get_int64(s)); /* fits */
		return add(md, t);
	}
}

static int is_secret(config_setting_t *s)
{
	const char *name = config_setting_name(s);

	return name && (!strcmp(name, "key") || !strcmp(name, "key_file"));
}

static int add_setting(EVP_MD_CTX *md, config_setting_t *s)
{
	int n = config_setting_length(s), group = config_setting_is_group(s), rc;
	config_setting_t **c;

	if (!config_setting_is_aggregate(s))
		return add_scalar(md, s);
	rc = add(md, group ? "{" : "(");
	c = calloc((size_t)n + 1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	for (int i = 0; i < n; i++)
		c[i] = config_setting_get_elem(s, (unsigned)i);
	if (group && n)
		qsort(c, (size_t)n, sizeof(*c), by_name);
	for (int i = 0; i < n && !rc; i++) {
		if (is_secret(c[i]))
			continue;
		if (group)
			rc = add(md, config_setting_name(c[i]));
		if (!rc)
			rc = add_setting(md, c[i]);
	}
	free(c);
	return rc ? rc : add(md, group ? "}" : ")");
}

int config_digest(config_setting_t *root, uint8_t *out)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	int rc = -EIO;

	if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1)
		rc = add_setting(md, root);
	if (!rc && EVP_DigestFinal_ex(md, out, NULL) != 1)
		rc = -EIO;
	EVP_MD_CTX_free(md);
	return rc;
}
